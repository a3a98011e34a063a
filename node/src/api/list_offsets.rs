//! ListOffsets: the offset at a time, or at an end of the log. Lookups that need the disk are answered when it has.

use std::collections::HashMap;
use wherry_metadata::acl::Operation;

use foldhash::fast::RandomState;
use slab::Slab;
use wherry_wire::types::{LogId, Offset};

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::store::{LogError, LogStore, Lookup, ReadToken};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::list_offsets_request::ListOffsetsPartition;
use wherry_wire::codec::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use wherry_wire::codec::messages::{ListOffsetsRequest, ListOffsetsResponse};

/// First version with leader epochs.
const EPOCH_FROM: i16 = 4;
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

#[derive(Debug)]
struct Op {
    ctx: Ctx,
    response: ListOffsetsResponse,
    outstanding: usize,
}

/// Where an awaited lookup belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    op: usize,
    log: LogId,
    topic: usize,
    partition: usize,
}

/// Requests that wait for the disk. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    ops: Slab<Op>,
    tokens: HashMap<ReadToken, Place, RandomState>,
}

impl Lookups {
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

enum Found {
    Ready(Offset, i64, i32),
    Nothing,
    Pending(ReadToken, LogId),
}

/// Answers, or starts what needs the disk.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ListOffsetsRequest) -> Outcome {
    let mut response = ListOffsetsResponse::default();
    let mut waiting = Vec::new();
    let read_committed = request.isolation_level == 1;
    for (t, topic) in request.topics.iter().enumerate() {
        let mut result = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        for (p, partition) in topic.partitions.iter().enumerate() {
            let mut one = ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index);
            set(&mut one, ctx, Ok(None));
            let found = find(core, ctx, &topic.name, partition, read_committed);
            match found {
                Ok(Found::Ready(offset, timestamp, epoch)) => set(&mut one, ctx, Ok(Some((offset, timestamp, epoch)))),
                Ok(Found::Nothing) => {}
                Ok(Found::Pending(token, log)) => waiting.push((token, log, t, p)),
                Err(error) => set(&mut one, ctx, Err(error)),
            }
            result.partitions.push(one);
        }
        response.topics.push(result);
    }
    if waiting.is_empty() {
        return ctx.reply(&response);
    }
    let op = core.lookups.ops.insert(Op { ctx: ctx.clone(), response, outstanding: waiting.len() });
    for (token, log, topic, partition) in waiting {
        core.lookups.tokens.insert(token, Place { op, log, topic, partition });
    }
    Outcome::Later
}

/// A lookup came back from the disk.
pub(crate) fn lookup_done<S: LogStore>(
    core: &mut Core<S>,
    token: ReadToken,
    result: Result<Option<(Offset, i64)>, LogError>,
) {
    let Some(place) = core.lookups.tokens.remove(&token) else { return };
    let found =
        result.map(|found| found.map(|(offset, timestamp)| (offset, timestamp, epoch_at(core, place.log, offset))));
    let Some(op) = core.lookups.ops.get_mut(place.op) else { return };
    if let Some(one) = op.response.topics.get_mut(place.topic).and_then(|t| t.partitions.get_mut(place.partition)) {
        set(one, &op.ctx, found.map_err(|error| ApiError::from(&error)));
    }
    op.outstanding = op.outstanding.saturating_sub(1);
    if op.outstanding == 0 {
        let op = core.lookups.ops.remove(place.op);
        let outcome = op.ctx.reply(&op.response);
        core.finish(op.ctx.id, outcome);
    }
}

fn set(one: &mut ListOffsetsPartitionResponse, ctx: &Ctx, found: Result<Option<(Offset, i64, i32)>, ApiError>) {
    one.offset = -1;
    one.timestamp = -1;
    one.leader_epoch = -1;
    match found {
        Ok(Some((offset, timestamp, epoch))) => {
            one.offset = offset.0;
            one.timestamp = timestamp;
            if ctx.version >= EPOCH_FROM {
                one.leader_epoch = epoch;
            }
        }
        Ok(None) => {}
        Err(error) => one.error_code = error.code(),
    }
}

fn find<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    name: &str,
    wanted: &ListOffsetsPartition,
    read_committed: bool,
) -> Result<Found, ApiError> {
    let ListOffsetsPartition { partition_index: partition, current_leader_epoch: known_epoch, timestamp, .. } = *wanted;
    let topic = core.topic_for(ctx, Operation::Describe, name)?;
    let log = topics::log(topic, partition)?;
    topics::check_epoch(known_epoch, core.known_epoch(topic, partition))?;
    let epoch = core.leads(log)?;
    let info = core.store.info(log).ok_or(ResponseError::UnknownTopicOrPartition)?;
    if timestamp == EARLIEST || timestamp == EARLIEST_LOCAL {
        return Ok(Found::Ready(info.log_start, -1, epoch_at(core, log, info.log_start)));
    }
    // A new leader does not know yet what is committed (trap 10).
    let committed = core.committed_end(log).ok_or(ResponseError::OffsetNotAvailable)?;
    let visible = if read_committed { core.store.stable_end(log, committed) } else { committed };
    match timestamp {
        LATEST => Ok(Found::Ready(visible, -1, epoch.0)),
        LATEST_TIERED => Ok(Found::Nothing),
        MAX_TIMESTAMP => {
            let lookup = core.store.find_max_timestamp(log, visible);
            by_lookup(core, log, lookup)
        }
        0.. => {
            let lookup = core.store.find_offset_by_time(log, timestamp, visible);
            by_lookup(core, log, lookup)
        }
        _ => Err(ResponseError::InvalidRequest.into()),
    }
}

/// -1 where the log has no batch at the offset.
fn epoch_at<S: LogStore>(core: &Core<S>, log: LogId, offset: Offset) -> i32 {
    core.store.epoch_at(log, offset).map_or(-1, |epoch| epoch.0)
}

fn by_lookup<S: LogStore>(core: &Core<S>, log: LogId, lookup: Result<Lookup, LogError>) -> Result<Found, ApiError> {
    match lookup {
        Ok(Lookup::Ready(Some((offset, timestamp)))) => {
            Ok(Found::Ready(offset, timestamp, epoch_at(core, log, offset)))
        }
        Ok(Lookup::Ready(None)) => Ok(Found::Nothing),
        Ok(Lookup::Pending(token)) => Ok(Found::Pending(token, log)),
        Err(error) => Err(ApiError::from(&error)),
    }
}
