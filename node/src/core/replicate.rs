//! The core and [`Replicas`](crate::replication::Replicas): what replication wants is carried out, and requests ask it who
//! leads and what is committed.

use wherry_metadata::{Command, PartitionChange, Topic};
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::Core;
use super::consensus::{AfterCommit, Results};
use super::duties::partition_of;
use super::store::{Appended, LogError, LogInfo, LogStore, Read, ReadUpTo, Ticket};
use crate::cluster::data_link;
use crate::mutation::mutated;
use crate::replication::{IsrChange, Output, ReplicaStore};

/// A store of logs is one of replicas.
impl<S: LogStore> ReplicaStore for S {
    fn info(&self, id: LogId) -> Option<LogInfo> {
        LogStore::info(self, id)
    }

    fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: crate::replication::ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError> {
        let upto = match upto {
            crate::replication::ReadUpTo::Sealed => ReadUpTo::Sealed,
            crate::replication::ReadUpTo::Durable => {
                ReadUpTo::Offset(LogStore::info(self, id).map_or(Offset::ZERO, |info| info.durable_end))
            }
        };
        LogStore::read(self, id, from, upto, max_bytes, min_one)
    }

    fn append_replica(
        &mut self,
        id: LogId,
        batches: &[wherry_wire::batch::CheckedBatch],
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        LogStore::append_replica(self, id, batches, now_ms)
    }

    fn truncate(&mut self, id: LogId, to: Offset) -> Result<Ticket, LogError> {
        LogStore::truncate(self, id, to).map(|(ticket, _)| ticket)
    }

    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        LogStore::restart_log_at(self, id, start)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        LogStore::delete_records(self, id, before)
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        LogStore::epoch_end(self, id, epoch)
    }
}

impl<S: LogStore> Core<S> {
    /// Lets replication go on, and does what it wants.
    pub(super) fn run_replicas(&mut self) {
        self.replicas.turn(&mut self.store);
        let outputs: Vec<Output> = self.replicas.outputs().collect();
        for output in outputs {
            self.replica_output(output);
        }
    }

    fn replica_output(&mut self, output: Output) {
        match output {
            Output::Send { link, chunks } => {
                self.with_links(|links, now_ns| {
                    let link = data_link(link);
                    if let Err(error) = links.send_to(link, chunks) {
                        // What is lost on a link is lost for good: it must not go on.
                        links.close(now_ns, link, format!("a message could not be sent: {error}"));
                    }
                });
            }
            Output::DropLink { link, reason } => {
                self.with_links(|links, now_ns| links.close(now_ns, data_link(link), reason));
            }
            Output::Want(nodes) => {
                self.cluster.followed = nodes;
                self.cluster.membership.aim_again();
            }
            Output::Released(wait) => self.ack_released(wait),
            Output::Failed(wait, why) => self.ack_failed(wait, why),
            Output::HighWatermark(log) => self.high_watermark_moved(log),
            Output::ProposeIsr(changes) => self.propose_in_sync(&changes),
            Output::LogLost(log) => self.report_lost(log),
        }
    }

    fn high_watermark_moved(&mut self, log: LogId) {
        if let Some(end) = self.replicas.high_watermark(log) {
            // Fails only for a log that is gone.
            let _ = self.store.set_settled_end(log, end);
        }
        self.wake_log(log);
    }

    /// In-sync sets as leaders here see them: the metadata decide.
    fn propose_in_sync(&mut self, changes: &[IsrChange]) {
        let registered = |node: i32| self.meta.broker(node).map(|broker| broker.incarnation);
        let wanted = changes.iter().map(|change| PartitionChange {
            id: partition_of(change.log),
            leader_epoch: change.leader_epoch.0,
            partition_epoch: change.partition_epoch,
            isr: change
                .isr
                .iter()
                .filter_map(|m| Some((m.node, m.incarnation.or_else(|| registered(m.node))?)))
                .collect(),
        });
        let command = Command::AlterPartitions {
            node_id: self.config.node_id,
            incarnation: self.incarnation,
            changes: wanted.collect(),
        };
        if let Err((error, _)) = self.propose(vec![command], AfterCommit::InSync(changes.to_vec())) {
            tracing::debug!(%error, "in-sync sets are proposed later");
            self.in_sync_refused(changes);
        }
    }

    /// The metadata have decided; what was applied has been told by its partitions.
    pub(super) fn in_sync_decided(&mut self, changes: &[IsrChange], results: Results) {
        let mut results = results.into_iter();
        match results.next() {
            Some(Ok(wherry_metadata::Change::PartitionsAltered(outcomes))) => {
                let refused = changes.iter().zip(outcomes).filter(|(_, (_, outcome))| outcome.is_err());
                let refused: Vec<IsrChange> = refused
                    .map(|(change, (_, outcome))| {
                        tracing::debug!(log = %change.log, ?outcome, "an in-sync set was refused");
                        change.clone()
                    })
                    .collect();
                self.in_sync_refused(&refused);
            }
            Some(Ok(_) | Err(_)) | None => self.in_sync_refused(changes),
        }
    }

    fn in_sync_refused(&mut self, changes: &[IsrChange]) {
        for change in changes {
            self.replicas.alter_refused(change.log, change.leader_epoch, change.partition_epoch);
        }
    }

    /// Other nodes have an in-sync copy too.
    pub(crate) fn others_in_sync(&self, log: LogId) -> bool {
        let partition = self.meta.partition(partition_of(log));
        partition.is_some_and(|partition| partition.isr.iter().any(|node| *node != self.config.node_id))
    }

    /// A copy here is damaged: it must count nowhere, and is made anew from the others.
    pub(super) fn report_lost(&mut self, log: LogId) {
        if !self.others_in_sync(log) {
            tracing::error!(%log, "this copy is damaged, and no other one is in sync: what is whole of it is still served");
            return;
        }
        tracing::error!(%log, "this copy is damaged; it is given up and made anew from the other replicas");
        self.rebuilt.remove(&log);
        let command = Command::LoseReplica {
            node_id: self.config.node_id,
            incarnation: self.incarnation,
            partitions: vec![partition_of(log)],
        };
        if let Err((error, _)) = self.propose(vec![command], AfterCommit::Nothing) {
            tracing::warn!(%error, %log, "the damage could not be reported; the copy stays out of use");
        }
    }

    /// The epoch in which this node leads a partition.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn leads(&self, log: LogId) -> Result<LeaderEpoch, ResponseError> {
        match self.replicas.leads(log) {
            Some((epoch, _)) => Ok(epoch),
            None => Err(ResponseError::NotLeaderOrFollower),
        }
    }

    /// Below this everything is committed and may be shown (INV-2). Nothing, where that is not known yet.
    pub(crate) fn committed_end(&self, log: LogId) -> Option<Offset> {
        if mutated!(ReadUncommitted) {
            return self.store.info(log).map(|info| info.durable_end);
        }
        self.replicas.high_watermark(log)
    }

    /// The leader epoch of a partition as the metadata have it.
    pub(crate) fn known_epoch(&self, topic: &Topic, partition: i32) -> LeaderEpoch {
        LeaderEpoch(topic.partition(partition).map_or(-1, |p| p.leader_epoch))
    }
}
