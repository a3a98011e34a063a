//! Partitions: in-sync replicas, lost copies, elections. What is asked for several partitions is decided for each alone.

use std::sync::Arc;

use uuid::Uuid;

use super::{Change, DataLoss, Elected, Metadata, Outcome, Topic};
use crate::{MetadataError, Nodes, Partition, PartitionChange, PartitionId};

/// The one way to change a partition.
impl Metadata {
    /// Changes a partition, and what follows from it: `change` gets the minimum of in-sync replicas.
    pub(super) fn change_partition(
        &mut self,
        id: PartitionId,
        touched: &mut Vec<PartitionId>,
        change: impl FnOnce(&mut Partition, usize),
    ) {
        let brokers = &self.brokers;
        let Some(topic) = self.topics.get_mut(&id.topic) else { return };
        let min = topic.min_insync();
        let next = topic.partition(id.partition).and_then(|p| p.after(min, brokers, |p| change(p, min)));
        if let Some(next) = next {
            store(topic, id, next, touched);
        }
    }

    /// The same for each partition that has a replica on the node.
    pub(super) fn change_replicas_of(
        &mut self,
        node: i32,
        touched: &mut Vec<PartitionId>,
        change: impl Fn(&mut Partition, usize),
    ) {
        let brokers = &self.brokers;
        for topic in self.topics.values_mut() {
            let min = topic.min_insync();
            let changed: Vec<(PartitionId, Partition)> = topic
                .numbered()
                .filter(|(_, p)| p.replicas.contains(&node))
                .filter_map(|(id, p)| Some((id, p.after(min, brokers, |p| change(p, min))?)))
                .collect();
            for (id, next) in changed {
                store(topic, id, next, touched);
            }
        }
    }

    pub(super) fn known_partition(&self, id: PartitionId) -> Result<&Partition, MetadataError> {
        self.partition(id).ok_or(MetadataError::UnknownPartition(id))
    }
}

fn store(topic: &mut Arc<Topic>, id: PartitionId, next: Partition, touched: &mut Vec<PartitionId>) {
    let topic = Arc::make_mut(topic);
    if id.partition == 0 && !next.is_reassigning() {
        topic.replication_factor = i16::try_from(next.replicas.len()).unwrap_or(i16::MAX);
    }
    if let Some(slot) = usize::try_from(id.partition).ok().and_then(|n| topic.partitions.get_mut(n)) {
        *slot = next;
        touched.push(id);
    }
}

/// What leaders and replicas ask for.
impl Metadata {
    pub(super) fn alter_partitions(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        changes: &[PartitionChange],
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        self.current(node_id, incarnation)?;
        let outcomes = changes.iter().map(|c| (c.id, self.alter_isr(node_id, c, touched))).collect();
        Ok(Change::PartitionsAltered(outcomes))
    }

    fn alter_isr(
        &mut self,
        node_id: i32,
        change: &PartitionChange,
        touched: &mut Vec<PartitionId>,
    ) -> Result<(), MetadataError> {
        self.check_isr(node_id, change)?;
        let members: Nodes = change.isr.iter().map(|(n, _)| *n).collect();
        self.change_partition(change.id, touched, |p, min| p.set_isr(&members, min));
        Ok(())
    }

    fn check_isr(&self, node_id: i32, change: &PartitionChange) -> Result<(), MetadataError> {
        let id = change.id;
        let partition = self.known_partition(id)?;
        let Partition { leader_epoch, partition_epoch, .. } = *partition;
        if (change.leader_epoch, change.partition_epoch) != (leader_epoch, partition_epoch) {
            return Err(MetadataError::StaleEpoch { id, leader_epoch, partition_epoch });
        }
        if partition.leader != Some(node_id) {
            return Err(MetadataError::NotLeader { id, node_id });
        }
        if !change.isr.iter().any(|(n, _)| *n == node_id) {
            return Err(MetadataError::IneligibleReplica { id, node_id, why: "a leader can't leave them itself" });
        }
        for (at, (node_id, incarnation)) in change.isr.iter().copied().enumerate() {
            let twice = change.isr.iter().take(at).any(|(n, _)| *n == node_id);
            if let Some(why) = self.ineligible(partition, node_id, incarnation, twice) {
                return Err(MetadataError::IneligibleReplica { id, node_id, why });
            }
        }
        Ok(())
    }

    fn ineligible(&self, partition: &Partition, node: i32, incarnation: Uuid, twice: bool) -> Option<&'static str> {
        if twice {
            return Some("it is named twice");
        }
        if !partition.replicas.contains(&node) {
            return Some("it is no replica of it");
        }
        match self.brokers.get(&node) {
            None => Some("it is not registered"),
            Some(b) if b.incarnation != incarnation => Some("it has restarted since it was in sync"),
            Some(b) if b.fenced => Some("it is fenced"),
            Some(b) if b.shutting_down && !partition.isr.contains(&node) => Some("it is shutting down"),
            Some(_) => None,
        }
    }

    pub(super) fn lose_replicas(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        partitions: Vec<PartitionId>,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        self.current(node_id, incarnation)?;
        let outcomes = partitions.into_iter().map(|id| (id, self.lose_one(node_id, id, touched))).collect();
        Ok(Change::ReplicasLost(outcomes))
    }

    fn lose_one(&mut self, node: i32, id: PartitionId, touched: &mut Vec<PartitionId>) -> Result<(), MetadataError> {
        if !self.known_partition(id)?.replicas.contains(&node) {
            return Err(MetadataError::IneligibleReplica { id, node_id: node, why: "it is no replica of it" });
        }
        self.change_partition(id, touched, |p, _| p.damage(node));
        Ok(())
    }
}

/// Elections that someone asks for.
impl Metadata {
    pub(super) fn elect_leaders(
        &mut self,
        partitions: Option<Vec<PartitionId>>,
        unclean: bool,
        touched: &mut Vec<PartitionId>,
    ) -> Change {
        let asked = partitions.unwrap_or_else(|| self.to_elect(unclean));
        let outcomes: Vec<Outcome<Elected>> = asked
            .into_iter()
            .map(|id| (id, if unclean { self.elect_unclean(id, touched) } else { self.elect_preferred(id, touched) }))
            .collect();
        Change::LeadersElected(outcomes)
    }

    /// The partitions for which an election would do something, by id.
    fn to_elect(&self, unclean: bool) -> Vec<PartitionId> {
        let can_lead = |p: &Partition| p.leader.is_none() && p.elect_unclean(&self.brokers).is_some();
        let wanted = |p: &Partition| if unclean { can_lead(p) } else { self.is_imbalanced(p) };
        let mut ids: Vec<PartitionId> = self.partitions().filter(|(_, p)| wanted(p)).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    fn elect_preferred(&mut self, id: PartitionId, touched: &mut Vec<PartitionId>) -> Result<Elected, MetadataError> {
        let partition = self.known_partition(id)?;
        let preferred = partition.replicas.first().copied();
        if preferred.is_some() && partition.leader == preferred {
            return Err(MetadataError::ElectionNotNeeded(id));
        }
        if !self.is_imbalanced(partition) {
            return Err(MetadataError::PreferredLeaderNotAvailable(id));
        }
        self.change_partition(id, touched, |p, _| p.leader = preferred);
        self.elected(id, None)
    }

    fn elect_unclean(&mut self, id: PartitionId, touched: &mut Vec<PartitionId>) -> Result<Elected, MetadataError> {
        let partition = self.known_partition(id)?;
        // Whoever could lead cleanly leads already: every change elects.
        if partition.leader.is_some() {
            return Err(MetadataError::ElectionNotNeeded(id));
        }
        let leader = partition.elect_unclean(&self.brokers);
        let leader = leader.ok_or(MetadataError::EligibleLeadersNotAvailable(id))?;
        let passed_over: Vec<i32> = partition.isr.iter().chain(&partition.elr).copied().collect();
        self.change_partition(id, touched, |p, _| {
            p.leader = Some(leader);
            p.isr = Nodes::from_slice(&[leader]);
            p.elr.clear();
        });
        self.elected(id, Some(passed_over))
    }

    fn elected(&self, id: PartitionId, passed_over: Option<Vec<i32>>) -> Result<Elected, MetadataError> {
        let partition = self.known_partition(id)?;
        let leader = partition.leader.ok_or(MetadataError::EligibleLeadersNotAvailable(id))?;
        let leader_epoch = partition.leader_epoch;
        let data_loss = passed_over.map(|passed_over| DataLoss { id, leader, leader_epoch, passed_over });
        Ok(Elected { leader, leader_epoch, data_loss })
    }
}
