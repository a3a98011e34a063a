//! The group coordinator: who is in which group, who reads what, how far each group has come. There is one for each
//! partition of the topic that keeps its records; [`partition_of`] says which has a group. Here: classic groups, whose
//! members assign, and the offsets of all groups; groups of the new protocol are in [`consumer`], those whose members share
//! partitions in [`share`].
//!
//! A pure state machine: [`Input`] in, [`Effect`]s out, time handed in. It must not know of connections, wire formats,
//! logs or clocks. What it knows is what its records say ([`Groups::replay`]); what must outlive the process is given
//! out as [`Effect::Persist`], and an answer that speaks of it comes only after [`Input::Persisted`] (design: a
//! coordinator answers only from durable state and rolls back on a failed append).
//!
//! ```text
//!   records of the log --replay--> Groups --loaded--> serving
//!   request --step--> Reply                                    (nothing to write)
//!           --step--> Persist --log--> Persisted --step--> Reply
//!   clock   --step(Tick)--> Reply, Persist                     (rebalances end, members and offsets expire)
//!   resign ---------------> Reply                              (whoever waits looks for the new coordinator)
//! ```
//!
//! Sources: KIP-134 (initial delay), 211 (expiry), 345 (static members), 389 (group size), 394 (member ids),
//! 496 (OffsetDelete), 518 (list by state), 814 (static leader), 848 (consumer groups), 932 (share groups).

mod check;
mod cluster;
mod commit;
mod config;
mod consumer;
mod consumers;
mod delete;
mod expire;
mod fetch;
mod group;
mod heartbeat;
mod ids;
mod join;
mod leave;
mod list;
mod offset_delete;
mod offsets;
mod open_offsets;
mod outbox;
mod partition;
mod rebalance;
mod record;
mod refuse;
mod replay;
mod resign;
mod share;
mod shares;
mod split;
mod subscription;
mod sync;
#[cfg(test)]
mod tests;
mod transactional;
pub mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

pub(crate) use check::malformed;
pub use cluster::{Cluster, GroupOverrides, TopicView};
pub use config::{ConfigError, GroupsConfig};
pub use partition::partition_of;
pub use record::ReplayError;
pub(crate) use refuse::with as refused;
pub(crate) use split::{Part, Split, split};
pub use types::{
    Effect, Effects, GroupError, Input, Now, PersistError, PersistId, Record, Request, RequestRef, Response,
    Transaction,
};

use group::{Group, State};
use ids::MemberIds;
use outbox::{Ctx, Outbox, Pending, TopicPartition};
use types::{
    DeleteRequest, DeleteResponse, DescribeRequest, DescribeResponse, HeartbeatResponse, JoinResponse, LeaveResponse,
    ListRequest, ListResponse, OffsetFetchRequest, OffsetFetchResponse, StateName,
};

/// What [`GroupsConfig::max_id_bytes`] must leave room for in a record.
const MEMBER_ID_SUFFIX_BYTES: usize = ids::SUFFIX_BYTES;

/// Whether requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Records are replayed; requests are told to come again.
    Loading,
    Serving,
}

/// All groups of one coordinator.
#[derive(Debug)]
pub struct Groups {
    config: GroupsConfig,
    phase: Phase,
    groups: BTreeMap<Arc<str>, Group>,
    /// One entry per group that has a deadline.
    alarms: BTreeSet<(u64, Arc<str>)>,
    outbox: Outbox,
    /// Where producers have offsets that wait for the end of their transaction.
    open: BTreeMap<i64, BTreeSet<transactional::Place>>,
    ids: MemberIds,
    /// Grows when topics come, go or grow: consumer groups look at theirs again.
    topics_version: u64,
    /// When offsets are next looked through for expired ones, and after which group.
    expiry_ns: u64,
    expiry_after: Option<Arc<str>>,
}

/// Numbers for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupsStats {
    /// Groups in the state `Empty`.
    pub empty: usize,
    /// Groups in a rebalance; consumer groups in which not all have yet what they are to have.
    pub rebalancing: usize,
    /// Groups in the state `Stable`.
    pub stable: usize,
    /// Consumer groups (KIP-848) among all these.
    pub consumer: usize,
    /// Members of all groups.
    pub members: usize,
    /// Partitions with a committed offset, or one on its way.
    pub offsets: usize,
}

impl std::ops::AddAssign for GroupsStats {
    fn add_assign(&mut self, more: Self) {
        let Self { empty, rebalancing, stable, consumer, members, offsets } = more;
        self.empty += empty;
        self.rebalancing += rebalancing;
        self.stable += stable;
        self.consumer += consumer;
        self.members += members;
        self.offsets += offsets;
    }
}

impl Groups {
    /// A coordinator that knows nothing yet. `seed` makes member ids: it must be fresh (random) at each start, or ids
    /// repeat.
    pub fn new(config: GroupsConfig, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            phase: Phase::Loading,
            groups: BTreeMap::new(),
            alarms: BTreeSet::new(),
            outbox: Outbox::default(),
            open: BTreeMap::new(),
            ids: MemberIds::new(seed),
            topics_version: 0,
            expiry_ns: u64::MAX,
            expiry_after: None,
        })
    }

    /// One record of the log, in the log's order. An error leaves the state as it was: whether to go on is for the
    /// caller, who can say where in the log the record is.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError> {
        if self.phase != Phase::Loading {
            return Err(ReplayError::NotLoading);
        }
        if key.first() == Some(&consumer::record::FIRST_BYTE) {
            let (group_id, fact) = consumer::record::decode(key, value)?;
            replay::change(self.group_or_new(&group_id, 0), fact);
            self.settle(&group_id);
            return Ok(());
        }
        match record::decode_key(key)? {
            record::Key::Offset { group, topic, partition } => {
                let value = value.map(record::decode_committed).transpose()?;
                let by = self.outbox.next_replayed();
                self.group_or_new(&group, 0).offsets.replay(&topic, partition, by, value);
                self.settle(&group);
            }
            record::Key::Group { group } => {
                let value = value.map(record::decode_group).transpose()?;
                let state = self.group_or_new(&group, 0);
                match value {
                    Some(record) => replay::restore(state, record),
                    None => replay::ended(state),
                }
                self.settle(&group);
            }
            record::Key::Share { group } => {
                let value = value.map(share::record::decode).transpose()?;
                replay::share(self.group_or_new(&group, 0), value);
                self.settle(&group);
            }
        }
        Ok(())
    }

    /// Forgets what was replayed: it is of no use without the rest.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        self.open.clear();
        self.alarms.clear();
    }

    /// All records have been replayed: members have a session from now on. `topic_id` says what a topic's id is, if it
    /// exists: offsets of other topics are removed (their deletion was not seen through before the restart).
    pub fn loaded(&mut self, now: Now, topic_id: impl Fn(&str) -> Option<Uuid>) -> Effects {
        self.phase = Phase::Serving;
        self.expiry_ns = now.monotonic_ns.saturating_add(self.config.offsets_check_interval_ms * 1_000_000);
        let group_ids: Vec<_> = self.groups.keys().cloned().collect();
        for group_id in group_ids {
            self.with_group(now, &group_id, begin_sessions);
        }
        self.forget_strangers(topic_id);
        self.outbox.take_effects()
    }

    /// Something happened, in the cluster as it is now.
    pub fn step(&mut self, now: Now, cluster: &dyn Cluster, input: Input) -> Effects {
        match input {
            Input::Request { request, body } => self.request(now, cluster, request, body),
            Input::Refused { id, error } => self.refused(now, id, error),
            Input::TopicsChanged => self.topics_version += 1,
            Input::Abandoned { request } => {
                if let Some(group_id) = self.outbox.unpark(request) {
                    self.with_group(now, &group_id, |group, ctx| group.abandoned(ctx, request));
                }
            }
            Input::Persisted { id, result } => {
                if let Some(pending) = self.outbox.take_pending(id) {
                    self.persisted(now, id, pending, result);
                }
            }
            Input::TransactionEnded { producer_id, commit } => self.end_transaction(producer_id, commit),
            Input::TopicDeleted { topic } => {
                self.topics_version += 1;
                self.topic_deleted(&topic);
            }
            Input::Tick => self.tick(now),
        }
        self.outbox.take_effects()
    }

    /// When, on the monotonic clock, [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(deadline_ns, _)| *deadline_ns);
        alarm.into_iter().chain([self.expiry_ns]).min().filter(|deadline_ns| *deadline_ns != u64::MAX)
    }

    /// The groups that match.
    pub fn list(&self, request: &ListRequest) -> ListResponse {
        list::list(&self.groups, request)
    }

    /// Numbers for metrics; looks at every group.
    pub fn stats(&self) -> GroupsStats {
        let mut stats = GroupsStats::default();
        for group in self.groups.values() {
            match group.state_name() {
                StateName::Empty | StateName::Dead => stats.empty += 1,
                StateName::PreparingRebalance
                | StateName::CompletingRebalance
                | StateName::Assigning
                | StateName::Reconciling => stats.rebalancing += 1,
                StateName::Stable => stats.stable += 1,
            }
            stats.members += group.members.len();
            if let Some(consumer) = &group.consumer {
                stats.consumer += 1;
                stats.members += consumer.members.len();
            }
            stats.members += group.share.as_ref().map_or(0, |share| share.members.len());
            stats.offsets += group.offsets.len();
        }
        stats
    }

    fn request(&mut self, now: Now, cluster: &dyn Cluster, request: RequestRef, body: Request) {
        if self.phase == Phase::Loading {
            return self.outbox.reply(request, refuse::while_loading(&body));
        }
        if let Some(response) = malformed(&self.config, &body) {
            return self.outbox.reply(request, response);
        }
        match body {
            Request::Join(join) => self.join(now, request, join),
            Request::Sync(body) => {
                if !self.with_group(now, &body.group_id, |group, ctx| sync::sync(group, ctx, request, &body)) {
                    self.refuse(request, GroupError::UnknownMemberId, &Request::Sync(body));
                }
            }
            Request::Heartbeat(body) => {
                let mut error = GroupError::UnknownMemberId;
                self.with_group(now, &body.group_id, |group, ctx| error = heartbeat::heartbeat(group, ctx, &body));
                self.outbox.reply(request, Response::Heartbeat(HeartbeatResponse { error }));
            }
            Request::Leave(body) => self.leave(now, request, &body),
            Request::OffsetCommit(body) => self.commit(now, request, body),
            Request::OffsetFetch(body) => self.fetch(request, &body),
            Request::OffsetDelete(body) => {
                let delete = |group: &mut Group, ctx: &mut Ctx<'_>| {
                    offset_delete::offset_delete(group, ctx, request, &body);
                };
                if !self.with_group(now, &body.group_id, delete) {
                    self.refuse(request, GroupError::GroupIdNotFound, &Request::OffsetDelete(body));
                }
            }
            Request::List(body) => {
                let response = self.list(&body);
                self.outbox.reply(request, Response::List(response));
            }
            Request::Describe(body) => self.describe(request, &body),
            Request::Delete(body) => self.delete(request, &body),
            Request::ConsumerHeartbeat(body) => self.consumer_heartbeat(now, cluster, request, body),
            Request::ConsumerDescribe(body) => self.consumer_describe(cluster, request, &body),
            Request::ShareHeartbeat(body) => self.share_heartbeat(now, cluster, request, body),
            Request::ShareDescribe(body) => self.share_describe(cluster, request, &body),
        }
    }

    fn refuse(&mut self, request: RequestRef, error: GroupError, body: &Request) {
        self.outbox.reply(request, refuse::with(error, body));
    }

    fn join(&mut self, now: Now, request: RequestRef, mut body: types::JoinRequest) {
        let admitted = join::check(&self.config, &body).and_then(|()| self.room_for(&body.group_id, &body.member_id));
        if let Err(error) = admitted {
            return self.outbox.reply(request, JoinResponse::refused(Arc::clone(&body.member_id), error));
        }
        join::bound_texts(&self.config, [&mut body.client_id, &mut body.client_host]);
        if let Err(error) = self.leave_consumer_group(&body.group_id) {
            return self.outbox.reply(request, JoinResponse::refused(Arc::clone(&body.member_id), error));
        }
        self.group_or_new(&body.group_id, now.wall_ms);
        let mut ids = std::mem::replace(&mut self.ids, MemberIds::new(0));
        self.with_group(now, &body.group_id, |group, ctx| join::join(group, ctx, &mut ids, request, &body));
        self.ids = ids;
    }

    /// A member that says it has an id belongs to a group that exists; a new one may found a group.
    fn room_for(&self, group_id: &str, member_id: &str) -> Result<(), GroupError> {
        if self.groups.contains_key(group_id) {
            Ok(())
        } else if !member_id.is_empty() {
            Err(GroupError::UnknownMemberId)
        } else if self.groups.len() >= self.config.max_groups {
            Err(GroupError::GroupMaxSizeReached)
        } else {
            Ok(())
        }
    }

    fn leave(&mut self, now: Now, request: RequestRef, body: &types::LeaveRequest) {
        if self.groups.get(&body.group_id).is_some_and(|group| group.consumer.is_some()) {
            self.with_group(now, &body.group_id, |group, ctx| consumer::leave::by_admin(group, ctx, request, body));
            return;
        }
        let mut members = None;
        self.with_group(now, &body.group_id, |group, ctx| members = Some(leave::leave(group, ctx, &body.members)));
        let response = match members {
            Some(members) => LeaveResponse { error: GroupError::None, members },
            None => LeaveResponse { error: GroupError::UnknownMemberId, members: Vec::new() },
        };
        self.outbox.reply(request, Response::Leave(response));
    }

    fn commit(&mut self, now: Now, request: RequestRef, body: types::OffsetCommitRequest) {
        if self.groups.get(&body.group_id).is_some_and(|group| group.share.is_some()) {
            // What has become of its records is not kept as offsets.
            return self.refuse(request, GroupError::GroupIdNotFound, &Request::OffsetCommit(body));
        }
        if !self.groups.contains_key(&body.group_id) {
            let refusal = if body.generation >= 0 && body.knows_consumer_groups {
                Some(GroupError::GroupIdNotFound)
            } else if body.generation >= 0 {
                Some(GroupError::IllegalGeneration)
            } else if self.groups.len() >= self.config.max_groups {
                Some(GroupError::InvalidCommitOffsetSize)
            } else {
                None
            };
            if let Some(error) = refusal {
                return self.refuse(request, error, &Request::OffsetCommit(body));
            }
            self.group_or_new(&body.group_id, now.wall_ms);
        }
        self.with_group(now, &body.group_id, |group, ctx| commit::commit(group, ctx, request, &body));
        if let Some(transaction) = body.transaction {
            self.note_open(transaction.producer_id, &body);
        }
    }

    fn fetch(&mut self, request: RequestRef, body: &OffsetFetchRequest) {
        let one =
            |fetch: &types::FetchGroup| fetch::fetch(self.groups.get(&fetch.group_id), fetch, body.require_stable);
        let groups = body.groups.iter().map(one);
        let response = OffsetFetchResponse { groups: groups.collect() };
        self.outbox.reply(request, Response::OffsetFetch(response));
    }

    fn describe(&mut self, request: RequestRef, body: &DescribeRequest) {
        let describe = |group_id: &Arc<str>| match self.groups.get(group_id) {
            Some(group)
                if group.consumer.is_none() && group.share.is_none() && !matches!(group.state, State::Dead { .. }) =>
            {
                list::describe(group)
            }
            // Consumer and share groups have requests of their own.
            Some(_) | None => list::absent(group_id, GroupError::GroupIdNotFound),
        };
        let response = DescribeResponse { groups: body.groups.iter().map(describe).collect() };
        self.outbox.reply(request, Response::Describe(response));
    }

    fn delete(&mut self, request: RequestRef, body: &DeleteRequest) {
        if self.outbox.is_full(&self.config) {
            let error = GroupError::CoordinatorNotAvailable;
            return self.refuse(request, error, &Request::Delete(body.clone()));
        }
        let by = self.outbox.next_persist();
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(body.groups.len());
        for group_id in &body.groups {
            let outcome = match self.groups.get_mut(group_id) {
                Some(group) => delete::begin(group, &mut records, by),
                None => Err(GroupError::GroupIdNotFound),
            };
            results.push(delete::verdict(group_id, outcome));
            self.settle(group_id);
        }
        let response = DeleteResponse { results };
        if records.is_empty() {
            return self.outbox.reply(request, Response::Delete(response));
        }
        let is_ending = |id: &&Arc<str>| self.groups.get(*id).is_some_and(|g| delete::is_ended(g, by));
        let groups = body.groups.iter().filter(is_ending).cloned().collect();
        self.outbox.persist(records, Pending::DeleteGroups { groups, request, response });
    }

    fn persisted(&mut self, now: Now, by: PersistId, pending: Pending, result: Result<(), PersistError>) {
        let durable = result.is_ok();
        match pending {
            Pending::Consumer { group, undo, answer } => match result {
                Ok(()) => {
                    if let Some((request, response)) = answer {
                        self.outbox.reply(request, response);
                    }
                    self.outbox.release(by);
                    self.settle(&group);
                }
                Err(error) => self.undo_consumer(now, &group, undo, answer, error),
            },
            Pending::Share { group, before, answer } => match result {
                Ok(()) => {
                    if let Some((request, response)) = answer {
                        self.outbox.reply(request, response);
                    }
                    self.outbox.release(by);
                    self.settle(&group);
                }
                Err(error) => self.undo_share(now, &group, before, answer, error),
            },
            Pending::Assignment { group, assignments } => {
                self.with_group(now, &group, |group, ctx| match result {
                    Ok(()) => group.assigned(ctx, by, assignments),
                    Err(error) => group.not_assigned(ctx, by, group_error(error)),
                });
            }
            Pending::StaticMember { group, new_id, old, request, response } => {
                let response = match result {
                    Ok(()) => Response::Join(response),
                    Err(error) => JoinResponse::refused("".into(), group_error(error)),
                };
                self.outbox.reply(request, response);
                self.with_group(now, &group, |group, ctx| {
                    group.returning = None;
                    if !durable {
                        put_back(group, ctx, &new_id, *old);
                    }
                });
            }
            Pending::EmptyGroup { group } => self.settle(&group),
            Pending::Commit { group, request, commits, response } => {
                self.with_group(now, &group, |group, _| commit::finish(group, by, commits, durable));
                let response = match result {
                    Ok(()) => response,
                    Err(PersistError::NotAvailable) => commit::failed(response, GroupError::CoordinatorNotAvailable),
                    Err(PersistError::TooLarge) => commit::failed(response, GroupError::InvalidCommitOffsetSize),
                    Err(PersistError::Fenced) => commit::failed(response, GroupError::InvalidProducerEpoch),
                };
                self.outbox.reply(request, Response::OffsetCommit(response));
            }
            Pending::OpenCommit(commit) => self.open_committed(by, commit, result),
            Pending::OffsetDelete { group, request, removed, response } => {
                self.with_group(now, &group, |group, _| offset_delete::finish(group, by, &removed, durable));
                let response = match result {
                    Ok(()) => Response::OffsetDelete(response),
                    Err(error) => offset_delete::refused(group_error(error)),
                };
                self.outbox.reply(request, response);
            }
            Pending::DeleteGroups { groups, request, mut response } => {
                if durable {
                    groups.iter().for_each(|group_id| self.drop_offsets(group_id, by));
                }
                self.end_groups(&groups, by, durable);
                if let Err(error) = result {
                    for (_, verdict) in response.results.iter_mut().filter(|(id, _)| groups.contains(id)) {
                        *verdict = group_error(error);
                    }
                }
                self.outbox.reply(request, Response::Delete(response));
            }
            Pending::Forget { offsets, groups } => {
                for (group_id, offset) in offsets {
                    self.with_group(now, &group_id, |group, _| {
                        offset_delete::finish(group, by, std::slice::from_ref(&offset), durable);
                    });
                }
                self.end_groups(&groups, by, durable);
            }
        }
    }

    /// The tombstones of all offsets of a deleted group are durable.
    fn drop_offsets(&mut self, group_id: &str, by: PersistId) {
        if let Some(group) = self.groups.get_mut(group_id)
            && delete::is_ended(group, by)
        {
            group.offsets.clear(by);
        }
    }

    fn end_groups(&mut self, group_ids: &[Arc<str>], by: PersistId, durable: bool) {
        for group_id in group_ids {
            let Some(group) = self.groups.get_mut(group_id) else { continue };
            if !durable {
                delete::revive(group, by);
            } else if delete::is_ended(group, by) {
                delete::end(group);
            }
            self.settle(group_id);
        }
    }

    fn topic_deleted(&mut self, topic: &str) {
        let offsets = self.groups.values().flat_map(|group| {
            let of_group = group.offsets.partitions(topic).into_iter();
            of_group.map(|partition| (Arc::clone(&group.id), (Arc::from(topic), partition)))
        });
        let offsets = offsets.collect::<Vec<_>>();
        self.forget_gone(&offsets);
    }

    /// Offsets of topics that do not exist, or exist anew under another id.
    fn forget_strangers(&mut self, topic_id: impl Fn(&str) -> Option<Uuid>) {
        let is_stranger = |topic: &str, committed: &record::Committed| match topic_id(topic) {
            Some(id) => !committed.topic_id.is_nil() && committed.topic_id != id,
            None => true,
        };
        let strangers = self.groups.values().flat_map(|group| {
            let of_group = group.offsets.iter().filter(|(topic, _, committed)| is_stranger(topic, committed));
            of_group.map(|(topic, partition, _)| (Arc::clone(&group.id), (Arc::clone(topic), partition)))
        });
        let strangers = strangers.collect::<Vec<_>>();
        self.forget_gone(&strangers);
    }

    /// They are not seen again from now on, though the tombstones are only on their way: a new topic of the same name
    /// may exist by then. Should the tombstones fail, [`Groups::loaded`] removes them at the next start.
    fn forget_gone(&mut self, offsets: &[(Arc<str>, TopicPartition)]) {
        for chunk in offsets.chunks(self.config.max_tombstones_per_persist.max(1)) {
            let by = self.forget(chunk.to_vec(), Vec::new());
            for (group_id, (topic, partition)) in chunk {
                if let Some(group) = self.groups.get_mut(group_id) {
                    group.offsets.hide(topic, *partition, by);
                }
            }
        }
    }

    /// Writes tombstones that nobody waits for.
    fn forget(&mut self, offsets: Vec<(Arc<str>, TopicPartition)>, groups: Vec<Arc<str>>) -> PersistId {
        let mut records = Vec::with_capacity(offsets.len() + groups.len());
        for (group_id, (topic, partition)) in &offsets {
            records.push(record::offset_record(group_id, topic, *partition, None));
            if let Some(group) = self.groups.get_mut(group_id) {
                group.offsets.begin(topic, *partition);
            }
        }
        for group_id in &groups {
            match self.groups.get(group_id).filter(|group| group.consumer.is_some() || group.share.is_some()) {
                Some(group) => records.extend(group.consumer_tombstones()),
                None => records.push(record::group_record(group_id, None)),
            }
        }
        self.outbox.persist(records, Pending::Forget { offsets, groups })
    }

    fn tick(&mut self, now: Now) {
        let later = self.alarms.split_off(&(now.monotonic_ns.saturating_add(1), Arc::from("")));
        let due = std::mem::replace(&mut self.alarms, later);
        for (_, group_id) in due {
            if let Some(group) = self.groups.get_mut(&group_id) {
                group.alarm_ns = u64::MAX;
            }
            self.with_group(now, &group_id, Group::on_time);
        }
        if self.expiry_ns <= now.monotonic_ns {
            self.expire_some(now);
        }
    }

    /// Looks for expired offsets in the next few groups.
    fn expire_some(&mut self, now: Now) {
        let after = self.expiry_after.take();
        let from = after.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(Arc::clone(id)));
        let batch = self.groups.range((from, Bound::Unbounded)).take(self.config.expiry_groups_per_step.max(1));
        let batch: Vec<_> = batch.map(|(group_id, _)| Arc::clone(group_id)).collect();
        for group_id in &batch {
            self.expire_group(now, group_id);
        }
        if batch.len() < self.config.expiry_groups_per_step.max(1) {
            self.expiry_ns = now.monotonic_ns.saturating_add(self.config.offsets_check_interval_ms.max(1) * 1_000_000);
        } else {
            self.expiry_after = batch.last().cloned();
        }
    }

    fn expire_group(&mut self, now: Now, group_id: &Arc<str>) {
        let Some(group) = self.groups.get(group_id) else { return };
        if self.outbox.is_full(&self.config) {
            return;
        }
        let expired = expire::expired(group, &self.config, now.wall_ms);
        let offsets = expired.offsets.into_iter().map(|offset| (Arc::clone(group_id), offset)).collect::<Vec<_>>();
        let mut chunks = offsets.chunks(self.config.max_tombstones_per_persist.max(1)).peekable();
        let mut last = None;
        while let Some(chunk) = chunks.next() {
            let ends = expired.group && chunks.peek().is_none();
            last = Some(self.forget(chunk.to_vec(), if ends { vec![Arc::clone(group_id)] } else { Vec::new() }));
        }
        if expired.group {
            let deleting = last.unwrap_or_else(|| self.forget(Vec::new(), vec![Arc::clone(group_id)]));
            if let Some(group) = self.groups.get_mut(group_id) {
                group.state = State::Dead { deleting };
            }
        }
    }

    fn group_or_new(&mut self, group_id: &Arc<str>, now_ms: i64) -> &mut Group {
        let new = || Group::new(Arc::clone(group_id), now_ms);
        self.groups.entry(Arc::clone(group_id)).or_insert_with(new)
    }

    /// Does something with a group, and then what every change calls for. False: there is no such group.
    fn with_group(&mut self, now: Now, group_id: &str, act: impl FnOnce(&mut Group, &mut Ctx<'_>)) -> bool {
        let Some(group) = self.groups.get_mut(group_id) else { return false };
        act(group, &mut Ctx { now, config: &self.config, outbox: &mut self.outbox });
        self.settle(group_id);
        true
    }

    /// Sets the group's alarm; drops a group of which nothing is left.
    fn settle(&mut self, group_id: &str) {
        let Some(group) = self.groups.get_mut(group_id) else { return };
        if group.is_vacant() {
            return self.remove_group(group_id);
        }
        if group.alarm_ns != group.wake_ns {
            let id = Arc::clone(&group.id);
            let before = std::mem::replace(&mut group.alarm_ns, group.wake_ns);
            let alarm = (before, id);
            self.alarms.remove(&alarm);
            if group.wake_ns != u64::MAX {
                self.alarms.insert((group.wake_ns, alarm.1));
            }
        }
    }

    fn remove_group(&mut self, group_id: &str) {
        if let Some(group) = self.groups.remove(group_id) {
            self.alarms.remove(&(group.alarm_ns, group.id));
        }
    }
}

/// The members of a replayed group have a session from now on; one that has become too large rebalances, so that those
/// above the limit are told.
fn begin_sessions(group: &mut Group, ctx: &mut Ctx<'_>) {
    if let Some(consumer) = &mut group.consumer {
        consumer.prune();
    }
    if group.consumer.as_ref().is_some_and(|consumer| consumer.is_blank()) {
        group.consumer = None;
    }
    consumer::timeout::arm(group, ctx);
    share::heartbeat::arm(group, ctx);
    let member_ids: Vec<_> = group.members.keys().cloned().collect();
    for member_id in &member_ids {
        group.touch(ctx, member_id);
    }
    if member_ids.len() > ctx.config.max_group_size {
        group.rebalance_if_settled(ctx);
    }
}

/// The static member did not come back after all: its place is as it was, if nothing has happened to it since.
fn put_back(group: &mut Group, ctx: &mut Ctx<'_>, new_id: &Arc<str>, old: group::Member) {
    let untouched = matches!(group.state, State::Stable { .. })
        && group.members.get(new_id).is_some_and(|m| m.waiting == group::Waiting::Nothing);
    if untouched {
        let old_id = Arc::clone(&old.id);
        group.put_in_place(new_id, old);
        group.touch(ctx, &old_id);
    }
}

fn group_error(error: PersistError) -> GroupError {
    match error {
        PersistError::NotAvailable => GroupError::CoordinatorNotAvailable,
        PersistError::TooLarge => GroupError::GroupMaxSizeReached,
        PersistError::Fenced => GroupError::InvalidProducerEpoch,
    }
}
