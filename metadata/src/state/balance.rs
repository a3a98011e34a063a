//! Which moves would even out the cluster. Pure proposals: whoever leads the quorum decides when to ask for them.
//!
//! A replica moves from the node with most to the node with fewest only while the two differ by two or more, so each
//! move makes it more even and an even cluster stays as it is. Nodes that do not run neither give nor get: they may come
//! back, and moving what they have is a decision for someone who knows more.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Broker, Metadata};
use crate::partition::is_active;
use crate::{Nodes, Partition, PartitionId};

impl Metadata {
    /// Whether the preferred replica could lead and does not.
    pub(super) fn is_imbalanced(&self, partition: &Partition) -> bool {
        partition
            .replicas
            .first()
            .is_some_and(|n| partition.leader != Some(*n) && partition.isr.contains(n) && is_active(&self.brokers, *n))
    }

    /// The partitions whose preferred replica is in sync, runs and means to go on, yet does not lead. Walks all.
    #[must_use]
    pub fn preferred_leader_moves(&self) -> Vec<PartitionId> {
        self.partitions().filter(|(_, p)| self.is_imbalanced(p)).map(|(id, _)| id).collect()
    }

    /// Reassignments, at most `max_moves`, one replica each, after which the running nodes have about as many replicas
    /// each. No partition spreads over fewer racks by them. Empty when nothing is to be gained. Walks all.
    #[must_use]
    pub fn rebalance_plan(&self, max_moves: usize) -> Vec<(PartitionId, Vec<i32>)> {
        let mut plan = Plan::new(self, &BTreeSet::new());
        while plan.moves.len() < max_moves && plan.even_out() {}
        plan.moves
    }

    /// Reassignments, at most `max_moves`, one replica each, that take replicas off a node that is to go: to where no
    /// partition spreads over fewer racks, if that can be. Empty when it has none that could move. Walks all.
    #[must_use]
    pub fn drain_plan(&self, node_id: i32, max_moves: usize) -> Vec<(PartitionId, Vec<i32>)> {
        let mut plan = Plan::new(self, &BTreeSet::from([node_id]));
        while plan.moves.len() < max_moves && plan.take_from(node_id) {}
        plan.moves
    }
}

/// What a node has.
#[derive(Default)]
struct Load {
    replicas: usize,
    preferred: usize,
    /// What may still move away, from the end.
    movable: Vec<(PartitionId, Nodes)>,
}

struct Plan<'a> {
    brokers: &'a BTreeMap<i32, Broker>,
    loads: BTreeMap<i32, Load>,
    /// Nodes that may get replicas.
    takers: Vec<i32>,
    moved: BTreeSet<PartitionId>,
    /// No move ranks higher than this.
    ideal: (Ordering, bool),
    moves: Vec<(PartitionId, Vec<i32>)>,
}

impl<'a> Plan<'a> {
    fn new(state: &'a Metadata, leaving: &BTreeSet<i32>) -> Self {
        let active = state.brokers.values().filter(|b| b.is_active()).map(|b| b.node_id);
        let takers: Vec<i32> = active.filter(|n| !leaving.contains(n)).collect();
        let loads = takers.iter().chain(leaving).map(|n| (*n, Load::default())).collect();
        let racks: BTreeSet<Option<&str>> = state.brokers.values().map(|b| b.rack.as_deref()).collect();
        let ideal = (if racks.len() > 1 { Ordering::Greater } else { Ordering::Equal }, true);
        let (brokers, moved, moves) = (&state.brokers, BTreeSet::new(), Vec::new());
        let mut plan = Self { brokers, loads, takers, moved, ideal, moves };
        for (id, partition) in state.partitions() {
            plan.count(id, partition);
        }
        plan
    }

    fn count(&mut self, id: PartitionId, partition: &Partition) {
        let target = partition.target();
        // One that moves already counts where it will be; one that nobody leads can't be copied.
        let idle = partition.leader.is_some() && !partition.is_reassigning();
        for (at, node) in target.iter().enumerate() {
            if let Some(load) = self.loads.get_mut(node) {
                load.replicas += 1;
                load.preferred += usize::from(at == 0);
                // A move ends when all of its target are in sync: one that waits for a node that is away would hang.
                if idle && target.iter().all(|n| n == node || partition.isr.contains(n)) {
                    load.movable.push((id, target.clone()));
                }
            }
        }
    }

    fn replicas(&self, node: i32) -> usize {
        self.loads.get(&node).map_or(0, |load| load.replicas)
    }

    fn preferred(&self, node: i32) -> usize {
        self.loads.get(&node).map_or(0, |load| load.preferred)
    }

    /// One move from a node with many to a node with few; false if there is none.
    fn even_out(&mut self) -> bool {
        let mut order = self.takers.clone();
        order.sort_by_key(|n| (self.replicas(*n), *n));
        for from in order.iter().rev() {
            for to in &order {
                if self.replicas(*from) < self.replicas(*to) + 2 {
                    break;
                }
                if self.shift(*from, *to, Ordering::Equal) {
                    return true;
                }
            }
        }
        false
    }

    /// One move from this node to the one with fewest that may have it.
    fn take_from(&mut self, from: i32) -> bool {
        let mut order = self.takers.clone();
        order.sort_by_key(|n| (self.replicas(*n), *n));
        // It has to go, if need be to a rack that has a replica already.
        [Ordering::Equal, Ordering::Less].iter().any(|racks| order.iter().any(|to| self.shift(from, *to, *racks)))
    }

    fn shift(&mut self, from: i32, to: i32, least: Ordering) -> bool {
        let Some((at, next)) = self.choose(from, to, least) else { return false };
        let Some(load) = self.loads.get_mut(&from) else { return false };
        let (id, _) = load.movable.remove(at);
        let leads = usize::from(next.first() == Some(&to));
        load.replicas = load.replicas.saturating_sub(1);
        load.preferred = load.preferred.saturating_sub(leads);
        if let Some(load) = self.loads.get_mut(&to) {
            load.replicas += 1;
            load.preferred += leads;
        }
        self.moved.insert(id);
        self.moves.push((id, next.into_vec()));
        true
    }

    /// The best replica to move: first those whose move gains a rack, then those that even out who leads.
    /// `least` says whether it may lose one.
    fn choose(&self, from: i32, to: i32, least: Ordering) -> Option<(usize, Nodes)> {
        let lead = self.preferred(from) > self.preferred(to);
        let mut best: Option<((Ordering, bool), usize, Nodes)> = None;
        for (at, (id, replicas)) in self.loads.get(&from)?.movable.iter().enumerate().rev() {
            if replicas.contains(&to) || self.moved.contains(id) {
                continue;
            }
            let next: Nodes = replicas.iter().map(|n| if *n == from { to } else { *n }).collect();
            let racks = self.racks(&next).cmp(&self.racks(replicas));
            let rank = (racks, (replicas.first() == Some(&from)) == lead);
            if racks >= least && best.as_ref().is_none_or(|(found, ..)| rank > *found) {
                best = Some((rank, at, next));
                if rank == self.ideal {
                    break;
                }
            }
        }
        best.map(|(_, at, next)| (at, next))
    }

    fn racks(&self, nodes: &[i32]) -> usize {
        let rack = |n: &i32| self.brokers.get(n).map(|b| b.rack.as_deref());
        (0..nodes.len())
            .filter(|at| nodes.get(*at).is_some_and(|n| !nodes.iter().take(*at).any(|m| rack(m) == rack(n))))
            .count()
    }
}
