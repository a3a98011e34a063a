//! The transaction coordinators of this node: one for each partition of the topic that keeps the transactions' state, for as
//! long as this node leads it; who waits for them ([`ask`]); and how those that lead a transaction's partitions come to know
//! its end ([`tell`]).
//!
//! ```text
//!  api ── ask ──> Transactions ──┬─ Persist ──────> log ── committed ──> Persisted
//!  verify ──────>                ├─ WriteMarkers ─> tell ── here, or over links ──> MarkersWritten
//!                                ├─ ProducerId ───> the node's block of ids
//!                                └─ Reply ────────> who asked: a client, or a node that leads a partition
//! ```
//! It knows nothing of the wire (`api::transactions` does) and nothing of what transactions mean (`transactions` does).

mod ask;
mod census;
mod remote;
mod tell;

use bytes::Bytes;
use wherry_metadata::PartitionId;
use wherry_wire::types::{LeaderEpoch, LogId};

use super::coordinators::{CoordinatorTopic, Machine, Office, Seats, Standing, Term, TopicWish, as_pairs};
use super::producer_ids::IdWaiter;
use super::store::LogStore;
use super::{Core, ProducerIdGrant, Then, records};
use crate::limits::MAX_TRANSACTIONAL_IDS;
use crate::transactions::{
    Effect, Effects, IdAsk, Input, PersistError, PersistId, Record, TransactionError, Transactions, TransactionsConfig,
};
pub(crate) use ask::Waiter;
use ask::Waiters;
use tell::Tellings;

/// All transaction coordinators of this node, and who waits for them.
#[derive(Debug)]
pub(crate) struct TransactionDesk {
    settings: TransactionsConfig,
    pub(crate) seats: Seats<Transactions>,
    waiters: Waiters,
    tellings: Tellings,
    pub(crate) topic: TopicWish,
    /// When transactions are counted next; none: nothing has happened since.
    census_ns: Option<u64>,
}

impl TransactionDesk {
    pub(crate) fn new(settings: TransactionsConfig) -> Self {
        Self {
            settings,
            seats: Seats::default(),
            waiters: Waiters::default(),
            tellings: Tellings::default(),
            topic: TopicWish::default(),
            census_ns: None,
        }
    }

    /// When [`Core::turn`] is due because of transactions.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        [self.seats.next_deadline(), self.tellings.next_deadline(), self.census_ns].into_iter().flatten().min()
    }

    /// Why this partition's coordinator can't be asked. While it loads, it says so itself.
    pub(crate) fn refusal(&self, partition: i32) -> Option<TransactionError> {
        match self.seats.standing(partition) {
            Standing::Elsewhere => Some(TransactionError::NotCoordinator),
            Standing::Damaged => Some(TransactionError::CoordinatorNotAvailable),
            Standing::Here => None,
        }
    }
}

impl Machine for Transactions {
    fn replay(&mut self, batch: &Bytes) -> Result<(), String> {
        for (key, value) in records::pairs(batch)? {
            let replayed = Transactions::replay(self, &key.unwrap_or_default(), value.as_deref());
            replayed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<u64> {
        Transactions::next_deadline(self)
    }

    fn forget(&mut self) {
        self.clear();
    }
}

impl<S: LogStore> Office<S> for Transactions {
    const WHAT: &'static str = "transactions";

    fn seats(core: &mut Core<S>) -> &mut Seats<Self> {
        &mut core.transactions.seats
    }

    fn loaded(core: &mut Core<S>, partition: i32) {
        let now = core.coordinator_time();
        let Some(seat) = core.transactions.seats.get_mut(partition) else { return };
        let effects = seat.machine.loaded(now);
        core.transactions.seats.set_alarm(partition);
        core.transactions.ask_census(now.monotonic_ns);
        core.run_transaction_effects(partition, effects);
    }
}

impl<S: LogStore> Core<S> {
    /// The metadata say who leads a partition: if it is one of the transactions', this node coordinates them or does not.
    pub(super) fn transaction_duty(&mut self, id: PartitionId) {
        let topic = self.coordinator_topic(CoordinatorTopic::Transactions);
        let Some(partitions) = topic.filter(|topic| topic.id == id.topic).map(|topic| topic.partition_count()) else {
            return;
        };
        let log = LogId { topic: id.topic, partition: id.partition };
        match self.leads(log) {
            Ok(epoch) => self.lead_transactions(id.partition, log, epoch, partitions),
            Err(_) => self.resign_transactions(id.partition),
        }
    }

    fn lead_transactions(&mut self, partition: i32, log: LogId, epoch: LeaderEpoch, partitions: i32) {
        if self.transactions.seats.knows(partition, log, epoch) {
            return;
        }
        self.resign_transactions(partition);
        let share = MAX_TRANSACTIONAL_IDS / partitions.unsigned_abs().max(1) as usize;
        let settings = &self.transactions.settings;
        let settings = TransactionsConfig { max_ids: settings.max_ids.min(share), ..settings.clone() };
        self.sit(partition, log, epoch, Transactions::new(settings));
    }

    /// This node leads the partition no more: who waits is sent elsewhere; what is still to be committed, and who is still to
    /// be told, concerns the next coordinator.
    pub(crate) fn resign_transactions(&mut self, partition: i32) {
        let Some(seat) = self.transactions.seats.remove(partition) else { return };
        self.transactions.ask_census(self.now.monotonic_ns);
        tracing::info!(
            partition,
            epoch = seat.epoch.0,
            "the transactions of this partition are coordinated here no more"
        );
        self.transactions.tellings.forget(partition);
        let effects = seat.machine.resign();
        self.run_transaction_effects(partition, effects);
        self.admit_loads::<Transactions>();
    }

    fn step_transactions(&mut self, partition: i32, input: Input) {
        let now = self.coordinator_time();
        let Some(seat) = self.transactions.seats.get_mut(partition) else { return };
        let effects = seat.machine.step(now, input);
        let tally = seat.machine.take_tally();
        self.transactions.seats.set_alarm(partition);
        self.transactions_moved(tally);
        self.run_transaction_effects(partition, effects);
    }

    /// Does what a coordinator asks for. Appends first: all the rest may lead to other steps that append as well, and the log
    /// must have them in the coordinator's order.
    fn run_transaction_effects(&mut self, partition: i32, effects: Effects) {
        let mut others = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { id, records } => self.persist_transactions(partition, id, records),
                Effect::Reply { .. } | Effect::ProducerId { .. } | Effect::WriteMarkers { .. } => others.push(effect),
            }
        }
        for effect in others {
            match effect {
                Effect::Reply { request, response } => self.transaction_reply(request, response),
                Effect::ProducerId { ask } => self.want_producer_id(partition, ask),
                Effect::WriteMarkers { end, marker, partitions } => self.tell_end(partition, end, marker, partitions),
                Effect::Persist { .. } => {}
            }
        }
    }

    fn persist_transactions(&mut self, partition: i32, id: PersistId, records: Vec<Record>) {
        let pairs = as_pairs(records);
        self.persist::<Transactions>(
            partition,
            |core, log, epoch| core.append_pairs(log, epoch, &pairs),
            |term, result| Then::TransactionPersisted { partition, term, id, result },
        );
    }

    /// Records are committed, or were not appended. Whose coordinator is gone since, concern nobody here.
    pub(crate) fn transaction_persisted(
        &mut self,
        partition: i32,
        term: Term,
        id: PersistId,
        result: Result<(), PersistError>,
    ) {
        if self.transactions.seats.in_term(partition, term).is_some() {
            self.step_transactions(partition, Input::Persisted { id, result });
        }
    }

    fn want_producer_id(&mut self, partition: i32, ask: IdAsk) {
        let Some(term) = self.transactions.seats.get(partition).map(|seat| seat.term) else { return };
        match self.take_producer_id(IdWaiter::Coordinator { partition, term, ask }) {
            ProducerIdGrant::Now(id) => self.transaction_id_came(partition, term, ask, Some(id)),
            ProducerIdGrant::Later => {}
            ProducerIdGrant::Refused => self.transaction_id_came(partition, term, ask, None),
        }
    }

    /// A producer id for a coordinator, or none for now.
    pub(super) fn transaction_id_came(&mut self, partition: i32, term: Term, ask: IdAsk, id: Option<i64>) {
        if self.transactions.seats.in_term(partition, term).is_some() {
            self.step_transactions(partition, Input::ProducerId { ask, id });
        }
    }

    /// Transactions time out, ids expire, partitions are told once more.
    pub(crate) fn tick_transactions(&mut self) {
        for partition in self.transactions.seats.due(self.now.monotonic_ns) {
            self.step_transactions(partition, Input::Tick);
        }
        self.tell_again();
        self.ask_questions_again();
    }
}
