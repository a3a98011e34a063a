//! Connections to other nodes: the core gives [`Links`] its connections, carries out what
//! it wants, and hands its events on. Whether a connection is a client's or a node's, its first frame says.

use bytes::Bytes;

use super::store::{LogStore, Now};
use super::{ConnId, Core, Effect, ListenerId};
use crate::cluster::links::{Action, Class, Greeted, Identity, LinkId, LinkSecret, Links, LinksConfig, Target, Trust};
use crate::error::ConnectError;
use crate::limits::{LINK_MESSAGE_OVERHEAD, LINK_QUEUE_BYTES};
use crate::security::config::LinkAuth;

impl<S: LogStore> Core<S> {
    /// Begins to look for the other nodes that the settings name.
    pub(super) fn open_links(&mut self) {
        let Some(cluster) = &self.config.cluster else { return };
        let of_voter = |voter: &crate::config::Voter| (Some(voter.node_id), voter.host.clone(), voter.port);
        let of_seed = |(host, port): (String, u16)| (None, host, port);
        let peers = cluster.voters.iter().map(of_voter).chain(cluster.seed_addresses().map(of_seed));
        let targets: Vec<Target> =
            peers.map(|(node, host, port)| Target { node, class: Class::Control, host, port }).collect();
        let config = LinksConfig {
            me: Identity {
                node: self.config.node_id,
                incarnation: self.incarnation,
                directory: self.store.directory(),
                cluster_id: self.meta.cluster_id().map(str::to_owned).or_else(|| self.config.cluster_id.clone()),
                initialised: self.consensus.quorum.status().last_index.is_some(),
            },
            seed: self.entropy.seed(),
            max_message_bytes: self.config.limits.request_bytes.saturating_add(LINK_MESSAGE_OVERHEAD),
            queue_bytes: LINK_QUEUE_BYTES,
            trust: match &cluster.authentication {
                None => Trust::Anybody,
                Some(LinkAuth::Certificates { principals }) => Trust::Certificates { principals: principals.clone() },
                Some(LinkAuth::Secret { .. }) => Trust::Secret(None),
            },
        };
        let mut links = Links::new(config, self.entropy.another());
        links.set_targets(self.now.monotonic_ns, targets.into_iter());
        self.links = Some(links);
        self.after_links();
    }

    /// The secret that other nodes have to know, where the settings say that they have to.
    pub fn use_link_secret(&mut self, secret: LinkSecret) {
        if let Some(links) = &mut self.links {
            links.set_secret(secret);
        }
    }

    /// Where nodes link with this one.
    pub(super) fn is_internal(&self, listener: ListenerId) -> bool {
        let name = self.config.internal_listener.as_deref();
        match name {
            None => listener == ListenerId::default(),
            Some(name) => self.listener_name(listener) == name,
        }
    }

    /// What came of [`Effect::Connect`].
    pub fn connect_done(&mut self, now: Now, conn: ConnId, result: Result<(), ConnectError>) {
        self.now = now;
        let Some(link) = self.conns.link(conn) else { return };
        if result.is_err() {
            self.conns.remove_link(link);
        }
        self.with_links(|links, now_ns| links.connect_done(now_ns, link, result));
    }

    pub(super) fn link_received(&mut self, link: LinkId, frame: Bytes) {
        self.with_links(|links, now_ns| links.received(now_ns, link, frame));
    }

    pub(super) fn link_sent(&mut self, link: LinkId, bytes: usize) {
        self.with_links(|links, now_ns| links.sent(now_ns, link, bytes));
    }

    pub(super) fn link_lost(&mut self, link: LinkId) {
        self.conns.remove_link(link);
        self.with_links(|links, now_ns| links.disconnected(now_ns, link));
    }

    pub(super) fn tick_links(&mut self) {
        self.with_links(Links::turn);
    }

    /// A connection whose first frame is a node's.
    pub(super) fn accept_link(&mut self, conn: ConnId, frame: Bytes) {
        let Some(links) = &mut self.links else {
            let reason = "a node tries to link with this one, which is part of no cluster; set cluster on both";
            return self.close_connection(conn, reason.into());
        };
        let Some(connection) = self.conns.get_mut(conn) else { return };
        let now_ns = self.now.monotonic_ns;
        let greeted = match connection.challenged.take() {
            Some(challenged) => links.proven(now_ns, *challenged, frame).map(Greeted::Linked),
            None => links.accept(now_ns, frame, connection.certificate.as_deref()),
        };
        match greeted {
            Ok(Greeted::Challenged(chunks, challenged)) => {
                connection.challenged = Some(challenged);
                self.effects.push(Effect::Send { conn, chunks });
            }
            Ok(Greeted::Linked(link)) => {
                self.conns.promote(conn, link);
                self.stats.connections.set(self.conns.len() as u64);
                self.effects.push(Effect::Promote { conn });
                self.after_links();
            }
            Err(refusal) => {
                self.effects.push(Effect::Send { conn, chunks: refusal.chunks });
                self.close_connection(conn, refusal.reason);
            }
        }
    }

    /// Lets the links do something, then does what they want.
    pub(crate) fn with_links(&mut self, act: impl FnOnce(&mut Links, u64)) {
        if let Some(links) = &mut self.links {
            act(links, self.now.monotonic_ns);
            self.after_links();
        }
    }

    /// What happens to links may lead to more of it: until nothing does.
    fn after_links(&mut self) {
        while let Some(links) = &mut self.links {
            let actions = links.take_actions();
            let quiet = actions.is_empty();
            for action in actions {
                self.apply_link_action(action);
            }
            if !self.take_link_event() && quiet {
                break;
            }
        }
        if let Some(links) = &self.links {
            self.stats.links.set(links.count() as u64);
        }
    }

    fn take_link_event(&mut self) -> bool {
        let Some(event) = self.links.as_mut().and_then(Links::next_event) else { return false };
        self.on_link_event(event);
        true
    }

    fn apply_link_action(&mut self, action: Action) {
        match action {
            Action::Connect { link, host, port } => match self.conns.insert_link(link) {
                Some(conn) => self.effects.push(Effect::Connect { conn, host, port }),
                None => self.no_number_for(link),
            },
            Action::Send { link, chunks } => {
                if let Some(conn) = self.conns.of_link(link) {
                    self.effects.push(Effect::Send { conn, chunks });
                }
            }
            Action::Close { link, reason } => {
                if let Some(conn) = self.conns.remove_link(link) {
                    self.effects.push(Effect::Close { conn, reason });
                }
            }
        }
    }

    fn no_number_for(&mut self, link: LinkId) {
        let error = ConnectError::Unreachable("there are more connections than numbers".into());
        if let Some(links) = &mut self.links {
            links.connect_done(self.now.monotonic_ns, link, Err(error));
        }
    }
}
