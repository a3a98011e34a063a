//! The state and the one way to change it.
//!
//! Lookups by name and by id are O(1) in the number of topics, listing by name is ordered. All partitions are walked
//! only when a node comes or goes, by `snapshot`, and by callers that ask for all of them; all else is as cheap as what
//! it touches.
//!
//! ```text
//!   mod.rs         the state, lookups, `apply`        brokers.rs    nodes come and go
//!   topics.rs      create, grow, delete, configs      partitions.rs in-sync replicas, lost copies, elections
//!   place.rs       which nodes get a partition        reassign.rs   moving partitions
//!   groups.rs      configuration of groups, features
//!   balance.rs     which moves would even it out      origins.rs    applied exactly once
//!   security.rs    rules, credentials, quotas
//! ```

mod balance;
mod brokers;
mod change;
mod groups;
pub mod limits;
mod origins;
mod partitions;
mod place;
mod reassign;
pub(crate) mod security;
mod topics;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use change::{Applied, Change, DataLoss, Elected, Outcome, ProducerIdBlock};
pub(crate) use groups::{check_group_configs, checked_levels};
pub(crate) use origins::LastSequence;
use security::Security;
pub(crate) use topics::check_configs;

use crate::{Command, Endpoint, MetadataError, Partition, PartitionId, Payload, TopicConfig, collision_key};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name, unique.
    pub name: Arc<str>,
    /// Id, never used again.
    pub id: Uuid,
    /// Its partitions, at least 1; a partition's number is its place here.
    pub partitions: Vec<Partition>,
    /// Replicas that new partitions get.
    pub replication_factor: i16,
    /// Owned by the system.
    pub internal: bool,
    /// Configuration that differs from the defaults: key, canonical value.
    pub overrides: BTreeMap<&'static str, String>,
    /// The same, typed, with defaults filled in.
    pub config: TopicConfig,
    /// Where message ids are remembered: the partitions that there were when the first one was added to them.
    pub id_partitions: Option<i32>,
}

impl Topic {
    /// Number of partitions.
    #[must_use]
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// The partition with that number.
    #[must_use]
    pub fn partition(&self, number: i32) -> Option<&Partition> {
        usize::try_from(number).ok().and_then(|n| self.partitions.get(n))
    }

    /// Over how many of its partitions message ids are spread. It stays when partitions are added, as an id that goes to
    /// another partition than before would not be recognised there; until the window is set to 0.
    #[must_use]
    pub fn id_partition_count(&self) -> i32 {
        self.id_partitions.unwrap_or_else(|| self.partition_count())
    }

    /// `min.insync.replicas`, as it is set. What a partition requires is [`Partition::effective_min`].
    #[must_use]
    pub fn min_insync(&self) -> usize {
        usize::try_from(self.config.min_insync_replicas).unwrap_or(usize::MAX)
    }

    /// Its partitions with their names, in order.
    pub fn numbered(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        (0..).zip(&self.partitions).map(|(partition, p)| (PartitionId { topic: self.id, partition }, p))
    }
}

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Its id.
    pub node_id: i32,
    /// Random per process start.
    pub incarnation: Uuid,
    /// Id of its data directory.
    pub directory: Uuid,
    /// Host that other nodes connect to, and clients too where there are no endpoints.
    pub host: String,
    /// Port, likewise.
    pub port: u16,
    /// Failure domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Where clients connect, per name of a listener, if it has several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Has no session: leads nothing.
    pub fenced: bool,
    /// Stops soon: leads only what no other can.
    pub shutting_down: bool,
}

impl Broker {
    /// Where clients of that listener connect; none if this node has no such listener.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<(&str, u16)> {
        if self.endpoints.is_empty() {
            return Some((&self.host, self.port));
        }
        self.endpoints.get(listener).map(|at| (at.host.as_str(), at.port))
    }

    /// Whether it runs and means to go on: only then it gets new partitions and leaderships.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }
}

/// The whole state.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    // The only place that holds a topic's `Arc`, so that a change copies it only while a reader has it.
    topics: HashMap<Uuid, Arc<Topic>, RandomState>,
    by_name: HashMap<Arc<str>, Uuid, RandomState>,
    sorted: BTreeSet<Arc<str>>,
    collisions: HashMap<String, Uuid, RandomState>,
    partitions: usize,
    pub(crate) brokers: BTreeMap<i32, Broker>,
    pub(crate) origins: BTreeMap<i32, LastSequence>,
    pub(crate) cluster_id: Option<String>,
    pub(crate) next_producer_id: i64,
    /// Configuration entries of groups that differ from the defaults.
    pub(crate) group_configs: BTreeMap<String, BTreeMap<&'static str, String>>,
    /// Levels of features that differ from the defaults.
    pub(crate) features: BTreeMap<&'static str, i16>,
    /// Grows with each change of a level.
    pub(crate) features_epoch: i64,
    pub(crate) security: Security,
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.topics == other.topics
            && self.brokers == other.brokers
            && self.origins == other.origins
            && self.cluster_id == other.cluster_id
            && self.next_producer_id == other.next_producer_id
            && self.group_configs == other.group_configs
            && self.features == other.features
            && self.features_epoch == other.features_epoch
            && self.security == other.security
    }
}

/// Lookups.
impl Metadata {
    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name).and_then(|id| self.topics.get(id))
    }

    /// The topic with that id.
    #[must_use]
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// All topics by name, from the first name not below `from` on.
    pub fn topics_from<'a>(&'a self, from: &str) -> impl Iterator<Item = &'a Arc<Topic>> + use<'a> {
        self.sorted.range::<str, _>((Bound::Included(from), Bound::Unbounded)).filter_map(|name| self.topic(name))
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

    /// That partition.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<&Partition> {
        self.topics.get(&id.topic).and_then(|topic| topic.partition(id.partition))
    }

    /// All partitions, by the names of their topics.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Partition)> {
        self.topics_from("").flat_map(|topic| topic.numbered())
    }

    /// The partitions that the node leads. Walks all.
    pub fn partitions_led_by(&self, node_id: i32) -> impl Iterator<Item = (PartitionId, &Partition)> {
        self.partitions().filter(move |(_, p)| p.leader == Some(node_id))
    }

    /// The partitions that the node has a replica of. Walks all.
    pub fn partitions_on(&self, node_id: i32) -> impl Iterator<Item = (PartitionId, &Partition)> {
        self.partitions().filter(move |(_, p)| p.replicas.contains(&node_id))
    }

    /// `min.insync.replicas` of a topic; 1 for one that is not there. See [`Partition::effective_min`].
    #[must_use]
    pub fn min_insync(&self, topic: Uuid) -> usize {
        self.topics.get(&topic).map_or(1, |topic| topic.min_insync())
    }

    /// The registered nodes by id.
    #[must_use]
    pub fn brokers(&self) -> &BTreeMap<i32, Broker> {
        &self.brokers
    }

    /// That node.
    #[must_use]
    pub fn broker(&self, node_id: i32) -> Option<&Broker> {
        self.brokers.get(&node_id)
    }

    /// The nodes that run, by id.
    pub fn unfenced_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|b| !b.fenced)
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
}

/// Changes.
impl Metadata {
    /// Whether `apply` would refuse this command as a whole as things stand, without changing anything. What a command
    /// decides per partition is not refused as a whole.
    ///
    /// # Errors
    /// What [`Metadata::apply`] would answer.
    pub fn check(&self, command: &Command) -> Result<(), MetadataError> {
        match command {
            Command::CreateTopic { .. } => self.prepare_create(command.clone()).map(drop),
            Command::DeleteTopic { id } => self.known(*id).map(drop),
            Command::GrowTopic { id, partitions, assignment } => {
                self.prepare_growth(*id, *partitions, assignment.as_deref()).map(drop)
            }
            Command::AlterTopicConfigs { id, set } => self.altered(*id, set).map(drop),
            Command::AlterGroupConfigs { group, set } => self.altered_group(group, set).map(drop),
            Command::UpdateFeatures { levels } => checked_levels(levels).map(drop),
            Command::ReserveProducerIds { first, count } => self.check_block(*first, *count).map(drop),
            Command::SetClusterId { cluster_id } => self.check_cluster_id(cluster_id),
            Command::RegisterBroker { node_id, incarnation, directory, host, port: _, rack, endpoints } => {
                self.check_registration(*node_id, *incarnation, *directory, host, rack.as_deref(), endpoints)
            }
            Command::Fence { node_id, incarnation }
            | Command::Unfence { node_id, incarnation }
            | Command::BeginShutdown { node_id, incarnation }
            | Command::AlterPartitions { node_id, incarnation, .. }
            | Command::LoseReplica { node_id, incarnation, .. } => self.current(*node_id, *incarnation),
            Command::UnregisterBroker { node_id } => self.check_unused(*node_id),
            Command::CreateAcls { acls } => self.check_acls(acls),
            Command::SetScram { user, mechanism, credential } => self.check_scram(user, *mechanism, credential),
            Command::RemoveScram { user, mechanism } => self.check_scram_known(user, *mechanism),
            Command::AlterQuotas { entity, set } => self.check_quotas(entity, set),
            Command::ElectLeaders { .. } | Command::Reassign { .. } | Command::DeleteAcls { .. } => Ok(()),
        }
    }

    /// Applies a committed payload. Deterministic; a refused command changes nothing.
    pub fn apply(&mut self, payload: Payload) -> Applied {
        let Payload { origin, commands } = payload;
        let mut applied = Applied { origin, results: Vec::new(), touched: Vec::new(), skipped: false };
        if origin.is_some_and(|origin| !self.take_sequence(origin)) {
            applied.skipped = true;
            return applied;
        }
        for command in commands {
            let result = self.apply_command(command, &mut applied.touched);
            applied.results.push(result);
        }
        applied.touched.sort_unstable();
        applied.touched.dedup();
        applied
    }

    fn apply_command(&mut self, command: Command, touched: &mut Vec<PartitionId>) -> Result<Change, MetadataError> {
        match command {
            Command::CreateTopic { .. } => self.create_topic(command, touched),
            Command::DeleteTopic { id } => self.delete_topic(id, touched),
            Command::GrowTopic { id, partitions, assignment } => {
                self.grow_topic(id, partitions, assignment.as_deref(), touched)
            }
            Command::AlterTopicConfigs { id, set } => self.alter_configs(id, &set, touched),
            Command::AlterGroupConfigs { group, set } => self.alter_group_configs(group, &set),
            Command::UpdateFeatures { levels } => self.update_features(&levels),
            Command::ReserveProducerIds { first, count } => {
                self.next_producer_id = self.check_block(first, count)?;
                Ok(Change::ProducerIds(ProducerIdBlock { first, count }))
            }
            Command::SetClusterId { cluster_id } => {
                self.check_cluster_id(&cluster_id)?;
                self.cluster_id = Some(cluster_id);
                Ok(Change::ClusterNamed)
            }
            Command::RegisterBroker { node_id, incarnation, directory, host, port, rack, endpoints } => {
                let (fenced, shutting_down) = (true, false);
                let broker =
                    Broker { node_id, incarnation, directory, host, port, rack, endpoints, fenced, shutting_down };
                self.register(broker, touched)
            }
            Command::Fence { node_id, incarnation } => self.fence(node_id, incarnation, touched),
            Command::Unfence { node_id, incarnation } => self.unfence(node_id, incarnation, touched),
            Command::BeginShutdown { node_id, incarnation } => self.begin_shutdown(node_id, incarnation, touched),
            Command::UnregisterBroker { node_id } => self.unregister(node_id),
            Command::AlterPartitions { node_id, incarnation, changes } => {
                self.alter_partitions(node_id, incarnation, &changes, touched)
            }
            Command::ElectLeaders { partitions, unclean } => Ok(self.elect_leaders(partitions, unclean, touched)),
            Command::Reassign { partitions } => Ok(self.reassign(partitions, touched)),
            Command::CreateAcls { acls } => self.create_acls(acls),
            Command::DeleteAcls { filters } => Ok(self.delete_acls(&filters)),
            Command::SetScram { user, mechanism, credential } => self.set_scram(user, mechanism, credential),
            Command::RemoveScram { user, mechanism } => self.remove_scram(&user, mechanism),
            Command::AlterQuotas { entity, set } => self.alter_quotas(&entity, set),
            Command::LoseReplica { node_id, incarnation, partitions } => {
                self.lose_replicas(node_id, incarnation, partitions, touched)
            }
        }
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

    pub(crate) fn insert(&mut self, topic: Topic) {
        self.partitions += topic.partitions.len();
        self.collisions.insert(collision_key(&topic.name), topic.id);
        self.sorted.insert(Arc::clone(&topic.name));
        self.by_name.insert(Arc::clone(&topic.name), topic.id);
        self.topics.insert(topic.id, Arc::new(topic));
    }

    fn remove(&mut self, id: Uuid) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(&id)?;
        self.by_name.remove(&topic.name);
        self.sorted.remove(&topic.name);
        self.collisions.remove(&collision_key(&topic.name));
        self.partitions = self.partitions.saturating_sub(topic.partitions.len());
        Some(topic)
    }
}

#[cfg(test)]
mod tests;
