//! The group coordinators of this node: one for each partition of the topic that keeps the groups' state
//! ([`OFFSETS_TOPIC`]), for as long as this node leads that partition.
//!
//! ```text
//!                  a place is free         all read and committed
//!  lead_groups ─> Queued ──────> Loading ──────────────────────> Serving
//!                                   └─ a record that can't be read ─> Damaged
//!  resign_groups, in any phase: whoever waits is told to look elsewhere, and the coordinator is dropped
//! ```
//! What it appends carries its leader epoch, and what it is told is committed is: [`Core::when_committed`]. It knows
//! nothing of the wire (`api::groups` does) and nothing of what groups mean (`groups` does). Who leads what is decided
//! elsewhere.

mod ask;
mod load;
mod permit;
mod topic;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use wherry_metadata::PartitionId;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::store::{LogError, LogStore, ReadToken, Ticket};
use super::{Core, Pair, Then};
use crate::groups::{
    Effect, Effects, GroupError, Groups, GroupsConfig, Input, Now, PersistError, PersistId, Record, RequestRef,
};
use crate::limits::{MAX_GROUP_TICKS_PER_TURN, MAX_GROUPS};
use ask::Waiting;
use load::Load;
pub(crate) use topic::{OFFSETS_TOPIC, OffsetsTopic};

/// One leadership of one partition by this node: two of them are never the same, even in the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Term(u64);

/// See the module.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Queued(Load),
    Loading(Load),
    Serving,
    Damaged,
}

/// The groups of one partition.
#[derive(Debug)]
struct Coordinator {
    log: LogId,
    epoch: LeaderEpoch,
    term: Term,
    phase: Phase,
    groups: Groups,
    /// The end of what it has appended, or found: a failed append is reported after it, since reports keep their order.
    newest: (Offset, Ticket),
    /// Its entry in [`GroupDesk::alarms`].
    alarm_ns: Option<u64>,
}

/// All coordinators of this node, and who waits for them. Idle ones cost nothing: only their earliest deadline is looked at.
#[derive(Debug)]
pub(crate) struct GroupDesk {
    settings: GroupsConfig,
    coordinators: BTreeMap<i32, Coordinator>,
    terms: u64,
    /// Those that wait to be loaded, and those that are.
    queue: VecDeque<i32>,
    loading: Vec<i32>,
    reads: Vec<(ReadToken, i32)>,
    alarms: BTreeSet<(u64, i32)>,
    /// Bounded by the requests in flight.
    waiting: HashMap<u64, Waiting, RandomState>,
    requests: u64,
    topic: OffsetsTopic,
}

impl GroupDesk {
    /// `settings` are valid.
    pub(crate) fn new(settings: GroupsConfig) -> Self {
        Self {
            settings,
            coordinators: BTreeMap::new(),
            terms: 0,
            queue: VecDeque::new(),
            loading: Vec::new(),
            reads: Vec::new(),
            alarms: BTreeSet::new(),
            waiting: HashMap::default(),
            requests: 0,
            topic: OffsetsTopic::default(),
        }
    }

    /// When [`Core::turn`] is due because of groups.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(at_ns, _)| *at_ns);
        alarm.into_iter().chain(self.load_deadline()).min()
    }

    /// Why this partition's coordinator can't be asked. While it loads, it says so itself.
    fn refusal(&self, partition: i32) -> Option<GroupError> {
        match self.coordinators.get(&partition).map(|coordinator| coordinator.phase) {
            None => Some(GroupError::NotCoordinator),
            Some(Phase::Damaged) => Some(GroupError::CoordinatorNotAvailable),
            Some(Phase::Queued(_) | Phase::Loading(_) | Phase::Serving) => None,
        }
    }

    fn serving(&self) -> Vec<i32> {
        let serves = self.coordinators.iter().filter(|(_, coordinator)| matches!(coordinator.phase, Phase::Serving));
        serves.map(|(partition, _)| *partition).collect()
    }

    /// The coordinators whose time has come.
    fn due(&self, now_ns: u64) -> Vec<i32> {
        let due = self.alarms.iter().take_while(|(at_ns, _)| *at_ns <= now_ns);
        due.take(MAX_GROUP_TICKS_PER_TURN).map(|(_, partition)| *partition).collect()
    }

    fn set_alarm(&mut self, partition: i32) {
        let Some(coordinator) = self.coordinators.get_mut(&partition) else { return };
        let alarm_ns = coordinator.groups.next_deadline();
        if coordinator.alarm_ns == alarm_ns {
            return;
        }
        if let Some(before_ns) = std::mem::replace(&mut coordinator.alarm_ns, alarm_ns) {
            self.alarms.remove(&(before_ns, partition));
        }
        self.alarms.extend(alarm_ns.map(|at_ns| (at_ns, partition)));
    }

    fn remove(&mut self, partition: i32) -> Option<Coordinator> {
        let coordinator = self.coordinators.remove(&partition)?;
        if let Some(at_ns) = coordinator.alarm_ns {
            self.alarms.remove(&(at_ns, partition));
        }
        self.queue.retain(|queued| *queued != partition);
        self.end_load(partition);
        Some(coordinator)
    }
}

impl<S: LogStore> Core<S> {
    /// This node leads a partition of the topic of the groups: its groups are read back and then served. Nothing happens
    /// if it does so already, in this epoch or a later one.
    pub(crate) fn lead_groups(&mut self, partition: i32, log: LogId, epoch: LeaderEpoch) {
        let known = self.desk.coordinators.get(&partition);
        if known.is_some_and(|coordinator| coordinator.log == log && coordinator.epoch >= epoch) {
            return;
        }
        self.resign_groups(partition);
        let share = MAX_GROUPS / self.offsets_partitions().unwrap_or(1).unsigned_abs().max(1) as usize;
        let settings =
            GroupsConfig { max_groups: self.desk.settings.max_groups.min(share), ..self.desk.settings.clone() };
        let groups = match Groups::new(settings, self.entropy.seed()) {
            Ok(groups) => groups,
            Err(error) => return tracing::error!(%error, partition, "the groups of this partition can't be served"),
        };
        let load = Load::of(self.store.info(log).as_ref());
        self.desk.terms += 1;
        let coordinator = Coordinator {
            log,
            epoch,
            term: Term(self.desk.terms),
            phase: Phase::Queued(load),
            groups,
            newest: (load.last(), Ticket::default()),
            alarm_ns: None,
        };
        self.desk.coordinators.insert(partition, coordinator);
        self.desk.queue.push_back(partition);
        self.admit_loads();
    }

    /// This node leads the partition no more: who waits is sent elsewhere; what is still to be committed concerns the next
    /// coordinator.
    pub(crate) fn resign_groups(&mut self, partition: i32) {
        let Some(coordinator) = self.desk.remove(partition) else { return };
        tracing::info!(
            partition,
            epoch = coordinator.epoch.0,
            "the groups of this partition are coordinated here no more"
        );
        let effects = coordinator.groups.resign();
        self.run_group_effects(partition, effects);
        self.admit_loads();
    }

    /// The metadata say who leads a partition: if it is one of the groups', this node coordinates them or does not.
    pub(crate) fn group_duty(&mut self, id: PartitionId) {
        if self.offsets_topic().is_none_or(|topic| topic.id != id.topic) {
            return;
        }
        let log = LogId { topic: id.topic, partition: id.partition };
        match self.leads(log) {
            Ok(epoch) => self.lead_groups(id.partition, log, epoch),
            Err(_) => self.resign_groups(id.partition),
        }
    }

    /// Goes on when everything up to `last_offset`, which the store calls `ticket`, is committed; never, if this node
    /// leads the log no more by then. In the order of the calls, for each log.
    pub(crate) fn when_committed(&mut self, log: LogId, last_offset: Offset, ticket: Ticket, then: Then) {
        let replicated = self.meta.partition(super::duties::partition_of(log)).is_some_and(|p| p.replicas.len() > 1);
        if replicated {
            self.await_commit(log, Offset(last_offset.0.saturating_add(1)), then);
        } else {
            self.durable.push(ticket, then);
        }
    }

    fn step_groups(&mut self, partition: i32, input: Input) {
        let now = self.group_time();
        let Some(coordinator) = self.desk.coordinators.get_mut(&partition) else { return };
        let effects = coordinator.groups.step(now, input);
        self.desk.set_alarm(partition);
        self.run_group_effects(partition, effects);
    }

    fn group_time(&self) -> Now {
        Now { monotonic_ns: self.now.monotonic_ns, wall_ms: self.now.wall_ms }
    }

    /// Does what a coordinator asks for. Appends first: an answer may let its connection go on with a request that appends
    /// as well, and the log must have them in the coordinator's order.
    fn run_group_effects(&mut self, partition: i32, effects: Effects) {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { id, records } => self.group_persist(partition, id, records),
                Effect::Reply { request, response } => replies.push((request, response)),
            }
        }
        for (request, response) in replies {
            self.group_reply(request, response);
        }
    }

    fn group_persist(&mut self, partition: i32, id: PersistId, records: Vec<Record>) {
        let Some(coordinator) = self.desk.coordinators.get(&partition) else { return };
        let (log, epoch, term, newest) = (coordinator.log, coordinator.epoch, coordinator.term, coordinator.newest);
        let pairs: Vec<Pair> = records.into_iter().map(|r| (Some(r.key), r.value)).collect();
        let (newest, result) = match self.append_pairs(log, epoch, &pairs) {
            Ok(appended) => ((appended.last_offset, appended.ticket), Ok(())),
            Err(LogError::Rejected { log, what }) => {
                tracing::warn!(%log, %what, "the groups' log refused records");
                (newest, Err(PersistError::TooLarge))
            }
            Err(error) => {
                tracing::debug!(%error, "the groups' log takes no records now");
                (newest, Err(PersistError::NotAvailable))
            }
        };
        if let Some(coordinator) = self.desk.coordinators.get_mut(&partition) {
            coordinator.newest = newest;
        }
        self.when_committed(log, newest.0, newest.1, Then::GroupPersisted { partition, term, id, result });
    }

    /// Records are committed, or were not appended. Whose coordinator is gone since, concern nobody here.
    pub(crate) fn group_persisted(
        &mut self,
        partition: i32,
        term: Term,
        id: PersistId,
        result: Result<(), PersistError>,
    ) {
        if self.desk.coordinators.get(&partition).is_some_and(|coordinator| coordinator.term == term) {
            self.step_groups(partition, Input::Persisted { id, result });
        }
    }

    /// A topic is gone: so are the offsets committed for it. A coordinator that loads sees that for itself at the end.
    pub(crate) fn group_topic_deleted(&mut self, topic: &Arc<str>) {
        for partition in self.desk.serving() {
            self.step_groups(partition, Input::TopicDeleted { topic: Arc::clone(topic) });
        }
    }

    /// Sessions end, rebalances complete, offsets expire.
    pub(crate) fn tick_groups(&mut self) {
        for partition in self.desk.due(self.now.monotonic_ns) {
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
