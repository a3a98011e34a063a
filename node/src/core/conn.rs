//! One client connection: responses leave in the order of their requests, whatever order they are finished in.
//!
//! ```text
//!  frame ──> backlog (while something blocks) ──> slot: Open ──finish──> Filled ──in order──> sent
//! ```
//! It knows nothing of what requests mean.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::gate::Gate;
use super::purgatory::FetchId;
use super::refusals::Refusals;
use crate::cluster::links::Challenged;
use crate::limits::Limits;
use crate::security::{Caller, PeerCertificate};

/// A listener of this node, by its place in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ListenerId(pub u8);

/// A connection; never reused for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// A number that is unique in this process, for drivers that need one.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

/// A request that has no response yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    pub(crate) conn: ConnId,
    pub(crate) sequence: u64,
}

/// Why a connection takes no further request for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Nothing holds it.
    No,
    /// A request must be answered before the next is begun.
    Until(u64),
    /// A produce request waits for the disk to catch up.
    Stalled,
    /// A produce request waits for the coordinator of its transaction.
    Verifying,
}

#[derive(Debug)]
enum State {
    Open,
    Filled(Vec<Bytes>),
}

#[derive(Debug)]
struct Slot {
    state: State,
    api_key: i16,
    frame_bytes: usize,
    began_ns: u64,
}

/// A response that may leave now.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) api_key: i16,
    pub(crate) frame_bytes: usize,
    pub(crate) began_ns: u64,
}

/// State of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// Who sends on it.
    pub(crate) caller: Rc<Caller>,
    /// What it has shown, if it has shown one.
    pub(crate) certificate: Option<Rc<PeerCertificate>>,
    /// Where its listener has one: what it has to pass.
    pub(crate) gate: Option<Box<Gate>>,
    /// It used more than its quota: nothing is begun before.
    pub(crate) muted_until_ns: Option<u64>,
    /// It says that it is a node, and has to prove it.
    pub(crate) challenged: Option<Box<Challenged>>,
    pub(crate) blocked: Blocked,
    pub(crate) backlog: VecDeque<Bytes>,
    /// Fetches that wait or read.
    pub(crate) fetches: SmallVec<[FetchId; 2]>,
    /// Requests that the group coordinator has not answered.
    pub(crate) group_requests: SmallVec<[u64; 2]>,
    /// Batches of idempotent producers that were refused and will come again.
    pub(crate) refusals: Refusals,
    pub(crate) paused: bool,
    /// Held back because all connections together have too much in flight.
    pub(crate) waits_for_memory: bool,
    slots: VecDeque<Slot>,
    first: u64,
    frame_bytes: usize,
    backlog_bytes: usize,
    unsent_bytes: usize,
}

impl Connection {
    pub(crate) fn new(id: ConnId, caller: Rc<Caller>) -> Self {
        Self {
            id,
            caller,
            certificate: None,
            gate: None,
            muted_until_ns: None,
            challenged: None,
            blocked: Blocked::No,
            backlog: VecDeque::new(),
            fetches: SmallVec::new(),
            group_requests: SmallVec::new(),
            refusals: Refusals::default(),
            paused: false,
            waits_for_memory: false,
            slots: VecDeque::new(),
            first: 0,
            frame_bytes: 0,
            backlog_bytes: 0,
            unsent_bytes: 0,
        }
    }

    /// Whether nothing was asked on it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.first == 0 && self.slots.is_empty() && self.backlog.is_empty()
    }

    /// Opens the response slot of the next request.
    pub(crate) fn open(&mut self, api_key: i16, frame_bytes: usize, began_ns: u64) -> RequestId {
        let sequence = self.first + self.slots.len() as u64;
        self.slots.push_back(Slot { state: State::Open, api_key, frame_bytes, began_ns });
        self.frame_bytes += frame_bytes;
        RequestId { conn: self.id, sequence }
    }

    /// Fills a slot; a request without a response fills it with nothing. Late or repeated answers are ignored.
    pub(crate) fn fill(&mut self, request: RequestId, chunks: Vec<Bytes>) {
        let Some(at) = request.sequence.checked_sub(self.first).and_then(|n| usize::try_from(n).ok()) else { return };
        let Some(slot) = self.slots.get_mut(at) else { return };
        if matches!(slot.state, State::Open) {
            slot.state = State::Filled(chunks);
        }
        if self.blocked == Blocked::Until(request.sequence) {
            self.blocked = Blocked::No;
        }
    }

    /// The next response in order, if it is there.
    pub(crate) fn next_outgoing(&mut self) -> Option<Outgoing> {
        if !matches!(self.slots.front()?.state, State::Filled(_)) {
            return None;
        }
        let slot = self.slots.pop_front()?;
        self.first += 1;
        self.frame_bytes = self.frame_bytes.saturating_sub(slot.frame_bytes);
        let State::Filled(chunks) = slot.state else { return None };
        self.unsent_bytes += chunks.iter().map(Bytes::len).sum::<usize>();
        Some(Outgoing { chunks, api_key: slot.api_key, frame_bytes: slot.frame_bytes, began_ns: slot.began_ns })
    }

    /// The kernel took response bytes.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes);
    }

    /// Keeps a frame for later.
    pub(crate) fn defer(&mut self, frame: Bytes) {
        self.backlog_bytes += frame.len();
        self.backlog.push_back(frame);
    }

    /// The oldest kept frame.
    pub(crate) fn take_deferred(&mut self) -> Option<Bytes> {
        let frame = self.backlog.pop_front()?;
        self.backlog_bytes = self.backlog_bytes.saturating_sub(frame.len());
        Some(frame)
    }

    /// Bytes of requests that are not answered, kept ones included.
    pub(crate) fn bytes_in_flight(&self) -> usize {
        self.frame_bytes + self.backlog_bytes
    }

    /// Whether the next request may be begun.
    pub(crate) fn may_begin(&self, limits: &Limits) -> bool {
        self.blocked == Blocked::No
            && self.muted_until_ns.is_none()
            && self.fetches.len() < crate::limits::MAX_FETCHES_PER_CONNECTION
            && self.unsent_bytes < limits.response_bytes_per_connection
            && self.slots.len() < limits.requests_per_connection
    }

    /// Whether the socket should not be read.
    pub(crate) fn should_pause(&self, limits: &Limits) -> bool {
        self.waits_for_memory
            || !self.backlog.is_empty()
            || !self.may_begin(limits)
            || self.bytes_in_flight() >= limits.request_bytes_per_connection
    }

    /// Whether a paused socket may be read again: later than [`Connection::should_pause`] ends, so that it does not flutter.
    pub(crate) fn may_resume(&self, limits: &Limits) -> bool {
        !self.should_pause(limits)
            && self.slots.len() <= limits.requests_per_connection / 2
            && self.unsent_bytes <= limits.response_bytes_per_connection / 2
            && self.bytes_in_flight() <= limits.request_bytes_per_connection / 2
    }
}
