//! AlterClientQuotas and DescribeClientQuotas (KIP-546): how much users, clients and addresses may ask for.

use std::collections::BTreeMap;

use wherry_metadata::quota::{QuotaEntity, QuotaKey, QuotaName, QuotaValue};
use wherry_metadata::{Change, Command, MetadataError};

use super::errors::{ApiError, shown};
use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::MAX_QUOTAS_PER_REQUEST;
use wherry_wire::codec::messages::alter_client_quotas_request::{self, OpData};
use wherry_wire::codec::messages::alter_client_quotas_response::{self, EntryData};
use wherry_wire::codec::messages::describe_client_quotas_request::ComponentData;
use wherry_wire::codec::messages::describe_client_quotas_response;
use wherry_wire::codec::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest, DescribeClientQuotasResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

const USER: &str = "user";
const CLIENT_ID: &str = "client-id";
const IP: &str = "ip";
/// Kinds of match in a description.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: AlterClientQuotasResponse,
    places: Vec<usize>,
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(ResponseError::InvalidRequest, why)
}

/// Each entity is altered on its own.
pub(crate) fn alter<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AlterClientQuotasRequest) -> Outcome {
    if request.entries.len() > MAX_QUOTAS_PER_REQUEST {
        return Outcome::Close(format!("quotas of {} entities altered at once", request.entries.len()));
    }
    let mut response = AlterClientQuotasResponse::default();
    let (mut commands, mut places) = (Vec::new(), Vec::new());
    for entry in &request.entries {
        let mut result = EntryData::default().with_error_message(None);
        result.entity = entry
            .entity
            .iter()
            .map(|part| {
                alter_client_quotas_response::EntityData::default()
                    .with_entity_type(part.entity_type.clone())
                    .with_entity_name(part.entity_name.clone())
            })
            .collect();
        match command(core, entry) {
            Ok(command) => {
                places.push(response.entries.len());
                commands.push(command);
            }
            Err(error) => fail(&mut result, &error),
        }
        response.entries.push(result);
    }
    if request.validate_only || commands.is_empty() {
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::AlterQuotas(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::AlterQuotas(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn command<S: LogStore>(core: &Core<S>, entry: &alter_client_quotas_request::EntryData) -> Result<Command, ApiError> {
    let parts = entry.entity.iter().map(|part| (part.entity_type.as_str(), part.entity_name.as_ref()));
    let entity = entity(parts)?;
    let mut set = BTreeMap::new();
    for op in &entry.ops {
        let (key, value) = change(op)?;
        if set.insert(key, value).is_some() {
            return Err(invalid(format!("'{}' is altered twice", key.name())));
        }
    }
    let command = Command::AlterQuotas { entity, set };
    core.meta.check(&command).map_err(|error| ApiError::from(&error))?;
    Ok(command)
}

fn entity<'a>(parts: impl Iterator<Item = (&'a str, Option<&'a StrBytes>)>) -> Result<QuotaEntity, ApiError> {
    let mut entity = QuotaEntity::default();
    for (kind, name) in parts {
        let place = match kind {
            USER => &mut entity.user,
            CLIENT_ID => &mut entity.client_id,
            IP => &mut entity.ip,
            other => return Err(invalid(format!("'{}' is no kind of entity", shown(other)))),
        };
        let name = name.map_or(QuotaName::Default, |name| QuotaName::Named(name.to_string()));
        if place.replace(name).is_some() {
            return Err(invalid(format!("an entity with two of kind '{kind}'")));
        }
    }
    Ok(entity)
}

fn change(op: &OpData) -> Result<(QuotaKey, Option<QuotaValue>), ApiError> {
    let key = QuotaKey::named(&op.key).ok_or_else(|| invalid(format!("'{}' is no quota", shown(&op.key))))?;
    if op.remove {
        return Ok((key, None));
    }
    let value = QuotaValue::new(op.value);
    let value =
        value.ok_or_else(|| invalid(format!("a quota '{}' of {}: it must be above zero", key.name(), op.value)));
    value.map(|value| (key, Some(value)))
}

fn fail(result: &mut EntryData, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(result) = pending.response.entries.get_mut(*place) {
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
        if let (Some(result), Err(error)) = (pending.response.entries.get_mut(*place), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}

/// Lists the quotas of the entities that are meant.
pub(crate) fn describe<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeClientQuotasRequest) -> Outcome {
    let mut response = DescribeClientQuotasResponse::default();
    match Wanted::new(&request.components, request.strict) {
        Ok(wanted) => {
            let found = core.meta.quotas().iter().filter(|(entity, _)| wanted.is_met(entity));
            response.entries = Some(found.map(|(entity, set)| described(entity, set)).collect());
        }
        Err(error) => {
            response.error_code = error.code();
            response.error_message = error.text();
            response.entries = None;
        }
    }
    ctx.reply(&response)
}

/// What an entity must have of one kind.
enum Part {
    Name(QuotaName),
    Any,
}

/// Which entities are meant.
struct Wanted {
    parts: BTreeMap<&'static str, Part>,
    /// They must have nothing else.
    strict: bool,
}

impl Wanted {
    fn new(components: &[ComponentData], strict: bool) -> Result<Self, ApiError> {
        let mut parts = BTreeMap::new();
        for component in components {
            let kind = [USER, CLIENT_ID, IP].into_iter().find(|kind| *kind == component.entity_type.as_str());
            let kind =
                kind.ok_or_else(|| invalid(format!("'{}' is no kind of entity", shown(&component.entity_type))))?;
            let part = match (component.match_type, &component._match) {
                (EXACT, Some(name)) => Part::Name(QuotaName::Named(name.to_string())),
                (DEFAULT, None) => Part::Name(QuotaName::Default),
                (SPECIFIED, None) => Part::Any,
                (_, _) => return Err(invalid(format!("a match for '{kind}' that makes no sense"))),
            };
            if parts.insert(kind, part).is_some() {
                return Err(invalid(format!("two matches for '{kind}'")));
            }
        }
        Ok(Self { parts, strict })
    }

    fn is_met(&self, entity: &QuotaEntity) -> bool {
        let has = [(USER, &entity.user), (CLIENT_ID, &entity.client_id), (IP, &entity.ip)];
        has.into_iter().all(|(kind, name)| match (self.parts.get(kind), name) {
            (None, None) => true,
            (None, Some(_)) => !self.strict,
            (Some(Part::Any), name) => name.is_some(),
            (Some(Part::Name(wanted)), name) => name.as_ref() == Some(wanted),
        })
    }
}

fn described(entity: &QuotaEntity, set: &BTreeMap<QuotaKey, QuotaValue>) -> describe_client_quotas_response::EntryData {
    use describe_client_quotas_response::{EntityData, EntryData, ValueData};
    let parts = [(USER, &entity.user), (CLIENT_ID, &entity.client_id), (IP, &entity.ip)];
    let part = |(kind, name): (&'static str, &Option<QuotaName>)| {
        let name = match name.as_ref()? {
            QuotaName::Default => None,
            QuotaName::Named(name) => Some(StrBytes::from_string(name.clone())),
        };
        Some(EntityData::default().with_entity_type(StrBytes::from_static_str(kind)).with_entity_name(name))
    };
    let value = |(key, value): (&QuotaKey, &QuotaValue)| {
        ValueData::default().with_key(StrBytes::from_static_str(key.name())).with_value(value.get())
    };
    EntryData::default()
        .with_entity(parts.into_iter().filter_map(part).collect())
        .with_values(set.iter().map(value).collect())
}
