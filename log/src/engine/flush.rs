//! Moves durable batches from the tail to segments, in large pieces: when a log has enough of them, when memory or the
//! journal needs room, and when the engine closes. The oldest frames go first, so that no cold log pins anything.

use std::collections::VecDeque;

use super::ops::{FlushJob, Pending};
use super::{Engine, Event};
use crate::config::{EngineConfig, MAX_CHUNK_BATCHES, MAX_FLUSH_BYTES_IN_FLIGHT, MAX_FLUSHES_IN_FLIGHT};
use crate::error::Corruption;
use crate::files::Access;
use crate::io::{AlignedBuf, BLOCK, BufPools, Disk, DiskError, Done, round_up};
use crate::partition::{FlushState, Partition, TailBatch};
use crate::segment::chunk::{self, ChunkRef};
use crate::segment::{Segment, SegmentKey};

/// Buffers for writes are pooled from this size on.
const SMALLEST_BUFFER: usize = 16 << 10;

/// Writes to segments: which logs wait for theirs, and what is in flight.
#[derive(Debug)]
pub(super) struct Flushes {
    queue: VecDeque<usize>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Frames up to here have been asked to be flushed.
    requested: u64,
    pools: BufPools,
}

impl Flushes {
    pub(super) fn new(config: &EngineConfig) -> Self {
        // Chunks add their headers, and what is left of their last blocks.
        let largest = round_up(config.flush_bytes + config.flush_bytes / 8 + 4 * BLOCK);
        Self {
            queue: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            requested: 0,
            pools: BufPools::halving(largest, SMALLEST_BUFFER, MAX_FLUSH_BYTES_IN_FLIGHT),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// No log waits, nothing is in flight.
    pub(super) fn settled(&self) -> bool {
        self.in_flight == 0 && self.queue.is_empty()
    }

    /// The log is gone.
    pub(super) fn forget(&mut self, log: usize) {
        self.queue.retain(|index| *index != log);
    }

    pub(super) fn release_unused(&self) {
        self.pools.release_unused();
    }

    fn may_start(&self) -> bool {
        self.in_flight < MAX_FLUSHES_IN_FLIGHT && self.in_flight_bytes < MAX_FLUSH_BYTES_IN_FLIGHT
    }
}

/// What one write to a segment holds.
struct Plan {
    /// Batches per chunk.
    chunks: Vec<usize>,
    batches: usize,
    batch_bytes: usize,
    file_bytes: usize,
}

impl<D: Disk> Engine<D> {
    pub(super) fn queue_flush_if_large(&mut self, index: usize) {
        let large = self.config.flush_bytes;
        if self.logs.get(index).is_some_and(|l| l.unwritten_bytes >= large) {
            self.queue_flush(index);
        }
    }

    pub(super) fn queue_flush(&mut self, index: usize) {
        if let Some(log) = self.logs.get_mut(index)
            && log.flush == FlushState::Idle
            && log.unwritten_bytes > 0
        {
            log.flush = FlushState::Queued;
            self.flushes.queue.push_back(index);
        }
    }

    /// Frees the oldest frames of the tail, and asks for the flushes that the next ones need.
    pub(super) fn make_room(&mut self) {
        self.free_frames();
        self.request_flushes();
    }

    fn free_frames(&mut self) {
        let keep = self.config.tail_bytes / 8 * 7;
        while self.tail_bytes > keep {
            let Some(front) = self.frames.front_mut() else { return };
            let seq = front.seq;
            let mut pinned = std::mem::take(&mut front.logs);
            pinned.retain(|index| {
                self.logs.get_mut(*index as usize).is_some_and(|log| {
                    log.evict_to(seq);
                    log.pins(seq)
                })
            });
            if !pinned.is_empty() {
                front.logs.clone_from(&pinned);
                for index in pinned {
                    self.queue_flush(index as usize);
                }
                return;
            }
            self.tail_bytes -= front.bytes;
            self.frames.pop_front();
        }
    }

    /// Which frames must be written out by now: those beyond half of the tail's memory, and those in the older half of
    /// the journal.
    fn request_flushes(&mut self) {
        let everything = self.sync.closing || self.is_quiet();
        let tail_to = self.framed_bytes.saturating_sub(self.config.tail_bytes as u64 / 8 * 5);
        let (used, max) = self.journal.usage();
        let journal_to =
            if used * 2 >= max || self.journal.stalled() { self.journal.old_half().unwrap_or(0) } else { 0 };
        // There may be a hundred thousand frames, and this is asked at every turn: only those that are new to it count.
        let first = self.frames.partition_point(|frame| frame.seq <= self.flushes.requested);
        let mut wanted: Vec<u32> = Vec::new();
        let mut upto = self.flushes.requested;
        for frame in self.frames.range(first..) {
            let covered = frame.before < tail_to || frame.seq <= journal_to || everything;
            if !covered || frame.seq > self.journal.durable_seq() {
                break;
            }
            // Most logs have written what they had in so old a frame; what came after it may wait and go in one piece.
            let late = |index: &&u32| self.logs.get(**index as usize).is_some_and(|log| log.owes(frame.seq));
            wanted.extend(frame.logs.iter().filter(late));
            upto = frame.seq;
        }
        self.flushes.requested = upto;
        for index in wanted {
            self.queue_flush(index as usize);
        }
    }

    pub(super) fn start_flushes(&mut self) {
        while self.flushes.may_start() && !self.house.flush_blocked {
            let Some(index) = self.flushes.queue.pop_front() else { return };
            self.start_flush(index);
        }
    }

    fn start_flush(&mut self, index: usize) {
        let now_ms = self.now.wall_ms;
        let Some(log) = self.logs.get_mut(index) else { return };
        log.flush = FlushState::Idle;
        let piece = if self.journal.is_busy() { self.config.flush_bytes } else { self.config.chunk_bytes };
        let plan = plan(log, self.config.chunk_bytes, piece);
        if plan.batches == 0 {
            return;
        }
        roll_if_due(log, now_ms, &mut self.next_version);
        let Some(segment) = log.segments.last() else { return };
        let (key, offset) = (segment.key(log.id), segment.bytes);
        let mut buf = self.flushes.pools.take(plan.file_bytes);
        let Some(chunks) = write_chunks(&mut buf, log, &plan, offset) else { return };
        let Some(last) = log.flushable().nth(plan.batches - 1) else { return };
        let job = FlushJob {
            log: index,
            born: log.born,
            version: log.version,
            key,
            end: last.header.next_offset(),
            lsn: last.lsn,
            batch_bytes: plan.batch_bytes,
            file_bytes: plan.file_bytes,
            file_end: offset + plan.file_bytes as u64,
            chunks,
        };
        log.flush = FlushState::Writing;
        self.flushes.in_flight += 1;
        self.flushes.in_flight_bytes += plan.file_bytes;
        let token = self.ops.add(Pending::Flush(Box::new(job)));
        let data = buf.freeze(plan.file_bytes);
        self.files.submit(&mut self.disk, &mut self.ops, key, true, token, Access::Write { offset, data });
    }

    pub(super) fn flush_done(&mut self, job: &FlushJob, result: Result<Done, DiskError>) {
        self.flushes.in_flight -= 1;
        self.flushes.in_flight_bytes -= job.file_bytes;
        self.files.released(&mut self.disk, &mut self.ops, job.key);
        let current = self.logs.get_mut(job.log).filter(|l| l.id == job.key.log && l.born == job.born);
        let Some(log) = current else { return };
        log.flush = FlushState::Idle;
        match result {
            // The file's name exists from now on, not earlier: a directory sync that is under way may miss it.
            Ok(_) => self.sync.dir_dirty |= job.chunks.first().is_some_and(|c| c.position == 0),
            Err(DiskError::Full { .. }) => return self.flush_found_no_room(),
            Err(error) => {
                log.flush = FlushState::Failed;
                return self.flush_failed(job.log, job.key, &error);
            }
        }
        if log.version != job.version {
            // The log was truncated meanwhile: what was written is void, and the next chunk goes behind it.
            if let Some(segment) = log.segments.iter_mut().find(|s| s.version == job.key.version) {
                segment.bytes = segment.bytes.max(job.file_end);
                segment.chunks = None;
            }
            log.dirty = true;
            self.files.mark_dirty(job.key);
            self.queue_flush(job.log);
            return;
        }
        log.add_chunks(job.key.version, job.file_end, &job.chunks);
        log.flushed(job.end, job.lsn, job.batch_bytes);
        let more = log
            .flushable()
            .next()
            .is_some_and(|b| log.unwritten_bytes >= self.config.flush_bytes || b.lsn.frame() <= self.flushes.requested);
        self.files.mark_dirty(job.key);
        self.stats.flushes += 1;
        self.stats.flushed_bytes += job.batch_bytes as u64;
        if more || self.sync.closing {
            self.queue_flush(job.log);
        }
    }

    /// Nothing is broken: the batches stay in the journal and in memory until there is room.
    fn flush_found_no_room(&mut self) {
        self.house.flush_blocked = true;
        self.flushes.requested = 0;
        self.sync.cannot = self.sync.closing;
        if !self.house.full {
            self.house.full = true;
            self.events.push(Event::Full(true));
        }
    }

    fn flush_failed(&mut self, index: usize, key: SegmentKey, error: &DiskError) {
        let corruption = Corruption {
            log: Some(key.log),
            path: key.path().display().to_string(),
            position: 0,
            what: format!("write failed, the log is read-only: {error}"),
        };
        self.mark_corrupt(index, &corruption);
    }
}

fn plan(log: &Partition, chunk_bytes: usize, flush_bytes: usize) -> Plan {
    let mut plan = Plan { chunks: Vec::new(), batches: 0, batch_bytes: 0, file_bytes: 0 };
    let (mut count, mut bytes) = (0, 0);
    for batch in log.flushable() {
        if plan.batch_bytes > 0 && plan.batch_bytes + batch.bytes.len() > flush_bytes {
            break;
        }
        let full = bytes + batch.bytes.len() > chunk_bytes || count >= MAX_CHUNK_BATCHES;
        if count > 0 && full {
            plan.chunks.push(count);
            plan.file_bytes += chunk::space_for(bytes);
            (count, bytes) = (0, 0);
        }
        count += 1;
        bytes += batch.bytes.len();
        plan.batches += 1;
        plan.batch_bytes += batch.bytes.len();
    }
    if count > 0 {
        plan.chunks.push(count);
        plan.file_bytes += chunk::space_for(bytes);
    }
    plan
}

fn write_chunks(buf: &mut AlignedBuf, log: &Partition, plan: &Plan, offset: u64) -> Option<Vec<ChunkRef>> {
    let mut refs = Vec::with_capacity(plan.chunks.len());
    let mut batches = log.flushable();
    let mut at = 0;
    // A chunk begins where the segment ends, also where a gap follows: it must cut all that a truncation left behind.
    let mut base = log.written_end;
    for count in &plan.chunks {
        let part: Vec<&TailBatch> = batches.by_ref().take(*count).collect();
        let (next, mut reference) = chunk::write(buf, at, log.id, base, part.iter().map(|b| (&b.header, &b.bytes)))?;
        reference.position += offset;
        refs.push(reference);
        at = next;
        base = reference.next;
    }
    Some(refs)
}

fn roll_if_due(log: &mut Partition, now_ms: i64, next_version: &mut u32) {
    let due = log.segments.last().is_none_or(|s| {
        s.missing
            || s.bytes >= log.config.segment_bytes
            || (s.bytes > 0 && now_ms.saturating_sub(s.created_ms) >= log.config.segment_ms)
    });
    if due {
        let (base, open_from) = (log.written_end, log.stable_end(log.written_end));
        log.segments.push(Segment::new(base, open_from, *next_version, now_ms));
        *next_version += 1;
    }
}
