//! CreatePartitions: a topic's number of partitions grows.

use std::collections::BTreeSet;
use wherry_metadata::acl::Operation;

use wherry_metadata::{Change, Command, MetadataError};

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_NEW_PARTITIONS_PER_REQUEST, MAX_TOPICS_PER_CHANGE};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::create_partitions_request::CreatePartitionsTopic;
use wherry_wire::codec::messages::create_partitions_response::CreatePartitionsTopicResult;
use wherry_wire::codec::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: CreatePartitionsResponse,
    places: Vec<usize>,
}

/// Grows those that can grow.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &CreatePartitionsRequest) -> Outcome {
    let mut response = CreatePartitionsResponse::default();
    let (mut commands, mut places) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut room = i32::try_from(MAX_NEW_PARTITIONS_PER_REQUEST).unwrap_or(i32::MAX);
    for topic in &request.topics {
        let mut result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        let checked = if seen.insert(topic.name.as_str()) && seen.len() <= MAX_TOPICS_PER_CHANGE {
            command(core, ctx, topic, &mut room)
        } else {
            Err(ApiError::new(ResponseError::InvalidRequest, "the topic is named twice, or there are too many"))
        };
        match checked {
            Ok(command) => {
                places.push(response.results.len());
                commands.push(command);
            }
            Err(error) => fail(&mut result, &error),
        }
        response.results.push(result);
    }
    if request.validate_only || commands.is_empty() {
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::CreatePartitions(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::CreatePartitions(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn command<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    asked: &CreatePartitionsTopic,
    room: &mut i32,
) -> Result<Command, ApiError> {
    let topic = core.topic_for(ctx, Operation::Alter, &asked.name)?;
    // A group's partition is told by their number: groups would lose what others know of them.
    topics::check_not_internal(topic, "changing the partitions of")?;
    let assignment = asked.assignments.as_ref().map(|assignments| {
        let nodes = assignments.iter().map(|a| a.broker_ids.iter().map(|broker| broker.0).collect());
        nodes.collect::<Vec<Vec<i32>>>()
    });
    let command = Command::GrowTopic { id: topic.id, partitions: asked.count, assignment };
    core.meta.check(&command).map_err(|error| ApiError::from(&error))?;
    let more = asked.count.saturating_sub(topic.partition_count());
    *room = room.saturating_sub(more);
    if *room < 0 {
        let text = format!("at most {MAX_NEW_PARTITIONS_PER_REQUEST} new partitions in one request");
        return Err(ApiError::new(ResponseError::PolicyViolation, text));
    }
    Ok(command)
}

fn fail(result: &mut CreatePartitionsTopicResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(result) = pending.response.results.get_mut(*place) {
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
    for (place, outcome) in pending.places.iter().zip(results) {
        if let (Some(result), Err(error)) = (pending.response.results.get_mut(*place), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}
