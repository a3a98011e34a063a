//! AddOffsetsToTxn: the offsets of a group are to be part of a transaction. They are kept in one partition of an internal topic,
//! and that is what is added.

use super::{older_fencing, shared};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::coordinators::{CoordinatorTopic, OFFSETS_TOPIC};
use crate::core::store::LogStore;
use crate::core::transactions::Waiter;
use crate::groups::partition_of;
use crate::transactions::types::AddRequest;
use crate::transactions::{Producer, Request, Response, TransactionVersion};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};

/// From this version on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AddOffsetsToTxnRequest) -> Outcome {
    if !core.allows_transactional_id(ctx, Operation::Write, &request.transactional_id) {
        return answer(ctx, Some(ResponseError::TransactionalIdAuthorizationFailed));
    }
    if !core.allows_group(ctx, Operation::Read, &request.group_id) {
        return answer(ctx, Some(ResponseError::GroupAuthorizationFailed));
    }
    let Some(partitions) = core.offsets_partitions() else {
        core.make_topic(CoordinatorTopic::Offsets);
        return answer(ctx, Some(ResponseError::CoordinatorNotAvailable));
    };
    let producer = Producer {
        transactional_id: shared(&request.transactional_id),
        producer_id: request.producer_id.0,
        producer_epoch: request.producer_epoch,
    };
    let partition = (shared(OFFSETS_TOPIC), partition_of(&request.group_id, partitions));
    let body = AddRequest { producer, partitions: vec![partition], version: TransactionVersion::V1 };
    core.ask_transactions(Waiter::AddOffsets(ctx.clone()), Request::Add(body));
    Outcome::Later
}

/// The coordinator's answer.
pub(crate) fn answered<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, response: Response) {
    let error = match response {
        Response::Add(result) => result.err(),
        Response::Init(_) | Response::End(_) => return,
    };
    let outcome = answer(ctx, error.map(|error| older_fencing(error, ctx.version >= FENCED_FROM)));
    core.finish(ctx.id, outcome);
}

fn answer(ctx: &Ctx, error: Option<ResponseError>) -> Outcome {
    ctx.reply(&AddOffsetsToTxnResponse::default().with_error_code(error.map_or(0, |error| error.code())))
}
