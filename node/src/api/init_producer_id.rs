//! InitProducerId: an identity for an idempotent producer, at once; for a transactional one from its coordinator, which
//! fences the producer before it.

use super::transactions::{older_fencing, shared};
use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::transactions::Waiter;
use crate::core::{Core, IdWaiter, ProducerIdGrant};
use crate::transactions::types::InitRequest;
use crate::transactions::{Request, Response};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

/// From this version on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 4;

/// Without a transactional id nothing can tell whether it is the same producer: each gets a new id with epoch 0.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &InitProducerIdRequest) -> Outcome {
    if request.transactional_id.is_some() {
        return transactional(core, ctx, request);
    }
    if !(core.allows_cluster(ctx, Operation::IdempotentWrite) || core.allows_some_topic(ctx, Operation::Write)) {
        return answer(ctx, Err(ResponseError::ClusterAuthorizationFailed));
    }
    match core.take_producer_id(IdWaiter::Client(ctx.clone())) {
        ProducerIdGrant::Now(id) => granted(ctx, id),
        ProducerIdGrant::Later => Outcome::Later,
        ProducerIdGrant::Refused => refused(ctx),
    }
}

fn transactional<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &InitProducerIdRequest) -> Outcome {
    let expected = match (request.producer_id.0, request.producer_epoch) {
        (-1, -1) => None,
        (id, epoch) if id >= 0 && epoch >= 0 => Some((id, epoch)),
        _ => return answer(ctx, Err(ResponseError::InvalidRequest)),
    };
    let transactional_id = shared(request.transactional_id.as_ref().map_or("", |id| id.as_str()));
    if !core.allows_transactional_id(ctx, Operation::Write, &transactional_id) {
        return answer(ctx, Err(ResponseError::TransactionalIdAuthorizationFailed));
    }
    let body = InitRequest { transactional_id, timeout_ms: request.transaction_timeout_ms, expected };
    core.ask_transactions(Waiter::Init(ctx.clone()), Request::Init(body));
    Outcome::Later
}

/// The coordinator's answer.
pub(crate) fn coordinated<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, response: &Response) {
    let result = match response {
        Response::Init(result) => *result,
        Response::Add(_) | Response::End(_) => return,
    };
    let fencing = |error| older_fencing(error, ctx.version >= FENCED_FROM);
    let outcome = answer(ctx, result.map_err(fencing));
    core.finish(ctx.id, outcome);
}

/// The response with a new id.
pub(crate) fn granted(ctx: &Ctx, producer_id: i64) -> Outcome {
    answer(ctx, Ok((producer_id, 0)))
}

/// The response when ids can't be had now; the client tries again.
pub(crate) fn refused(ctx: &Ctx) -> Outcome {
    answer(ctx, Err(ResponseError::CoordinatorLoadInProgress))
}

fn answer(ctx: &Ctx, granted: Result<(i64, i16), ResponseError>) -> Outcome {
    let mut response = InitProducerIdResponse::default();
    match granted {
        Ok((id, epoch)) => {
            response.producer_id = ProducerId(id);
            response.producer_epoch = epoch;
        }
        Err(error) => {
            response.error_code = error.code();
            response.producer_id = ProducerId(-1);
            response.producer_epoch = -1;
        }
    }
    ctx.reply(&response)
}
