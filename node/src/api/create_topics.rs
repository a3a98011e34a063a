//! CreateTopics. Answered when the topics are durable in the metadata.

use std::collections::{BTreeMap, BTreeSet};
use wherry_metadata::acl::Operation;

use uuid::Uuid;
use wherry_metadata::{Change, Command, MetadataError};

use super::errors::{ApiError, shown};
use super::{Ctx, Outcome, configs};
use crate::core::coordinators::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_CONFIGS_PER_RESOURCE, MAX_NEW_PARTITIONS_PER_REQUEST, MAX_TOPICS_PER_CHANGE};
use wherry_wire::codec::messages::create_topics_request::CreatableTopic;
use wherry_wire::codec::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use wherry_wire::codec::messages::{CreateTopicsRequest, CreateTopicsResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

/// Names that other systems give to topics of their own; clients look them up and must not find a user's topic there.
const RESERVED: [&str; 4] = [OFFSETS_TOPIC, TRANSACTIONS_TOPIC, "__share_group_state", "__cluster_metadata"];

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: CreateTopicsResponse,
    /// Place in the response of each command.
    places: Vec<usize>,
}

/// Checks every topic by itself; the good ones are made even if others are not.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &CreateTopicsRequest) -> Outcome {
    let mut response = CreateTopicsResponse::default();
    let mut commands = Vec::new();
    let mut places = Vec::new();
    let twice = named_twice(&request.topics);
    let mut room = MAX_NEW_PARTITIONS_PER_REQUEST;
    for (n, topic) in request.topics.iter().enumerate() {
        let checked = if n >= MAX_TOPICS_PER_CHANGE {
            Err(ApiError::new(
                ResponseError::PolicyViolation,
                format!("at most {MAX_TOPICS_PER_CHANGE} topics in one request"),
            ))
        } else if twice.contains(&topic.name.0) {
            Err(ApiError::new(ResponseError::InvalidRequest, "the topic is named twice in this request"))
        } else {
            command(core, ctx, topic, request.validate_only, &mut room)
        };
        let mut result = CreatableTopicResult::default().with_name(topic.name.clone());
        result.num_partitions = -1;
        result.replication_factor = -1;
        match checked {
            Ok(command) => {
                places.push(response.topics.len());
                commands.push(command);
            }
            Err(error) => fail(&mut result, &error),
        }
        response.topics.push(result);
    }
    if request.validate_only || commands.is_empty() {
        for (command, place) in commands.iter().zip(&places) {
            if let Some(result) = response.topics.get_mut(*place) {
                describe_planned(result, command);
            }
        }
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::CreateTopics(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::CreateTopics(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(result) = pending.response.topics.get_mut(*place) {
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
        let Some(result) = pending.response.topics.get_mut(*place) else { continue };
        match outcome {
            Ok(Change::TopicCreated { id }) => describe_made(core, result, id),
            Ok(_) => {}
            Err(error) => fail(result, &ApiError::from(&error)),
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}

fn fail(result: &mut CreatableTopicResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn named_twice(topics: &[CreatableTopic]) -> BTreeSet<StrBytes> {
    let mut seen = BTreeSet::new();
    topics.iter().filter(|t| !seen.insert(t.name.as_str())).map(|t| t.name.0.clone()).collect()
}

/// Whoever may create topics in the cluster may create any.
pub(super) fn may_create<S: LogStore>(core: &Core<S>, ctx: &Ctx, name: &str) -> bool {
    core.allows_cluster(ctx, Operation::Create) || core.allows_topic(ctx, Operation::Create, name)
}

/// What the state machine and this node say about a command, before it is logged.
pub(crate) fn check<S: LogStore>(core: &Core<S>, command: &Command) -> Result<(), ApiError> {
    if let Command::CreateTopic { name, .. } = command
        && RESERVED.contains(&name.as_str())
    {
        return Err(ApiError::new(
            ResponseError::InvalidTopicException,
            format!("the name '{name}' is reserved for the system"),
        ));
    }
    core.meta.check(command).map_err(|error| ApiError::from(&error))
}

fn command<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    topic: &CreatableTopic,
    validate_only: bool,
    room: &mut usize,
) -> Result<Command, ApiError> {
    if !may_create(core, ctx, &topic.name) {
        return Err(ResponseError::TopicAuthorizationFailed.into());
    }
    if topic.configs.len() > MAX_CONFIGS_PER_RESOURCE {
        let text = format!("at most {MAX_CONFIGS_PER_RESOURCE} configuration entries for one topic");
        return Err(ApiError::new(ResponseError::InvalidConfig, text));
    }
    let (partitions, replication_factor, assignment) = size(core, topic)?;
    let command = Command::CreateTopic {
        name: topic.name.to_string(),
        id: core.entropy.uuid(),
        partitions,
        replication_factor,
        configs: entries(topic)?,
        internal: false,
        assignment,
    };
    match check(core, &command) {
        // This node may be behind, and the topic gone: the metadata themselves decide.
        Err(ApiError { error: ResponseError::TopicAlreadyExists, .. })
            if core.config.cluster.is_some() && !validate_only => {}
        checked => checked?,
    }
    let wanted = topic.assignments.len().max(usize::try_from(partitions).unwrap_or(0));
    *room = room.checked_sub(wanted).ok_or_else(|| {
        let text = format!("at most {MAX_NEW_PARTITIONS_PER_REQUEST} new partitions in one request");
        ApiError::new(ResponseError::PolicyViolation, text)
    })?;
    Ok(command)
}

/// Partitions, replicas of each, and who has them, if the request says.
type Size = (i32, i16, Option<Vec<Vec<i32>>>);

fn size<S: LogStore>(core: &Core<S>, topic: &CreatableTopic) -> Result<Size, ApiError> {
    if topic.assignments.is_empty() {
        let partitions = if topic.num_partitions == -1 { core.config.default_partitions } else { topic.num_partitions };
        let replicas = match topic.replication_factor {
            -1 => core.config.default_replication_factor,
            asked => asked,
        };
        return Ok((partitions, replicas, None));
    }
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        return Err(ApiError::new(
            ResponseError::InvalidRequest,
            "give either assignments, or a number of partitions and a replication factor",
        ));
    }
    let mut assigned: Vec<(i32, Vec<i32>)> = topic
        .assignments
        .iter()
        .map(|a| (a.partition_index, a.broker_ids.iter().map(|broker| broker.0).collect()))
        .collect();
    assigned.sort_unstable();
    if !assigned.iter().map(|(index, _)| *index).eq(0..i32::try_from(assigned.len()).unwrap_or(i32::MAX)) {
        return Err(ApiError::new(
            ResponseError::InvalidReplicaAssignment,
            "assignments must be for partitions 0, 1, 2 and so on",
        ));
    }
    Ok((-1, -1, Some(assigned.into_iter().map(|(_, nodes)| nodes).collect())))
}

fn entries(topic: &CreatableTopic) -> Result<BTreeMap<String, String>, ApiError> {
    topic
        .configs
        .iter()
        .map(|entry| match &entry.value {
            Some(value) => Ok((entry.name.to_string(), value.to_string())),
            None => Err(ApiError::new(
                ResponseError::InvalidConfig,
                format!("the configuration {} has no value", shown(&entry.name)),
            )),
        })
        .collect()
}

fn describe_planned(result: &mut CreatableTopicResult, command: &Command) {
    if let Command::CreateTopic { partitions, replication_factor, configs, assignment, .. } = command {
        let assigned = assignment.as_ref();
        result.num_partitions = assigned.map_or(*partitions, |a| i32::try_from(a.len()).unwrap_or(i32::MAX));
        let replicas = assigned.and_then(|a| i16::try_from(a.first()?.len()).ok());
        result.replication_factor = replicas.unwrap_or(*replication_factor);
        result.configs = Some(described(|key| configs.get(key).cloned()));
    }
}

fn describe_made<S: LogStore>(core: &Core<S>, result: &mut CreatableTopicResult, id: Uuid) {
    let Some(topic) = core.meta.topic_by_id(id) else { return };
    result.topic_id = id;
    result.num_partitions = topic.partition_count();
    result.replication_factor = topic.replication_factor;
    result.configs = Some(described(|key| topic.overrides.get(key).cloned()));
}

fn described(value: impl Fn(&str) -> Option<String>) -> Vec<CreatableTopicConfigs> {
    wherry_metadata::config_keys()
        .iter()
        .map(|key| {
            let set = value(key.name);
            let source = if set.is_some() { configs::SOURCE_TOPIC } else { configs::SOURCE_DEFAULT };
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(key.name))
                .with_config_source(source)
                .with_value(Some(set.map_or(StrBytes::from_static_str(key.default), StrBytes::from_string)))
        })
        .collect()
}
