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
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::txn_offset_commit_request::TxnOffsetCommitRequestPartition;
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
    let request = request(core, ctx, body);
    if !core.allows_transactional_id(ctx, Operation::Write, &body.transactional_id) {
        return refuse(ctx, body, ResponseError::TransactionalIdAuthorizationFailed);
    }
    if !core.allows_group(ctx, Operation::Read, &body.group_id) {
        return refuse(ctx, body, ResponseError::GroupAuthorizationFailed);
    }
    let commit = TransactionalCommit {
        transactional_id: body.transactional_id.to_string(),
        add: ctx.version >= ADDS_FROM,
        knows_abortable: ctx.version >= ABORTABLE_FROM,
        request,
    };
    core.commit_in_transaction(ctx, commit)
}

/// The same error for every partition.
fn refuse(ctx: &Ctx, body: &messages::TxnOffsetCommitRequest, error: ResponseError) -> Outcome {
    let topics = body.topics.iter().map(|topic| {
        let one = |p: &TxnOffsetCommitRequestPartition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(error.code())
        };
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partitions.iter().map(one).collect())
    });
    ctx.reply(&messages::TxnOffsetCommitResponse::default().with_topics(topics.collect()))
}

fn request<S: LogStore>(core: &Core<S>, ctx: &Ctx, body: &messages::TxnOffsetCommitRequest) -> OffsetCommitRequest {
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
        generation: body.generation_id,
        member_id: shared(&body.member_id),
        instance_id: shared_option(body.group_instance_id.as_ref()),
        knows_consumer_groups: false,
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
