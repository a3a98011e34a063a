//! OffsetCommit: answered when the offsets are durable.

use std::sync::Arc;

use uuid::Uuid;

use super::{ask, refusal, shared, shared_option, txn_offset_commit, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{CommitPartition, CommitTopic, OffsetCommitRequest, OffsetCommitResponse};
use wherry_wire::codec::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use wherry_wire::codec::messages::{self, TopicName};

/// First version of clients that know consumer groups (KIP-848).
const CONSUMER_GROUPS_FROM: i16 = 9;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::OffsetCommitRequest) -> Outcome {
    let request = request(core, ctx, body);
    ask(core, ctx, Request::OffsetCommit(request))
}

fn request<S: LogStore>(core: &Core<S>, ctx: &Ctx, body: &messages::OffsetCommitRequest) -> OffsetCommitRequest {
    let topics = body.topics.iter().map(|topic| CommitTopic {
        name: shared(&topic.name),
        topic_id: core.meta.topic(&topic.name).map_or(Uuid::nil(), |t| t.id),
        partitions: topic
            .partitions
            .iter()
            .map(|p| CommitPartition {
                partition: p.partition_index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.as_ref().map_or_else(|| Arc::from(""), shared),
                refused: refusal(core, ctx, &topic.name, p.partition_index),
            })
            .collect(),
    });
    OffsetCommitRequest {
        group_id: shared(&body.group_id),
        generation: body.generation_id_or_member_epoch,
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
        knows_consumer_groups: ctx.version >= CONSUMER_GROUPS_FROM,
        retention_ms: (body.retention_time_ms >= 0).then_some(body.retention_time_ms),
        topics: topics.collect(),
        transaction: None,
    }
}

pub(super) fn answer(ctx: &Ctx, response: &OffsetCommitResponse) -> Outcome {
    if response.transactional {
        return txn_offset_commit::answer(ctx, response);
    }
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|(partition, error)| {
            OffsetCommitResponsePartition::default().with_partition_index(*partition).with_error_code(error.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(TopicName(wire(&topic.name)))
            .with_partitions(partitions.collect())
    });
    ctx.reply(&messages::OffsetCommitResponse::default().with_topics(topics.collect()))
}
