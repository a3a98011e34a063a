//! JoinGroup.

use std::sync::Arc;

use super::{ask, client_host, shared, shared_option, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{JoinRequest, JoinResponse, Protocol};
use wherry_wire::codec::messages::join_group_response::JoinGroupResponseMember;
use wherry_wire::codec::messages::{JoinGroupRequest, JoinGroupResponse};

/// First version in which a new member must come again with its id (KIP-394).
const KNOWN_ID_FROM: i16 = 4;
/// First version whose protocol type and name may be absent.
const NULLABLE_PROTOCOL_FROM: i16 = 7;
/// First version whose leader can be told not to assign (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &JoinGroupRequest) -> Outcome {
    let request = request(ctx, body, client_host(ctx));
    ask(core, ctx, Request::Join(request))
}

fn request(ctx: &Ctx, body: &JoinGroupRequest, client_host: Arc<str>) -> JoinRequest {
    JoinRequest {
        group_id: shared(&body.group_id),
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
        protocol_type: shared(&body.protocol_type),
        protocols: body
            .protocols
            .iter()
            .map(|p| Protocol { name: shared(&p.name), metadata: bytes::Bytes::copy_from_slice(&p.metadata) })
            .collect(),
        session_timeout_ms: body.session_timeout_ms,
        rebalance_timeout_ms: if ctx.version == 0 { body.session_timeout_ms } else { body.rebalance_timeout_ms },
        client_id: ctx.client_id.as_ref().map_or_else(|| Arc::from(""), shared),
        client_host,
        known_member_id_required: ctx.version >= KNOWN_ID_FROM,
        skip_assignment: ctx.version >= SKIP_ASSIGNMENT_FROM,
    }
}

pub(super) fn answer(ctx: &Ctx, response: JoinResponse) -> Outcome {
    let mut body = JoinGroupResponse::default();
    body.error_code = response.error.code();
    body.generation_id = response.generation;
    body.protocol_name = wire_option(response.protocol_name.as_ref());
    if ctx.version >= NULLABLE_PROTOCOL_FROM {
        body.protocol_type = wire_option(response.protocol_type.as_ref());
    } else {
        body.protocol_name = Some(body.protocol_name.unwrap_or_default());
    }
    body.leader = wire(&response.leader);
    body.skip_assignment = response.skip_assignment && ctx.version >= SKIP_ASSIGNMENT_FROM;
    body.member_id = wire(&response.member_id);
    body.members = response
        .members
        .into_iter()
        .map(|member| {
            JoinGroupResponseMember::default()
                .with_member_id(wire(&member.member_id))
                .with_group_instance_id(wire_option(member.instance_id.as_ref()))
                .with_metadata(member.metadata)
        })
        .collect();
    ctx.reply(&body)
}
