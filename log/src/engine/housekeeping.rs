//! What is looked at every few seconds: free space, retention, idle producers, and whether a checkpoint is due.

use wherry_wire::types::Offset;

use super::ops::Pending;
use super::{Engine, Event};
use crate::config::LATE_TRANSACTION_MS;
use crate::io::{BLOCK, Disk, DiskError, Done, Op};
use crate::partition::Partition;
use crate::segment::Segment;

/// Free space is not asked for more often than this, in bytes taken.
const LOOK_BYTES: u64 = 1 << 20;
/// Chunks take at most one part in so many more than the batches in them.
const CHUNK_OVERHEAD: u64 = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct House {
    /// Monotonic time of the next round, nanoseconds.
    pub(super) next_ns: u64,
    /// Appends are refused: less than the reserve is free (rule 6).
    pub(super) full: bool,
    /// A flush found no room: the next waits for the next look at the disk.
    pub(super) flush_blocked: bool,
    asking: bool,
    /// Bytes that may be taken before the next look at free space, counted from `taken_at_look`.
    budget: Option<u64>,
    taken_at_look: u64,
    /// Nothing was appended for a whole round.
    quiet: bool,
    appended: u64,
}

impl<D: Disk> Engine<D> {
    pub(super) fn housekeeping(&mut self) {
        if self.now.monotonic_ns < self.house.next_ns {
            return;
        }
        self.house.next_ns = self.now.monotonic_ns + self.config.housekeeping_ms * 1_000_000;
        self.look_at_space();
        self.house.quiet = self.stats.batches == self.house.appended;
        self.house.appended = self.stats.batches;
        self.sync.due = true;
        self.flushes.release_unused();
        self.journal.release_unused();
        self.journal.retry();
        if self.journal.failed().is_none() {
            self.apply_retention();
            self.expire_producers();
            self.look_for_compaction();
        }
    }

    /// Nothing was appended for a while: the tail is written out, so that a restart has little to replay. The first
    /// append ends it at once, or else each commit of a new load would be flushed by itself.
    pub(super) fn is_quiet(&self) -> bool {
        self.house.quiet && self.stats.batches == self.house.appended
    }

    /// Whether appends have used up what the last look at free space left for them.
    pub(super) fn room_unknown(&self) -> bool {
        self.house.budget.is_some_and(|budget| self.taken_since_look() > budget)
    }

    /// Others may take space too: what is free is asked for again well before the reserve could be used up unseen.
    pub(super) fn look_while_growing(&mut self) {
        let Some(budget) = self.house.budget else { return };
        if self.taken_since_look() > budget.min((self.config.reserve_bytes / 4).max(LOOK_BYTES)) {
            self.look_at_space();
        }
    }

    /// Space that appends, the journal's files and what segments take ahead need, from when the engine was opened. What
    /// was taken ahead counts again when it is filled; the next look at the disk puts that right.
    fn taken_bytes(&self) -> u64 {
        with_chunks(self.stats.appended_bytes) + self.journal.made_bytes() + self.files.taken_ahead()
    }

    fn taken_since_look(&self) -> u64 {
        self.taken_bytes() - self.house.taken_at_look
    }

    /// Whether what is free, when last looked at, is little more than the reserve.
    pub(super) fn room_is_short(&self) -> bool {
        self.stats.disk_free_bytes < 2 * self.config.reserve_bytes
    }

    /// Asks the file system now rather than at the next round.
    pub(super) fn look_at_space(&mut self) {
        if !self.house.asking {
            self.house.asking = true;
            self.disk.submit(self.ops.add(Pending::Space), Op::FreeSpace);
        }
    }

    pub(super) fn space_known(&mut self, result: &Result<Done, DiskError>) {
        self.house.asking = false;
        let Ok(Done::Space { free, total }) = *result else { return };
        (self.stats.disk_free_bytes, self.stats.disk_total_bytes) = (free, total);
        let reserve = self.config.reserve_bytes;
        // What is in memory and the journal only will need room as well, and so does what is left of the journal's files.
        let unwritten = self.logs.iter().map(|(_, log)| log.unwritten_bytes as u64).filter(|bytes| *bytes > 0);
        let unwritten: u64 = unwritten.map(|bytes| with_chunks(bytes) + 2 * BLOCK as u64).sum();
        let free = free.saturating_sub(unwritten + self.journal.unzeroed_bytes());
        let budget = free.saturating_sub(reserve);
        self.house.budget = Some(budget);
        self.house.taken_at_look = self.taken_bytes();
        self.journal.may_make(budget / 2 / self.config.journal_file_bytes);
        self.files.may_take(budget / 4);
        self.house.flush_blocked = free < reserve / 8;
        let full = if self.house.full { free < reserve + reserve / 4 } else { free < reserve };
        if full != self.house.full {
            self.house.full = full;
            self.events.push(Event::Full(full));
        }
    }

    fn apply_retention(&mut self) {
        let now_ms = self.now.wall_ms;
        let old: Vec<usize> = self.logs.iter().filter(|(_, l)| expired_in_memory(l, now_ms)).map(|(i, _)| i).collect();
        for index in old {
            self.queue_flush(index);
        }
        let next_version = &mut self.next_version;
        let moves: Vec<(usize, Offset)> = self
            .logs
            .iter_mut()
            .filter_map(|(index, log)| Some((index, retained_from(log, now_ms, next_version)?)))
            .collect();
        for (index, start) in moves {
            let Some(id) = self.logs.get(index).map(|l| l.id) else { continue };
            // Refused only where the log changed meanwhile; the next round looks again.
            let _ = self.delete_records(id, start);
        }
    }

    fn expire_producers(&mut self) {
        let before = self.now.wall_ms.saturating_sub(self.config.producer_expiry_ms);
        let (mut open, mut late) = (0, 0);
        let late_since = self.now.wall_ms.saturating_sub(LATE_TRANSACTION_MS);
        for (_, log) in &mut self.logs {
            if let Some(transactions) = &log.transactions {
                open += transactions.open_count() as u64;
                late += transactions.late_count(late_since) as u64;
            }
            if !log.producers.is_empty() {
                let transactions = log.transactions.as_deref();
                log.producers.expire(before, |id| transactions.is_some_and(|t| t.has_open(id)));
            }
            if let Some(transactions) = &mut log.transactions {
                transactions.expire(before);
            }
            if log.transactions.as_ref().is_some_and(|transactions| transactions.is_idle(log.log_start)) {
                log.transactions = None;
            }
        }
        (self.stats.open_transactions, self.stats.late_transactions) = (open, late);
        self.resume_rollbacks();
        self.resume_retraces();
    }
}

/// Space that so many bytes of batches take in chunks at the most, beside a block or two for a small one.
fn with_chunks(bytes: u64) -> u64 {
    bytes + bytes / CHUNK_OVERHEAD
}

/// The new start of a log by its retention, if it moves.
fn retained_from(log: &mut Partition, now_ms: i64, next_version: &mut u32) -> Option<Offset> {
    if !log.config.cleanup.deletes() || log.segments.is_empty() {
        return None;
    }
    roll_expired(log, now_ms, next_version);
    let mut size = log.size_bytes();
    let mut start = None;
    for segment in log.segments.iter().take(log.segments.len() - 1) {
        let too_large = u64::try_from(log.config.retention_bytes).is_ok_and(|max| size - segment.bytes >= max);
        if !(too_large || expired(log, segment, now_ms)) || segment.end > log.settled_end {
            break;
        }
        size -= segment.bytes;
        start = Some(segment.end);
    }
    start.filter(|s| *s > log.log_start)
}

fn expired(log: &Partition, segment: &Segment, now_ms: i64) -> bool {
    log.config.retention_ms >= 0
        && segment.max_timestamp != i64::MIN
        && now_ms.saturating_sub(segment.max_timestamp) > log.config.retention_ms
}

/// Records that are too old can go only with their segment: they must get there first.
fn expired_in_memory(log: &Partition, now_ms: i64) -> bool {
    log.unwritten_bytes > 0
        && log.config.cleanup.deletes()
        && log.config.retention_ms >= 0
        && log.tail.back().is_some_and(|b| now_ms.saturating_sub(b.header.max_timestamp) > log.config.retention_ms)
}

/// An active segment whose newest record is too old makes way for an empty one, so that it can go.
fn roll_expired(log: &mut Partition, now_ms: i64, next_version: &mut u32) {
    let old = log.segments.last().is_some_and(|s| s.bytes > 0 && expired(log, s, now_ms));
    if old
        && log.flush == crate::partition::FlushState::Idle
        && log.unwritten_bytes == 0
        && log.written_end == log.log_end
    {
        let (base, open_from) = (log.log_end, log.stable_end(log.log_end));
        log.segments.push(Segment::new(base, open_from, *next_version, now_ms));
        *next_version += 1;
        log.dirty = true;
    }
}
