//! CreateAcls, DescribeAcls and DeleteAcls: who may do what.

use std::collections::BTreeMap;

use wherry_metadata::acl::{Acl, AclFilter, Operation, PatternFilter, PatternType, Permission, ResourceType};
use wherry_metadata::{Change, Command, MetadataError};

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{ACLS_PER_COMMAND, MAX_ACLS_PER_REQUEST};
use wherry_wire::codec::messages::create_acls_request::AclCreation;
use wherry_wire::codec::messages::create_acls_response::AclCreationResult;
use wherry_wire::codec::messages::delete_acls_request::DeleteAclsFilter;
use wherry_wire::codec::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsMatchingAcl};
use wherry_wire::codec::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use wherry_wire::codec::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse, DescribeAclsRequest,
    DescribeAclsResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

/// In filters: whatever it is.
const ANY: i8 = 1;
/// In filters: every rule that has to do with a name.
const MATCH: i8 = 2;

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) enum Pending {
    /// CreateAcls, with the places of the results that each command is about.
    Create(Ctx, CreateAclsResponse, Vec<Vec<usize>>),
    /// DeleteAcls, with the place of the result that each command is about.
    Delete(Ctx, DeleteAclsResponse, Vec<usize>),
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(ResponseError::InvalidRequest, why)
}

/// Without an authorizer rules would only look as if they protected something.
fn disabled<S: LogStore>(core: &Core<S>) -> Option<ApiError> {
    let text = "No Authorizer is configured on this node: set authorization";
    core.config.authorization.is_none().then(|| ApiError::new(ResponseError::SecurityDisabled, text))
}

/// Lists what the filter finds, by resource.
pub(crate) fn describe<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeAclsRequest) -> Outcome {
    let mut response = DescribeAclsResponse::default();
    let filter = filter(
        (request.resource_type_filter, request.pattern_type_filter, request.resource_name_filter.as_ref()),
        (request.principal_filter.as_ref(), request.host_filter.as_ref()),
        (request.operation, request.permission_type),
    );
    match disabled(core).map_or(filter, Err) {
        Ok(filter) => response.resources = found(core, &filter),
        Err(error) => {
            response.error_code = error.code();
            response.error_message = error.text();
        }
    }
    ctx.reply(&response)
}

fn found<S: LogStore>(core: &Core<S>, filter: &AclFilter) -> Vec<DescribeAclsResource> {
    let mut by_resource: BTreeMap<(ResourceType, PatternType, String), Vec<AclDescription>> = BTreeMap::new();
    for acl in core.meta.acls().iter().filter(|acl| filter.matches(acl)) {
        let described = AclDescription::default()
            .with_principal(text(&acl.principal))
            .with_host(text(&acl.host))
            .with_operation(acl.operation.code())
            .with_permission_type(acl.permission.code());
        by_resource.entry((acl.resource, acl.pattern, acl.name)).or_default().push(described);
    }
    let resource = |((resource, pattern, name), acls): ((ResourceType, PatternType, String), _)| {
        DescribeAclsResource::default()
            .with_resource_type(resource.code())
            .with_pattern_type(pattern.code())
            .with_resource_name(StrBytes::from_string(name))
            .with_acls(acls)
    };
    by_resource.into_iter().map(resource).collect()
}

type Whom<'a> = (Option<&'a StrBytes>, Option<&'a StrBytes>);

fn filter(
    (resource, pattern, name): (i8, i8, Option<&StrBytes>),
    (principal, host): Whom<'_>,
    (operation, permission): (i8, i8),
) -> Result<AclFilter, ApiError> {
    let unknown = |what: &str, code: i8| invalid(format!("{what} {code} is not known"));
    let pattern = match pattern {
        ANY => PatternFilter::Any,
        MATCH => PatternFilter::Match,
        code => PatternFilter::Only(PatternType::from_code(code).ok_or_else(|| unknown("pattern type", code))?),
    };
    Ok(AclFilter {
        resource: wanted(resource, ResourceType::from_code).ok_or_else(|| unknown("resource type", resource))?,
        pattern,
        name: name.map(ToString::to_string),
        principal: principal.map(ToString::to_string),
        host: host.map(ToString::to_string),
        operation: wanted(operation, Operation::from_code).ok_or_else(|| unknown("operation", operation))?,
        permission: wanted(permission, Permission::from_code).ok_or_else(|| unknown("permission type", permission))?,
    })
}

/// None: nobody knows that code. `Some(None)`: whatever it is.
fn wanted<T>(code: i8, known: impl FnOnce(i8) -> Option<T>) -> Option<Option<T>> {
    if code == ANY { Some(None) } else { known(code).map(Some) }
}

/// Adds rules; each that makes no sense is refused on its own.
pub(crate) fn create<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &CreateAclsRequest) -> Outcome {
    if request.creations.len() > MAX_ACLS_PER_REQUEST {
        return Outcome::Close(format!("{} ACLs created at once", request.creations.len()));
    }
    let mut response = CreateAclsResponse::default();
    let mut good = Vec::new();
    let disabled = disabled(core);
    for creation in &request.creations {
        let mut result = AclCreationResult::default();
        match disabled.clone().map_or_else(|| acl(creation), Err) {
            Ok(acl) => good.push((response.results.len(), acl)),
            Err(error) => fail_creation(&mut result, &error),
        }
        response.results.push(result);
    }
    if good.is_empty() {
        return ctx.reply(&response);
    }
    let places = good.chunks(ACLS_PER_COMMAND).map(|chunk| chunk.iter().map(|(place, _)| *place).collect()).collect();
    let command =
        |chunk: &[(usize, Acl)]| Command::CreateAcls { acls: chunk.iter().map(|(_, acl)| acl.clone()).collect() };
    let commands = good.chunks(ACLS_PER_COMMAND).map(command).collect();
    propose(core, commands, Pending::Create(ctx.clone(), response, places))
}

fn acl(creation: &AclCreation) -> Result<Acl, ApiError> {
    let unfit = |what: &str, code: i8| invalid(format!("an ACL can't have the {what} {code}"));
    let (resource, pattern) = (creation.resource_type, creation.resource_pattern_type);
    let (operation, permission) = (creation.operation, creation.permission_type);
    let acl = Acl {
        resource: ResourceType::from_code(resource).ok_or_else(|| unfit("resource type", resource))?,
        pattern: PatternType::from_code(pattern).ok_or_else(|| unfit("pattern type", pattern))?,
        name: creation.resource_name.to_string(),
        principal: creation.principal.to_string(),
        host: creation.host.to_string(),
        operation: Operation::from_code(operation).ok_or_else(|| unfit("operation", operation))?,
        permission: Permission::from_code(permission).ok_or_else(|| unfit("permission type", permission))?,
    };
    acl.check().map_err(|error| ApiError::from(&error))?;
    Ok(acl)
}

fn fail_creation(result: &mut AclCreationResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

/// Removes what filters find; each that makes no sense is refused on its own.
pub(crate) fn delete<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DeleteAclsRequest) -> Outcome {
    if request.filters.len() > MAX_ACLS_PER_REQUEST {
        return Outcome::Close(format!("{} ACL filters at once", request.filters.len()));
    }
    let mut response = DeleteAclsResponse::default();
    let (mut commands, mut places) = (Vec::new(), Vec::new());
    let disabled = disabled(core);
    for asked in &request.filters {
        let mut result = DeleteAclsFilterResult::default();
        match disabled.clone().map_or_else(|| filter_of(asked), Err) {
            Ok(filter) => {
                places.push(response.filter_results.len());
                commands.push(Command::DeleteAcls { filters: vec![filter] });
            }
            Err(error) => fail_filter(&mut result, &error),
        }
        response.filter_results.push(result);
    }
    if commands.is_empty() {
        return ctx.reply(&response);
    }
    propose(core, commands, Pending::Delete(ctx.clone(), response, places))
}

fn filter_of(asked: &DeleteAclsFilter) -> Result<AclFilter, ApiError> {
    filter(
        (asked.resource_type_filter, asked.pattern_type_filter, asked.resource_name_filter.as_ref()),
        (asked.principal_filter.as_ref(), asked.host_filter.as_ref()),
        (asked.operation, asked.permission_type),
    )
}

fn fail_filter(result: &mut DeleteAclsFilterResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn propose<S: LogStore>(core: &mut Core<S>, commands: Vec<Command>, pending: Pending) -> Outcome {
    match core.propose(commands, AfterCommit::AlterAcls(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::AlterAcls(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn not_logged(pending: Pending, error: &ApiError) -> Outcome {
    match pending {
        Pending::Create(ctx, mut response, places) => {
            let results = &mut response.results;
            for place in places.iter().flatten() {
                results.get_mut(*place).into_iter().for_each(|result| fail_creation(result, error));
            }
            ctx.reply(&response)
        }
        Pending::Delete(ctx, mut response, places) => {
            let results = &mut response.filter_results;
            for place in &places {
                results.get_mut(*place).into_iter().for_each(|result| fail_filter(result, error));
            }
            ctx.reply(&response)
        }
    }
}

/// Goes on when the commands are committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    pending: Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    let (id, outcome) = match pending {
        Pending::Create(ctx, response, places) => (ctx.id, created(&ctx, response, &places, results)),
        Pending::Delete(ctx, response, places) => (ctx.id, deleted(&ctx, response, &places, results)),
    };
    core.finish(id, outcome);
}

fn created(
    ctx: &Ctx,
    mut response: CreateAclsResponse,
    places: &[Vec<usize>],
    results: Vec<Result<Change, MetadataError>>,
) -> Outcome {
    for (places, outcome) in places.iter().zip(results) {
        let Err(error) = outcome else { continue };
        let error = ApiError::from(&error);
        for place in places {
            if let Some(result) = response.results.get_mut(*place) {
                fail_creation(result, &error);
            }
        }
    }
    ctx.reply(&response)
}

fn deleted(
    ctx: &Ctx,
    mut response: DeleteAclsResponse,
    places: &[usize],
    results: Vec<Result<Change, MetadataError>>,
) -> Outcome {
    for (place, outcome) in places.iter().zip(results) {
        let Some(result) = response.filter_results.get_mut(*place) else { continue };
        match outcome {
            Ok(Change::AclsDeleted(found)) => {
                result.matching_acls = found.into_iter().flatten().map(|acl| matching(&acl)).collect();
            }
            Ok(_) => {}
            Err(error) => fail_filter(result, &ApiError::from(&error)),
        }
    }
    ctx.reply(&response)
}

fn matching(acl: &Acl) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_resource_type(acl.resource.code())
        .with_resource_name(text(&acl.name))
        .with_pattern_type(acl.pattern.code())
        .with_principal(text(&acl.principal))
        .with_host(text(&acl.host))
        .with_operation(acl.operation.code())
        .with_permission_type(acl.permission.code())
}
