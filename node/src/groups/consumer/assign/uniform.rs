//! Evenly over all topics together, moving as little as can be.
//!
//! Where all members want the same, each gets its share to within one, and what has to move is the least that could. Where
//! they want different topics, what is free goes to who has least; then partitions move from who has most of a topic's
//! readers to who has least, until no single move makes it more even.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;

use super::{Parts, Spec};

/// Rounds over all topics in which partitions are moved. Each round that moves something makes it more even; a few are
/// enough but for contrived cases, which must not hold up the shard.
const MAX_ROUNDS: usize = 64;

pub(super) fn assign(spec: &Spec<'_>) -> Vec<Parts> {
    let mut members = spec.members.iter();
    let Some(first) = members.next() else { return Vec::new() };
    let owners = owners_before(spec);
    let deal =
        if members.all(|member| member.topics == first.topics) { alike(spec, owners) } else { different(spec, owners) };
    dealt(spec, &deal)
}

/// The owner of each partition of each topic.
type Deal = Vec<Vec<Option<usize>>>;

/// Who had each partition before, as far as it still may.
fn owners_before(spec: &Spec<'_>) -> Deal {
    let mut deal: Deal = spec.topics.iter().map(|t| vec![None; usize::try_from(t.partitions).unwrap_or(0)]).collect();
    let places: HashMap<Uuid, usize, RandomState> = spec.topics.iter().enumerate().map(|(n, t)| (t.id, n)).collect();
    for (member, spec) in spec.members.iter().enumerate() {
        for (topic, partitions) in spec.before.into_iter().flatten() {
            let Some(place) = places.get(topic).filter(|place| spec.topics.binary_search(place).is_ok()) else {
                continue;
            };
            for partition in partitions {
                let slot = deal.get_mut(*place).and_then(|topic| topic.get_mut(usize::try_from(*partition).ok()?));
                if let Some(slot @ None) = slot {
                    *slot = Some(member);
                }
            }
        }
    }
    deal
}

fn dealt(spec: &Spec<'_>, deal: &Deal) -> Vec<Parts> {
    let mut assigned = vec![Parts::new(); spec.members.len()];
    for (topic, owners) in spec.topics.iter().zip(deal) {
        for (partition, owner) in (0..).zip(owners) {
            if let Some(parts) = owner.and_then(|owner| assigned.get_mut(owner)) {
                parts.entry(topic.id).or_default().insert(partition);
            }
        }
    }
    assigned
}

/// How many partitions each member has.
fn loads(spec: &Spec<'_>, deal: &Deal) -> Vec<usize> {
    let mut loads = vec![0; spec.members.len()];
    for owner in deal.iter().flatten().flatten() {
        if let Some(load) = loads.get_mut(*owner) {
            *load += 1;
        }
    }
    loads
}

/// All members want the same topics.
fn alike(spec: &Spec<'_>, mut deal: Deal) -> Deal {
    let wanted = spec.members.first().map(|member| Arc::clone(&member.topics)).unwrap_or_default();
    let total = wanted.iter().filter_map(|topic| deal.get(*topic)).map(Vec::len).sum();
    let mut quotas = quotas(&loads(spec, &deal), total);
    let mut free = Vec::new();
    for topic in wanted.iter().copied() {
        let Some(owners) = deal.get_mut(topic) else { continue };
        for (partition, owner) in owners.iter_mut().enumerate() {
            match owner.and_then(|member| quotas.get_mut(member)) {
                Some(quota) if *quota > 0 => *quota -= 1,
                Some(_) | None => {
                    *owner = None;
                    free.push((topic, partition));
                }
            }
        }
    }
    // In turn, so that a topic is spread over those who have room.
    let mut turn: Vec<usize> = (0..quotas.len()).filter(|member| quotas.get(*member).is_some_and(|q| *q > 0)).collect();
    let mut at = 0;
    for (topic, partition) in free {
        if at >= turn.len() {
            at = 0;
            turn.retain(|member| quotas.get(*member).is_some_and(|quota| *quota > 0));
        }
        let Some(member) = turn.get(at).copied() else { break };
        if let (Some(slot), Some(quota)) =
            (deal.get_mut(topic).and_then(|topic| topic.get_mut(partition)), quotas.get_mut(member))
        {
            *slot = Some(member);
            *quota -= 1;
        }
        at += 1;
    }
    deal
}

/// What each member may have: the same for all, and one more for some; first for those who had more, so that it stays.
fn quotas(loads: &[usize], total: usize) -> Vec<usize> {
    let (least, extra) = (total / loads.len(), total % loads.len());
    let mut by_load: Vec<usize> = (0..loads.len()).collect();
    by_load.sort_by_key(|member| std::cmp::Reverse(loads.get(*member)));
    let mut quotas = vec![least; loads.len()];
    for member in by_load.into_iter().take(extra) {
        if let Some(quota) = quotas.get_mut(member) {
            *quota += 1;
        }
    }
    quotas
}

/// Members want different topics.
fn different(spec: &Spec<'_>, mut deal: Deal) -> Deal {
    let readers = spec.readers();
    let mut loads = loads(spec, &deal);
    // Topics with few readers first: the others have more to choose from.
    let mut order: Vec<usize> = (0..spec.topics.len()).collect();
    order.sort_by_key(|topic| readers.get(*topic).map(Vec::len));
    for topic in &order {
        if let (Some(owners), Some(readers)) = (deal.get_mut(*topic), readers.get(*topic)) {
            give_free(owners, readers, &mut loads);
        }
    }
    for _ in 0..MAX_ROUNDS {
        let mut moved = false;
        for topic in &order {
            if let (Some(owners), Some(readers)) = (deal.get_mut(*topic), readers.get(*topic)) {
                moved |= even_out(owners, readers, &mut loads);
            }
        }
        if !moved {
            break;
        }
    }
    deal
}

fn by_load(members: &[usize], loads: &[usize]) -> BTreeSet<(usize, usize)> {
    members.iter().filter_map(|member| loads.get(*member).map(|load| (*load, *member))).collect()
}

/// Each free partition goes to the reader who has least.
fn give_free(owners: &mut [Option<usize>], readers: &[usize], loads: &mut [usize]) {
    let mut queue = by_load(readers, loads);
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        let Some((load, member)) = queue.pop_first() else { return };
        *owner = Some(member);
        queue.insert((load + 1, member));
        if let Some(load) = loads.get_mut(member) {
            *load += 1;
        }
    }
}

/// Moves partitions of one topic from the owner who has most to the reader who has least, as long as that makes it more
/// even. Whether anything was moved.
fn even_out(owners: &mut [Option<usize>], readers: &[usize], loads: &mut [usize]) -> bool {
    let mut owned: HashMap<usize, Vec<usize>, RandomState> = HashMap::default();
    for (partition, owner) in owners.iter().enumerate() {
        if let Some(owner) = owner {
            owned.entry(*owner).or_default().push(partition);
        }
    }
    let mut giving = by_load(&owned.keys().copied().collect::<Vec<_>>(), loads);
    let mut taking = by_load(readers, loads);
    let mut moved = false;
    while let (Some((most, from)), Some((least, to))) = (giving.last().copied(), taking.first().copied()) {
        if most < least + 2 {
            break;
        }
        let Some(partition) = owned.get_mut(&from).and_then(Vec::pop) else {
            giving.remove(&(most, from));
            continue;
        };
        if let Some(owner) = owners.get_mut(partition) {
            *owner = Some(to);
        }
        owned.entry(to).or_default().push(partition);
        for (member, before, after) in [(from, most, most - 1), (to, least, least + 1)] {
            giving.remove(&(before, member));
            giving.insert((after, member));
            taking.remove(&(before, member));
            taking.insert((after, member));
            if let Some(load) = loads.get_mut(member) {
                *load = after;
            }
        }
        moved = true;
    }
    moved
}
