//! AlterPartitionReassignments and ListPartitionReassignments: partitions move to other nodes (KIP-455).

use std::collections::BTreeSet;

use wherry_metadata::{Change, Command, MetadataError, Partition, PartitionId, Topic};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::alter_partition_reassignments_request::ReassignablePartition;
use wherry_wire::codec::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use wherry_wire::codec::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use wherry_wire::codec::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ListPartitionReassignmentsRequest,
    ListPartitionReassignmentsResponse, TopicName,
};

use super::errors::ApiError;
use super::metadata::nodes;
use super::{Ctx, Outcome, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_PARTITIONS_PER_CHANGE, MAX_PARTITIONS_PER_REQUEST, PARTITIONS_PER_COMMAND};

type Move = (PartitionId, Option<Vec<i32>>);

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: AlterPartitionReassignmentsResponse,
    /// Topic and partition in the response of each move.
    places: Vec<(usize, usize)>,
}

/// Begins and cancels reassignments, each on its own.
pub(crate) fn alter<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: &AlterPartitionReassignmentsRequest,
) -> Outcome {
    let mut response = AlterPartitionReassignmentsResponse::default();
    response.allow_replication_factor_change = request.allow_replication_factor_change;
    let (mut moves, mut places): (Vec<Move>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for topic in &request.topics {
        let mut result = ReassignableTopicResponse::default().with_name(topic.name.clone());
        for asked in &topic.partitions {
            let mut one = ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
            match planned(core, &topic.name, asked, request.allow_replication_factor_change, &mut seen) {
                Ok(planned) => {
                    places.push((response.responses.len(), result.partitions.len()));
                    moves.push(planned);
                }
                Err(error) => fail(&mut one, &error),
            }
            result.partitions.push(one);
        }
        response.responses.push(result);
    }
    if moves.is_empty() {
        return ctx.reply(&response);
    }
    let commands = moves.chunks(PARTITIONS_PER_COMMAND).map(|m| Command::Reassign { partitions: m.to_vec() }).collect();
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::Reassign(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::Reassign(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn planned<S: LogStore>(
    core: &Core<S>,
    topic: &TopicName,
    asked: &ReassignablePartition,
    may_change_factor: bool,
    seen: &mut BTreeSet<PartitionId>,
) -> Result<Move, ApiError> {
    let unknown = || ApiError::new(ResponseError::UnknownTopicOrPartition, "there is no such topic or partition");
    let topic = topics::by_name(&core.meta, topic).map_err(|_| unknown())?;
    let partition = topic.partition(asked.partition_index).ok_or_else(unknown)?;
    let id = PartitionId { topic: topic.id, partition: asked.partition_index };
    if seen.len() >= MAX_PARTITIONS_PER_CHANGE {
        let text = format!("at most {MAX_PARTITIONS_PER_CHANGE} partitions in one request");
        return Err(ApiError::new(ResponseError::PolicyViolation, text));
    }
    if !seen.insert(id) {
        return Err(ApiError::new(ResponseError::InvalidRequest, "the partition is named twice in this request"));
    }
    let Some(replicas) = &asked.replicas else { return Ok((id, None)) };
    if replicas.len() > wherry_metadata::limits::MAX_REPLICAS {
        let text = format!("a partition has at most {} replicas", wherry_metadata::limits::MAX_REPLICAS);
        return Err(ApiError::new(ResponseError::InvalidReplicaAssignment, text));
    }
    if !may_change_factor {
        check_factor(partition, replicas.len())?;
    }
    Ok((id, Some(replicas.iter().map(|node| node.0).collect())))
}

fn check_factor(partition: &Partition, asked: usize) -> Result<(), ApiError> {
    let now = partition.target().len();
    if asked == now {
        return Ok(());
    }
    let text = format!("the partition has {now} replicas and may not get {asked}: the request forbids it");
    Err(ApiError::new(ResponseError::InvalidReplicationFactor, text))
}

fn fail(result: &mut ReassignablePartitionResponse, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for (topic, partition) in &pending.places {
        let topic = pending.response.responses.get_mut(*topic);
        if let Some(result) = topic.and_then(|t| t.partitions.get_mut(*partition)) {
            fail(result, error);
        }
    }
    pending.ctx.reply(&pending.response)
}

/// Goes on when the commands are committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    mut pending: Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    let outcomes = results.into_iter().flat_map(|result| match result {
        Ok(Change::Reassigned(outcomes)) => outcomes,
        Ok(_) | Err(_) => Vec::new(),
    });
    for ((topic, partition), (_, outcome)) in pending.places.iter().zip(outcomes) {
        let topic = pending.response.responses.get_mut(*topic);
        if let (Some(result), Err(error)) = (topic.and_then(|t| t.partitions.get_mut(*partition)), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}

/// Tells which reassignments are under way.
pub(crate) fn list<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ListPartitionReassignmentsRequest) -> Outcome {
    let mut response = ListPartitionReassignmentsResponse::default();
    response.topics = match &request.topics {
        None => core.meta.topics_from("").filter_map(|topic| ongoing(topic, topic.numbered())).collect(),
        Some(asked) => {
            let mut seen = BTreeSet::new();
            let mut topics = Vec::new();
            for one in asked.iter().take(MAX_PARTITIONS_PER_REQUEST) {
                let Some(topic) = core.meta.topic(&one.name).filter(|topic| seen.insert(topic.id)) else { continue };
                let wanted: BTreeSet<i32> = one.partition_indexes.iter().copied().collect();
                topics.extend(ongoing(topic, topic.numbered().filter(|(id, _)| wanted.contains(&id.partition))));
            }
            topics
        }
    };
    ctx.reply(&response)
}

fn ongoing<'a>(
    topic: &Topic,
    partitions: impl Iterator<Item = (PartitionId, &'a Partition)>,
) -> Option<OngoingTopicReassignment> {
    let moving = partitions.filter(|(_, partition)| partition.is_reassigning());
    let moving: Vec<OngoingPartitionReassignment> = moving
        .map(|(id, partition)| {
            OngoingPartitionReassignment::default()
                .with_partition_index(id.partition)
                .with_replicas(nodes(&partition.replicas))
                .with_adding_replicas(nodes(&partition.adding))
                .with_removing_replicas(nodes(&partition.removing))
        })
        .collect();
    let name = TopicName(topics::name_of(topic));
    (!moving.is_empty()).then(|| OngoingTopicReassignment::default().with_name(name).with_partitions(moving))
}
