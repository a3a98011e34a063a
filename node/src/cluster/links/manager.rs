//! All links of a node. See the module above.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use super::dials::{Dials, TargetKey};
use super::frame::{Challenge, Frame, Hello, Nonce, Reason, decode, encode};
use super::handshake::{self, Rejection};
use super::link::{Due, Link, Origin, Phase};
use super::processes::{Processes, Seen};
use super::trust::{LinkSecret, Trust};
use super::{Action, Class, Identity, LinkEvent, LinkId, LinksConfig, SendError, Target, parts};
use crate::entropy::Entropy;
use crate::error::ConnectError;
use crate::limits::{MAX_LINK_TARGETS, MAX_LINKS};
use crate::security::PeerCertificate;

/// A connection that does not become a link: it is sent these bytes, then closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the dialler is told.
    pub chunks: Vec<Bytes>,
    /// For the log.
    pub reason: String,
}

/// What became of the first frame of a connection that somebody else opened.
#[derive(Debug)]
pub enum Greeted {
    /// It is a link.
    Linked(LinkId),
    /// Its dialler is to prove something first: it is sent these bytes, and its next frame comes with this.
    Challenged(Vec<Bytes>, Box<Challenged>),
}

/// A dialler that has to prove that it is of this cluster.
#[derive(Debug)]
pub struct Challenged {
    hello: Hello,
    challenge: Challenge,
}

/// See the module above.
#[derive(Debug)]
pub struct Links {
    config: LinksConfig,
    links: BTreeMap<LinkId, Link>,
    /// Links that are up, by node and class.
    outgoing: BTreeMap<(i32, Class), LinkId>,
    accepted: BTreeMap<(i32, Class), LinkId>,
    dials: Dials,
    processes: Processes,
    actions: Vec<Action>,
    events: VecDeque<LinkEvent>,
    last_id: u64,
    /// When to look at the links again: never later than needed.
    look_ns: Option<u64>,
    nonces: Entropy,
}

impl Links {
    /// No links yet.
    #[must_use]
    pub fn new(config: LinksConfig, nonces: Entropy) -> Self {
        Self {
            dials: Dials::new(config.seed),
            config,
            links: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            accepted: BTreeMap::new(),
            processes: Processes::default(),
            actions: Vec::new(),
            events: VecDeque::new(),
            last_id: 0,
            look_ns: None,
            nonces,
        }
    }

    /// The secret that peers have to know, where that is what they have to prove.
    pub fn set_secret(&mut self, secret: LinkSecret) {
        if let Trust::Secret(held) = &mut self.config.trust {
            *held = Some(secret);
        }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &Identity {
        &self.config.me
    }

    /// This node belongs to a cluster now. Links to nodes of another one end.
    pub fn set_cluster(&mut self, now_ns: u64, cluster_id: String, initialised: bool) {
        self.config.me.cluster_id = Some(cluster_id);
        self.config.me.initialised = initialised;
        let me = self.config.me.clone();
        for (link, why) in self.up_where(|peer| handshake::same_cluster(&me, peer).err().map(|no| no.text)) {
            self.close(now_ns, link, why);
        }
    }

    /// Whom to keep dialled from now on, this node itself left out. New ones are dialled at once, links to others are
    /// closed, a changed address is dialled anew. At most [`MAX_LINK_TARGETS`]; the first address of a node counts.
    pub fn set_targets(&mut self, now_ns: u64, targets: impl Iterator<Item = Target>) {
        let me = self.config.me.node;
        let mut wanted = BTreeMap::new();
        for target in targets.filter(|t| t.node != Some(me)).take(MAX_LINK_TARGETS) {
            wanted.entry(TargetKey::of(&target)).or_insert(target);
        }
        let keys: BTreeSet<TargetKey> = wanted.keys().cloned().collect();
        let mut over = Vec::new();
        for (key, target) in wanted {
            let adopted = self.adoptable(&key, &keys);
            over.extend(self.dials.add(target, now_ns));
            if let Some(link) = adopted {
                self.adopt(link, key);
            }
        }
        over.extend(self.dials.retain(|key| keys.contains(key)));
        for link in over {
            self.close(now_ns, link, "the node is no longer dialled at this address".into());
        }
        self.dial_due(now_ns);
    }

    /// A node that was known by its address alone is known by its id now: its link stays.
    fn adoptable(&self, key: &TargetKey, keys: &BTreeSet<TargetKey>) -> Option<LinkId> {
        let TargetKey::Node(node, class) = key else { return None };
        if self.dials.is_linked(key) {
            return None;
        }
        let link = *self.outgoing.get(&(*node, *class))?;
        match &self.links.get(&link)?.origin {
            Origin::Dialled(by @ TargetKey::Address(..)) if !keys.contains(by) => Some(link),
            Origin::Dialled(_) | Origin::Accepted => None,
        }
    }

    fn adopt(&mut self, link: LinkId, key: TargetKey) {
        let Some(state) = self.links.get_mut(&link) else { return };
        if let Origin::Dialled(by) = &state.origin {
            self.dials.forget(by);
        }
        let _target = self.dials.linked(&key, link);
        state.origin = Origin::Dialled(key);
    }

    /// What came of [`Action::Connect`].
    pub fn connect_done(&mut self, now_ns: u64, id: LinkId, result: Result<(), ConnectError>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Origin::Dialled(key) = link.origin.clone() else { return };
        let class = link.class;
        match result {
            Ok(()) => {
                link.enter(Phase::Greeting, now_ns);
                let to = key.node();
                let hello = Hello { sender: self.config.me.clone(), to, class, nonce: nonce(&self.nonces) };
                link.hello = Some(Box::new(hello.clone()));
                self.send_frame(id, &Frame::Hello(hello));
                self.look_at(id);
            }
            Err(error) => {
                self.complain(&key, &error.to_string());
                self.end(now_ns, id);
                if let (ConnectError::Refused, Some(node)) = (error, key.node()) {
                    self.events.push_back(LinkEvent::Down { link: id, node, class, outgoing: true, refused: true });
                }
            }
        }
    }

    /// The first frame of a connection that somebody else opened, who has shown this certificate.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn accept(
        &mut self,
        now_ns: u64,
        frame: Bytes,
        certificate: Option<&PeerCertificate>,
    ) -> Result<Greeted, Refusal> {
        let hello = handshake::first_frame(frame).map_err(refuse)?;
        let (me, trust) = (&self.config.me, &self.config.trust);
        handshake::may_accept(me, &hello).map_err(refuse)?;
        trust.check_certificate(me, &hello.sender, certificate).map_err(refuse)?;
        match trust.challenge(me, &hello, nonce(&self.nonces)).map_err(refuse)? {
            None => self.link(now_ns, hello).map(Greeted::Linked),
            Some(challenge) => {
                let chunks = encode(&Frame::Challenge(challenge.clone()));
                Ok(Greeted::Challenged(chunks, Box::new(Challenged { hello, challenge })))
            }
        }
    }

    /// The answer to a challenge. It is a link from now on, or never.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn proven(&mut self, now_ns: u64, challenged: Challenged, frame: Bytes) -> Result<LinkId, Refusal> {
        let Challenged { hello, challenge } = challenged;
        let proof = match decode(frame) {
            Ok(Frame::Proof(proof)) => Ok(proof),
            Ok(_) => Err(Rejection::new(Reason::Malformed, "the answer to a challenge must be a proof")),
            Err(error) => Err(Rejection::new(Reason::Malformed, error.to_string())),
        };
        let checked = proof.and_then(|proof| self.config.trust.check_proof(&hello, &challenge, &proof));
        checked.map_err(refuse)?;
        self.link(now_ns, hello)
    }

    fn link(&mut self, now_ns: u64, hello: Hello) -> Result<LinkId, Refusal> {
        self.admit(now_ns, &hello).map_err(refuse)?;
        let id = self.next_id();
        let peer = hello.sender;
        let place = (peer.node, hello.class);
        if let Some(older) = self.accepted.get(&place).copied() {
            self.close(now_ns, older, "the node has opened a newer one".into());
        }
        self.accepted.insert(place, id);
        let up = LinkEvent::Up { link: id, class: hello.class, outgoing: false, peer: peer.clone() };
        self.links.insert(id, Link::new(hello.class, Origin::Accepted, Phase::Up(peer), now_ns));
        self.send_frame(id, &Frame::Welcome(self.config.me.clone()));
        self.events.push_back(up);
        self.look_at(id);
        Ok(id)
    }

    fn admit(&mut self, now_ns: u64, hello: &Hello) -> Result<(), Rejection> {
        let place = (hello.sender.node, hello.class);
        let known = self.accepted.get(&place).and_then(|link| self.links.get(link)).and_then(Link::peer);
        let is_same = known.is_some_and(|peer| peer.incarnation == hello.sender.incarnation);
        if hello.to.is_none() && is_same {
            return Err(Rejection::new(Reason::Duplicate, "there is a link already"));
        }
        if known.is_none() && self.accepted.len() >= MAX_LINKS {
            return Err(Rejection::new(Reason::Full, format!("{MAX_LINKS} links are open already")));
        }
        self.see(now_ns, &hello.sender)
    }

    /// Links to an older process of the node end; one that was superseded itself has no say.
    fn see(&mut self, now_ns: u64, peer: &Identity) -> Result<(), Rejection> {
        let (outgoing, accepted) = (&self.outgoing, &self.accepted);
        let linked = |node| [outgoing, accepted].iter().any(|up| up.range(places(node)).next().is_some());
        match self.processes.see(peer.node, peer.incarnation, MAX_LINKS, linked) {
            Seen::Current => Ok(()),
            Seen::Superseded => {
                let text = format!("a newer process of node {} has been here", peer.node);
                Err(Rejection::new(Reason::Superseded, text))
            }
            Seen::New => {
                let older = |p: &Identity| p.node == peer.node && p.incarnation != peer.incarnation;
                for (link, why) in self.up_where(|p| older(p).then(|| "a newer process of the node is here".into())) {
                    self.close(now_ns, link, why);
                }
                Ok(())
            }
        }
    }

    fn up_where(&self, why: impl Fn(&Identity) -> Option<String>) -> Vec<(LinkId, String)> {
        let found = |(id, link): (&LinkId, &Link)| Some((*id, why(link.peer()?)?));
        self.links.iter().filter_map(found).collect()
    }

    /// A frame of a link.
    pub fn received(&mut self, now_ns: u64, id: LinkId, frame: Bytes) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.heard(now_ns);
        let outcome = match decode(frame) {
            Ok(frame) => self.take(now_ns, id, frame),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = outcome {
            self.close(now_ns, id, why);
        }
    }

    /// An error ends the link.
    fn take(&mut self, now_ns: u64, id: LinkId, frame: Frame) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let limit = self.config.max_message_bytes;
        let too_long = || format!("a message of more than {limit} bytes");
        match (&link.phase, frame) {
            (Phase::Greeting, Frame::Welcome(peer)) => self.welcomed(now_ns, id, peer),
            (Phase::Greeting, Frame::Challenge(challenge)) => self.challenged(id, &challenge),
            (Phase::Greeting, Frame::Reject { reason, text }) => {
                if let (Origin::Dialled(key), false) = (link.origin.clone(), reason == Reason::Duplicate) {
                    self.complain(&key, &text);
                }
                Err(format!("it was refused: {text}"))
            }
            // Whatever waits already says the same, and a peer that asks without end must not fill the queue.
            (Phase::Up(_), Frame::Ping) if link.unsent > 0 => Ok(()),
            (Phase::Up(_), Frame::Ping) => {
                self.send_frame(id, &Frame::Pong);
                Ok(())
            }
            (Phase::Up(_), Frame::Pong) => Ok(()),
            (Phase::Up(_), Frame::Part(part)) if link.may_listen() => {
                link.joiner.part(&part, limit).then_some(()).ok_or_else(too_long)
            }
            (Phase::Up(peer), Frame::Message(last)) if link.may_listen() => {
                let (node, class) = (peer.node, link.class);
                let body = link.joiner.finish(last, limit).ok_or_else(too_long)?;
                self.events.push_back(LinkEvent::Message { link: id, node, class, body });
                Ok(())
            }
            (Phase::Dialling | Phase::Greeting | Phase::Up(_), _) => Err("a frame that has no place here".into()),
        }
    }

    fn welcomed(&mut self, now_ns: u64, id: LinkId, peer: Identity) -> Result<(), String> {
        let Some(Origin::Dialled(key)) = self.links.get(&id).map(|link| link.origin.clone()) else { return Ok(()) };
        let checked = self.is_trusted(id, &peer).and_then(|()| {
            handshake::may_use(&self.config.me, key.node(), &peer).and_then(|()| self.see(now_ns, &peer))
        });
        if let Err(rejection) = checked {
            self.complain(&key, &rejection.text);
            return Err(rejection.text);
        }
        let Some(class) = self.links.get(&id).map(|link| link.class) else { return Ok(()) };
        if let Some(older) = self.outgoing.get(&(peer.node, class)).copied() {
            self.close(now_ns, older, "there is a newer one".into());
        }
        self.outgoing.insert((peer.node, class), id);
        self.dials.praise(&key);
        self.events.push_back(LinkEvent::Up { link: id, class, outgoing: true, peer: peer.clone() });
        if let Some(link) = self.links.get_mut(&id) {
            link.enter(Phase::Up(peer), now_ns);
        }
        self.look_at(id);
        Ok(())
    }

    /// Whether a peer that was dialled has proven that it is of this cluster.
    fn is_trusted(&self, id: LinkId, peer: &Identity) -> Result<(), Rejection> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let trust = &self.config.trust;
        trust.check_certificate(&self.config.me, peer, link.certificate.as_deref())?;
        trust.check_welcome(peer, link.proven.as_ref())
    }

    /// The acceptor wants a proof before it welcomes this node.
    fn challenged(&mut self, id: LinkId, challenge: &Challenge) -> Result<(), String> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Some(hello) = link.hello.take() else { return Err("a challenge that was not due".into()) };
        match self.config.trust.answer(&hello, challenge) {
            Ok(proof) => {
                link.proven = Some(challenge.sender.clone());
                self.send_frame(id, &Frame::Proof(proof));
                Ok(())
            }
            Err(rejection) => {
                if let Origin::Dialled(key) = link.origin.clone() {
                    self.complain(&key, &rejection.text);
                }
                Err(rejection.text)
            }
        }
    }

    /// The peer of a link that was dialled has shown a certificate.
    pub fn secured(&mut self, id: LinkId, certificate: Rc<PeerCertificate>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.certificate = Some(certificate);
        }
    }

    /// The kernel took bytes of a link.
    pub fn sent(&mut self, now_ns: u64, id: LinkId, bytes: usize) {
        if let Some(link) = self.links.get_mut(&id) {
            link.sent(bytes, now_ns);
        }
    }

    /// The connection of a link is gone.
    pub fn disconnected(&mut self, now_ns: u64, id: LinkId) {
        self.end(now_ns, id);
    }

    /// Dials, pings and gives up what is due.
    pub fn turn(&mut self, now_ns: u64) {
        if self.next_deadline().is_none_or(|at| now_ns < at) {
            return;
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        self.look_ns = None;
        for id in links {
            match self.links.get(&id).map_or(Due::Nothing, |link| link.due(now_ns)) {
                Due::Nothing => {}
                Due::Ping => self.ping(now_ns, id),
                Due::End(why) => self.close(now_ns, id, why.into()),
            }
            self.look_at(id);
        }
        self.dial_due(now_ns);
    }

    fn ping(&mut self, now_ns: u64, id: LinkId) {
        self.send_frame(id, &Frame::Ping);
        if let Some(link) = self.links.get_mut(&id) {
            link.pinged(now_ns);
        }
    }

    /// When [`Links::turn`] must be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        [self.look_ns, self.dials.next_deadline()].into_iter().flatten().min()
    }

    /// Queues a message for a node, over the link of this class that this node dialled.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send(&mut self, node: i32, class: Class, chunks: Vec<Bytes>) -> Result<(), SendError> {
        let link = self.link_to(node, class).ok_or(SendError::NotConnected)?;
        self.send_to(link, chunks)
    }

    /// Queues a message for one link: the way for the acceptor of a data link.
    ///
    /// # Errors
    /// [`SendError`]: nothing was queued.
    pub fn send_to(&mut self, link: LinkId, chunks: Vec<Bytes>) -> Result<(), SendError> {
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let Some(state) = self.links.get_mut(&link).filter(|link| link.peer().is_some()) else {
            return Err(SendError::NotConnected);
        };
        if !state.may_speak() {
            return Err(SendError::OneWay);
        }
        if bytes > self.config.max_message_bytes {
            return Err(SendError::TooLong { bytes });
        }
        let framed = parts::framed_bytes(bytes);
        if state.unsent > 0 && state.unsent + framed > self.config.queue_bytes {
            return Err(SendError::Full { queued: state.unsent });
        }
        state.unsent += framed;
        self.actions.push(Action::Send { link, chunks: parts::cut(chunks) });
        Ok(())
    }

    /// The link of this class to a node that this node dialled, if it is up.
    #[must_use]
    pub fn link_to(&self, node: i32, class: Class) -> Option<LinkId> {
        self.outgoing.get(&(node, class)).copied()
    }

    /// Bytes that wait on a link.
    #[must_use]
    pub fn queued(&self, link: LinkId) -> usize {
        self.links.get(&link).map_or(0, |link| link.unsent)
    }

    /// Links that are up.
    #[must_use]
    pub fn count(&self) -> usize {
        self.outgoing.len() + self.accepted.len()
    }

    /// Ends a link because of what its user found; a dialled one is dialled again.
    pub fn close(&mut self, now_ns: u64, link: LinkId, reason: String) {
        if self.end(now_ns, link) {
            self.actions.push(Action::Close { link, reason });
        }
    }

    /// What to do, in order.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    #[cfg(test)]
    pub(super) fn put_back(&mut self, mut actions: Vec<Action>) {
        actions.append(&mut self.actions);
        self.actions = actions;
    }

    /// The oldest event that nobody took.
    pub fn next_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Forgets a link; false if it was forgotten already.
    fn end(&mut self, now_ns: u64, id: LinkId) -> bool {
        let Some(link) = self.links.remove(&id) else { return false };
        if let Some(peer) = link.peer() {
            let up = if link.is_outgoing() { &mut self.outgoing } else { &mut self.accepted };
            let place = (peer.node, link.class);
            if up.get(&place) == Some(&id) {
                up.remove(&place);
            }
            let (node, class, outgoing) = (peer.node, link.class, link.is_outgoing());
            self.events.push_back(LinkEvent::Down { link: id, node, class, outgoing, refused: false });
        }
        if let Origin::Dialled(key) = &link.origin {
            self.dials.ended(key, id, link.up_ns(now_ns), now_ns);
        }
        true
    }

    fn dial_due(&mut self, now_ns: u64) {
        for key in self.dials.due(now_ns) {
            let id = self.next_id();
            let Some(dial) = self.dials.linked(&key, id) else { continue };
            let (class, host, port) = (dial.class, dial.host.clone(), dial.port);
            self.links.insert(id, Link::new(class, Origin::Dialled(key), Phase::Dialling, now_ns));
            self.actions.push(Action::Connect { link: id, host, port });
            self.look_at(id);
        }
    }

    fn send_frame(&mut self, link: LinkId, frame: &Frame) {
        let chunks = encode(frame);
        if let Some(state) = self.links.get_mut(&link) {
            state.unsent += chunks.iter().map(Bytes::len).sum::<usize>();
            self.actions.push(Action::Send { link, chunks });
        }
    }

    /// A link's deadline counts from now on.
    fn look_at(&mut self, id: LinkId) {
        if let Some(at) = self.links.get(&id).map(Link::deadline) {
            self.look_ns = Some(self.look_ns.map_or(at, |look| look.min(at)));
        }
    }

    fn next_id(&mut self) -> LinkId {
        self.last_id += 1;
        LinkId(self.last_id)
    }

    /// Says once why a target can't be reached, until it was reached or the reason is another.
    fn complain(&mut self, key: &TargetKey, why: &str) {
        if self.dials.complain(key, why) {
            tracing::warn!(target = ?key, %why, "no link to another node; trying again and again");
        }
    }
}

/// Both places of a node.
fn places(node: i32) -> std::ops::RangeInclusive<(i32, Class)> {
    (node, Class::Control)..=(node, Class::Data)
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn refuse(rejection: Rejection) -> Refusal {
    Refusal { chunks: encode(&rejection.frame()), reason: format!("refused a link: {}", rejection.text) }
}

fn nonce(from: &Entropy) -> Nonce {
    let mut nonce = [0; 32];
    nonce[..16].copy_from_slice(from.uuid().as_bytes());
    nonce[16..].copy_from_slice(from.uuid().as_bytes());
    nonce
}
