//! ShareGroupHeartbeat (KIP-932).

use std::sync::Arc;

use super::{ask, client_host, shared, shared_option, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{ShareHeartbeatRequest, ShareHeartbeatResponse, TopicPartitions};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::share_group_heartbeat_response::{Assignment, TopicPartitions as ResponsePartitions};
use wherry_wire::codec::messages::{ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse};

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &ShareGroupHeartbeatRequest) -> Outcome {
    let mut topics = body.subscribed_topic_names.iter().flatten();
    if topics.any(|topic| !core.allows_topic(ctx, Operation::Describe, topic)) {
        let code = ResponseError::TopicAuthorizationFailed.code();
        return ctx.reply(&ShareGroupHeartbeatResponse::default().with_error_code(code));
    }
    let topics = body.subscribed_topic_names.as_ref();
    let request = ShareHeartbeatRequest {
        group_id: shared(&body.group_id),
        member_id: shared(&body.member_id),
        member_epoch: body.member_epoch,
        rack_id: shared_option(body.rack_id.as_ref()),
        topics: topics.map(|topics| topics.iter().map(|topic| shared(topic)).collect()),
        client_id: ctx.client_id.as_ref().map_or_else(|| Arc::from(""), shared),
        client_host: client_host(ctx),
    };
    ask(core, ctx, Request::ShareHeartbeat(request))
}

pub(super) fn answer(ctx: &Ctx, response: ShareHeartbeatResponse) -> Outcome {
    let body = ShareGroupHeartbeatResponse::default()
        .with_error_code(response.error.code())
        .with_error_message(response.message.as_deref().map(wire))
        .with_member_id(wire_option(response.member_id.as_ref()))
        .with_member_epoch(response.member_epoch)
        .with_heartbeat_interval_ms(response.heartbeat_interval_ms)
        .with_assignment(response.assignment.map(assignment));
    ctx.reply(&body)
}

fn assignment(partitions: TopicPartitions) -> Assignment {
    let of = |(topic, partitions)| ResponsePartitions::default().with_topic_id(topic).with_partitions(partitions);
    Assignment::default().with_topic_partitions(partitions.into_iter().map(of).collect())
}
