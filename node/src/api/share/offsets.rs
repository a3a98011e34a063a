//! What is asked of the offsets of share groups: the groups' coordinators say whether it may be done, then the share
//! coordinators, wherever they are, do it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{alter_offsets, delete_offsets, describe_offsets};
use crate::api::Ctx;
use crate::core::Core;
use crate::core::share::Asker;
use crate::core::store::LogStore;
use crate::groups::GroupError;
use crate::share::ledger::{Refusal, Request, Response};
use wherry_wire::codec::ResponseError;

/// What goes on with an answer.
#[derive(Debug)]
pub(crate) enum Pending {
    /// A group of a description, with its place in it.
    Describe {
        op: u64,
        place: usize,
    },
    Alter(alter_offsets::Pending),
    Delete(delete_offsets::Pending),
}

/// Descriptions of several groups, each asked for by itself. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Descriptions {
    pub(super) last: u64,
    pub(super) open: BTreeMap<u64, describe_offsets::Op>,
}

/// Asks the share coordinator of a group.
pub(super) fn ask<S: LogStore>(core: &mut Core<S>, pending: Pending, request: Request) {
    core.ask_shares(Asker::Api(Box::new(pending)), request);
}

/// It answers.
pub(crate) fn answered<S: LogStore>(core: &mut Core<S>, pending: Pending, response: Response) {
    match pending {
        Pending::Describe { op, place } => describe_offsets::described(core, op, place, response),
        Pending::Alter(pending) => alter_offsets::altered(core, &pending, &response),
        Pending::Delete(pending) => delete_offsets::deleted(core, &pending, &response),
    }
}

/// What a refusal is on the wire; none for what was done.
pub(super) fn error_of(response: &Response) -> Option<ResponseError> {
    match response {
        Response::Found(_) | Response::Done | Response::Described(_) => None,
        Response::Refused(Refusal::Loading) => Some(ResponseError::CoordinatorLoadInProgress),
        Response::Refused(Refusal::NotAvailable | Refusal::NotCoordinator) => {
            Some(ResponseError::CoordinatorNotAvailable)
        }
        Response::Refused(Refusal::FencedStateEpoch | Refusal::FencedLeader) => Some(ResponseError::UnknownServerError),
        Response::Refused(Refusal::TooMany) => Some(ResponseError::InvalidRequest),
    }
}

/// A group that must have no members, or may have some.
pub(super) fn check_group<S: LogStore>(core: &Core<S>, group: &str, empty: bool) -> Result<Arc<str>, ResponseError> {
    let wire =
        |error: GroupError| ResponseError::try_from_code(error.code()).unwrap_or(ResponseError::UnknownServerError);
    match core.sharers_of(group).map_err(wire)? {
        members if members > 0 && empty => Err(ResponseError::NonEmptyGroup),
        _ => Ok(Arc::from(group)),
    }
}

/// The context, for answers that come later.
pub(super) fn kept(ctx: &Ctx) -> Box<Ctx> {
    Box::new(ctx.clone())
}
