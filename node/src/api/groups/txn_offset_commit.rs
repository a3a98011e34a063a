//! TxnOffsetCommit: offsets that count when their producer's transaction commits. Before they are written, the coordinator of the
//! transaction is asked whether the group's partition belongs to it (KIP-890); from version 5 on it adds it.

use std::sync::Arc;

use uuid::Uuid;

use super::{refusal, shared, shared_option, wire};
use crate::api::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{Core, TransactionalCommit};
use crate::groups::types::{
    CommitPartition, CommitTopic, GroupError, OffsetCommitRequest, OffsetCommitResponse, Transaction,
};
use wherry_wire::codec::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use wherry_wire::codec::messages::{self, TopicName};

/// From this version on the partition is added by whoever coordinates the group.
const ADDS_FROM: i16 = 5;
/// From this version on clients know TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 4;

/// Asks the coordinator of the transaction first.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::TxnOffsetCommitRequest) -> Outcome {
    let request = request(core, body);
    let commit = TransactionalCommit {
        transactional_id: body.transactional_id.to_string(),
        add: ctx.version >= ADDS_FROM,
        knows_abortable: ctx.version >= ABORTABLE_FROM,
        request,
    };
    core.commit_in_transaction(ctx, commit)
}

fn request<S: LogStore>(core: &Core<S>, body: &messages::TxnOffsetCommitRequest) -> OffsetCommitRequest {
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
                refused: refusal(core, &topic.name, p.partition_index),
            })
            .collect(),
    });
    OffsetCommitRequest {
        group_id: shared(&body.group_id),
        generation: body.generation_id,
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
        retention_ms: None,
        topics: topics.collect(),
        transaction: Some(Transaction { producer_id: body.producer_id.0, producer_epoch: body.producer_epoch }),
    }
}

/// The coordinator's answer.
pub(crate) fn answer(ctx: &Ctx, response: &OffsetCommitResponse) -> Outcome {
    let one = |(partition, error): &(i32, GroupError)| {
        TxnOffsetCommitResponsePartition::default().with_partition_index(*partition).with_error_code(error.code())
    };
    let topics = response.topics.iter().map(|topic| {
        TxnOffsetCommitResponseTopic::default()
            .with_name(TopicName(wire(&topic.name)))
            .with_partitions(topic.partitions.iter().map(one).collect())
    });
    ctx.reply(&messages::TxnOffsetCommitResponse::default().with_topics(topics.collect()))
}
