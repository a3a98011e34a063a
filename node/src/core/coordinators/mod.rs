//! Coordinators: state machines over the partitions of internal topics ([`seats`], [`load`], [`topic`]), and here those of
//! the groups. Each partition of [`OFFSETS_TOPIC`] has one, for as long as this node leads it; [`super::transactions`] has
//! those of the transactions.
//!
//! What a coordinator appends carries its leader epoch, and what it is told is committed is: [`Core::when_committed`]. This
//! room knows nothing of the wire (`api::groups` does) and nothing of what groups mean (`groups` does). Who leads what is
//! decided elsewhere.

mod ask;
mod census;
mod cluster;
mod load;
mod permit;
mod seats;
mod topic;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use wherry_metadata::PartitionId;
use wherry_wire::batch::BatchHeader;
use wherry_wire::records::{EndMarker, Stamp};
use wherry_wire::types::{LeaderEpoch, LogId};

use super::store::LogStore;
use super::{Core, Then, records};
use crate::groups::{
    Effect, Effects, GroupError, Groups, GroupsConfig, Input, Now, PersistError, PersistId, Record, RequestRef,
    Transaction,
};
use crate::limits::MAX_GROUPS;
use crate::security::Caller;
use ask::Waiting;
use cluster::Seen;
pub(crate) use seats::{Machine, Office, Seats, Standing, Term, as_pairs};
pub(crate) use topic::{CoordinatorTopic, OFFSETS_TOPIC, TRANSACTIONS_TOPIC, TopicWish};

/// Offsets have no sequence numbers: their coordinator is the only one that appends.
const NO_SEQUENCE: i32 = -1;

/// All group coordinators of this node, and who waits for them.
#[derive(Debug)]
pub(crate) struct GroupDesk {
    settings: GroupsConfig,
    pub(crate) seats: Seats<Groups>,
    /// Bounded by the requests in flight.
    waiting: HashMap<u64, Waiting, RandomState>,
    requests: u64,
    topic: TopicWish,
    /// When groups are counted next; none: nothing has happened since.
    census_ns: Option<u64>,
}

impl GroupDesk {
    /// `settings` are valid.
    pub(crate) fn new(settings: GroupsConfig) -> Self {
        Self {
            settings,
            seats: Seats::default(),
            waiting: HashMap::default(),
            requests: 0,
            topic: TopicWish::default(),
            census_ns: None,
        }
    }

    /// When [`Core::turn`] is due because of groups.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.seats.next_deadline().into_iter().chain(self.census_ns).min()
    }

    /// Why this partition's coordinator can't be asked. While it loads, it says so itself.
    fn refusal(&self, partition: i32) -> Option<GroupError> {
        match self.seats.standing(partition) {
            Standing::Elsewhere => Some(GroupError::NotCoordinator),
            Standing::Damaged => Some(GroupError::CoordinatorNotAvailable),
            Standing::Here => None,
        }
    }
}

impl GroupDesk {
    /// Whether the coordinator of this partition is still to serve, or not there yet.
    pub(crate) fn is_loading(&self, partition: i32) -> bool {
        match self.seats.standing(partition) {
            Standing::Elsewhere => true,
            Standing::Damaged => false,
            Standing::Here => self.seats.get(partition).is_none_or(|seat| !seat.is_serving()),
        }
    }
}

impl Machine for Groups {
    fn replay(&mut self, batch: &Bytes) -> Result<(), String> {
        let header = BatchHeader::read(batch, 0).map_err(|error| error.to_string())?;
        if header.is_control() {
            if let Some(end) = EndMarker::read(&header, batch) {
                self.end_transaction(end.producer_id, end.commit);
            }
            return Ok(());
        }
        for (key, value) in records::pairs(batch)? {
            let (key, value) = (key.unwrap_or_default(), value.as_deref());
            let replayed = if header.is_transactional() {
                self.replay_transactional(header.producer_id, &key, value)
            } else {
                Groups::replay(self, &key, value)
            };
            replayed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<u64> {
        Groups::next_deadline(self)
    }

    fn forget(&mut self) {
        self.clear();
    }
}

impl<S: LogStore> Office<S> for Groups {
    const WHAT: &'static str = "groups";

    fn seats(core: &mut Core<S>) -> &mut Seats<Self> {
        &mut core.desk.seats
    }

    fn loaded(core: &mut Core<S>, partition: i32) {
        let now = core.coordinator_time();
        let Some(seat) = core.desk.seats.get_mut(partition) else { return };
        let meta = &core.meta;
        let effects = seat.machine.loaded(now, |name| meta.topic(name).map(|topic| topic.id));
        core.desk.seats.set_alarm(partition);
        core.desk.ask_census(now.monotonic_ns);
        core.run_group_effects(partition, effects);
    }
}

impl<S: LogStore> Core<S> {
    /// This node leads a partition of the topic of the groups: its groups are read back and then served. Nothing happens
    /// if it does so already, in this epoch or a later one.
    pub(crate) fn lead_groups(&mut self, partition: i32, log: LogId, epoch: LeaderEpoch) {
        if self.desk.seats.knows(partition, log, epoch) {
            return;
        }
        self.resign_groups(partition);
        let share = MAX_GROUPS / self.offsets_partitions().unwrap_or(1).unsigned_abs().max(1) as usize;
        let settings =
            GroupsConfig { max_groups: self.desk.settings.max_groups.min(share), ..self.desk.settings.clone() };
        match Groups::new(settings, self.entropy.seed()) {
            Ok(groups) => self.sit(partition, log, epoch, groups),
            Err(error) => tracing::error!(%error, partition, "the groups of this partition can't be served"),
        }
    }

    /// This node leads the partition no more: who waits is sent elsewhere; what is still to be committed concerns the next
    /// coordinator.
    pub(crate) fn resign_groups(&mut self, partition: i32) {
        let Some(seat) = self.desk.seats.remove(partition) else { return };
        self.desk.ask_census(self.now.monotonic_ns);
        tracing::info!(partition, epoch = seat.epoch.0, "the groups of this partition are coordinated here no more");
        let effects = seat.machine.resign();
        self.run_group_effects(partition, effects);
        self.admit_loads::<Groups>();
    }

    /// The metadata say who leads a partition: if it is one of the groups', this node coordinates them or does not.
    pub(super) fn group_duty(&mut self, id: PartitionId) {
        if self.offsets_topic().is_none_or(|topic| topic.id != id.topic) {
            return;
        }
        let log = LogId { topic: id.topic, partition: id.partition };
        match self.leads(log) {
            Ok(epoch) => self.lead_groups(id.partition, log, epoch),
            Err(_) => self.resign_groups(id.partition),
        }
    }

    fn step_groups(&mut self, partition: i32, input: Input) {
        self.step_groups_for(None, partition, input);
    }

    /// The same, where somebody asked for it.
    fn step_groups_for(&mut self, caller: Option<&Caller>, partition: i32, input: Input) {
        let now = self.coordinator_time();
        let Some(seat) = self.desk.seats.get_mut(partition) else { return };
        let seen = Seen { meta: &self.meta, authorization: self.config.authorization.as_ref(), caller };
        let effects = seat.machine.step(now, &seen, input);
        self.desk.seats.set_alarm(partition);
        self.desk.ask_census(now.monotonic_ns);
        self.run_group_effects(partition, effects);
    }

    pub(crate) fn coordinator_time(&self) -> Now {
        Now { monotonic_ns: self.now.monotonic_ns, wall_ms: self.now.wall_ms }
    }

    /// Does what a coordinator asks for. Appends first: an answer may let its connection go on with a request that appends
    /// as well, and the log must have them in the coordinator's order.
    fn run_group_effects(&mut self, partition: i32, effects: Effects) {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { id, records } => self.group_persist(partition, id, records),
                Effect::PersistTransactional { id, transaction, records } => {
                    self.group_persist_transactional(partition, id, transaction, records);
                }
                Effect::Reply { request, response } => replies.push((request, response)),
            }
        }
        for (request, response) in replies {
            self.group_reply(request, response);
        }
    }

    fn group_persist(&mut self, partition: i32, id: PersistId, records: Vec<Record>) {
        let pairs = as_pairs(records);
        let refused = self.persist::<Groups>(
            partition,
            |core, log, epoch| core.append_pairs(log, epoch, &pairs),
            |term, result| Then::GroupPersisted { partition, term, id, result },
        );
        // At once: nothing may build on what the log does not have.
        if let Some(error) = refused {
            self.step_groups(partition, Input::Refused { id, error });
        }
    }

    fn group_persist_transactional(
        &mut self,
        partition: i32,
        id: PersistId,
        transaction: Transaction,
        records: Vec<Record>,
    ) {
        let pairs = as_pairs(records);
        let stamp = Stamp {
            producer_id: transaction.producer_id,
            producer_epoch: transaction.producer_epoch,
            base_sequence: NO_SEQUENCE,
        };
        self.persist::<Groups>(
            partition,
            |core, log, epoch| core.append_transactional_pairs(log, epoch, stamp, &pairs),
            |term, result| Then::GroupPersisted { partition, term, id, result },
        );
    }

    /// A transaction with offsets of groups in this log has ended.
    pub(crate) fn end_group_transaction(&mut self, log: LogId, ended: Input) {
        if self.desk.seats.get(log.partition).is_some_and(|seat| seat.log == log && seat.is_serving()) {
            self.step_groups(log.partition, ended);
        }
    }

    /// Records are committed, or were not appended. Whose coordinator is gone since, concern nobody here.
    pub(crate) fn group_persisted(
        &mut self,
        partition: i32,
        term: Term,
        id: PersistId,
        result: Result<(), PersistError>,
    ) {
        if self.desk.seats.in_term(partition, term).is_some() {
            self.step_groups(partition, Input::Persisted { id, result });
        }
    }

    /// A topic is gone: so are the offsets committed for it. A coordinator that loads sees that for itself at the end.
    pub(crate) fn group_topic_deleted(&mut self, topic: &Arc<str>) {
        for partition in self.desk.seats.serving() {
            self.step_groups(partition, Input::TopicDeleted { topic: Arc::clone(topic) });
        }
    }

    /// Topics have come or have more partitions: groups that read them look again.
    pub(crate) fn group_topics_changed(&mut self) {
        for partition in self.desk.seats.serving() {
            self.step_groups(partition, Input::TopicsChanged);
        }
    }

    /// Sessions end, rebalances complete, offsets expire.
    pub(crate) fn tick_groups(&mut self) {
        for partition in self.desk.seats.due(self.now.monotonic_ns) {
            self.step_groups(partition, Input::Tick);
        }
    }

    /// A connection is gone: nobody waits for these requests any more.
    pub(crate) fn group_abandon(&mut self, requests: &[u64]) {
        for (request, partition) in requests.iter().flat_map(|request| self.desk.abandon(*request)).collect::<Vec<_>>()
        {
            self.step_groups(partition, Input::Abandoned { request: RequestRef(request) });
        }
    }
}
