//! Appends and the other journaled changes of a log: checked, given a place in the journal, acknowledged by ticket.

use wherry_wire::batch::{BatchHeader, CheckedBatch};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::{Engine, FrameMemory};
use crate::config::{LogConfig, MAX_BATCH_BYTES};
use crate::error::LogError;
use crate::io::Disk;
use crate::journal::entry::Control;
use crate::partition::{Partition, TailBatch};
use crate::producers::Verdict;
use crate::segment::Segment;
use crate::{Lsn, Ticket};

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// On disk when [`super::Event::Durable`] reaches it.
    pub ticket: Ticket,
    /// A retry of what was appended before: these are the original's offsets and ticket.
    pub duplicate: bool,
    /// First offset of the log now.
    pub log_start: Offset,
}

/// A log can't begin below 0.
pub(super) fn check_start(log: LogId, start: Offset) -> Result<(), LogError> {
    if start >= Offset::ZERO {
        return Ok(());
    }
    Err(LogError::OutOfRange { log, offset: start, start: Offset::ZERO, end: Offset(i64::MAX) })
}

impl<D: Disk> Engine<D> {
    /// Appends batches at the end of a log, in this order. They are acknowledged when the ticket is durable.
    ///
    /// # Errors
    /// Nothing is appended on an error: see [`LogError`].
    pub fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.check_room()?;
        self.append_reserved(id, batches, epoch, now_ms)
    }

    /// Whether there is room on disk for data.
    pub(super) fn check_room(&mut self) -> Result<(), LogError> {
        self.check_journal()?;
        if self.house.full {
            return Err(LogError::Full { reserve: self.config.reserve_bytes });
        }
        self.look_while_growing();
        if self.room_unknown() {
            self.busy = true;
            return Err(LogError::Busy { waiting: self.waiting_bytes() });
        }
        Ok(())
    }

    /// The log's slot, if it takes appends and there is memory for one.
    pub(super) fn writable(&mut self, id: LogId) -> Result<usize, LogError> {
        self.check_journal()?;
        let waiting = self.waiting_bytes();
        if waiting > self.config.tail_bytes {
            self.busy = true;
            return Err(LogError::Busy { waiting });
        }
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        log.check_writable()?;
        if log.lost_transactions() {
            self.retraces.refused = true;
            return Err(LogError::Busy { waiting });
        }
        Ok(index)
    }

    /// As [`Engine::append`], but into the space kept in reserve as well: for the owner's own logs, which must take
    /// records (deletions of topics, above all) when the disk is too full for data (rule 6).
    ///
    /// # Errors
    /// As [`Engine::append`], without [`LogError::Full`].
    pub fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let index = self.writable(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        if log.producers.any_lost() && batches.iter().any(|b| log.producers.is_lost(b.header())) {
            self.rollbacks.refused = true;
            return Err(LogError::Busy { waiting: self.waiting_bytes() });
        }
        if let Some(duplicate) = self.check_batches(log, batches)? {
            return Ok(duplicate);
        }
        self.append_checked(index, batches, epoch, now_ms)
    }

    /// A retry of the whole request is answered with the original; a fresh one passes.
    fn check_batches(&self, log: &Partition, batches: &[CheckedBatch]) -> Result<Option<Appended>, LogError> {
        let reject = |what: String| Err(LogError::Rejected { log: log.id, what });
        if batches.is_empty() {
            return reject("an append without batches".into());
        }
        let mut next = log.log_end;
        for batch in batches {
            self.check_size(log.id, batch)?;
            let Some(after) = next.checked_add(i64::from(batch.header().last_offset_delta) + 1) else {
                return reject("offsets are used up".into());
            };
            next = after;
            if batches.len() > 1 && batch.header().producer().is_some() {
                return reject("idempotent producers send one batch per partition and request".into());
            }
            if let Some(transactions) = &log.transactions {
                transactions.check_data(log.id, batch.header())?;
            }
            if let Verdict::Duplicate(known) = log.producers.check(log.id, batch.header())? {
                return Ok(Some(Appended {
                    base_offset: known.base,
                    last_offset: known.last,
                    ticket: Ticket(known.frame),
                    duplicate: true,
                    log_start: log.log_start,
                }));
            }
        }
        Ok(None)
    }

    pub(super) fn check_size(&self, log: LogId, batch: &CheckedBatch) -> Result<(), LogError> {
        let limit = self.journal.max_batch().min(MAX_BATCH_BYTES);
        if batch.len() <= limit {
            return Ok(());
        }
        let what = format!("a batch of {} bytes is larger than the journal takes ({limit})", batch.len());
        Err(LogError::Rejected { log, what })
    }

    pub(super) fn append_checked(
        &mut self,
        index: usize,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let Some(log) = self.logs.get_mut(index) else { return Err(LogError::ReadOnly("no such slot".into())) };
        let base_offset = log.log_end;
        let mut frame = 0;
        for batch in batches {
            let Some((lsn, header)) = self.journal.append(index, log.id, batch, log.log_end, epoch, None) else {
                return Err(LogError::Rejected { log: log.id, what: "the batch does not fit a frame".into() });
            };
            log.remember(&header, batch.bytes(), lsn.frame(), now_ms);
            frame = lsn.frame();
            self.stats.batches += 1;
            self.stats.appended_bytes += batch.len() as u64;
        }
        Ok(Appended {
            base_offset,
            last_offset: Offset(log.log_end.0 - 1),
            ticket: Ticket(frame),
            duplicate: false,
            log_start: log.log_start,
        })
    }

    pub(super) fn check_journal(&self) -> Result<(), LogError> {
        self.journal.failed().map_or(Ok(()), |why| Err(LogError::ReadOnly(why.to_owned())))
    }

    pub(super) fn index_of(&self, id: LogId) -> Result<usize, LogError> {
        self.by_id.get(&id).copied().ok_or(LogError::NoSuchLog(id))
    }

    /// Bytes that wait for a disk: what the bound on memory is about.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.journal.queued_bytes() + self.tail_bytes.saturating_sub(self.config.tail_bytes / 2)
    }

    /// Appends are refused as busy from here on; a caller that can wait should stop reading requests.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.waiting_bytes() > self.config.tail_bytes / 2
    }

    pub(super) fn tell_room(&mut self) {
        if self.busy && !self.overloaded() && !self.room_unknown() {
            self.busy = false;
            self.events.push(super::Event::Room);
        }
    }

    /// Makes an empty log that begins at offset 0.
    ///
    /// # Errors
    /// [`LogError::Exists`], [`LogError::ReadOnly`].
    pub fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        self.create_log_at(id, config, Offset::ZERO)
    }

    /// Makes an empty log that begins at `start`: a replica of one whose earlier records are gone.
    ///
    /// # Errors
    /// As [`Engine::create_log`]; [`LogError::OutOfRange`] for a negative start.
    pub fn create_log_at(&mut self, id: LogId, config: LogConfig, start: Offset) -> Result<Ticket, LogError> {
        self.check_journal()?;
        check_start(id, start)?;
        if self.by_id.contains_key(&id) {
            return Err(LogError::Exists(id));
        }
        let lsn = self.journal_control(id, Control::Create { start })?;
        let index = self.logs.insert(Partition::new(id, config, start, lsn));
        self.by_id.insert(id, index);
        self.sync.changed = true;
        Ok(Ticket(lsn.frame()))
    }

    /// Settings from now on. They are not stored: the owner gives them again after a restart.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    pub fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError> {
        let index = self.index_of(id)?;
        if let Some(log) = self.logs.get_mut(index) {
            log.config = config;
        }
        Ok(())
    }

    /// Removes a log and everything in it.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], [`LogError::ReadOnly`].
    pub fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError> {
        self.check_journal()?;
        let index = self.index_of(id)?;
        let lsn = self.journal_control(id, Control::Delete)?;
        self.drop_log(index, lsn);
        Ok(Ticket(lsn.frame()))
    }

    pub(super) fn drop_log(&mut self, index: usize, lsn: Lsn) {
        let Some(log) = self.logs.try_remove(index) else { return };
        self.by_id.remove(&log.id);
        self.watched -= usize::from(log.watched);
        self.abandon(index, &log, lsn, &LogError::NoSuchLog(log.id));
    }

    /// All that is under way for a log that is gone, or begins anew, ends here; reads end with `error`.
    pub(super) fn abandon(&mut self, index: usize, log: &Partition, lsn: Lsn, error: &LogError) {
        self.journal.void(index, Offset(i64::MIN));
        self.flushes.forget(index);
        self.rollbacks.forget(index);
        self.retraces.forget(index);
        for frame in &mut self.frames {
            frame.logs.retain(|i| *i as usize != index);
        }
        self.reads.log_gone(index, log.id, error, &mut self.events);
        self.remove_segments(log.id, &log.segments, lsn);
        self.sync.forget(index);
        self.sync.changed = true;
    }

    pub(super) fn remove_segments(&mut self, id: LogId, segments: &[Segment], lsn: Lsn) {
        for segment in segments {
            self.removals.push_back((lsn.frame(), segment.key(id)));
        }
    }

    /// Drops the records at and above `to`, and gives the log's new end: `to`, or the end of the last batch that is left
    /// where `to` falls into a batch (which goes as a whole) or a gap. In segments only the caller knows where batches
    /// begin: there `to` must be such a place, as the start of an epoch is.
    ///
    /// What is appended from now on comes after the truncation, also on disk; what idempotent producers are told rolls
    /// back with it. Where a producer's last batches must be looked up in segments first, its appends are busy meanwhile.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] beyond the end or below the start.
    pub fn truncate(&mut self, id: LogId, to: Offset) -> Result<(Ticket, Offset), LogError> {
        self.check_journal()?;
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        if to < log.log_start || to > log.log_end {
            return Err(LogError::OutOfRange { log: id, offset: to, start: log.log_start, end: log.log_end });
        }
        let to = self.end_of_batch(index, to);
        let lsn = self.journal_control(id, Control::Truncate { to })?;
        self.truncate_at(index, to, lsn);
        Ok((Ticket(lsn.frame()), to))
    }

    /// Rounds down to where the last batch that stays ends, as far as memory tells.
    fn end_of_batch(&self, index: usize, to: Offset) -> Offset {
        let Some(log) = self.logs.get(index) else { return to };
        let unsealed = self.journal.unsealed(index).rev().map(|i| &i.header);
        let last = unsealed.chain(log.tail.iter().rev().map(|b| &b.header)).find(|h| h.next_offset() <= to);
        last.map_or(to.min(log.written_end), BatchHeader::next_offset)
    }

    pub(super) fn truncate_at(&mut self, index: usize, to: Offset, lsn: Lsn) {
        self.journal.void(index, to);
        let unsealed = self.journal.unsealed(index).next().is_some();
        let Some(log) = self.logs.get_mut(index) else { return };
        let id = log.id;
        let gone = log.truncate(to, lsn, unsealed);
        self.remove_segments(id, &gone, lsn);
        self.reads.forget_log(id);
        self.roll_producers_back(index);
        self.retrace_if_lost(index);
        self.sync.forget(index);
        self.sync.changed = true;
    }

    /// Drops the records below `before` (which may be the durable end at the most).
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] beyond the durable end.
    pub fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        self.check_journal()?;
        let index = self.index_of(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        if before > log.durable_end || before < Offset::ZERO {
            return Err(LogError::OutOfRange { log: id, offset: before, start: log.log_start, end: log.durable_end });
        }
        if before <= log.log_start {
            return Ok(self.durable());
        }
        let lsn = self.journal_control(id, Control::LogStart { start: before })?;
        self.advance_start_at(index, before, lsn);
        Ok(Ticket(lsn.frame()))
    }

    pub(super) fn advance_start_at(&mut self, index: usize, start: Offset, lsn: Lsn) {
        let Some(log) = self.logs.get_mut(index) else { return };
        let id = log.id;
        let gone = log.advance_start(start);
        self.remove_segments(id, &gone, lsn);
        self.sync.changed = true;
        self.events.push(super::Event::StartMoved(id, start));
    }

    pub(super) fn journal_control(&mut self, id: LogId, control: Control) -> Result<Lsn, LogError> {
        let lsn = self.journal.control(id, control);
        lsn.ok_or_else(|| LogError::Rejected { log: id, what: "the entry does not fit a frame".into() })
    }

    /// Starts the next frame and hands its batches to the tails of their logs.
    pub(super) fn commit(&mut self) {
        let Some(sealed) = self.journal.pump(&mut self.disk, &mut self.ops, self.now.monotonic_ns) else { return };
        self.stats.frames += 1;
        self.stats.journal_bytes += sealed.bytes.len() as u64;
        let mut logs: Vec<u32> = Vec::new();
        for item in sealed.items.iter().filter(|i| !i.void) {
            let Some(log) = self.logs.get_mut(item.log) else { continue };
            log.push_tail(TailBatch { header: item.header, bytes: sealed.batch(item), lsn: item.lsn });
            let index = u32::try_from(item.log).unwrap_or(u32::MAX);
            if logs.last() != Some(&index) {
                logs.push(index);
            }
        }
        self.keep_frame(sealed.seq, sealed.bytes.len(), logs);
        self.tell_sealed(sealed.seq);
    }

    /// Counts a frame whose batches are in the tails of these logs.
    pub(super) fn keep_frame(&mut self, seq: u64, bytes: usize, mut logs: Vec<u32>) {
        logs.sort_unstable();
        logs.dedup();
        if !logs.is_empty() {
            self.frames.push_back(FrameMemory { seq, bytes, before: self.framed_bytes, logs });
            self.framed_bytes += bytes as u64;
            self.tail_bytes += bytes;
        }
    }

    pub(super) fn mark_if_quiet(&mut self) {
        let deadline = self.journal.mark_deadline(self.config.mark_after_ms * 1_000_000);
        if deadline.is_some_and(|at| at <= self.now.monotonic_ns) {
            self.journal.mark();
        }
    }
}
