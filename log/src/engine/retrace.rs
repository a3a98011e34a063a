//! After a truncation further back than markers can be undone (an unclean election): which transactions are open is read
//! from the log again. A segment says where the oldest transaction began that was open where the segment begins: reading
//! from there to the log's end tells all of them.
//!
//! ```text
//! truncate -> memory knows enough? -> done
//!          -> lost (appends are busy, nothing is stable from there on) -> read to the end -> done
//! ```
//! What is lost is in the checkpoint as such: a crash only makes this begin again.

use std::collections::VecDeque;

use wherry_wire::batch::BatchHeader;
use wherry_wire::types::Offset;

use super::read::{Own, ReadUpTo, Served, Want};
use super::{Engine, Event};
use crate::error::LogError;
use crate::io::Disk;
use crate::partition::Partition;
use crate::transactions::{Step, Transactions};

/// One log is being read.
#[derive(Debug)]
struct Job {
    log: usize,
    version: u64,
    from: Offset,
    found: Transactions,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retraces {
    queue: VecDeque<usize>,
    job: Option<Job>,
    /// Somebody was told to come again when this is done.
    pub(super) refused: bool,
}

impl Retraces {
    /// The log is gone.
    pub(super) fn forget(&mut self, log: usize) {
        self.queue.retain(|index| *index != log);
        self.job.take_if(|job| job.log == log);
    }
}

impl<D: Disk> Engine<D> {
    /// The log was truncated, perhaps too far back.
    pub(super) fn retrace_if_lost(&mut self, index: usize) {
        if self.logs.get(index).is_some_and(Partition::lost_transactions) && !self.retraces.queue.contains(&index) {
            self.retraces.queue.push_back(index);
        }
    }

    /// Logs that are lost since before a crash, or since a read failed.
    pub(super) fn resume_retraces(&mut self) {
        let reading = self.retraces.job.as_ref().map(|job| job.log);
        for (index, log) in &self.logs {
            if log.lost_transactions() && Some(index) != reading && !self.retraces.queue.contains(&index) {
                self.retraces.queue.push_back(index);
            }
        }
    }

    /// Begins with the next log, if none is being read and all of it can be.
    pub(super) fn retrace(&mut self) {
        while self.retraces.job.is_none() {
            let Some(index) = self.retraces.queue.front().copied() else { return };
            let log = self.logs.get(index).filter(|log| log.corrupt.is_none());
            let lost = log.and_then(|log| Some((log, log.transactions.as_ref()?.lost?)));
            let Some((log, lost)) = lost else {
                self.retraces.queue.pop_front();
                continue;
            };
            if log.sealed_end() < log.log_end {
                return;
            }
            self.retraces.queue.pop_front();
            let from = lost.from.max(log.log_start);
            self.retraces.job = Some(Job { log: index, version: log.version, from, found: Transactions::default() });
            self.read_for_transactions();
        }
        self.start_reads();
    }

    fn read_for_transactions(&mut self) {
        let Some(job) = &self.retraces.job else { return };
        let Some(log) = self.logs.get(job.log) else { return };
        let (id, end) = (log.id, log.log_end);
        if job.from >= end {
            return self.retraced(end);
        }
        let want = Want::Batches {
            from: job.from,
            upto: ReadUpTo::Offset(end),
            max_bytes: self.config.read_bytes,
            min_one: true,
        };
        self.begin_own_read(job.log, id, want, Own::Transactions);
    }

    /// The answer to what `read_for_transactions` asked.
    pub(super) fn transactions_read(&mut self, result: Result<Served, LogError>) {
        let now_ms = self.now.wall_ms;
        let Some(job) = &mut self.retraces.job else { return };
        let index = job.log;
        let current = self.logs.get(index).is_some_and(|log| log.version == job.version);
        let served = match result {
            Ok(served) if current && served.next > job.from => served,
            // Truncated meanwhile, or the start moved past it: from the top.
            Ok(_) | Err(LogError::OutOfRange { .. }) => {
                self.retraces.job = None;
                return self.retrace_if_lost(index);
            }
            // Housekeeping begins again; a damaged log takes no appends.
            Err(_) => {
                self.retraces.job = None;
                return;
            }
        };
        for batch in &served.batches {
            let step = BatchHeader::read(batch, 0).ok().and_then(|header| Step::of(&header, batch));
            if let Some(step) = step {
                job.found.apply(step, now_ms);
            }
        }
        job.from = served.next;
        self.read_for_transactions();
    }

    fn retraced(&mut self, end: Offset) {
        let Some(job) = self.retraces.job.take() else { return };
        let Some(log) = self.logs.get_mut(job.log) else { return };
        if let Some(transactions) = &mut log.transactions {
            transactions.found(job.found, end);
        }
        self.sync.changed = true;
        self.events.push(Event::StableMoved(log.id));
        if std::mem::take(&mut self.retraces.refused) {
            self.busy = true;
        }
    }
}
