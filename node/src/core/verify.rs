//! Whether partitions belong to a producer's transaction (KIP-890): who leads a partition asks the coordinator before the
//! first transactional records of a producer go in, or has it add the partition.
//!
//! ```text
//!  verify_transaction ──> asked ──┬─ here, or at the coordinator's node ──> verified
//!                           ^     └─ not now, link lost ─┐
//!                           └────── a little later ──────┘      for half a second, then whoever asked may ask again
//! ```
//! A coordinator that is still telling the last end is such a "not now": the next transaction of a producer follows its last
//! one closely.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;

use super::Core;
use super::coordinators::CoordinatorTopic;
use super::store::LogStore;
use super::transactions::Waiter;
use crate::cluster::control::Control;
use crate::cluster::transact::TransactionMessage;
use crate::limits::{MAX_TRANSACTION_QUESTIONS, QUESTION_PATIENCE_MS, QUESTION_RETRY_MS};
use crate::transactions::types::{AddRequest, VerifyRequest};
use crate::transactions::{Producer, Request, Response, TopicPartition, TransactionError, TransactionVersion};

/// A question about a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verify {
    pub(crate) transactional_id: String,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// Do these belong to it?
    pub(crate) partitions: Vec<PartitionId>,
    /// They shall, if they do not.
    pub(crate) add: bool,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VerifyToken(pub(crate) u64);

/// What goes on with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A produce.
    Produce(VerifyToken),
    /// A commit of a group's offsets.
    Offsets(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Asked of this node.
    Asked(i32),
    /// To be asked.
    Later,
}

#[derive(Debug)]
struct Question {
    asker: Asker,
    verify: Verify,
    step: Step,
    /// When it is asked again, or given up.
    wake_ns: u64,
    until_ns: u64,
    /// Why it is not answered.
    why: ResponseError,
}

/// Questions of this node. Bounded: beyond, they are refused.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    last: u64,
    open: BTreeMap<u64, Question>,
    wakes: BTreeSet<(u64, u64)>,
}

impl Questions {
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ns, _)| *at_ns)
    }

    fn set(&mut self, number: u64, step: Step, wake_ns: u64) {
        let Some(question) = self.open.get_mut(&number) else { return };
        self.wakes.remove(&(question.wake_ns, number));
        let wake_ns = wake_ns.min(question.until_ns);
        (question.step, question.wake_ns) = (step, wake_ns);
        self.wakes.insert((wake_ns, number));
    }

    fn take(&mut self, number: u64) -> Option<Question> {
        let question = self.open.remove(&number)?;
        self.wakes.remove(&(question.wake_ns, number));
        Some(question)
    }
}

/// Where the question comes from.
impl<S: LogStore> Core<S> {
    /// Asks the coordinator of the transactional id, on whichever node, whether these partitions belong to the ongoing
    /// transaction; with `add` they are added (durably) if not. Always answered by `verified`, after half a second at the
    /// latest, then with a retriable error.
    pub(crate) fn verify_transaction(&mut self, ask: VerifyToken, verify: Verify) {
        self.ask_about(Asker::Produce(ask), verify);
    }

    pub(super) fn ask_about(&mut self, asker: Asker, verify: Verify) {
        if self.questions.open.len() >= MAX_TRANSACTION_QUESTIONS {
            return self.conclude_question(asker, Err(ResponseError::CoordinatorNotAvailable));
        }
        let now_ns = self.now.monotonic_ns;
        let until_ns = now_ns.saturating_add(QUESTION_PATIENCE_MS * 1_000_000);
        self.questions.last += 1;
        let number = self.questions.last;
        let why = ResponseError::CoordinatorNotAvailable;
        let question = Question { asker, verify, step: Step::Later, wake_ns: until_ns, until_ns, why };
        self.questions.open.insert(number, question);
        self.questions.wakes.insert((until_ns, number));
        self.ask_question(number);
    }

    fn conclude_question(&mut self, asker: Asker, result: Result<(), ResponseError>) {
        match asker {
            Asker::Produce(ask) => self.verified(ask, result),
            Asker::Offsets(number) => self.offsets_verified(number, result),
        }
    }

    fn ask_question(&mut self, number: u64) {
        let Some(question) = self.questions.open.get(&number) else { return };
        let (verify, until_ns) = (question.verify.clone(), question.until_ns);
        let Some(node) = self.coordinator_node(&verify.transactional_id) else { return self.question_later(number) };
        self.questions.set(number, Step::Asked(node), until_ns);
        if node == self.config.node_id {
            return self.ask_coordinator(Waiter::Here(number), &verify);
        }
        if !self.send_control(node, &Control::Transaction(TransactionMessage::Verify { number, verify })) {
            self.question_later(number);
        }
    }

    fn coordinator_node(&self, id: &str) -> Option<i32> {
        let partition = self.transaction_partition(id).ok()?;
        self.coordinator_topic(CoordinatorTopic::Transactions)?.partition(partition)?.leader
    }

    fn question_later(&mut self, number: u64) {
        let wake_ns = self.now.monotonic_ns.saturating_add(QUESTION_RETRY_MS * 1_000_000);
        self.questions.set(number, Step::Later, wake_ns);
    }

    /// The coordinator answers.
    pub(super) fn question_answered(&mut self, number: u64, result: Result<(), TransactionError>) {
        if let Some(error) = result.err().filter(|error| may_pass(*error)) {
            if let Some(question) = self.questions.open.get_mut(&number) {
                question.why = wire_error(error);
            }
            return self.question_later(number);
        }
        if let Some(question) = self.questions.take(number) {
            self.conclude_question(question.asker, result.map_err(wire_error));
        }
    }

    /// The coordinator's node answers.
    pub(super) fn node_verified(&mut self, node: i32, number: u64, code: i16) {
        let Some(question) = self.questions.open.get(&number) else { return };
        // Another node was asked since.
        if question.step != Step::Asked(node) {
            return;
        }
        match (ResponseError::try_from_code(code), TransactionError::of_code(code)) {
            (_, Some(error)) => self.question_answered(number, Err(error)),
            (None, None) => self.question_answered(number, Ok(())),
            (Some(error), None) => {
                if let Some(question) = self.questions.take(number) {
                    self.conclude_question(question.asker, Err(error));
                }
            }
        }
    }

    pub(super) fn ask_questions_again(&mut self) {
        let now_ns = self.now.monotonic_ns;
        while let Some((at_ns, number)) = self.questions.wakes.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns) {
            self.questions.wakes.remove(&(at_ns, number));
            let is_over = self.questions.open.get(&number).is_none_or(|question| question.until_ns <= now_ns);
            if !is_over {
                self.ask_question(number);
            } else if let Some(question) = self.questions.take(number) {
                self.conclude_question(question.asker, Err(question.why));
            }
        }
    }

    /// The link to a node is lost, and what it was asked with it.
    pub(super) fn question_again_without(&mut self, node: i32) {
        let lost = self.questions.open.iter().filter(|(_, question)| question.step == Step::Asked(node));
        for number in lost.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.question_later(number);
        }
    }
}

/// Where the coordinator should be.
impl<S: LogStore> Core<S> {
    /// Hands a question to the coordinator here.
    pub(super) fn ask_coordinator(&mut self, waiter: Waiter, verify: &Verify) {
        let producer = Producer {
            transactional_id: verify.transactional_id.as_str().into(),
            producer_id: verify.producer_id,
            producer_epoch: verify.producer_epoch,
        };
        let Some(partitions) = verify.partitions.iter().map(|id| self.name_of(*id)).collect() else {
            // This node has not heard of a topic yet.
            return self.answer_waiter(waiter, Response::Add(Err(TransactionError::CoordinatorNotAvailable)));
        };
        let body = if verify.add {
            Request::Add(AddRequest { producer, partitions, version: TransactionVersion::V2 })
        } else {
            Request::Verify(VerifyRequest { producer, partitions })
        };
        self.ask_transactions(waiter, body);
    }

    fn name_of(&self, id: PartitionId) -> Option<TopicPartition> {
        let topic = self.meta.topic_by_id(id.topic)?;
        topic.partition(id.partition)?;
        Some((Arc::clone(&topic.name), id.partition))
    }
}

/// Whether the answer may be another one soon.
fn may_pass(error: TransactionError) -> bool {
    match error {
        TransactionError::CoordinatorLoadInProgress
        | TransactionError::CoordinatorNotAvailable
        | TransactionError::NotCoordinator
        | TransactionError::ConcurrentTransactions => true,
        TransactionError::InvalidRequest
        | TransactionError::InvalidTxnState
        | TransactionError::InvalidProducerIdMapping
        | TransactionError::InvalidTransactionTimeout
        | TransactionError::ProducerFenced
        | TransactionError::TransactionalIdNotFound
        | TransactionError::TransactionAbortable => false,
    }
}

fn wire_error(error: TransactionError) -> ResponseError {
    ResponseError::try_from_code(error.code()).unwrap_or(ResponseError::UnknownServerError)
}
