//! A stream of transactions: what each frame means. Pure but for what a driver does with [`Next`].
//!
//! ```text
//!   Idle --begin--> Open --commit--> (committing) --> Idle
//!                    |  \--abort, time--> Idle
//!                    \--failure--> Skipping --begin--> Open       its further frames say nothing
//! ```

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};
use wherry_proto::v1::transact_request::Frame;
use wherry_proto::v1::{
    TransactAborted, TransactBegin, TransactCommitted, TransactRequest, TransactResponse, transact_response,
};

use super::{Done, Work};
use crate::api::ask;
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits::Limits;
use crate::publish::record::{TopicNames, TraceContext};
use crate::shared::Shared;

/// What follows from a frame.
#[derive(Debug)]
enum Next {
    /// Nothing to say.
    Nothing,
    /// A transaction is over.
    Aborted(u64, Option<Failure>),
    /// A transaction is to be committed.
    Commit(u64, Work),
    /// The stream makes no sense.
    End(Failure),
}

#[derive(Debug)]
enum State {
    Idle,
    Open { id: u64, until: Instant, work: Work },
    Skipping,
}

/// The machine.
#[derive(Debug)]
struct Transacting {
    state: State,
    topics: TopicNames,
    trace: TraceContext,
}

impl Transacting {
    fn new(trace: TraceContext) -> Self {
        Self { state: State::Idle, topics: TopicNames::default(), trace }
    }

    fn frame(&mut self, frame: Option<Frame>, now: Instant, limits: &Limits) -> Next {
        match (frame, &mut self.state) {
            (None, _) => Next::End(Failure::invalid(
                "UNKNOWN_FRAME",
                "a frame is empty or unknown to this sidecar; leave it out",
            )),
            (Some(Frame::Begin(begin)), State::Idle | State::Skipping) => self.begin(begin, now, limits),
            (Some(Frame::Begin(_)), State::Open { .. }) => Next::End(Failure::invalid(
                "ALREADY_BEGUN",
                "`begin` came while a transaction was open, which is aborted; commit or abort it first",
            )),
            (Some(_), State::Idle) => Next::End(Failure::invalid(
                "NOT_BEGUN",
                "no transaction is open; the first frame of each must be `begin`",
            )),
            // The end of what has failed already.
            (Some(Frame::Commit(_) | Frame::Abort(_)), State::Skipping) => {
                self.state = State::Idle;
                Next::Nothing
            }
            (Some(Frame::Publish(_) | Frame::Acknowledge(_)), State::Skipping) => Next::Nothing,
            (Some(Frame::Publish(publish)), State::Open { work, .. }) => {
                let taken = work.publish(publish.messages, &mut self.topics, limits, &self.trace);
                self.or_fail(taken)
            }
            (Some(Frame::Acknowledge(acknowledge)), State::Open { work, .. }) => {
                let taken = work.acknowledge(acknowledge.ack_ids);
                self.or_fail(taken)
            }
            (Some(Frame::Commit(_)), State::Open { .. }) => match std::mem::replace(&mut self.state, State::Idle) {
                State::Open { id, work, .. } => Next::Commit(id, work),
                State::Idle | State::Skipping => Next::Nothing,
            },
            (Some(Frame::Abort(_)), State::Open { id, .. }) => {
                let id = *id;
                self.state = State::Idle;
                Next::Aborted(id, None)
            }
        }
    }

    fn begin(&mut self, begin: TransactBegin, now: Instant, limits: &Limits) -> Next {
        let id = begin.transaction_id;
        match ask::duration(begin.timeout) {
            Ok(asked) => {
                let until = now + asked.unwrap_or(limits.transaction_time).min(limits.transaction_time);
                self.state = State::Open { id, until, work: Work::default() };
                Next::Nothing
            }
            Err(failure) => {
                self.state = State::Skipping;
                Next::Aborted(id, Some(failure))
            }
        }
    }

    fn or_fail(&mut self, taken: Result<(), Failure>) -> Next {
        taken.map_or_else(|failure| self.fail(failure), |()| Next::Nothing)
    }

    /// The open transaction can't be committed any more.
    fn fail(&mut self, failure: Failure) -> Next {
        match std::mem::replace(&mut self.state, State::Skipping) {
            State::Open { id, .. } => Next::Aborted(id, Some(failure)),
            before @ (State::Idle | State::Skipping) => {
                self.state = before;
                Next::Nothing
            }
        }
    }

    /// When the open transaction is over at the latest.
    fn until(&self) -> Option<Instant> {
        match &self.state {
            State::Open { until, .. } => Some(*until),
            State::Idle | State::Skipping => None,
        }
    }

    fn bytes(&self) -> usize {
        match &self.state {
            State::Open { work, .. } => work.bytes(),
            State::Idle | State::Skipping => 0,
        }
    }
}

fn too_late(after: Duration) -> Failure {
    Failure::passing(
        Code::DeadlineExceeded,
        "TRANSACTION_TOO_OLD",
        format!(
            "it was not committed in time (limits.transaction_time = {after:?}, or less where it said so); nothing was done"
        ),
    )
}

type Outbound = mpsc::Sender<Result<TransactResponse, Status>>;

/// Runs the transactions of one stream until it ends.
pub(crate) async fn drive<B: Backend>(
    shared: Shared<B>,
    mut inbound: Streaming<TransactRequest>,
    outbound: Outbound,
    trace: TraceContext,
) {
    let mut machine = Transacting::new(trace);
    let mut budget = shared.transactions.budget();
    let stopping = shared.phase.stopping.clone();
    loop {
        let until = machine.until();
        let next = tokio::select! {
            frame = inbound.message() => match frame {
                Ok(Some(request)) => machine.frame(request.frame, Instant::now(), &shared.limits),
                // What is open is aborted by saying nothing of it to the cluster.
                Ok(None) | Err(_) => return,
            },
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                machine.fail(too_late(shared.limits.transaction_time))
            }
            () = stopping.cancelled(), if until.is_none() => Next::End(Failure::draining()),
            () = outbound.closed() => return,
        };
        let next = match budget.grow(machine.bytes()) {
            Ok(()) => next,
            Err(failure) => machine.fail(failure),
        };
        let said = match next {
            Next::Nothing => continue,
            Next::Aborted(id, why) => Ok(aborted(id, why.as_ref())),
            Next::Commit(id, work) => {
                let budget = std::mem::replace(&mut budget, shared.transactions.budget());
                Ok(outcome(id, super::run(&shared, work, budget).await))
            }
            Next::End(failure) => Err(failure.to_status()),
        };
        if machine.until().is_none() {
            budget = shared.transactions.budget();
        }
        let over = said.is_err();
        if outbound.send(said).await.is_err() || over {
            return;
        }
    }
}

fn outcome(id: u64, outcome: Result<Done, Failure>) -> TransactResponse {
    match outcome {
        Ok(Done { results, acknowledged }) => {
            let committed = TransactCommitted { transaction_id: id, results, acknowledged };
            TransactResponse { frame: Some(transact_response::Frame::Committed(committed)) }
        }
        Err(failure) => aborted(id, Some(&failure)),
    }
}

fn aborted(id: u64, why: Option<&Failure>) -> TransactResponse {
    let aborted = TransactAborted { transaction_id: id, error: why.map(Failure::to_proto) };
    TransactResponse { frame: Some(transact_response::Frame::Aborted(aborted)) }
}

#[cfg(test)]
mod tests {
    use wherry_proto::v1::{self, TransactAbort, TransactCommit, TransactPublish};

    use super::*;

    fn begin(transaction_id: u64) -> Option<Frame> {
        Some(Frame::Begin(TransactBegin { transaction_id, timeout: None }))
    }

    fn publish(topic: &str) -> Option<Frame> {
        let message = v1::Message { topic: topic.into(), ..v1::Message::default() };
        Some(Frame::Publish(TransactPublish { messages: vec![message] }))
    }

    fn commit() -> Option<Frame> {
        Some(Frame::Commit(TransactCommit {}))
    }

    /// What the frames lead to, in short.
    fn run(frames: Vec<Option<Frame>>) -> Vec<String> {
        let limits = Limits { transaction_messages: 2, ..Limits::default() };
        let mut machine = Transacting::new(TraceContext::default());
        let said = frames.into_iter().filter_map(|frame| match machine.frame(frame, Instant::now(), &limits) {
            Next::Nothing => None,
            Next::Aborted(id, None) => Some(format!("aborted {id}")),
            Next::Aborted(id, Some(why)) => Some(format!("aborted {id}: {}", why.reason)),
            Next::Commit(id, work) => Some(format!("commit {id} with {}", work.records.len())),
            Next::End(why) => Some(why.reason.to_owned()),
        });
        said.collect()
    }

    #[test]
    fn transactions_follow_each_other() {
        let abort = Some(Frame::Abort(TransactAbort {}));
        let frames =
            vec![begin(7), publish("a"), publish("b"), commit(), begin(8), publish("a"), abort, begin(9), commit()];
        assert_eq!(run(frames), ["commit 7 with 2", "aborted 8", "commit 9 with 0"]);
    }

    #[test]
    fn what_fails_is_told_once_and_the_rest_of_it_says_nothing() {
        let failing = vec![begin(1), publish("a b"), publish("a"), commit(), begin(2), publish("a"), commit()];
        assert_eq!(run(failing), ["aborted 1: INVALID_TOPIC", "commit 2 with 1"]);
        let large = vec![begin(1), publish("a"), publish("a"), publish("a"), begin(2), commit()];
        assert_eq!(run(large), ["aborted 1: TRANSACTION_TOO_LARGE", "commit 2 with 0"]);
        let garbage = Some(Frame::Acknowledge(v1::Acknowledge { ack_ids: vec!["?".into()] }));
        assert_eq!(run(vec![begin(1), garbage]), ["aborted 1: INVALID_ACK_ID"]);
    }

    #[test]
    fn frames_out_of_order_end_the_stream() {
        assert_eq!(run(vec![publish("a")]), ["NOT_BEGUN"]);
        assert_eq!(run(vec![begin(1), begin(2)]), ["ALREADY_BEGUN"]);
        assert_eq!(run(vec![None]), ["UNKNOWN_FRAME"]);
    }
}
