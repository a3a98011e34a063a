//! What a replica asks of its log beyond what a leader does: appends as the leader stored them, a new beginning, and word
//! of batches that may be sent before they are durable here.

use wherry_wire::batch::CheckedBatch;
use wherry_wire::types::{LogId, Offset};

use super::append::{Appended, check_start};
use super::{Engine, Event};
use crate::Ticket;
use crate::error::LogError;
use crate::io::Disk;
use crate::journal::entry::Control;
use crate::partition::{FlushState, Partition};

impl<D: Disk> Engine<D> {
    /// Appends batches as the leader stored them: at the offsets and under the epochs that they carry. An offset above
    /// the log's end leaves a gap, where the leader has compacted. Producers are remembered and not checked: the leader
    /// has decided.
    ///
    /// # Errors
    /// Nothing is appended on an error: [`LogError::OutOfRange`] for a batch below the end of what is before it,
    /// [`LogError::StaleEpoch`] for one of an epoch before the newest, else as [`Engine::append`].
    pub fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError> {
        self.check_room()?;
        let index = self.writable(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        self.check_replicated(log, batches)?;
        self.append_as_stored(index, batches, now_ms)
    }

    fn check_replicated(&self, log: &Partition, batches: &[CheckedBatch]) -> Result<(), LogError> {
        let reject = |what: &str| Err(LogError::Rejected { log: log.id, what: what.into() });
        if batches.is_empty() {
            return reject("an append without batches");
        }
        let (mut next, mut latest) = (log.log_end, log.epochs.latest());
        for header in batches.iter().map(CheckedBatch::header) {
            let (offset, got) = (header.base_offset, header.leader_epoch);
            if offset < next {
                return Err(LogError::OutOfRange { log: log.id, offset, start: log.log_start, end: next });
            }
            if let Some(latest) = latest.filter(|latest| got < *latest) {
                return Err(LogError::StaleEpoch { log: log.id, got, latest });
            }
            let Some(after) = offset.checked_add(i64::from(header.last_offset_delta) + 1) else {
                return reject("offsets are used up");
            };
            (next, latest) = (after, Some(got));
        }
        batches.iter().try_for_each(|batch| self.check_size(log.id, batch))
    }

    fn append_as_stored(&mut self, index: usize, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError> {
        let Some(log) = self.logs.get_mut(index) else { return Err(LogError::ReadOnly("no such slot".into())) };
        let mut appended = Appended {
            base_offset: batches.first().map_or(log.log_end, |b| b.header().base_offset),
            last_offset: log.log_end,
            ticket: Ticket(0),
            duplicate: false,
            log_start: log.log_start,
        };
        for batch in batches {
            let (base, epoch) = (batch.header().base_offset, batch.header().leader_epoch);
            let gap_after = Some(log.log_end).filter(|end| *end != base);
            let Some((lsn, header)) = self.journal.append(index, log.id, batch, base, epoch, gap_after) else {
                return Err(LogError::Rejected { log: log.id, what: "the batch does not fit a frame".into() });
            };
            log.remember(&header, batch.bytes(), lsn.frame(), now_ms);
            appended.ticket = Ticket(lsn.frame());
            appended.last_offset = header.last_offset();
            self.stats.batches += 1;
            self.stats.appended_bytes += batch.len() as u64;
        }
        Ok(appended)
    }

    /// Throws away everything in a log, damage included, and goes on at `start` with no epochs and no producers. A crash
    /// leaves either the log as it was or the new one.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], [`LogError::ReadOnly`], [`LogError::OutOfRange`] for a negative start;
    /// [`LogError::Corrupt`] where a write failed: such a log is read-only for the life of the process (INV-5).
    pub fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        self.check_journal()?;
        check_start(id, start)?;
        let index = self.index_of(id)?;
        if let Some(log) = self.logs.get(index).filter(|log| log.flush == FlushState::Failed) {
            log.check_writable()?;
        }
        let lsn = self.journal_control(id, Control::Restart { start })?;
        self.restart_at(index, start, lsn);
        Ok(Ticket(lsn.frame()))
    }

    pub(super) fn restart_at(&mut self, index: usize, start: Offset, lsn: crate::Lsn) {
        let Some(log) = self.logs.get_mut(index) else { return };
        let mut fresh = Partition::new(log.id, log.config.clone(), start, lsn);
        fresh.watched = log.watched;
        let old = std::mem::replace(log, fresh);
        let gone = LogError::OutOfRange { log: old.id, offset: old.log_start, start, end: start };
        self.abandon(index, &old, lsn, &gone);
    }

    /// Records from `end` on may still be truncated: retention and compaction leave them alone, for what a newer record
    /// replaced would be missed when that one is cut off. Until this is called, and after a restart, nothing is spared.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    pub fn set_settled_end(&mut self, id: LogId, end: Offset) -> Result<(), LogError> {
        let index = self.index_of(id)?;
        self.logs.get_mut(index).ok_or(LogError::NoSuchLog(id))?.settled_end = end;
        Ok(())
    }

    /// Asks for [`Event::Sealed`] whenever batches of this log are sealed, or no longer.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    pub fn watch_sealed(&mut self, id: LogId, watch: bool) -> Result<(), LogError> {
        let index = self.index_of(id)?;
        let log = self.logs.get_mut(index).ok_or(LogError::NoSuchLog(id))?;
        self.watched = self.watched + usize::from(watch) - usize::from(log.watched);
        log.watched = watch;
        Ok(())
    }

    /// The newest frame was sealed.
    pub(super) fn tell_sealed(&mut self, seq: u64) {
        if self.watched == 0 {
            return;
        }
        let Some(frame) = self.frames.back().filter(|frame| frame.seq == seq) else { return };
        for log in frame.logs.iter().filter_map(|index| self.logs.get(*index as usize)).filter(|log| log.watched) {
            self.events.push(Event::Sealed(log.id));
        }
    }
}
