//! Message ids in the partitions that this node leads: reading them back from the log, asking for them, remembering them.
//!
//! ```text
//!              first batch whose producer asks              all read, all committed
//! (nothing) ───────────────────────────────────▶ Loading ─────────────────────────────▶ Serving
//!     ▲                                             │                                      │
//!     └────────── another epoch, another role, or the log can't be read ──────────────────┘
//! ```
//! Nothing is read where nobody asks. While it is read, who asks is told to come again; other producers' batches are appended
//! and their ids kept aside. A duplicate is told only when the record that had the id first is committed: "it is there
//! already" promises no less than an acknowledgement.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use foldhash::fast::RandomState;
use smallvec::SmallVec;
use wherry_metadata::PartitionId;
use wherry_wire::batch::{BatchHeader, CheckedBatch};
use wherry_wire::codec::dedupe::Duplicate;
use wherry_wire::records::{EndMarker, message_ids};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::Core;
use super::duties::log_of;
use super::store::{LogError, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::dedupe::{Found, Ids, MessageId};
use crate::limits::{
    GROUP_LOAD_BYTES, GROUP_LOAD_RETRY_MS, MAX_INSPECTED_BATCH_BYTES, MAX_MESSAGE_ID_LOADS, MAX_MESSAGE_IDS,
};
use crate::mutation::mutated;

/// The ids in a batch: the place of each record behind the batch's first, and its id.
pub(crate) type BatchIds = SmallVec<[(i32, MessageId); 1]>;

/// What asking for the ids of a batch gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// None is known.
    Fresh,
    /// Ascending by index; the first records are committed.
    Duplicates(Vec<Duplicate>),
    /// Not to be said yet.
    NotYet(&'static str),
}

/// What a topic asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) ns: u64,
    pub(crate) max_ids: usize,
}

#[derive(Debug)]
struct Seat {
    epoch: LeaderEpoch,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Loading(Box<Load>),
    Serving(Ids),
}

#[derive(Debug)]
struct Load {
    next: Offset,
    /// Where the log ended when it began.
    upto: Offset,
    step: Step,
    window: Window,
    read: Ids,
    /// What was appended since.
    fresh: Ids,
    /// Transactions that have ended since, by producer, and whether they were committed.
    ended: Vec<(i64, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Reading,
    ReadAt(u64),
    /// Until more is committed. Looked at in every turn.
    Wait,
}

/// The ids of all partitions.
#[derive(Debug)]
pub(crate) struct MessageIds {
    seed: u64,
    seats: HashMap<LogId, Seat, RandomState>,
    /// In the order in which they were asked for; the first few are read.
    loading: Vec<LogId>,
    reads: Vec<(ReadToken, LogId)>,
    /// Ids that are held, of all partitions.
    held: usize,
}

impl MessageIds {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, seats: HashMap::default(), loading: Vec::new(), reads: Vec::new(), held: 0 }
    }

    /// Whose read this is, if it is one of these.
    pub(crate) fn take_read(&mut self, token: ReadToken) -> Option<LogId> {
        let at = self.reads.iter().position(|(awaited, _)| *awaited == token)?;
        Some(self.reads.swap_remove(at).1)
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let loads = self.loading.iter().take(MAX_MESSAGE_ID_LOADS).filter_map(|log| self.step(*log));
        let deadlines = loads.filter_map(|step| match step {
            Step::Read => Some(0),
            Step::ReadAt(at_ns) => Some(at_ns),
            Step::Reading | Step::Wait => None,
        });
        deadlines.min()
    }

    fn step(&self, log: LogId) -> Option<Step> {
        match &self.seats.get(&log)?.phase {
            Phase::Loading(load) => Some(load.step),
            Phase::Serving(_) => None,
        }
    }

    fn load(&mut self, log: LogId) -> Option<&mut Load> {
        match &mut self.seats.get_mut(&log)?.phase {
            Phase::Loading(load) => Some(load),
            Phase::Serving(_) => None,
        }
    }

    /// Does something with what new ids go into; the count of all ids goes with it.
    fn with_ids<T>(&mut self, log: LogId, epoch: LeaderEpoch, then: impl FnOnce(&mut Ids) -> T) -> Option<T> {
        let ids = match &mut self.seats.get_mut(&log).filter(|seat| seat.epoch == epoch)?.phase {
            Phase::Loading(load) => &mut load.fresh,
            Phase::Serving(ids) => ids,
        };
        let before = ids.len();
        let done = then(ids);
        self.held = self.held.saturating_add(ids.len()).saturating_sub(before);
        Some(done)
    }

    fn drop_seat(&mut self, log: LogId) {
        let held = self.seats.remove(&log).map_or(0, |seat| match seat.phase {
            Phase::Loading(load) => load.read.len() + load.fresh.len(),
            Phase::Serving(ids) => ids.len(),
        });
        self.held = self.held.saturating_sub(held);
        self.loading.retain(|loading| *loading != log);
        self.reads.retain(|(_, reading)| *reading != log);
    }

    /// Ids that are held, of all partitions.
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

fn ids_of(seed: u64, header: &BatchHeader, batch: &Bytes) -> Result<BatchIds, String> {
    let mut ids = BatchIds::new();
    let take = |index, id: &[u8]| ids.push((index, MessageId::of(seed, id)));
    message_ids(header, batch, MAX_INSPECTED_BATCH_BYTES, take).map_err(|error| error.to_string())?;
    Ok(ids)
}

fn transaction_of(header: &BatchHeader) -> Option<i64> {
    header.producer().filter(|_| header.is_transactional()).map(|producer| producer.0)
}

impl<S: LogStore> Core<S> {
    /// The ids in a batch that is to be appended. Batches are looked into only where it matters: `asks` says that the producer
    /// wants to hear of duplicates.
    ///
    /// # Errors
    /// The batch can't be read.
    pub(crate) fn ids_in(&self, log: LogId, batch: &CheckedBatch, asks: bool) -> Result<BatchIds, String> {
        if !asks && !self.message_ids.seats.contains_key(&log) {
            return Ok(BatchIds::new());
        }
        ids_of(self.message_ids.seed, batch.header(), batch.bytes())
    }

    /// Which of these ids are known already.
    pub(crate) fn find_ids(
        &mut self,
        log: LogId,
        epoch: LeaderEpoch,
        window: Window,
        batch: &CheckedBatch,
        ids: &BatchIds,
    ) -> Verdict {
        if ids.is_empty() {
            return Verdict::Fresh;
        }
        let committed = self.committed_end(log);
        let before_ns = self.now.monotonic_ns.saturating_sub(window.ns);
        self.message_ids.with_ids(log, epoch, |known| known.forget(before_ns, window.max_ids));
        let seat = self.message_ids.seats.get(&log).filter(|seat| seat.epoch == epoch);
        let Some(Seat { phase: Phase::Serving(known), .. }) = seat else {
            self.begin_id_load(log, epoch, window);
            return Verdict::NotYet("the partition's message ids are being read back from its log");
        };
        let mut seen: HashSet<MessageId, RandomState> = HashSet::default();
        let mut duplicates = Vec::new();
        for (index, id) in ids {
            let index = index.cast_unsigned();
            match known.find(*id, transaction_of(batch.header())) {
                Some(Found::Undecided) => return Verdict::NotYet("another transaction with this message id is open"),
                Some(Found::At(offset)) if committed.is_none_or(|end| offset >= end) && !mutated!(HastyDuplicates) => {
                    return Verdict::NotYet("the first message with this id is not committed yet");
                }
                Some(Found::At(offset)) => duplicates.push(Duplicate { index, offset: offset.0 }),
                None if ids.len() > 1 && !seen.insert(*id) => {
                    duplicates.push(Duplicate { index, offset: -1 });
                }
                None => {}
            }
        }
        if duplicates.is_empty() { Verdict::Fresh } else { Verdict::Duplicates(duplicates) }
    }

    /// A batch was appended at `base`.
    pub(crate) fn remember_ids(
        &mut self,
        log: LogId,
        epoch: LeaderEpoch,
        window: Window,
        batch: &CheckedBatch,
        base: Offset,
        ids: &BatchIds,
    ) {
        let (now_ns, full) = (self.now.monotonic_ns, self.message_ids.held >= MAX_MESSAGE_IDS);
        let producer = transaction_of(batch.header());
        self.message_ids.with_ids(log, epoch, |known| {
            // Without memory for more, new ids take the place of this partition's oldest.
            let most = if full { known.len() } else { window.max_ids };
            if let Some(producer) = producer {
                known.begin(producer, base);
            }
            for (index, id) in ids {
                known.insert(*id, Offset(base.0.saturating_add(i64::from(*index))), now_ns, producer);
            }
            known.forget(now_ns.saturating_sub(window.ns), most.min(window.max_ids));
        });
    }

    /// A producer's transaction ended in a partition.
    pub(crate) fn ids_take_marker(&mut self, log: LogId, epoch: LeaderEpoch, producer_id: i64, commit: bool) {
        if let Some(load) = self.message_ids.load(log) {
            // What it ends may be yet to be read.
            load.ended.push((producer_id, commit));
        }
        self.message_ids.with_ids(log, epoch, |ids| ids.end(producer_id, commit));
    }

    /// This node leads a partition in an epoch, or no longer.
    pub(crate) fn id_duty(&mut self, id: PartitionId, leads_in: Option<LeaderEpoch>) {
        let log = log_of(id);
        if self.message_ids.seats.get(&log).is_some_and(|seat| Some(seat.epoch) != leads_in) {
            self.message_ids.drop_seat(log);
        }
    }

    fn begin_id_load(&mut self, log: LogId, epoch: LeaderEpoch, window: Window) {
        if self.message_ids.seats.get(&log).is_some_and(|seat| seat.epoch == epoch) {
            return;
        }
        self.message_ids.drop_seat(log);
        let Some(info) = self.store.info(log) else { return };
        // Each id took an offset at least.
        let most = i64::try_from(window.max_ids).unwrap_or(i64::MAX);
        let next = info.log_start.max(Offset(info.log_end.0.saturating_sub(most)));
        let next = if mutated!(UnreadIds) { info.log_end } else { next };
        let (read, fresh) = (Ids::default(), Ids::default());
        let load = Load { next, upto: info.log_end, step: Step::Read, window, read, fresh, ended: Vec::new() };
        self.message_ids.seats.insert(log, Seat { epoch, phase: Phase::Loading(Box::new(load)) });
        self.message_ids.loading.push(log);
        self.load_some_ids(log);
    }

    /// Goes on with the loads whose turn it is, each by a bounded piece.
    pub(super) fn load_message_ids(&mut self) {
        let due: SmallVec<[LogId; MAX_MESSAGE_ID_LOADS]> =
            self.message_ids.loading.iter().take(MAX_MESSAGE_ID_LOADS).copied().collect();
        for log in due {
            self.load_some_ids(log);
        }
    }

    /// A read of a load came back from the disk.
    pub(super) fn id_read_done(&mut self, log: LogId, result: Result<Served, LogError>) {
        if let Some(load) = self.message_ids.load(log) {
            load.step = Step::Read;
        }
        self.take_ids(log, result);
    }

    fn load_some_ids(&mut self, log: LogId) {
        let (committed, now_ns) = (self.committed_end(log), self.now.monotonic_ns);
        let Some(load) = self.message_ids.load(log) else { return };
        match load.step {
            Step::Reading => return,
            Step::ReadAt(at_ns) if at_ns > now_ns => return,
            Step::Read | Step::ReadAt(_) | Step::Wait => {}
        }
        let (next, upto) = (load.next, load.upto);
        match committed {
            Some(end) if next < upto && next < end => self.read_some_ids(log, next, end),
            Some(end) if next >= upto && end >= upto => self.end_of_id_load(log),
            Some(_) | None => load.step = Step::Wait,
        }
    }

    fn read_some_ids(&mut self, log: LogId, next: Offset, committed: Offset) {
        match self.store.read(log, next, ReadUpTo::Offset(committed), GROUP_LOAD_BYTES, true) {
            Ok(Read::Ready(served)) => self.take_ids(log, Ok(served)),
            Ok(Read::Pending(token)) => {
                self.message_ids.reads.push((token, log));
                if let Some(load) = self.message_ids.load(log) {
                    load.step = Step::Reading;
                }
            }
            Err(error) => self.take_ids(log, Err(error)),
        }
    }

    fn take_ids(&mut self, log: LogId, result: Result<Served, LogError>) {
        let (seed, now_ns) = (self.message_ids.seed, self.now.monotonic_ns);
        let Some(load) = self.message_ids.load(log) else { return };
        match result {
            Ok(served) if served.next > load.next => {
                let before = load.read.len();
                for batch in &served.batches {
                    load.replay(seed, batch, now_ns);
                }
                load.next = served.next;
                load.step = Step::Read;
                let after = load.read.len();
                self.message_ids.held = self.message_ids.held.saturating_add(after).saturating_sub(before);
            }
            Err(LogError::Busy { .. }) => {
                load.step = Step::ReadAt(now_ns.saturating_add(GROUP_LOAD_RETRY_MS * 1_000_000));
            }
            // Retention was faster.
            Err(LogError::OutOfRange { start, .. }) if start > load.next => load.next = start,
            Ok(_) | Err(_) => {
                let why = result.err().map_or_else(|| "nothing to read before its end".to_owned(), |e| e.to_string());
                tracing::warn!(%log, %why, "the message ids of a partition can't be read back; it is tried again");
                self.message_ids.drop_seat(log);
            }
        }
    }

    fn end_of_id_load(&mut self, log: LogId) {
        self.message_ids.loading.retain(|loading| *loading != log);
        let Some(seat) = self.message_ids.seats.get_mut(&log) else { return };
        if let Phase::Loading(load) = &mut seat.phase {
            let (mut ids, fresh) = (std::mem::take(&mut load.read), std::mem::take(&mut load.fresh));
            for (producer_id, commit) in &load.ended {
                ids.end(*producer_id, *commit);
            }
            ids.absorb(fresh);
            tracing::debug!(%log, ids = ids.len(), "the message ids of this partition are known");
            seat.phase = Phase::Serving(ids);
        }
    }
}

impl Load {
    /// What a batch of the log says. One that can't be read has no ids: producers that ask are refused such batches.
    fn replay(&mut self, seed: u64, batch: &Bytes, now_ns: u64) {
        let Ok(header) = BatchHeader::read(batch, 0) else { return };
        if let Some(marker) = EndMarker::read(&header, batch) {
            return self.read.end(marker.producer_id, marker.commit);
        }
        let producer = transaction_of(&header);
        if let Some(producer) = producer {
            self.read.begin(producer, header.base_offset);
        }
        for (index, id) in ids_of(seed, &header, batch).unwrap_or_default() {
            let offset = Offset(header.base_offset.0.saturating_add(i64::from(index)));
            self.read.insert(id, offset, now_ns, producer);
        }
        self.read.forget(0, self.window.max_ids);
    }
}
