//! Offsets of groups that are committed in transactions: the transaction's coordinator is asked before the group's writes
//! them; and when the marker that ends the transaction is committed in the group's partition, its coordinator is told.
//!
//! ```text
//!  commit_in_transaction ── may it? ──> offsets_verified ──> group coordinator ──> transactional batch
//!  write_markers, on a partition of the groups ── committed ──> groups_marker_committed ──> group coordinator
//! ```
//! An end that is appended between question and write makes the answer worthless: the transaction that was asked about is
//! over, and what is written would never end.

use std::collections::BTreeMap;

use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::LogId;

use super::coordinators::CoordinatorTopic;
use super::store::LogStore;
use super::verify::{Asker, Verify};
use super::{Core, duties};
use crate::api::{self, Ctx, Outcome};
use crate::groups::types::OffsetCommitRequest;
use crate::groups::{GroupError, Input, Request, partition_of, refused};

/// A TxnOffsetCommit.
#[derive(Debug)]
pub(crate) struct TransactionalCommit {
    pub(crate) transactional_id: String,
    /// The partition is added to the transaction if it is not in it.
    pub(crate) add: bool,
    /// The client knows TRANSACTION_ABORTABLE.
    pub(crate) knows_abortable: bool,
    pub(crate) request: OffsetCommitRequest,
}

/// Commits that wait for the transaction's coordinator. Bounded by the requests in flight.
#[derive(Debug, Default)]
pub(crate) struct TransactionalCommits {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ctx: Ctx,
    log: LogId,
    knows_abortable: bool,
    request: OffsetCommitRequest,
    /// The producer's transaction was ended in that log since.
    ended: bool,
}

impl<S: LogStore> Core<S> {
    pub(crate) fn commit_in_transaction(&mut self, ctx: &Ctx, commit: TransactionalCommit) -> Outcome {
        let TransactionalCommit { transactional_id, add, knows_abortable, request } = commit;
        let Some(topic) = self.offsets_topic().cloned() else {
            self.make_topic(CoordinatorTopic::Offsets);
            return refuse(self, ctx, request, GroupError::CoordinatorNotAvailable);
        };
        let id = PartitionId { topic: topic.id, partition: partition_of(&request.group_id, topic.partition_count()) };
        let log = duties::log_of(id);
        if self.leads(log).is_err() {
            return refuse(self, ctx, request, GroupError::NotCoordinator);
        }
        let Some(producer) = request.transaction else { return refuse(self, ctx, request, GroupError::InvalidRequest) };
        if self.is_open(log, producer.producer_id, producer.producer_epoch) {
            return self.ask_groups(ctx, Request::OffsetCommit(request));
        }
        let verify = Verify {
            transactional_id,
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            partitions: vec![id],
            add,
        };
        let commits = &mut self.transactional_commits;
        commits.last += 1;
        let number = commits.last;
        commits.waiting.insert(number, Waiting { ctx: ctx.clone(), log, knows_abortable, request, ended: false });
        self.ask_about(Asker::Offsets(number), verify);
        // If it was answered, its slot is filled already.
        Outcome::Later
    }

    /// The transaction's coordinator has answered.
    pub(super) fn offsets_verified(&mut self, number: u64, result: Result<(), ResponseError>) {
        let Some(waiting) = self.transactional_commits.waiting.remove(&number) else { return };
        let Waiting { ctx, knows_abortable, request, ended, .. } = waiting;
        let outcome = match result {
            Ok(()) if !ended => self.ask_groups(&ctx, Request::OffsetCommit(request)),
            Ok(()) => refuse(self, &ctx, request, GroupError::CoordinatorLoadInProgress),
            Err(error) => refuse(self, &ctx, request, refusal(error, knows_abortable)),
        };
        self.finish(ctx.id, outcome);
    }

    /// Whether the end of a transaction may be appended to a partition now: while the groups of that partition are read back,
    /// it would be seen neither by that nor after it.
    pub(super) fn groups_take_marker(&self, id: PartitionId) -> Result<(), ResponseError> {
        if self.keeps_groups(id) && self.desk.is_loading(id.partition) {
            return Err(ResponseError::CoordinatorLoadInProgress);
        }
        Ok(())
    }

    /// The end of a producer's transaction is committed in a partition: if it keeps groups, their coordinator goes by it.
    pub(super) fn groups_marker_committed(&mut self, id: PartitionId, producer_id: i64, commit: bool) {
        if self.keeps_groups(id) {
            self.end_group_transaction(duties::log_of(id), Input::TransactionEnded { producer_id, commit });
        }
    }

    fn keeps_groups(&self, id: PartitionId) -> bool {
        self.offsets_topic().is_some_and(|topic| topic.id == id.topic)
    }
}

impl TransactionalCommits {
    /// The end of a producer's transaction is appended to a log: what was said about that transaction before is void.
    pub(super) fn ended(&mut self, log: LogId, producer_id: i64) {
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.log == log) {
            waiting.ended |= waiting.request.transaction.is_some_and(|t| t.producer_id == producer_id);
        }
    }
}

fn refuse<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: OffsetCommitRequest, error: GroupError) -> Outcome {
    api::groups::answer(core, ctx, refused(error, &Request::OffsetCommit(request)))
}

/// The error as a client takes it from the coordinator of its group. What passes has it ask again, here.
fn refusal(error: ResponseError, knows_abortable: bool) -> GroupError {
    match error {
        ResponseError::TransactionAbortable if knows_abortable => GroupError::TransactionAbortable,
        ResponseError::TransactionAbortable | ResponseError::InvalidTxnState => GroupError::InvalidTxnState,
        ResponseError::InvalidProducerIdMapping => GroupError::InvalidProducerIdMapping,
        ResponseError::ProducerFenced | ResponseError::InvalidProducerEpoch => GroupError::InvalidProducerEpoch,
        ResponseError::InvalidRequest => GroupError::InvalidRequest,
        _ => GroupError::CoordinatorLoadInProgress,
    }
}
