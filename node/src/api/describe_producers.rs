//! DescribeProducers (KIP-664): who produces to a partition, and which transactions are open in it. Every replica answers
//! for its own log: a tool may compare them.

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::store::{LogStore, ProducerInfo};
use crate::limits::MAX_PARTITIONS_PER_REQUEST;
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use wherry_wire::codec::messages::{DescribeProducersRequest, DescribeProducersResponse, ProducerId};

/// Answers at once.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeProducersRequest) -> Outcome {
    let partitions: usize = request.topics.iter().map(|topic| topic.partition_indexes.len()).sum();
    if partitions > MAX_PARTITIONS_PER_REQUEST {
        return Outcome::Close(format!("{partitions} partitions in one request"));
    }
    let mut response = DescribeProducersResponse::default();
    for topic in &request.topics {
        let one = |index: &i32| partition(core, ctx, &topic.name, *index);
        let partitions = topic.partition_indexes.iter().map(one).collect();
        response.topics.push(TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions));
    }
    ctx.reply(&response)
}

fn partition<S: LogStore>(core: &Core<S>, ctx: &Ctx, name: &str, index: i32) -> PartitionResponse {
    let response = PartitionResponse::default().with_partition_index(index);
    match producers(core, ctx, name, index) {
        Ok(active) => response.with_active_producers(active),
        Err(error) => response.with_error_code(error.code()).with_error_message(error.text()),
    }
}

fn producers<S: LogStore>(core: &Core<S>, ctx: &Ctx, name: &str, index: i32) -> Result<Vec<ProducerState>, ApiError> {
    let log = topics::log(core.topic_for(ctx, Operation::Read, name)?, index)?;
    if core.store.info(log).is_none() {
        return Err(ApiError::new(ResponseError::NotLeaderOrFollower, "this node is no replica of the partition"));
    }
    Ok(core.store.producers(log).iter().map(state).collect())
}

fn state(info: &ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(info.producer_id))
        .with_producer_epoch(i32::from(info.producer_epoch))
        .with_last_sequence(info.last_sequence)
        .with_last_timestamp(info.last_ms)
        .with_coordinator_epoch(info.coordinator_epoch)
        .with_current_txn_start_offset(info.open_from.map_or(-1, |offset| offset.0))
}
