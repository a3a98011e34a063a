//! After a truncation: what idempotent producers are told must be what the batches that stay say, or a retry would pass
//! for new (rule 22). Of each producer only the newest batches are remembered; where a truncation cuts them off, the
//! older ones are looked up again: in memory at once, else in the segments, newest first, one segment at a time.
//!
//! ```text
//! truncate -> memory has enough? -> done
//!          -> lost (its appends are busy) -> read a segment -> enough? -> done
//!                                         -> the one before ... -> none left, or too old: it is forgotten
//! ```
//! Lost producers are in the checkpoint as such: a crash only makes this begin again.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::Offset;

use super::Engine;
use super::read::{Own, ReadUpTo, Served, Want};
use crate::Lsn;
use crate::config::PRODUCER_BATCHES;
use crate::error::LogError;
use crate::io::Disk;
use crate::producers::{SeqBatch, sequenced};

/// Batches of some producers: of each the newest epoch, oldest first.
#[derive(Debug, Default)]
struct Found(HashMap<i64, (i16, Vec<SeqBatch>), RandomState>);

impl Found {
    /// The next batch of the log, going up.
    fn add(&mut self, id: i64, header: &BatchHeader, frame: u64) {
        let (epoch, batches) = self.0.entry(id).or_insert_with(|| (header.producer_epoch, Vec::new()));
        if *epoch != header.producer_epoch {
            *epoch = header.producer_epoch;
            batches.clear();
        }
        if batches.len() == PRODUCER_BATCHES {
            batches.remove(0);
        }
        batches.push(SeqBatch::of(header, frame));
    }
}

/// One log's segments are being read.
#[derive(Debug)]
struct Job {
    log: usize,
    version: u64,
    wanted: HashSet<i64, RandomState>,
    /// The part of the log that is being read: from here
    from: Offset,
    /// to here.
    upto: Offset,
    /// Where the segment begins: what lies below comes next.
    base: Offset,
    found: Found,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rollbacks {
    queue: VecDeque<usize>,
    job: Option<Job>,
    /// A producer was told to come again when this is done.
    pub(super) refused: bool,
}

impl Rollbacks {
    /// The log is gone.
    pub(super) fn forget(&mut self, log: usize) {
        self.queue.retain(|index| *index != log);
        self.job.take_if(|job| job.log == log);
    }
}

impl<D: Disk> Engine<D> {
    /// The log was truncated: what memory has of the producers whose batches went is looked up at once.
    pub(super) fn roll_producers_back(&mut self, index: usize) {
        let Some(log) = self.logs.get_mut(index) else { return };
        let wanted = std::mem::take(&mut log.cut_producers);
        if wanted.is_empty() {
            return;
        }
        let unsealed = self.journal.unsealed(index).map(|i| (&i.header, i.lsn));
        let mut found = Found::default();
        for (header, lsn) in log.tail.iter().map(|b| (&b.header, b.lsn)).chain(unsealed) {
            if let Some(id) = sequenced(header).filter(|id| wanted.contains(&id.0)) {
                found.add(id.0, header, Lsn::frame(lsn));
            }
        }
        for (id, (epoch, batches)) in found.0 {
            log.producers.found(id, epoch, batches);
        }
        if log.producers.any_lost() && !self.rollbacks.queue.contains(&index) {
            self.rollbacks.queue.push_back(index);
        }
    }

    /// Logs with producers that are lost since before a crash, or since a read failed.
    pub(super) fn resume_rollbacks(&mut self) {
        let reading = self.rollbacks.job.as_ref().map(|job| job.log);
        for (index, log) in &self.logs {
            if log.producers.any_lost() && Some(index) != reading && !self.rollbacks.queue.contains(&index) {
                self.rollbacks.queue.push_back(index);
            }
        }
    }

    /// Begins with the next log, if none is being read.
    pub(super) fn look_up_producers(&mut self) {
        if self.rollbacks.queue.is_empty() {
            return;
        }
        while self.rollbacks.job.is_none() {
            let Some(log) = self.rollbacks.queue.pop_front() else { break };
            let Some(partition) = self.logs.get(log).filter(|l| l.producers.any_lost() && l.corrupt.is_none()) else {
                continue;
            };
            let nothing = partition.log_start;
            self.rollbacks.job = Some(Job {
                log,
                version: partition.version,
                wanted: partition.producers.lost().collect(),
                from: nothing,
                upto: nothing,
                base: partition.written_end,
                found: Found::default(),
            });
            self.look_further_down();
        }
        self.start_reads();
    }

    /// A segment has been read: takes what it gave, and goes on with the one before, if that is needed.
    fn look_further_down(&mut self) {
        let oldest = self.now.wall_ms.saturating_sub(self.config.producer_expiry_ms);
        let Some(job) = &mut self.rollbacks.job else { return };
        let Some(log) = self.logs.get_mut(job.log) else { return };
        for (id, (epoch, batches)) in job.found.0.drain() {
            log.producers.found(id, epoch, batches);
        }
        job.wanted.retain(|id| log.producers.wants_older(*id));
        let below = log.segments.iter().rev().find(|s| s.base < job.base && s.end > s.base);
        let below = below.filter(|s| s.end > log.log_start && s.max_timestamp >= oldest && !job.wanted.is_empty());
        let Some(segment) = below else {
            // Those that a later truncation has lost are looked for from there.
            if log.version == job.version {
                log.producers.give_up();
            }
            return self.rollback_done();
        };
        job.from = segment.base.max(log.log_start);
        job.upto = segment.end.min(job.base);
        job.base = segment.base;
        self.read_for_producers();
    }

    fn rollback_done(&mut self) {
        let Some(job) = self.rollbacks.job.take() else { return };
        if self.logs.get(job.log).is_some_and(|log| log.producers.any_lost()) {
            self.rollbacks.queue.push_back(job.log);
        }
        if std::mem::take(&mut self.rollbacks.refused) {
            self.busy = true;
        }
    }

    fn read_for_producers(&mut self) {
        let Some(job) = &self.rollbacks.job else { return };
        let Some(id) = self.logs.get(job.log).map(|log| log.id) else { return };
        let upto = ReadUpTo::Offset(job.upto);
        let want = Want::Batches { from: job.from, upto, max_bytes: self.config.read_bytes, min_one: true };
        self.begin_own_read(job.log, id, want, Own::Producers);
    }

    /// The answer to what `read_for_producers` asked.
    pub(super) fn producers_read(&mut self, result: Result<Served, LogError>) {
        let Some(job) = &mut self.rollbacks.job else { return };
        let current = self.logs.get(job.log).is_some_and(|log| log.version == job.version);
        let served = match result {
            Ok(served) if current => served,
            // Truncated meanwhile, or the start moved past it: from the top.
            Ok(_) | Err(LogError::OutOfRange { .. }) => return self.rollback_done(),
            // Housekeeping begins again; a damaged log takes no appends.
            Err(_) => {
                self.rollbacks.job = None;
                return;
            }
        };
        let on = served.next > job.from;
        for header in served.batches.iter().filter_map(header_of) {
            if let Some(id) = sequenced(&header).filter(|id| job.wanted.contains(&id.0)) {
                // What is in a segment is durable: a retry of it need not wait for any frame.
                job.found.add(id.0, &header, 0);
            }
        }
        job.from = served.next;
        if on && job.from < job.upto { self.read_for_producers() } else { self.look_further_down() }
    }
}

fn header_of(batch: &Bytes) -> Option<BatchHeader> {
    BatchHeader::read(batch, 0).ok()
}
