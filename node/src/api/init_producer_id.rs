//! InitProducerId: an identity for an idempotent producer. Transactional producers are refused for now, with the one error
//! that every client takes as final (librdkafka retries all others until its time is over).

use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{Core, ProducerIdGrant};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

/// Gives a new id with epoch 0, also to a producer that has one: without a transactional id nothing can tell whether it
/// is the same producer.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &InitProducerIdRequest) -> Outcome {
    if request.transactional_id.is_some() {
        return answer(ctx, Err(ResponseError::TransactionalIdAuthorizationFailed));
    }
    if !(core.allows_cluster(ctx, Operation::IdempotentWrite) || core.allows_some_topic(ctx, Operation::Write)) {
        return answer(ctx, Err(ResponseError::ClusterAuthorizationFailed));
    }
    match core.take_producer_id(ctx) {
        ProducerIdGrant::Now(id) => granted(ctx, id),
        ProducerIdGrant::Later => Outcome::Later,
        ProducerIdGrant::Refused => refused(ctx),
    }
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
