//! Snapshots: the state as a few bounded records that are appended to the same log as commands.
//!
//! ```text
//! ... commands ...  Start  Topics  Topics  ...  End  commands ...
//! ```
//! What lies before `Start` may be deleted once `End` is durable. A snapshot without its `End` (a crash between) is
//! ignored: the commands before it are still there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::state::{Topic, check_configs};
use crate::{Broker, Change, Metadata, MetadataError, Record, TopicConfig};

/// Topics per record, so that a record stays around 150 KiB.
pub const SNAPSHOT_PART_TOPICS: usize = 1_000;

/// A piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SnapshotRecord {
    /// Everything but the topics.
    Start {
        /// The cluster's id.
        cluster_id: Option<String>,
        /// First free producer id.
        next_producer_id: i64,
        /// Leaderships begun.
        leaderships: i32,
        /// Registered nodes.
        brokers: Vec<Broker>,
    },
    /// Some topics.
    Topics(Vec<TopicRecord>),
    /// The end.
    End {
        /// How many topics the parts must have held.
        topics: usize,
    },
}

/// A topic in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRecord {
    name: String,
    id: Uuid,
    partitions: i32,
    replication_factor: i16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    internal: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    configs: BTreeMap<String, String>,
    leaderships_before: i32,
}

impl From<&Topic> for TopicRecord {
    fn from(topic: &Topic) -> Self {
        Self {
            name: topic.name.to_string(),
            id: topic.id,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            internal: topic.internal,
            configs: topic.overrides.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            leaderships_before: topic.leaderships_before,
        }
    }
}

impl TopicRecord {
    fn into_topic(self) -> Result<Topic, MetadataError> {
        let overrides = check_configs(&self.configs)?;
        Ok(Topic {
            name: self.name.into(),
            id: self.id,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            internal: self.internal,
            config: TopicConfig::from_overrides(&overrides),
            overrides,
            leaderships_before: self.leaderships_before,
        })
    }
}

/// A snapshot being read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restore {
    state: Metadata,
}

impl Metadata {
    /// The state as records, topics by name: the same state gives the same records.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Record> {
        let start = SnapshotRecord::Start {
            cluster_id: self.cluster_id.clone(),
            next_producer_id: self.next_producer_id,
            leaderships: self.leaderships,
            brokers: self.brokers.values().cloned().collect(),
        };
        let topics: Vec<TopicRecord> = self.topics_from("").map(|t| TopicRecord::from(t.as_ref())).collect();
        let parts = topics.chunks(SNAPSHOT_PART_TOPICS).map(|part| SnapshotRecord::Topics(part.to_vec()));
        let end = SnapshotRecord::End { topics: topics.len() };
        std::iter::once(start).chain(parts).chain(std::iter::once(end)).map(Record::Snapshot).collect()
    }

    /// Takes the next record of a log, from its start on. A command that is refused was refused when it was committed,
    /// and is not an error here.
    ///
    /// # Errors
    /// [`MetadataError::Malformed`] for a snapshot that contradicts itself.
    pub fn replay(&mut self, record: Record) -> Result<Option<Change>, MetadataError> {
        match record {
            Record::Command(command) => {
                self.restore = None;
                Ok(self.apply(command).ok())
            }
            Record::Snapshot(part) => self.restore_part(part).map(|()| None),
        }
    }

    fn restore_part(&mut self, part: SnapshotRecord) -> Result<(), MetadataError> {
        match part {
            SnapshotRecord::Start { cluster_id, next_producer_id, leaderships, brokers } => {
                let mut state = Metadata::default();
                state.cluster_id = cluster_id;
                state.next_producer_id = next_producer_id;
                state.leaderships = leaderships;
                state.brokers = brokers.into_iter().map(|b| (b.node_id, b)).collect();
                self.restore = Some(Box::new(Restore { state }));
            }
            SnapshotRecord::Topics(topics) => {
                let restore = self.restore.as_mut().ok_or_else(out_of_order)?;
                for topic in topics {
                    restore.state.insert(topic.into_topic()?);
                }
            }
            SnapshotRecord::End { topics } => {
                let restore = self.restore.take().ok_or_else(out_of_order)?;
                if restore.state.topic_count() != topics {
                    return Err(MetadataError::Malformed(format!(
                        "the snapshot says {topics} topics and holds {}",
                        restore.state.topic_count()
                    )));
                }
                *self = restore.state;
            }
        }
        Ok(())
    }
}

fn out_of_order() -> MetadataError {
    MetadataError::Malformed("a piece of a snapshot without its start".into())
}
