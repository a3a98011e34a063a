//! ListGroups.

use super::{ask, shared, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{ListRequest, ListResponse};
use wherry_wire::codec::StrBytes;
use wherry_wire::codec::messages::{self, GroupId};

/// First version with the state (KIP-518).
const STATE_FROM: i16 = 4;
/// First version with the type (KIP-848).
const TYPE_FROM: i16 = 5;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::ListGroupsRequest) -> Outcome {
    let request = request(body);
    ask(core, ctx, Request::List(request))
}

fn request(body: &messages::ListGroupsRequest) -> ListRequest {
    ListRequest {
        states: body.states_filter.iter().map(shared).collect(),
        types: body.types_filter.iter().map(shared).collect(),
    }
}

pub(super) fn answer(ctx: &Ctx, response: ListResponse) -> Outcome {
    let groups = response.groups.into_iter().map(|group| {
        let mut listed = messages::list_groups_response::ListedGroup::default()
            .with_group_id(GroupId(wire(&group.group_id)))
            .with_protocol_type(wire(&group.protocol_type));
        if ctx.version >= STATE_FROM {
            listed.group_state = StrBytes::from_static_str(group.state.as_str());
        }
        if ctx.version >= TYPE_FROM {
            listed.group_type = StrBytes::from_static_str(group.group_type);
        }
        listed
    });
    let body = messages::ListGroupsResponse::default().with_error_code(response.error.code());
    ctx.reply(&body.with_groups(groups.collect()))
}
