//! Snapshots: the whole state as one byte string. The same state gives the same bytes.
//!
//! ```text
//! {"v":2,"r":{"cluster_id":...,"next_producer_id":...,"brokers":[...],"origins":[...],"group_configs":{...},"features":{...},
//!   "features_epoch":...,"security":{...},"topics":[...]}}
//! ```
//! Topics come by name, nodes by id. A partition of one replica takes about 45 bytes. What is read back is checked
//! against the bounds and the invariants of the state, as it may come from another node.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::command::{decode, encode};
use crate::state::security::SecurityRecord;
use crate::state::{LastSequence, check_configs, check_group_configs, checked_levels};
use crate::{Broker, Metadata, MetadataError, Nodes, Partition, Topic, TopicConfig, check_name, limits};

#[derive(Serialize)]
struct StateRef<'a> {
    cluster_id: Option<&'a str>,
    next_producer_id: i64,
    brokers: Vec<&'a Broker>,
    origins: Vec<(i32, &'a LastSequence)>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    group_configs: &'a BTreeMap<String, BTreeMap<&'static str, String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    features: &'a BTreeMap<&'static str, i16>,
    features_epoch: i64,
    #[serde(skip_serializing_if = "SecurityRecord::is_empty")]
    security: SecurityRecord,
    topics: Topics<'a>,
}

/// Written one by one: a list of 100,000 records would double the memory.
struct Topics<'a>(&'a Metadata);

impl Serialize for Topics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.topics_from("").map(|topic| TopicRecord::from(topic.as_ref())))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateRecord {
    cluster_id: Option<String>,
    next_producer_id: i64,
    brokers: Vec<Broker>,
    origins: Vec<(i32, LastSequence)>,
    #[serde(default)]
    group_configs: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    features: BTreeMap<String, i16>,
    #[serde(default)]
    features_epoch: i64,
    #[serde(default)]
    security: SecurityRecord,
    topics: Vec<TopicRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicRecord {
    name: String,
    id: Uuid,
    factor: i16,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    internal: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    configs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_partitions: Option<i32>,
    partitions: Vec<PartitionRecord>,
}

/// Short names, since there are many of them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionRecord {
    r: Vec<i32>,
    i: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    elr: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adding: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removing: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blank: Vec<i32>,
    l: Option<i32>,
    /// Leader epoch, partition epoch.
    e: (i32, i32),
}

impl From<&Partition> for PartitionRecord {
    fn from(p: &Partition) -> Self {
        Self {
            r: p.replicas.to_vec(),
            i: p.isr.to_vec(),
            elr: p.elr.to_vec(),
            adding: p.adding.to_vec(),
            removing: p.removing.to_vec(),
            damaged: p.damaged.to_vec(),
            blank: p.blank.to_vec(),
            l: p.leader,
            e: (p.leader_epoch, p.partition_epoch),
        }
    }
}

impl PartitionRecord {
    fn into_partition(self) -> Result<Partition, MetadataError> {
        let replicas = &self.r;
        let within = |nodes: &[i32]| nodes.iter().all(|n| replicas.contains(n)) && is_set(nodes);
        let bounded = !replicas.is_empty() && replicas.len() <= 2 * limits::MAX_REPLICAS && is_set(replicas);
        let parts = [&self.i, &self.elr, &self.adding, &self.removing, &self.damaged, &self.blank];
        let subsets = parts.into_iter().all(|nodes| within(nodes));
        let led = self.l.is_none_or(|leader| self.i.contains(&leader));
        if !(bounded && subsets && led) {
            return Err(malformed("a partition contradicts itself"));
        }
        let (leader_epoch, partition_epoch) = self.e;
        Ok(Partition {
            replicas: Nodes::from_slice(&self.r),
            isr: Nodes::from_slice(&self.i),
            elr: Nodes::from_slice(&self.elr),
            adding: Nodes::from_slice(&self.adding),
            removing: Nodes::from_slice(&self.removing),
            damaged: Nodes::from_slice(&self.damaged),
            blank: Nodes::from_slice(&self.blank),
            leader: self.l,
            leader_epoch,
            partition_epoch,
        })
    }
}

fn is_set(nodes: &[i32]) -> bool {
    nodes.iter().enumerate().all(|(at, n)| !nodes.iter().take(at).any(|m| m == n))
}

impl From<&Topic> for TopicRecord {
    fn from(topic: &Topic) -> Self {
        Self {
            name: topic.name.to_string(),
            id: topic.id,
            factor: topic.replication_factor,
            internal: topic.internal,
            configs: topic.overrides.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            id_partitions: topic.id_partitions,
            partitions: topic.partitions.iter().map(PartitionRecord::from).collect(),
        }
    }
}

impl TopicRecord {
    fn into_topic(self) -> Result<Topic, MetadataError> {
        check_name(&self.name)?;
        let most = usize::try_from(limits::MAX_PARTITIONS_PER_TOPIC).unwrap_or(usize::MAX);
        if self.partitions.is_empty() || self.partitions.len() > most {
            return Err(malformed("a topic has no partition or too many"));
        }
        let overrides = check_configs(&self.configs)?;
        Ok(Topic {
            name: Arc::from(self.name),
            id: self.id,
            partitions: self.partitions.into_iter().map(PartitionRecord::into_partition).collect::<Result<_, _>>()?,
            replication_factor: self.factor,
            internal: self.internal,
            config: TopicConfig::from_overrides(&overrides),
            overrides,
            id_partitions: self.id_partitions,
        })
    }
}

impl Metadata {
    /// The state as bytes, for [`Metadata::restore`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        encode(&StateRef {
            cluster_id: self.cluster_id(),
            next_producer_id: self.next_producer_id,
            brokers: self.brokers.values().collect(),
            origins: self.origins.iter().map(|(node, last)| (*node, last)).collect(),
            group_configs: &self.group_configs,
            features: &self.features,
            features_epoch: self.features_epoch,
            security: SecurityRecord::of(&self.security),
            topics: Topics(self),
        })
    }

    /// The state that these bytes hold.
    ///
    /// # Errors
    /// [`MetadataError::UnknownVersion`]; [`MetadataError::Malformed`] for bytes that are no snapshot or one that
    /// contradicts itself; what a command that sets such a name or configuration would be refused with.
    pub fn restore(bytes: &[u8]) -> Result<Self, MetadataError> {
        let record: StateRecord = decode(bytes)?;
        record.check()?;
        let mut state = Self::default();
        state.brokers = record.brokers.into_iter().map(|b| (b.node_id, b)).collect();
        state.origins = record.origins.into_iter().collect();
        state.cluster_id = record.cluster_id;
        state.next_producer_id = record.next_producer_id;
        for (group, configs) in record.group_configs {
            state.group_configs.insert(group, check_group_configs(&configs)?);
        }
        state.features = checked_levels(&record.features)?;
        state.features_epoch = record.features_epoch;
        state.security = record.security.into_security()?;
        for topic in record.topics {
            if state.topic(&topic.name).is_some() || state.topic_by_id(topic.id).is_some() {
                return Err(malformed("a topic is there twice"));
            }
            state.insert(topic.into_topic()?);
        }
        Ok(state)
    }
}

impl StateRecord {
    fn check(&self) -> Result<(), MetadataError> {
        let partitions: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let fits = self.topics.len() <= limits::MAX_TOPICS
            && partitions <= limits::MAX_PARTITIONS
            && self.brokers.len() <= limits::MAX_BROKERS
            && self.origins.len() <= limits::MAX_ORIGINS
            && self.group_configs.len() <= limits::MAX_CONFIGURED_GROUPS
            && self.origins.iter().all(|(_, last)| last.past.len() <= limits::MAX_PAST_INCARNATIONS);
        if fits { Ok(()) } else { Err(malformed("it holds more than a cluster may have")) }
    }
}

fn malformed(why: &str) -> MetadataError {
    MetadataError::Malformed(format!("a snapshot is wrong: {why}"))
}
