//! Reads: from the tail at once, from segments after the disk has answered. What comes from a segment is verified before
//! it is served (INV-6, rule 21), and kept in a bounded cache for the readers that follow.
//!
//! ```text
//! read -> in the tail? -> Ready
//!      -> Pending: chunk list known? -> else read it -> chunks cached? -> else read a span -> verify -> serve
//! ```

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use slab::Slab;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::{LogId, Offset};

use super::ops::Pending;
use super::read_ahead::Streams;
use super::{Engine, Event};
use crate::config::{MAX_READS_IN_FLIGHT, MAX_READS_WAITING};
use crate::error::{Corruption, LogError};
use crate::files::Access;
use crate::io::{BLOCK, Disk, DiskError, Done, round_up};
use crate::partition::Partition;
use crate::segment::chunk::{self, ChunkRef};
use crate::segment::{SegmentKey, StoredBatch};
use crate::timestamps::{self, Target};
use crate::transactions::Aborted;

/// Bytes of chunk headers read at once while a segment's chunk list is built.
const INDEX_READ_BYTES: usize = 64 << 10;
/// In place of a chunk's position: the chunk list of the segment.
const INDEX: u64 = u64::MAX;

/// Names a read that waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadToken(pub u64);

/// How far a read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadUpTo {
    /// What lies wholly below an offset, and is sealed: for consumers, the high watermark.
    Offset(Offset),
    /// The same, and with what is read come the aborted transactions that have a part in it: for consumers of committed
    /// records, who may see up to the last stable offset.
    Committed(Offset),
    /// All that is in a frame of the journal, durable or on its way: what a leader may send to its followers while its own
    /// write is under way (rule 8).
    Sealed,
}

impl ReadUpTo {
    fn bound(self, log: &Partition) -> Offset {
        match self {
            Self::Offset(upto) | Self::Committed(upto) => upto.min(log.sealed_end()),
            Self::Sealed => log.sealed_end(),
        }
    }
}

/// Whole batches, verified, all below the bound. The first may begin before the offset asked for.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The batches as they were produced.
    pub batches: Vec<Bytes>,
    /// Offset to go on from.
    pub next: Offset,
    /// Asked for with [`ReadUpTo::Committed`], by their ends.
    pub aborted: Vec<Aborted>,
}

/// Answer to a read.
#[derive(Debug)]
pub enum Read {
    /// Served from memory. Empty at the end of the log, or where the first batch is larger than allowed.
    Ready(Served),
    /// [`Event::ReadDone`] will bring it.
    Pending(ReadToken),
}

/// Answer to a lookup by time: the first record at or after it, and its timestamp.
#[derive(Debug)]
pub enum Lookup {
    /// Found in memory, or known not to exist.
    Ready(Option<(Offset, i64)>),
    /// [`Event::LookupDone`] will bring it.
    Pending(ReadToken),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// Batches from an offset on.
    Batches { from: Offset, upto: ReadUpTo, max_bytes: usize, min_one: bool },
    /// The first record at or after a time, below an offset.
    Time(Target, Offset),
    /// The first record with the largest timestamp below an offset.
    Newest(Newest),
}

/// How far the search for the largest timestamp has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newest {
    upto: Offset,
    best: Option<i64>,
    /// All chunks from this rank on have been looked at.
    done: Option<Rank>,
}

/// Chunks are looked at in this order, the largest first: what the segment's header says, its version, what the chunk's
/// header says, its position. A header may say too much, where records were cut off.
type Rank = (i64, u32, i64, u64);

/// A read that needs the disk.
#[derive(Debug)]
struct Cold {
    log: usize,
    id: LogId,
    want: Want,
    serial: u64,
    /// See [`Streams::begin`].
    earned: Option<usize>,
    /// The engine itself wants to know.
    own: Option<Own>,
}

/// Which part of the engine reads for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    /// See `rollback`.
    Producers,
    /// See `retrace`.
    Transactions,
    /// See `scrub`.
    Scrub,
}

type ChunkKey = (SegmentKey, u64);

/// Reads under way and the chunks they brought.
#[derive(Debug)]
pub(super) struct Reads {
    cold: Slab<Cold>,
    serial: u64,
    /// Reads that can take their next step.
    ready: VecDeque<usize>,
    /// Reads that wait for a chunk that is on its way.
    waiting: HashMap<ChunkKey, Vec<usize>, RandomState>,
    /// Chunks on their way.
    coming: HashSet<ChunkKey, RandomState>,
    pub(super) streams: Streams,
    pub(super) in_flight: usize,
    cache: HashMap<ChunkKey, (Arc<Vec<StoredBatch>>, usize), RandomState>,
    cache_order: VecDeque<ChunkKey>,
    cache_bytes: usize,
    cache_limit: usize,
}

impl Reads {
    pub(super) fn new(cache_limit: usize) -> Self {
        Self {
            cold: Slab::new(),
            serial: 0,
            ready: VecDeque::new(),
            waiting: HashMap::default(),
            coming: HashSet::default(),
            streams: Streams::default(),
            in_flight: 0,
            cache: HashMap::default(),
            cache_order: VecDeque::new(),
            cache_bytes: 0,
            cache_limit,
        }
    }

    fn token(&self, index: usize) -> ReadToken {
        let serial = self.cold.get(index).map_or(0, |c| c.serial);
        ReadToken((serial << 16) | index as u64)
    }

    fn keep(&mut self, key: ChunkKey, batches: Arc<Vec<StoredBatch>>, bytes: usize) {
        if self.cache.insert(key, (batches, bytes)).is_none() {
            self.cache_order.push_back(key);
            self.cache_bytes += bytes;
        }
        while self.cache_bytes > self.cache_limit && self.cache_order.len() > 1 {
            let Some(oldest) = self.cache_order.pop_front() else { return };
            if let Some((_, bytes)) = self.cache.remove(&oldest) {
                self.cache_bytes -= bytes;
            }
        }
    }

    /// Whether that part of the engine reads something.
    pub(super) fn is_read_by(&self, own: Own) -> bool {
        self.cold.iter().any(|(_, cold)| cold.own == Some(own))
    }

    /// Whether a chunk is in the cache or on its way.
    pub(super) fn knows(&self, key: SegmentKey, position: u64) -> bool {
        self.cache.contains_key(&(key, position)) || self.coming.contains(&(key, position))
    }

    /// Who waits for a chunk, or for the chunk list of a segment.
    fn take_waiting(&mut self, key: SegmentKey, position: u64) -> Vec<usize> {
        self.waiting.remove(&(key, position)).unwrap_or_default()
    }

    /// A file is gone or its meaning changed: what was read from it is void.
    pub(super) fn forget_file(&mut self, key: SegmentKey) {
        self.forget(|k| k.0 == key);
    }

    pub(super) fn forget_log(&mut self, id: LogId) {
        self.forget(|k| k.0.log == id);
    }

    fn forget(&mut self, gone: impl Fn(&ChunkKey) -> bool) {
        if self.cache.is_empty() {
            return;
        }
        self.cache.retain(|key, (_, bytes)| {
            let keep = !gone(key);
            if !keep {
                self.cache_bytes -= *bytes;
            }
            keep
        });
        self.cache_order.retain(|key| !gone(key));
    }

    /// Reads of a deleted log end now.
    pub(super) fn log_gone(&mut self, log: usize, id: LogId, error: &LogError, events: &mut Vec<Event>) {
        let gone: Vec<usize> = self.cold.iter().filter(|(_, c)| c.log == log && c.id == id).map(|(i, _)| i).collect();
        for index in gone {
            let token = self.token(index);
            let Cold { want, own, .. } = self.cold.remove(index);
            self.ready.retain(|i| *i != index);
            for list in self.waiting.values_mut() {
                list.retain(|i| *i != index);
            }
            if own.is_none() {
                events.push(failed(token, want, error.clone()));
            }
        }
        self.forget_log(id);
    }
}

fn failed(token: ReadToken, want: Want, error: LogError) -> Event {
    match want {
        Want::Batches { .. } => Event::ReadDone(token, Err(error)),
        Want::Time(..) | Want::Newest(_) => Event::LookupDone(token, Err(error)),
    }
}

/// What the next step of a cold read is.
pub(super) enum Step {
    Serve(Served),
    Found(Option<(Offset, i64)>),
    LoadIndex {
        segment: usize,
    },
    /// Read this span of chunks.
    Load {
        key: SegmentKey,
        span: Vec<ChunkRef>,
    },
    /// Somebody reads that chunk already.
    Join(ChunkKey),
    Fail(LogError),
}

impl<D: Disk> Engine<D> {
    /// Reads whole batches from the one that holds `from` on (or, where a gap is, the next), up to `max_bytes`; with
    /// `min_one` the first is given even if it is larger. A batch that crosses `upto` is left out. Nothing from there to
    /// the log's end is an answer, not an error.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`], [`LogError::Busy`].
    pub fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError> {
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        check_range(log, from)?;
        let bound = upto.bound(log);
        if from >= log.tail_start() || from >= bound {
            self.stats.hot_reads += 1;
            let served = from_tail(log, from, bound, max_bytes, min_one);
            return Ok(Read::Ready(with_aborted(log, upto, served)));
        }
        self.stats.cold_reads += 1;
        self.begin_cold(index, id, Want::Batches { from, upto, max_bytes, min_one }).map(Read::Pending)
    }

    /// Finds the first record whose timestamp is at or after `timestamp_ms`, in the batches wholly below `upto`.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], [`LogError::Busy`].
    pub fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64, upto: Offset) -> Result<Lookup, LogError> {
        self.lookup(id, Target::AtOrAfter(timestamp_ms), upto)
    }

    /// Finds the record with the largest timestamp, in the batches wholly below `upto`.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], [`LogError::Busy`].
    pub fn find_max_timestamp(&mut self, id: LogId, upto: Offset) -> Result<Lookup, LogError> {
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        let mut search = Newest { upto, best: None, done: None };
        match self.newest(log, &mut search) {
            Ok(None) => Ok(Lookup::Ready(None)),
            Ok(Some(at)) => self.lookup(id, Target::AtOrAfter(at), upto),
            Err(_) => self.begin_cold(index, id, Want::Newest(search)).map(Lookup::Pending),
        }
    }

    fn lookup(&mut self, id: LogId, target: Target, upto: Offset) -> Result<Lookup, LogError> {
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        let Target::AtOrAfter(at) = target;
        let before = log.tail_start().min(upto);
        let cold = log.segments.iter().any(|s| s.end > log.log_start && s.base < before && s.max_timestamp >= at);
        if !cold {
            return in_tail(log, target, upto).map(Lookup::Ready);
        }
        self.begin_cold(index, id, Want::Time(target, upto)).map(Lookup::Pending)
    }

    /// A read of the engine's own, which no bound refuses; there is one of each kind at a time, or as many as one window of the
    /// scrub has chunks.
    pub(super) fn begin_own_read(&mut self, log: usize, id: LogId, want: Want, own: Own) {
        self.reads.serial += 1;
        let serial = self.reads.serial;
        let index = self.reads.cold.insert(Cold { log, id, want, serial, earned: None, own: Some(own) });
        self.reads.ready.push_back(index);
    }

    fn begin_cold(&mut self, log: usize, id: LogId, want: Want) -> Result<ReadToken, LogError> {
        if self.reads.cold.len() >= MAX_READS_WAITING {
            return Err(LogError::Busy { waiting: self.reads.cold.len() });
        }
        self.reads.serial += 1;
        let serial = self.reads.serial;
        let earned = match want {
            Want::Batches { from, .. } => self.reads.streams.begin(log, from),
            Want::Time(..) | Want::Newest(_) => None,
        };
        let index = self.reads.cold.insert(Cold { log, id, want, serial, earned, own: None });
        // Taken first: chunks in the cache may answer it at once.
        let token = self.reads.token(index);
        self.reads.ready.push_back(index);
        self.start_reads();
        Ok(token)
    }

    pub(super) fn start_reads(&mut self) {
        while self.reads.in_flight < MAX_READS_IN_FLIGHT {
            let Some(index) = self.reads.ready.pop_front() else { return };
            self.step_read(index);
        }
    }

    fn step_read(&mut self, index: usize) {
        let Some(cold) = self.reads.cold.get(index) else { return };
        let (id, mut want) = (cold.id, cold.want);
        let Some(log) = self.logs.get(cold.log).filter(|l| l.id == id) else { return };
        let (log_index, earned) = (cold.log, cold.earned);
        let step = match &mut want {
            Want::Batches { from, upto, max_bytes, min_one } => {
                match self.step_batches(log, from, *upto, *max_bytes, *min_one) {
                    Step::Serve(served) => Step::Serve(with_aborted(log, *upto, served)),
                    step => step,
                }
            }
            Want::Time(target, upto) => self.step_time(log, *target, *upto),
            Want::Newest(search) => match self.newest(log, search) {
                Ok(None) => Step::Found(None),
                Ok(Some(at)) => {
                    let (target, upto) = (Target::AtOrAfter(at), search.upto);
                    want = Want::Time(target, upto);
                    self.step_time(log, target, upto)
                }
                Err(step) => step,
            },
        };
        if let Some(cold) = self.reads.cold.get_mut(index) {
            cold.want = want;
        }
        match step {
            Step::Serve(served) => {
                let next = served.next;
                self.end_read(index, |token| Event::ReadDone(token, Ok(served)));
                self.read_ahead(log_index, next, earned);
            }
            Step::Found(found) => self.end_read(index, |token| Event::LookupDone(token, Ok(found))),
            Step::Fail(error) => self.end_read(index, |token| failed(token, want, error)),
            Step::Join(key) => self.reads.waiting.entry(key).or_default().push(index),
            Step::LoadIndex { segment } => self.load_index(index, log_index, segment),
            Step::Load { key, span } => {
                if let Some(first) = span.first() {
                    self.reads.waiting.entry((key, first.position)).or_default().push(index);
                }
                self.load_span(key, span);
            }
        }
    }

    fn end_read(&mut self, index: usize, event: impl FnOnce(ReadToken) -> Event) {
        let token = self.reads.token(index);
        let cold = self.reads.cold.remove(index);
        match (event(token), cold.own) {
            (Event::ReadDone(_, result), Some(Own::Producers)) => self.producers_read(result),
            (Event::ReadDone(_, result), Some(Own::Transactions)) => self.transactions_read(result),
            (Event::ReadDone(_, result), Some(Own::Scrub)) => self.looked_closer(&result),
            (event, _) => self.events.push(event),
        }
    }

    /// Chunks that have nothing (any more) from `from` on move it up: they need not be in memory with the one that has.
    fn step_batches(
        &self,
        log: &Partition,
        from: &mut Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Step {
        if let Err(error) = check_range(log, *from) {
            return Step::Fail(error);
        }
        let bound = upto.bound(log);
        let mut served = Served { next: *from, ..Served::default() };
        let mut bytes = 0;
        while served.next < log.tail_start().min(bound) {
            if served.batches.is_empty() {
                *from = served.next;
            }
            let (segment, at) = match self.locate(log, served.next) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(step) if served.batches.is_empty() => return step,
                Err(_) => return Step::Serve(served),
            };
            let Some((key, chunks)) =
                log.segments.get(segment).map(|s| (s.key(log.id), s.chunks.as_deref().unwrap_or(&[])))
            else {
                break;
            };
            let Some(chunk) = chunks.get(at) else { break };
            let Some((batches, _)) = self.reads.cache.get(&(key, chunk.position)) else {
                if served.batches.is_empty() {
                    return self.load_step(key, chunks, at);
                }
                return Step::Serve(served);
            };
            for batch in batches.iter().filter(|b| b.header.next_offset() <= chunk.next) {
                if batch.header.next_offset() <= served.next {
                    continue;
                }
                if batch.header.next_offset() > bound {
                    return Step::Serve(served);
                }
                let first = served.batches.is_empty() && min_one;
                if bytes + batch.bytes.len() > max_bytes && !first {
                    return Step::Serve(served);
                }
                bytes += batch.bytes.len();
                served.next = batch.header.next_offset();
                served.batches.push(batch.bytes.clone());
            }
            // A chunk whose last records are gone (cut or compacted) still ends where it ends.
            served.next = served.next.max(chunk.next.min(bound));
        }
        let min_one = min_one && served.batches.is_empty();
        let rest = from_tail(log, served.next, bound, max_bytes.saturating_sub(bytes), min_one);
        served.next = rest.next;
        served.batches.extend(rest.batches);
        Step::Serve(served)
    }

    /// The chunk that holds `offset`, or the first after it. `Ok(None)`: only the tail has it.
    pub(super) fn locate(&self, log: &Partition, offset: Offset) -> Result<Option<(usize, usize)>, Step> {
        let Some(mut segment) = log.segment_of(offset) else { return Ok(None) };
        while let Some(found) = log.segments.get(segment) {
            let Some(chunks) = &found.chunks else { return Err(Step::LoadIndex { segment }) };
            let at = chunks.partition_point(|c| c.next <= offset);
            if at < chunks.len() {
                return Ok(Some((segment, at)));
            }
            segment += 1;
        }
        Ok(None)
    }

    fn load_step(&self, key: SegmentKey, chunks: &[ChunkRef], at: usize) -> Step {
        let Some(first) = chunks.get(at) else { return Step::Serve(Served::default()) };
        if self.reads.coming.contains(&(key, first.position)) {
            return Step::Join((key, first.position));
        }
        Step::Load { key, span: self.span(key, chunks, at) }
    }

    /// Chunks to read at once, from this one on: adjacent, and none that is on its way already.
    pub(super) fn span(&self, key: SegmentKey, chunks: &[ChunkRef], at: usize) -> Vec<ChunkRef> {
        let mut span: Vec<ChunkRef> = Vec::new();
        let mut len = 0;
        for chunk in chunks.iter().skip(at) {
            let adjacent = span.last().is_none_or(|last| chunk.position == last.position + last.file_len() as u64);
            let enough = !span.is_empty() && len + chunk.file_len() > self.config.read_bytes;
            if !adjacent || enough || self.reads.coming.contains(&(key, chunk.position)) {
                break;
            }
            len += chunk.file_len();
            span.push(*chunk);
        }
        span
    }

    pub(super) fn load_span(&mut self, key: SegmentKey, span: Vec<ChunkRef>) {
        let Some(position) = span.first().map(|c| c.position) else { return };
        self.reads.coming.extend(span.iter().map(|c| (key, c.position)));
        let len = span.iter().map(ChunkRef::file_len).sum();
        self.reads.in_flight += 1;
        let token = self.ops.add(Pending::ReadData { key, position, span });
        self.files.submit(&mut self.disk, &mut self.ops, key, false, token, Access::Read { offset: position, len });
    }

    pub(super) fn data_read(
        &mut self,
        key: SegmentKey,
        position: u64,
        span: &[ChunkRef],
        result: Result<Done, DiskError>,
    ) {
        self.reads.in_flight -= 1;
        self.files.released(&mut self.disk, &mut self.ops, key);
        for chunk in span {
            self.reads.coming.remove(&(key, chunk.position));
        }
        let data = match result {
            Ok(Done::Read(data)) => data,
            Ok(_) => Bytes::new(),
            Err(error) => return self.span_failed(key, span, &LogError::ReadFailed(error)),
        };
        self.stats.cold_bytes += data.len() as u64;
        for chunk in span {
            let at = usize::try_from(chunk.position - position).unwrap_or(usize::MAX);
            let bytes = data.slice(at.min(data.len())..(at + chunk.file_len()).min(data.len()));
            let waiting = self.reads.take_waiting(key, chunk.position);
            match chunk::verify(&bytes, key.log, chunk.position) {
                Ok((_, batches)) => {
                    self.reads.keep((key, chunk.position), Arc::new(batches), bytes.len());
                    self.reads.ready.extend(waiting);
                }
                // Whoever waits for the damaged chunk fails; what lies before and behind it can still be served.
                Err((inside, what)) => {
                    let corruption = Corruption {
                        log: Some(key.log),
                        path: key.path().display().to_string(),
                        position: chunk.position + inside,
                        what,
                    };
                    // Not if the log has begun anew since: what was damaged is gone.
                    let index = self.by_id.get(&key.log).copied();
                    if let Some(index) = index.filter(|index| self.segment_bytes(*index, key).is_some()) {
                        self.mark_corrupt(index, &corruption);
                    }
                    self.fail_reads(&waiting, &LogError::Corrupt(corruption));
                }
            }
        }
        // At once, while the cache has it.
        self.start_reads();
    }

    fn span_failed(&mut self, key: SegmentKey, span: &[ChunkRef], error: &LogError) {
        for chunk in span {
            let waiting = self.reads.take_waiting(key, chunk.position);
            self.fail_reads(&waiting, error);
        }
    }

    fn fail_reads(&mut self, waiting: &[usize], error: &LogError) {
        for index in waiting {
            if let Some(want) = self.reads.cold.get(*index).map(|c| c.want) {
                self.end_read(*index, |token| failed(token, want, error.clone()));
            }
        }
    }

    /// Reads the chunk headers of a segment whose list is not in memory.
    fn load_index(&mut self, waiting: usize, log: usize, segment: usize) {
        let Some((id, version, found)) =
            self.logs.get(log).and_then(|l| Some((l.id, l.version, l.segments.get(segment)?)))
        else {
            return;
        };
        let key = found.key(id);
        let joined = self.reads.waiting.entry((key, INDEX)).or_default();
        joined.push(waiting);
        if joined.len() == 1 {
            self.read_index(key, log, version, 0, Vec::new());
        }
    }

    pub(super) fn read_index(
        &mut self,
        key: SegmentKey,
        log: usize,
        version: u64,
        position: u64,
        chunks: Vec<ChunkRef>,
    ) {
        let Some(bytes) = self.segment_bytes(log, key) else { return self.index_known(key) };
        if position >= bytes {
            if let Some(segment) = self.segment_mut(log, key) {
                let end = segment.end;
                let mut chunks = chunks;
                chunk::cut(&mut chunks, end);
                segment.chunks = Some(chunks);
            }
            return self.index_known(key);
        }
        let len = round_up(usize::try_from(bytes - position).unwrap_or(usize::MAX).min(INDEX_READ_BYTES));
        self.reads.in_flight += 1;
        let token = self.ops.add(Pending::ReadIndex { key, log, version, position, chunks });
        self.files.submit(&mut self.disk, &mut self.ops, key, false, token, Access::Read { offset: position, len });
    }

    pub(super) fn segment_bytes(&self, log: usize, key: SegmentKey) -> Option<u64> {
        let log = self.logs.get(log).filter(|l| l.id == key.log)?;
        log.segments.iter().find(|s| s.base == key.base && s.version == key.version).map(|s| s.bytes)
    }

    fn segment_mut(&mut self, log: usize, key: SegmentKey) -> Option<&mut crate::segment::Segment> {
        let log = self.logs.get_mut(log).filter(|l| l.id == key.log)?;
        log.segments.iter_mut().find(|s| s.base == key.base && s.version == key.version)
    }

    /// Everybody who waited for this chunk list looks again.
    fn index_known(&mut self, key: SegmentKey) {
        let waiting = self.reads.take_waiting(key, INDEX);
        self.reads.ready.extend(waiting);
    }

    pub(super) fn index_read(
        &mut self,
        key: SegmentKey,
        log: usize,
        version: u64,
        mut position: u64,
        mut chunks: Vec<ChunkRef>,
        result: Result<Done, DiskError>,
    ) {
        self.reads.in_flight -= 1;
        self.files.released(&mut self.disk, &mut self.ops, key);
        let data = match result {
            Ok(Done::Read(data)) => data,
            Ok(_) => Bytes::new(),
            Err(error) => return self.index_failed(key, &LogError::ReadFailed(error)),
        };
        if self.logs.get(log).is_none_or(|l| l.id != key.log || l.version != version) {
            return self.index_known(key);
        }
        let (start, bytes) = (position, self.segment_bytes(log, key).unwrap_or(0));
        while position < bytes {
            let at = usize::try_from(position - start).unwrap_or(usize::MAX);
            let Some(head) = data.get(at..at.saturating_add(BLOCK)) else { break };
            let found = chunk::read_header(head, key.log, position).filter(|c| position + c.file_len() as u64 <= bytes);
            let Some(found) = found else {
                let corruption = Corruption {
                    log: Some(key.log),
                    path: key.path().display().to_string(),
                    position,
                    what: "not an intact chunk header of this log".into(),
                };
                self.mark_corrupt(log, &corruption);
                return self.index_failed(key, &LogError::Corrupt(corruption));
            };
            position += found.file_len() as u64;
            chunk::push_cutting(&mut chunks, found);
        }
        if position == start {
            let what = "the file is shorter than its checkpoint says".to_owned();
            let corruption = Corruption { log: Some(key.log), path: key.path().display().to_string(), position, what };
            self.mark_corrupt(log, &corruption);
            return self.index_failed(key, &LogError::Corrupt(corruption));
        }
        self.read_index(key, log, version, position, chunks);
    }

    fn index_failed(&mut self, key: SegmentKey, error: &LogError) {
        let waiting = self.reads.take_waiting(key, INDEX);
        self.fail_reads(&waiting, error);
    }

    fn step_time(&self, log: &Partition, target: Target, upto: Offset) -> Step {
        let Target::AtOrAfter(at) = target;
        let end = ReadUpTo::Offset(upto).bound(log);
        for (index, segment) in log.segments.iter().enumerate() {
            if segment.end <= log.log_start || segment.max_timestamp < at || segment.base >= end {
                continue;
            }
            let Some(chunks) = &segment.chunks else { return Step::LoadIndex { segment: index } };
            let key = segment.key(log.id);
            for (i, chunk) in chunks.iter().enumerate() {
                if chunk.next <= log.log_start || chunk.max_timestamp < at || chunk.base >= end {
                    continue;
                }
                let Some((batches, _)) = self.reads.cache.get(&(key, chunk.position)) else {
                    return self.load_step(key, chunks, i);
                };
                let live = batches.iter().filter(|b| b.header.next_offset() <= chunk.next.min(end));
                match timestamps::find(live.map(|b| (&b.header, &b.bytes)), target, log.log_start, end) {
                    Ok(None) => {}
                    Ok(found) => return Step::Found(found),
                    Err(what) => return Step::Fail(LogError::Rejected { log: log.id, what }),
                }
            }
        }
        in_tail(log, target, upto).map_or_else(Step::Fail, Step::Found)
    }

    /// The largest timestamp in the batches wholly below the search's bound; or the step that must come first.
    fn newest(&self, log: &Partition, search: &mut Newest) -> Result<Option<i64>, Step> {
        let end = ReadUpTo::Offset(search.upto).bound(log);
        let inside = |h: &BatchHeader| h.next_offset() <= end && h.next_offset() > log.log_start;
        let tail = log.tail.iter().filter(|b| inside(&b.header)).map(|b| b.header.max_timestamp).max();
        search.best = search.best.max(tail);
        let before = log.tail_start().min(end);
        let within = |base: Offset, next: Offset| base < before && next > log.log_start;
        let mut segments: Vec<usize> = (0..log.segments.len()).collect();
        segments.sort_by_key(|i| log.segments.get(*i).map(|s| std::cmp::Reverse((s.max_timestamp, s.version))));
        for (index, segment) in segments.into_iter().filter_map(|i| Some((i, log.segments.get(i)?))) {
            if search.best >= Some(segment.max_timestamp) {
                break;
            }
            if !within(segment.base, segment.end) {
                continue;
            }
            let Some(chunks) = &segment.chunks else { return Err(Step::LoadIndex { segment: index }) };
            let key = segment.key(log.id);
            let rank = |c: &ChunkRef| (segment.max_timestamp, segment.version, c.max_timestamp, c.position);
            let mut ranked: Vec<usize> = (0..chunks.len()).collect();
            ranked.sort_by_key(|i| chunks.get(*i).map(|c| std::cmp::Reverse(rank(c))));
            for (at, chunk) in ranked.into_iter().filter_map(|i| Some((i, chunks.get(i)?))) {
                let looked_at = search.done.is_some_and(|done| rank(chunk) >= done);
                if looked_at || !within(chunk.base, chunk.next) || search.best >= Some(chunk.max_timestamp) {
                    continue;
                }
                let Some((batches, _)) = self.reads.cache.get(&(key, chunk.position)) else {
                    return Err(self.load_step(key, chunks, at));
                };
                let live = batches.iter().filter(|b| inside(&b.header) && b.header.next_offset() <= chunk.next);
                search.best = search.best.max(live.map(|b| b.header.max_timestamp).max());
                search.done = Some(rank(chunk));
            }
        }
        Ok(search.best)
    }
}

/// Adds what a reader of committed records has to know, from the same state of the log as the records.
fn with_aborted(log: &Partition, upto: ReadUpTo, mut served: Served) -> Served {
    if let (ReadUpTo::Committed(_), Some(transactions)) = (upto, &log.transactions)
        && let Some(header) = served.batches.first().and_then(|first| BatchHeader::read(first, 0).ok())
    {
        served.aborted = transactions.aborted_in(header.base_offset, served.next);
    }
    served
}

fn check_range(log: &Partition, from: Offset) -> Result<(), LogError> {
    if (log.log_start..=log.log_end).contains(&from) {
        return Ok(());
    }
    Err(LogError::OutOfRange { log: log.id, offset: from, start: log.log_start, end: log.log_end })
}

fn in_tail(log: &Partition, target: Target, upto: Offset) -> Result<Option<(Offset, i64)>, LogError> {
    let end = ReadUpTo::Offset(upto).bound(log);
    let live = log.tail.iter().take_while(|b| b.header.next_offset() <= end);
    timestamps::find(live.map(|b| (&b.header, &b.bytes)), target, log.log_start, end)
        .map_err(|what| LogError::Rejected { log: log.id, what })
}

fn from_tail(log: &Partition, from: Offset, bound: Offset, max_bytes: usize, min_one: bool) -> Served {
    let mut served = Served { next: from, ..Served::default() };
    let first = log.tail.partition_point(|b| b.header.next_offset() <= from);
    let mut bytes = 0;
    for batch in log.tail.iter().skip(first) {
        let next = batch.header.next_offset();
        let too_much = bytes + batch.bytes.len() > max_bytes && !(served.batches.is_empty() && min_one);
        if next > bound || too_much {
            return served;
        }
        bytes += batch.bytes.len();
        served.next = next;
        served.batches.push(batch.bytes.clone());
    }
    // Where a gap ends the log, a reader is through with it all the same.
    served.next = served.next.max(bound);
    served
}
