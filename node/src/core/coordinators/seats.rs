//! What coordinators of any kind have in common: each sits on one partition of the topic that keeps their state, for as long
//! as this node leads that partition.
//!
//! ```text
//!             a place is free         all read and committed
//!  sit ─> Queued ──────> Loading ──────────────────────> Serving
//!                           └─ a record that can't be read ─> Damaged
//!  remove, in any phase
//! ```
//! It must not know what coordinators coordinate: [`Machine`] and [`Office`] say what is asked of a kind of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use wherry_metadata::PartitionId;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::load::Load;
use crate::core::store::{LogError, LogStore, ReadToken, Ticket};
use crate::core::{Core, Pair, Then};
use crate::groups::{PersistError, Record};
use crate::limits::MAX_GROUP_TICKS_PER_TURN;

/// One leadership of one partition by this node: two of them are never the same, even in the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Term(u64);

/// The state machine of a coordinator.
pub(crate) trait Machine: std::fmt::Debug {
    /// Takes a stored batch of the log, in the log's order.
    fn replay(&mut self, batch: &Bytes) -> Result<(), String>;

    /// When, on the monotonic clock, it has something to do by itself.
    fn next_deadline(&self) -> Option<u64>;

    /// Forgets what was replayed.
    fn forget(&mut self);
}

/// A kind of coordinator in its node.
pub(crate) trait Office<S: LogStore>: Machine + Sized {
    /// For messages: whose state it is.
    const WHAT: &'static str;

    /// Its seats.
    fn seats(core: &mut Core<S>) -> &mut Seats<Self>;

    /// All is replayed: it serves from now on.
    fn loaded(core: &mut Core<S>, partition: i32);
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Queued(Load),
    Loading(Load),
    Serving,
    Damaged,
}

/// Whether a partition's coordinator can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Another node's.
    Elsewhere,
    /// It is here; while it loads, it says so itself.
    Here,
    /// Its log can't be read.
    Damaged,
}

/// The coordinator of one partition.
#[derive(Debug)]
pub(crate) struct Seat<M> {
    pub(crate) log: LogId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) term: Term,
    pub(super) phase: Phase,
    pub(crate) machine: M,
    /// The end of what it has appended, or found: a failed append is reported after it, since reports keep their order.
    newest: (Offset, Ticket),
    /// Its entry in [`Seats::alarms`].
    alarm_ns: Option<u64>,
}

impl<M> Seat<M> {
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }
}

/// All coordinators of one kind. Idle ones cost nothing: only their earliest deadline is looked at.
#[derive(Debug)]
pub(crate) struct Seats<M> {
    pub(super) seats: BTreeMap<i32, Seat<M>>,
    terms: u64,
    /// Those that wait to be loaded, and those that are.
    pub(super) queue: VecDeque<i32>,
    pub(super) loading: Vec<i32>,
    pub(super) reads: Vec<(ReadToken, i32)>,
    alarms: BTreeSet<(u64, i32)>,
}

impl<M> Default for Seats<M> {
    fn default() -> Self {
        Self {
            seats: BTreeMap::new(),
            terms: 0,
            queue: VecDeque::new(),
            loading: Vec::new(),
            reads: Vec::new(),
            alarms: BTreeSet::new(),
        }
    }
}

impl<M: Machine> Seats<M> {
    /// When one of them, or its load, has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(at_ns, _)| *at_ns);
        alarm.into_iter().chain(self.load_deadline()).min()
    }

    pub(crate) fn standing(&self, partition: i32) -> Standing {
        match self.seats.get(&partition).map(|seat| seat.phase) {
            None => Standing::Elsewhere,
            Some(Phase::Damaged) => Standing::Damaged,
            Some(Phase::Queued(_) | Phase::Loading(_) | Phase::Serving) => Standing::Here,
        }
    }

    pub(crate) fn get(&self, partition: i32) -> Option<&Seat<M>> {
        self.seats.get(&partition)
    }

    pub(crate) fn get_mut(&mut self, partition: i32) -> Option<&mut Seat<M>> {
        self.seats.get_mut(&partition)
    }

    /// The seat of one leadership, if it lasts.
    pub(crate) fn in_term(&self, partition: i32, term: Term) -> Option<&Seat<M>> {
        self.get(partition).filter(|seat| seat.term == term)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, &Seat<M>)> {
        self.seats.iter().map(|(partition, seat)| (*partition, seat))
    }

    /// The partitions whose coordinators serve.
    pub(crate) fn serving(&self) -> Vec<i32> {
        self.iter().filter(|(_, seat)| seat.is_serving()).map(|(partition, _)| partition).collect()
    }

    /// Whether this leadership, or a later one, is known.
    pub(crate) fn knows(&self, partition: i32, log: LogId, epoch: LeaderEpoch) -> bool {
        self.get(partition).is_some_and(|seat| seat.log == log && seat.epoch >= epoch)
    }

    /// The coordinators whose time has come.
    pub(crate) fn due(&self, now_ns: u64) -> Vec<i32> {
        let due = self.alarms.iter().take_while(|(at_ns, _)| *at_ns <= now_ns);
        due.take(MAX_GROUP_TICKS_PER_TURN).map(|(_, partition)| *partition).collect()
    }

    pub(crate) fn set_alarm(&mut self, partition: i32) {
        let Some(seat) = self.seats.get_mut(&partition) else { return };
        let alarm_ns = seat.machine.next_deadline();
        if seat.alarm_ns == alarm_ns {
            return;
        }
        if let Some(before_ns) = std::mem::replace(&mut seat.alarm_ns, alarm_ns) {
            self.alarms.remove(&(before_ns, partition));
        }
        self.alarms.extend(alarm_ns.map(|at_ns| (at_ns, partition)));
    }

    fn insert(&mut self, partition: i32, log: LogId, epoch: LeaderEpoch, load: Load, machine: M) {
        self.terms += 1;
        let seat = Seat {
            log,
            epoch,
            term: Term(self.terms),
            phase: Phase::Queued(load),
            machine,
            newest: (load.last(), Ticket::default()),
            alarm_ns: None,
        };
        self.seats.insert(partition, seat);
        self.queue.push_back(partition);
    }

    pub(crate) fn remove(&mut self, partition: i32) -> Option<Seat<M>> {
        let seat = self.seats.remove(&partition)?;
        if let Some(at_ns) = seat.alarm_ns {
            self.alarms.remove(&(at_ns, partition));
        }
        self.queue.retain(|queued| *queued != partition);
        self.end_load(partition);
        Some(seat)
    }
}

impl<S: LogStore> Core<S> {
    /// A coordinator takes its seat: it reads its log back and then serves.
    pub(crate) fn sit<M: Office<S>>(&mut self, partition: i32, log: LogId, epoch: LeaderEpoch, machine: M) {
        let load = Load::of(self.store.info(log).as_ref());
        M::seats(self).insert(partition, log, epoch, load, machine);
        self.admit_loads::<M>();
    }

    /// Appends what a coordinator has to remember; `then` says what comes when it is committed, or at once after what
    /// was appended before if it can't be appended. Gives why it can't.
    pub(crate) fn persist<M: Office<S>>(
        &mut self,
        partition: i32,
        append: impl FnOnce(&mut Self, LogId, LeaderEpoch) -> Result<crate::core::store::Appended, LogError>,
        then: impl FnOnce(Term, Result<(), PersistError>) -> Then,
    ) -> Option<PersistError> {
        let seat = M::seats(self).get(partition)?;
        let (log, epoch, term, newest) = (seat.log, seat.epoch, seat.term, seat.newest);
        let (newest, result) = match append(self, log, epoch) {
            Ok(appended) => ((appended.last_offset, appended.ticket), Ok(())),
            Err(LogError::Rejected { log, what }) => {
                tracing::warn!(%log, %what, "the log of the {} refused records", M::WHAT);
                (newest, Err(PersistError::TooLarge))
            }
            Err(error @ (LogError::ProducerFenced { .. } | LogError::InvalidTransaction { .. })) => {
                tracing::debug!(%error, "the log of the {} refused a transaction", M::WHAT);
                (newest, Err(PersistError::Fenced))
            }
            Err(error) => {
                tracing::debug!(%error, "the log of the {} takes no records now", M::WHAT);
                (newest, Err(PersistError::NotAvailable))
            }
        };
        if let Some(seat) = M::seats(self).get_mut(partition) {
            seat.newest = newest;
        }
        self.when_committed(log, newest.0, newest.1, then(term, result));
        result.err()
    }

    /// Goes on when everything up to `last_offset`, which the store calls `ticket`, is committed; never, if this node
    /// leads the log no more by then. In the order of the calls, for each log.
    pub(crate) fn when_committed(&mut self, log: LogId, last_offset: Offset, ticket: Ticket, then: Then) {
        let replicated = self.meta.partition(crate::core::partition_of(log)).is_some_and(|p| p.replicas.len() > 1);
        if replicated {
            self.await_commit(log, Offset(last_offset.0.saturating_add(1)), then);
        } else {
            self.durable.push(ticket, then);
        }
    }

    /// The metadata say who leads a partition: if it keeps a coordinator's state, that coordinator is here or is not.
    pub(crate) fn coordinator_duty(&mut self, id: PartitionId) {
        self.group_duty(id);
        self.transaction_duty(id);
        self.share_duty(id);
    }
}

/// Records as they are appended.
pub(crate) fn as_pairs(records: Vec<Record>) -> Vec<Pair> {
    records.into_iter().map(|record| (Some(record.key), record.value)).collect()
}
