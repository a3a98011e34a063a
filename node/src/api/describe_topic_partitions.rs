//! DescribeTopicPartitions (KIP-966): topics by name order, a bounded number of partitions per response, and a cursor.

use super::metadata::nodes;
use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_DESCRIBED_PARTITIONS;
use wherry_metadata::acl::{Operation, ResourceType};
use wherry_metadata::{Partition, Topic};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use wherry_wire::codec::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

/// Answers from the cursor on.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeTopicPartitionsRequest) -> Outcome {
    let asked = usize::try_from(request.response_partition_limit).unwrap_or(0).max(1);
    let mut room = asked.min(MAX_DESCRIBED_PARTITIONS);
    let (from, first) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index.max(0)),
        None => (String::new(), 0),
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    for (name, topic) in wanted(core, ctx, request, &from, asked) {
        if room == 0 {
            response.next_cursor = Some(cursor(&name, 0));
            break;
        }
        let Some(topic) = topic else {
            room -= 1;
            let allowed = core.allows_topic(ctx, Operation::Describe, &name);
            response.topics.push(unknown(name, core.cluster.registered, allowed));
            continue;
        };
        let start = if name == from { first.min(topic.partition_count()) } else { 0 };
        let end = topic.partition_count().min(start.saturating_add(i32::try_from(room).unwrap_or(i32::MAX)));
        room -= usize::try_from(end - start).unwrap_or(room).min(room);
        response.topics.push(describe(core, ctx, &topic, start..end));
        if end < topic.partition_count() {
            response.next_cursor = Some(cursor(&name, end));
            break;
        }
    }
    ctx.reply(&response)
}

type Wanted = (String, Option<std::sync::Arc<Topic>>);

/// Names in order from the cursor on, one more than can be answered at most.
fn wanted<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    request: &DescribeTopicPartitionsRequest,
    from: &str,
    most: usize,
) -> Vec<Wanted> {
    let most = most.min(MAX_DESCRIBED_PARTITIONS).saturating_add(1);
    if request.topics.is_empty() {
        let seen = |topic: &&std::sync::Arc<Topic>| core.allows_topic(ctx, Operation::Describe, &topic.name);
        let all = core.meta.topics_from(from).filter(seen).take(most);
        return all.map(|topic| (topic.name.to_string(), Some(std::sync::Arc::clone(topic)))).collect();
    }
    let mut names: Vec<&str> = request.topics.iter().map(|t| t.name.as_str()).filter(|name| *name >= from).collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(most);
    let find = |name| core.topic_for(ctx, Operation::Describe, name).ok().cloned();
    names.into_iter().map(|name| (name.to_owned(), find(name))).collect()
}

fn cursor(name: &str, partition: i32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(wherry_wire::codec::StrBytes::from_string(name.to_owned())))
        .with_partition_index(partition)
}

/// A node that is not registered can't know yet whether a topic exists.
fn unknown(name: String, registered: bool, allowed: bool) -> DescribeTopicPartitionsResponseTopic {
    let error = match wherry_metadata::check_name(&name) {
        Ok(()) if !allowed => ResponseError::TopicAuthorizationFailed,
        Ok(()) if !registered => ResponseError::LeaderNotAvailable,
        Ok(()) => ResponseError::UnknownTopicOrPartition,
        Err(_) => ResponseError::InvalidTopicException,
    };
    let mut topic = DescribeTopicPartitionsResponseTopic::default();
    topic.error_code = error.code();
    topic.name = Some(TopicName(wherry_wire::codec::StrBytes::from_string(name)));
    topic
}

fn describe<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    topic: &Topic,
    partitions: std::ops::Range<i32>,
) -> DescribeTopicPartitionsResponseTopic {
    let mut described = DescribeTopicPartitionsResponseTopic::default();
    described.name = Some(TopicName(topics::name_of(topic)));
    described.topic_id = topic.id;
    described.is_internal = topic.internal;
    described.topic_authorized_operations = core.operations(ctx, ResourceType::Topic, &topic.name);
    let found = partitions.filter_map(|index| Some((index, topic.partition(index)?)));
    described.partitions = found.map(|(index, partition)| describe_partition(core, index, partition)).collect();
    described
}

fn describe_partition<S: LogStore>(
    core: &Core<S>,
    index: i32,
    partition: &Partition,
) -> DescribeTopicPartitionsResponsePartition {
    let is_running = |node: &i32| core.meta.broker(*node).is_some_and(|broker| !broker.fenced);
    let mut described = DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(index)
        .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
        .with_leader_epoch(partition.leader_epoch)
        .with_replica_nodes(nodes(&partition.replicas))
        .with_isr_nodes(nodes(&partition.isr))
        .with_eligible_leader_replicas(Some(nodes(&partition.elr)))
        .with_last_known_elr(Some(Vec::new()))
        .with_offline_replicas(
            partition.replicas.iter().filter(|node| !is_running(node)).map(|node| BrokerId(*node)).collect(),
        );
    if partition.leader.is_none() {
        described.error_code = ResponseError::LeaderNotAvailable.code();
    }
    described
}
