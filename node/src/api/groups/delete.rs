//! DeleteGroups.

use super::{ask, shared, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{DeleteRequest, DeleteResponse};
use wherry_wire::codec::messages::delete_groups_response::DeletableGroupResult;
use wherry_wire::codec::messages::{self, GroupId};

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::DeleteGroupsRequest) -> Outcome {
    let request = request(body);
    ask(core, ctx, Request::Delete(request))
}

fn request(body: &messages::DeleteGroupsRequest) -> DeleteRequest {
    DeleteRequest { groups: body.groups_names.iter().map(|g| shared(g)).collect() }
}

pub(super) fn answer(ctx: &Ctx, response: &DeleteResponse) -> Outcome {
    let results = response.results.iter().map(|(group, error)| {
        DeletableGroupResult::default().with_group_id(GroupId(wire(group))).with_error_code(error.code())
    });
    ctx.reply(&messages::DeleteGroupsResponse::default().with_results(results.collect()))
}
