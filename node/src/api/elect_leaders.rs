//! ElectLeaders: the preferred replicas lead again, or, where nobody who has everything is left, any that runs.

use std::collections::{BTreeMap, BTreeSet};

use wherry_metadata::{Change, Command, Elected, MetadataError, Outcome as PartitionOutcome, PartitionId};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use wherry_wire::codec::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_PARTITIONS_PER_CHANGE, PARTITIONS_PER_COMMAND};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// First version with a kind of election, and with an error of the whole.
const KINDS_FROM: i16 = 1;

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: ElectLeadersResponse,
    /// Topic and partition in the response of each election; none if all were asked for.
    places: Option<Vec<(usize, usize)>>,
}

/// Elects for those partitions that are named, or for all that need it.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ElectLeadersRequest) -> Outcome {
    let unclean = match request.election_type {
        _ if ctx.version < KINDS_FROM => false,
        PREFERRED => false,
        UNCLEAN => true,
        _ => return refused(ctx, ResponseError::InvalidRequest),
    };
    if unclean {
        tracing::warn!(partitions = ?request.topic_partitions.as_ref().map(Vec::len), "an unclean election was asked for");
    }
    let mut response = ElectLeadersResponse::default();
    let (commands, places) = match &request.topic_partitions {
        None => (vec![Command::ElectLeaders { partitions: None, unclean }], None),
        Some(asked) => {
            let mut found = Vec::new();
            let mut seen = BTreeSet::new();
            for topic in asked {
                let mut result = ReplicaElectionResult::default().with_topic(topic.topic.clone());
                for partition in &topic.partitions {
                    let mut one = PartitionResult::default().with_partition_id(*partition);
                    match find(core, &topic.topic, *partition, &mut seen) {
                        Ok(id) => {
                            found.push((id, (response.replica_election_results.len(), result.partition_result.len())));
                        }
                        Err(error) => fail(&mut one, &error),
                    }
                    result.partition_result.push(one);
                }
                response.replica_election_results.push(result);
            }
            let (ids, places): (Vec<PartitionId>, Vec<(usize, usize)>) = found.into_iter().unzip();
            let command = |ids: &[PartitionId]| Command::ElectLeaders { partitions: Some(ids.to_vec()), unclean };
            (ids.chunks(PARTITIONS_PER_COMMAND).map(command).collect(), Some(places))
        }
    };
    if commands.is_empty() {
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::ElectLeaders(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((_, AfterCommit::ElectLeaders(pending))) => refused(&pending.ctx, ResponseError::RequestTimedOut),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

/// The partition that is meant, once.
fn find<S: LogStore>(
    core: &Core<S>,
    topic: &TopicName,
    partition: i32,
    seen: &mut BTreeSet<PartitionId>,
) -> Result<PartitionId, ApiError> {
    let unknown = || ApiError::new(ResponseError::UnknownTopicOrPartition, "there is no such topic or partition");
    let topic = topics::by_name(&core.meta, topic).map_err(|_| unknown())?;
    let log = topics::log(topic, partition).map_err(|_| unknown())?;
    let id = PartitionId { topic: log.topic, partition };
    if seen.len() >= MAX_PARTITIONS_PER_CHANGE {
        let text = format!("at most {MAX_PARTITIONS_PER_CHANGE} partitions in one request");
        return Err(ApiError::new(ResponseError::PolicyViolation, text));
    }
    if !seen.insert(id) {
        return Err(ApiError::new(ResponseError::InvalidRequest, "the partition is named twice in this request"));
    }
    Ok(id)
}

fn refused(ctx: &Ctx, error: ResponseError) -> Outcome {
    let mut response = ElectLeadersResponse::default();
    if ctx.version >= KINDS_FROM {
        response.error_code = error.code();
    }
    ctx.reply(&response)
}

fn fail(result: &mut PartitionResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

/// Goes on when the commands are committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    mut pending: Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    let outcomes = results.into_iter().flat_map(|result| match result {
        Ok(Change::LeadersElected(outcomes)) => outcomes,
        // Nothing else comes of such a command: what is wrong is said for each partition.
        Ok(_) | Err(_) => Vec::new(),
    });
    match pending.places.take() {
        Some(places) => fill(&mut pending.response, &places, outcomes),
        None => pending.response.replica_election_results = all(core, outcomes),
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}

fn fill(
    response: &mut ElectLeadersResponse,
    places: &[(usize, usize)],
    outcomes: impl Iterator<Item = PartitionOutcome<Elected>>,
) {
    for ((topic, partition), (_, outcome)) in places.iter().zip(outcomes) {
        let topic = response.replica_election_results.get_mut(*topic);
        if let (Some(result), Err(error)) = (topic.and_then(|t| t.partition_result.get_mut(*partition)), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
}

/// Where all were asked for, only what came of it is told.
fn all<S: LogStore>(
    core: &Core<S>,
    outcomes: impl Iterator<Item = PartitionOutcome<Elected>>,
) -> Vec<ReplicaElectionResult> {
    let mut by_topic: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for (id, outcome) in outcomes {
        let Some(topic) = core.meta.topic_by_id(id.topic) else { continue };
        let mut result = PartitionResult::default().with_partition_id(id.partition);
        if let Err(error) = outcome {
            fail(&mut result, &ApiError::from(&error));
        }
        by_topic.entry(topic.name.to_string()).or_default().push(result);
    }
    let result = |(name, partitions): (String, _)| {
        ReplicaElectionResult::default().with_topic(TopicName(name.into())).with_partition_result(partitions)
    };
    by_topic.into_iter().map(result).collect()
}
