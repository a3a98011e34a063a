//! Producers: who becomes the one of a transactional id, and what it may add to its transaction.

use std::sync::Arc;

use super::Transactions;
use super::entry::Entry;
use super::outbox::After;
use super::transaction::Transaction;
use super::types::{
    AddRequest, InitRequest, Now, Producer, Request, RequestRef, Response, StateName, TransactionError, VerifyRequest,
};
use crate::mutation::mutated;

impl Transactions {
    /// InitProducerId.
    pub(super) fn init(&mut self, now: Now, request: RequestRef, body: InitRequest, id: Option<i64>) {
        match self.next_producer(now, &body, id) {
            Ok(Next::Write(next)) => {
                let response = if next.state == StateName::Empty || mutated!(NoFencing) {
                    Response::Init(Ok((next.producer_id, next.epoch)))
                } else {
                    // The transaction of its predecessor is aborted first: it comes again.
                    Response::Init(Err(TransactionError::ConcurrentTransactions))
                };
                self.write(&body.transactional_id, Some(next), After::Answer { request, response });
            }
            Ok(Next::NeedsId) => self.outbox.ask_id(request, Request::Init(body)),
            Err(error) => self.refuse(request, &body.transactional_id, Response::Init(Err(error))),
        }
    }

    fn next_producer(&self, now: Now, body: &InitRequest, id: Option<i64>) -> Result<Next, TransactionError> {
        if body.timeout_ms <= 0 || body.timeout_ms > self.config.max_timeout_ms {
            return Err(TransactionError::InvalidTransactionTimeout);
        }
        let Some(entry) = self.entries.get(&body.transactional_id) else {
            if self.entries.len() >= self.config.max_ids {
                return Err(TransactionError::CoordinatorNotAvailable);
            }
            let new = |id| Next::Write(Transaction::new(id, body.timeout_ms, now.wall_ms));
            return Ok(id.map_or(Next::NeedsId, new));
        };
        let Some(current) = entry.current.as_ref().filter(|_| entry.pending.is_none()) else {
            return Err(TransactionError::ConcurrentTransactions);
        };
        if body.expected.is_some_and(|expected| !current.may_go_on(expected)) {
            return Err(TransactionError::ProducerFenced);
        }
        match current.state {
            StateName::PrepareCommit | StateName::PrepareAbort => Err(TransactionError::ConcurrentTransactions),
            // Who goes on can only be the one whose transaction it is: an earlier one must not end it.
            StateName::Ongoing if body.expected.is_some_and(|e| e != (current.producer_id, current.epoch)) => {
                Err(TransactionError::ProducerFenced)
            }
            StateName::Ongoing if mutated!(NoFencing) => {
                let goes_on = Transaction { epoch: current.epoch.saturating_add(1), ..current.clone() };
                Ok(Next::Write(goes_on))
            }
            StateName::Ongoing => Ok(Next::Write(current.fenced(now.wall_ms))),
            StateName::Empty | StateName::CompleteCommit | StateName::CompleteAbort => {
                after_rest(current, body, id, now.wall_ms)
            }
        }
    }

    /// AddPartitionsToTxn, AddOffsetsToTxn.
    pub(super) fn add(&mut self, now: Now, request: RequestRef, body: &AddRequest) {
        match self.added(now, body) {
            Ok(Some(next)) => {
                let response = Response::Add(Ok(Vec::new()));
                let id = Arc::clone(&body.producer.transactional_id);
                self.write(&id, Some(next), After::Answer { request, response });
            }
            Ok(None) => self.outbox.reply(request, Response::Add(Ok(Vec::new()))),
            Err(error) => self.refuse(request, &body.producer.transactional_id, Response::Add(Err(error))),
        }
    }

    /// The transaction with these partitions; none if it has them already.
    fn added(&self, now: Now, body: &AddRequest) -> Result<Option<Transaction>, TransactionError> {
        let (entry, current) = self.of(&body.producer)?;
        if entry.pending.is_some() || current.state.is_prepared() {
            return Err(TransactionError::ConcurrentTransactions);
        }
        let is_open = current.state == StateName::Ongoing;
        if body.partitions.is_empty() || is_open && body.partitions.iter().all(|p| current.partitions.contains(p)) {
            return Ok(None);
        }
        let next = current.with_partitions(body.partitions.iter().cloned(), body.version, now.wall_ms);
        if next.partitions.len() > self.config.max_partitions {
            return Err(TransactionError::InvalidRequest);
        }
        Ok(Some(next))
    }

    /// AddPartitionsToTxn that only asks.
    pub(super) fn verify(&self, body: VerifyRequest) -> Response {
        let (_, current) = match self.of(&body.producer) {
            Ok(found) => found,
            Err(error) => return Response::Add(Err(error)),
        };
        if current.state.is_prepared() {
            return Response::Add(Err(TransactionError::ConcurrentTransactions));
        }
        let strangers = body.partitions.into_iter().filter(|partition| !current.partitions.contains(partition));
        Response::Add(Ok(strangers.map(|partition| (partition, TransactionError::TransactionAbortable)).collect()))
    }

    /// The transactional id of a producer, if it is its newest.
    fn of(&self, producer: &Producer) -> Result<(&Entry, &Transaction), TransactionError> {
        let entry = self.entries.get(&producer.transactional_id).ok_or(TransactionError::InvalidProducerIdMapping)?;
        let current = entry.current.as_ref().ok_or(TransactionError::InvalidProducerIdMapping)?;
        if current.producer_id != producer.producer_id {
            Err(TransactionError::InvalidProducerIdMapping)
        } else if current.epoch != producer.producer_epoch && !mutated!(AnyEpoch) {
            Err(TransactionError::ProducerFenced)
        } else {
            Ok((entry, current))
        }
    }
}

/// What InitProducerId comes to.
enum Next {
    /// This is written.
    Write(Transaction),
    /// A producer id is wanted first.
    NeedsId,
}

/// The next producer of an id without a transaction.
fn after_rest(
    current: &Transaction,
    body: &InitRequest,
    id: Option<i64>,
    now_ms: i64,
) -> Result<Next, TransactionError> {
    let goes_on = body.expected.is_some();
    if !current.needs_id(body.expected) {
        let expected = body.expected.map(|(_, epoch)| epoch);
        return current.next_epoch(expected, body.timeout_ms, now_ms).map(Next::Write);
    }
    let rotated = |id| Next::Write(current.next_id(id, goes_on, body.timeout_ms, now_ms));
    Ok(id.map_or(Next::NeedsId, rotated))
}
