//! A consumer group of the protocol of KIP-848: who is in it, who is to have which partitions (the target), who has which
//! (the current assignment). It changes by [`Fact`]s alone, and each fact is a record of the log: so what is replayed is
//! what was.
//!
//! ```text
//!   members, topics change ──> epoch + 1            Assigning
//!   a member's heartbeat   ──> target of that epoch Reconciling
//!   each member's          ──> current assignment: gives up, then gets (`current.rs`)
//!   all have theirs        ──>                      Stable
//! ```
//! It must not know of requests and times, but for the deadlines that it keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::current::Current;
use super::fact::Fact;
use crate::groups::types::{PersistId, StateName};

/// Partitions by topic.
pub(in crate::groups) type Parts = BTreeMap<Uuid, BTreeSet<i32>>;

/// What a member wants to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::groups) struct Subscription {
    pub(in crate::groups) topics: BTreeSet<Arc<str>>,
    /// Topics whose whole name matches, as well.
    pub(in crate::groups) regex: Option<Arc<str>>,
}

impl Subscription {
    /// What it weighs in memory, roughly.
    pub(in crate::groups) fn bytes(&self) -> usize {
        let topics: usize = self.topics.iter().map(|topic| topic.len() + 32).sum();
        topics + self.regex.as_ref().map_or(0, |regex| regex.len())
    }
}

/// What a member says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::groups) struct Meta {
    pub(in crate::groups) instance_id: Option<Arc<str>>,
    pub(in crate::groups) rack_id: Option<Arc<str>>,
    pub(in crate::groups) client_id: Arc<str>,
    pub(in crate::groups) client_host: Arc<str>,
    pub(in crate::groups) rebalance_timeout_ms: i32,
    /// The assignor that it would like.
    pub(in crate::groups) assignor: Option<Arc<str>>,
    pub(in crate::groups) subscription: Arc<Subscription>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::groups) struct Member {
    pub(in crate::groups) meta: Arc<Meta>,
    pub(in crate::groups) current: Arc<Current>,
    /// Out after this.
    pub(in crate::groups) session_ns: u64,
    /// Out after this, if it has not given up what it must until then.
    pub(in crate::groups) revoke_ns: Option<u64>,
}

impl Member {
    fn new() -> Self {
        Self { meta: Arc::default(), current: Arc::default(), session_ns: u64::MAX, revoke_ns: None }
    }
}

/// The topics that a regular expression stands for, when it was last looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::groups) struct Resolved {
    pub(in crate::groups) topics: BTreeSet<Arc<str>>,
    /// Of the metadata; not used.
    pub(in crate::groups) version: i64,
    pub(in crate::groups) timestamp_ms: i64,
}

/// As of when a regular expression was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::groups) struct Look {
    /// The cluster's topics.
    pub(in crate::groups) topics: u64,
    /// What who looked may know of them.
    pub(in crate::groups) rules: u64,
    pub(in crate::groups) at_ns: u64,
}

/// The group.
#[derive(Debug, Clone, Default)]
pub(in crate::groups) struct ConsumerGroup {
    /// Grows when members, what they want, or the topics change; 0: nothing was written yet.
    pub(in crate::groups) epoch: i32,
    /// Of the topics that members want, as they were in this epoch.
    pub(in crate::groups) topics_hash: i64,
    /// The epoch that the targets are of.
    pub(in crate::groups) target_epoch: i32,
    /// When they were made.
    pub(in crate::groups) target_ms: i64,
    pub(in crate::groups) members: BTreeMap<Arc<str>, Member>,
    pub(in crate::groups) targets: BTreeMap<Arc<str>, Arc<Parts>>,
    pub(in crate::groups) regexes: BTreeMap<Arc<str>, Arc<Resolved>>,
    /// Static members: instance id to member id.
    pub(in crate::groups) instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Different ones, with the number of members that have each.
    pub(in crate::groups) subscriptions: BTreeMap<Arc<Subscription>, usize>,
    /// Who has a partition, or has yet to give it up. Nobody else may get it.
    pub(in crate::groups) owners: BTreeMap<Uuid, BTreeMap<i32, Arc<str>>>,
    /// The cluster's topics as of which `topics_hash` was last looked at; not written.
    pub(in crate::groups) seen_topics: Option<u64>,
    /// When each of `regexes` was last looked up, if it was here; not written.
    pub(in crate::groups) looks: BTreeMap<Arc<str>, Look>,
    /// The last write about this group: what is answered of it waits for that.
    pub(in crate::groups) last_write: Option<PersistId>,
}

impl ConsumerGroup {
    /// Changes the state; gives the fact that undoes it.
    pub(in crate::groups) fn apply(&mut self, fact: Fact) -> Fact {
        match fact {
            Fact::Epoch(to) => {
                let before = (self.epoch > 0).then_some((self.epoch, self.topics_hash));
                (self.epoch, self.topics_hash) = to.unwrap_or_default();
                Fact::Epoch(before)
            }
            Fact::TargetEpoch(to) => {
                let before = (self.target_epoch > 0).then_some((self.target_epoch, self.target_ms));
                (self.target_epoch, self.target_ms) = to.unwrap_or_default();
                Fact::TargetEpoch(before)
            }
            Fact::Member(id, meta) => self.apply_member(id, meta),
            Fact::Current(id, current) => self.apply_current(id, current),
            Fact::Target(id, parts) => {
                let before = match parts {
                    Some(parts) => self.targets.insert(Arc::clone(&id), parts),
                    None => self.targets.remove(&id),
                };
                Fact::Target(id, before)
            }
            Fact::Regex(regex, resolved) => {
                let before = match resolved {
                    Some(resolved) => self.regexes.insert(Arc::clone(&regex), resolved),
                    None => {
                        self.looks.remove(&regex);
                        self.regexes.remove(&regex)
                    }
                };
                Fact::Regex(regex, before)
            }
            // Kafka wrote it before 4.1; the hash is in its place.
            Fact::PartitionMetadata => Fact::PartitionMetadata,
        }
    }

    fn apply_member(&mut self, id: Arc<str>, meta: Option<Arc<Meta>>) -> Fact {
        let before = self.members.get(&id).map(|member| Arc::clone(&member.meta));
        if let Some(before) = &before {
            self.forget_meta(&id, before);
        }
        match meta {
            Some(meta) => {
                let meta = self.remember_meta(&id, meta);
                self.members.entry(Arc::clone(&id)).or_insert_with(Member::new).meta = meta;
            }
            None => {
                if let Some(member) = self.members.remove(&id) {
                    self.release(&id, &member.current);
                }
            }
        }
        Fact::Member(id, before)
    }

    fn forget_meta(&mut self, id: &Arc<str>, meta: &Meta) {
        if let Some(instance) = &meta.instance_id
            && self.instances.get(instance) == Some(id)
        {
            self.instances.remove(instance);
        }
        if let Some(count) = self.subscriptions.get_mut(&meta.subscription) {
            *count -= 1;
            if *count == 0 {
                self.subscriptions.remove(&meta.subscription);
            }
        }
    }

    /// Members that want the same share the memory of it.
    fn remember_meta(&mut self, id: &Arc<str>, mut meta: Arc<Meta>) -> Arc<Meta> {
        if let Some(instance) = &meta.instance_id {
            self.instances.insert(Arc::clone(instance), Arc::clone(id));
        }
        match self.subscriptions.get_key_value(&meta.subscription).map(|(known, _)| Arc::clone(known)) {
            Some(known) if !Arc::ptr_eq(&known, &meta.subscription) => Arc::make_mut(&mut meta).subscription = known,
            Some(_) | None => {}
        }
        *self.subscriptions.entry(Arc::clone(&meta.subscription)).or_default() += 1;
        meta
    }

    fn apply_current(&mut self, id: Arc<str>, current: Option<Arc<Current>>) -> Fact {
        let current = current.unwrap_or_default();
        let member = self.members.entry(Arc::clone(&id)).or_insert_with(|| {
            *self.subscriptions.entry(Arc::default()).or_default() += 1;
            Member::new()
        });
        let before = std::mem::replace(&mut member.current, Arc::clone(&current));
        self.release(&id, &before);
        for (topic, partitions) in [&current.assigned, &current.revoking].into_iter().flatten() {
            let owners = self.owners.entry(*topic).or_default();
            owners.extend(partitions.keys().map(|partition| (*partition, Arc::clone(&id))));
        }
        Fact::Current(id, Some(before))
    }

    /// The member does not have these any more.
    fn release(&mut self, id: &Arc<str>, current: &Current) {
        for (topic, partitions) in [&current.assigned, &current.revoking].into_iter().flatten() {
            let Some(owners) = self.owners.get_mut(topic) else { continue };
            for partition in partitions.keys() {
                // While a log is replayed that is compacted in part, another may have it by now.
                if owners.get(partition) == Some(id) {
                    owners.remove(partition);
                }
            }
            if owners.is_empty() {
                self.owners.remove(topic);
            }
        }
    }

    /// Who has a partition.
    pub(in crate::groups) fn owner(&self, topic: Uuid, partition: i32) -> Option<&Arc<str>> {
        self.owners.get(&topic)?.get(&partition)
    }

    /// Members whose records were found only in part have been removed: what is left of them is the rest of a compaction.
    pub(in crate::groups) fn prune(&mut self) {
        let strangers: Vec<Arc<str>> =
            self.members.iter().filter(|(_, m)| *m.meta == Meta::default()).map(|(id, _)| Arc::clone(id)).collect();
        for id in strangers {
            self.apply(Fact::Member(id, None));
        }
        self.targets.retain(|id, _| self.members.contains_key(id));
        let subscriptions = &self.subscriptions;
        self.regexes.retain(|regex, _| subscriptions.keys().any(|s| s.regex.as_ref() == Some(regex)));
    }

    /// How tools call its state.
    pub(in crate::groups) fn state_name(&self) -> StateName {
        if self.members.is_empty() {
            StateName::Empty
        } else if self.epoch > self.target_epoch {
            StateName::Assigning
        } else if self.members.values().all(|member| member.current.is_at(self.target_epoch)) {
            StateName::Stable
        } else {
            StateName::Reconciling
        }
    }

    /// Members that want what matches this.
    pub(in crate::groups) fn matched_by(&self, regex: &str) -> usize {
        let has = |subscription: &Subscription| subscription.regex.as_deref() == Some(regex);
        self.subscriptions.iter().filter(|(subscription, _)| has(subscription)).map(|(_, members)| members).sum()
    }

    /// The topics of a subscription, as far as they are known.
    pub(in crate::groups) fn topics_of<'a>(
        &'a self,
        subscription: &'a Subscription,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let matched = subscription.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        subscription.topics.iter().chain(matched.into_iter().flat_map(|resolved| &resolved.topics))
    }

    /// Whether the topic is one of the subscription's.
    pub(in crate::groups) fn wants(&self, subscription: &Subscription, topic: &str) -> bool {
        let matched = || subscription.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        subscription.topics.contains(topic) || matched().is_some_and(|resolved| resolved.topics.contains(topic))
    }

    /// The names of all topics that members read.
    pub(in crate::groups) fn topics(&self) -> BTreeSet<&Arc<str>> {
        self.subscriptions.keys().flat_map(|subscription| self.topics_of(subscription)).collect()
    }

    /// The assignor that most members would like, if any says so; of several the first by name.
    pub(in crate::groups) fn preferred_assignor(&self) -> Option<&Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.meta.assignor.as_ref()) {
            *votes.entry(name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name)
    }

    /// The earliest deadline there is.
    pub(in crate::groups) fn earliest_deadline(&self) -> u64 {
        let deadlines = self.members.values().map(|member| member.session_ns.min(member.revoke_ns.unwrap_or(u64::MAX)));
        deadlines.min().unwrap_or(u64::MAX)
    }

    /// Whether nothing of it is, or may be, in the log.
    pub(in crate::groups) fn is_blank(&self) -> bool {
        let unwritten = self.epoch == 0 && self.target_epoch == 0;
        unwritten && self.members.is_empty() && self.targets.is_empty() && self.regexes.is_empty()
    }

    /// All that it takes to end the group's records.
    pub(in crate::groups) fn tombstones(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        for id in self.members.keys() {
            facts.extend([Fact::Current(Arc::clone(id), None), Fact::Target(Arc::clone(id), None)]);
            facts.push(Fact::Member(Arc::clone(id), None));
        }
        facts.extend(self.regexes.keys().map(|regex| Fact::Regex(Arc::clone(regex), None)));
        facts.extend((self.target_epoch > 0).then_some(Fact::TargetEpoch(None)));
        facts.extend((self.epoch > 0).then_some(Fact::Epoch(None)));
        facts
    }
}
