//! One partition: who has it, who is in sync, who leads. And the pure rules of how that may change.
//!
//! ```text
//!   replicas ⊇ isr          in sync: has everything that was ever committed, and everything committed from now on
//!   replicas ⊇ elr          left the in-sync set as it fell below its minimum: nothing was committed since, so it has
//!                           everything that was committed (KIP-966), until the set is at its minimum again
//!   leader   ∈ isr | None
//! ```
//! It must not know: topics, the encoding, who asks for a change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use uuid::Uuid;

use crate::Broker;

/// A few node ids, without an allocation for up to four.
pub type Nodes = SmallVec<[i32; 4]>;

/// Names a partition for ever: a topic made again under the same name has another id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(Uuid, i32)", into = "(Uuid, i32)")]
pub struct PartitionId {
    /// The topic's id.
    pub topic: Uuid,
    /// Number within the topic, from 0.
    pub partition: i32,
}

impl From<(Uuid, i32)> for PartitionId {
    fn from((topic, partition): (Uuid, i32)) -> Self {
        Self { topic, partition }
    }
}

impl From<PartitionId> for (Uuid, i32) {
    fn from(id: PartitionId) -> Self {
        (id.topic, id.partition)
    }
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {} of topic {}", self.partition, self.topic)
    }
}

/// A partition's place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The nodes that have it, the preferred leader first. While a reassignment runs: its target, then what it removes.
    pub replicas: Nodes,
    /// The in-sync replicas.
    pub isr: Nodes,
    /// The eligible leader replicas: they may lead when nobody is in sync.
    pub elr: Nodes,
    /// Who leads.
    pub leader: Option<i32>,
    /// Rises with each change of leader.
    pub leader_epoch: i32,
    /// Rises with each change of anything here.
    pub partition_epoch: i32,
    /// Replicas that the running reassignment brings; a cancellation takes them away again.
    pub adding: Nodes,
    /// Replicas that the running reassignment takes away at its end.
    pub removing: Nodes,
    /// Replicas whose copy is damaged: they never lead, until they are in sync again.
    pub damaged: Nodes,
    /// Replicas that began empty (a new disk, or brought by a reassignment) and have not been in sync since: the last
    /// choice of an unclean election.
    pub blank: Nodes,
}

impl Partition {
    /// A new and empty partition: all of its replicas that run are in sync.
    pub(crate) fn new(replicas: &[i32], brokers: &BTreeMap<i32, Broker>) -> Self {
        let isr: Nodes = replicas.iter().copied().filter(|n| is_active(brokers, *n)).collect();
        let blank = without(replicas, &isr);
        Self {
            replicas: replicas.into(),
            leader: isr.first().copied(),
            isr,
            elr: Nodes::new(),
            leader_epoch: 0,
            partition_epoch: 0,
            adding: Nodes::new(),
            removing: Nodes::new(),
            damaged: Nodes::new(),
            blank,
        }
    }

    /// Whether a reassignment is under way.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !(self.adding.is_empty() && self.removing.is_empty())
    }

    /// The replicas as they are to be: those of now, or the target of the running reassignment.
    #[must_use]
    pub fn target(&self) -> Nodes {
        without(&self.replicas, &self.removing)
    }

    /// The minimum of in-sync replicas for this partition: one that asks for more than there are asks for all.
    #[must_use]
    pub fn effective_min(&self, min_insync: usize) -> usize {
        min_insync.min(self.replicas.len()).max(1)
    }

    /// Makes these the in-sync replicas. Those that leave as it falls below the minimum become eligible: from now on
    /// nothing is committed, so they keep having all that is.
    pub(crate) fn set_isr(&mut self, members: &[i32], min_insync: usize) {
        let isr: Nodes = self.replicas.iter().copied().filter(|n| members.contains(n)).collect();
        if isr.len() < self.effective_min(min_insync) {
            let left = self.isr.iter().filter(|n| !isr.contains(n) && !self.elr.contains(n));
            let left: Nodes = left.copied().collect();
            self.elr.extend(left);
        }
        self.elr.retain(|n| !isr.contains(n));
        self.isr = isr;
    }

    /// The node is gone for now: out of the in-sync replicas. The last one stays where one is enough, for nobody else
    /// has what it has.
    pub(crate) fn fence(&mut self, node: i32, min_insync: usize) {
        let last = self.isr.as_slice() == [node] && self.effective_min(min_insync) == 1;
        if self.isr.contains(&node) && !last {
            self.set_isr(&without(&self.isr, &[node]), min_insync);
        }
    }

    /// The node's copy is damaged: neither in sync nor eligible, even if nobody is left.
    pub(crate) fn damage(&mut self, node: i32) {
        self.drop_copy(node);
        if !self.damaged.contains(&node) {
            self.damaged.push(node);
        }
    }

    /// The node begins anew with an empty disk. That is not damaged, but has nothing either.
    pub(crate) fn blank(&mut self, node: i32) {
        self.drop_copy(node);
        self.damaged.retain(|n| *n != node);
        if !self.blank.contains(&node) {
            self.blank.push(node);
        }
    }

    fn drop_copy(&mut self, node: i32) {
        self.isr.retain(|n| *n != node);
        self.elr.retain(|n| *n != node);
    }

    /// The node stops soon: it leaves where the others suffice, so that nobody waits for it when it is gone.
    pub(crate) fn shut_down(&mut self, node: i32, min_insync: usize, brokers: &BTreeMap<i32, Broker>) {
        let rest = without(&self.isr, &[node]);
        let enough = rest.len() >= self.effective_min(min_insync) && rest.iter().any(|n| is_active(brokers, *n));
        if enough && rest.len() < self.isr.len() {
            self.set_isr(&rest, min_insync);
        }
    }

    /// Ends the reassignment if each replica of its target is in sync.
    fn complete(&mut self) {
        let target = self.target();
        if self.is_reassigning() && target.iter().all(|n| self.isr.contains(n)) {
            self.isr.retain(|n| target.contains(n));
            self.elr.retain(|n| target.contains(n));
            self.replicas = target;
            self.adding.clear();
            self.removing.clear();
        }
    }

    /// Who should lead, were an election held now: an in-sync replica, the preferred first. One that shuts down leads
    /// only where no other can. The eligible ones come in only when nobody is in sync.
    fn elect(&self, brokers: &BTreeMap<i32, Broker>) -> Option<i32> {
        let first = |among: &Nodes, fit: fn(&BTreeMap<i32, Broker>, i32) -> bool| {
            self.replicas.iter().copied().find(|n| among.contains(n) && fit(brokers, *n))
        };
        let in_sync = first(&self.isr, is_active).or_else(|| first(&self.isr, is_unfenced));
        if self.isr.is_empty() { first(&self.elr, is_active) } else { in_sync }
    }

    /// Who leads when nobody has everything: a replica that runs and has something, or else one that is empty.
    pub(crate) fn elect_unclean(&self, brokers: &BTreeMap<i32, Broker>) -> Option<i32> {
        let fit = self.replicas.iter().filter(|n| is_active(brokers, **n) && !self.damaged.contains(n));
        fit.min_by_key(|n| self.blank.contains(n)).copied()
    }

    fn keeps_leader(&self, brokers: &BTreeMap<i32, Broker>) -> bool {
        self.leader.is_some_and(|n| self.isr.contains(&n) && is_active(brokers, n))
    }

    fn settle_leader(&mut self, brokers: &BTreeMap<i32, Broker>) {
        if !self.keeps_leader(brokers) {
            let elected = self.elect(brokers);
            let stays = self.leader.filter(|n| self.isr.contains(n) && is_unfenced(brokers, *n));
            self.leader = match (elected, stays) {
                // The best to be had shuts down as well: no reason to move.
                (Some(n), Some(now)) if !is_active(brokers, n) => Some(now),
                (elected, _) => elected,
            };
        }
        if let Some(n) = self.leader.filter(|_| self.isr.is_empty()) {
            self.isr.push(n);
            self.elr.retain(|e| *e != n);
        }
    }

    /// The partition after `change` and what follows from it, or `None` if nothing is different.
    pub(crate) fn after(
        &self,
        min_insync: usize,
        brokers: &BTreeMap<i32, Broker>,
        change: impl FnOnce(&mut Self),
    ) -> Option<Self> {
        let mut next = self.clone();
        change(&mut next);
        next.complete();
        next.settle_leader(brokers);
        if next.isr.len() >= next.effective_min(min_insync) {
            next.elr.clear();
        }
        let Self { replicas, isr, damaged, blank, .. } = &mut next;
        damaged.retain(|n| replicas.contains(n) && !isr.contains(n));
        blank.retain(|n| replicas.contains(n) && !isr.contains(n));
        if next == *self {
            return None;
        }
        next.partition_epoch = self.partition_epoch.saturating_add(1);
        if next.leader != self.leader {
            next.leader_epoch = self.leader_epoch.saturating_add(1);
        }
        Some(next)
    }
}

/// Runs, as far as the cluster knows.
pub(crate) fn is_unfenced(brokers: &BTreeMap<i32, Broker>, node: i32) -> bool {
    brokers.get(&node).is_some_and(|b| !b.fenced)
}

/// Runs, and means to go on.
pub(crate) fn is_active(brokers: &BTreeMap<i32, Broker>, node: i32) -> bool {
    brokers.get(&node).is_some_and(Broker::is_active)
}

/// The nodes that are not among `leaving`, in their order.
pub(crate) fn without(nodes: &[i32], leaving: &[i32]) -> Nodes {
    nodes.iter().copied().filter(|n| !leaving.contains(n)).collect()
}
