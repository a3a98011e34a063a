//! What is known of brokers, topics and leaders. Pure: an answer comes in, the next state goes out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::MetadataResponse;
use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use uuid::Uuid;
use wherry_wire::codec::dedupe::TopicIds;

use crate::net::Address;
use crate::record::DedupeWindow;

/// A live broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    pub(crate) id: i32,
    pub(crate) address: Address,
    pub(crate) rack: Option<Arc<str>>,
}

/// A partition and its leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PartitionMeta {
    pub(crate) partition: i32,
    /// -1: nobody at the moment.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
    pub(crate) offline: Vec<i32>,
}

/// A topic that exists. Partitions are ordered by index and have no gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicMeta {
    pub(crate) name: Arc<str>,
    pub(crate) id: Uuid,
    pub(crate) internal: bool,
    pub(crate) partitions: Vec<PartitionMeta>,
    /// What it does with message ids; `None` where they mean nothing.
    pub(crate) dedupe: Option<DedupeWindow>,
}

impl TopicMeta {
    pub(crate) fn partition(&self, index: i32) -> Option<&PartitionMeta> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// A topic as last heard of.
pub(crate) type Known = Result<Arc<TopicMeta>, ResponseError>;

/// A state of the cache; replaced whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    /// Counts answers.
    pub(crate) version: u64,
    pub(crate) cluster_id: Option<Arc<str>>,
    pub(crate) controller: Option<i32>,
    pub(crate) brokers: HashMap<i32, Broker>,
    pub(crate) topics: HashMap<Arc<str>, Known>,
}

impl Metadata {
    /// The topic, if it is known to exist.
    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)?.as_ref().ok()
    }

    /// Whether nothing but the count of answers differs.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let parts = |m: &Self| (m.cluster_id.clone(), m.controller);
        parts(self) == parts(other) && self.brokers == other.brokers && self.topics == other.topics
    }

    /// The leader of a partition and its address, if there is one.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<&Broker> {
        self.brokers.get(&self.topic(topic)?.partition(partition)?.leader)
    }

    /// The state after an answer. Topics that it does not speak of stay; a leadership older than the one known is not believed.
    pub(crate) fn after(&self, answer: &MetadataResponse) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.cluster_id = answer.cluster_id.as_ref().map(|id| id.as_str().into()).or(next.cluster_id);
        next.brokers = answer.brokers.iter().filter_map(broker).map(|b| (b.id, b)).collect();
        next.controller = Some(answer.controller_id.0).filter(|id| next.brokers.contains_key(id));
        for topic in &answer.topics {
            let Some(name) = topic.name.as_ref().map(|n| Arc::<str>::from(n.as_str())) else { continue };
            let before = self.topic(&name);
            next.topics.insert(name.clone(), known(topic, name, before.map(Arc::as_ref)));
        }
        next
    }
}

fn broker(b: &kafka_protocol::messages::metadata_response::MetadataResponseBroker) -> Option<Broker> {
    let address = Address { host: b.host.as_str().into(), port: u16::try_from(b.port).ok()? };
    Some(Broker { id: b.node_id.0, address, rack: b.rack.as_ref().map(|r| r.as_str().into()) })
}

pub(crate) fn known(topic: &MetadataResponseTopic, name: Arc<str>, before: Option<&TopicMeta>) -> Known {
    if let Some(error) = ResponseError::try_from_code(topic.error_code) {
        return Err(error);
    }
    let before = before.filter(|b| b.id == topic.topic_id);
    let mut partitions: Vec<_> = topic.partitions.iter().map(|p| partition(p, before)).collect();
    partitions.sort_by_key(|p| p.partition);
    let contiguous = partitions.iter().zip(0..).all(|(p, i)| p.partition == i);
    if partitions.is_empty() || !contiguous {
        return Err(ResponseError::LeaderNotAvailable);
    }
    let dedupe = TopicIds::read(&topic.unknown_tagged_fields).map(|ids| {
        let window = Duration::from_millis(ids.window_ms);
        DedupeWindow { window, partitions: ids.partitions.min(i32::try_from(partitions.len()).unwrap_or(i32::MAX)) }
    });
    Ok(Arc::new(TopicMeta { name, id: topic.topic_id, internal: topic.is_internal, partitions, dedupe }))
}

fn partition(p: &MetadataResponsePartition, before: Option<&TopicMeta>) -> PartitionMeta {
    let ids = |list: &[kafka_protocol::messages::BrokerId]| list.iter().map(|b| b.0).collect();
    let mut partition = PartitionMeta {
        partition: p.partition_index,
        leader: p.leader_id.0,
        leader_epoch: p.leader_epoch,
        replicas: ids(&p.replica_nodes),
        in_sync: ids(&p.isr_nodes),
        offline: ids(&p.offline_replicas),
    };
    if let Some(known) = before.and_then(|t| t.partition(p.partition_index))
        && known.leader_epoch > partition.leader_epoch
    {
        partition.leader = known.leader;
        partition.leader_epoch = known.leader_epoch;
    }
    partition
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
    use kafka_protocol::messages::{BrokerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    fn answer(leader: i32, epoch: i32, id: u128) -> MetadataResponse {
        let partition = MetadataResponsePartition::default()
            .with_partition_index(0)
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(epoch);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_topic_id(Uuid::from_u128(id))
            .with_partitions(vec![partition]);
        let broker = |id| {
            let host = StrBytes::from_static_str("h");
            MetadataResponseBroker::default().with_node_id(BrokerId(id)).with_host(host).with_port(9092)
        };
        MetadataResponse::default().with_brokers(vec![broker(1), broker(2)]).with_topics(vec![topic])
    }

    #[test]
    fn an_older_leadership_is_not_believed() {
        let now = Metadata::default().after(&answer(2, 5, 1));
        assert_eq!(now.leader("t", 0).unwrap().id, 2);
        assert_eq!(now.after(&answer(1, 4, 1)).leader("t", 0).unwrap().id, 2);
        assert_eq!(now.after(&answer(1, 6, 1)).leader("t", 0).unwrap().id, 1);
    }

    #[test]
    fn a_topic_made_anew_starts_over() {
        let now = Metadata::default().after(&answer(2, 5, 1));
        assert_eq!(now.after(&answer(1, 0, 2)).leader("t", 0).unwrap().id, 1);
    }

    #[test]
    fn errors_and_gaps_are_no_topic() {
        let mut gone = answer(1, 1, 1);
        gone.topics[0].error_code = 3;
        assert!(Metadata::default().after(&gone).topic("t").is_none());
        let mut gap = answer(1, 1, 1);
        gap.topics[0].partitions[0].partition_index = 1;
        assert!(Metadata::default().after(&gap).topic("t").is_none());
    }
}
