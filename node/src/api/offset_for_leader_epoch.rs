//! OffsetForLeaderEpoch (KIP-101, KIP-320): where an epoch ended, so that a client can tell whether what it read still
//! stands.

use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use wherry_wire::codec::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use wherry_wire::types::{LeaderEpoch, Offset};

/// Answers for each partition; an epoch that is not known gives -1 and -1.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &OffsetForLeaderEpochRequest) -> Outcome {
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in &request.topics {
        let mut result = OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone());
        for partition in &topic.partitions {
            let found = end_of(
                core,
                ctx,
                &topic.topic,
                partition.partition,
                partition.current_leader_epoch,
                partition.leader_epoch,
            );
            let mut one = EpochEndOffset::default().with_partition(partition.partition);
            one.leader_epoch = -1;
            one.end_offset = -1;
            match found {
                Ok(Some((epoch, end))) => {
                    one.leader_epoch = epoch.0;
                    one.end_offset = end.0;
                }
                Ok(None) => {}
                Err(error) => one.error_code = error.code(),
            }
            result.partitions.push(one);
        }
        response.topics.push(result);
    }
    ctx.reply(&response)
}

fn end_of<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    name: &str,
    partition: i32,
    known_epoch: i32,
    asked: i32,
) -> Result<Option<(LeaderEpoch, Offset)>, ResponseError> {
    let topic = core.topic_for(ctx, Operation::Describe, name).map_err(|error| error.error)?;
    let log = topics::log(topic, partition)?;
    topics::check_epoch(known_epoch, core.known_epoch(topic, partition))?;
    let leader = core.leads(log)?;
    let info = core.store.info(log).ok_or(ResponseError::UnknownTopicOrPartition)?;
    match LeaderEpoch(asked) {
        // The epoch that goes on has no end yet: it ends where consumers can see to.
        epoch if epoch == leader => {
            let committed = core.committed_end(log).ok_or(ResponseError::OffsetNotAvailable)?;
            Ok(Some((leader, committed)))
        }
        epoch if epoch > leader => Ok(None),
        // Of an epoch older than all that is left everything is gone: it ended where the log begins now. Without this
        // answer a consumer at the start of an emptied log would believe that its position was truncated.
        epoch => Ok(core.store.epoch_end(log, epoch).or(Some((epoch, info.log_start)))),
    }
}
