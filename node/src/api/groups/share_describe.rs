//! ShareGroupDescribe (KIP-932).

use std::collections::BTreeSet;

use super::{ask, shared, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::types::{
    AssignedTopic, DescribedShareGroup, DescribedSharer, SHARE_ASSIGNOR, ShareDescribeRequest, ShareDescribeResponse,
};
use crate::groups::{GroupError, Request};
use wherry_metadata::acl::{Operation, ResourceType};
use wherry_wire::codec::messages::share_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use wherry_wire::codec::messages::{GroupId, ShareGroupDescribeRequest, ShareGroupDescribeResponse, TopicName};
use wherry_wire::codec::{ResponseError, StrBytes};

/// Not asked for, or not known.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;

/// Hands the request to the coordinators.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &ShareGroupDescribeRequest) -> Outcome {
    // Each once, however often it is named: a small request must not make a huge response (INV-8).
    let mut seen = BTreeSet::new();
    let groups = body.group_ids.iter().filter(|group| seen.insert(group.as_str()));
    let request = ShareDescribeRequest { groups: groups.map(|group| shared(group)).collect() };
    let ctx = Ctx { wants_operations: body.include_authorized_operations, ..ctx.clone() };
    ask(core, &ctx, Request::ShareDescribe(request))
}

pub(super) fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, response: ShareDescribeResponse) -> Outcome {
    let groups = response.groups.into_iter().map(|described| group(core, ctx, described)).collect();
    ctx.reply(&ShareGroupDescribeResponse::default().with_groups(groups))
}

/// Of a group that reads topics which the caller may not know, nothing is told (as Kafka does).
fn group<S: LogStore>(core: &Core<S>, ctx: &Ctx, group: DescribedShareGroup) -> DescribedGroup {
    let described = DescribedGroup::default().with_group_id(GroupId(wire(&group.group_id)));
    let mut topics = group.members.iter().flat_map(|member| &member.assignment);
    if topics.any(|topic| !core.allows_topic(ctx, Operation::Describe, &topic.name)) {
        return described
            .with_error_code(ResponseError::TopicAuthorizationFailed.code())
            .with_error_message(Some(StrBytes::from_static_str(
                "The group has described topic(s) that the client is not authorized to describe.",
            )))
            .with_authorized_operations(OPERATIONS_UNKNOWN);
    }
    let known = group.error == GroupError::None;
    let operations = if ctx.wants_operations && known {
        core.operations(ctx, ResourceType::Group, &group.group_id)
    } else {
        OPERATIONS_UNKNOWN
    };
    described
        .with_error_code(group.error.code())
        .with_error_message(group.message.as_deref().map(wire))
        .with_group_state(StrBytes::from_static_str(group.state.map_or("", |state| state.as_str())))
        .with_group_epoch(group.epoch)
        .with_assignment_epoch(group.epoch)
        .with_assignor_name(StrBytes::from_static_str(if known { SHARE_ASSIGNOR } else { "" }))
        .with_members(group.members.into_iter().map(member).collect())
        .with_authorized_operations(operations)
}

fn member(member: DescribedSharer) -> Member {
    let of = |topic: AssignedTopic| {
        TopicPartitions::default()
            .with_topic_id(topic.id)
            .with_topic_name(TopicName(wire(&topic.name)))
            .with_partitions(topic.partitions)
    };
    Member::default()
        .with_member_id(wire(&member.member_id))
        .with_rack_id(wire_option(member.rack_id.as_ref()))
        .with_member_epoch(member.epoch)
        .with_client_id(wire(&member.client_id))
        .with_client_host(wire(&member.client_host))
        .with_subscribed_topic_names(member.topics.iter().map(|topic| TopicName(wire(topic))).collect())
        .with_assignment(Assignment::default().with_topic_partitions(member.assignment.into_iter().map(of).collect()))
}
