//! LeaveGroup: one member before version 3, several from then on.

use super::{ask, shared, shared_option, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::types::{LeaveRequest, LeaveResponse, LeavingMember};
use crate::groups::{GroupError, Request};
use wherry_wire::codec::messages::leave_group_response::MemberResponse;
use wherry_wire::codec::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// First version with several members.
const MEMBERS_FROM: i16 = 3;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &LeaveGroupRequest) -> Outcome {
    let request = request(ctx, body);
    ask(core, ctx, Request::Leave(request))
}

fn request(ctx: &Ctx, body: &LeaveGroupRequest) -> LeaveRequest {
    let members = if ctx.version >= MEMBERS_FROM {
        let one = |m: &wherry_wire::codec::messages::leave_group_request::MemberIdentity| LeavingMember {
            member_id: shared(&m.member_id),
            instance_id: shared_option(m.group_instance_id.as_ref()),
        };
        body.members.iter().map(one).collect()
    } else {
        vec![LeavingMember { member_id: shared(&body.member_id), instance_id: None }]
    };
    LeaveRequest { group_id: shared(&body.group_id), members }
}

pub(super) fn answer(ctx: &Ctx, response: &LeaveResponse) -> Outcome {
    let mut body = LeaveGroupResponse::default();
    body.error_code = response.error.code();
    if ctx.version >= MEMBERS_FROM {
        let one = |m: &crate::groups::types::LeftMember| {
            MemberResponse::default()
                .with_member_id(wire(&m.member_id))
                .with_group_instance_id(wire_option(m.instance_id.as_ref()))
                .with_error_code(m.error.code())
        };
        body.members = response.members.iter().map(one).collect();
    } else if response.error == GroupError::None
        && let Some(member) = response.members.first()
    {
        body.error_code = member.error.code();
    }
    ctx.reply(&body)
}
