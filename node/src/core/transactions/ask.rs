//! Requests on their way to transaction coordinators and back. Those that speak of several transactional ids are answered
//! when all of their parts are.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::api::{self, Ctx};
use crate::core::Core;
use crate::core::coordinators::CoordinatorTopic;
use crate::core::store::LogStore;
use crate::groups::partition_of;
use crate::transactions::{
    Description, Filter, Input, Listed, Request, RequestRef, Response, TransactionError, refused,
};

/// Who gets an answer.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A client's InitProducerId.
    Init(Ctx),
    /// A client's AddPartitionsToTxn, one part of it.
    Add(api::transactions::AddPart),
    /// A client's AddOffsetsToTxn.
    AddOffsets(Ctx),
    /// A client's EndTxn.
    End(Ctx),
    /// A question of this node.
    Here(u64),
    /// A question of another node, with its number there.
    Node(i32, u64),
}

/// Bounded by the requests in flight, and the questions of nodes.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// AddPartitionsToTxn requests, whose transactions are looked at one by one.
    adds: HashMap<u64, api::transactions::AddOp, RandomState>,
    waiting: HashMap<u64, Waiter, RandomState>,
    requests: u64,
}

impl<S: LogStore> Core<S> {
    /// The partition of a transactional id, or why there is none.
    ///
    /// # Errors
    /// The topic does not exist yet.
    pub(crate) fn transaction_partition(&self, id: &str) -> Result<i32, TransactionError> {
        let topic = self.coordinator_topic(CoordinatorTopic::Transactions);
        let partitions = topic.map(|topic| topic.partition_count()).ok_or(TransactionError::CoordinatorNotAvailable)?;
        Ok(partition_of(id, partitions))
    }

    /// Hands a request to its coordinator; `waiter` gets the answer, perhaps at once.
    pub(crate) fn ask_transactions(&mut self, waiter: Waiter, body: Request) {
        let partition = match self.transaction_partition(body.transactional_id()) {
            Ok(partition) => partition,
            Err(error) => {
                self.make_topic(CoordinatorTopic::Transactions);
                return self.answer_waiter(waiter, refused(error, &body));
            }
        };
        if let Some(error) = self.transactions.refusal(partition) {
            return self.answer_waiter(waiter, refused(error, &body));
        }
        if !self.may_acknowledge() {
            // Another node may be it by now.
            return self.answer_waiter(waiter, refused(TransactionError::CoordinatorNotAvailable, &body));
        }
        let waiters = &mut self.transactions.waiters;
        waiters.requests += 1;
        let request = waiters.requests;
        waiters.waiting.insert(request, waiter);
        self.step_transactions(partition, Input::Request { request: RequestRef(request), body });
    }

    /// Keeps a request until all of its transactions are looked at; gives its number.
    pub(crate) fn enter_add(&mut self, op: api::transactions::AddOp) -> u64 {
        let waiters = &mut self.transactions.waiters;
        waiters.requests += 1;
        waiters.adds.insert(waiters.requests, op);
        waiters.requests
    }

    pub(crate) fn add_op(&mut self, number: u64) -> Option<&mut api::transactions::AddOp> {
        self.transactions.waiters.adds.get_mut(&number)
    }

    pub(crate) fn leave_add(&mut self, number: u64) -> Option<api::transactions::AddOp> {
        self.transactions.waiters.adds.remove(&number)
    }

    pub(super) fn transaction_reply(&mut self, request: RequestRef, response: Response) {
        if let Some(waiter) = self.transactions.waiters.waiting.remove(&request.0) {
            self.answer_waiter(waiter, response);
        }
    }

    pub(crate) fn answer_waiter(&mut self, waiter: Waiter, response: Response) {
        match waiter {
            Waiter::Init(ctx) => api::init_producer_id::coordinated(self, &ctx, &response),
            Waiter::Add(part) => api::transactions::added(self, part, response),
            Waiter::AddOffsets(ctx) => api::transactions::offsets_added(self, &ctx, response),
            Waiter::End(ctx) => api::transactions::ended(self, &ctx, &response),
            Waiter::Here(number) => self.question_answered(number, verdict(&response)),
            Waiter::Node(node, number) => self.answer_question_of(node, number, verdict(&response)),
        }
    }

    /// What people see of one transactional id, if its coordinator is here.
    ///
    /// # Errors
    /// It is not, or there is no such id.
    pub(crate) fn describe_transaction(&self, id: &str) -> Result<Description, TransactionError> {
        let partition = self.transaction_partition(id)?;
        if let Some(error) = self.transactions.refusal(partition) {
            return Err(error);
        }
        let seat = self.transactions.seats.get(partition).ok_or(TransactionError::NotCoordinator)?;
        seat.machine.describe(id)
    }

    /// The transactional ids of all coordinators here that match; and whether one of them can't say.
    pub(crate) fn list_transactions(&self, filter: &Filter) -> (Vec<Listed>, Option<TransactionError>) {
        let (mut all, mut error) = (Vec::new(), None);
        for (_, seat) in self.transactions.seats.iter() {
            if seat.is_serving() {
                all.append(&mut seat.machine.list(filter, self.now.wall_ms));
            } else {
                error = Some(TransactionError::CoordinatorLoadInProgress);
            }
        }
        all.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
        (all, error)
    }

    #[cfg(test)]
    pub(crate) fn waiting_transaction_requests(&self) -> usize {
        self.transactions.waiters.waiting.len()
    }
}

/// The answer to a question whether partitions belong to a transaction.
fn verdict(response: &Response) -> Result<(), TransactionError> {
    match response {
        Response::Add(Ok(strangers)) => strangers.first().map_or(Ok(()), |(_, error)| Err(*error)),
        Response::Add(Err(error)) | Response::Init(Err(error)) | Response::End(Err(error)) => Err(*error),
        // Nobody asks for these.
        Response::Init(Ok(_)) | Response::End(Ok(_)) => Ok(()),
    }
}
