//! EndTxn: answered when the end is durable; partitions are told after that.

use super::{older_fencing, shared};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::core::transactions::Waiter;
use crate::transactions::types::EndRequest;
use crate::transactions::{Producer, Request, Response, TransactionVersion};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::{EndTxnRequest, EndTxnResponse, ProducerId};

/// From this version on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;
/// From this version on each end bumps the epoch (KIP-890).
const BUMPS_FROM: i16 = 5;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &EndTxnRequest) -> Outcome {
    if !core.allows_transactional_id(ctx, Operation::Write, &request.transactional_id) {
        let error = ResponseError::TransactionalIdAuthorizationFailed;
        return ctx.reply(&EndTxnResponse::default().with_error_code(error.code()));
    }
    let producer = Producer {
        transactional_id: shared(&request.transactional_id),
        producer_id: request.producer_id.0,
        producer_epoch: request.producer_epoch,
    };
    let version = if ctx.version >= BUMPS_FROM { TransactionVersion::V2 } else { TransactionVersion::V1 };
    let body = EndRequest { producer, commit: request.committed, version };
    core.ask_transactions(Waiter::End(ctx.clone()), Request::End(body));
    Outcome::Later
}

/// The coordinator's answer.
pub(crate) fn answered<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, response: &Response) {
    let result = match response {
        Response::End(result) => *result,
        Response::Init(_) | Response::Add(_) => return,
    };
    let mut body = EndTxnResponse::default();
    match result {
        Ok((id, epoch)) if ctx.version >= BUMPS_FROM => {
            body.producer_id = ProducerId(id);
            body.producer_epoch = epoch;
        }
        Ok(_) => {}
        Err(error) => body.error_code = older_fencing(error, ctx.version >= FENCED_FROM).code(),
    }
    let outcome: Outcome = ctx.reply(&body);
    core.finish(ctx.id, outcome);
}
