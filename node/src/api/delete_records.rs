//! DeleteRecords: the start of a partition moves up. Answered when that is durable.

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::store::{LogStore, Ticket};
use crate::core::{Core, Then};
use wherry_metadata::Cleanup;
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use wherry_wire::codec::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use wherry_wire::types::Offset;

/// Up to the high watermark.
const HIGH_WATERMARK: i64 = -1;

/// Moves the starts; -1 means everything that consumers can see.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DeleteRecordsRequest) -> Outcome {
    let mut last: Option<Ticket> = None;
    let mut response = DeleteRecordsResponse::default();
    for topic in &request.topics {
        let mut result = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
        for partition in &topic.partitions {
            let moved = delete(core, ctx, &topic.name, partition.partition_index, partition.offset);
            let mut one = DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
            match moved {
                Ok((low, ticket)) => {
                    one.low_watermark = low.0;
                    last = last.max(ticket);
                }
                Err(error) => {
                    one.low_watermark = -1;
                    one.error_code = error.code();
                }
            }
            result.partitions.push(one);
        }
        response.topics.push(result);
    }
    let chunks = match ctx.encode(&response) {
        Ok(chunks) => chunks,
        Err(reason) => return Outcome::Close(reason),
    };
    match last {
        None => Outcome::Reply(chunks),
        Some(ticket) => {
            core.durable.push(ticket, Then::Respond { request: ctx.id, chunks, appended_ns: None });
            Outcome::LaterAlone
        }
    }
}

fn delete<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    name: &str,
    partition: i32,
    offset: i64,
) -> Result<(Offset, Option<Ticket>), ApiError> {
    let topic = core.topic_for(ctx, Operation::Delete, name)?;
    let log = topics::log(topic, partition)?;
    if topic.config.cleanup == Cleanup::Compact {
        return Err(ApiError::new(ResponseError::PolicyViolation, "the topic is compacted, not deleted"));
    }
    core.leads(log)?;
    let committed = core.committed_end(log).ok_or(ResponseError::OffsetNotAvailable)?;
    let info = core.store.info(log).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let before = if offset == HIGH_WATERMARK { committed } else { Offset(offset) };
    if before.0 < 0 || before > committed {
        return Err(ResponseError::OffsetOutOfRange.into());
    }
    if before <= info.log_start {
        return Ok((info.log_start, None));
    }
    let ticket = core.store.delete_records(log, before).map_err(|error| ApiError::from(&error))?;
    Ok((before, Some(ticket)))
}
