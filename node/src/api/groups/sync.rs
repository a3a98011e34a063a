//! SyncGroup.

use bytes::Bytes;

use super::{ask, shared, shared_option, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{SyncRequest, SyncResponse};
use wherry_wire::codec::messages::{SyncGroupRequest, SyncGroupResponse};

/// First version with protocol type and name.
const PROTOCOL_FROM: i16 = 5;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: SyncGroupRequest) -> Outcome {
    let request = request(body);
    ask(core, ctx, Request::Sync(request))
}

/// Assignments are copied: the group must not keep the request frame alive.
fn request(body: SyncGroupRequest) -> SyncRequest {
    SyncRequest {
        group_id: shared(&body.group_id),
        generation: body.generation_id,
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
        protocol_type: shared_option(body.protocol_type.as_ref()),
        protocol_name: shared_option(body.protocol_name.as_ref()),
        assignments: body
            .assignments
            .into_iter()
            .map(|a| (shared(&a.member_id), Bytes::copy_from_slice(&a.assignment)))
            .collect(),
    }
}

pub(super) fn answer(ctx: &Ctx, response: SyncResponse) -> Outcome {
    let mut body = SyncGroupResponse::default();
    body.error_code = response.error.code();
    if ctx.version >= PROTOCOL_FROM {
        body.protocol_type = wire_option(response.protocol_type.as_ref());
        body.protocol_name = wire_option(response.protocol_name.as_ref());
    }
    body.assignment = response.assignment;
    ctx.reply(&body)
}
