//! Which nodes get a new partition: round robin over racks and nodes, from a start that comes from the topic's id, so
//! that many small topics spread as evenly as one large one. Nodes that don't run get what the running ones are too few
//! for: they catch up when they come back. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;

use super::{Broker, limits};
use crate::{MetadataError, Nodes};

/// Replicas for these partitions of a topic, the preferred leader first. Each partition spreads over as many racks as it
/// can. Needs at least `factor` nodes, one of them active.
pub(super) fn place(brokers: &BTreeMap<i32, Broker>, topic: Uuid, partitions: Range<i32>, factor: usize) -> Vec<Nodes> {
    let groups = [true, false].map(|active| Ring::new(interleaved(brokers, active), topic));
    partitions.map(|p| place_one(&groups, usize::try_from(p).unwrap_or(0), factor)).collect()
}

/// Nodes in the order in which they have their turn.
struct Ring<'a> {
    nodes: Vec<&'a Broker>,
    start: usize,
    shift: usize,
}

impl<'a> Ring<'a> {
    fn new(nodes: Vec<&'a Broker>, topic: Uuid) -> Self {
        let (high, low) = topic.as_u64_pair();
        let start = usize::try_from(low % (nodes.len().max(1) as u64)).unwrap_or(0);
        let shift = usize::try_from(high % (nodes.len().saturating_sub(1).max(1) as u64)).unwrap_or(0);
        Self { nodes, start, shift }
    }

    /// All of them, the one whose turn it is first.
    fn turn(&self, partition: usize) -> Vec<&'a Broker> {
        let count = self.nodes.len().max(1);
        let first = (self.start + partition) % count;
        // Each round over the nodes pairs a leader with other followers.
        let others = count.saturating_sub(1).max(1);
        let shift = self.shift + partition / count;
        let order = (0..count.saturating_sub(1)).map(|n| (first + 1 + (shift + n) % others) % count);
        std::iter::once(first).chain(order).filter_map(|n| self.nodes.get(n).copied()).collect()
    }
}

fn place_one(rings: &[Ring<'_>], partition: usize, factor: usize) -> Nodes {
    let mut chosen: Vec<&Broker> = Vec::with_capacity(factor);
    for ring in rings {
        choose(&mut chosen, ring.turn(partition), factor);
    }
    chosen.iter().map(|b| b.node_id).collect()
}

fn choose<'a>(chosen: &mut Vec<&'a Broker>, mut left: Vec<&'a Broker>, factor: usize) {
    while chosen.len() < factor && !left.is_empty() {
        let in_rack = |b: &Broker| chosen.iter().filter(|c| c.rack == b.rack).count();
        // The first of those whose rack has fewest: the preferred leader keeps its turn, as nothing is chosen yet.
        let next = left.iter().enumerate().min_by_key(|(at, b)| (in_rack(b), *at)).map_or(0, |(at, _)| at);
        chosen.push(left.remove(next));
    }
}

/// The nodes that are active, or those that are not, one of each rack in turn. Nodes without a rack share one.
fn interleaved(brokers: &BTreeMap<i32, Broker>, active: bool) -> Vec<&Broker> {
    let mut racks: BTreeMap<Option<&str>, Vec<&Broker>> = BTreeMap::new();
    for broker in brokers.values().filter(|b| b.is_active() == active) {
        racks.entry(broker.rack.as_deref()).or_default().push(broker);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|n| racks.values().filter_map(move |rack| rack.get(n).copied())).collect()
}

/// Whether a list of replicas makes sense: some, not too many, each once, all registered.
pub(super) fn check_list(brokers: &BTreeMap<i32, Broker>, list: &[i32]) -> Result<(), MetadataError> {
    let wrong = |why: String| Err(MetadataError::InvalidReplicaAssignment(why));
    if list.is_empty() || list.len() > limits::MAX_REPLICAS {
        return wrong(format!("a partition has from 1 to {} replicas, not {}", limits::MAX_REPLICAS, list.len()));
    }
    for (at, node) in list.iter().enumerate() {
        if list.iter().take(at).any(|n| n == node) {
            return wrong(format!("the replicas {list:?} name node {node} twice"));
        }
        if !brokers.contains_key(node) {
            return wrong(format!("the replicas {list:?} name node {node}, which is not registered"));
        }
    }
    Ok(())
}
