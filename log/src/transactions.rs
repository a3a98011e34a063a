//! What a log knows of the transactions in it (KIP-98): which are open and since where, which were aborted, and what the
//! markers said last. Pure state: fed with the batches of the log in their order, rolled back with truncation.
//!
//! ```text
//! data of a producer ──> open ──marker──> ended ──below what can be truncated──> forgotten (committed)
//!                          ^                │                                    an index entry (aborted)
//!                          └───truncation───┘
//! ```
//! Markers are undone exactly as far back as `known_from`. A truncation below that (an unclean election) leaves it *lost*
//! until the log was read again from where the oldest transaction can have begun: meanwhile nothing counts as stable
//! from there on, and the log takes no appends. A log without transactions has none of this.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use wherry_wire::batch::BatchHeader;
use wherry_wire::records::EndMarker;
use wherry_wire::types::{LogId, Offset, ProducerId};

use crate::config::{MAX_ABORTED_PER_LOG, MAX_ENDED_PER_LOG, MAX_TRANSACTIONAL_PRODUCERS_PER_LOG};
use crate::error::LogError;

/// What one batch means for transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Data of a transaction.
    Data {
        /// Whose.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// Offset of the first record.
        first: Offset,
    },
    /// The end of one.
    End {
        /// As written.
        marker: EndMarker,
        /// Its offset.
        at: Offset,
    },
}

impl Step {
    /// `None` for the batches of everybody else.
    #[inline]
    pub(crate) fn of(header: &BatchHeader, bytes: &Bytes) -> Option<Self> {
        if header.is_control() {
            return EndMarker::read(header, bytes).map(|marker| Self::End { marker, at: header.base_offset });
        }
        let (producer, epoch, first) = (header.producer_id, header.producer_epoch, header.base_offset);
        (header.is_transactional() && producer >= 0).then_some(Self::Data { producer, epoch, first })
    }
}

/// A transaction that was aborted: what readers of committed records skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first: Offset,
    /// Offset of its marker.
    pub last: Offset,
    /// Whatever was aborted later began here or above.
    pub stable: Offset,
}

/// A transaction without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// Offset of its first record.
    pub(crate) first: Offset,
    /// The producer's newest epoch in it.
    pub(crate) epoch: i16,
}

/// What a producer's newest marker said. All -1: there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: Offset,
    /// Older epochs than this are fenced.
    pub(crate) epoch: i16,
    pub(crate) coordinator_epoch: i32,
}

impl Mark {
    const NONE: Self = Self { at: Offset(-1), epoch: -1, coordinator_epoch: -1 };
}

/// A transactional producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) mark: Mark,
    pub(crate) open: Option<Open>,
    /// When it last did anything, wall clock, milliseconds.
    pub(crate) last_ms: i64,
}

impl Member {
    pub(crate) const NEW: Self = Self { mark: Mark::NONE, open: None, last_ms: 0 };

    /// Refuses a marker that must not be appended: of a coordinator of the past, or of an epoch of the past, which is
    /// `newest` in the producer's data. A `strict` one (transaction.version 2) must have a newer epoch than all before it,
    /// unless it says again what was said.
    ///
    /// # Errors
    /// [`LogError::ProducerFenced`], [`LogError::CoordinatorFenced`].
    pub(crate) fn check_marker(
        &self,
        log: LogId,
        marker: &EndMarker,
        newest: i16,
        strict: bool,
    ) -> Result<(), LogError> {
        let producer = ProducerId(marker.producer_id);
        let current = newest.max(self.mark.epoch).max(self.open.map_or(-1, |open| open.epoch));
        let got = marker.producer_epoch;
        let repeated = got == current && self.open.is_none();
        if got < current || (strict && got == current && !repeated) {
            return Err(LogError::ProducerFenced { log, producer, got, current });
        }
        let (got, current) = (marker.coordinator_epoch, self.mark.coordinator_epoch);
        if got < current {
            return Err(LogError::CoordinatorFenced { log, producer, got, current });
        }
        Ok(())
    }
}

/// A marker that may still be cut off, and what was there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) at: Offset,
    pub(crate) producer: i64,
    pub(crate) before: Mark,
    pub(crate) open: Option<Open>,
}

/// Open transactions are not known: see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Reading from here on tells them.
    pub(crate) from: Offset,
    /// Below this the aborted ones are known.
    pub(crate) end: Offset,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Transactions {
    pub(crate) members: HashMap<i64, Member, RandomState>,
    /// First offsets of the open ones, and whose they are.
    pub(crate) open: BTreeMap<Offset, i64>,
    /// Ascending.
    pub(crate) ended: VecDeque<Ended>,
    /// Ascending in both: all that ended at or below the one offset and above the one before began at the other or above.
    pub(crate) lows: VecDeque<(Offset, Offset)>,
    /// Ascending by their last offset.
    pub(crate) aborted: VecDeque<Aborted>,
    /// It can be rolled back to here, and no further.
    pub(crate) known_from: Offset,
    pub(crate) lost: Option<Lost>,
}

impl Transactions {
    /// Takes the next batch of the log.
    pub(crate) fn apply(&mut self, step: Step, now_ms: i64) {
        if self.lost.is_some() {
            return;
        }
        match step {
            Step::Data { producer, epoch, first } => self.data(producer, epoch, first, now_ms),
            Step::End { marker, at } => self.end(marker, at, now_ms),
        }
    }

    fn member(&mut self, producer: i64, now_ms: i64) -> &mut Member {
        if self.members.len() >= MAX_TRANSACTIONAL_PRODUCERS_PER_LOG && !self.members.contains_key(&producer) {
            self.forget_oldest();
        }
        let member = self.members.entry(producer).or_insert(Member::NEW);
        member.last_ms = now_ms;
        member
    }

    fn data(&mut self, producer: i64, epoch: i16, first: Offset, now_ms: i64) {
        let member = self.member(producer, now_ms);
        match &mut member.open {
            Some(open) => open.epoch = open.epoch.max(epoch),
            None => {
                member.open = Some(Open { first, epoch });
                self.open.insert(first, producer);
            }
        }
    }

    fn end(&mut self, marker: EndMarker, at: Offset, now_ms: i64) {
        let EndMarker { producer_id: producer, producer_epoch: epoch, coordinator_epoch, commit } = marker;
        let member = self.member(producer, now_ms);
        let before = std::mem::replace(&mut member.mark, Mark { at, epoch, coordinator_epoch });
        let open = member.open.take();
        if let Some(Open { first, .. }) = open {
            self.open.remove(&first);
            push_low(&mut self.lows, at, first);
            if !commit {
                let stable = self.open.keys().next().copied().unwrap_or(Offset(at.0.saturating_add(1)));
                self.aborted.push_back(Aborted { producer_id: producer, first, last: at, stable });
            }
        }
        self.ended.push_back(Ended { at, producer, before, open });
        while self.ended.len() > MAX_ENDED_PER_LOG {
            self.forget_ended();
        }
        while self.lows.len() > MAX_ENDED_PER_LOG {
            // Two become one that says less: what is stable may come out too low, never too high.
            let Some((_, low)) = self.lows.pop_front() else { break };
            if let Some(next) = self.lows.front_mut() {
                next.1 = low;
            }
        }
    }

    fn forget_ended(&mut self) {
        if let Some(oldest) = self.ended.pop_front() {
            self.known_from = Offset(oldest.at.0.saturating_add(1));
        }
    }

    /// Markers below `settled` can't be cut off any more.
    pub(crate) fn settle(&mut self, settled: Offset) {
        while self.ended.front().is_some_and(|ended| ended.at < settled) {
            self.forget_ended();
        }
        let gone = self.lows.partition_point(|(at, _)| *at < settled);
        self.lows.drain(..gone);
        if self.ended.is_empty() {
            self.ended.shrink_to_fit();
            self.lows.shrink_to_fit();
        }
    }

    /// The last stable offset for a reader who may see up to `upto`: what lies below it belongs to no transaction whose end
    /// lies at or above `upto`, or is still to come.
    pub(crate) fn stable_end(&self, upto: Offset) -> Offset {
        let open = self.open.keys().next().copied();
        let ended = self.lows.get(self.lows.partition_point(|(at, _)| *at < upto)).map(|(_, first)| *first);
        let lost = self.lost.map(|lost| lost.from);
        open.into_iter().chain(ended).chain(lost).fold(upto, Offset::min)
    }

    /// The aborted transactions that have a part in the records from `from` up to `upto`, by their end.
    pub(crate) fn aborted_in(&self, from: Offset, upto: Offset) -> Vec<Aborted> {
        let mut found = Vec::new();
        let first = self.aborted.partition_point(|aborted| aborted.last < from);
        for aborted in self.aborted.range(first..) {
            if aborted.first < upto {
                found.push(*aborted);
            }
            if aborted.stable >= upto {
                break;
            }
        }
        found
    }

    /// Whether data of a producer at this offset was aborted.
    pub(crate) fn is_aborted(&self, producer: i64, offset: Offset) -> bool {
        let after = self.aborted.partition_point(|aborted| aborted.last <= offset);
        for aborted in self.aborted.range(after..) {
            // The first end after it is the end of what it belongs to.
            if aborted.producer_id == producer {
                return aborted.first <= offset;
            }
            if aborted.stable > offset {
                return false;
            }
        }
        false
    }

    /// Forgets what was at and above `end`. Where it does not know enough for that, it is lost: what is open must be read
    /// from `scan_from` on, which is at or below `end`.
    pub(crate) fn truncate(&mut self, end: Offset, scan_from: Offset) {
        while self.aborted.back().is_some_and(|aborted| aborted.last >= end) {
            self.aborted.pop_back();
        }
        for (_, producer) in self.open.split_off(&end) {
            if let Some(member) = self.members.get_mut(&producer) {
                member.open = None;
            }
        }
        while self.ended.back().is_some_and(|ended| ended.at >= end) {
            let Some(Ended { producer, before, open, .. }) = self.ended.pop_back() else { break };
            let member = self.members.entry(producer).or_insert(Member::NEW);
            member.mark = before;
            if let Some(open) = open.filter(|open| open.first < end) {
                member.open = Some(open);
                self.open.insert(open.first, producer);
            }
        }
        // What a low had pushed out need not come back with it gone: its transaction, which began earlier, is open again.
        while self.lows.back().is_some_and(|(at, _)| *at >= end) {
            self.lows.pop_back();
        }
        if end < self.known_from || self.lost.is_some() {
            self.lose(end, scan_from);
        }
        self.members.retain(|_, member| *member != Member { last_ms: member.last_ms, ..Member::NEW });
    }

    fn lose(&mut self, end: Offset, scan_from: Offset) {
        let (from, end) = self.lost.map_or((scan_from, end), |lost| (lost.from.min(scan_from), lost.end.min(end)));
        self.lost = Some(Lost { from, end });
        self.open.clear();
        self.ended.clear();
        for member in self.members.values_mut() {
            member.open = None;
            if member.mark.at >= end {
                member.mark = Mark::NONE;
            }
        }
    }

    /// The log was read again, from where [`Lost`] says to its end: what was found there.
    pub(crate) fn found(&mut self, found: Self, log_end: Offset) {
        let Some(lost) = self.lost.take() else { return };
        for (producer, seen) in found.members {
            let member = self.members.entry(producer).or_insert(Member { last_ms: seen.last_ms, ..Member::NEW });
            member.open = seen.open;
            if seen.mark.at > member.mark.at {
                member.mark = seen.mark;
            }
        }
        self.open = found.open;
        for (at, first) in found.lows.into_iter().filter(|(at, _)| *at >= lost.end) {
            push_low(&mut self.lows, at, first);
        }
        self.aborted.extend(found.aborted.into_iter().filter(|aborted| aborted.last >= lost.end));
        self.known_from = log_end;
    }

    /// Records below `start` are gone.
    pub(crate) fn advance_start(&mut self, start: Offset) {
        let gone = self.aborted.partition_point(|aborted| aborted.last < start);
        self.aborted.drain(..gone);
    }

    /// Compaction has removed all of these transactions, markers included; their last offsets, ascending.
    pub(crate) fn compacted_away(&mut self, markers: &[Offset]) {
        self.aborted.retain(|aborted| markers.binary_search(&aborted.last).is_err());
    }

    /// Refuses data that must not be appended.
    ///
    /// # Errors
    /// [`LogError::ProducerFenced`], [`LogError::InvalidTransaction`], [`LogError::TooManyTransactions`].
    pub(crate) fn check_data(&self, log: LogId, header: &BatchHeader) -> Result<(), LogError> {
        let Some(producer) = header.producer() else { return Ok(()) };
        let member = self.members.get(&producer.0).copied().unwrap_or(Member::NEW);
        let (got, current) = (header.producer_epoch, member.mark.epoch);
        if got < current {
            return Err(LogError::ProducerFenced { log, producer, got, current });
        }
        match (member.open, header.is_transactional()) {
            (Some(_), true) | (None, false) => Ok(()),
            (Some(Open { first, .. }), false) => {
                let what = format!("a batch outside of its transaction, which is open since offset {first}");
                Err(LogError::InvalidTransaction { log, producer, what })
            }
            (None, true) => self.check_opening(log),
        }
    }

    fn check_opening(&self, log: LogId) -> Result<(), LogError> {
        if self.open.len() >= MAX_TRANSACTIONAL_PRODUCERS_PER_LOG {
            let what = format!("{} transactions are open", self.open.len());
            return Err(LogError::TooManyTransactions { log, what });
        }
        if self.aborted.len() >= MAX_ABORTED_PER_LOG {
            let what = format!(
                "{} aborted transactions are in it; delete records, or shorten its retention",
                self.aborted.len()
            );
            return Err(LogError::TooManyTransactions { log, what });
        }
        Ok(())
    }

    /// Whether a producer has a transaction open.
    pub(crate) fn has_open(&self, producer: i64) -> bool {
        self.members.get(&producer).is_some_and(|member| member.open.is_some())
    }

    /// Open transactions.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Open transactions that nothing was added to since `before_ms`.
    pub(crate) fn late_count(&self, before_ms: i64) -> usize {
        self.members.values().filter(|member| member.open.is_some() && member.last_ms < before_ms).count()
    }

    /// Forgets producers without an open transaction that did nothing since `before_ms`.
    pub(crate) fn expire(&mut self, before_ms: i64) {
        self.members.retain(|_, member| member.open.is_some() || member.last_ms >= before_ms);
    }

    fn forget_oldest(&mut self) {
        let idle = self.members.iter().filter(|(_, member)| member.open.is_none());
        if let Some(producer) = idle.min_by_key(|(_, member)| member.last_ms).map(|(producer, _)| *producer) {
            self.members.remove(&producer);
        }
    }

    /// Nothing is known, and nothing needs to be: not even that there was something.
    pub(crate) fn is_idle(&self, log_start: Offset) -> bool {
        let nothing = self.members.is_empty() && self.ended.is_empty() && self.aborted.is_empty();
        nothing && self.lost.is_none() && self.known_from <= log_start
    }

    /// The open ones are those of the members: for what comes from a checkpoint.
    pub(crate) fn index_open(&mut self) {
        self.open = self.members.iter().filter_map(|(producer, m)| Some((m.open?.first, *producer))).collect();
    }
}

/// Keeps the minima of all suffixes: what came before and began later says nothing any more.
fn push_low(lows: &mut VecDeque<(Offset, Offset)>, at: Offset, first: Offset) {
    while lows.back().is_some_and(|(_, before)| *before >= first) {
        lows.pop_back();
    }
    lows.push_back((at, first));
}

#[cfg(test)]
#[path = "transactions_tests.rs"]
mod tests;
