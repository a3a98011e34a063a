//! Heartbeat.

use super::{ask, shared, shared_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{HeartbeatRequest, HeartbeatResponse};
use wherry_wire::codec::messages;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::HeartbeatRequest) -> Outcome {
    let request = request(body);
    ask(core, ctx, Request::Heartbeat(request))
}

fn request(body: &messages::HeartbeatRequest) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: shared(&body.group_id),
        generation: body.generation_id,
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
    }
}

pub(super) fn answer(ctx: &Ctx, response: HeartbeatResponse) -> Outcome {
    ctx.reply(&messages::HeartbeatResponse::default().with_error_code(response.error.code()))
}
