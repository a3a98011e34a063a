//! What the engine waits for: one entry per disk operation in flight, found again by its token.

use slab::Slab;
use wherry_wire::types::Offset;

use crate::Lsn;
use crate::io::Token;
use crate::partition::Stable;
use crate::segment::{ChunkRef, SegmentKey};

/// Why an operation was submitted, and what to do when it ends.
#[derive(Debug)]
pub(crate) enum Pending {
    /// A frame of the journal.
    Frame,
    /// First block of the next journal file.
    JournalHeader,
    /// A new journal file is being made.
    JournalCreate { slot: u32 },
    /// Its directory entry.
    JournalSyncDir { slot: u32 },
    /// Zeros ahead of the journal's position.
    JournalZero { slot: u32, upto: u64 },
    /// A segment file is being opened.
    Opened { key: SegmentKey },
    /// Space is being taken for what will be written to a segment file.
    Grown { key: SegmentKey, len: u64 },
    /// Chunks on their way to a segment.
    Flush(Box<FlushJob>),
    /// Segment bytes are being made durable.
    Sync(Box<SyncJob>),
    /// The segment directory after new files.
    SyncDir,
    /// The checkpoint.
    Checkpoint,
    /// Chunks for readers.
    ReadData { key: SegmentKey, position: u64, span: Vec<ChunkRef> },
    /// Chunk headers of a segment whose list is not known.
    ReadIndex { key: SegmentKey, log: usize, version: u64, position: u64, chunks: Vec<ChunkRef> },
    /// A window of a segment that is being compacted.
    CompactRead { key: SegmentKey },
    /// A chunk that stays after compaction.
    CompactWrite { key: SegmentKey },
    /// A window of a segment that is being verified.
    ScrubRead { key: SegmentKey },
    /// A removed segment file goes to the trash.
    Moved { key: SegmentKey },
    /// A piece of what is in the trash is given back.
    Erased,
    /// Free space.
    Space,
    /// Nothing depends on it (closing, removing).
    Ignore,
}

/// One write of a log's batches to its active segment.
#[derive(Debug)]
pub(crate) struct FlushJob {
    pub(crate) log: usize,
    pub(crate) born: Lsn,
    pub(crate) version: u64,
    pub(crate) key: SegmentKey,
    pub(crate) end: Offset,
    pub(crate) lsn: Lsn,
    pub(crate) batch_bytes: usize,
    pub(crate) file_bytes: usize,
    pub(crate) file_end: u64,
    pub(crate) chunks: Vec<ChunkRef>,
}

/// One sync of all written segments, and what each log may count on after it.
#[derive(Debug)]
pub(crate) struct SyncJob {
    pub(crate) files: Vec<SegmentKey>,
    pub(crate) captured: Vec<Captured>,
}

/// What a sync makes stable of one log.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) log: usize,
    pub(crate) version: u64,
    pub(crate) stable: Stable,
    pub(crate) unstable_from: Option<Lsn>,
}

/// The operations in flight.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    slab: Slab<Pending>,
    /// Tells a reused slot from its former use.
    serial: u64,
}

const INDEX_BITS: u32 = 24;

impl Ops {
    pub(crate) fn add(&mut self, pending: Pending) -> Token {
        self.serial += 1;
        let index = self.slab.insert(pending) as u64;
        Token((self.serial << INDEX_BITS) | index)
    }

    pub(crate) fn take(&mut self, token: Token) -> Option<Pending> {
        let index = usize::try_from(token.0 & ((1 << INDEX_BITS) - 1)).ok()?;
        self.slab.try_remove(index)
    }
}
