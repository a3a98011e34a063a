//! Settings of the engine and of one log. Every bound of the engine has its name here (INV-7).

use serde::{Deserialize, Serialize};

/// Largest batch that a log can be configured to take, in bytes.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// A batch may decompress to this many bytes while a record is looked for by time, or while it is compacted.
pub const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;
/// Entries in one journal frame; their index must fit the low bits of an [`crate::Lsn`].
pub const MAX_FRAME_ENTRIES: usize = 1 << 16;
/// Largest journal file, in bytes.
pub const MAX_JOURNAL_FILE_BYTES: u64 = 1 << 30;
/// Segment writes in flight over all logs: many where they are small, or else thousands of logs wait for each other.
pub const MAX_FLUSHES_IN_FLIGHT: usize = 64;
/// Bytes of segment writes in flight over all logs, but for the last one. Journal frames queue behind them in the device.
pub const MAX_FLUSH_BYTES_IN_FLIGHT: usize = 2 << 20;
/// Cold reads in flight over all logs; more wait their turn.
pub const MAX_READS_IN_FLIGHT: usize = 64;
/// Cold reads waiting; beyond this a read is refused as busy.
pub const MAX_READS_WAITING: usize = 4096;
/// Readers whose place is remembered, to read ahead for those that go on from it.
pub const MAX_STREAMS: usize = 64;
/// Batches remembered per idempotent producer (KIP-98: five requests in flight).
pub const PRODUCER_BATCHES: usize = 5;
/// Idempotent producers remembered per log; the longest idle one is forgotten first.
pub const MAX_PRODUCERS_PER_LOG: usize = 10_000;
/// Producers remembered per log because of their transactions, and transactions open at once in a log: the longest idle
/// one without an open transaction is forgotten first; if all have one, no more are opened.
pub const MAX_TRANSACTIONAL_PRODUCERS_PER_LOG: usize = 10_000;
/// Aborted transactions in a log (32 bytes of memory each); with so many, no more transactions are opened in it.
pub const MAX_ABORTED_PER_LOG: usize = 1 << 18;
/// Markers of a log that can be undone from memory (72 bytes each); beyond it, a truncation reads the log again.
pub const MAX_ENDED_PER_LOG: usize = 1 << 16;
/// A transaction is late when nothing was added to it for this long, in milliseconds: the longest that clients may ask for,
/// and a little more.
pub const LATE_TRANSACTION_MS: i64 = 20 * 60 * 1000;
/// The first scrub begins so long after the start, or sooner where scrubs are due sooner, in milliseconds.
pub const SCRUB_FIRST_MS: u64 = 10 * 60 * 1000;
/// Least time between two reads of the scrub, in milliseconds: many small files must not cost more than a few large ones.
pub const SCRUB_PAUSE_MS: u64 = 20;
/// Batches per chunk of a segment, beside its size.
pub const MAX_CHUNK_BATCHES: usize = 8192;

/// Settings of an [`crate::Engine`]: one shard of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Size of one journal file, in bytes; whole blocks.
    pub journal_file_bytes: u64,
    /// Journal files at the most. Together they bound what must be replayed at start.
    pub journal_files: usize,
    /// A commit group grows to about this many bytes before the next one is begun.
    pub group_bytes: usize,
    /// Memory for recent batches, in bytes, whether they are in segments already or not.
    pub tail_bytes: usize,
    /// A log with this many bytes outside its segments is written to them at once.
    pub flush_bytes: usize,
    /// Batches are stored in self-checking chunks of about this many bytes: the unit of a cold read.
    pub chunk_bytes: usize,
    /// Memory for chunks read from segments, in bytes.
    pub read_cache_bytes: usize,
    /// A cold read fetches about this many bytes at once.
    pub read_bytes: usize,
    /// Segment files open at the most.
    pub open_files: usize,
    /// Free space kept for deletes, metadata and the journal: below it appends are refused, in bytes.
    pub reserve_bytes: u64,
    /// Time between two looks at retention and free space, in milliseconds.
    pub housekeeping_ms: u64,
    /// An idempotent producer that appended nothing for this long is forgotten, in milliseconds.
    pub producer_expiry_ms: i64,
    /// What rests in segments is read and verified again at this rate, in bytes per second; 0: never.
    pub scrub_bytes_per_s: u64,
    /// All of it no more often than this, in milliseconds.
    pub scrub_every_ms: u64,
    /// The space of removed segments goes back to the file system at about this rate while there is room, in bytes per
    /// second; 0: at once.
    pub erase_bytes_per_s: u64,
    /// When the journal has been idle for this long, a mark is written so that corruption of the last frames can be
    /// told from a torn write, in milliseconds.
    pub mark_after_ms: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            journal_file_bytes: 64 << 20,
            journal_files: 12,
            group_bytes: 2 << 20,
            tail_bytes: 256 << 20,
            flush_bytes: 4 << 20,
            chunk_bytes: 256 << 10,
            read_cache_bytes: 32 << 20,
            read_bytes: 1 << 20,
            open_files: 16384,
            reserve_bytes: 256 << 20,
            housekeeping_ms: 5_000,
            producer_expiry_ms: 24 * 3600 * 1000,
            scrub_bytes_per_s: 4 << 20,
            scrub_every_ms: 24 * 3600 * 1000,
            erase_bytes_per_s: 256 << 20,
            mark_after_ms: 20,
        }
    }
}

impl EngineConfig {
    /// Refuses combinations that can't work, with a sentence.
    ///
    /// # Errors
    /// What is wrong and what to set.
    pub fn validate(&self) -> Result<(), String> {
        let block = crate::io::BLOCK;
        if !usize::try_from(self.journal_file_bytes).is_ok_and(|b| b.is_multiple_of(block)) {
            return Err(format!("journal_file_bytes {} must be a multiple of {block}", self.journal_file_bytes));
        }
        if self.journal_file_bytes > MAX_JOURNAL_FILE_BYTES {
            return Err(format!("journal_file_bytes {} is above {MAX_JOURNAL_FILE_BYTES}", self.journal_file_bytes));
        }
        if self.journal_files < 3 {
            return Err(format!(
                "journal_files {} is too few: one is written, one is filling, one is freed; set 3",
                self.journal_files
            ));
        }
        if self.chunk_bytes < block || self.flush_bytes < self.chunk_bytes {
            return Err(format!(
                "chunk_bytes {} must be at least {block} and at most flush_bytes {}",
                self.chunk_bytes, self.flush_bytes
            ));
        }
        if self.tail_bytes < 4 * self.group_bytes {
            return Err(format!(
                "tail_bytes {} must hold at least four groups of {}",
                self.tail_bytes, self.group_bytes
            ));
        }
        if self.open_files < 8 {
            return Err(format!("open_files {} is too few; set at least 8", self.open_files));
        }
        Ok(())
    }
}

/// What happens to old records of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanup {
    /// Old segments are deleted by time and size.
    Delete,
    /// Of each key only the newest record stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl Cleanup {
    /// Whether old segments are deleted.
    #[must_use]
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }

    /// Whether keys are compacted.
    #[must_use]
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }
}

/// Settings of one log; they are the owner's to keep (the engine does not store them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment of this size is closed and a new one begun, in bytes.
    pub segment_bytes: u64,
    /// A segment whose first record is this old is closed, in milliseconds.
    pub segment_ms: i64,
    /// Records older than this may be deleted, in milliseconds; negative: never.
    pub retention_ms: i64,
    /// A log larger than this loses its oldest segments, in bytes; negative: never.
    pub retention_bytes: i64,
    /// Delete, compact or both.
    pub cleanup: Cleanup,
    /// How long a compacted log keeps a tombstone, in milliseconds.
    pub delete_retention_ms: i64,
    /// Records younger than this are not compacted, in milliseconds.
    pub min_compaction_lag_ms: i64,
    /// Compaction starts when this share of a log is not yet compacted, in per mille.
    pub min_cleanable_permille: u32,
}

impl LogConfig {
    /// What a recovered log has until its owner configures it: nothing is deleted and nothing compacted, since the
    /// owner may have asked for either to be off.
    #[must_use]
    pub fn keep_everything() -> Self {
        Self { retention_ms: -1, retention_bytes: -1, cleanup: Cleanup::Delete, ..Self::default() }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3600 * 1000,
            retention_ms: 7 * 24 * 3600 * 1000,
            retention_bytes: -1,
            cleanup: Cleanup::Delete,
            delete_retention_ms: 24 * 3600 * 1000,
            min_compaction_lag_ms: 0,
            min_cleanable_permille: 500,
        }
    }
}
