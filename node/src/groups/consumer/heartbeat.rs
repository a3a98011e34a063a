//! ConsumerGroupHeartbeat: a member says what has changed with it, and learns what it has from now on.
//!
//! ```text
//!  found or admitted ─> what it says ─> group's epoch ─> target ─> its next step ─> answer
//! ```
//! Records are written in this order: of an append that tears, whatever is left is a group that goes on.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::assign::{Assignor, MemberSpec, Spec, TopicSpec};
use super::check::Refusal;
use super::current::{self, Aim, Current, Held, JOINING, LEAVING, LEAVING_FOR_NOW, Owned, Progress};
use super::draft::Draft;
use super::fact::Fact;
use super::state::{ConsumerGroup, Look, Meta, Resolved, Subscription};
use super::types::{ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, TopicPartitions};
use super::{leave, regex};
use crate::groups::cluster::Cluster;
use crate::groups::config::GroupsConfig;
use crate::groups::group::{Group, State};
use crate::groups::outbox::Ctx;
use crate::groups::types::{GroupError, Now, RequestRef, Response};

/// What a heartbeat needs to know beside the group.
pub(in crate::groups) struct With<'a> {
    pub(in crate::groups) cluster: &'a dyn Cluster,
    /// Grows when topics come, go or grow.
    pub(in crate::groups) topics_version: u64,
    pub(in crate::groups) now: Now,
    /// The id of a member that makes none itself.
    pub(in crate::groups) new_id: Arc<str>,
}

/// Takes a heartbeat.
pub(in crate::groups) fn heartbeat(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    with: &With<'_>,
    request: RequestRef,
    beat: &ConsumerHeartbeatRequest,
) {
    let mut draft = Draft::default();
    let outcome = run(group, ctx, with, &mut draft, beat).and_then(|response| {
        if !draft.is_empty() && ctx.outbox.is_full(ctx.config) {
            return Err(refusal(GroupError::CoordinatorNotAvailable, "too many writes are on their way; try again"));
        }
        Ok(response)
    });
    match outcome {
        Ok(response) => draft.finish(group, ctx, Some((request, Response::ConsumerHeartbeat(response)))),
        Err((error, message)) => {
            draft.drop(group);
            ctx.outbox.reply(request, ConsumerHeartbeatResponse::refused(error, message));
        }
    }
}

pub(super) fn refusal(error: GroupError, message: impl Into<String>) -> Refusal {
    (error, message.into())
}

fn run(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    with: &With<'_>,
    draft: &mut Draft,
    beat: &ConsumerHeartbeatRequest,
) -> Result<ConsumerHeartbeatResponse, Refusal> {
    open(group, draft, beat.member_epoch == JOINING)?;
    let id = Arc::clone(&group.id);
    let Some(consumer) = &mut group.consumer else { return Err(not_consumer(&id)) };
    let mut beat = Beat { group: &id, consumer, config: ctx.config, with, draft, beat };
    if matches!(beat.beat.member_epoch, LEAVING | LEAVING_FOR_NOW) {
        return leave::leave(beat.group, beat.consumer, beat.draft, beat.beat);
    }
    let member_id = beat.find_member()?;
    let before = beat.consumer.members.get(&member_id).map(|member| Arc::clone(&member.current)).unwrap_or_default();
    let wants_others = beat.update_member(&member_id)?;
    beat.update_epoch(wants_others);
    beat.update_target(ctx.now.wall_ms);
    let stepped = beat.step_member(&member_id, wants_others);
    let response = beat.response(&member_id, &before);
    arm(consumer, ctx, with, &id, &member_id, stepped);
    group.wake_by(group.consumer.as_ref().map_or(u64::MAX, |consumer| deadline(consumer, &member_id)));
    Ok(response)
}

fn deadline(consumer: &ConsumerGroup, member_id: &str) -> u64 {
    let of = |member: &super::state::Member| member.session_ns.min(member.revoke_ns.unwrap_or(u64::MAX));
    consumer.members.get(member_id).map_or(u64::MAX, of)
}

fn not_consumer(group_id: &str) -> Refusal {
    refusal(GroupError::GroupIdNotFound, format!("Group {group_id} is not a consumer group."))
}

/// The group is one for this protocol, or becomes one for who joins it.
fn open(group: &mut Group, draft: &mut Draft, joins: bool) -> Result<(), Refusal> {
    if group.share.is_some() {
        return Err(not_consumer(&group.id));
    }
    match (&group.state, &group.consumer) {
        (State::Dead { .. }, _) => Err(refusal(GroupError::CoordinatorNotAvailable, "the group is being deleted")),
        (_, Some(_)) => Ok(()),
        (State::Empty, None) if joins => {
            draft.take_place(group);
            Ok(())
        }
        (State::Empty | State::PreparingRebalance(_) | State::CompletingRebalance(_) | State::Stable { .. }, None) => {
            if joins {
                let text = format!(
                    "Cannot upgrade classic group {} to consumer group: it has members that use the classic protocol; \
                     stop them first.",
                    group.id
                );
                return Err(refusal(GroupError::GroupIdNotFound, text));
            }
            Err(not_consumer(&group.id))
        }
    }
}

/// The member was heard of: its session begins anew, and with a step that makes it give something up the time for that.
fn arm(consumer: &mut ConsumerGroup, ctx: &Ctx<'_>, with: &With<'_>, group_id: &str, member_id: &str, stepped: bool) {
    let overrides = with.cluster.overrides(group_id);
    let session_ms = overrides.session_timeout_ms.unwrap_or(ctx.config.consumer_session_timeout_ms);
    let Some(member) = consumer.members.get_mut(member_id) else { return };
    member.session_ns = ctx.after_ms(session_ms);
    if stepped {
        let revokes = member.current.progress == Progress::Unrevoked;
        let timeout_ms = u32::try_from(member.meta.rebalance_timeout_ms).unwrap_or(0).max(1);
        member.revoke_ns = revokes.then(|| ctx.after_ms(timeout_ms));
    }
}

/// One heartbeat on its way through the group.
struct Beat<'a> {
    group: &'a Arc<str>,
    consumer: &'a mut ConsumerGroup,
    config: &'a GroupsConfig,
    with: &'a With<'a>,
    draft: &'a mut Draft,
    beat: &'a ConsumerHeartbeatRequest,
}

impl Beat<'_> {
    fn put(&mut self, fact: Fact) {
        self.draft.put(self.group, self.consumer, fact);
    }

    /// The member that this is; a new one is not in the group yet, or took the place of an earlier one.
    fn find_member(&mut self) -> Result<Arc<str>, Refusal> {
        let joins = self.beat.member_epoch == JOINING;
        let id = if self.beat.member_id.is_empty() { &self.with.new_id } else { &self.beat.member_id };
        let id = Arc::clone(id);
        let known = self.beat.instance_id.as_ref().and_then(|instance| self.consumer.instances.get(instance)).cloned();
        match (&self.beat.instance_id, known) {
            (Some(_), Some(known)) if joins && known != id => self.replace_static(&known, &id)?,
            (Some(instance), None) if !joins => return Err(unknown_instance(instance)),
            (Some(instance), Some(known)) if known != id => return Err(fenced_instance(&id, instance, &known)),
            (Some(_) | None, _) => {}
        }
        match self.consumer.members.get(&id) {
            Some(member) => check_epoch(&member.current, self.beat.member_epoch, self.beat.owned.as_deref())?,
            None if joins => self.check_room()?,
            None => {
                let text = format!("Member {id} is not a member of group {}.", self.group);
                return Err(refusal(GroupError::UnknownMemberId, text));
            }
        }
        Ok(id)
    }

    fn check_room(&self) -> Result<(), Refusal> {
        let most = self.config.max_consumer_group_size;
        if self.consumer.members.len() < most {
            return Ok(());
        }
        let text = format!("The consumer group has reached its maximum capacity of {most} members.");
        Err(refusal(GroupError::GroupMaxSizeReached, text))
    }

    /// A static member comes back as another process: it has what the one before had, if that has left.
    fn replace_static(&mut self, old_id: &Arc<str>, new_id: &Arc<str>) -> Result<(), Refusal> {
        let Some(old) = self.consumer.members.get(old_id).cloned() else { return Ok(()) };
        if old.current.epoch != LEAVING_FOR_NOW {
            let text = format!(
                "Static member {new_id} with instance id {} cannot join the group because the instance id is owned by \
                 {old_id} member.",
                self.beat.instance_id.as_deref().unwrap_or_default()
            );
            return Err(refusal(GroupError::UnreleasedInstanceId, text));
        }
        let target = self.consumer.targets.get(old_id).cloned().unwrap_or_default();
        for fact in leave::gone(self.consumer, old_id) {
            self.put(fact);
        }
        let current = Current { epoch: JOINING, previous_epoch: JOINING, ..(*old.current).clone() };
        self.put(Fact::Member(Arc::clone(new_id), Some(old.meta)));
        self.put(Fact::Target(Arc::clone(new_id), Some(target)));
        self.put(Fact::Current(Arc::clone(new_id), Some(Arc::new(current))));
        Ok(())
    }

    /// Takes over what the member says of itself. Whether it wants others than before.
    fn update_member(&mut self, id: &Arc<str>) -> Result<bool, Refusal> {
        let old = self.consumer.members.get(id).map(|member| Arc::clone(&member.meta));
        let is_new = old.is_none();
        let old = old.unwrap_or_default();
        let meta = self.said(&old);
        let (before, now) = (Arc::clone(&old.subscription), Arc::clone(&meta.subscription));
        if is_new || meta != *old {
            self.put(Fact::Member(Arc::clone(id), Some(Arc::new(meta))));
        }
        let weight: usize = self.consumer.subscriptions.keys().map(|subscription| subscription.bytes()).sum();
        if before != now && weight > self.config.max_group_metadata_bytes {
            let text = "the subscriptions of the group are larger than it may hold; use fewer topics, or a pattern";
            return Err(refusal(GroupError::GroupMaxSizeReached, text));
        }
        let by_pattern = self.update_patterns(&before, &now)?;
        Ok(before.topics != now.topics || by_pattern)
    }

    fn said(&self, old: &Meta) -> Meta {
        let beat = self.beat;
        let says = beat.topics.is_some() || beat.regex.is_some();
        let subscription =
            if says { Arc::new(subscription(beat, &old.subscription)) } else { Arc::clone(&old.subscription) };
        Meta {
            instance_id: beat.instance_id.clone().or_else(|| old.instance_id.clone()),
            rack_id: beat.rack_id.clone().or_else(|| old.rack_id.clone()),
            client_id: Arc::clone(&beat.client_id),
            client_host: Arc::clone(&beat.client_host),
            rebalance_timeout_ms: beat.rebalance_timeout_ms.unwrap_or(old.rebalance_timeout_ms),
            assignor: beat.assignor.clone().or_else(|| old.assignor.clone()),
            subscription,
        }
    }

    /// Patterns come and go with those who subscribe to them, and are looked up again when topics have come. Whether other
    /// topics are wanted than before. As with Kafka, members share what a pattern stands for: it is what that one may know of
    /// which happened to look it up.
    fn update_patterns(&mut self, before: &Subscription, now: &Subscription) -> Result<bool, Refusal> {
        let mut changed = before.regex != now.regex;
        if changed {
            if let Some(pattern) = now.regex.as_ref().filter(|pattern| !self.consumer.regexes.contains_key(*pattern)) {
                self.resolve_new(pattern)?;
            }
            if let Some(pattern) = before.regex.as_ref().filter(|pattern| self.consumer.matched_by(pattern) == 0) {
                self.put(Fact::Regex(Arc::clone(pattern), None));
            }
        }
        if let Some(pattern) = &now.regex {
            changed |= self.refresh_pattern(pattern);
        }
        Ok(changed)
    }

    fn resolve_new(&mut self, pattern: &Arc<str>) -> Result<(), Refusal> {
        if self.consumer.regexes.len() >= self.config.max_patterns_per_group {
            let text = format!("a group has at most {} patterns", self.config.max_patterns_per_group);
            return Err(refusal(GroupError::GroupMaxSizeReached, text));
        }
        let compiled = regex::compile(pattern).map_err(|why| {
            let text = format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {why}.");
            refusal(GroupError::InvalidRegularExpression, text)
        })?;
        self.match_topics(pattern, &compiled);
        Ok(())
    }

    fn match_topics(&mut self, pattern: &Arc<str>, compiled: &::regex::Regex) -> bool {
        self.consumer.looks.insert(Arc::clone(pattern), self.look());
        let topics = regex::topics(compiled, self.with.cluster);
        if self.consumer.regexes.get(pattern).is_some_and(|known| known.topics == topics) {
            return false;
        }
        let version = i64::try_from(self.with.topics_version).unwrap_or(i64::MAX);
        let resolved = Resolved { topics, version, timestamp_ms: self.with.now.wall_ms };
        self.put(Fact::Regex(Arc::clone(pattern), Some(Arc::new(resolved))));
        true
    }

    fn look(&self) -> Look {
        let (topics, rules) = (self.with.topics_version, self.with.cluster.rules_version());
        Look { topics, rules, at_ns: self.with.now.monotonic_ns }
    }

    /// Looks the member's pattern up again, if topics have come or gone since, or what may be known of them has changed; not
    /// too often. Only its own: what a pattern stands for is what one of those that subscribe to it may know of.
    fn refresh_pattern(&mut self, pattern: &Arc<str>) -> bool {
        let now = self.look();
        let is_due = self.consumer.looks.get(pattern).is_none_or(|last| {
            let has_changed = (last.topics, last.rules) != (now.topics, now.rules);
            let interval_ns = self.config.pattern_refresh_interval_ms * 1_000_000;
            has_changed && now.at_ns >= last.at_ns.saturating_add(interval_ns)
        });
        // It was compiled when it came.
        is_due && regex::compile(pattern).is_ok_and(|compiled| self.match_topics(pattern, &compiled))
    }

    /// A new epoch, if members want others than before or their topics have changed.
    fn update_epoch(&mut self, wants_others: bool) {
        let bump = wants_others || self.consumer.epoch == 0;
        if !bump && self.consumer.seen_topics == Some(self.with.topics_version) {
            return;
        }
        self.consumer.seen_topics = Some(self.with.topics_version);
        let hash = topics_hash(self.consumer, self.with.cluster);
        let (epoch, target_epoch) = (self.consumer.epoch, self.consumer.target_epoch);
        if bump || (hash != self.consumer.topics_hash && epoch <= target_epoch) {
            self.put(Fact::Epoch(Some((epoch.saturating_add(1), hash))));
        } else if hash != self.consumer.topics_hash {
            // No target was made in this epoch yet: the next one sees the topics as they are.
            self.put(Fact::Epoch(Some((epoch, hash))));
        }
    }

    /// A target for the group's epoch, if there is none yet.
    fn update_target(&mut self, now_ms: i64) {
        let epoch = self.consumer.epoch;
        if epoch <= self.consumer.target_epoch {
            return;
        }
        let preferred = self.consumer.preferred_assignor().and_then(|name| Assignor::of(name));
        let targets = targets(self.consumer, self.with.cluster, preferred.unwrap_or(Assignor::ALL[0]));
        for fact in targets {
            self.put(fact);
        }
        self.put(Fact::TargetEpoch(Some((epoch, now_ms))));
    }

    /// The member's next step towards its target. Whether there was one.
    fn step_member(&mut self, id: &Arc<str>, wants_others: bool) -> bool {
        let consumer = &*self.consumer;
        let Some(member) = consumer.members.get(id) else { return false };
        let wants = |topic: Uuid| {
            let name = self.with.cluster.topic_name(topic);
            name.is_some_and(|name| consumer.wants(&member.meta.subscription, &name))
        };
        let next = current::next(
            &member.current,
            &Aim {
                epoch: consumer.target_epoch,
                target: consumer.targets.get(id).map_or(&super::state::Parts::new(), |target| target),
                wants: &wants,
                is_free: &|topic, partition| consumer.owner(topic, partition).is_none_or(|owner| owner == id),
                wants_others,
                owned: self.beat.owned.as_deref(),
            },
        );
        match next {
            Some(next) => {
                self.put(Fact::Current(Arc::clone(id), Some(Arc::new(next))));
                true
            }
            None => false,
        }
    }

    fn response(&self, id: &Arc<str>, before: &Current) -> ConsumerHeartbeatResponse {
        let current = self.consumer.members.get(id).map(|member| Arc::clone(&member.current)).unwrap_or_default();
        let beat = self.beat;
        let full = beat.rebalance_timeout_ms.is_some()
            && (beat.topics.is_some() || beat.regex.is_some())
            && beat.owned.is_some();
        let tell = beat.member_epoch == JOINING || full || !same_partitions(&before.assigned, &current.assigned);
        let overrides = self.with.cluster.overrides(self.group);
        let interval_ms = overrides.heartbeat_interval_ms.unwrap_or(self.config.consumer_heartbeat_interval_ms);
        ConsumerHeartbeatResponse {
            error: GroupError::None,
            message: None,
            member_id: Some(Arc::clone(id)),
            member_epoch: current.epoch,
            heartbeat_interval_ms: i32::try_from(interval_ms).unwrap_or(i32::MAX),
            assignment: tell.then(|| listed(&current.assigned)),
        }
    }
}

fn same_partitions(a: &Held, b: &Held) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && a.1.keys().eq(b.1.keys()))
}

fn listed(held: &Held) -> TopicPartitions {
    held.iter().map(|(topic, partitions)| (*topic, partitions.keys().copied().collect())).collect()
}

fn subscription(beat: &ConsumerHeartbeatRequest, old: &Subscription) -> Subscription {
    let topics = match &beat.topics {
        Some(topics) => topics.iter().cloned().collect(),
        None => old.topics.clone(),
    };
    let regex = match &beat.regex {
        Some(regex) => Some(Arc::clone(regex)).filter(|regex| !regex.is_empty()),
        None => old.regex.clone(),
    };
    Subscription { topics, regex }
}

fn unknown_instance(instance: &str) -> Refusal {
    refusal(GroupError::UnknownMemberId, format!("Instance id {instance} is unknown."))
}

pub(super) fn fenced_instance(id: &str, instance: &str, known: &str) -> Refusal {
    let text = format!(
        "Static member {id} with instance id {instance} was fenced by member {known}: only one process may use the instance id."
    );
    refusal(GroupError::FencedInstanceId, text)
}

/// The member must be at the epoch that it says; or at the next one, whose answer it did not get.
fn check_epoch(current: &Current, said: i32, owned: Owned<'_>) -> Result<(), Refusal> {
    let known = current.epoch;
    let answer_lost = said == current.previous_epoch && is_part(owned, &current.assigned);
    if said == JOINING || said == known || said < known && answer_lost {
        return Ok(());
    }
    let than = if said > known { "greater" } else { "smaller" };
    let text = format!(
        "The consumer group member has a {than} member epoch ({said}) than the one known by the group coordinator ({known}). \
         The member must abandon all its partitions and rejoin."
    );
    Err(refusal(GroupError::FencedMemberEpoch, text))
}

/// Whether a member that says what it has, has nothing else.
fn is_part(owned: Owned<'_>, assigned: &Held) -> bool {
    owned.is_some_and(|owned| {
        owned.iter().all(|(topic, partitions)| {
            let held = assigned.get(topic);
            partitions.iter().all(|partition| held.is_some_and(|held| held.contains_key(partition)))
        })
    })
}

/// A number for the topics that members want, as they are now (KIP-1101): FNV-1a over names, ids and partitions.
fn topics_hash(consumer: &ConsumerGroup, cluster: &dyn Cluster) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for name in consumer.topics() {
        if let Some(topic) = cluster.topic(name) {
            eat(name.as_bytes());
            eat(topic.id.as_bytes());
            eat(&topic.partitions.to_be_bytes());
        }
    }
    hash.cast_signed()
}

/// What is another than before in what members are to have.
fn targets(consumer: &ConsumerGroup, cluster: &dyn Cluster, assignor: Assignor) -> Vec<Fact> {
    let mut places: HashMap<&Arc<str>, usize, RandomState> = HashMap::default();
    let mut topics = Vec::new();
    for name in consumer.topics() {
        if let Some(topic) = cluster.topic(name) {
            places.insert(name, topics.len());
            topics.push(TopicSpec { id: topic.id, partitions: topic.partitions });
        }
    }
    let mut wanted: HashMap<*const Subscription, Arc<[usize]>, RandomState> = HashMap::default();
    for subscription in consumer.subscriptions.keys() {
        let of: BTreeSet<usize> = consumer.topics_of(subscription).filter_map(|n| places.get(n).copied()).collect();
        wanted.insert(Arc::as_ptr(subscription), of.into_iter().collect());
    }
    let spec_of = |(id, member): (&'_ Arc<str>, &super::state::Member)| {
        let topics = wanted.get(&Arc::as_ptr(&member.meta.subscription)).cloned();
        (Arc::clone(id), topics.unwrap_or_else(|| Arc::from([])))
    };
    let members: Vec<(Arc<str>, Arc<[usize]>)> = consumer.members.iter().map(spec_of).collect();
    let specs = members.iter().map(|(id, topics)| MemberSpec {
        name: consumer.members.get(id).and_then(|m| m.meta.instance_id.as_deref()).unwrap_or(id),
        topics: Arc::clone(topics),
        before: consumer.targets.get(id).map(|target| &**target),
    });
    let assigned = assignor.assign(&Spec { topics, members: specs.collect() });
    let changed = members
        .iter()
        .zip(assigned)
        .filter(|((id, _), parts)| consumer.targets.get(id).is_none_or(|before| **before != *parts));
    changed.map(|((id, _), parts)| Fact::Target(Arc::clone(id), Some(Arc::new(parts)))).collect()
}
