//! What the metadata say about partitions becomes what this node does: logs are made and deleted, led and followed.
//!
//! Nothing is led or followed before this process is registered: until then the metadata may speak of an earlier process
//! of this node, whose leaderships it must not resume (trap 20).

use std::collections::BTreeSet;

use wherry_metadata::{Applied, Change, Partition, PartitionId, TopicConfig};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::Core;
use super::consensus::QUORUM_LOG;
use super::store::{Cleanup, LogConfig, LogError, LogStore};
use crate::mutation::mutated;
use crate::replication::{FollowerRole, LeaderRole, Role};

/// Partitions are counted for the metrics so long after something changed, in nanoseconds.
const CENSUS_NS: u64 = 500_000_000;

/// The log of a partition.
pub(crate) fn log_of(id: PartitionId) -> LogId {
    LogId { topic: id.topic, partition: id.partition }
}

/// The partition of a log.
pub(crate) fn partition_of(log: LogId) -> PartitionId {
    PartitionId { topic: log.topic, partition: log.partition }
}

impl<S: LogStore> Core<S> {
    /// Does what a payload that was applied asks of this node.
    pub(super) fn follow(&mut self, applied: &Applied) {
        self.census_ns.get_or_insert(self.now.monotonic_ns + CENSUS_NS);
        self.settle_partitions(applied.touched.iter().copied());
        for change in applied.results.iter().flatten() {
            match change {
                Change::TopicDeleted { topic } => {
                    self.group_topic_deleted(&topic.name);
                    self.share_topic_deleted(topic.id);
                }
                Change::ConfigsAltered { id } => self.configs_altered(*id),
                Change::ClusterNamed => self.cluster_named(),
                Change::LeadersElected(elected) => {
                    for loss in elected.iter().filter_map(|(_, e)| e.as_ref().ok()?.data_loss.as_ref()) {
                        tracing::error!("{loss}");
                    }
                }
                Change::BrokerUnregistered { node_id } => self.forget_member(*node_id),
                Change::TopicCreated { .. } | Change::TopicGrown { .. } => self.group_topics_changed(),
                Change::GroupConfigsAltered { .. }
                | Change::FeaturesUpdated
                | Change::ProducerIds(_)
                | Change::BrokerRegistered { .. }
                | Change::BrokerFenced { .. }
                | Change::BrokerUnfenced { .. }
                | Change::BrokerShuttingDown { .. }
                | Change::PartitionsAltered(_)
                | Change::Reassigned(_)
                | Change::ReplicasLost(_)
                | Change::AclsCreated
                | Change::AclsDeleted(_)
                | Change::ScramAltered
                | Change::QuotasAltered => {}
            }
        }
    }

    /// The whole metadata may be others than before.
    pub(super) fn follow_everything(&mut self, before: Vec<PartitionId>) {
        self.census_ns.get_or_insert(self.now.monotonic_ns + CENSUS_NS);
        if self.meta.cluster_id().is_some() {
            self.cluster_named();
        }
        self.node_changed(self.config.node_id);
        let now: Vec<PartitionId> = self.meta.partitions().map(|(id, _)| id).collect();
        self.group_topics_changed();
        self.settle_partitions(before.into_iter().chain(now).collect::<BTreeSet<_>>().into_iter());
    }

    /// This process is registered: from now on the metadata speak of it. A crash can leave a partition without its log,
    /// or a log without its partition: the metadata decide.
    pub(crate) fn take_up_duties(&mut self) {
        let me = self.config.node_id;
        let found = self.store.logs().into_iter().filter(|log| *log != QUORUM_LOG);
        let ours = self.meta.partitions_on(me).map(|(id, _)| log_of(id));
        let all: BTreeSet<PartitionId> = found.chain(ours).map(partition_of).collect();
        for id in &all {
            if let Some(topic) = self.meta.topic_by_id(id.topic) {
                // A log that is still to be made gets its configuration then. The end first: configuring may compact.
                let start = self.store.info(log_of(*id)).map_or(Offset::ZERO, |info| info.log_start);
                let _ = self.store.set_settled_end(log_of(*id), start);
                let _ = self.store.configure(log_of(*id), log_config(&topic.config));
            }
        }
        self.settle_partitions(all.into_iter());
    }

    /// What the metrics say of partitions: counted at most once in a while, since that walks all of them.
    pub(super) fn count_partitions(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if self.census_ns.is_none_or(|at| now_ns < at) {
            return;
        }
        self.census_ns = None;
        let (mut led, mut behind, mut refused, mut leaderless) = (0, 0, 0, 0);
        for topic in self.meta.topics_from("") {
            for (_, partition) in topic.numbered() {
                leaderless += u64::from(partition.leader.is_none());
                if partition.leader == Some(self.config.node_id) {
                    led += 1;
                    behind += u64::from(partition.isr.len() < partition.replicas.len());
                    refused += u64::from(partition.isr.len() < partition.effective_min(topic.min_insync()));
                }
            }
        }
        let counted = [(&self.stats.partitions_led, led), (&self.stats.under_replicated, behind)];
        let more = [(&self.stats.under_min_insync, refused), (&self.stats.leaderless, leaderless)];
        for (gauge, count) in counted.into_iter().chain(more) {
            gauge.set(count);
        }
        self.stats.nodes_running.set(self.meta.unfenced_brokers().count() as u64);
    }

    fn settle_partitions(&mut self, ids: impl Iterator<Item = PartitionId>) {
        if !self.cluster.registered && !mutated!(ResumeEpoch) {
            return;
        }
        self.log_work.extend(ids);
        self.do_log_work();
    }

    /// Makes and deletes logs in order until the store is busy; the rest follows in the next turn. Bounded by the
    /// number of partitions that there can be.
    pub(crate) fn do_log_work(&mut self) {
        while let Some(id) = self.log_work.front().copied() {
            if !self.settle_partition(id) {
                return;
            }
            self.log_work.pop_front();
        }
    }

    /// Makes this node do what the metadata say of a partition. False: not yet, the store is busy.
    fn settle_partition(&mut self, id: PartitionId) -> bool {
        let log = log_of(id);
        let role = self.role_of(id);
        let done = match role {
            Role::None => self.store.info(log).map_or(Ok(()), |_| self.store.delete_log(log).map(drop)),
            Role::Leader(_) | Role::Follower(_) => self.ensure_log(id),
        };
        match done {
            Err(LogError::Busy { .. } | LogError::Full { .. }) => return false,
            Err(LogError::Exists(_) | LogError::NoSuchLog(_)) | Ok(()) => {}
            Err(error) => {
                tracing::warn!(%log, %error, "a partition is left for the next start");
                return true;
            }
        }
        if let Err(error) = self.renew_if_damaged(id) {
            tracing::warn!(%log, %error, "a damaged copy can't be made anew before the next start");
        }
        let leads_in = match &role {
            Role::Leader(role) => Some(role.leader_epoch),
            Role::Follower(_) | Role::None => None,
        };
        self.replicas.partition(&mut self.store, log, role);
        self.id_duty(id, leads_in);
        self.coordinator_duty(id);
        // Who waits for its records may have to go elsewhere.
        self.wake_log(log);
        true
    }

    /// A copy that was found damaged, by this process or an earlier one: it counts nowhere any more, so it is thrown away
    /// and copied from its leader.
    fn renew_if_damaged(&mut self, id: PartitionId) -> Result<(), LogError> {
        let (me, log) = (self.config.node_id, log_of(id));
        let Some(info) = self.store.info(log) else { return Ok(()) };
        let Some(partition) = self.meta.partition(id) else { return Ok(()) };
        if !partition.damaged.contains(&me) {
            if info.damaged && partition.isr.contains(&me) {
                self.report_lost(log);
            }
            return Ok(());
        }
        if partition.leader == Some(me) || self.rebuilt.contains(&log) {
            return Ok(());
        }
        tracing::warn!(%log, leader = ?partition.leader, "a damaged copy is made anew");
        self.replicas.partition(&mut self.store, log, Role::None);
        self.store.restart_log_at(log, Offset::ZERO)?;
        self.rebuilt.insert(log);
        Ok(())
    }

    fn ensure_log(&mut self, id: PartitionId) -> Result<(), LogError> {
        let log = log_of(id);
        let Some(topic) = self.meta.topic_by_id(id.topic) else { return Ok(()) };
        let replicated = topic.partition(id.partition).is_some_and(|p| p.replicas.len() > 1);
        if self.store.info(log).is_none() {
            self.store.create_log(log, log_config(&topic.config))?;
        }
        // What is committed is not known yet: until it is, nothing may be compacted away that could come back.
        if replicated && self.replicas.high_watermark(log).is_none() {
            let start = self.store.info(log).map_or(Offset::ZERO, |info| info.log_start);
            self.store.set_settled_end(log, start)?;
        }
        self.store.watch_sealed(log, replicated)
    }

    fn role_of(&self, id: PartitionId) -> Role {
        let me = self.config.node_id;
        let Some(partition) = self.meta.partition(id).filter(|p| p.replicas.contains(&me)) else { return Role::None };
        let leader_epoch = LeaderEpoch(partition.leader_epoch);
        if partition.leader == Some(me) {
            Role::Leader(self.leader_role(id, partition))
        } else {
            Role::Follower(FollowerRole { leader_epoch, leader: partition.leader })
        }
    }

    fn leader_role(&self, id: PartitionId, partition: &Partition) -> LeaderRole {
        LeaderRole {
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            partition_epoch: partition.partition_epoch,
            replicas: partition.replicas.to_vec(),
            isr: partition.isr.to_vec(),
            min_insync_replicas: self.meta.min_insync(id.topic),
        }
    }

    fn configs_altered(&mut self, topic: uuid::Uuid) {
        let Some(topic) = self.meta.topic_by_id(topic).cloned() else { return };
        let config = log_config(&topic.config);
        for (id, _) in topic.numbered() {
            // A log that is not here, or still to be made, gets its configuration when it is.
            let _ = self.store.configure(log_of(id), config.clone());
        }
        self.settle_partitions(topic.numbered().map(|(id, _)| id));
    }
}

/// The engine's view of a topic's configuration.
pub(crate) fn log_config(topic: &TopicConfig) -> LogConfig {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    LogConfig {
        segment_bytes: topic.segment_bytes,
        segment_ms: signed(topic.segment_ms),
        retention_ms: topic.retention_ms.map_or(-1, signed),
        retention_bytes: topic.retention_bytes.map_or(-1, signed),
        cleanup: match topic.cleanup {
            wherry_metadata::Cleanup::Delete => Cleanup::Delete,
            wherry_metadata::Cleanup::Compact => Cleanup::Compact,
            wherry_metadata::Cleanup::CompactAndDelete => Cleanup::CompactAndDelete,
        },
        delete_retention_ms: signed(topic.delete_retention_ms),
        min_compaction_lag_ms: signed(topic.min_compaction_lag_ms),
        min_cleanable_permille: topic.min_cleanable_permille,
    }
}
