//! How a group's leader divides partitions among members. Pure, and deterministic: the order of members and topics given does
//! not matter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::protocol::{self, Subscription};
use crate::config::Assignor;
use crate::record::TopicPartition;

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,
    /// Static members are ordered by this, so that a restart changes nothing.
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) subscription: Subscription,
}

/// Number of partitions by topic.
pub(crate) type Topics = BTreeMap<Arc<str>, i32>;
/// Partitions by member id; every member has an entry.
pub(crate) type Assignment = BTreeMap<Arc<str>, Vec<TopicPartition>>;

/// Divides.
pub(crate) fn assign(assignor: Assignor, mut members: Vec<Member>, topics: &Topics) -> Assignment {
    members.sort_by(|a, b| order(a).cmp(&order(b)));
    let mut assignment = match assignor {
        Assignor::Range => range(&members, topics),
        Assignor::RoundRobin => round_robin(&members, topics),
        Assignor::Sticky => sticky(&members, topics, &claims(&members, topics, previous_from_user_data)),
        Assignor::CooperativeSticky => {
            let owners = claims(&members, topics, |s| (s.owned.clone(), s.generation));
            withhold(sticky(&members, topics, &owners), &owners)
        }
    };
    for partitions in assignment.values_mut() {
        partitions.sort();
    }
    assignment
}

fn order(member: &Member) -> (bool, &Arc<str>) {
    // Static members first, as Kafka's assignors order them.
    (member.instance_id.is_none(), member.instance_id.as_ref().unwrap_or(&member.id))
}

fn empty(members: &[Member]) -> Assignment {
    members.iter().map(|m| (m.id.clone(), Vec::new())).collect()
}

fn subscribers<'a>(members: &'a [Member], topic: &str) -> Vec<&'a Member> {
    members.iter().filter(|m| m.subscription.topics.iter().any(|t| **t == *topic)).collect()
}

fn range(members: &[Member], topics: &Topics) -> Assignment {
    let mut assignment = empty(members);
    for (topic, count) in topics {
        let takers = subscribers(members, topic);
        let Ok(takers_count @ 1..) = i32::try_from(takers.len()) else { continue };
        let (each, more) = (count / takers_count, count % takers_count);
        let mut next = 0;
        for (index, member) in (0..).zip(takers) {
            let share = each + i32::from(index < more);
            let partitions = (next..next + share).map(|p| TopicPartition { topic: topic.clone(), partition: p });
            assignment.entry(member.id.clone()).or_default().extend(partitions);
            next += share;
        }
    }
    assignment
}

fn all_partitions(topics: &Topics) -> impl Iterator<Item = TopicPartition> {
    topics.iter().flat_map(|(t, n)| (0..*n).map(|partition| TopicPartition { topic: t.clone(), partition }))
}

fn round_robin(members: &[Member], topics: &Topics) -> Assignment {
    let mut assignment = empty(members);
    let mut turn = 0;
    for at in all_partitions(topics) {
        for _ in 0..members.len() {
            let Some(member) = members.get(turn % members.len()) else { break };
            turn += 1;
            if member.subscription.topics.contains(&at.topic) {
                assignment.entry(member.id.clone()).or_default().push(at);
                break;
            }
        }
    }
    assignment
}

/// Who had what: the claim of the latest generation counts; two of the same generation cancel out.
fn claims(
    members: &[Member],
    topics: &Topics,
    previous: impl Fn(&Subscription) -> (Vec<TopicPartition>, i32),
) -> HashMap<TopicPartition, Arc<str>> {
    let mut best: HashMap<TopicPartition, (i32, Option<Arc<str>>)> = HashMap::new();
    for member in members {
        let (owned, generation) = previous(&member.subscription);
        for at in owned {
            let exists = topics.get(&at.topic).is_some_and(|n| (0..*n).contains(&at.partition));
            if !exists || !member.subscription.topics.contains(&at.topic) {
                continue;
            }
            let known = best.entry(at).or_insert((i32::MIN, None));
            if generation > known.0 {
                *known = (generation, Some(member.id.clone()));
            } else if generation == known.0 {
                known.1 = None;
            }
        }
    }
    best.into_iter().filter_map(|(at, (_, owner))| Some((at, owner?))).collect()
}

/// Balanced: no member could take one more from another that has two more. Nothing moves that need not.
fn sticky(members: &[Member], topics: &Topics, owners: &HashMap<TopicPartition, Arc<str>>) -> Assignment {
    let mut assignment = empty(members);
    let mut free = Vec::new();
    for at in all_partitions(topics) {
        match owners.get(&at) {
            Some(owner) => assignment.entry(owner.clone()).or_default().push(at),
            None => free.push(at),
        }
    }
    // Those that few can take go first.
    free.sort_by_key(|at| subscribers(members, &at.topic).len());
    for at in free {
        let takers = subscribers(members, &at.topic);
        let least = takers.iter().min_by_key(|m| assignment.get(&m.id).map_or(0, Vec::len));
        if let Some(member) = least {
            assignment.entry(member.id.clone()).or_default().push(at);
        }
    }
    while balance_once(members, &mut assignment) {}
    assignment
}

/// Moves one partition from a member to one with at least two fewer; false where there is no such pair. Ends: the sum of the
/// squares of loads falls with each move.
fn balance_once(members: &[Member], assignment: &mut Assignment) -> bool {
    let load = |m: &Member| assignment.get(&m.id).map_or(0, Vec::len);
    let mut by_load: Vec<(usize, &Member)> = members.iter().map(|m| (load(m), m)).collect();
    by_load.sort_by_key(|(load, _)| std::cmp::Reverse(*load));
    for (have, from) in &by_load {
        for (_, to) in by_load.iter().rev().take_while(|(load, _)| load + 1 < *have) {
            let takes = |at: &TopicPartition| to.subscription.topics.contains(&at.topic);
            let Some(mine) = assignment.get_mut(&from.id) else { continue };
            let Some(index) = mine.iter().rposition(takes) else { continue };
            let moved = mine.remove(index);
            assignment.entry(to.id.clone()).or_default().push(moved);
            return true;
        }
    }
    false
}

/// A partition that moves is first only taken away; the next rebalance gives it to its new owner (KIP-429).
fn withhold(mut assignment: Assignment, owners: &HashMap<TopicPartition, Arc<str>>) -> Assignment {
    for (member, partitions) in &mut assignment {
        partitions.retain(|at| owners.get(at).is_none_or(|owner| owner == member));
    }
    assignment
}

/// What Kafka's sticky assignor keeps in its user data: the partitions of before, and their generation.
pub(crate) fn user_data(owned: &[TopicPartition], generation: i32) -> Bytes {
    let mut to = BytesMut::new();
    protocol::put_partitions(&mut to, owned);
    to.put_i32(generation);
    to.freeze()
}

fn previous_from_user_data(subscription: &Subscription) -> (Vec<TopicPartition>, i32) {
    let Some(mut data) = subscription.user_data.clone() else {
        return (subscription.owned.clone(), subscription.generation);
    };
    // What another client wrote in its own way claims nothing.
    let Ok(owned) = protocol::partitions(&mut data) else { return (Vec::new(), -1) };
    (owned, data.try_get_i32().unwrap_or(-1))
}

/// The partitions in `a` that are not in `b`, ordered.
pub(crate) fn difference(a: &[TopicPartition], b: &[TopicPartition]) -> Vec<TopicPartition> {
    let without: BTreeSet<_> = b.iter().collect();
    let rest: BTreeSet<_> = a.iter().filter(|at| !without.contains(at)).cloned().collect();
    rest.into_iter().collect()
}

#[cfg(test)]
#[path = "assignor_tests.rs"]
mod tests;
