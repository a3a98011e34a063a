//! The engine of one shard: appends to the journal, serves recent batches from memory, moves them to segments in the
//! background, and answers reads. A single-threaded state machine over a [`Disk`]: whoever drives it calls
//! [`Engine::turn`] after each batch of inputs or completions, and takes its [`Event`]s.
//!
//! It knows nothing of topics, protocols or sockets.

mod append;
mod compact;
mod flush;
mod housekeeping;
pub(crate) mod ops;
mod read;
mod read_ahead;
mod recover;
mod replica;
mod retrace;
mod rollback;
mod scrub;
mod sync;
#[cfg(test)]
mod tests;
mod transact;
mod trash;

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use slab::Slab;
use uuid::Uuid;
use wherry_wire::batch::CheckedBatch;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use crate::config::EngineConfig;
use crate::error::{Corruption, LogError};
use crate::files::Files;
use crate::io::{Completion, Disk, DiskError, Done};
use crate::journal::{Journal, Progress};
use crate::partition::Partition;
use crate::producers::Verdict;
use crate::{Now, Ticket};
pub use append::Appended;
use ops::{Ops, Pending};
pub use read::{Lookup, Read, ReadToken, ReadUpTo, Served};
pub use recover::Recovery;
pub(crate) use recover::{Calls, open_checkpoints};
pub use transact::ProducerInfo;

/// What the engine tells its owner.
#[derive(Debug)]
pub enum Event {
    /// Every ticket up to this one is on disk.
    Durable(Ticket),
    /// The durable end of a log moved.
    Advanced(LogId),
    /// Batches of a log that [`Engine::watch_sealed`] was called for may be read with [`ReadUpTo::Sealed`].
    Sealed(LogId),
    /// The answer to a [`Read::Pending`].
    ReadDone(ReadToken, Result<Served, LogError>),
    /// The answer to a [`Lookup::Pending`].
    LookupDone(ReadToken, Result<Option<(Offset, i64)>, LogError>),
    /// Appends that were refused as busy may be tried again.
    Room,
    /// The disk became full (`true`), or has room again.
    Full(bool),
    /// Retention moved a log's start.
    StartMoved(LogId, Offset),
    /// The last stable offset of a log may have moved without its durable end.
    StableMoved(LogId),
    /// A log is damaged: what is damaged is never served, and nothing more is appended to it.
    LogFailed(LogId, Corruption),
    /// The journal failed: nothing more is acknowledged; the node must stop (INV-5, rule 19).
    Failed(String),
}

/// A log's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogInfo {
    /// First offset that may be read.
    pub log_start: Offset,
    /// All below is on disk; on a single node, the high watermark.
    pub durable_end: Offset,
    /// All below can be read with [`ReadUpTo::Sealed`]: it is on its way to the disk.
    pub sealed_end: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// Bytes in segments and in memory beyond them.
    pub size_bytes: u64,
    /// Epoch of the newest batch.
    pub leader_epoch: Option<LeaderEpoch>,
    /// Segment files.
    pub segments: usize,
    /// Damage was found: nothing more is appended, until [`Engine::restart_log_at`].
    pub damaged: bool,
}

/// Counters and gauges, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Frames written.
    pub frames: u64,
    /// Bytes of frames written.
    pub journal_bytes: u64,
    /// Batches appended.
    pub batches: u64,
    /// Bytes of batches appended.
    pub appended_bytes: u64,
    /// Writes to segments.
    pub flushes: u64,
    /// Bytes written to segments.
    pub flushed_bytes: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Compactions completed.
    pub compactions: u64,
    /// Reads served from memory.
    pub hot_reads: u64,
    /// Reads that went to a segment.
    pub cold_reads: u64,
    /// Bytes read from segments.
    pub cold_bytes: u64,
    /// Bytes of segments verified by the scrub.
    pub scrubbed_bytes: u64,
    /// Times that it has been through all of them.
    pub scrub_passes: u64,
    /// Places where it found damage, or what can't be read.
    pub scrub_damage: u64,
    /// Memory of recent batches, bytes.
    pub tail_bytes: u64,
    /// Journal files in use.
    pub journal_files: u64,
    /// Open segment files.
    pub open_files: u64,
    /// Logs.
    pub logs: u64,
    /// Size of the file system, and what was free when it was last asked, bytes; 0 before the first answer.
    pub disk_total_bytes: u64,
    /// See `disk_total_bytes`.
    pub disk_free_bytes: u64,
    /// Open transactions, each counted in every log that it is in, when housekeeping last looked.
    pub open_transactions: u64,
    /// Those of them that nothing was added to for so long that nobody may be left to end them.
    pub late_transactions: u64,
}

/// Memory of one frame, freed when every log's part of it is in segments.
#[derive(Debug)]
struct FrameMemory {
    seq: u64,
    bytes: usize,
    /// Bytes of all frames before it, since the engine was opened.
    before: u64,
    logs: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Engine<D: Disk> {
    disk: D,
    config: EngineConfig,
    directory: Uuid,
    ops: Ops,
    journal: Journal,
    files: Files,
    logs: Slab<Partition>,
    by_id: HashMap<LogId, usize, RandomState>,
    /// The tail's memory, oldest first.
    frames: VecDeque<FrameMemory>,
    tail_bytes: usize,
    /// Bytes of all frames that were ever in the tail, since the engine was opened.
    framed_bytes: u64,
    flushes: flush::Flushes,
    sync: sync::SyncState,
    reads: read::Reads,
    house: housekeeping::House,
    compactions: compact::Compactions,
    rollbacks: rollback::Rollbacks,
    retraces: retrace::Retraces,
    scrub: scrub::Scrub,
    trash: trash::Trash,
    /// Logs whose owner wants to know what is sealed.
    watched: usize,
    /// Files to remove once this frame is durable.
    removals: VecDeque<(u64, crate::segment::SegmentKey)>,
    /// Version of the next segment file.
    next_version: u32,
    events: Vec<Event>,
    busy: bool,
    now: Now,
    stats: EngineStats,
    completions: Vec<Completion>,
}

impl<D: Disk> Engine<D> {
    /// Takes what has completed, starts what may start. Call it after each batch of inputs.
    pub fn turn(&mut self, now: Now) {
        self.now = now;
        let mut batch = std::mem::take(&mut self.completions);
        self.disk.poll(&mut batch);
        for completion in batch.drain(..) {
            self.complete(completion);
        }
        self.completions = batch;
        self.advance();
    }

    /// Starts whatever may start now.
    fn advance(&mut self) {
        self.mark_if_quiet();
        self.commit();
        self.make_room();
        self.start_flushes();
        self.maybe_sync();
        self.stop_if_pinned();
        self.start_reads();
        self.look_up_producers();
        self.retrace();
        self.housekeeping();
        self.compact();
        self.scrub();
        self.empty_trash();
        self.tell_room();
    }

    /// Takes what happened since the last call.
    pub fn events(&mut self) -> std::vec::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// When `turn` should be called again although nothing completes, monotonic nanoseconds: at once after an append that came
    /// since the last one, if the disk is idle.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let mark = self.journal.mark_deadline(self.config.mark_after_ms * 1_000_000);
        let append = self.journal.is_due().then_some(0);
        let own = self.scrub.next_deadline().into_iter().chain(self.trash.next_deadline());
        append.into_iter().chain(mark).chain([self.house.next_ns]).chain(own).min()
    }

    /// A log's bounds.
    #[must_use]
    pub fn info(&self, id: LogId) -> Option<LogInfo> {
        let log = self.logs.get(*self.by_id.get(&id)?)?;
        Some(LogInfo {
            log_start: log.log_start,
            durable_end: log.durable_end,
            sealed_end: log.sealed_end(),
            log_end: log.log_end,
            size_bytes: log.size_bytes(),
            leader_epoch: log.epochs.latest(),
            segments: log.segments.len(),
            damaged: log.corrupt.is_some(),
        })
    }

    /// The largest epoch at or below `epoch` that has records, and where it ends: at the start of the next one that has
    /// (KIP-101), or at the log's end. `None` where nothing that old is known. A leader whose own epoch has no records
    /// yet answers for it with the epoch before and the log's end, which is where its own epoch will begin.
    #[must_use]
    pub fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let log = self.logs.get(*self.by_id.get(&id)?)?;
        log.epochs.end_of(epoch, log.log_end)
    }

    /// The leader epoch of the batch at an offset.
    #[must_use]
    pub fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch> {
        self.logs.get(*self.by_id.get(&id)?)?.epochs.at(offset)
    }

    /// Whether the log has this very batch already, as far as it remembers its producer's last ones: an append of it would be
    /// answered as a duplicate.
    #[must_use]
    pub fn has_batch(&self, id: LogId, batch: &CheckedBatch) -> bool {
        let log = self.by_id.get(&id).and_then(|index| self.logs.get(*index));
        log.is_some_and(|log| matches!(log.producers.check(id, batch.header()), Ok(Verdict::Duplicate(_))))
    }

    /// Whether the log remembers batches of this idempotent producer.
    #[must_use]
    pub fn knows_producer(&self, id: LogId, producer_id: i64) -> bool {
        let log = self.by_id.get(&id).and_then(|index| self.logs.get(*index));
        log.is_some_and(|log| log.producers.knows(producer_id))
    }

    /// The logs that exist, sorted: whatever is done with them is done in the same order every time.
    #[must_use]
    pub fn logs(&self) -> Vec<LogId> {
        let mut logs: Vec<LogId> = self.by_id.keys().copied().collect();
        logs.sort_unstable();
        logs
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            tail_bytes: self.tail_bytes as u64,
            journal_files: self.journal.usage().0 as u64,
            open_files: self.files.len() as u64,
            logs: self.logs.len() as u64,
            ..self.stats
        }
    }

    /// Everything up to this ticket is on disk.
    #[must_use]
    pub fn durable(&self) -> Ticket {
        Ticket(self.journal.durable_seq())
    }

    /// Identity of the data directory.
    #[must_use]
    pub fn directory(&self) -> Uuid {
        self.directory
    }

    /// Counts the starts on this data directory.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.journal.incarnation()
    }

    /// The disk, for its owner (a driver that shares its ring, a test that breaks it).
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back, abandoning everything in flight as a crash would.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Flushes everything, writes a checkpoint and a mark, and waits for all of it. For an orderly stop: the next start
    /// then has nothing to replay.
    ///
    /// # Errors
    /// [`LogError::ReadOnly`] if the journal failed; what was acknowledged is safe all the same.
    pub fn close(&mut self, now: Now) -> Result<(), LogError> {
        self.sync.closing = true;
        loop {
            self.turn(now);
            if let Some(why) = self.journal.failed() {
                return Err(LogError::ReadOnly(why.to_owned()));
            }
            if self.is_settled() || self.sync.cannot {
                return Ok(());
            }
            self.wait_some();
        }
    }

    /// Blocks until something completes, and takes it. For start-up and shutdown; otherwise [`Engine::turn`] is enough.
    pub fn wait_some(&mut self) {
        let mut batch = std::mem::take(&mut self.completions);
        if batch.is_empty() {
            self.disk.wait(&mut batch);
        }
        for completion in batch {
            self.complete(completion);
        }
    }

    fn is_settled(&self) -> bool {
        self.journal.is_idle()
            && self.flushes.settled()
            && self.sync.is_clean()
            && self.removals.is_empty()
            && self.logs.iter().all(|(_, l)| l.unwritten_bytes == 0 || l.corrupt.is_some())
    }

    fn complete(&mut self, Completion { token, result }: Completion) {
        let Some(pending) = self.ops.take(token) else { return };
        match pending {
            Pending::Frame => {
                let progress = self.journal.frame_done(result);
                self.progress(progress);
            }
            Pending::JournalHeader => {
                let progress = self.journal.header_done(result);
                self.progress(progress);
            }
            Pending::JournalCreate { slot } => {
                let progress = self.journal.created(&mut self.disk, &mut self.ops, slot, result);
                self.progress(progress);
            }
            Pending::JournalSyncDir { slot } => {
                let progress = self.journal.dir_synced(slot, result);
                self.progress(progress);
            }
            Pending::JournalZero { slot, upto } => {
                let progress = self.journal.zeroed(slot, upto, result);
                self.progress(progress);
            }
            Pending::Opened { key } => self.file_opened(key, result),
            Pending::Grown { key, len } => self.files.grown(&mut self.disk, key, len, &result),
            Pending::Flush(job) => self.flush_done(&job, result),
            Pending::Sync(job) => self.sync_done(*job, result),
            Pending::SyncDir => self.dir_synced(result),
            Pending::Checkpoint => self.checkpoint_done(result),
            Pending::ReadData { key, position, span } => self.data_read(key, position, &span, result),
            Pending::ReadIndex { key, log, version, position, chunks } => {
                self.index_read(key, log, version, position, chunks, result);
            }
            Pending::CompactRead { key } => self.compact_read(key, result),
            Pending::CompactWrite { key } => self.compact_written(key, &result),
            Pending::ScrubRead { key } => self.scrub_read(key, result),
            Pending::Moved { key } => self.moved(key, &result),
            Pending::Erased => self.erased(&result),
            Pending::Space => self.space_known(&result),
            Pending::Ignore => {}
        }
    }

    fn file_opened(&mut self, key: crate::segment::SegmentKey, result: Result<Done, DiskError>) {
        let Some((error, waiting)) = self.files.opened(&mut self.disk, &mut self.ops, key, result) else { return };
        for token in waiting {
            self.complete(Completion { token, result: Err(error.clone()) });
        }
    }

    /// Durable frames release acknowledgements, in order.
    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::None => {}
            Progress::Durable(seq) => {
                let first = self.frames.partition_point(|f| f.seq < seq);
                let logs = self.frames.get(first).filter(|f| f.seq == seq).map(|f| f.logs.clone()).unwrap_or_default();
                for index in logs {
                    if let Some(log) = self.logs.get_mut(index as usize)
                        && log.durable_to(seq)
                    {
                        self.events.push(Event::Advanced(log.id));
                    }
                    self.queue_flush_if_large(index as usize);
                }
                self.events.push(Event::Durable(Ticket(seq)));
                self.remove_files(seq);
            }
            Progress::Failed(why) => self.events.push(Event::Failed(why)),
        }
    }

    fn remove_files(&mut self, durable: u64) {
        while self.removals.front().is_some_and(|(seq, _)| *seq <= durable) {
            let Some((_, key)) = self.removals.pop_front() else { return };
            self.remove_file(key);
        }
    }

    /// A damaged log is reported once, and closed to appends.
    fn mark_corrupt(&mut self, index: usize, corruption: &Corruption) {
        let Some(log) = self.logs.get_mut(index) else { return };
        if log.corrupt.is_none() {
            log.corrupt = Some(corruption.clone());
            self.events.push(Event::LogFailed(log.id, corruption.clone()));
        }
    }
}
