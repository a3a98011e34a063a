//! ShareGroupDescribe: what people see of a share group.

use std::sync::Arc;

use super::state::ShareGroup;
use super::types::{DescribedShareGroup, DescribedSharer, ShareDescribeResponse};
use crate::groups::cluster::Cluster;
use crate::groups::consumer::types::AssignedTopic;
use crate::groups::types::GroupError;

/// The name of the assignor, which is Kafka's for the same rule.
pub(crate) const ASSIGNOR: &str = "simple";

pub(in crate::groups) fn absent(
    group_id: &Arc<str>,
    error: GroupError,
    message: Option<String>,
) -> DescribedShareGroup {
    let (group_id, members) = (Arc::clone(group_id), Vec::new());
    DescribedShareGroup { error, message, group_id, state: None, epoch: 0, members }
}

/// Every group of an answer carries this error.
pub(in crate::groups) fn refused(groups: &[Arc<str>], error: GroupError) -> ShareDescribeResponse {
    ShareDescribeResponse { groups: groups.iter().map(|group_id| absent(group_id, error, None)).collect() }
}

pub(in crate::groups) fn describe(
    group_id: &Arc<str>,
    group: &ShareGroup,
    cluster: &dyn Cluster,
) -> DescribedShareGroup {
    let member = |id: &Arc<str>| {
        let member = group.members.get(id)?;
        let parts = group.targets.get(id).into_iter().flat_map(|parts| parts.iter());
        let named = parts.filter_map(|(topic, partitions)| {
            let (id, name) = (*topic, cluster.topic_name(*topic)?);
            Some(AssignedTopic { id, name, partitions: partitions.iter().copied().collect() })
        });
        Some(DescribedSharer {
            member_id: Arc::clone(id),
            rack_id: member.meta.rack_id.clone(),
            epoch: member.epochs.map_or(0, |(epoch, _)| epoch),
            client_id: Arc::clone(&member.meta.client_id),
            client_host: Arc::clone(&member.meta.client_host),
            topics: member.meta.topics.iter().cloned().collect(),
            assignment: named.collect(),
        })
    };
    DescribedShareGroup {
        error: GroupError::None,
        message: None,
        group_id: Arc::clone(group_id),
        state: Some(group.state_name()),
        epoch: group.epoch,
        members: group.members.keys().filter_map(member).collect(),
    }
}
