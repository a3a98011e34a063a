//! The connections of a driver: who they are, what they have received in part, what they are owed, when to give up.
//! Knows no sockets: `T` is whatever the driver keeps beside.
//!
//! ```text
//! (Open also while a connection is a stranger: until its TLS handshake is over, and its authentication where there is one)
//! Open ──Effect::Close──► Finishing (sends what is left) ──► Gone (waits for operations in flight) ──► removed
//!   └──── error, end of stream, timeout ────────────────────► Gone
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;

use crate::core::ConnId;
use crate::error::ConnectError;
use crate::limits::MAX_HANDSHAKES;
use crate::net::tls::{ClientTls, Secured, Session, StreamError};
use crate::net::{Assembler, Budget, Door, NetConfig, NextRead, Output};

/// A finishing connection's time to take its last bytes, in nanoseconds.
const FINISH_NS: u64 = 5_000_000_000;
/// Least time between two looks at all connections, in nanoseconds.
const SWEEP_NS: u64 = 250_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Finishing,
    Gone,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client's, until it is promoted.
    Accepted,
    /// To another node.
    Dialled,
}

/// Whose memory a connection's partial frames take: clients that fill theirs never hold up the nodes (trap 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Clients,
    Links,
}

/// Memory for partial frames, and who waits for it.
#[derive(Debug)]
struct Memory {
    budget: Budget,
    waiting: VecDeque<usize>,
}

impl Memory {
    fn new(limit: usize) -> Self {
        Self { budget: Budget::new(limit), waiting: VecDeque::new() }
    }

    /// None while memory is short and another one has the last word.
    fn take_waiting(&mut self) -> VecDeque<usize> {
        if self.budget.may_serve() { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer<T> {
    pub(super) id: ConnId,
    pub(super) io: T,
    pub(super) phase: Phase,
    pub(super) paused: bool,
    lane: Lane,
    pub(super) assembler: Assembler,
    /// Plaintext that is owed.
    output: Output,
    /// Between the socket and the two above, where the connection is encrypted.
    tls: Option<Box<Session>>,
    /// Has to say who it is, and has not.
    guarded: bool,
    /// When it came, until it is no stranger any more.
    greeting_ns: Option<u64>,
    /// In the list of those whose output grew.
    grew: bool,
    active_ns: u64,
    /// When the frame that is not complete began.
    frame_ns: Option<u64>,
    /// When the socket last took bytes, while some wait.
    send_ns: Option<u64>,
}

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Frame,
    Send,
    Idle,
    Greeting,
}

impl<T> Peer<T> {
    /// Whether it is a connection between nodes.
    pub(super) fn is_link(&self) -> bool {
        self.lane == Lane::Links
    }

    /// Whether its bytes pass TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// What to read now.
    pub(super) fn next_read(&mut self, budget: &mut Budget) -> NextRead {
        match self.tls {
            None => self.assembler.next_read(budget),
            Some(_) => self.assembler.next_fed(budget),
        }
    }

    /// Takes bytes from any memory; whole frames go to `out`. False: the peer has ended the stream in good order.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        budget: &mut Budget,
        out: &mut Vec<Bytes>,
    ) -> Result<bool, StreamError> {
        let assembler = &mut self.assembler;
        match &mut self.tls {
            None => assembler.feed(bytes, budget, out).map(|()| true).map_err(StreamError::from),
            Some(tls) => tls.receive(bytes, |plaintext| assembler.feed(plaintext, budget, out)),
        }
    }

    /// What the peer has shown in its handshake, once.
    pub(super) fn take_secured(&mut self) -> Option<Secured> {
        let secured = self.tls.as_mut()?.take_secured()?;
        if !self.guarded {
            self.greeting_ns = None;
        }
        Some(secured)
    }

    /// Whether there is something that the socket could take now.
    pub(super) fn has_out(&mut self) -> bool {
        match &mut self.tls {
            None => !self.output.is_empty(),
            Some(tls) => {
                tls.fill(&mut self.output);
                !tls.is_wire_empty()
            }
        }
    }

    /// Whether anything is owed, even if the socket can't have it yet.
    pub(super) fn owes(&self) -> bool {
        !self.output.is_empty() || self.tls.as_ref().is_some_and(|tls| !tls.is_wire_empty())
    }

    /// Takes what the socket is to have next; see [`Output::take`].
    pub(super) fn take_out(&mut self, max_chunks: usize, max_bytes: usize) -> Vec<Bytes> {
        self.out().take(max_chunks, max_bytes)
    }

    /// The socket took the first `sent` bytes of what was taken: how many bytes of the owed those were.
    pub(super) fn put_back(&mut self, taken: Vec<Bytes>, sent: usize) -> usize {
        self.out().put_back(taken, sent);
        self.credit(sent)
    }

    /// The chunks that the socket is to have next.
    pub(super) fn front(&self, max_chunks: usize) -> impl Iterator<Item = &Bytes> {
        self.tls.as_ref().map_or(&self.output, |tls| tls.wire()).front(max_chunks)
    }

    /// The socket took bytes from the front: how many bytes of the owed those were.
    pub(super) fn advance(&mut self, sent: usize) -> usize {
        self.out().advance(sent);
        self.credit(sent)
    }

    fn out(&mut self) -> &mut Output {
        match &mut self.tls {
            None => &mut self.output,
            Some(tls) => tls.wire_mut(),
        }
    }

    fn credit(&mut self, sent: usize) -> usize {
        self.tls.as_mut().map_or(sent, |tls| tls.credit(sent))
    }

    /// Nothing more is read, and nothing more will be owed.
    pub(super) fn begin_finish(&mut self) {
        self.phase = Phase::Finishing;
        if let Some(tls) = &mut self.tls {
            if tls.is_handshaking() {
                // Nobody will ever be able to read it.
                self.output.clear();
            }
            tls.end();
        }
    }

    /// Drops what is owed.
    pub(super) fn abandon_output(&mut self) {
        self.output.clear();
        if let Some(tls) = &mut self.tls {
            tls.wire_mut().clear();
        }
    }

    /// Bytes arrived and `frames` of them were completed.
    pub(super) fn note_received(&mut self, now_ns: u64, frames: usize) {
        self.active_ns = now_ns;
        if frames > 0 || !self.assembler.in_frame() {
            self.frame_ns = None;
        }
        if self.assembler.in_frame() && self.frame_ns.is_none() {
            self.frame_ns = Some(now_ns);
        }
    }

    /// The socket took bytes, or is offered the first ones.
    pub(super) fn note_sending(&mut self, now_ns: u64) {
        self.active_ns = now_ns;
        self.send_ns = Some(now_ns);
    }

    /// Nothing waits for the socket any more.
    pub(super) fn note_sent_all(&mut self, now_ns: u64) {
        self.active_ns = now_ns;
        self.send_ns = None;
    }

    /// Time that we did not read is not held against the peer.
    pub(super) fn note_resumed(&mut self, now_ns: u64) {
        self.active_ns = now_ns;
        self.frame_ns = self.frame_ns.map(|_| now_ns);
    }

    fn due(&self, times: &Times) -> (u64, Overdue) {
        let frame = self.frame_ns.filter(|_| !self.paused).map(|at| (at + times.frame, Overdue::Frame));
        let send = self.send_ns.map(|at| {
            let allowed = if self.phase == Phase::Open { times.send } else { FINISH_NS };
            (at + allowed, Overdue::Send)
        });
        let idle = (self.active_ns + times.idle, Overdue::Idle);
        let greeting =
            self.greeting_ns.filter(|_| self.phase == Phase::Open).map(|at| (at + times.greeting, Overdue::Greeting));
        [frame, send, greeting]
            .into_iter()
            .flatten()
            .fold(idle, |first, other| if other.0 < first.0 { other } else { first })
    }
}

#[derive(Debug)]
struct Times {
    frame: u64,
    send: u64,
    idle: u64,
    greeting: u64,
}

/// How a connection begins.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) origin: Origin,
    pub(super) tls: Option<Session>,
    /// Has to authenticate itself.
    pub(super) guarded: bool,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Peers<T> {
    slots: Slab<Peer<T>>,
    by_id: HashMap<ConnId, usize, foldhash::fast::RandomState>,
    clients: Memory,
    links: Memory,
    /// Connections whose output grew: several answers of one turn leave together.
    grown: Vec<usize>,
    max_frame: usize,
    max_link_frame: usize,
    max_stranger_frame: usize,
    dial_tls: Option<Arc<ClientTls>>,
    times: Times,
    sweep_ns: Option<u64>,
}

impl<T> Peers<T> {
    pub(super) fn new(config: &NetConfig) -> Self {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4);
        Self {
            slots: Slab::new(),
            by_id: HashMap::default(),
            clients: Memory::new(config.partial_frames_bytes),
            links: Memory::new(config.partial_link_frames_bytes),
            grown: Vec::new(),
            max_frame: config.max_frame_bytes,
            max_link_frame: config.max_link_frame_bytes,
            max_stranger_frame: config.max_stranger_frame_bytes,
            dial_tls: config.dial_tls.clone(),
            times: Times {
                frame: ns(config.frame_timeout),
                send: ns(config.send_timeout),
                idle: ns(config.idle_timeout),
                greeting: ns(config.greeting_timeout),
            },
            sweep_ns: None,
        }
    }

    /// How a connection that was accepted begins; none: it has to be refused.
    pub(super) fn accepted(&self, door: &Door) -> Option<Beginning> {
        let tls = match &door.tls {
            None => None,
            Some(_) if !self.may_handshake() => {
                tracing::warn!("{MAX_HANDSHAKES} TLS handshakes are under way; refusing one more");
                return None;
            }
            Some(tls) => match Session::accept(tls) {
                Ok(session) => Some(session),
                Err(error) => {
                    tracing::warn!(%error, "can't begin a TLS handshake");
                    return None;
                }
            },
        };
        Some(Beginning { origin: Origin::Accepted, tls, guarded: door.guarded })
    }

    /// How a connection that was dialled begins.
    pub(super) fn dialled(&self, host: &str) -> Result<Beginning, ConnectError> {
        let failed = |error: StreamError| ConnectError::Unreachable(error.to_string());
        let tls = self.dial_tls.as_ref().map(|tls| Session::dial(tls, host)).transpose().map_err(failed)?;
        Ok(Beginning { origin: Origin::Dialled, tls, guarded: false })
    }

    /// Whether one more connection may begin a TLS handshake. Looks at all connections only when there may be many.
    fn may_handshake(&self) -> bool {
        self.slots.len() < MAX_HANDSHAKES
            || self.slots.iter().filter(|(_, peer)| peer.tls.as_ref().is_some_and(|tls| tls.is_handshaking())).count()
                < MAX_HANDSHAKES
    }

    pub(super) fn insert(&mut self, id: ConnId, io: T, beginning: Beginning, now_ns: u64) -> usize {
        let Beginning { origin, tls, guarded } = beginning;
        let (lane, max_frame) = match origin {
            Origin::Accepted if guarded => (Lane::Clients, self.max_stranger_frame.min(self.max_frame)),
            Origin::Accepted => (Lane::Clients, self.max_frame),
            Origin::Dialled => (Lane::Links, self.max_link_frame),
        };
        let is_stranger = guarded || tls.is_some();
        let entry = self.slots.vacant_entry();
        let key = entry.key();
        entry.insert(Peer {
            id,
            io,
            phase: Phase::Open,
            paused: false,
            lane,
            assembler: Assembler::new(id.as_u64(), max_frame),
            output: Output::default(),
            tls: tls.map(Box::new),
            guarded,
            greeting_ns: is_stranger.then_some(now_ns),
            grew: false,
            active_ns: now_ns,
            frame_ns: None,
            send_ns: None,
        });
        self.by_id.insert(id, key);
        self.expect(now_ns, if is_stranger { self.times.idle.min(self.times.greeting) } else { self.times.idle });
        key
    }

    pub(super) fn get(&mut self, key: usize) -> Option<&mut Peer<T>> {
        self.slots.get_mut(key)
    }

    /// A connection and the budget that its frames count against.
    pub(super) fn with_budget(&mut self, key: usize) -> Option<(&mut Peer<T>, &mut Budget)> {
        let peer = self.slots.get_mut(key)?;
        let memory = match peer.lane {
            Lane::Clients => &mut self.clients,
            Lane::Links => &mut self.links,
        };
        Some((peer, &mut memory.budget))
    }

    /// An accepted connection turned out to be another node's: it changes over to the links' memory.
    pub(super) fn promote(&mut self, id: ConnId) -> Option<usize> {
        let key = self.key_of(id)?;
        let peer = self.slots.get_mut(key)?;
        peer.guarded = false;
        peer.greeting_ns = None;
        if peer.lane == Lane::Clients {
            peer.lane = Lane::Links;
            peer.assembler.change_over(self.max_link_frame, &mut self.clients.budget, &mut self.links.budget);
        }
        Some(key)
    }

    /// A client has said who it is: it may send as much as any other.
    pub(super) fn authenticated(&mut self, id: ConnId) {
        let max_frame = self.max_frame;
        let Some(peer) = self.key_of(id).and_then(|key| self.slots.get_mut(key)) else { return };
        peer.guarded = false;
        peer.greeting_ns = None;
        peer.assembler.set_max_frame(max_frame);
    }

    /// The connection that the core means; none if it is forgotten.
    pub(super) fn key_of(&self, id: ConnId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Adds to what a connection is owed; [`Peers::take_grown`] names it then.
    pub(super) fn owe(&mut self, id: ConnId, chunks: Vec<Bytes>) {
        let Some(key) = self.key_of(id) else { return };
        let Some(peer) = self.slots.get_mut(key) else { return };
        peer.output.push(chunks);
        if !peer.grew {
            peer.grew = true;
            self.grown.push(key);
        }
    }

    /// Connections whose output grew since the last call.
    pub(super) fn take_grown(&mut self) -> Vec<usize> {
        let grown = std::mem::take(&mut self.grown);
        for key in &grown {
            if let Some(peer) = self.slots.get_mut(*key) {
                peer.grew = false;
            }
        }
        grown
    }

    /// The core no longer knows this connection.
    pub(super) fn forget(&mut self, key: usize) {
        if let Some(peer) = self.slots.get(key) {
            self.by_id.remove(&peer.id);
        }
    }

    pub(super) fn remove(&mut self, key: usize) -> Option<T> {
        self.forget(key);
        let (peer, budget) = self.with_budget(key)?;
        peer.assembler.close(budget);
        let peer = self.slots.try_remove(key)?;
        Some(peer.io)
    }

    /// Whether something still waits to be sent.
    pub(super) fn owes(&self) -> bool {
        self.slots.iter().any(|(_, peer)| peer.owes() || peer.send_ns.is_some())
    }

    pub(super) fn keys(&self) -> Vec<usize> {
        self.slots.iter().map(|(key, _)| key).collect()
    }

    /// Puts a connection in the queue for the budget.
    pub(super) fn wait(&mut self, key: usize) {
        match self.slots.get(key).map(|peer| peer.lane) {
            Some(Lane::Clients) => self.clients.waiting.push_back(key),
            Some(Lane::Links) => self.links.waiting.push_back(key),
            None => {}
        }
    }

    /// Connections that waited and may ask again.
    pub(super) fn take_waiting(&mut self) -> VecDeque<usize> {
        let mut waiting = self.links.take_waiting();
        waiting.append(&mut self.clients.take_waiting());
        waiting
    }

    /// A frame or a send has begun at `now_ns`.
    pub(super) fn expect_progress(&mut self, now_ns: u64) {
        self.expect(now_ns, self.times.frame.min(self.times.send).min(FINISH_NS));
    }

    fn expect(&mut self, now_ns: u64, allowed: u64) {
        let at = now_ns + allowed;
        if self.sweep_ns.is_none_or(|sweep| at < sweep) {
            self.sweep_ns = Some(at);
        }
    }

    /// When [`Peers::overdue`] must be called at the latest.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.sweep_ns
    }

    /// Who is to be given up. Looks at all connections, but not often.
    pub(super) fn overdue(&mut self, now_ns: u64) -> Vec<(usize, Overdue)> {
        if self.sweep_ns.is_none_or(|at| now_ns < at) {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut next = None;
        for (key, peer) in &self.slots {
            if peer.phase == Phase::Gone {
                continue;
            }
            let (at, why) = peer.due(&self.times);
            if at <= now_ns {
                found.push((key, why));
            } else if next.is_none_or(|next| at < next) {
                next = Some(at);
            }
        }
        self.sweep_ns = next.map(|next| next.max(now_ns + SWEEP_NS));
        found
    }
}
