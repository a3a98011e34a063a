//! Groups of the cluster in memory: membership, cooperative rebalances, commits checked by generation.
//!
//! A partition moves in two steps, as with a real coordinator: its owner is told (`Revoking`), gives it up with `release`, and only
//! then the new owner gets it, under a new generation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;

use wherry_client::admin::{GroupDescription, MemberDescription};
use wherry_client::{ClientError, CommitOffset, ConsumedRecord, GroupMembership, RebalanceEvent, TopicPartition};

use super::{MemoryCluster, State, unreachable};
use crate::backend::{GroupView, Member, MemberSpec, Polled, Start};

type Counts = BTreeMap<Arc<str>, usize>;

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<Arc<str>, Group>,
    next_member: u64,
}

#[derive(Debug, Default)]
struct Group {
    generation: i32,
    committed: BTreeMap<TopicPartition, (i64, Arc<str>)>,
    members: BTreeMap<u64, Membership>,
}

#[derive(Debug)]
struct Membership {
    topics: Vec<Arc<str>>,
    start: Start,
    /// Generation that this member may commit in.
    generation: i32,
    /// Position of each partition that it owns.
    owned: BTreeMap<TopicPartition, i64>,
    /// What the group had committed when this member got the partition.
    resumed: BTreeMap<TopicPartition, (i64, Arc<str>)>,
    revoking: BTreeSet<TopicPartition>,
    paused: BTreeSet<TopicPartition>,
    events: VecDeque<RebalanceEvent>,
}

impl Groups {
    pub(super) fn committed(&self, group: &str, at: &TopicPartition) -> Option<i64> {
        self.groups.get(group)?.committed.get(at).map(|(next, _)| *next)
    }

    pub(super) fn beside(&self, group: &str, at: &TopicPartition) -> String {
        let committed = self.groups.get(group).and_then(|group| group.committed.get(at));
        committed.map(|(_, beside)| beside.to_string()).unwrap_or_default()
    }

    pub(super) fn view(&self, name: &str) -> GroupView {
        let Some(group) = self.groups.get(name) else { return GroupView::dead(name) };
        let member = |(id, member): (&u64, &Membership)| MemberDescription {
            member_id: member_id(*id),
            instance_id: None,
            client_id: "wherry-sidecar".into(),
            client_host: "127.0.0.1".into(),
            assignment: member.owned.keys().cloned().collect(),
        };
        let members: Vec<_> = group.members.iter().map(member).collect();
        let state = if members.is_empty() { "Empty" } else { "Stable" };
        let description = GroupDescription { state: state.into(), members, ..GroupView::dead(name).description };
        let committed = group.committed.iter().map(|(at, (next, _))| (at.clone(), *next)).collect();
        GroupView { description, committed }
    }

    pub(super) fn move_to(&mut self, name: &str, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        let group = self.groups.entry(name.into()).or_default();
        if !group.members.is_empty() {
            // UNKNOWN_MEMBER_ID, as a coordinator says it.
            let (what, name) = (format!("move group {name}").into(), "UNKNOWN_MEMBER_ID".into());
            return Err(ClientError::Rejected { what, code: 25, name, message: "".into() });
        }
        group.committed.extend(next.iter().map(|(at, next)| (at.clone(), (*next, Arc::from("")))));
        Ok(())
    }

    /// Checks that a member may commit now.
    pub(super) fn check(&self, member: &GroupMembership) -> Result<(), ClientError> {
        let group = self.groups.get(member.group());
        let found = group.and_then(|group| group.members.iter().find(|(id, _)| member_id(**id) == *member.member_id()));
        match found {
            Some((_, present)) if present.generation == member.generation() => Ok(()),
            Some(_) | None => Err(ClientError::Stale {
                group: member.group().clone(),
                what: "a commit",
                generation: member.generation(),
            }),
        }
    }

    pub(super) fn commit(&mut self, name: &Arc<str>, next: Vec<CommitOffset>) {
        let committed = &mut self.groups.entry(name.clone()).or_default().committed;
        committed.extend(next.into_iter().map(|next| (next.at, (next.offset, next.metadata))));
    }

    pub(super) fn members(&self, group: &str) -> usize {
        self.groups.get(group).map_or(0, |group| group.members.len())
    }

    pub(super) fn expire(&mut self, group: &str, counts: &Counts) {
        let Some(group) = self.groups.get_mut(group) else { return };
        for member in group.members.values_mut() {
            let partitions = std::mem::take(&mut member.owned).into_keys().collect();
            member.revoking.clear();
            member.events.push_back(RebalanceEvent::Lost { generation: member.generation, partitions });
        }
        group.generation += 1;
        group.deal(counts);
    }

    fn join(&mut self, spec: &MemberSpec, counts: &Counts) -> u64 {
        self.next_member += 1;
        let group = self.groups.entry(spec.group.clone()).or_default();
        let member = Membership {
            topics: spec.topics.clone(),
            start: spec.start,
            generation: -1,
            owned: BTreeMap::new(),
            resumed: BTreeMap::new(),
            revoking: BTreeSet::new(),
            paused: BTreeSet::new(),
            events: VecDeque::new(),
        };
        group.members.insert(self.next_member, member);
        group.deal(counts);
        self.next_member
    }

    fn leave(&mut self, group: &str, member: u64, counts: &Counts) {
        if let Some(group) = self.groups.get_mut(group)
            && group.members.remove(&member).is_some()
        {
            group.deal(counts);
        }
    }

    fn membership(&mut self, group: &str, member: u64) -> Option<&mut Membership> {
        self.groups.get_mut(group)?.members.get_mut(&member)
    }
}

impl Group {
    /// Who should have what: partitions in order, dealt to the members that want their topic.
    fn target(&self, counts: &Counts) -> BTreeMap<TopicPartition, u64> {
        let mut target = BTreeMap::new();
        let mut turn = 0;
        for (topic, count) in counts {
            let takers: Vec<u64> =
                self.members.iter().filter(|(_, m)| m.topics.contains(topic)).map(|(id, _)| *id).collect();
            if takers.is_empty() {
                continue;
            }
            for partition in 0..*count {
                let at = TopicPartition::new(topic.clone(), i32::try_from(partition).unwrap_or_default());
                target.insert(at, takers[turn % takers.len()]);
                turn += 1;
            }
        }
        target
    }

    /// Asks back what has to move, deals out what is free.
    fn deal(&mut self, counts: &Counts) {
        let target = self.target(counts);
        for (id, member) in &mut self.members {
            let moving: Vec<TopicPartition> = member
                .owned
                .keys()
                .filter(|at| target.get(at) != Some(id) && !member.revoking.contains(at))
                .cloned()
                .collect();
            if !moving.is_empty() {
                member.revoking.extend(moving.iter().cloned());
                member.events.push_back(RebalanceEvent::Revoking { generation: member.generation, partitions: moving });
            }
        }
        let owned: BTreeSet<TopicPartition> = self.members.values().flat_map(|m| m.owned.keys().cloned()).collect();
        let free: Vec<(TopicPartition, u64)> = target.into_iter().filter(|(at, _)| !owned.contains(at)).collect();
        self.hand_out(free, counts);
    }

    fn hand_out(&mut self, free: Vec<(TopicPartition, u64)>, counts: &Counts) {
        let new_member = self.members.values().any(|member| member.generation < 0);
        let behind = self.members.values().any(|member| member.generation != self.generation);
        if free.is_empty() && !new_member && !behind {
            return;
        }
        self.generation += 1;
        let mut added: BTreeMap<u64, Vec<TopicPartition>> = BTreeMap::new();
        for (at, id) in free {
            let committed = self.committed.get(&at).cloned();
            let Some(member) = self.members.get_mut(&id) else { continue };
            let start = match member.start {
                Start::Earliest => 0,
                Start::Latest => counts.get(&at.topic).map_or(0, |_| i64::MAX),
            };
            member.owned.insert(at.clone(), committed.as_ref().map_or(start, |(next, _)| *next));
            member.resumed.remove(&at);
            member.resumed.extend(committed.map(|committed| (at.clone(), committed)));
            member.paused.remove(&at);
            added.entry(id).or_default().push(at);
        }
        for (id, member) in &mut self.members {
            member.generation = self.generation;
            member.events.push_back(RebalanceEvent::Assigned {
                generation: self.generation,
                added: added.remove(id).unwrap_or_default(),
                assignment: member.owned.keys().cloned().collect(),
            });
        }
    }
}

/// A membership in a group of the cluster in memory.
#[derive(Debug)]
pub struct MemoryMember {
    cluster: MemoryCluster,
    group: Arc<str>,
    id: u64,
}

impl MemoryMember {
    pub(super) fn join(cluster: MemoryCluster, spec: MemberSpec) -> Self {
        let mut state = cluster.state();
        let counts = state.partition_counts();
        let id = state.groups.join(&spec, &counts);
        drop(state);
        cluster.touch();
        Self { cluster, group: spec.group, id }
    }

    /// What there is to say now.
    fn ready(&self, want: usize) -> Option<Result<Polled, ClientError>> {
        let mut state = self.cluster.state();
        let Some(member) = state.groups.membership(&self.group, self.id) else {
            return Some(Err(ClientError::Closed { what: "the consumer" }));
        };
        if let Some(event) = member.events.pop_front() {
            return Some(Ok(Polled::Rebalance(event)));
        }
        if want == 0 {
            return None;
        }
        let records = if state.away { Vec::new() } else { state.fetch(&self.group, self.id, want) };
        (!records.is_empty()).then_some(Ok(Polled::Records(records)))
    }
}

impl State {
    fn fetch(&mut self, group: &str, member: u64, want: usize) -> Vec<ConsumedRecord> {
        let Some(member) = self.groups.membership(group, member) else { return Vec::new() };
        let mut fetched = Vec::new();
        for (at, position) in &mut member.owned {
            let Some(log) = self.topics.get(&at.topic).and_then(|all| all.get(usize::try_from(at.partition).ok()?))
            else {
                continue;
            };
            // "At the end" is decided when the partition is first read.
            let end = i64::try_from(log.len()).unwrap_or(i64::MAX);
            *position = (*position).min(end);
            if member.paused.contains(at) || member.revoking.contains(at) {
                continue;
            }
            let from = usize::try_from(*position).unwrap_or_default();
            let room = want - fetched.len();
            fetched.extend(
                log.iter().skip(from).take(room).map(|r| ConsumedRecord { generation: member.generation, ..r.clone() }),
            );
            *position += i64::try_from(log.len().saturating_sub(from).min(room)).unwrap_or_default();
            if fetched.len() == want {
                break;
            }
        }
        fetched
    }
}

impl Member for MemoryMember {
    async fn next(&mut self, want: usize) -> Result<Polled, ClientError> {
        let mut changed = self.cluster.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(polled) = self.ready(want) {
                return polled;
            }
            if changed.changed().await.is_err() {
                return Err(ClientError::Closed { what: "the cluster" });
            }
        }
    }

    fn commit(
        &self,
        generation: i32,
        next: Vec<CommitOffset>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + 'static {
        let (cluster, name, id) = (self.cluster.clone(), self.group.clone(), self.id);
        async move {
            let mut state = cluster.state();
            if state.away {
                return Err(unreachable("commit"));
            }
            let stale = ClientError::Stale { group: name.clone(), what: "commit", generation };
            let present = state.groups.membership(&name, id).ok_or(stale.clone())?.generation;
            if present != generation {
                return Err(stale);
            }
            state.groups.commit(&name, next);
            let lost = state.lost_offset_commits > 0;
            state.lost_offset_commits = state.lost_offset_commits.saturating_sub(1);
            drop(state);
            cluster.touch();
            if lost {
                let (what, cause) = ("commit".into(), "the answer got lost".into());
                return Err(ClientError::Unknown { what, cause, waited: std::time::Duration::ZERO });
            }
            Ok(())
        }
    }

    fn resumed(&self, at: &TopicPartition) -> Option<(i64, Arc<str>)> {
        let mut state = self.cluster.state();
        let resumed = state.groups.membership(&self.group, self.id)?.resumed.get(at).cloned();
        resumed.filter(|(_, beside)| !beside.is_empty())
    }

    fn membership(&self) -> Option<GroupMembership> {
        let generation = self.cluster.state().groups.membership(&self.group, self.id)?.generation;
        (generation >= 0).then(|| GroupMembership::new(self.group.clone(), generation, member_id(self.id)))
    }

    fn seek(&mut self, at: &TopicPartition, offset: i64) {
        let mut state = self.cluster.state();
        if let Some(member) = state.groups.membership(&self.group, self.id) {
            member.resumed.remove(at);
            if let Some(position) = member.owned.get_mut(at) {
                *position = offset;
            }
        }
        drop(state);
        self.cluster.touch();
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        let mut state = self.cluster.state();
        if let Some(member) = state.groups.membership(&self.group, self.id) {
            member.paused.extend(partitions.iter().cloned());
        }
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        let mut state = self.cluster.state();
        if let Some(member) = state.groups.membership(&self.group, self.id) {
            member.paused.retain(|at| !partitions.contains(at));
        }
    }

    fn release(&mut self) {
        let mut state = self.cluster.state();
        let counts = state.partition_counts();
        if let Some(group) = state.groups.groups.get_mut(&self.group)
            && let Some(member) = group.members.get_mut(&self.id)
        {
            for at in std::mem::take(&mut member.revoking) {
                member.owned.remove(&at);
            }
            group.deal(&counts);
        }
        drop(state);
        self.cluster.touch();
    }

    async fn close(self) -> Result<(), ClientError> {
        Ok(())
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        let mut state = self.cluster.state();
        let counts = state.partition_counts();
        state.groups.leave(&self.group, self.id, &counts);
        drop(state);
        self.cluster.touch();
    }
}

fn member_id(id: u64) -> Arc<str> {
    format!("member-{id}").into()
}
