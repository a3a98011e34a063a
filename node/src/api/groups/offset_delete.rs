//! OffsetDelete (KIP-496).

use super::{ask, refusal, shared, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{DeleteTopicOffsets, OffsetDeleteRequest, OffsetDeleteResponse};
use wherry_wire::codec::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use wherry_wire::codec::messages::{self, TopicName};

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::OffsetDeleteRequest) -> Outcome {
    let request = request(core, ctx, body);
    ask(core, ctx, Request::OffsetDelete(request))
}

fn request<S: LogStore>(core: &Core<S>, ctx: &Ctx, body: &messages::OffsetDeleteRequest) -> OffsetDeleteRequest {
    let topics = body.topics.iter().map(|topic| DeleteTopicOffsets {
        name: shared(&topic.name),
        partitions: topic
            .partitions
            .iter()
            .map(|p| (p.partition_index, refusal(core, ctx, &topic.name, p.partition_index)))
            .collect(),
    });
    OffsetDeleteRequest { group_id: shared(&body.group_id), topics: topics.collect() }
}

pub(super) fn answer(ctx: &Ctx, response: &OffsetDeleteResponse) -> Outcome {
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|(partition, error)| {
            OffsetDeleteResponsePartition::default().with_partition_index(*partition).with_error_code(error.code())
        });
        OffsetDeleteResponseTopic::default()
            .with_name(TopicName(wire(&topic.name)))
            .with_partitions(partitions.collect())
    });
    let body = messages::OffsetDeleteResponse::default().with_error_code(response.error.code());
    ctx.reply(&body.with_topics(topics.collect()))
}
