//! Makes a cluster what the resources want: topics made, grown and configured, groups given their first position.
//!
//! What is not in a file stays as it is; nothing is deleted.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use wherry_client::admin::{ConfigChange, ConfigResource, NewTopic, OffsetSpec, TopicListing};
use wherry_client::{Admin, TopicPartition};
use wherry_operator::crd::{ClusterSpec, ConsumerGroup, InitialOffset, Topic};

use super::resources::Resources;
use crate::commands::topic::{describe, only};
use crate::exit;

pub(super) async fn apply(admin: &Admin, resources: &Resources) -> Result<()> {
    let cluster = &resources.cluster.spec;
    let existing = admin.list_topics().await?;
    for topic in &resources.topics {
        let found = existing.iter().find(|listing| *listing.name == *topic.topic_name());
        let applied = match found {
            None => create(admin, topic, cluster).await,
            Some(found) => adopt(admin, topic, found).await,
        };
        applied.with_context(|| format!("Topic {}", topic.metadata.name))?;
    }
    for group in &resources.groups {
        begin(admin, group).await.with_context(|| format!("ConsumerGroup {}", group.metadata.name))?;
    }
    Ok(())
}

async fn create(admin: &Admin, topic: &Topic, cluster: &ClusterSpec) -> Result<()> {
    let mut configs = topic.wire_config();
    let minimum = topic.min_in_sync_in(cluster);
    // One is what a topic has that says nothing.
    if topic.spec.min_in_sync.is_none() && minimum > 1 {
        configs.push((MIN_IN_SYNC.into(), minimum.to_string()));
    }
    let wanted = NewTopic {
        name: topic.topic_name().into(),
        partitions: Some(i32::try_from(topic.spec.partitions.unwrap_or(cluster.defaults.partitions))?),
        replication: Some(i16::try_from(topic.replicas_in(cluster))?),
        assignment: Vec::new(),
        configs,
    };
    only(admin.create_topics(&[wanted], false).await?, topic.topic_name())
}

/// The setting that `minInSync` is on the wire.
const MIN_IN_SYNC: &str = "min.insync.replicas";

/// Moving replicas takes a while and space on other nodes: not done in passing.
async fn check_replicas(admin: &Admin, topic: &Topic) -> Result<()> {
    let (Some(wanted), name) = (topic.spec.replicas, topic.topic_name()) else { return Ok(()) };
    let described = only(admin.describe_topics(&[name]).await?, name)?;
    let has = described.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
    if usize::try_from(wanted) == Ok(has) {
        return Ok(());
    }
    Err(exit::usage(format!(
        "spec.replicas: is {wanted}, but {name} has {has} and changing the number of copies is not built yet; write {has}"
    )))
}

/// A topic that exists grows and gets the settings that its resource manages; it never shrinks.
async fn adopt(admin: &Admin, topic: &Topic, found: &TopicListing) -> Result<()> {
    let name = topic.topic_name();
    check_replicas(admin, topic).await?;
    if let Some(wanted) = topic.spec.partitions {
        let (wanted, has) = (i32::try_from(wanted)?, i32::try_from(found.partitions)?);
        if wanted < has {
            return Err(exit::usage(format!(
                "spec.partitions: is {wanted}, but {name} has {has} and partitions can't be taken away; write {has} or more"
            )));
        }
        if wanted > has {
            only(admin.create_partitions(&[(name, wanted)]).await?, name)?;
        }
    }
    let changes: Vec<_> = topic.wire_config().into_iter().map(|(key, value)| ConfigChange::Set(key, value)).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let resource = ConfigResource::Topic(Arc::from(name));
    only(admin.alter_configs(&[(resource, changes)], false).await?, name)
}

/// A group begins where its resource says in every partition in which it has no position yet.
async fn begin(admin: &Admin, group: &ConsumerGroup) -> Result<()> {
    let id = group.group_id();
    let known: HashSet<_> = admin.group_offsets(id, None).await?.into_iter().map(|committed| committed.at).collect();
    let mut places: Vec<TopicPartition> = Vec::new();
    for subscription in &group.spec.subscriptions {
        let all = describe::places(admin, &subscription.topic).await?;
        places.extend(all.into_iter().filter(|place| !known.contains(place)));
    }
    if places.is_empty() {
        return Ok(());
    }
    let spec = match group.spec.initial_offset {
        InitialOffset::Earliest => OffsetSpec::Earliest,
        InitialOffset::Latest => OffsetSpec::Latest,
    };
    let offsets = describe::offsets(admin, &places, spec).await?;
    let positions: Vec<_> = places.into_iter().zip(offsets).collect();
    for (place, outcome) in admin.alter_group_offsets(id, &positions).await? {
        outcome.with_context(|| format!("can't give it a position in {place}"))?;
    }
    Ok(())
}
