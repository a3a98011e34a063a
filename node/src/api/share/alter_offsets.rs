//! AlterShareGroupOffsets: an administrator has an empty share group begin at other offsets.

use wherry_metadata::acl::Operation;
use wherry_wire::codec::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition as Partition, AlterShareGroupOffsetsResponseTopic as Topic,
};
use wherry_wire::codec::messages::{AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::offsets::{self, check_group, error_of, kept};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_SHARE_NAMES_PER_REQUEST;
use crate::share::ledger::{Request, Response};

/// A request that is being carried out.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Box<Ctx>,
    body: AlterShareGroupOffsetsResponse,
}

/// Hands what may be altered to the share coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AlterShareGroupOffsetsRequest) -> Outcome {
    let group = if core.allows_group(ctx, Operation::Read, &request.group_id) {
        check_group(core, &request.group_id, true)
    } else {
        Err(ResponseError::GroupAuthorizationFailed)
    };
    let count: usize = request.topics.iter().map(|topic| 1 + topic.partitions.len()).sum();
    let group = match group {
        Ok(_) if count > MAX_SHARE_NAMES_PER_REQUEST => return refused(ctx, ResponseError::InvalidRequest),
        Ok(group) => group,
        Err(error) => return refused(ctx, error),
    };
    let (mut starts, mut responses) = (Vec::new(), Vec::new());
    for asked in &request.topics {
        let found = core.topic_for(ctx, Operation::Read, &asked.topic_name).map_err(|error| error.error);
        let mut topic = Topic::default().with_topic_name(asked.topic_name.clone());
        for partition in &asked.partitions {
            let index = partition.partition_index;
            let known = found.as_ref().map_err(|error| *error).and_then(|topic| match topic.partition(index) {
                Some(_) if partition.start_offset >= 0 => Ok(topic.id),
                Some(_) => Err(ResponseError::InvalidRequest),
                None => Err(ResponseError::UnknownTopicOrPartition),
            });
            topic.partitions.push(match known {
                Ok(id) => {
                    topic.topic_id = id;
                    starts.push((id, index, partition.start_offset));
                    verdict(index, None)
                }
                Err(error) => verdict(index, Some(error)),
            });
        }
        responses.push(topic);
    }
    let body = AlterShareGroupOffsetsResponse::default().with_responses(responses);
    if starts.is_empty() {
        return ctx.reply(&body);
    }
    let pending = offsets::Pending::Alter(Pending { ctx: kept(ctx), body });
    offsets::ask(core, pending, Request::Reset { group, starts });
    Outcome::Later
}

fn verdict(index: i32, error: Option<ResponseError>) -> Partition {
    Partition::default()
        .with_partition_index(index)
        .with_error_code(error.map_or(0, |error| error.code()))
        .with_error_message(error.map(|error| StrBytes::from_string(error.to_string())))
}

fn refused(ctx: &Ctx, error: ResponseError) -> Outcome {
    let text = StrBytes::from_string(error.to_string());
    ctx.reply(&AlterShareGroupOffsetsResponse::default().with_error_code(error.code()).with_error_message(Some(text)))
}

/// It is done, or not.
pub(super) fn altered<S: LogStore>(core: &mut Core<S>, pending: &Pending, response: &Response) {
    let outcome = match error_of(response) {
        None => pending.ctx.reply(&pending.body),
        Some(error) => refused(&pending.ctx, error),
    };
    core.finish(pending.ctx.id, outcome);
}
