//! ConsumerGroupDescribe: what people see of a consumer group.

use std::sync::Arc;

use uuid::Uuid;

use super::assign::Assignor;
use super::state::{ConsumerGroup, Member, Parts};
use super::types::{AssignedTopic, ConsumerDescribeResponse, DescribedConsumer, DescribedConsumerGroup};
use crate::groups::cluster::Cluster;
use crate::groups::types::GroupError;

pub(in crate::groups) fn absent(
    group_id: &Arc<str>,
    error: GroupError,
    message: Option<String>,
) -> DescribedConsumerGroup {
    DescribedConsumerGroup {
        error,
        message,
        group_id: Arc::clone(group_id),
        state: None,
        epoch: 0,
        assignment_epoch: 0,
        assignor: "".into(),
        members: Vec::new(),
    }
}

/// Every group of an answer carries this error.
pub(in crate::groups) fn refused(groups: &[Arc<str>], error: GroupError) -> ConsumerDescribeResponse {
    ConsumerDescribeResponse { groups: groups.iter().map(|group_id| absent(group_id, error, None)).collect() }
}

pub(in crate::groups) fn describe(
    group_id: &Arc<str>,
    consumer: &ConsumerGroup,
    cluster: &dyn Cluster,
) -> DescribedConsumerGroup {
    let assignor = consumer.preferred_assignor().cloned();
    DescribedConsumerGroup {
        error: GroupError::None,
        message: None,
        group_id: Arc::clone(group_id),
        state: Some(consumer.state_name()),
        epoch: consumer.epoch,
        assignment_epoch: consumer.target_epoch,
        assignor: assignor.unwrap_or_else(|| Assignor::ALL[0].name().into()),
        members: consumer.members.iter().map(|(id, m)| member(id, m, consumer, cluster)).collect(),
    }
}

fn member(id: &Arc<str>, member: &Member, consumer: &ConsumerGroup, cluster: &dyn Cluster) -> DescribedConsumer {
    let meta = &member.meta;
    let held = member.current.assigned.iter().map(|(topic, held)| (*topic, held.keys().copied().collect()));
    let none = Parts::new();
    let target = consumer.targets.get(id).map_or(&none, |target| &**target);
    let target = target.iter().map(|(topic, partitions)| (*topic, partitions.iter().copied().collect()));
    DescribedConsumer {
        member_id: Arc::clone(id),
        instance_id: meta.instance_id.clone(),
        rack_id: meta.rack_id.clone(),
        epoch: member.current.epoch,
        client_id: Arc::clone(&meta.client_id),
        client_host: Arc::clone(&meta.client_host),
        topics: meta.subscription.topics.iter().cloned().collect(),
        regex: meta.subscription.regex.clone(),
        assignment: named(held, cluster),
        target: named(target, cluster),
    }
}

/// Topics that are gone have no name, and nobody reads them any more.
fn named(parts: impl Iterator<Item = (Uuid, Vec<i32>)>, cluster: &dyn Cluster) -> Vec<AssignedTopic> {
    let named = |(id, partitions)| Some(AssignedTopic { id, name: cluster.topic_name(id)?, partitions });
    parts.filter_map(named).collect()
}
