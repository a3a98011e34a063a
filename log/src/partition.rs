//! One log as the engine knows it: bounds, tail, segments, epochs, producers. Pure state: it does no I/O and knows no
//! other log.
//!
//! ```text
//! log_start <= stable.end <= written_end <= durable_end <= log_end
//!    segments, checkpointed | segments | tail: journaled and durable | journaled, in flight
//! ```

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::{LogId, Offset};

use crate::Lsn;
use crate::config::LogConfig;
use crate::epochs::Epochs;
use crate::error::{Corruption, LogError};
use crate::producers::Producers;
use crate::segment::{ChunkRef, Segment};
use crate::transactions::{Step, Transactions};

/// A recent batch, in the journal (durable or on its way) and perhaps in a segment already.
#[derive(Debug, Clone)]
pub struct TailBatch {
    /// As stored.
    pub header: BatchHeader,
    /// The same memory that the journal wrote.
    pub bytes: Bytes,
    /// Its place in the journal.
    pub lsn: Lsn,
}

/// A segment's extent in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentExtent {
    /// First offset.
    pub base: Offset,
    /// File version.
    pub version: u32,
    /// Bytes that hold chunks.
    pub bytes: u64,
    /// Offset after the last record.
    pub end: Offset,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Wall clock when begun, milliseconds.
    pub created_ms: i64,
    /// Made by compaction.
    pub compacted: bool,
    /// See [`Segment::open_from`].
    pub open_from: Offset,
}

impl From<&Segment> for SegmentExtent {
    fn from(s: &Segment) -> Self {
        Self {
            base: s.base,
            version: s.version,
            bytes: s.bytes,
            end: s.end,
            max_timestamp: s.max_timestamp,
            created_ms: s.created_ms,
            compacted: s.compacted,
            open_from: s.open_from,
        }
    }
}

/// What survives without the journal: synced segment bytes, named by a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stable {
    /// End of what the segments hold.
    pub end: Offset,
    /// Every journal entry of this log up to here is reflected.
    pub lsn: Lsn,
    /// The segments.
    pub segments: Vec<SegmentExtent>,
}

/// Where the log's flush stands. One write at a time keeps chunks in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushState {
    /// Nothing to do.
    #[default]
    Idle,
    /// In the engine's queue.
    Queued,
    /// A write is in flight.
    Writing,
    /// A write failed: none is tried again (INV-5); what is not in segments stays in memory and in the journal.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub struct Partition {
    /// Its identity.
    pub id: LogId,
    /// The owner's settings.
    pub config: LogConfig,
    /// First offset that may be read.
    pub log_start: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// All below is on disk.
    pub durable_end: Offset,
    /// All below is in segment files (not yet synced perhaps).
    pub written_end: Offset,
    /// Every entry of this log up to here is in segment files.
    pub written_lsn: Lsn,
    /// What the last sync has made safe.
    pub stable: Stable,
    /// First entry that only the journal keeps.
    pub unstable_from: Option<Lsn>,
    /// Recent batches, ascending; the front may be in segments already.
    pub tail: VecDeque<TailBatch>,
    /// Bytes of the tail that are not in segments.
    pub unwritten_bytes: usize,
    /// Oldest first; the last one grows.
    pub segments: Vec<Segment>,
    /// Leader epochs.
    pub epochs: Epochs,
    /// Idempotent producers.
    pub producers: Producers,
    /// Transactions, if there ever were any.
    pub(crate) transactions: Option<Box<Transactions>>,
    /// See [`FlushState`].
    pub flush: FlushState,
    /// Written since the last sync was submitted.
    pub dirty: bool,
    /// Place in the journal of its making or newest truncation: work begun before that is void, also work of a deleted
    /// log of the same id.
    pub version: u64,
    /// Place in the journal of its making or last restart: no other life of a log has it.
    pub born: Lsn,
    /// The owner wants to know when its batches are sealed.
    pub watched: bool,
    /// Found damaged: no more appends.
    pub corrupt: Option<Corruption>,
    /// Truncations whose remaining records are not all in segments yet: (end, place in the journal), ascending.
    truncations: Vec<(Offset, Lsn)>,
    /// Whose batches the last truncation cut off, until they have been looked for below it.
    pub cut_producers: HashSet<i64, RandomState>,
    /// Records from here on may still be truncated: nothing of them is compacted or deleted by retention.
    pub settled_end: Offset,
}

impl Partition {
    /// An empty log.
    #[must_use]
    pub fn new(id: LogId, config: LogConfig, start: Offset, lsn: Lsn) -> Self {
        Self {
            id,
            config,
            log_start: start,
            log_end: start,
            durable_end: start,
            written_end: start,
            written_lsn: lsn,
            stable: Stable { end: start, lsn, segments: Vec::new() },
            unstable_from: None,
            tail: VecDeque::new(),
            unwritten_bytes: 0,
            segments: Vec::new(),
            epochs: Epochs::default(),
            producers: Producers::default(),
            transactions: None,
            flush: FlushState::Idle,
            dirty: false,
            version: lsn.0,
            born: lsn,
            watched: false,
            corrupt: None,
            truncations: Vec::new(),
            cut_producers: HashSet::default(),
            settled_end: Offset(i64::MAX),
        }
    }

    /// Refuses what must not go on: a damaged log takes no more appends.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn check_writable(&self) -> Result<(), LogError> {
        self.corrupt.as_ref().map_or(Ok(()), |c| Err(LogError::Corrupt(c.clone())))
    }

    /// A batch was put at the log's end: by whoever decided that it may be there.
    pub fn remember(&mut self, header: &BatchHeader, bytes: &Bytes, frame: u64, now_ms: i64) {
        self.log_end = header.next_offset();
        self.epochs.appended(header.leader_epoch, header.base_offset);
        self.producers.appended(header, frame, now_ms);
        if let Some(step) = Step::of(header, bytes) {
            self.transactions.get_or_insert_default().apply(step, now_ms);
        }
    }

    /// The last stable offset for a reader who may see up to `upto`.
    #[must_use]
    pub fn stable_end(&self, upto: Offset) -> Offset {
        let stable = self.transactions.as_ref().map_or(upto, |transactions| transactions.stable_end(upto));
        stable.max(self.log_start).min(upto)
    }

    /// Markers that can't be cut off any more, and that segments hold safely, need not be undone.
    pub fn settle_transactions(&mut self) {
        let settled = self.settled_end.min(self.stable.end);
        if let Some(transactions) = &mut self.transactions {
            transactions.settle(settled);
        }
    }

    /// Forgets what was at and above `end`, as far as memory tells.
    pub fn truncate_transactions(&mut self, end: Offset) {
        let from = self.segments.iter().rev().find(|s| s.base <= end).map_or(self.log_start, |s| s.open_from);
        let from = from.max(self.log_start).min(end);
        if let Some(transactions) = &mut self.transactions {
            transactions.truncate(end, from);
        }
    }

    /// Open transactions must be looked for first: see [`Transactions`].
    #[must_use]
    pub fn lost_transactions(&self) -> bool {
        self.transactions.as_ref().is_some_and(|transactions| transactions.lost.is_some())
    }

    /// All below is in a frame of the journal, durable or on its way.
    #[must_use]
    pub fn sealed_end(&self) -> Offset {
        self.tail.back().map_or(self.durable_end, |b| b.header.next_offset().max(self.durable_end))
    }

    /// First offset that the tail serves; the end if it is empty.
    #[must_use]
    pub fn tail_start(&self) -> Offset {
        self.tail.front().map_or(self.log_end, |b| b.header.base_offset)
    }

    /// A sealed group hands over a batch.
    pub fn push_tail(&mut self, batch: TailBatch) {
        self.unwritten_bytes += batch.bytes.len();
        self.unstable_from.get_or_insert(batch.lsn);
        self.tail.push_back(batch);
    }

    /// The journal is durable up to this frame. Returns whether the durable end moved.
    pub fn durable_to(&mut self, frame: u64) -> bool {
        let newest = self.tail.iter().rev().find(|b| b.lsn.frame() <= frame);
        let end = newest.map_or(self.durable_end, |b| b.header.next_offset());
        let moved = end > self.durable_end;
        self.durable_end = self.durable_end.max(end);
        moved
    }

    /// Place in the tail of the first batch that is in no segment.
    fn first_unwritten(&self) -> usize {
        self.tail.partition_point(|b| b.header.base_offset < self.written_end)
    }

    /// Batches that a flush may write now: durable, not yet in a segment.
    pub fn flushable(&self) -> impl Iterator<Item = &TailBatch> {
        self.tail.iter().skip(self.first_unwritten()).take_while(|b| b.header.next_offset() <= self.durable_end)
    }

    /// A flush has put everything up to this batch into the active segment.
    pub fn flushed(&mut self, end: Offset, lsn: Lsn, bytes: usize) {
        self.written_end = end;
        self.written_lsn = lsn;
        // What a truncation cut off lies in the journal between this batch and the truncation: it is dealt with too.
        let reached = self.truncations.partition_point(|(cut, _)| *cut <= end);
        for (_, cut_lsn) in self.truncations.drain(..reached) {
            self.written_lsn = self.written_lsn.max(cut_lsn);
        }
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(bytes);
        self.dirty = true;
    }

    /// Frees tail batches of frames up to `frame`; they are in segments.
    pub fn evict_to(&mut self, frame: u64) {
        while self.tail.front().is_some_and(|b| b.lsn.frame() <= frame && b.header.next_offset() <= self.written_end) {
            self.tail.pop_front();
        }
    }

    /// Whether the front of the tail still has to be written before frame `frame` may be freed.
    #[must_use]
    pub fn pins(&self, frame: u64) -> bool {
        self.tail.front().is_some_and(|b| b.lsn.frame() <= frame)
    }

    /// Whether a batch of frame `frame`, or of an earlier one, is in no segment yet.
    #[must_use]
    pub fn owes(&self, frame: u64) -> bool {
        self.tail.get(self.first_unwritten()).is_some_and(|b| b.lsn.frame() <= frame)
    }

    /// What a sync that is submitted now will make stable, and the first entry after it.
    #[must_use]
    pub fn capture(&self) -> (Stable, Option<Lsn>) {
        let segments = self.segments.iter().map(SegmentExtent::from).collect();
        let after = self.tail.get(self.first_unwritten()).map(|b| b.lsn);
        (Stable { end: self.written_end, lsn: self.written_lsn, segments }, after)
    }

    /// Drops records at and above `end`, which is the log's end from now on; a batch that it falls into goes as a whole.
    /// `lsn` is the truncation's place in the journal; `unsealed` says that batches of this log are still to come from
    /// groups that are not sealed. Returns the segments that hold nothing any more.
    pub fn truncate(&mut self, end: Offset, lsn: Lsn, unsealed: bool) -> Vec<Segment> {
        self.version = lsn.0;
        // What was captured of it is void, and the next checkpoint must speak for it anew.
        self.dirty = true;
        while let Some(last) = self.tail.back()
            && last.header.next_offset() > end
        {
            if last.header.base_offset >= self.written_end {
                self.unwritten_bytes = self.unwritten_bytes.saturating_sub(last.bytes.len());
            }
            self.tail.pop_back();
        }
        self.log_end = self.log_end.min(end);
        self.durable_end = self.durable_end.min(end);
        self.epochs.truncate(end);
        self.cut_producers.extend(self.producers.truncate(end));
        self.truncate_transactions(end);
        // What the journal holds of this log up to here is reflected in the segments once nothing else is left of it.
        let all_written = !unsealed && self.first_unwritten() == self.tail.len();
        if self.written_end >= end || all_written {
            self.written_end = end;
            self.written_lsn = lsn;
            self.truncations.clear();
        } else {
            self.truncations.retain(|(cut, _)| *cut < end);
            self.truncations.push((end, lsn));
        }
        if self.stable.end >= end {
            self.stable.end = end;
            self.stable.lsn = lsn;
            self.unstable_from = None;
            self.stable.segments.retain(|s| s.base < end);
            if let Some(last) = self.stable.segments.last_mut() {
                last.end = last.end.min(end);
            }
        }
        self.log_start = self.log_start.min(end);
        let keep = self.segments.iter().take_while(|s| s.base < end).count();
        let gone = self.segments.split_off(keep);
        if let Some(last) = self.segments.last_mut() {
            last.cut(end);
        }
        gone
    }

    /// Moves the start up. Returns the segments that lie wholly below it.
    pub fn advance_start(&mut self, start: Offset) -> Vec<Segment> {
        if start <= self.log_start {
            return Vec::new();
        }
        self.log_start = start;
        self.epochs.advance_start(start);
        if let Some(transactions) = &mut self.transactions {
            transactions.advance_start(start);
        }
        // The active segment stays: its file is the one that the next flush extends.
        let gone =
            self.segments.iter().take_while(|s| s.end <= start).count().min(self.segments.len().saturating_sub(1));
        let gone: Vec<_> = self.segments.drain(..gone).collect();
        self.stable.segments.retain(|s| s.end > start || gone.iter().all(|g| g.version != s.version));
        gone
    }

    /// Bytes in segments and in the tail beyond them.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum::<u64>() + self.unwritten_bytes as u64
    }

    /// Index of the segment that holds `offset`, if one does.
    #[must_use]
    pub fn segment_of(&self, offset: Offset) -> Option<usize> {
        let i = self.segments.partition_point(|s| s.end <= offset);
        (i < self.segments.len()).then_some(i)
    }

    /// A finished write: its chunks belong to the active segment, whose file has grown to `bytes`.
    pub fn add_chunks(&mut self, version: u32, bytes: u64, chunks: &[ChunkRef]) {
        let Some(segment) = self.segments.iter_mut().find(|s| s.version == version) else { return };
        segment.bytes = bytes;
        for chunk in chunks {
            segment.end = segment.end.max(chunk.next);
            segment.max_timestamp = segment.max_timestamp.max(chunk.max_timestamp);
            if let Some(list) = &mut segment.chunks {
                crate::segment::chunk::push_cutting(list, *chunk);
            }
        }
    }
}
