//! IncrementalAlterConfigs, and the older AlterConfigs that replaces everything that is set. Topics and groups: a node's own
//! settings come from its configuration and are the same after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wherry_metadata::acl::Operation;
use wherry_metadata::{Change, Command, ConfigKind, MetadataError, Topic, config_key};

use super::errors::{ApiError, shown};
use super::{Ctx, Outcome, configs, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_CONFIGS_PER_RESOURCE, MAX_TOPICS_PER_CHANGE};
use wherry_wire::codec::messages::alter_configs_response::AlterConfigsResourceResponse as LegacyResult;
use wherry_wire::codec::messages::incremental_alter_configs_request::AlterConfigsResource;
use wherry_wire::codec::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use wherry_wire::codec::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;
const CLEANUP: &str = "cleanup.policy";

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    legacy: bool,
    answers: Vec<Answer>,
    places: Vec<usize>,
}

#[derive(Debug)]
struct Answer {
    resource_type: i8,
    resource_name: StrBytes,
    error: Option<ApiError>,
}

/// Keys to set (a value) or to reset (none).
type Wishes = BTreeMap<String, Option<String>>;

/// What has a configuration that can be altered.
#[derive(Debug)]
enum Entity {
    Topic(Arc<Topic>),
    /// A group, which need not exist.
    Group(String),
}

impl Entity {
    fn command(&self, set: Wishes) -> Command {
        match self {
            Self::Topic(topic) => Command::AlterTopicConfigs { id: topic.id, set },
            Self::Group(group) => Command::AlterGroupConfigs { group: group.clone(), set },
        }
    }

    /// What is set now.
    fn keys<S: LogStore>(&self, core: &Core<S>) -> Vec<&'static str> {
        match self {
            Self::Topic(topic) => topic.overrides.keys().copied().collect(),
            Self::Group(group) => {
                let keys = wherry_metadata::group_config_keys().iter().map(|key| key.name);
                keys.filter(|key| core.meta.group_config(group, key).is_some()).collect()
            }
        }
    }

    /// The words of a list.
    fn list(&self, name: &str) -> Option<&str> {
        match self {
            Self::Topic(topic) => {
                let key = config_key(name).filter(|key| key.kind == ConfigKind::List)?;
                Some(topic.overrides.get(key.name).map_or(key.default, String::as_str))
            }
            Self::Group(_) => None,
        }
    }
}

/// IncrementalAlterConfigs.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &IncrementalAlterConfigsRequest) -> Outcome {
    let wishes = request.resources.iter().map(|r| {
        let wish = if only_resets_node(r) {
            may_change_node(core, ctx).map(|()| None)
        } else {
            entity(core, ctx, r.resource_type, &r.resource_name).and_then(|entity| incremental(entity, r)).map(Some)
        };
        (r.resource_type, r.resource_name.clone(), wish)
    });
    let wishes = wishes.collect();
    change(core, ctx, false, request.validate_only, wishes)
}

/// AlterConfigs.
pub(crate) fn handle_legacy<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AlterConfigsRequest) -> Outcome {
    let wishes = request.resources.iter().map(|r| {
        let entries = r.configs.iter().map(|e| (e.name.to_string(), e.value.as_ref().map(ToString::to_string)));
        let wish = entity(core, ctx, r.resource_type, &r.resource_name).and_then(|entity| {
            if r.configs.len() > MAX_CONFIGS_PER_RESOURCE {
                return Err(too_many());
            }
            // Whatever is set now and not named goes back to its default.
            let mut wish: Wishes = entity.keys(core).into_iter().map(|key| (key.to_owned(), None)).collect();
            wish.extend(entries);
            Ok(Some((entity, wish)))
        });
        (r.resource_type, r.resource_name.clone(), wish)
    });
    let wishes = wishes.collect();
    change(core, ctx, true, request.validate_only, wishes)
}

fn too_many() -> ApiError {
    ApiError::new(ResponseError::InvalidConfig, format!("at most {MAX_CONFIGS_PER_RESOURCE} entries for one resource"))
}

fn may_change_node<S: LogStore>(core: &Core<S>, ctx: &Ctx) -> Result<(), ApiError> {
    let may = core.allows_cluster(ctx, Operation::AlterConfigs);
    may.then_some(()).ok_or_else(|| ResponseError::ClusterAuthorizationFailed.into())
}

fn entity<S: LogStore>(core: &Core<S>, ctx: &Ctx, resource_type: i8, name: &str) -> Result<Entity, ApiError> {
    match resource_type {
        configs::TOPIC => Ok(Entity::Topic(Arc::clone(core.topic_for(ctx, Operation::AlterConfigs, name)?))),
        configs::GROUP if !core.allows_group(ctx, Operation::AlterConfigs, name) => {
            Err(ResponseError::GroupAuthorizationFailed.into())
        }
        configs::GROUP if name.is_empty() => {
            Err(ApiError::new(ResponseError::InvalidRequest, "Default group resources are not allowed."))
        }
        configs::GROUP => Ok(Entity::Group(name.to_owned())),
        configs::BROKER => may_change_node(core, ctx).and(Err(ApiError::new(
            ResponseError::InvalidConfig,
            "a node's settings are in its own configuration and change with a restart",
        ))),
        other => Err(ApiError::new(
            ResponseError::InvalidRequest,
            format!("resources of type {other} have no configuration here"),
        )),
    }
}

/// Nothing is set on a node in this way, so there is nothing to reset: tools do that to clean up after themselves.
fn only_resets_node(resource: &AlterConfigsResource) -> bool {
    resource.resource_type == configs::BROKER && resource.configs.iter().all(|c| c.config_operation == DELETE)
}

fn incremental(entity: Entity, resource: &AlterConfigsResource) -> Result<(Entity, Wishes), ApiError> {
    if resource.configs.len() > MAX_CONFIGS_PER_RESOURCE {
        return Err(too_many());
    }
    let mut wishes = Wishes::new();
    for entry in &resource.configs {
        let name = entry.name.to_string();
        let wish = match (entry.config_operation, &entry.value) {
            (DELETE, _) => None,
            (SET, Some(value)) => Some(value.to_string()),
            (APPEND, Some(value)) => Some(edited(&entity, &name, value, true)?),
            (SUBTRACT, Some(value)) => Some(edited(&entity, &name, value, false)?),
            (SET | APPEND | SUBTRACT, None) => {
                return Err(invalid(format!("the configuration {} has no value", shown(&name))));
            }
            (other, _) => {
                return Err(ApiError::new(ResponseError::InvalidRequest, format!("unknown operation {other}")));
            }
        };
        if wishes.insert(name, wish).is_some() {
            let text = format!("the configuration {} is named twice", shown(&entry.name));
            return Err(ApiError::new(ResponseError::InvalidRequest, text));
        }
    }
    Ok((entity, wishes))
}

fn invalid(text: String) -> ApiError {
    ApiError::new(ResponseError::InvalidConfig, text)
}

/// A list with words added or taken away.
fn edited(entity: &Entity, name: &str, words: &str, add: bool) -> Result<String, ApiError> {
    let now = entity.list(name);
    let now = now.ok_or_else(|| invalid(format!("{} is not a list; set it instead", shown(name))))?;
    let mut list: Vec<&str> = now.split(',').filter(|w| !w.is_empty()).collect();
    for word in words.split(',').map(str::trim) {
        if !add {
            list.retain(|w| *w != word);
        } else if !list.contains(&word) {
            list.push(word);
        }
    }
    Ok(list.join(","))
}

/// What the system keeps is kept for as long as it is the last of its key.
fn check_cleanup(entity: &Entity, wishes: &Wishes) -> Result<(), ApiError> {
    match entity {
        Entity::Topic(topic) if wishes.contains_key(CLEANUP) => {
            topics::check_not_internal(topic, "changing the cleanup.policy of")
        }
        Entity::Topic(_) | Entity::Group(_) => Ok(()),
    }
}

/// What is wanted of a resource; nothing at all is granted at once.
type Wish = (i8, StrBytes, Result<Option<(Entity, Wishes)>, ApiError>);

fn change<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, legacy: bool, dry: bool, wishes: Vec<Wish>) -> Outcome {
    let (mut commands, mut places, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for (resource_type, resource_name, wish) in wishes {
        let checked = wish.and_then(|wish| {
            let Some((entity, set)) = wish else { return Ok(None) };
            if !seen.insert((resource_type, resource_name.clone())) || seen.len() > MAX_TOPICS_PER_CHANGE {
                return Err(ApiError::new(ResponseError::InvalidRequest, "named twice, or too many resources"));
            }
            check_cleanup(&entity, &set)?;
            let command = entity.command(set);
            core.meta.check(&command).map_err(|error| ApiError::from(&error))?;
            Ok(Some(command))
        });
        let error = match checked {
            Ok(None) => None,
            Ok(Some(command)) => {
                places.push(answers.len());
                commands.push(command);
                None
            }
            Err(error) => Some(error),
        };
        answers.push(Answer { resource_type, resource_name, error });
    }
    let pending = Pending { ctx: ctx.clone(), legacy, answers, places };
    if dry || commands.is_empty() {
        return answer(&pending);
    }
    match core.propose(commands, AfterCommit::AlterConfigs(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::AlterConfigs(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(answer) = pending.answers.get_mut(*place) {
            answer.error = Some(error.clone());
        }
    }
    answer(&pending)
}

/// Goes on when the commands are committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    mut pending: Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    for (place, outcome) in pending.places.iter().zip(results) {
        if let (Some(answer), Err(error)) = (pending.answers.get_mut(*place), outcome) {
            answer.error = Some(ApiError::from(&error));
        }
    }
    let outcome = answer(&pending);
    core.finish(pending.ctx.id, outcome);
}

fn answer(pending: &Pending) -> Outcome {
    let code = |a: &Answer| a.error.as_ref().map_or(0, ApiError::code);
    let text = |a: &Answer| a.error.as_ref().and_then(ApiError::text);
    if pending.legacy {
        let result = |a: &Answer| {
            LegacyResult::default()
                .with_error_code(code(a))
                .with_error_message(text(a))
                .with_resource_type(a.resource_type)
                .with_resource_name(a.resource_name.clone())
        };
        let responses = pending.answers.iter().map(result).collect();
        return pending.ctx.reply(&AlterConfigsResponse::default().with_responses(responses));
    }
    let result = |a: &Answer| {
        AlterConfigsResourceResponse::default()
            .with_error_code(code(a))
            .with_error_message(text(a))
            .with_resource_type(a.resource_type)
            .with_resource_name(a.resource_name.clone())
    };
    let responses = pending.answers.iter().map(result).collect();
    pending.ctx.reply(&IncrementalAlterConfigsResponse::default().with_responses(responses))
}
