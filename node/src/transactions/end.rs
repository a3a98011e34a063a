//! EndTxn: who may end a transaction, in which state, and what is only asked once more.
//!
//! With [`TransactionVersion::V2`] the epoch says whether an end is the next one or the last one again, since each end
//! bumps it (KIP-890):
//!
//! ```text
//!                   | abort            | commit
//!                   | again  | now     | again  | now
//!   Empty           | fenced | ends    | fenced | invalid
//!   CompleteAbort   | same   | ends    | invalid| invalid
//!   CompleteCommit  | invalid| ends    | same   | invalid
//! ```
//! "Ends" what has no partitions: the client could not know whether its first request had arrived.

use std::sync::Arc;

use super::Transactions;
use super::outbox::After;
use super::transaction::{Transaction, is_exhausted};
use super::types::{
    EndRequest, Now, Producer, Request, RequestRef, Response, StateName, TransactionError, TransactionVersion,
};
use crate::mutation::mutated;

/// What EndTxn comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is decided now.
    Decide,
    /// It was decided before: the answer is the same.
    Same,
}

impl Transactions {
    /// EndTxn. `id` is a producer id, if it has waited for one.
    pub(super) fn end(&mut self, now: Now, request: RequestRef, body: EndRequest, id: Option<i64>) {
        let (verdict, current) = match self.judge(&body) {
            Ok(judged) => judged,
            Err(error) => {
                return self.refuse(request, &body.producer.transactional_id, Response::End(Err(error)));
            }
        };
        if verdict == Verdict::Same {
            let answer = current.after_end();
            return self.outbox.reply(request, Response::End(Ok(answer)));
        }
        let needs_id = body.version == TransactionVersion::V2 && is_exhausted(current.epoch);
        if needs_id && id.is_none() {
            return self.outbox.ask_id(request, Request::End(body));
        }
        let next = current.decided(body.commit, body.version, id.filter(|_| needs_id), now.wall_ms);
        let response = Response::End(Ok(next.after_end()));
        let transactional_id = Arc::clone(&body.producer.transactional_id);
        self.write(&transactional_id, Some(next), After::Answer { request, response });
    }

    fn judge(&self, body: &EndRequest) -> Result<(Verdict, &Transaction), TransactionError> {
        let entry = self.entries.get(&body.producer.transactional_id);
        let entry = entry.ok_or(TransactionError::InvalidProducerIdMapping)?;
        let current = entry.current.as_ref().ok_or(TransactionError::InvalidProducerIdMapping)?;
        let again = match body.version {
            TransactionVersion::V1 => is_again_v1(current, &body.producer, body.commit)?,
            TransactionVersion::V2 => is_again_v2(current, &body.producer)?,
        };
        if entry.pending.is_some() {
            return Err(TransactionError::ConcurrentTransactions);
        }
        verdict(current.state, again, body).map(|verdict| (verdict, current))
    }
}

/// Epochs stay, so only the state says whether this was asked before.
fn is_again_v1(current: &Transaction, producer: &Producer, commit: bool) -> Result<bool, TransactionError> {
    if current.producer_id != producer.producer_id {
        return Err(TransactionError::InvalidProducerIdMapping);
    }
    if current.epoch != producer.producer_epoch && !mutated!(AnyEpoch) {
        return Err(TransactionError::ProducerFenced);
    }
    Ok(match current.state {
        StateName::PrepareCommit | StateName::CompleteCommit => commit,
        StateName::PrepareAbort | StateName::CompleteAbort => !commit,
        StateName::Empty | StateName::Ongoing => false,
    })
}

fn is_again_v2(current: &Transaction, producer: &Producer) -> Result<bool, TransactionError> {
    let Producer { producer_id, producer_epoch, .. } = *producer;
    if current.producer_id != producer_id && !current.is_end_with_new_id(producer_id, producer_epoch) {
        return Err(TransactionError::InvalidProducerIdMapping);
    }
    let again = current.is_retried_end(producer_id, producer_epoch);
    let now = current.producer_id == producer_id && current.epoch == producer_epoch;
    let fits = match current.state {
        StateName::Empty | StateName::Ongoing => now,
        StateName::PrepareCommit | StateName::PrepareAbort => again,
        StateName::CompleteCommit | StateName::CompleteAbort => again || now,
    };
    if fits || mutated!(AnyEpoch) { Ok(again) } else { Err(TransactionError::ProducerFenced) }
}

fn verdict(state: StateName, again: bool, body: &EndRequest) -> Result<Verdict, TransactionError> {
    let invalid = Err(TransactionError::InvalidTxnState);
    // Nothing to abort: only the epoch is bumped.
    let may_be_empty = body.version == TransactionVersion::V2 && !body.commit;
    match state {
        StateName::Ongoing => Ok(Verdict::Decide),
        StateName::Empty if may_be_empty => Ok(Verdict::Decide),
        StateName::Empty => invalid,
        StateName::PrepareCommit if body.commit => Err(TransactionError::ConcurrentTransactions),
        StateName::PrepareAbort if !body.commit => Err(TransactionError::ConcurrentTransactions),
        StateName::PrepareCommit | StateName::PrepareAbort => invalid,
        StateName::CompleteCommit if again && body.commit => Ok(Verdict::Same),
        StateName::CompleteAbort if again && !body.commit => Ok(Verdict::Same),
        StateName::CompleteCommit | StateName::CompleteAbort if !again && may_be_empty => Ok(Verdict::Decide),
        StateName::CompleteCommit | StateName::CompleteAbort => invalid,
    }
}
