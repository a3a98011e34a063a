//! Makes what was flushed durable, in bulk, and writes the checkpoint that frees journal files (rule 3):
//!
//! ```text
//! capture every written log -> sync their files -> sync the directory -> encode -> wait until all that is encoded is
//! durable in the journal -> write the checkpoint -> free journal files below what replay would need
//! ```

use std::path::PathBuf;

use super::Engine;
use super::ops::{Captured, Pending, SyncJob};
use crate::io::{AlignedBuf, Disk, DiskError, Done, FileId, Op};
use crate::partition::{FlushState, Partition};
use crate::segment::DIRECTORY;
use crate::{Lsn, checkpoint};

#[derive(Debug)]
enum Stage {
    Idle,
    Syncing,
    SyncingDir,
    /// Encoded; written when this frame is durable.
    Waiting {
        buf: Option<AlignedBuf>,
        seq: u64,
        replay_from: u64,
    },
    Writing {
        replay_from: u64,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct SyncState {
    stage: Stage,
    /// Logs were made, deleted, truncated or written since the last checkpoint.
    pub(super) changed: bool,
    /// Housekeeping wants a checkpoint.
    pub(super) due: bool,
    /// Everything is to be made stable.
    pub(super) closing: bool,
    /// Closing can't finish: the disk is full.
    pub(super) cannot: bool,
    pub(super) dir_dirty: bool,
    pub(super) number: u64,
    pub(super) slots: [FileId; 2],
    /// Truncated or deleted while a sync is under way: what was captured of them is void.
    voided: Vec<usize>,
}

impl SyncState {
    pub(super) fn new(number: u64, slots: [FileId; 2]) -> Self {
        Self {
            stage: Stage::Idle,
            changed: false,
            due: false,
            closing: false,
            cannot: false,
            dir_dirty: false,
            number,
            slots,
            voided: Vec::new(),
        }
    }

    pub(super) fn forget(&mut self, log: usize) {
        if !matches!(self.stage, Stage::Idle) {
            self.voided.push(log);
        }
    }

    /// Number of the first checkpoint whose capture is still to come.
    pub(super) fn next_capture(&self) -> u64 {
        match self.stage {
            Stage::Idle => self.number + 1,
            Stage::Syncing | Stage::SyncingDir | Stage::Waiting { .. } => self.number + 2,
            Stage::Writing { .. } => self.number + 1,
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        matches!(self.stage, Stage::Idle) && !self.changed
    }
}

impl<D: Disk> Engine<D> {
    pub(super) fn maybe_sync(&mut self) {
        match &self.sync.stage {
            Stage::Idle if self.sync_wanted() => self.start_sync(),
            Stage::Waiting { seq, .. } if *seq <= self.journal.durable_seq() => self.write_checkpoint(),
            Stage::Waiting { .. } if self.journal.stalled() => self.journal.break_stall(&mut self.disk, &mut self.ops),
            Stage::Idle | Stage::Waiting { .. } | Stage::Syncing | Stage::SyncingDir | Stage::Writing { .. } => {}
        }
    }

    /// The journal or the memory is full, and what is oldest there can't be given up: its log could not be written to
    /// segments, and never will be by this process (INV-5). Every other log would wait for ever: it is as if the journal
    /// had failed (rule 19). A new process replays the journal, and tries again.
    pub(super) fn stop_if_pinned(&mut self) {
        if self.journal.failed().is_some() {
            return;
        }
        let failed = |log: &&Partition| log.flush == FlushState::Failed;
        let culprit = if self.journal.stalled() && matches!(self.sync.stage, Stage::Idle) {
            let needed = self.logs.iter().map(|(_, log)| log).filter(|log| log.unstable_from.is_some());
            needed.min_by_key(|log| log.unstable_from).filter(failed)
        } else if self.waiting_bytes() > self.config.tail_bytes {
            let oldest = self.frames.front().into_iter().flat_map(|frame| &frame.logs);
            oldest.filter_map(|index| self.logs.get(*index as usize)).find(failed)
        } else {
            None
        };
        if let Some(id) = culprit.map(|log| log.id) {
            self.fail_all(format!("there is no room beside what can't be written to the segments of log {id}"));
        }
    }

    fn sync_wanted(&self) -> bool {
        let dirty = self.files.dirty();
        if (dirty == 0 && !self.sync.changed) || self.journal.failed().is_some() {
            return false;
        }
        let (used, max) = self.journal.usage();
        // A log that is being flushed anyway joins this checkpoint rather than the next.
        let settled = self.flushes.settled();
        let pressed = (used * 2 >= max && settled) || used * 4 >= max * 3 || self.journal.stalled();
        pressed || dirty * 2 >= self.config.open_files || ((self.sync.closing || self.sync.due) && settled)
    }

    fn start_sync(&mut self) {
        self.sync.changed = false;
        self.sync.due = false;
        self.sync.voided.clear();
        let unsealed = Lsn::new(self.journal.first_unsealed(), 0);
        let mut captured = Vec::new();
        for (index, log) in &mut self.logs {
            if std::mem::take(&mut log.dirty) {
                let (stable, after) = log.capture();
                captured.push(Captured {
                    log: index,
                    version: log.version,
                    stable,
                    unstable_from: Some(after.unwrap_or(unsealed)),
                });
            }
        }
        let dirty = self.files.take_dirty();
        let job = SyncJob { files: dirty.iter().map(|(key, _)| *key).collect(), captured };
        self.sync.stage = Stage::Syncing;
        if dirty.is_empty() {
            return self.sync_done(job, Ok(Done::Ok));
        }
        let files = dirty.into_iter().map(|(_, file)| file).collect();
        let token = self.ops.add(Pending::Sync(Box::new(job)));
        self.disk.submit(token, Op::Sync { files });
    }

    pub(super) fn sync_done(&mut self, job: SyncJob, result: Result<Done, DiskError>) {
        for key in &job.files {
            self.files.released(&mut self.disk, &mut self.ops, *key);
        }
        if let Err(error) = result {
            return self.fail_all(format!("sync of segments: {error}"));
        }
        for captured in job.captured {
            self.make_stable(captured);
        }
        self.sync.stage = Stage::SyncingDir;
        if std::mem::take(&mut self.sync.dir_dirty) {
            let token = self.ops.add(Pending::SyncDir);
            self.disk.submit(token, Op::SyncDir { path: PathBuf::from(DIRECTORY) });
        } else {
            self.dir_synced(Ok(Done::Ok));
        }
    }

    fn make_stable(&mut self, captured: Captured) {
        if self.sync.voided.contains(&captured.log) {
            return;
        }
        let Some(log) = self.logs.get_mut(captured.log).filter(|l| l.version == captured.version) else { return };
        log.unstable_from = if log.log_end > captured.stable.end { captured.unstable_from } else { None };
        log.stable = captured.stable;
        // Retention may have dropped segments since. Those that a compaction has replaced meanwhile stay until the
        // checkpoint that names their successors.
        log.stable
            .segments
            .retain(|s| s.end > log.log_start || log.segments.iter().any(|live| live.version == s.version));
        log.settle_transactions();
    }

    /// INV-5: a sync that failed is never asked again.
    pub(super) fn fail_all(&mut self, why: String) {
        let progress = self.journal.fail(why);
        self.progress(progress);
    }

    pub(super) fn dir_synced(&mut self, result: Result<Done, DiskError>) {
        if let Err(error) = result {
            return self.fail_all(format!("sync of the segment directory: {error}"));
        }
        let seq = self.journal.last_seq();
        let unstable = self.logs.iter().filter_map(|(_, l)| l.unstable_from).map(Lsn::frame).min();
        // What is not sealed yet is in no tail, and no log speaks for it.
        let replay_from = unstable.unwrap_or(u64::MAX).min(self.journal.first_unsealed());
        let logs: Vec<_> = self.logs.iter().map(|(_, l)| l).collect();
        let buf = checkpoint::encode(self.directory, self.sync.number + 1, seq, replay_from, logs.into_iter());
        self.sync.stage = Stage::Waiting { buf: Some(buf), seq, replay_from };
    }

    fn write_checkpoint(&mut self) {
        let Stage::Waiting { buf, replay_from, .. } = &mut self.sync.stage else { return };
        let (buf, replay_from) = (buf.take(), *replay_from);
        let Some(buf) = buf else { return };
        self.sync.stage = Stage::Writing { replay_from };
        self.sync.number += 1;
        let file = self.sync.slots[usize::from(self.sync.number % 2 == 1)];
        let len = buf.capacity();
        let token = self.ops.add(Pending::Checkpoint);
        self.disk.submit(token, Op::Write { file, offset: 0, data: buf.freeze(len), durable: true });
    }

    pub(super) fn checkpoint_done(&mut self, result: Result<Done, DiskError>) {
        let Stage::Writing { replay_from } = self.sync.stage else { return };
        self.sync.stage = Stage::Idle;
        match result {
            Ok(_) => {
                self.stats.checkpoints += 1;
                self.journal.release(replay_from);
                self.remove_replaced(self.sync.number);
            }
            Err(DiskError::Full { .. }) => {
                // The older checkpoint counts on; the slot is written again when housekeeping asks.
                self.sync.number -= 1;
                self.sync.changed = true;
                self.sync.cannot = self.sync.closing;
            }
            Err(error) => self.fail_all(format!("checkpoint: {error}")),
        }
    }
}
