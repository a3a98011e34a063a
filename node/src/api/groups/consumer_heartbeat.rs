//! ConsumerGroupHeartbeat (KIP-848).

use std::sync::Arc;

use super::{ask, client_host, shared, shared_option, wire, wire_option};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, TopicPartitions};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::consumer_group_heartbeat_response::{
    Assignment, TopicPartitions as ResponsePartitions,
};
use wherry_wire::codec::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

/// First version whose members make their own ids (KIP-1082).
const OWN_ID_FROM: i16 = 1;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &ConsumerGroupHeartbeatRequest) -> Outcome {
    let mut topics = body.subscribed_topic_names.iter().flatten();
    if topics.any(|topic| !core.allows_topic(ctx, Operation::Describe, topic)) {
        let code = ResponseError::TopicAuthorizationFailed.code();
        return ctx.reply(&ConsumerGroupHeartbeatResponse::default().with_error_code(code));
    }
    let request = request(ctx, body, client_host(ctx));
    ask(core, ctx, Request::ConsumerHeartbeat(request))
}

fn request(ctx: &Ctx, body: &ConsumerGroupHeartbeatRequest, client_host: Arc<str>) -> ConsumerHeartbeatRequest {
    let topics = body.subscribed_topic_names.as_ref();
    let owned = body.topic_partitions.as_ref();
    ConsumerHeartbeatRequest {
        group_id: shared(&body.group_id),
        member_id: shared(&body.member_id),
        member_epoch: body.member_epoch,
        instance_id: shared_option(body.instance_id.as_ref()),
        rack_id: shared_option(body.rack_id.as_ref()),
        rebalance_timeout_ms: Some(body.rebalance_timeout_ms).filter(|timeout_ms| *timeout_ms != -1),
        topics: topics.map(|topics| topics.iter().map(|topic| shared(topic)).collect()),
        regex: shared_option(body.subscribed_topic_regex.as_ref()),
        assignor: shared_option(body.server_assignor.as_ref()),
        owned: owned.map(|owned| owned.iter().map(|of| (of.topic_id, of.partitions.clone())).collect()),
        client_id: ctx.client_id.as_ref().map_or_else(|| Arc::from(""), shared),
        client_host,
        makes_own_id: ctx.version >= OWN_ID_FROM,
    }
}

pub(super) fn answer(ctx: &Ctx, response: ConsumerHeartbeatResponse) -> Outcome {
    let body = ConsumerGroupHeartbeatResponse::default()
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
