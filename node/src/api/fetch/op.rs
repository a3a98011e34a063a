//! A fetch that is being carried out: what is wanted of each partition, and what was found.

use bytes::Bytes;
use wherry_wire::types::LogId;

use crate::api::Ctx;
use crate::core::sessions::{Told, Wanted};
use crate::core::store::{Aborted, Served};
use wherry_wire::codec::ResponseError;

/// How the request relates to a fetch session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InSession {
    /// None.
    No,
    /// The first fetch of this session: everything is answered.
    First(i32),
    /// A later fetch: what is new is answered.
    Later(i32),
}

impl InSession {
    /// The id that the response carries.
    pub(crate) fn id(self) -> i32 {
        match self {
            Self::No => 0,
            Self::First(id) | Self::Later(id) => id,
        }
    }
}

/// One partition of a fetch.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) wanted: Wanted,
    pub(crate) told: Option<Told>,
    pub(crate) log: Option<LogId>,
    pub(crate) error: Option<ResponseError>,
    pub(crate) now: Told,
    pub(crate) data: Vec<Bytes>,
    /// Transactions in the data that a reader of committed records skips.
    pub(crate) aborted: Vec<Aborted>,
    /// Below this every transaction has ended.
    pub(crate) last_stable: i64,
    /// How far the reader may see: up to there, or up to the high watermark.
    pub(crate) visible: i64,
    /// A replica nearer to the client that it should ask instead (KIP-392).
    pub(crate) preferred: Option<i32>,
    /// Bytes that were there when it was last looked at.
    pub(crate) known_bytes: usize,
    /// The log moved since.
    pub(crate) dirty: bool,
    /// The fetch is woken when the log moves.
    pub(crate) watched: bool,
}

impl Part {
    pub(crate) fn new(wanted: Wanted, told: Option<Told>) -> Self {
        Self {
            wanted,
            told,
            log: None,
            error: None,
            now: Told::default(),
            data: Vec::new(),
            aborted: Vec::new(),
            last_stable: -1,
            visible: -1,
            preferred: None,
            known_bytes: 0,
            dirty: true,
            watched: false,
        }
    }

    pub(crate) fn fail(&mut self, error: ResponseError) {
        self.error = Some(error);
        self.clear();
        self.now = Told { high_watermark: -1, log_start: -1 };
    }

    /// Lets go of what was read.
    pub(crate) fn clear(&mut self) {
        self.data.clear();
        self.aborted = Vec::new();
    }

    /// Takes what was read. Where more is there than was read, waiting for more would be pointless.
    pub(crate) fn take(&mut self, served: Served) {
        // A read that the disk brought later may hold what became durable meanwhile.
        self.now.high_watermark = self.now.high_watermark.max(served.next.0);
        self.visible = self.visible.max(served.next.0);
        let more = served.next.0 < self.visible;
        self.data = served.batches;
        self.aborted = served.aborted;
        self.known_bytes = if more { usize::MAX } else { self.data_bytes() };
    }

    pub(crate) fn data_bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }

    /// Whether an incremental response must name it.
    pub(crate) fn is_news(&self) -> bool {
        self.error.is_some() || self.preferred.is_some() || !self.data.is_empty() || self.told != Some(self.now)
    }
}

/// A fetch request on its way.
#[derive(Debug)]
pub(crate) struct FetchOp {
    pub(crate) ctx: Ctx,
    pub(crate) began_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) min_bytes: usize,
    pub(crate) max_bytes: usize,
    pub(crate) read_committed: bool,
    /// A follower may answer.
    pub(crate) may_follow: bool,
    /// Where the client is, if it says so.
    pub(crate) rack: Option<String>,
    pub(crate) session: InSession,
    pub(crate) parts: Vec<Part>,
    /// Reads that the disk owes.
    pub(crate) outstanding: usize,
}

impl FetchOp {
    /// Notes that the log of a part moved, which used its watch up.
    pub(crate) fn moved(&mut self, part: u32) {
        if let Some(part) = usize::try_from(part).ok().and_then(|n| self.parts.get_mut(n)) {
            part.dirty = true;
            part.watched = false;
        }
    }

    /// Whether there is enough to answer before the deadline.
    pub(crate) fn is_satisfied(&self) -> bool {
        let known = self.parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.known_bytes));
        let is_told = |part: &Part| part.error.is_some() || part.preferred.is_some();
        self.parts.is_empty() || known >= self.min_bytes || self.parts.iter().any(is_told)
    }
}
