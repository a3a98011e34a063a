//! The state and the one way to change it.
//!
//! Lookups by name and by id are O(1) in the number of topics, listing by name is ordered; nothing here walks all topics
//! but `snapshot` and callers that ask for all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::snapshot::Restore;
use crate::{Command, MetadataError, TopicConfig, check_name, collision_key, config_key};

/// Named bounds of the cluster. They are part of the state machine: every replica must decide alike.
pub mod limits {
    /// Topics of a cluster.
    pub const MAX_TOPICS: usize = 100_000;
    /// Partitions of one topic.
    pub const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
    /// Partitions of a cluster.
    pub const MAX_PARTITIONS: usize = 200_000;
    /// Producer ids taken at once.
    pub const MAX_PRODUCER_ID_BLOCK: i64 = 1_000_000;
    /// Registered nodes.
    pub const MAX_BROKERS: usize = 1_000;
    /// Bytes of a cluster id.
    pub const MAX_CLUSTER_ID: usize = 128;
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name, unique.
    pub name: Arc<str>,
    /// Id, never used again.
    pub id: Uuid,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Replicas per partition.
    pub replication_factor: i16,
    /// Owned by the system.
    pub internal: bool,
    /// Configuration that differs from the defaults: key, canonical value.
    pub overrides: BTreeMap<&'static str, String>,
    /// The same, typed, with defaults filled in.
    pub config: TopicConfig,
    /// Count of leaderships when it was made; see [`Metadata::leader_epoch`].
    pub(crate) leaderships_before: i32,
}

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Its id.
    pub node_id: i32,
    /// Random per process start.
    pub incarnation: Uuid,
    /// Host that clients connect to.
    pub host: String,
    /// Port that clients connect to.
    pub port: u16,
    /// Failure domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

/// A block of producer ids that nobody else will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// First id.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// What an applied command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A topic was made.
    TopicCreated {
        /// Its id.
        id: Uuid,
    },
    /// A topic is gone; here is what it was.
    TopicDeleted {
        /// The topic as it was.
        topic: Arc<Topic>,
    },
    /// A topic has more partitions.
    TopicGrown {
        /// Its id.
        id: Uuid,
        /// Partitions before.
        from: i32,
        /// Partitions now.
        to: i32,
    },
    /// A topic's configuration is another.
    ConfigsAltered {
        /// Its id.
        id: Uuid,
    },
    /// Producer ids were taken.
    ProducerIds(ProducerIdBlock),
    /// The cluster has this id.
    ClusterNamed,
    /// A node registered; `new_incarnation` says whether leader epochs rose.
    BrokerRegistered {
        /// The node.
        node_id: i32,
        /// Whether this process start is new.
        new_incarnation: bool,
    },
}

/// The whole state.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    pub(crate) topics: HashMap<Uuid, Arc<Topic>, RandomState>,
    by_name: HashMap<Arc<str>, Arc<Topic>, RandomState>,
    sorted: BTreeSet<Arc<str>>,
    collisions: HashMap<String, Uuid, RandomState>,
    partitions: usize,
    pub(crate) brokers: BTreeMap<i32, Broker>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) next_producer_id: i64,
    pub(crate) leaderships: i32,
    pub(crate) restore: Option<Box<Restore>>,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.topics == other.topics
            && self.brokers == other.brokers
            && self.cluster_id == other.cluster_id
            && self.next_producer_id == other.next_producer_id
            && self.leaderships == other.leaderships
    }
}

impl Metadata {
    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic with that id.
    #[must_use]
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// All topics by name, from the first name not below `from` on.
    pub fn topics_from<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a Arc<Topic>> {
        self.sorted.range::<str, _>((Bound::Included(from), Bound::Unbounded)).filter_map(|name| self.by_name.get(name))
    }

    /// Number of topics.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Number of partitions of all topics.
    #[must_use]
    pub fn partition_count(&self) -> usize {
        self.partitions
    }

    /// The registered nodes by id.
    #[must_use]
    pub fn brokers(&self) -> &BTreeMap<i32, Broker> {
        &self.brokers
    }

    /// The cluster's id, once it has one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The first producer id that is not given away.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Leader epoch of a topic's partitions: the number of leaderships begun since it was made. With one node, each
    /// start of that node is one; this costs one counter for all topics instead of a write per partition.
    #[must_use]
    pub fn leader_epoch(&self, topic: &Topic) -> i32 {
        self.leaderships.saturating_sub(topic.leaderships_before).max(0)
    }

    /// Whether `apply` would refuse this command as things stand, without changing anything.
    ///
    /// # Errors
    /// What [`Metadata::apply`] would answer.
    pub fn check(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::CreateTopic { name, id, partitions, replication_factor, configs, internal: _ } => {
                self.check_create(name, *id, *partitions, *replication_factor, configs).map(drop)
            }
            Command::DeleteTopic { id } => self.known(*id).map(drop),
            Command::GrowTopic { id, partitions } => self.check_grow(*id, *partitions).map(drop),
            Command::AlterTopicConfigs { id, set } => self.altered(*id, set).map(drop),
            Command::ReserveProducerIds { first, count } => self.check_block(*first, *count).map(drop),
            Command::SetClusterId { cluster_id } => self.check_cluster_id(cluster_id),
            Command::RegisterBroker { node_id, .. } => self.check_broker(*node_id),
        }
    }

    /// Applies a committed command. Deterministic; a refused command changes nothing.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn apply(&mut self, command: Command) -> Result<Change, MetadataError> {
        match command {
            Command::CreateTopic { name, id, partitions, replication_factor, configs, internal } => {
                let overrides = self.check_create(&name, id, partitions, replication_factor, &configs)?;
                let config = TopicConfig::from_overrides(&overrides);
                let leaderships_before = self.leaderships;
                let name = Arc::from(name);
                self.insert(Topic {
                    name,
                    id,
                    partitions,
                    replication_factor,
                    internal,
                    overrides,
                    config,
                    leaderships_before,
                });
                Ok(Change::TopicCreated { id })
            }
            Command::DeleteTopic { id } => {
                self.known(id)?;
                let topic = self.remove(id).ok_or(MetadataError::UnknownTopic(id))?;
                Ok(Change::TopicDeleted { topic })
            }
            Command::GrowTopic { id, partitions } => {
                let from = self.check_grow(id, partitions)?;
                self.update(id, |topic| topic.partitions = partitions);
                Ok(Change::TopicGrown { id, from, to: partitions })
            }
            Command::AlterTopicConfigs { id, set } => {
                let overrides = self.altered(id, &set)?;
                self.update(id, |topic| {
                    topic.config = TopicConfig::from_overrides(&overrides);
                    topic.overrides = overrides;
                });
                Ok(Change::ConfigsAltered { id })
            }
            Command::ReserveProducerIds { first, count } => {
                self.next_producer_id = self.check_block(first, count)?;
                Ok(Change::ProducerIds(ProducerIdBlock { first, count }))
            }
            Command::SetClusterId { cluster_id } => {
                self.check_cluster_id(&cluster_id)?;
                self.cluster_id = Some(cluster_id);
                Ok(Change::ClusterNamed)
            }
            Command::RegisterBroker { node_id, incarnation, host, port, rack } => {
                self.check_broker(node_id)?;
                let new_incarnation = self.brokers.get(&node_id).is_none_or(|b| b.incarnation != incarnation);
                if new_incarnation {
                    self.leaderships = self.leaderships.saturating_add(1);
                }
                self.brokers.insert(node_id, Broker { node_id, incarnation, host, port, rack });
                Ok(Change::BrokerRegistered { node_id, new_incarnation })
            }
        }
    }

    fn known(&self, id: Uuid) -> Result<&Arc<Topic>, MetadataError> {
        self.topics.get(&id).ok_or(MetadataError::UnknownTopic(id))
    }

    fn check_create(
        &self,
        name: &str,
        id: Uuid,
        partitions: i32,
        replication_factor: i16,
        configs: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<&'static str, String>, MetadataError> {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        if let Some(other) = self.collisions.get(&collision_key(name)).and_then(|id| self.topics.get(id)) {
            return Err(MetadataError::InvalidTopicName(format!(
                "the topic name '{name}' collides with '{}': names must differ in more than '.' and '_'",
                other.name
            )));
        }
        if id.is_nil() || self.topics.contains_key(&id) {
            return Err(MetadataError::TopicIdExists(id));
        }
        if self.topics.len() >= limits::MAX_TOPICS {
            return Err(MetadataError::LimitReached(format!("a cluster has at most {} topics", limits::MAX_TOPICS)));
        }
        if partitions < 1 {
            return Err(MetadataError::InvalidPartitions(format!(
                "a topic needs at least 1 partition, not {partitions}"
            )));
        }
        self.check_room(0, partitions)?;
        self.check_replicas(replication_factor)?;
        check_configs(configs)
    }

    fn check_room(&self, from: i32, to: i32) -> Result<(), MetadataError> {
        if to > limits::MAX_PARTITIONS_PER_TOPIC {
            return Err(MetadataError::InvalidPartitions(format!(
                "a topic has at most {} partitions, {to} were asked for",
                limits::MAX_PARTITIONS_PER_TOPIC
            )));
        }
        let more = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        if self.partitions.saturating_add(more) > limits::MAX_PARTITIONS {
            return Err(MetadataError::LimitReached(format!(
                "a cluster has at most {} partitions",
                limits::MAX_PARTITIONS
            )));
        }
        Ok(())
    }

    fn check_replicas(&self, replication_factor: i16) -> Result<(), MetadataError> {
        let nodes = self.brokers.len().max(1);
        let asked = usize::try_from(replication_factor).unwrap_or(0);
        if asked == 0 || asked > nodes {
            return Err(MetadataError::InvalidReplicationFactor(format!(
                "a replication factor of {replication_factor} can't be had: it must be from 1 to the number of nodes, {nodes}"
            )));
        }
        Ok(())
    }

    fn check_grow(&self, id: Uuid, partitions: i32) -> Result<i32, MetadataError> {
        let topic = self.known(id)?;
        if partitions <= topic.partitions {
            return Err(MetadataError::InvalidPartitions(format!(
                "the topic '{}' has {} partitions already; their number can only grow, {partitions} were asked for",
                topic.name, topic.partitions
            )));
        }
        self.check_room(topic.partitions, partitions)?;
        Ok(topic.partitions)
    }

    fn altered(
        &self,
        id: Uuid,
        set: &BTreeMap<String, Option<String>>,
    ) -> Result<BTreeMap<&'static str, String>, MetadataError> {
        let mut overrides = self.known(id)?.overrides.clone();
        for (name, value) in set {
            let key = known_key(name)?;
            match value {
                Some(value) => overrides.insert(key.name, key.check(value)?),
                None => overrides.remove(key.name),
            };
        }
        Ok(overrides)
    }

    fn check_block(&self, first: i64, count: i64) -> Result<i64, MetadataError> {
        if first != self.next_producer_id {
            return Err(MetadataError::StaleProducerIds { expected: self.next_producer_id, asked: first });
        }
        if !(1..=limits::MAX_PRODUCER_ID_BLOCK).contains(&count) {
            return Err(MetadataError::InvalidRequest(format!(
                "a block of {count} producer ids: it must be from 1 to {}",
                limits::MAX_PRODUCER_ID_BLOCK
            )));
        }
        first.checked_add(count).ok_or_else(|| MetadataError::LimitReached("all producer ids are given away".into()))
    }

    fn check_cluster_id(&self, cluster_id: &str) -> Result<(), MetadataError> {
        if cluster_id.is_empty() || cluster_id.len() > limits::MAX_CLUSTER_ID {
            return Err(MetadataError::InvalidRequest(format!(
                "a cluster id has 1 to {} bytes, this one {}",
                limits::MAX_CLUSTER_ID,
                cluster_id.len()
            )));
        }
        match &self.cluster_id {
            Some(found) if found != cluster_id => {
                Err(MetadataError::ClusterIdMismatch { found: found.clone(), asked: cluster_id.to_owned() })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_broker(&self, node_id: i32) -> Result<(), MetadataError> {
        if node_id < 0 {
            return Err(MetadataError::InvalidRequest(format!("a node id is not negative, {node_id} is")));
        }
        if self.brokers.len() >= limits::MAX_BROKERS && !self.brokers.contains_key(&node_id) {
            return Err(MetadataError::LimitReached(format!("a cluster has at most {} nodes", limits::MAX_BROKERS)));
        }
        Ok(())
    }

    pub(crate) fn insert(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.partitions += usize::try_from(topic.partitions).unwrap_or(0);
        self.collisions.insert(collision_key(&topic.name), topic.id);
        self.sorted.insert(Arc::clone(&topic.name));
        self.by_name.insert(Arc::clone(&topic.name), Arc::clone(&topic));
        self.topics.insert(topic.id, topic);
    }

    fn remove(&mut self, id: Uuid) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(&id)?;
        self.by_name.remove(&topic.name);
        self.sorted.remove(&topic.name);
        self.collisions.remove(&collision_key(&topic.name));
        self.partitions = self.partitions.saturating_sub(usize::try_from(topic.partitions).unwrap_or(0));
        Some(topic)
    }

    fn update(&mut self, id: Uuid, change: impl FnOnce(&mut Topic)) {
        if let Some(topic) = self.remove(id) {
            let mut topic = Arc::unwrap_or_clone(topic);
            change(&mut topic);
            self.insert(topic);
        }
    }
}

fn known_key(name: &str) -> Result<&'static crate::ConfigKey, MetadataError> {
    config_key(name).ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        MetadataError::InvalidConfig(format!("unknown topic configuration '{shown}'"))
    })
}

pub(crate) fn check_configs(
    configs: &BTreeMap<String, String>,
) -> Result<BTreeMap<&'static str, String>, MetadataError> {
    configs
        .iter()
        .map(|(name, value)| {
            let key = known_key(name)?;
            Ok((key.name, key.check(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests;
