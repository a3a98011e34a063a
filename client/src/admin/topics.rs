//! Admin calls about topics and the cluster.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, MetadataRequest,
    MetadataResponse,
};

use super::each::{Outcomes, each, unmentioned};
use super::{
    Admin, BrokerDescription, ClusterDescription, Each, NewTopic, PartitionDescription, TopicDescription, TopicListing,
};
use crate::cluster::{Broker, Metadata, PartitionMeta, Target, TopicMeta, codes, known};
use crate::error::Result;
use crate::record::TopicPartition;
use crate::retry::{self, Attempt};
use crate::text::{shared, text, topic_name};

/// An item's outcome from its error code.
pub(super) fn outcome(what: &str, code: i16, message: Option<&str>) -> Result<(), Attempt> {
    codes::error(code).map_or(Ok(()), |error| Err(codes::attempt(what, error, message)))
}

/// As [`outcome`], where an unknown topic is final: it was asked for by name.
fn named(what: &str, name: &str, code: i16, message: Option<&str>) -> Result<(), Attempt> {
    match codes::error(code) {
        Some(error @ ResponseError::UnknownTopicOrPartition) => {
            Err(Attempt::Fail(codes::rejected(what, error, Some(name))))
        }
        Some(error) => Err(codes::attempt(&format!("{what} {name}"), error, message)),
        None => Ok(()),
    }
}

fn names(of: &[&str]) -> Vec<Arc<str>> {
    of.iter().map(|n| Arc::from(*n)).collect()
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let config = |(name, value): &(String, String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let assignment = |(index, nodes): (i32, &Vec<i32>)| {
        let nodes = nodes.iter().copied().map(BrokerId).collect();
        CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(nodes)
    };
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_assignments((0..).zip(&topic.assignment).map(assignment).collect())
        .with_num_partitions(topic.partitions.unwrap_or(-1))
        .with_replication_factor(topic.replication.unwrap_or(-1))
        .with_configs(topic.configs.iter().map(config).collect())
}

impl Admin {
    pub(super) fn timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.config.request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// The brokers, and who controls.
    ///
    /// # Errors
    /// Where no broker answers.
    pub async fn cluster(&self) -> Result<ClusterDescription> {
        let metadata = Metadata::default().after(&self.metadata(Some(Vec::new())).await?);
        let describe = |b: &Broker| BrokerDescription {
            id: b.id,
            host: b.address.host.clone(),
            port: b.address.port,
            rack: b.rack.clone(),
        };
        let mut brokers: Vec<_> = metadata.brokers.values().map(describe).collect();
        brokers.sort_by_key(|b| b.id);
        Ok(ClusterDescription { cluster_id: metadata.cluster_id, controller: metadata.controller, brokers })
    }

    /// Fresh metadata of these topics, or of all; creates none.
    async fn metadata(&self, topics: Option<Vec<Arc<str>>>) -> Result<MetadataResponse> {
        const WHAT: &str = "metadata";
        let one = |name: &Arc<str>| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let topics = topics.map(|t| t.iter().map(one).collect());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let config = &self.cluster.config;
        retry::retry(config, WHAT, config.call_timeout, || self.cluster.ask_for_metadata(&request)).await
    }

    /// Creates topics; `validate_only` just says what would happen.
    ///
    /// # Errors
    /// Where no broker answers; each topic has its own outcome.
    pub async fn create_topics(&self, topics: &[NewTopic], validate_only: bool) -> Result<Each<Arc<str>, ()>> {
        const WHAT: &str = "create topic";
        let one = async |pending: Vec<NewTopic>| {
            let request = CreateTopicsRequest::default()
                .with_topics(pending.iter().map(creatable).collect())
                .with_timeout_ms(self.timeout_ms())
                .with_validate_only(validate_only);
            let answer = self.cluster.ask(&Target::Controller, WHAT, &request).await?;
            let by_name: HashMap<&str, _> = answer.topics.iter().map(|t| (t.name.as_str(), t)).collect();
            let of = |topic: &NewTopic| match by_name.get(&*topic.name) {
                Some(t) => outcome(&format!("{WHAT} {}", topic.name), t.error_code, t.error_message.as_deref()),
                None => unmentioned(),
            };
            Ok(pending.iter().map(of).collect())
        };
        let done = each(&self.cluster.config, WHAT, topics.to_vec(), one).await?;
        self.cluster.refresh_metadata();
        Ok(done.into_iter().map(|(topic, result)| (topic.name, result)).collect())
    }

    /// Deletes topics and their data.
    ///
    /// # Errors
    /// Where no broker answers; each topic has its own outcome.
    pub async fn delete_topics(&self, topics: &[&str]) -> Result<Each<Arc<str>, ()>> {
        const WHAT: &str = "delete topic";
        let one = async |pending: Vec<Arc<str>>| {
            let state = |n: &Arc<str>| DeleteTopicState::default().with_name(Some(topic_name(n)));
            let build = |version: i16| {
                let request = DeleteTopicsRequest::default().with_timeout_ms(self.timeout_ms());
                match version {
                    ..6 => request.with_topic_names(pending.iter().map(|n| topic_name(n)).collect()),
                    6.. => request.with_topics(pending.iter().map(state).collect()),
                }
            };
            let (answer, _) = self.cluster.ask_version(&Target::Controller, WHAT, build).await?;
            let named_one = |t: &'_ kafka_protocol::messages::delete_topics_response::DeletableTopicResult| {
                t.name.as_ref().map(|n| shared(n))
            };
            let by_name: HashMap<_, _> = answer.responses.iter().filter_map(|t| Some((named_one(t)?, t))).collect();
            let of = |name: &Arc<str>| match by_name.get(name) {
                Some(t) => named(WHAT, name, t.error_code, t.error_message.as_deref()),
                None => unmentioned(),
            };
            Ok(pending.iter().map(of).collect())
        };
        let done = each(&self.cluster.config, WHAT, names(topics), one).await?;
        self.cluster.refresh_metadata();
        Ok(done)
    }

    /// Raises the number of partitions to a new total.
    ///
    /// # Errors
    /// Where no broker answers; each topic has its own outcome.
    pub async fn create_partitions(&self, totals: &[(&str, i32)]) -> Result<Each<Arc<str>, ()>> {
        const WHAT: &str = "create partitions";
        let items: Vec<(Arc<str>, i32)> = totals.iter().map(|(n, total)| (Arc::from(*n), *total)).collect();
        let one = async |pending: Vec<(Arc<str>, i32)>| {
            let topic = |(name, total): &(Arc<str>, i32)| {
                CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(*total).with_assignments(None)
            };
            let request = CreatePartitionsRequest::default()
                .with_topics(pending.iter().map(topic).collect())
                .with_timeout_ms(self.timeout_ms());
            let answer = self.cluster.ask(&Target::Controller, WHAT, &request).await?;
            let by_name: HashMap<&str, _> = answer.results.iter().map(|t| (t.name.as_str(), t)).collect();
            let of = |(name, _): &(Arc<str>, i32)| match by_name.get(&**name) {
                Some(t) => named(WHAT, name, t.error_code, t.error_message.as_deref()),
                None => unmentioned(),
            };
            Ok(pending.iter().map(of).collect())
        };
        let done = each(&self.cluster.config, WHAT, items, one).await?;
        self.cluster.refresh_metadata();
        Ok(done.into_iter().map(|((name, _), result)| (name, result)).collect())
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// Where no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        let answer = self.metadata(None).await?;
        let listing = |t: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| {
            Some(TopicListing {
                name: shared(t.name.as_ref()?),
                id: t.topic_id,
                internal: t.is_internal,
                partitions: t.partitions.len(),
            })
        };
        let mut topics: Vec<_> = answer.topics.iter().filter_map(listing).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Topics in full; never creates one.
    ///
    /// # Errors
    /// Where no broker answers; each topic has its own outcome.
    pub async fn describe_topics(&self, topics: &[&str]) -> Result<Each<Arc<str>, TopicDescription>> {
        const WHAT: &str = "describe topic";
        let one = async |pending: Vec<Arc<str>>| -> Outcomes<TopicDescription> {
            let answer = self.metadata(Some(pending.clone())).await?;
            let find =
                |name: &Arc<str>| answer.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == &**name));
            let of = |name: &Arc<str>| {
                let Some(topic) = find(name) else { return unmentioned() };
                named(WHAT, name, topic.error_code, None)?;
                match known(topic, name.clone(), None) {
                    Ok(meta) => Ok(describe(&meta)),
                    Err(error) => Err(codes::attempt(WHAT, error, Some(name))),
                }
            };
            Ok(pending.iter().map(of).collect())
        };
        each(&self.cluster.config, WHAT, names(topics), one).await
    }

    /// Deletes records before an offset (-1: all there are); answers with the new first offset.
    ///
    /// # Errors
    /// Where no broker answers; each partition has its own outcome.
    pub async fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<Each<TopicPartition, i64>> {
        const WHAT: &str = "delete records";
        let one = async |pending: Vec<(TopicPartition, i64)>| {
            let place = |item: &(TopicPartition, i64)| item.0.clone();
            let ask = |leader, items: Vec<(TopicPartition, i64)>| -> BoxFuture<'_, Outcomes<i64>> {
                Box::pin(async move {
                    let partition = |(at, offset): &(TopicPartition, i64)| {
                        DeleteRecordsTopic::default().with_name(topic_name(&at.topic)).with_partitions(vec![
                            DeleteRecordsPartition::default().with_partition_index(at.partition).with_offset(*offset),
                        ])
                    };
                    let request = DeleteRecordsRequest::default()
                        .with_topics(items.iter().map(partition).collect())
                        .with_timeout_ms(self.timeout_ms());
                    let answer = self.cluster.ask(&Target::Broker(leader), WHAT, &request).await?;
                    let all = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p)));
                    let found: HashMap<_, _> = all.map(|(name, p)| ((name, p.partition_index), p)).collect();
                    let of = |(at, _): &(TopicPartition, i64)| match found.get(&(&*at.topic, at.partition)) {
                        Some(p) => outcome(&format!("{WHAT} of {at}"), p.error_code, None).map(|()| p.low_watermark),
                        None => unmentioned(),
                    };
                    Ok(items.iter().map(of).collect())
                })
            };
            self.at_leaders(WHAT, &pending, place, ask).await
        };
        let done = each(&self.cluster.config, WHAT, before.to_vec(), one).await?;
        Ok(done.into_iter().map(|((at, _), result)| (at, result)).collect())
    }

    /// One attempt that asks each leader about its partitions.
    pub(super) async fn at_leaders<'a, I: Clone, T>(
        &self,
        what: &'static str,
        items: &[I],
        place: impl Fn(&I) -> TopicPartition,
        ask: impl Fn(i32, Vec<I>) -> BoxFuture<'a, Outcomes<T>>,
    ) -> Outcomes<T> {
        let mut by_leader: HashMap<i32, Vec<usize>> = HashMap::new();
        let mut outcomes: Vec<Result<T, Attempt>> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            outcomes.push(match self.leader(what, &place(item)).await {
                Ok(leader) => {
                    by_leader.entry(leader).or_default().push(index);
                    unmentioned()
                }
                Err(failed) => Err(failed),
            });
        }
        for (leader, indexes) in by_leader {
            let asked = indexes.iter().filter_map(|i| items.get(*i).cloned()).collect();
            let answers = match ask(leader, asked).await {
                Ok(answers) => answers,
                Err(failed) => indexes.iter().map(|_| Err(failed.clone())).collect(),
            };
            for (index, answer) in indexes.into_iter().zip(answers) {
                if answer.is_err() {
                    self.cluster.refresh_metadata();
                }
                if let Some(outcome) = outcomes.get_mut(index) {
                    *outcome = answer;
                }
            }
        }
        Ok(outcomes)
    }

    async fn leader(&self, what: &str, at: &TopicPartition) -> Result<i32, Attempt> {
        let topic = self.cluster.topic(what, &at.topic, false).await?;
        let Some(partition) = topic.partition(at.partition) else {
            let topic = at.to_string().into();
            return Err(Attempt::Fail(crate::error::ClientError::NoSuchTopic { what: what.into(), topic }));
        };
        if partition.leader < 0 {
            self.cluster.refresh_metadata();
            return Err(Attempt::again(format!("{at} has no leader at the moment")));
        }
        Ok(partition.leader)
    }
}

fn describe(topic: &TopicMeta) -> TopicDescription {
    let partition = |p: &PartitionMeta| PartitionDescription {
        partition: p.partition,
        leader: (p.leader >= 0).then_some(p.leader),
        leader_epoch: p.leader_epoch,
        replicas: p.replicas.clone(),
        in_sync: p.in_sync.clone(),
        offline: p.offline.clone(),
    };
    TopicDescription {
        name: topic.name.clone(),
        id: topic.id,
        internal: topic.internal,
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}
