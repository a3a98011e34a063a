//! Metadata commands on their way: proposed → in the internal log → durable → applied → answered.
//!
//! A command takes effect when it is committed, not before: nobody sees a topic that a crash could take back. Whether it
//! succeeds is decided by the state machine then, in log order; `Metadata::check` before is only there to keep hopeless
//! commands out of the log.

use uuid::Uuid;
use wherry_metadata::{Change, Command, MetadataError, Record, TopicConfig};
use wherry_wire::types::LogId;

use super::store::{Cleanup, LogConfig, LogError, LogStore};
use super::{Core, Then};
use crate::api;
use crate::limits;

/// Log of the metadata commands: a reserved topic id that no topic can have (ids are random, version 4).
pub(super) const METADATA_LOG: LogId =
    LogId { topic: Uuid::from_u128(0x7768_6572_7279_0000_0000_0000_0000_0001), partition: 0 };

/// Which handler goes on after a commit.
#[derive(Debug)]
pub(crate) enum AfterCommit {
    /// Nobody waits.
    Nothing,
    /// CreateTopics.
    CreateTopics(Box<api::create_topics::Pending>),
    /// Topics made because someone asked for them.
    AutoCreate(Box<api::metadata::Pending>),
    /// DeleteTopics.
    DeleteTopics(Box<api::delete_topics::Pending>),
    /// CreatePartitions.
    CreatePartitions(Box<api::create_partitions::Pending>),
    /// AlterConfigs and IncrementalAlterConfigs.
    AlterConfigs(Box<api::alter_configs::Pending>),
    /// A block of producer ids.
    ProducerIds,
}

/// Something to do to the logs after a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogWork {
    Create(LogId),
    Delete(LogId),
}

/// Commands in the log that are not durable yet.
#[derive(Debug)]
pub(crate) struct Proposal {
    commands: Vec<Command>,
    after: AfterCommit,
}

#[derive(Debug, Default)]
pub(crate) struct CommandLog {
    /// Commands proposed and not applied.
    pub(crate) pending: usize,
    /// Records since the last snapshot.
    pub(crate) since_snapshot: usize,
}

/// What became of each command of a proposal.
pub(crate) type Results = Vec<Result<Change, MetadataError>>;

impl<S: LogStore> Core<S> {
    /// Appends commands; `after` goes on when they are durable and applied.
    ///
    /// # Errors
    /// Nothing was appended; `after` comes back so that its request can be answered.
    pub(crate) fn propose(
        &mut self,
        commands: Vec<Command>,
        after: AfterCommit,
    ) -> Result<(), (LogError, AfterCommit)> {
        let waiting = self.commands.pending.saturating_add(commands.len());
        if waiting > limits::MAX_PENDING_COMMANDS {
            return Err((LogError::Busy { waiting }, after));
        }
        let records: Vec<Record> = commands.iter().cloned().map(Record::Command).collect();
        match self.append_records(&records) {
            Ok(ticket) => {
                self.commands.pending = waiting;
                self.commands.since_snapshot += commands.len();
                self.durable.push(ticket, Then::Commit(Box::new(Proposal { commands, after })));
                Ok(())
            }
            Err(error) => Err((error, after)),
        }
    }

    /// Applies what is durable now and lets its handler go on.
    pub(crate) fn commit(&mut self, proposal: Proposal) {
        self.commands.pending = self.commands.pending.saturating_sub(proposal.commands.len());
        let results: Results = proposal.commands.into_iter().map(|command| self.apply(command)).collect();
        match proposal.after {
            AfterCommit::Nothing => {}
            AfterCommit::CreateTopics(pending) => api::create_topics::committed(self, *pending, results),
            AfterCommit::AutoCreate(pending) => api::metadata::committed(self, &pending),
            AfterCommit::DeleteTopics(pending) => api::delete_topics::committed(self, *pending, results),
            AfterCommit::CreatePartitions(pending) => api::create_partitions::committed(self, *pending, results),
            AfterCommit::AlterConfigs(pending) => api::alter_configs::committed(self, *pending, results),
            AfterCommit::ProducerIds => self.producer_ids_committed(results),
        }
    }

    fn apply(&mut self, command: Command) -> Result<Change, MetadataError> {
        let change = self.meta.apply(command)?;
        self.follow(&change);
        self.stats.topics.set(self.meta.topic_count() as u64);
        self.stats.partitions.set(self.meta.partition_count() as u64);
        Ok(change)
    }

    /// Makes the logs agree with the metadata. A crash between the two is repaired at the next start.
    fn follow(&mut self, change: &Change) {
        match change {
            Change::TopicCreated { id } => {
                let partitions = self.meta.topic_by_id(*id).map_or(0, |t| t.partitions);
                self.create_logs(*id, 0, partitions);
            }
            Change::TopicGrown { id, from, to } => self.create_logs(*id, *from, *to),
            Change::TopicDeleted { topic } => {
                for partition in 0..topic.partitions {
                    let log = LogId { topic: topic.id, partition };
                    self.log_work.push_back(LogWork::Delete(log));
                    self.wake_log(log);
                }
                self.do_log_work();
                self.group_topic_deleted(&topic.name);
            }
            Change::ConfigsAltered { id } => self.configure_logs(*id),
            Change::ProducerIds(_) | Change::ClusterNamed | Change::BrokerRegistered { .. } => {}
        }
    }

    fn create_logs(&mut self, topic: Uuid, from: i32, to: i32) {
        self.log_work.extend((from..to).map(|partition| LogWork::Create(LogId { topic, partition })));
        self.do_log_work();
    }

    /// Creates and deletes logs in order until the store is busy; the rest follows in the next turn. Bounded by the
    /// number of partitions that there can be.
    pub(crate) fn do_log_work(&mut self) {
        while let Some(work) = self.log_work.front().copied() {
            let done = match work {
                LogWork::Create(log) => self.create_log(log),
                LogWork::Delete(log) => self.store.delete_log(log).map(drop),
            };
            match done {
                Err(LogError::Busy { .. } | LogError::Full { .. }) => return,
                Err(LogError::Exists(_) | LogError::NoSuchLog(_)) | Ok(()) => {}
                Err(error) => tracing::warn!(?work, %error, "left for the next start"),
            }
            self.log_work.pop_front();
        }
    }

    fn create_log(&mut self, log: LogId) -> Result<(), LogError> {
        // A topic that is gone again needs no log.
        let Some(topic) = self.meta.topic_by_id(log.topic) else { return Ok(()) };
        self.store.create_log(log, log_config(&topic.config)).map(drop)
    }

    fn configure_logs(&mut self, id: Uuid) {
        let Some(topic) = self.meta.topic_by_id(id) else { return };
        let config = log_config(&topic.config);
        for partition in 0..topic.partitions {
            // A log that is still to be made gets its configuration then.
            let _ = self.store.configure(LogId { topic: id, partition }, config.clone());
        }
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
