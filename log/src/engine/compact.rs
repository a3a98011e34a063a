//! Compaction: of each key only the newest record stays. Closed segments are read twice (which offset is the newest of
//! each key; then what to keep), rewritten into new ones, and replaced by them at the next checkpoint.
//!
//! ```text
//! Index -> Rewrite (read a window, write what stays) -> swap -> checkpoint -> old files go
//! ```
//! Of transactions: nothing at or above the last stable offset is touched (rule 24). What was aborted goes, and its keys
//! count for nothing. A marker stays while data of its transaction does, and for as long as a tombstone would after that
//! data is gone from disk for good.
//!
//! One log at a time, one window per turn, so that appends and reads go on. The active segment is never touched. A crash
//! before the checkpoint leaves the old segments in force; what was written is removed as an orphan.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use wherry_wire::batch::BatchHeader;
use wherry_wire::records::EndMarker;
use wherry_wire::types::{LogId, Offset};

use super::Engine;
use super::ops::Pending;
use crate::compacted::{self, Keep};
use crate::error::Corruption;
use crate::files::Access;
use crate::io::{AlignedBuf, Disk, DiskError, Done, round_up};
use crate::partition::Partition;
use crate::segment::chunk::{self, ChunkRef};
use crate::segment::{Segment, SegmentKey, StoredBatch};

/// Keys that one compaction tells apart; a log with more is compacted in several passes. About 40 bytes of memory each.
const MAX_KEYS: usize = 1 << 20;

/// A segment that is being compacted.
#[derive(Debug, Clone, Copy)]
struct Source {
    key: SegmentKey,
    bytes: u64,
    end: Offset,
    created_ms: i64,
    open_from: Offset,
    /// What was aborted in it is gone, and can't come back after a crash.
    is_clean: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Index,
    Rewrite,
}

#[derive(Debug)]
struct Job {
    log: usize,
    id: LogId,
    version: u64,
    sources: Vec<Source>,
    phase: Phase,
    source: usize,
    position: u64,
    /// Bytes to read next: grows where a chunk is larger than usual.
    want: usize,
    newest: HashMap<(u64, u64), i64, foldhash::fast::RandomState>,
    hashers: (RandomState, RandomState),
    /// Keys are known up to here; records beyond are kept as they are.
    covered: Offset,
    /// Batches that stay and are not written yet.
    pending: Vec<StoredBatch>,
    pending_bytes: usize,
    outputs: Vec<Segment>,
    /// Producers of whose transactions something stays, until their markers come.
    transactional: HashSet<i64, foldhash::fast::RandomState>,
    /// Markers that go, ascending.
    markers: Vec<Offset>,
}

/// The compaction under way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Compactions {
    job: Option<Job>,
    waiting: bool,
    /// Files that were replaced, and the number of the checkpoint that no longer names them.
    replaced: Vec<(u64, SegmentKey)>,
}

impl Job {
    fn key_of(&self, key: &[u8]) -> (u64, u64) {
        // Two keyed hashes: nobody outside can make two keys meet, and by chance they never do.
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    fn current(&self) -> Option<Source> {
        self.sources.get(self.source).copied()
    }
}

impl<D: Disk> Engine<D> {
    /// Housekeeping: begins a compaction where enough has changed.
    pub(super) fn look_for_compaction(&mut self) {
        if self.compactions.job.is_some() {
            return;
        }
        let now_ms = self.now.wall_ms;
        let due = self.logs.iter().find_map(|(index, log)| Some((index, sources(log, now_ms)?)));
        let Some((index, sources)) = due else { return };
        let Some(log) = self.logs.get(index) else { return };
        // Only a chunk list knows what a truncation cut off: it is read first where it is not in memory.
        let unread =
            sources.iter().find(|s| log.segments.iter().any(|l| l.version == s.key.version && l.chunks.is_none()));
        if let Some(source) = unread {
            let (key, version) = (source.key, log.version);
            return self.read_index(key, index, version, 0, Vec::new());
        }
        self.compactions.job = Some(Job {
            log: index,
            id: log.id,
            version: log.version,
            covered: sources.last().map_or(Offset::ZERO, |s| s.end),
            sources,
            phase: Phase::Index,
            source: 0,
            position: 0,
            want: self.config.read_bytes,
            newest: HashMap::default(),
            hashers: (RandomState::new(), RandomState::new()),
            pending: Vec::new(),
            pending_bytes: 0,
            outputs: Vec::new(),
            transactional: HashSet::default(),
            markers: Vec::new(),
        });
    }

    /// The next window, if none is on its way.
    pub(super) fn compact(&mut self) {
        if self.compactions.waiting || self.house.full || self.journal.failed().is_some() {
            return;
        }
        let Some(job) = &self.compactions.job else { return };
        if !self.is_current(job) {
            return self.abandon_compaction();
        }
        let Some(source) = job.current() else { return self.end_phase() };
        let rest = usize::try_from(source.bytes - job.position).unwrap_or(usize::MAX);
        let (offset, len) = (job.position, round_up(job.want.min(rest)));
        self.compactions.waiting = true;
        let token = self.ops.add(Pending::CompactRead { key: source.key });
        self.files.submit(&mut self.disk, &mut self.ops, source.key, false, token, Access::Read { offset, len });
    }

    pub(super) fn compact_read(&mut self, key: SegmentKey, result: Result<Done, DiskError>) {
        self.compactions.waiting = false;
        self.files.released(&mut self.disk, &mut self.ops, key);
        let Some(mut job) = self.compactions.job.take() else { return };
        let Ok(Done::Read(data)) = result else {
            // Retention may have removed the file; anything else will show when it is read again.
            self.compactions.job = Some(job);
            return self.abandon_compaction();
        };
        if !self.is_current(&job) {
            self.compactions.job = Some(job);
            return self.abandon_compaction();
        }
        match self.take_window(&mut job, &data) {
            Ok(()) => {
                self.compactions.job = Some(job);
                self.write_pending(false);
            }
            Err((position, what)) => {
                let path = key.path().display().to_string();
                let (log, id) = (job.log, job.id);
                self.compactions.job = Some(job);
                self.abandon_compaction();
                self.mark_corrupt(log, &Corruption { log: Some(id), path, position, what });
            }
        }
    }

    fn is_current(&self, job: &Job) -> bool {
        self.logs.get(job.log).is_some_and(|l| l.id == job.id && l.version == job.version && l.corrupt.is_none())
    }

    /// Works through the whole chunks of a window.
    fn take_window(&mut self, job: &mut Job, data: &Bytes) -> Result<(), (u64, String)> {
        let Some(source) = job.current() else { return Ok(()) };
        let start = job.position;
        while job.position < source.bytes {
            let at = usize::try_from(job.position - start).unwrap_or(usize::MAX);
            let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) else { break };
            let found = chunk::read_header(rest, job.id, job.position)
                .ok_or_else(|| (job.position, "not an intact chunk header of this log".to_owned()))?;
            if found.file_len() > rest.len() {
                if at == 0 {
                    job.want = found.file_len();
                }
                break;
            }
            let (_, batches) = chunk::verify(&data.slice(at..at + found.file_len()), job.id, job.position)
                .map_err(|(inside, what)| (job.position + inside, what))?;
            // A later chunk, or the segment's end, may have cut this one.
            let end = self.chunk_end(job, &source, &found);
            for batch in batches.into_iter().filter(|b| b.header.next_offset() <= end) {
                self.take_batch(job, &source, &batch).map_err(|what| (job.position, what))?;
            }
            job.position += found.file_len() as u64;
            job.want = self.config.read_bytes;
        }
        if job.position >= source.bytes {
            job.source += 1;
            job.position = 0;
        }
        Ok(())
    }

    fn chunk_end(&self, job: &Job, source: &Source, found: &ChunkRef) -> Offset {
        let segment = self.logs.get(job.log).and_then(|l| l.segments.iter().find(|s| s.version == source.key.version));
        let listed =
            segment.and_then(|s| s.chunks.as_ref()).and_then(|l| l.iter().find(|c| c.position == found.position));
        listed.map_or(Offset(i64::MIN), |c| c.next).min(source.end)
    }

    fn is_aborted(&self, job: &Job, header: &BatchHeader) -> bool {
        let transactions = self.logs.get(job.log).and_then(|log| log.transactions.as_ref());
        let data = header.is_transactional() && !header.is_control();
        data && transactions.is_some_and(|t| t.is_aborted(header.producer_id, header.base_offset))
    }

    /// Whether a control batch has to stay.
    fn keeps_marker(&self, job: &mut Job, source: &Source, batch: &StoredBatch) -> bool {
        let needed = job.transactional.remove(&batch.header.producer_id);
        let delete_ms = self.logs.get(job.log).map_or(i64::MAX, |log| log.config.delete_retention_ms);
        let late = self.now.wall_ms.saturating_sub(batch.header.max_timestamp) > delete_ms;
        let known = EndMarker::read(&batch.header, &batch.bytes).is_some();
        needed || !late || !known || !source.is_clean
    }

    fn take_batch(&self, job: &mut Job, source: &Source, batch: &StoredBatch) -> Result<(), String> {
        match job.phase {
            Phase::Index => {
                if self.is_aborted(job, &batch.header) {
                    return Ok(());
                }
                if batch.header.base_offset >= job.covered {
                    return Ok(());
                }
                if job.newest.len() >= MAX_KEYS {
                    job.covered = batch.header.base_offset;
                    return Ok(());
                }
                compacted::keys(batch, |key, offset| {
                    let key = job.key_of(key);
                    job.newest.insert(key, offset.0);
                })
            }
            Phase::Rewrite => {
                let delete_ms = self.logs.get(job.log).map_or(i64::MAX, |l| l.config.delete_retention_ms);
                let tombstones_go = self.now.wall_ms.saturating_sub(source.created_ms) > delete_ms;
                let last = batch.header.next_offset() >= job.sources.last().map_or(Offset::ZERO, |s| s.end);
                if batch.header.is_control() && !self.keeps_marker(job, source, batch) && !last {
                    job.markers.push(batch.header.base_offset);
                    return Ok(());
                }
                let aborted = self.is_aborted(job, &batch.header);
                let keep = |key: Option<&[u8]>, tombstone: bool, offset: Offset| {
                    if aborted {
                        return Keep::No;
                    }
                    let Some(key) = key.filter(|_| offset < job.covered) else { return Keep::Yes };
                    match job.newest.get(&job.key_of(key)) {
                        Some(newest) if *newest != offset.0 => Keep::No,
                        Some(_) | None if tombstone && tombstones_go => Keep::No,
                        Some(_) | None => Keep::Yes,
                    }
                };
                if let Some(kept) = compacted::rewrite(batch, last, keep)? {
                    if kept.header.is_transactional() && !kept.header.is_control() {
                        job.transactional.insert(kept.header.producer_id);
                    }
                    job.pending_bytes += kept.bytes.len();
                    job.pending.push(kept);
                }
                Ok(())
            }
        }
    }

    fn end_phase(&mut self) {
        let Some(job) = &mut self.compactions.job else { return };
        match job.phase {
            Phase::Index => {
                job.phase = Phase::Rewrite;
                (job.source, job.position) = (0, 0);
            }
            Phase::Rewrite if job.pending.is_empty() => self.swap_compacted(),
            Phase::Rewrite => self.write_pending(true),
        }
    }

    /// Writes one chunk of what stays, when there is enough for one.
    fn write_pending(&mut self, all: bool) {
        let next_version = &mut self.next_version;
        let Some(job) = &mut self.compactions.job else { return };
        if job.pending.is_empty() || (!all && job.pending_bytes < self.config.chunk_bytes) {
            return;
        }
        let limit = self.logs.get(job.log).map_or(u64::MAX, |l| l.config.segment_bytes);
        let created_ms = job.sources.iter().map(|s| s.created_ms).max().unwrap_or(0);
        if job.outputs.last().is_none_or(|s| s.bytes >= limit) {
            let base = match (job.outputs.is_empty(), job.sources.first(), job.pending.first()) {
                (true, Some(first), _) => first.key.base,
                (_, _, Some(batch)) => batch.header.base_offset,
                (_, _, None) => return,
            };
            // Whatever was open there was so where its source begins, or began later.
            let source = job.sources.iter().rev().find(|source| source.key.base <= base);
            let open_from = source.map_or(base, |source| source.open_from.min(base));
            let mut output = Segment::new(base, open_from, *next_version, created_ms);
            output.compacted = true;
            job.outputs.push(output);
            *next_version += 1;
        }
        let len = chunk::space_for(job.pending_bytes);
        let mut buf = AlignedBuf::zeroed(len);
        let Some(base) = job.pending.first().map(|b| b.header.base_offset) else { return };
        let batches = job.pending.iter().map(|b| (&b.header, &b.bytes));
        let (Some(output), Some((_, mut reference))) =
            (job.outputs.last_mut(), chunk::write(&mut buf, 0, job.id, base, batches))
        else {
            return;
        };
        let (key, offset) = (output.key(job.id), output.bytes);
        reference.position = offset;
        output.bytes += len as u64;
        output.end = reference.next;
        output.max_timestamp = output.max_timestamp.max(reference.max_timestamp);
        output.chunks.get_or_insert_default().push(reference);
        job.pending.clear();
        job.pending_bytes = 0;
        self.compactions.waiting = true;
        let token = self.ops.add(Pending::CompactWrite { key });
        let data = buf.freeze(len);
        self.files.submit(&mut self.disk, &mut self.ops, key, true, token, Access::Write { offset, data });
    }

    pub(super) fn compact_written(&mut self, key: SegmentKey, result: &Result<Done, DiskError>) {
        self.compactions.waiting = false;
        self.files.released(&mut self.disk, &mut self.ops, key);
        self.sync.dir_dirty = true;
        if result.is_ok() {
            self.files.mark_dirty(key);
        } else {
            // The sources are whole: nothing is lost, and a later round tries again.
            self.abandon_compaction();
        }
    }

    /// The new segments take the place of the old ones.
    fn swap_compacted(&mut self) {
        let Some(job) = self.compactions.job.take() else { return };
        let present = |log: &Partition| {
            let first =
                log.segments.iter().position(|s| job.sources.first().is_some_and(|f| f.key.version == s.version))?;
            let same = log.segments.iter().skip(first).zip(&job.sources).all(|(s, f)| s.version == f.key.version);
            (same && first + job.sources.len() < log.segments.len()).then_some(first)
        };
        let Some((log, first)) = self.logs.get_mut(job.log).and_then(|l| present(l).map(|first| (l, first))) else {
            self.compactions.job = Some(job);
            return self.abandon_compaction();
        };
        let end = job.sources.last().map_or(Offset::ZERO, |s| s.end);
        let mut outputs = job.outputs;
        if let Some(last) = outputs.last_mut() {
            // Offsets that were compacted away still belong to it.
            last.end = end;
        }
        log.segments.splice(first..first + job.sources.len(), outputs);
        log.dirty = true;
        if let Some(transactions) = &mut log.transactions {
            transactions.compacted_away(&job.markers);
        }
        self.sync.changed = true;
        self.stats.compactions += 1;
        let from = self.sync.next_capture();
        self.compactions.replaced.extend(job.sources.iter().map(|s| (from, s.key)));
    }

    /// A checkpoint that names the new segments is on disk: the old files go.
    pub(super) fn remove_replaced(&mut self, number: u64) {
        let done = self.compactions.replaced.extract_if(.., |(from, _)| *from <= number).collect::<Vec<_>>();
        for (_, key) in done {
            self.remove_file(key);
        }
    }

    fn abandon_compaction(&mut self) {
        let Some(job) = self.compactions.job.take() else { return };
        for output in &job.outputs {
            self.remove_file(output.key(job.id));
        }
    }
}

/// The closed segments of a log whose compaction is due.
fn sources(log: &Partition, now_ms: i64) -> Option<Vec<Source>> {
    if !log.config.cleanup.compacts() || log.corrupt.is_some() {
        return None;
    }
    let closed = log.segments.len().checked_sub(1)?;
    let lag = log.config.min_compaction_lag_ms;
    let old = |s: &&Segment| lag <= 0 || now_ms.saturating_sub(s.max_timestamp) >= lag;
    let bound = log.stable_end(log.settled_end.min(log.written_end));
    let ready: Vec<&Segment> =
        log.segments.iter().take(closed).take_while(|s| s.end <= bound).take_while(old).collect();
    let total: u64 = ready.iter().map(|s| s.bytes).sum();
    let fresh: u64 = ready.iter().filter(|s| !s.compacted).map(|s| s.bytes).sum();
    let share = u64::from(log.config.min_cleanable_permille);
    if fresh == 0 || fresh.saturating_mul(1000) < total.saturating_mul(share) || ready.iter().any(|s| s.missing) {
        return None;
    }
    let on_disk = |s: &Segment| log.stable.segments.iter().any(|stable| stable.version == s.version);
    let source = |s: &&Segment| Source {
        key: s.key(log.id),
        bytes: s.bytes,
        end: s.end,
        created_ms: s.created_ms,
        open_from: s.open_from,
        is_clean: s.compacted && on_disk(s),
    };
    Some(ready.iter().filter(|s| s.bytes > 0).map(source).collect())
}
