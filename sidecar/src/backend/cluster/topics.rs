//! What topics and groups of the real cluster there are, and moving groups.

use std::sync::Arc;

use wherry_client::admin::{ConfigResource, Each, NewTopic, OffsetSpec};
use wherry_client::{Client, ClientError, TopicPartition};

use crate::backend::{Bounds, GroupView};

/// `TOPIC_ALREADY_EXISTS` in the Kafka protocol.
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// `GROUP_ID_NOT_FOUND` in the Kafka protocol.
const GROUP_ID_NOT_FOUND: i16 = 69;

pub(super) async fn partitions(client: &Client, topic: &str) -> Result<i32, ClientError> {
    match client.admin().describe_topics(&[topic]).await?.into_iter().next() {
        Some((_, description)) => Ok(i32::try_from(description?.partitions.len()).unwrap_or(i32::MAX)),
        None => Err(ClientError::NoSuchTopic { what: "describe the topic".into(), topic: topic.into() }),
    }
}

pub(super) async fn create(
    client: &Client,
    topic: &str,
    partitions: Option<i32>,
    settings: &[(&str, &str)],
) -> Result<bool, ClientError> {
    let wanted = NewTopic { partitions, ..NewTopic::new(topic, 1) };
    let wanted = settings.iter().fold(wanted, |wanted, (name, value)| wanted.config(*name, *value));
    match client.admin().create_topics(&[wanted], false).await?.into_iter().next() {
        Some((_, Err(ClientError::Rejected { code: TOPIC_ALREADY_EXISTS, .. }))) => Ok(false),
        Some((_, outcome)) => outcome.map(|()| true),
        None => Ok(true),
    }
}

pub(super) async fn list(client: &Client) -> Result<Vec<(Arc<str>, i32)>, ClientError> {
    let listed = client.admin().list_topics().await?;
    let ours = listed.into_iter().filter(|topic| !topic.internal);
    let mut topics: Vec<_> =
        ours.map(|topic| (topic.name, i32::try_from(topic.partitions).unwrap_or(i32::MAX))).collect();
    topics.sort();
    Ok(topics)
}

async fn look_up(client: &Client, topic: &str, spec: OffsetSpec) -> Result<Vec<(i32, i64)>, ClientError> {
    let count = partitions(client, topic).await?;
    let asked: Vec<_> = (0..count).map(|partition| (TopicPartition::new(topic, partition), spec)).collect();
    let found = client.admin().list_offsets(&asked).await?;
    found.into_iter().map(|(at, found)| Ok((at.partition, found?.offset))).collect()
}

pub(super) async fn bounds(client: &Client, topic: &str) -> Result<Vec<Bounds>, ClientError> {
    // First offsets only grow, and so do ends: asked for in this order, no partition ends before it begins.
    let first = look_up(client, topic, OffsetSpec::Earliest).await?;
    let end = look_up(client, topic, OffsetSpec::Latest).await?;
    let both = first.into_iter().zip(end);
    Ok(both.map(|((partition, first), (_, end))| Bounds { partition, first, end: end.max(first) }).collect())
}

pub(super) async fn settings(client: &Client, topic: &str) -> Result<Vec<(String, String)>, ClientError> {
    let described = client.admin().describe_configs(&[ConfigResource::Topic(topic.into())]).await?;
    let Some((_, entries)) = described.into_iter().next() else { return Ok(Vec::new()) };
    Ok(entries?.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

pub(super) async fn offsets_at(
    client: &Client,
    topic: &str,
    timestamp_ms: i64,
) -> Result<Vec<(i32, i64)>, ClientError> {
    let found = look_up(client, topic, OffsetSpec::Timestamp(timestamp_ms)).await?;
    if found.iter().all(|(_, offset)| *offset >= 0) {
        return Ok(found);
    }
    let ends = look_up(client, topic, OffsetSpec::Latest).await?;
    let or_end =
        |((partition, offset), (_, end)): ((i32, i64), (i32, i64))| (partition, if offset < 0 { end } else { offset });
    Ok(found.into_iter().zip(ends).map(or_end).collect())
}

pub(super) async fn group(client: &Client, group: &str) -> Result<GroupView, ClientError> {
    let admin = client.admin();
    let description = match admin.describe_groups(&[group]).await?.into_iter().next() {
        Some((_, Err(ClientError::Rejected { code: GROUP_ID_NOT_FOUND, .. }))) | None => {
            return Ok(GroupView::dead(group));
        }
        Some((_, description)) => description?,
    };
    let committed = admin.group_offsets(group, None).await?;
    let mut committed: Vec<_> = committed.into_iter().map(|of| (of.at, of.offset)).collect();
    committed.sort();
    Ok(GroupView { description, committed })
}

pub(super) async fn move_group(
    client: &Client,
    group: &str,
    next: &[(TopicPartition, i64)],
) -> Result<(), ClientError> {
    let moved: Each<TopicPartition, ()> = client.admin().alter_group_offsets(group, next).await?;
    moved.into_iter().try_for_each(|(_, outcome)| outcome)
}
