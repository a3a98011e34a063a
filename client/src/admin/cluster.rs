//! Admin calls about the cluster itself: its nodes, its metadata quorum, who leads and where replicas are.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::describe_quorum_response::ReplicaState;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, DescribeClusterRequest, DescribeQuorumRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest,
};

use super::each::{Outcomes, each, once, unmentioned};
use super::topics::outcome;
use super::{Admin, Each, Election, NodeDescription, QuorumDescription, QuorumMember, Reassignment};
use crate::cluster::{Target, codes};
use crate::error::Result;
use crate::record::TopicPartition;
use crate::retry::{self, Attempt};
use crate::text::{shared, topic_name};

const METADATA_TOPIC: &str = "__cluster_metadata";
/// The broker had nothing to do: it is as was asked.
const ELECTION_NOT_NEEDED: i16 = 84;
/// First version of DescribeCluster that tells of nodes that don't run.
const FENCED_FROM: i16 = 2;

impl Admin {
    /// Every node that the cluster knows, whether it runs or not.
    ///
    /// # Errors
    /// Where no broker answers.
    pub async fn nodes(&self) -> Result<Vec<NodeDescription>> {
        const WHAT: &str = "describe cluster";
        let build = |version| {
            DescribeClusterRequest::default().with_endpoint_type(1).with_include_fenced_brokers(version >= FENCED_FROM)
        };
        let config = &self.cluster.config;
        let attempt = || async {
            let (answer, _) = self.cluster.ask_version(&Target::Any, WHAT, build).await?;
            outcome(WHAT, answer.error_code, answer.error_message.as_deref())?;
            Ok(answer)
        };
        let answer = retry::retry(config, WHAT, config.call_timeout, attempt).await?;
        let mut nodes: Vec<NodeDescription> = answer
            .brokers
            .iter()
            .map(|b| NodeDescription {
                id: b.broker_id.0,
                host: shared(&b.host),
                port: u16::try_from(b.port).unwrap_or(0),
                rack: b.rack.as_ref().map(shared),
                fenced: b.is_fenced,
            })
            .collect();
        nodes.sort_by_key(|node| node.id);
        Ok(nodes)
    }

    /// The quorum that decides on metadata.
    ///
    /// # Errors
    /// Where no broker answers, or the quorum has no leader.
    pub async fn quorum(&self) -> Result<QuorumDescription> {
        const WHAT: &str = "describe quorum";
        let topic = TopicData::default()
            .with_topic_name(topic_name(METADATA_TOPIC))
            .with_partitions(vec![PartitionData::default()]);
        let request = DescribeQuorumRequest::default().with_topics(vec![topic]);
        let config = &self.cluster.config;
        let attempt = || async {
            let answer = self.cluster.ask(&Target::Any, WHAT, &request).await?;
            outcome(WHAT, answer.error_code, answer.error_message.as_deref())?;
            let Some(partition) = answer.topics.first().and_then(|topic| topic.partitions.first()) else {
                return Err(Attempt::Unknown("the broker left it out of its answer".into()));
            };
            outcome(WHAT, partition.error_code, partition.error_message.as_deref())?;
            Ok(QuorumDescription {
                leader: partition.leader_id.0,
                term: partition.leader_epoch,
                committed: partition.high_watermark,
                voters: partition.current_voters.iter().map(member).collect(),
                observers: partition.observers.iter().map(member).collect(),
            })
        };
        retry::retry(config, WHAT, config.call_timeout, attempt).await
    }

    /// Elects leaders of these partitions, or of all that need it; answers with those for which something was decided.
    /// One that has the leader it should have counts as done.
    ///
    /// [`Election::Unclean`] may lose messages that were acknowledged.
    ///
    /// # Errors
    /// Where no broker answers; each partition has its own outcome.
    pub async fn elect_leaders(
        &self,
        election: Election,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Each<TopicPartition, ()>> {
        const WHAT: &str = "elect leader";
        let kind = match election {
            Election::Preferred => 0,
            Election::Unclean => 1,
        };
        let Some(partitions) = partitions else {
            let config = &self.cluster.config;
            let attempt = || self.elect(WHAT, kind, None);
            let all = retry::retry(config, WHAT, config.call_timeout, attempt).await?;
            return Ok(all.into_iter().map(|(at, result)| (at, once(result, WHAT, config))).collect());
        };
        let one = async |pending: Vec<TopicPartition>| -> Outcomes<()> {
            let mut found: HashMap<TopicPartition, _> =
                self.elect(WHAT, kind, Some(&pending)).await?.into_iter().collect();
            Ok(pending.iter().map(|at| found.remove(at).unwrap_or_else(unmentioned)).collect())
        };
        let done = each(&self.cluster.config, WHAT, partitions.to_vec(), one).await?;
        self.cluster.refresh_metadata();
        Ok(done)
    }

    async fn elect(
        &self,
        what: &'static str,
        kind: i8,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Vec<(TopicPartition, Result<(), Attempt>)>, Attempt> {
        let topic = |(name, numbers): (&str, Vec<i32>)| {
            TopicPartitions::default().with_topic(topic_name(name)).with_partitions(numbers)
        };
        let asked = partitions.map(|list| by_topic(list.iter().map(|at| (at, at.partition))));
        let request = ElectLeadersRequest::default()
            .with_election_type(kind)
            .with_timeout_ms(self.timeout_ms())
            .with_topic_partitions(asked.map(|topics| topics.into_iter().map(topic).collect()));
        let answer = self.cluster.ask(&Target::Controller, what, &request).await?;
        outcome(what, answer.error_code, None)?;
        let all = answer.replica_election_results.iter().flat_map(|t| t.partition_result.iter().map(|p| (&t.topic, p)));
        let of = |(topic, p): (&kafka_protocol::messages::TopicName, _)| {
            let p: &kafka_protocol::messages::elect_leaders_response::PartitionResult = p;
            let at = TopicPartition::new(shared(topic), p.partition_id);
            let done = match p.error_code {
                ELECTION_NOT_NEEDED => Ok(()),
                code => decided(&format!("{what} of {at}"), code, p.error_message.as_deref()),
            };
            (at, done)
        };
        Ok(all.map(of).collect())
    }

    /// Gives partitions other replicas, the preferred leader first; `None` cancels what is under way. Answers when the
    /// moves have begun: see [`Admin::reassignments`] for how far they are.
    ///
    /// # Errors
    /// Where no broker answers; each partition has its own outcome.
    pub async fn reassign(&self, moves: &[(TopicPartition, Option<Vec<i32>>)]) -> Result<Each<TopicPartition, ()>> {
        const WHAT: &str = "reassign";
        let one = async |pending: Vec<(TopicPartition, Option<Vec<i32>>)>| -> Outcomes<()> {
            let partition = |at: &TopicPartition, to: &Option<Vec<i32>>| {
                ReassignablePartition::default()
                    .with_partition_index(at.partition)
                    .with_replicas(to.as_ref().map(|nodes| nodes.iter().map(|n| BrokerId(*n)).collect()))
            };
            let topics = by_topic(pending.iter().map(|(at, to)| (at, partition(at, to))));
            let topic = |(name, partitions): (&str, Vec<_>)| {
                ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions)
            };
            let request = AlterPartitionReassignmentsRequest::default()
                .with_timeout_ms(self.timeout_ms())
                .with_topics(topics.into_iter().map(topic).collect());
            let answer = self.cluster.ask(&Target::Controller, WHAT, &request).await?;
            outcome(WHAT, answer.error_code, answer.error_message.as_deref())?;
            let all = answer.responses.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p)));
            let found: HashMap<_, _> = all.map(|(name, p)| ((name, p.partition_index), p)).collect();
            let of = |(at, _): &(TopicPartition, _)| match found.get(&(&*at.topic, at.partition)) {
                Some(p) => decided(&format!("{WHAT} {at}"), p.error_code, p.error_message.as_deref()),
                None => unmentioned(),
            };
            Ok(pending.iter().map(of).collect())
        };
        let done = each(&self.cluster.config, WHAT, moves.to_vec(), one).await?;
        self.cluster.refresh_metadata();
        Ok(done.into_iter().map(|((at, _), result)| (at, result)).collect())
    }

    /// The reassignments that are under way, by topic and partition.
    ///
    /// # Errors
    /// Where no broker answers.
    pub async fn reassignments(&self) -> Result<Vec<Reassignment>> {
        const WHAT: &str = "list reassignments";
        let request = ListPartitionReassignmentsRequest::default().with_timeout_ms(self.timeout_ms()).with_topics(None);
        let config = &self.cluster.config;
        let attempt = || async {
            let answer = self.cluster.ask(&Target::Controller, WHAT, &request).await?;
            outcome(WHAT, answer.error_code, answer.error_message.as_deref())?;
            Ok(answer)
        };
        let answer = retry::retry(config, WHAT, config.call_timeout, attempt).await?;
        let all = answer.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p)));
        let ids = |nodes: &[BrokerId]| nodes.iter().map(|node| node.0).collect();
        let mut found: Vec<Reassignment> = all
            .map(|(topic, p)| Reassignment {
                at: TopicPartition::new(shared(&topic.name), p.partition_index),
                replicas: ids(&p.replicas),
                adding: ids(&p.adding_replicas),
                removing: ids(&p.removing_replicas),
            })
            .collect();
        found.sort_by(|a, b| (&a.at.topic, a.at.partition).cmp(&(&b.at.topic, b.at.partition)));
        Ok(found)
    }
}

/// As [`outcome`], where an unknown partition is final: it was asked for by name.
fn decided(what: &str, code: i16, message: Option<&str>) -> Result<(), Attempt> {
    match codes::error(code) {
        Some(error @ kafka_protocol::ResponseError::UnknownTopicOrPartition) => {
            Err(Attempt::Fail(codes::rejected(what, error, Some(what))))
        }
        Some(error) => Err(codes::attempt(what, error, message)),
        None => Ok(()),
    }
}

fn by_topic<'a, T>(items: impl Iterator<Item = (&'a TopicPartition, T)>) -> BTreeMap<&'a str, Vec<T>> {
    let mut topics: BTreeMap<&str, Vec<T>> = BTreeMap::new();
    for (at, item) in items {
        topics.entry(&*at.topic).or_default().push(item);
    }
    topics
}

fn member(state: &ReplicaState) -> QuorumMember {
    QuorumMember {
        id: state.replica_id.0,
        directory: state.replica_directory_id,
        log_end: (state.log_end_offset >= 0).then_some(state.log_end_offset),
    }
}
