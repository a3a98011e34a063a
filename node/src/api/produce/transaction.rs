//! Produce in a transaction: what has to be verified before a request is carried out, and what the answer allows.

use crate::mutation::mutated;
use wherry_metadata::acl::Operation;
use wherry_wire::batch::{BatchHeader, CheckedBatch};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::ProduceRequest;
use wherry_wire::types::{LeaderEpoch, LogId};

use super::{ProduceOp, TOPIC_IDS_FROM};
use crate::api::errors::ApiError;
use crate::api::{Ctx, topics};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::core::verification::{Claim, Unverified};

/// First version whose clients leave it to the node to add partitions to a transaction (KIP-890, transaction.version 2).
pub(super) const ADDS_FROM: i16 = 12;
/// First version whose clients know that a transaction can only be aborted.
const ABORTABLE_FROM: i16 = 11;

/// What the coordinator has to be asked about: batches of transactions that are not open yet in their partitions. What is
/// wrong with a partition or its batches is found when they are to be appended.
pub(super) fn claims<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: &ProduceRequest) -> Result<Vec<Claim>, ApiError> {
    let mut claims: Vec<Claim> = Vec::new();
    if request.transactional_id.is_none() {
        return Ok(claims);
    }
    for topic in &request.topic_data {
        let found = if ctx.version >= TOPIC_IDS_FROM {
            core.topic_for_id(ctx, Operation::Write, topic.topic_id)
        } else {
            core.topic_for(ctx, Operation::Write, &topic.name)
        };
        let Ok(found) = found else { continue };
        for data in &topic.partition_data {
            let Ok(log) = topics::log(found, data.index) else { continue };
            let Ok(leader_epoch) = core.leads(log) else { continue };
            let header = data.records.as_ref().and_then(|records| BatchHeader::read(records, 0).ok());
            let Some(header) = header.filter(|header| header.is_transactional() && header.producer_id >= 0) else {
                continue;
            };
            let claim = claim(log, &header, leader_epoch);
            if claims.first().is_some_and(|first| first.producer_id != claim.producer_id) {
                let text = "transactional batches of more than one producer in one request";
                return Err(ApiError::new(ResponseError::InvalidProducerIdMapping, text));
            }
            if !core.is_open(log, claim.producer_id, claim.producer_epoch) && !mutated!(NoVerification) {
                claims.push(claim);
            }
        }
    }
    Ok(claims)
}

fn claim(log: LogId, header: &BatchHeader, leader_epoch: LeaderEpoch) -> Claim {
    let BatchHeader { producer_id, producer_epoch, base_sequence, .. } = *header;
    Claim { log, producer_id, producer_epoch, base_sequence, leader_epoch }
}

/// Refuses a batch that would open a transaction which nobody has verified.
pub(super) fn check<S: LogStore>(
    core: &Core<S>,
    op: &ProduceOp,
    log: LogId,
    leader_epoch: LeaderEpoch,
    batches: &[CheckedBatch],
) -> Result<(), ApiError> {
    let Some(header) = batches.first().map(CheckedBatch::header).filter(|header| header.is_transactional()) else {
        return Ok(());
    };
    if !op.is_transactional {
        let text = "a batch of a transaction in a request without a transactional id";
        return Err(ApiError::new(ResponseError::TransactionalIdAuthorizationFailed, text));
    }
    let claim = claim(log, header, leader_epoch);
    if core.is_open(log, claim.producer_id, claim.producer_epoch) || mutated!(NoVerification) {
        return Ok(());
    }
    core.verification.check(&op.verified, &claim).map_err(|why| refused(op.ctx.version, why))?;
    // With such clients each transaction has an epoch of its own: the first batch in it has sequence 0.
    if op.ctx.version >= ADDS_FROM && claim.base_sequence != 0 && core.store.producer(log, claim.producer_id).is_none()
    {
        return Err(refused(op.ctx.version, Unverified::Sequence));
    }
    Ok(())
}

/// As clients of this version understand it.
fn refused(version: i16, why: Unverified) -> ApiError {
    use ResponseError as E;
    let later = |error: E| {
        let text = format!("it could not be verified that the partition belongs to the transaction: {error:?}");
        // Every client tries again on this one, and looks for no other leader.
        ApiError::new(E::NotEnoughReplicas, text)
    };
    match why {
        Unverified::Sequence => ApiError::new(E::OutOfOrderSequenceNumber, "earlier batches must come first"),
        Unverified::Ended => ApiError::new(E::InvalidTxnState, "the batch is not part of an ongoing transaction"),
        Unverified::Refused(E::TransactionAbortable | E::InvalidTxnState) if version < ABORTABLE_FROM => {
            ApiError::new(E::InvalidTxnState, "the partition was not added to the transaction")
        }
        Unverified::Refused(E::ProducerFenced) => E::InvalidProducerEpoch.into(),
        Unverified::Refused(E::ConcurrentTransactions) if version < ADDS_FROM => later(E::ConcurrentTransactions),
        Unverified::Refused(
            error @ (E::NetworkException
            | E::RequestTimedOut
            | E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            | E::NotCoordinator),
        ) => later(error),
        Unverified::Refused(error) => error.into(),
    }
}
