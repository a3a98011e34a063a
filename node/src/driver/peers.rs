//! The connections of a driver: who they are, what they have received in part, what they are owed, when to give up.
//! Knows no sockets: `T` is whatever the driver keeps beside.
//!
//! ```text
//! Open ──Effect::Close──► Finishing (sends what is left) ──► Gone (waits for operations in flight) ──► removed
//!   └──── error, end of stream, timeout ────────────────────► Gone
//! ```

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use slab::Slab;

use crate::core::ConnId;
use crate::net::{Assembler, Budget, NetConfig, Output};

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
    pub(super) output: Output,
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
}

impl<T> Peer<T> {
    /// Whether it is a connection between nodes.
    pub(super) fn is_link(&self) -> bool {
        self.lane == Lane::Links
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
        [frame, send].into_iter().flatten().fold(idle, |first, other| if other.0 < first.0 { other } else { first })
    }
}

#[derive(Debug)]
struct Times {
    frame: u64,
    send: u64,
    idle: u64,
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
            times: Times {
                frame: ns(config.frame_timeout),
                send: ns(config.send_timeout),
                idle: ns(config.idle_timeout),
            },
            sweep_ns: None,
        }
    }

    pub(super) fn insert(&mut self, id: ConnId, io: T, origin: Origin, now_ns: u64) -> usize {
        let (lane, max_frame) = match origin {
            Origin::Accepted => (Lane::Clients, self.max_frame),
            Origin::Dialled => (Lane::Links, self.max_link_frame),
        };
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
            grew: false,
            active_ns: now_ns,
            frame_ns: None,
            send_ns: None,
        });
        self.by_id.insert(id, key);
        self.expect(now_ns, self.times.idle);
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
        if peer.lane == Lane::Clients {
            peer.lane = Lane::Links;
            peer.assembler.change_over(self.max_link_frame, &mut self.clients.budget, &mut self.links.budget);
        }
        Some(key)
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
        self.slots.iter().any(|(_, peer)| !peer.output.is_empty() || peer.send_ns.is_some())
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
