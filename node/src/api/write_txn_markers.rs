//! WriteTxnMarkers: ends transactions in partitions that this node leads, whatever their coordinator knows of them. Tools
//! abort hanging transactions with it (KIP-664). Answered when every marker is committed or refused.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use wherry_metadata::PartitionId;
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::write_txn_markers_request::WritableTxnMarker;
use wherry_wire::codec::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use wherry_wire::codec::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::{Ctx, Outcome, topics};
use crate::core::markers::{Marker, MarkerResults, MarkerToken};
use crate::core::store::LogStore;
use crate::core::{Core, Then};
use crate::limits::MAX_PARTITIONS_PER_REQUEST;

/// Where the result of a partition belongs: topic and partition in the result of its marker.
type Place = (PartitionId, usize, usize);

#[derive(Debug)]
struct Op {
    ctx: Ctx,
    response: WriteTxnMarkersResponse,
    left: usize,
}

/// One marker of a request.
#[derive(Debug)]
struct One {
    op: usize,
    marker: usize,
    places: Vec<Place>,
}

/// Requests with markers that are not committed. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    ops: Slab<Op>,
    markers: HashMap<MarkerToken, One, RandomState>,
    last: u64,
}

/// Begins a request.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &WriteTxnMarkersRequest) -> Outcome {
    let topics = request.markers.iter().flat_map(|marker| &marker.topics);
    let partitions: usize = topics.map(|topic| topic.partition_indexes.len()).sum();
    if partitions > MAX_PARTITIONS_PER_REQUEST {
        return Outcome::Close(format!("{partitions} partitions in one request"));
    }
    if !(core.allows_cluster(ctx, Operation::Alter) || core.allows_cluster(ctx, Operation::ClusterAction)) {
        return ctx.reply(&refused(request));
    }
    let mut response = WriteTxnMarkersResponse::default();
    let mut calls = Vec::new();
    for marker in &request.markers {
        let (result, places) = prepare(core, marker);
        response.markers.push(result);
        calls.push((marker_of(marker), places));
    }
    if calls.is_empty() {
        return ctx.reply(&response);
    }
    let requests = &mut core.markers.requests;
    let op = requests.ops.insert(Op { ctx: ctx.clone(), response, left: calls.len() });
    let mut begun = Vec::with_capacity(calls.len());
    for (n, (marker, places)) in calls.into_iter().enumerate() {
        requests.last += 1;
        let token = MarkerToken::of_request(requests.last);
        let partitions = places.iter().map(|(id, ..)| *id).collect();
        requests.markers.insert(token, One { op, marker: n, places });
        begun.push((token, marker, partitions));
    }
    for (token, marker, partitions) in begun {
        core.write_markers(token, marker, partitions);
    }
    Outcome::Later
}

/// The same error for every partition.
fn refused(request: &WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let partition = |index: &i32| {
        let error_code = ResponseError::ClusterAuthorizationFailed.code();
        WritableTxnMarkerPartitionResult::default().with_partition_index(*index).with_error_code(error_code)
    };
    let marker = |marker: &WritableTxnMarker| {
        let topics = marker.topics.iter().map(|topic| {
            WritableTxnMarkerTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(topic.partition_indexes.iter().map(partition).collect())
        });
        WritableTxnMarkerResult::default().with_producer_id(marker.producer_id).with_topics(topics.collect())
    };
    WriteTxnMarkersResponse::default().with_markers(request.markers.iter().map(marker).collect())
}

/// The version of the request that is spoken does not say which transaction.version it is about: as Kafka does, that of
/// markers that may have the epoch of what they end.
fn marker_of(marker: &WritableTxnMarker) -> Marker {
    Marker {
        producer_id: marker.producer_id.0,
        producer_epoch: marker.producer_epoch,
        coordinator_epoch: marker.coordinator_epoch,
        commit: marker.transaction_result,
        transaction_version: 0,
    }
}

/// The result of a marker as far as it is known at once, and the partitions to write it to.
fn prepare<S: LogStore>(core: &Core<S>, marker: &WritableTxnMarker) -> (WritableTxnMarkerResult, Vec<Place>) {
    let mut result = WritableTxnMarkerResult::default().with_producer_id(marker.producer_id);
    let mut places = Vec::new();
    for topic in &marker.topics {
        let mut one = WritableTxnMarkerTopicResult::default().with_name(topic.name.clone());
        let found = topics::by_name(&core.meta, &topic.name).ok();
        for index in &topic.partition_indexes {
            let id = found.map(|found| PartitionId { topic: found.id, partition: *index });
            let place = (result.topics.len(), one.partitions.len());
            places.extend(id.map(|id| (id, place.0, place.1)));
            let error_code = ResponseError::UnknownTopicOrPartition.code();
            let partition = WritableTxnMarkerPartitionResult::default().with_partition_index(*index);
            one.partitions.push(partition.with_error_code(error_code));
        }
        result.topics.push(one);
    }
    (result, places)
}

/// One marker has all its results.
pub(crate) fn written<S: LogStore>(core: &mut Core<S>, token: MarkerToken, results: MarkerResults) {
    let requests = &mut core.markers.requests;
    let Some(one) = requests.markers.remove(&token) else { return };
    let Some(op) = requests.ops.get_mut(one.op) else { return };
    let mut by_id: HashMap<PartitionId, Vec<Result<(), ResponseError>>, RandomState> = HashMap::default();
    results.into_iter().for_each(|(id, result)| by_id.entry(id).or_default().push(result));
    for (id, topic, partition) in one.places {
        let result = by_id.get_mut(&id).and_then(Vec::pop);
        let marker = op.response.markers.get_mut(one.marker);
        let place = marker.and_then(|m| m.topics.get_mut(topic)).and_then(|t| t.partitions.get_mut(partition));
        if let (Some(result), Some(place)) = (result, place) {
            place.error_code = result.err().map_or(0, |error| error.code());
        }
    }
    op.left = op.left.saturating_sub(1);
    if op.left > 0 {
        return;
    }
    let op = requests.ops.remove(one.op);
    match op.ctx.encode(&op.response) {
        Ok(chunks) => core.go_on(Then::Respond { request: op.ctx.id, chunks, appended_ns: None }),
        Err(reason) => core.finish(op.ctx.id, Outcome::Close(reason)),
    }
}
