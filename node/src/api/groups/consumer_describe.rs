//! ConsumerGroupDescribe (KIP-848).

use std::collections::BTreeSet;

use super::{ask, shared, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::types::{
    AssignedTopic, ConsumerDescribeRequest, ConsumerDescribeResponse, DescribedConsumer, DescribedConsumerGroup,
};
use crate::groups::{GroupError, Request};
use wherry_metadata::acl::{Operation, ResourceType};
use wherry_wire::codec::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use wherry_wire::codec::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, GroupId, TopicName};
use wherry_wire::codec::{ResponseError, StrBytes};

/// First version with the type of a member (KIP-1099).
const TYPE_FROM: i16 = 1;
/// A member that uses the protocol of consumer groups.
const TYPE_CONSUMER: i8 = 1;
/// Not asked for, or not known.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;

/// Hands the request to the coordinators.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &ConsumerGroupDescribeRequest) -> Outcome {
    // Each once, however often it is named: a small request must not make a huge response (INV-8).
    let mut seen = BTreeSet::new();
    let groups = body.group_ids.iter().filter(|group| seen.insert(group.as_str()));
    let request = ConsumerDescribeRequest { groups: groups.map(|group| shared(group)).collect() };
    let ctx = Ctx { wants_operations: body.include_authorized_operations, ..ctx.clone() };
    ask(core, &ctx, Request::ConsumerDescribe(request))
}

pub(super) fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, response: ConsumerDescribeResponse) -> Outcome {
    let groups = response.groups.into_iter().map(|described| group(core, ctx, described)).collect();
    ctx.reply(&ConsumerGroupDescribeResponse::default().with_groups(groups))
}

/// Of a group that reads topics which the caller may not know, nothing is told (as Kafka does).
fn group<S: LogStore>(core: &Core<S>, ctx: &Ctx, group: DescribedConsumerGroup) -> DescribedGroup {
    let topics = group.members.iter().flat_map(|member| member.assignment.iter().chain(&member.target));
    let hidden = |topic: &AssignedTopic| !core.allows_topic(ctx, Operation::Describe, &topic.name);
    if topics.into_iter().any(hidden) {
        return DescribedGroup::default()
            .with_error_code(ResponseError::TopicAuthorizationFailed.code())
            .with_error_message(Some(StrBytes::from_static_str(
                "The group has described topic(s) that the client is not authorized to describe.",
            )))
            .with_group_id(GroupId(wire(&group.group_id)))
            .with_authorized_operations(OPERATIONS_UNKNOWN);
    }
    let operations = if ctx.wants_operations && group.error == GroupError::None {
        core.operations(ctx, ResourceType::Group, &group.group_id)
    } else {
        OPERATIONS_UNKNOWN
    };
    DescribedGroup::default()
        .with_error_code(group.error.code())
        .with_error_message(group.message.as_deref().map(wire))
        .with_group_id(GroupId(wire(&group.group_id)))
        .with_group_state(StrBytes::from_static_str(group.state.map_or("", |state| state.as_str())))
        .with_group_epoch(group.epoch)
        .with_assignment_epoch(group.assignment_epoch)
        .with_assignor_name(wire(&group.assignor))
        .with_members(group.members.into_iter().map(|described| member(ctx, described)).collect())
        .with_authorized_operations(operations)
}

fn member(ctx: &Ctx, member: DescribedConsumer) -> Member {
    let mut described = Member::default()
        .with_member_id(wire(&member.member_id))
        .with_instance_id(wire_option(member.instance_id.as_ref()))
        .with_rack_id(wire_option(member.rack_id.as_ref()))
        .with_member_epoch(member.epoch)
        .with_client_id(wire(&member.client_id))
        .with_client_host(wire(&member.client_host))
        .with_subscribed_topic_names(member.topics.iter().map(|topic| TopicName(wire(topic))).collect())
        .with_subscribed_topic_regex(wire_option(member.regex.as_ref()))
        .with_assignment(assignment(member.assignment))
        .with_target_assignment(assignment(member.target));
    if ctx.version >= TYPE_FROM {
        described.member_type = TYPE_CONSUMER;
    }
    described
}

fn assignment(topics: Vec<AssignedTopic>) -> Assignment {
    let of = |topic: AssignedTopic| {
        TopicPartitions::default()
            .with_topic_id(topic.id)
            .with_topic_name(TopicName(wire(&topic.name)))
            .with_partitions(topic.partitions)
    };
    Assignment::default().with_topic_partitions(topics.into_iter().map(of).collect())
}
