//! What makes several nodes one cluster: the links between them, and what they have to say to each other.
//!
//! ```text
//!  links ── events ──> inbox ── turn ──┬─ Data ────> replicas
//!                                      └─ Control ─┬─ Quorum, Propose ──> consensus
//!                                                  ├─ Heartbeat ────────> controller (where the quorum is led)
//!                                                  ├─ HeartbeatAnswer ──> lease
//!                                                  └─ Join ─────────────> members of the quorum
//! ```
//! A node without other nodes takes the same way: it leads a quorum of one, and answers its own heartbeats.

pub(crate) mod asks;
pub(crate) mod bootstrap;
pub(crate) mod control;
pub(crate) mod controller;
pub(crate) mod lease;
pub mod links;
mod membership;
pub(crate) mod share;
pub(crate) mod transact;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use wherry_metadata::quorum::Message;

use crate::config::Voter;
use crate::core::Core;
use crate::core::store::LogStore;
use crate::mutation::mutated;
use crate::replication::Side;
use bootstrap::Seen;
use control::{Control, Heartbeat, HeartbeatAnswer, Other};
use controller::Controller;
use lease::{CONTACT_NS, Lease};
use links::{Class, Identity, LinkEvent, LinkId};

/// Events of links that wait for the next turn; more than a turn can bring only if messages are tiny.
const INBOX: usize = 1024;
/// The same for one that hears nothing of its cluster, in nanoseconds.
const LEAVE_UNHEARD_NS: u64 = 3_000_000_000;
/// Time between two tries of a leader of the quorum that stops to hand it over, in nanoseconds.
const HAND_OVER_NS: u64 = 200_000_000;
/// How long a node that stops waits for its leaderships to be moved, in nanoseconds.
const LEAVE_NS: u64 = 20_000_000_000;

/// What this node knows of its cluster beside the metadata.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The first voters, from the settings.
    pub(crate) voters: Vec<Voter>,
    /// What other nodes said of themselves, by their newest link.
    pub(crate) peers: BTreeMap<i32, Identity>,
    /// Nodes that have a control link to this one.
    pub(crate) speaking: BTreeSet<i32>,
    pub(crate) lease: Lease,
    /// There while this node leads the quorum.
    pub(crate) controller: Option<Controller>,
    /// The metadata know this process.
    pub(crate) registered: bool,
    /// Leaders to follow: data links are kept to them.
    pub(crate) followed: Vec<i32>,
    pub(crate) membership: membership::Membership,
    pub(crate) asks: asks::Asks,
    /// Nodes where nothing listened when they were last dialled.
    refused: BTreeSet<i32>,
    inbox: VecDeque<LinkEvent>,
    /// Since when this node wants to stop.
    leaving_ns: Option<u64>,
    /// When it tries again to hand the quorum over.
    hand_over_ns: Option<u64>,
    may_stop: bool,
    may_acknowledge: bool,
}

impl Cluster {
    pub(crate) fn new(voters: Vec<Voter>) -> Self {
        Self {
            voters,
            peers: BTreeMap::new(),
            speaking: BTreeSet::new(),
            lease: Lease::default(),
            controller: None,
            registered: false,
            followed: Vec::new(),
            membership: membership::Membership::default(),
            asks: asks::Asks::default(),
            refused: BTreeSet::new(),
            inbox: VecDeque::with_capacity(INBOX),
            leaving_ns: None,
            hand_over_ns: None,
            may_stop: false,
            may_acknowledge: false,
        }
    }

    pub(crate) fn seen(&self) -> BTreeMap<i32, Seen> {
        let seen = |peer: &Identity| Seen { directory: peer.directory, initialised: peer.initialised };
        self.peers.iter().map(|(node, peer)| (*node, seen(peer))).collect()
    }
}

impl<S: LogStore> Core<S> {
    /// What happened to a link waits for the turn: what comes of it may have to do with links again.
    pub(crate) fn on_link_event(&mut self, event: LinkEvent) {
        self.cluster.inbox.push_back(event);
    }

    /// One turn of everything that has to do with other nodes.
    pub(crate) fn turn_cluster(&mut self) {
        while let Some(event) = self.cluster.inbox.pop_front() {
            self.link_event(event);
        }
        self.heartbeat();
        self.control();
        self.tend_membership();
        self.mind_elections();
        self.expire_asks();
        self.leave_quorum();
        self.renew_authority();
    }

    fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, class, outgoing, peer } => self.link_up(link, class, outgoing, peer),
            LinkEvent::Message { link, node, class, body } => match class {
                Class::Control => self.control_message(link, node, body),
                Class::Data => self.replicas.message(&mut self.store, replica_link(link), body),
            },
            LinkEvent::Down { link, node, class, outgoing, refused } => {
                self.link_down(link, node, class, outgoing, refused);
            }
        }
    }

    fn link_up(&mut self, link: LinkId, class: Class, outgoing: bool, peer: Identity) {
        tracing::info!(node = peer.node, ?class, outgoing, "linked with a node");
        match class {
            Class::Control => {
                self.cluster.refused.remove(&peer.node);
                if outgoing {
                    self.consensus.tell_again();
                    self.cluster.lease.beat_soon();
                } else {
                    self.cluster.speaking.insert(peer.node);
                }
                self.cluster.membership.hurry();
                self.cluster.peers.insert(peer.node, peer);
            }
            Class::Data => {
                let side = if outgoing { Side::Dialled } else { Side::Accepted };
                self.replicas.link_up(replica_link(link), peer.node, peer.incarnation, side);
            }
        }
    }

    fn link_down(&mut self, link: LinkId, node: i32, class: Class, outgoing: bool, refused: bool) {
        tracing::debug!(node, ?class, outgoing, refused, "no link with a node");
        match class {
            Class::Data => self.replicas.link_down(replica_link(link)),
            Class::Control if refused => {
                self.cluster.refused.insert(node);
                self.look_for_ended(node);
            }
            Class::Control if outgoing => {
                self.consensus.quorum.link_down(node);
                self.ask_again_without(node);
                self.share_questions_without(node);
            }
            Class::Control => {
                self.cluster.speaking.remove(&node);
                self.look_for_ended(node);
            }
        }
    }

    /// Nothing listens at its address, and it has no link to us: its process has ended, and nobody need wait for it.
    fn look_for_ended(&mut self, node: i32) {
        if !self.cluster.refused.contains(&node) || self.cluster.speaking.contains(&node) {
            return;
        }
        if self.consensus.leader() == Some(node) {
            tracing::warn!(node, "the leader of the metadata quorum has ended");
            self.consensus.quorum.leader_is_gone();
        }
        if let Some(controller) = &mut self.cluster.controller {
            controller.process_gone(self.now.monotonic_ns, &self.meta, node);
        }
    }

    /// This node leads the quorum from now on, or no longer.
    pub(crate) fn set_controller(&mut self, leads: bool) {
        if leads == self.cluster.controller.is_some() {
            return;
        }
        let rebalance = self.config.auto_rebalance;
        self.cluster.controller = leads.then(|| Controller::new(self.now.monotonic_ns, rebalance));
        for node in self.cluster.refused.clone() {
            self.look_for_ended(node);
        }
    }

    fn control_message(&mut self, link: LinkId, from: i32, body: Bytes) {
        match Control::decode(body) {
            Ok(Control::Quorum(bytes)) => self.quorum_message(from, &bytes),
            Ok(Control::Propose(payload)) => {
                // Who does not lead lets it be: it is given again, to whoever leads then.
                self.propose_here(&payload);
            }
            Ok(Control::Transaction(message)) => self.transaction_message(from, message),
            Ok(Control::Share(message)) => self.share_message(from, message),
            Ok(Control::Other(other)) => self.other_message(from, other),
            Err(why) => {
                tracing::warn!(from, %why, "a node says what can't be understood; closing its link");
                self.with_links(|links, now_ns| links.close(now_ns, link, why));
            }
        }
    }

    /// Consensus counts on what a member promised on its disk: another disk under the same id promised nothing (trap 23).
    fn quorum_message(&mut self, from: i32, bytes: &[u8]) {
        if self.is_other_volume(from) {
            tracing::warn!(from, "not heard: the node has another data directory than the quorum knows");
            return;
        }
        match Message::decode(bytes) {
            Ok(message) => self.consensus.quorum.receive(from, message),
            Err(error) => tracing::warn!(from, %error, "a message of the quorum can't be read"),
        }
    }

    /// A member came back with another data directory: it remembers nothing of what it promised, and is not that member.
    pub(crate) fn is_other_volume(&self, node: i32) -> bool {
        let known = self.consensus.quorum.status().members.all.get(&node);
        let seen = self.cluster.peers.get(&node);
        known.zip(seen).is_some_and(|(member, peer)| member.directory != peer.directory)
    }

    fn other_message(&mut self, from: i32, other: Other) {
        match other {
            Other::Heartbeat(heartbeat) => {
                if let Some(answer) = self.answer_heartbeat(from, heartbeat) {
                    self.send_control(from, &Control::Other(Other::HeartbeatAnswer(answer)));
                }
            }
            Other::HeartbeatAnswer(answer) => self.heartbeat_answered(answer),
            Other::Join(join) => self.join_asked(join),
            Other::JoinRefused { reason } => self.stop_now(reason),
            Other::Ask { number, question } => self.asked_by(from, number, question),
            Other::Answered { number, answer } => self.ask_answered(number, answer),
        }
    }

    /// To a node, if there is a link to it.
    pub(crate) fn send_control(&mut self, to: i32, message: &Control) -> bool {
        let chunks = message.encode();
        let mut sent = false;
        self.with_links(|links, _| sent = links.send(to, Class::Control, chunks).is_ok());
        sent
    }

    /// The leader of the quorum answers only while a majority stands behind it.
    fn answer_heartbeat(&mut self, node: i32, heartbeat: Heartbeat) -> Option<HeartbeatAnswer> {
        if !self.consensus.quorum.is_leader_confirmed_within(CONTACT_NS) && !mutated!(LonelyController) {
            return None;
        }
        let now_ns = self.now.monotonic_ns;
        self.cluster.controller.as_mut()?.heartbeat(now_ns, &self.meta, node, heartbeat)
    }

    fn heartbeat(&mut self) {
        if !self.cluster.registered {
            return;
        }
        let Some(leader) = self.consensus.leader() else { return };
        let Some(sequence) = self.cluster.lease.beat(self.now.monotonic_ns) else { return };
        let stopping = self.cluster.leaving_ns.is_some();
        let heartbeat = Heartbeat { incarnation: self.incarnation, sequence, stopping };
        if leader != self.config.node_id {
            self.send_control(leader, &Control::Other(Other::Heartbeat(heartbeat)));
        } else if let Some(answer) = self.answer_heartbeat(leader, heartbeat) {
            self.heartbeat_answered(answer);
        }
    }

    fn heartbeat_answered(&mut self, answer: HeartbeatAnswer) {
        if answer.incarnation == self.incarnation {
            self.cluster.lease.answered(answer.sequence);
            self.cluster.may_stop |= answer.may_stop;
        }
    }

    /// What the leader of the quorum finds to be done.
    fn control(&mut self) {
        let Some(controller) = &mut self.cluster.controller else { return };
        let commands = controller.tick(self.now.monotonic_ns, &self.meta);
        self.propose_as_controller(commands);
    }

    /// Whether this node may acknowledge at this moment, by its own clock (INV-4). A quorum of one needs nobody's leave.
    fn renew_authority(&mut self) {
        let status = self.consensus.quorum.status();
        let alone = status.is_only_voter() && status.leader == Some(self.config.node_id);
        let valid = alone || mutated!(NoAuthority) || self.cluster.lease.is_valid(self.now.monotonic_ns);
        self.cluster.may_acknowledge = valid;
        self.stats.may_acknowledge.set(u64::from(valid));
        self.stats.quorum_leader.set(u64::from(self.cluster.controller.is_some()));
        self.replicas.set_lease(valid);
    }

    pub(crate) fn may_acknowledge(&self) -> bool {
        self.cluster.may_acknowledge
    }

    /// The metadata say something else about a node.
    pub(crate) fn node_changed(&mut self, node: i32) {
        if let Some(controller) = &mut self.cluster.controller {
            controller.applied(node);
        }
        if node == self.config.node_id {
            self.own_standing_changed();
        }
    }

    fn own_standing_changed(&mut self) {
        let Some(broker) = self.meta.broker(self.config.node_id) else { return };
        let (is_me, fenced) = (broker.incarnation == self.incarnation, broker.fenced);
        if is_me && !self.cluster.registered {
            self.cluster.registered = true;
            self.take_up_duties();
        } else if !is_me && self.cluster.registered {
            let id = self.config.node_id;
            self.stop_now(format!(
                "another process has registered as node {id}: two nodes must not have the same id; give one another --node-id"
            ));
        }
        self.stats.ready.set(u64::from(is_me && !fenced && !self.is_stopping()));
        self.cluster.lease.beat_soon();
    }

    /// This node wants to stop: others take over what it leads, first.
    pub fn leave(&mut self) {
        let others = self.meta.unfenced_brokers().any(|broker| broker.node_id != self.config.node_id);
        if !others || !self.cluster.registered {
            self.cluster.may_stop = true;
        }
        self.cluster.leaving_ns.get_or_insert(self.now.monotonic_ns);
        self.cluster.lease.beat_soon();
        self.cluster.hand_over_ns = Some(self.now.monotonic_ns);
        self.leave_quorum();
    }

    /// Whether this node leads nothing any more, or has waited long enough for that.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.cluster.leaving_ns.is_some_and(|since| {
            // Who hears nothing of the cluster any more can't hope for its help.
            let patience = if self.may_acknowledge() && !self.cluster.may_stop { LEAVE_NS } else { LEAVE_UNHEARD_NS };
            self.cluster.may_stop && self.heirs().next().is_none()
                || self.now.monotonic_ns >= since.saturating_add(patience)
        })
    }

    /// When [`Core::turn_cluster`] has something to do at the latest.
    pub(crate) fn cluster_deadline(&self) -> Option<u64> {
        let beat =
            (self.cluster.registered && self.consensus.leader().is_some()).then(|| self.cluster.lease.next_deadline());
        let controller = self.cluster.controller.as_ref().map(Controller::next_deadline);
        let leave = self.cluster.leaving_ns.map(|since| {
            [LEAVE_UNHEARD_NS, LEAVE_NS]
                .map(|ns| since.saturating_add(ns))
                .into_iter()
                .find(|at| *at > self.now.monotonic_ns)
        });
        let now = (!self.cluster.inbox.is_empty()).then_some(self.now.monotonic_ns);
        let others = [self.cluster.membership.next_deadline(), self.cluster.asks.next_deadline()];
        let hand_over = self.cluster.hand_over_ns;
        [beat, controller, leave.flatten(), now, hand_over].into_iter().chain(others).flatten().min()
    }

    /// Names this node's cluster for its links.
    pub(crate) fn cluster_named(&mut self) {
        let Some(cluster_id) = self.meta.cluster_id().map(str::to_owned) else { return };
        if let Some(asked) = self.config.cluster_id.as_ref().filter(|asked| **asked != cluster_id) {
            let reason = format!(
                "this node's volume belongs to cluster '{cluster_id}', not to '{asked}'; give it the right volume or cluster id"
            );
            return self.stop_now(reason);
        }
        self.with_links(|links, now_ns| links.set_cluster(now_ns, cluster_id, true));
    }
}

/// A link by the name that replication gives it.
pub(crate) fn replica_link(link: LinkId) -> crate::replication::LinkId {
    crate::replication::LinkId(link.0)
}

/// A link by its own name.
pub(crate) fn data_link(link: crate::replication::LinkId) -> LinkId {
    LinkId(link.0)
}
