//! DescribeGroups.

use std::collections::BTreeSet;

use super::{ask, shared, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::types::{DescribeRequest, DescribeResponse, DescribedGroup, DescribedMember};
use crate::groups::{GroupError, Request};
use wherry_metadata::acl::ResourceType;
use wherry_wire::codec::StrBytes;
use wherry_wire::codec::messages::{self, GroupId, describe_groups_response};

/// First version with static members.
const INSTANCE_FROM: i16 = 4;
/// Not asked for, or not known.
const OPERATIONS_UNKNOWN: i32 = i32::MIN;
/// First version that may ask what the caller may do (KIP-430).
const OPERATIONS_FROM: i16 = 3;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::DescribeGroupsRequest) -> Outcome {
    let request = request(body);
    let ctx = Ctx { wants_operations: body.include_authorized_operations, ..ctx.clone() };
    ask(core, &ctx, Request::Describe(request))
}

fn request(body: &messages::DescribeGroupsRequest) -> DescribeRequest {
    // Each once, however often it is named: a small request must not make a huge response (INV-8).
    let mut seen = BTreeSet::new();
    let groups = body.groups.iter().filter(|g| seen.insert(g.as_str()));
    DescribeRequest { groups: groups.map(|g| shared(g)).collect() }
}

pub(super) fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, response: DescribeResponse) -> Outcome {
    let groups = response.groups.into_iter().map(|g| group(core, ctx, g)).collect();
    ctx.reply(&messages::DescribeGroupsResponse::default().with_groups(groups))
}

fn group<S: LogStore>(core: &Core<S>, ctx: &Ctx, group: DescribedGroup) -> describe_groups_response::DescribedGroup {
    let mut described = describe_groups_response::DescribedGroup::default();
    // A group that does not exist is described as dead, without an error, in every version served.
    described.error_code = match group.error {
        GroupError::GroupIdNotFound => 0,
        error => error.code(),
    };
    described.group_id = GroupId(wire(&group.group_id));
    described.group_state = StrBytes::from_static_str(group.state.as_str());
    described.protocol_type = wire(&group.protocol_type);
    described.protocol_data = wire(&group.protocol);
    described.members = group.members.into_iter().map(|m| member(ctx, m)).collect();
    described.authorized_operations = OPERATIONS_UNKNOWN;
    if ctx.version >= OPERATIONS_FROM && ctx.wants_operations && group.error == GroupError::None {
        described.authorized_operations = core.operations(ctx, ResourceType::Group, &group.group_id);
    }
    described
}

fn member(ctx: &Ctx, member: DescribedMember) -> describe_groups_response::DescribedGroupMember {
    let mut described = describe_groups_response::DescribedGroupMember::default()
        .with_member_id(wire(&member.member_id))
        .with_client_id(wire(&member.client_id))
        .with_client_host(wire(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment);
    if ctx.version >= INSTANCE_FROM {
        described.group_instance_id = wire_option(member.instance_id.as_ref());
    }
    described
}
