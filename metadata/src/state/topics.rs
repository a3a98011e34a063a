//! Topics: made, grown, configured, deleted. Checks first, then one change, so that a refusal changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Change, Metadata, Topic, limits, place};
use crate::{
    Command, MetadataError, Nodes, Partition, PartitionId, TopicConfig, check_name, collision_key, config_key,
};

impl Metadata {
    pub(super) fn known(&self, id: Uuid) -> Result<&Arc<Topic>, MetadataError> {
        self.topics.get(&id).ok_or(MetadataError::UnknownTopic(id))
    }

    pub(super) fn create_topic(
        &mut self,
        command: Command,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        let topic = self.prepare_create(command)?;
        let id = topic.id;
        touched.extend(topic.numbered().map(|(id, _)| id));
        self.insert(topic);
        Ok(Change::TopicCreated { id })
    }

    pub(super) fn delete_topic(&mut self, id: Uuid, touched: &mut Vec<PartitionId>) -> Result<Change, MetadataError> {
        let topic = self.remove(id).ok_or(MetadataError::UnknownTopic(id))?;
        touched.extend(topic.numbered().map(|(id, _)| id));
        Ok(Change::TopicDeleted { topic })
    }

    pub(super) fn grow_topic(
        &mut self,
        id: Uuid,
        partitions: i32,
        assignment: Option<&[Vec<i32>]>,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        let new = self.prepare_growth(id, partitions, assignment)?;
        let topic = self.topics.get_mut(&id).ok_or(MetadataError::UnknownTopic(id))?;
        let from = topic.partition_count();
        self.partitions += new.len();
        let topic = Arc::make_mut(topic);
        if topic.config.dedupe_window_ms.is_some() {
            topic.id_partitions.get_or_insert(from);
        }
        topic.partitions.extend(new);
        touched.extend((from..partitions).map(|partition| PartitionId { topic: id, partition }));
        Ok(Change::TopicGrown { id, from, to: partitions })
    }

    pub(super) fn alter_configs(
        &mut self,
        id: Uuid,
        set: &BTreeMap<String, Option<String>>,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        let overrides = self.altered(id, set)?;
        let topic = Arc::make_mut(self.topics.get_mut(&id).ok_or(MetadataError::UnknownTopic(id))?);
        topic.config = TopicConfig::from_overrides(&overrides);
        topic.overrides = overrides;
        topic.id_partitions = topic.id_partitions.filter(|_| topic.config.dedupe_window_ms.is_some());
        // A lower minimum lets fewer replicas commit: from this very command on nobody outside the set is eligible.
        let ids: Vec<PartitionId> = topic.numbered().map(|(id, _)| id).collect();
        for id in ids {
            self.change_partition(id, touched, |_, _| {});
        }
        Ok(Change::ConfigsAltered { id })
    }

    /// The topic as it would be made.
    pub(super) fn prepare_create(&self, command: Command) -> Result<Topic, MetadataError> {
        let Command::CreateTopic { name, id, partitions, replication_factor, configs, internal, assignment } = command
        else {
            return Err(MetadataError::InvalidRequest("this command makes no topic".into()));
        };
        self.check_new_name(&name)?;
        if id.is_nil() || self.topics.contains_key(&id) {
            return Err(MetadataError::TopicIdExists(id));
        }
        if self.topics.len() >= limits::MAX_TOPICS {
            return Err(MetadataError::LimitReached(format!("a cluster has at most {} topics", limits::MAX_TOPICS)));
        }
        let partitions = said_count(partitions, assignment.as_deref())?;
        self.check_room(0, partitions)?;
        let overrides = check_configs(&configs)?;
        let replicas = match &assignment {
            Some(lists) => self.assigned(lists, said_factor(replication_factor, lists)?)?,
            None => place::place(&self.brokers, id, 0..partitions, self.factor(replication_factor)?),
        };
        let factor = replicas.first().map_or(0, Nodes::len);
        Ok(Topic {
            name: Arc::from(name),
            id,
            partitions: self.new_partitions(&replicas),
            replication_factor: i16::try_from(factor).unwrap_or(i16::MAX),
            internal,
            config: TopicConfig::from_overrides(&overrides),
            overrides,
            id_partitions: None,
        })
    }

    /// The partitions that would be added.
    pub(super) fn prepare_growth(
        &self,
        id: Uuid,
        partitions: i32,
        assignment: Option<&[Vec<i32>]>,
    ) -> Result<Vec<Partition>, MetadataError> {
        let topic = self.known(id)?;
        let from = topic.partition_count();
        if partitions <= from {
            return Err(MetadataError::InvalidPartitions(format!(
                "the topic '{}' has {from} partitions already; their number can only grow, {partitions} were asked for",
                topic.name
            )));
        }
        self.check_room(from, partitions)?;
        let factor = usize::try_from(topic.replication_factor).unwrap_or(1);
        let replicas = match assignment {
            Some(lists) if usize::try_from(partitions - from) != Ok(lists.len()) => {
                return Err(MetadataError::InvalidReplicaAssignment(format!(
                    "{} new partitions need as many lists of replicas, not {}",
                    partitions - from,
                    lists.len()
                )));
            }
            Some(lists) => self.assigned(lists, factor)?,
            None => {
                self.factor(topic.replication_factor)?;
                place::place(&self.brokers, id, from..partitions, factor)
            }
        };
        Ok(self.new_partitions(&replicas))
    }

    fn new_partitions(&self, replicas: &[Nodes]) -> Vec<Partition> {
        replicas.iter().map(|nodes| Partition::new(nodes, &self.brokers)).collect()
    }

    fn check_new_name(&self, name: &str) -> Result<(), MetadataError> {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            return Err(MetadataError::TopicExists(name.to_owned()));
        }
        match self.collisions.get(&collision_key(name)).and_then(|id| self.topics.get(id)) {
            Some(other) => Err(MetadataError::InvalidTopicName(format!(
                "the topic name '{name}' collides with '{}': names must differ in more than '.' and '_'",
                other.name
            ))),
            None => Ok(()),
        }
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

    /// The number of replicas meant: -1 is the default. Nodes that don't run count too: a topic that is made while one of
    /// them restarts must not have fewer replicas for ever.
    fn factor(&self, asked: i16) -> Result<usize, MetadataError> {
        let nodes = self.brokers.len().min(limits::MAX_REPLICAS);
        let factor = match asked {
            -1 => nodes.min(limits::DEFAULT_REPLICAS),
            asked => usize::try_from(asked).unwrap_or(0),
        };
        let has_leader = self.brokers.values().any(super::Broker::is_active);
        if has_leader && (1..=nodes).contains(&factor) { Ok(factor) } else { Err(self.too_many_replicas(asked)) }
    }

    fn too_many_replicas(&self, asked: i16) -> MetadataError {
        MetadataError::InvalidReplicationFactor(format!(
            "a replication factor of {asked} can't be had: {} nodes are registered, {} of them running and not shutting \
             down, and a partition has from 1 to {} replicas, each on a node of its own, one of them running",
            self.brokers.len(),
            self.brokers.values().filter(|b| b.is_active()).count(),
            limits::MAX_REPLICAS
        ))
    }

    /// The replicas that someone chose, if they can be.
    fn assigned(&self, lists: &[Vec<i32>], factor: usize) -> Result<Vec<Nodes>, MetadataError> {
        lists.iter().map(|list| self.assigned_one(list, factor)).collect()
    }

    fn assigned_one(&self, list: &[i32], factor: usize) -> Result<Nodes, MetadataError> {
        place::check_list(&self.brokers, list)?;
        let wrong = |why: String| Err(MetadataError::InvalidReplicaAssignment(why));
        if list.len() != factor {
            return wrong(format!("{list:?} are not {factor} replicas, as the topic's other partitions have"));
        }
        if !list.iter().any(|n| self.brokers.get(n).is_some_and(super::Broker::is_active)) {
            return wrong(format!("none of the nodes {list:?} runs, so the partition would have no leader"));
        }
        Ok(list.into())
    }

    pub(super) fn altered(
        &self,
        id: Uuid,
        set: &BTreeMap<String, Option<String>>,
    ) -> Result<BTreeMap<&'static str, String>, MetadataError> {
        let mut overrides = self.known(id)?.overrides.clone();
        for (name, value) in set {
            match value {
                Some(value) => {
                    let key = known_key(name)?;
                    overrides.insert(key.name, key.check(value)?);
                }
                // Nobody has set what nobody knows: it has its default already.
                None => drop(overrides.remove(name.as_str())),
            }
        }
        Ok(overrides)
    }
}

fn said_count(partitions: i32, assignment: Option<&[Vec<i32>]>) -> Result<i32, MetadataError> {
    let count = match assignment {
        Some(lists) => i32::try_from(lists.len()).unwrap_or(i32::MAX),
        None => partitions,
    };
    if partitions != count && partitions != -1 {
        return Err(MetadataError::InvalidReplicaAssignment(format!(
            "{partitions} partitions were asked for, but replicas given for {count}"
        )));
    }
    if count < 1 {
        return Err(MetadataError::InvalidPartitions(format!("a topic needs at least 1 partition, not {count}")));
    }
    Ok(count)
}

fn said_factor(asked: i16, lists: &[Vec<i32>]) -> Result<usize, MetadataError> {
    let factor = lists.first().map_or(0, Vec::len);
    if asked != -1 && usize::try_from(asked) != Ok(factor) {
        return Err(MetadataError::InvalidReplicationFactor(format!(
            "a replication factor of {asked} was asked for, but {factor} replicas given"
        )));
    }
    Ok(factor)
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
