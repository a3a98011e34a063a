//! DeleteTopics, by name or by id. Answered when the deletion is durable; data goes right after.

use uuid::Uuid;
use wherry_metadata::acl::Operation;
use wherry_metadata::{Change, Command, MetadataError};

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::MAX_TOPICS_PER_CHANGE;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::delete_topics_response::DeletableTopicResult;
use wherry_wire::codec::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: DeleteTopicsResponse,
    places: Vec<usize>,
}

/// Deletes those that exist.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: DeleteTopicsRequest) -> Outcome {
    let mut response = DeleteTopicsResponse::default();
    let mut commands = Vec::new();
    let mut places = Vec::new();
    for (n, (name, id)) in asked(request).into_iter().enumerate() {
        let mut result = DeletableTopicResult::default().with_name(name.clone()).with_topic_id(id);
        match find(core, ctx, name.as_ref(), id, n) {
            Ok((found_name, found_id)) => {
                result.name = Some(found_name);
                result.topic_id = found_id;
                places.push(response.responses.len());
                commands.push(Command::DeleteTopic { id: found_id });
            }
            Err(error) => fail(&mut result, &error),
        }
        response.responses.push(result);
    }
    if commands.is_empty() {
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::DeleteTopics(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::DeleteTopics(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn asked(request: DeleteTopicsRequest) -> Vec<(Option<TopicName>, Uuid)> {
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    by_name.chain(request.topics.into_iter().map(|t| (t.name, t.topic_id))).collect()
}

fn find<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    name: Option<&TopicName>,
    id: Uuid,
    n: usize,
) -> Result<(TopicName, Uuid), ApiError> {
    if n >= MAX_TOPICS_PER_CHANGE {
        let text = format!("at most {MAX_TOPICS_PER_CHANGE} topics in one request");
        return Err(ApiError::new(ResponseError::PolicyViolation, text));
    }
    let topic = match name {
        Some(_) if !id.is_nil() => {
            return Err(ApiError::new(
                ResponseError::InvalidRequest,
                "name a topic by its name or by its id, not both",
            ));
        }
        Some(name) => core.topic_for(ctx, Operation::Delete, name)?,
        None => core.topic_for_id(ctx, Operation::Delete, id)?,
    };
    topics::check_not_internal(topic, "deleting")?;
    Ok((TopicName(topics::name_of(topic)), topic.id))
}

fn fail(result: &mut DeletableTopicResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(result) = pending.response.responses.get_mut(*place) {
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
        if let (Some(result), Err(error)) = (pending.response.responses.get_mut(*place), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}
