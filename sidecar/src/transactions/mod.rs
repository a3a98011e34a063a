//! Transactions: messages and acknowledgements that count together, or not at all.
//!
//! ```text
//!   frames --> [stream] --work--> run: seat of the [pool], records, leases of groups, offsets, commit, resolve
//! ```
//! Nothing of a transaction reaches the cluster before the application commits it: so none is open there for longer than a commit takes,
//! and readers of committed messages do not wait for applications. A commit that has begun is carried to its end, whether or not its
//! caller is still there.

mod pool;
pub(crate) mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tonic::Code;
use wherry_client::{ClientError, ProduceRecord};
use wherry_proto::v1;

use crate::api::ask;
use crate::backend::{Backend, Transactional};
use crate::delivery::ack_id::AckId;
use crate::delivery::driver::{Ask, Ended, Lease, lost};
use crate::delivery::registry::not_an_ack_id;
use crate::error::Failure;
use crate::limits::{self, Limits};
use crate::publish::one;
use crate::publish::record::{self, TopicNames, TraceContext};
use crate::shared::Shared;
pub(crate) use pool::Transactions;
use pool::{Budget, Seat};

/// What a transaction is to do.
#[derive(Debug, Default)]
pub(crate) struct Work {
    records: Vec<ProduceRecord>,
    bytes: usize,
    ids: Vec<AckId>,
}

/// What it has done.
#[derive(Debug)]
pub(crate) struct Done {
    /// One for each message, in order.
    pub(crate) results: Vec<v1::PublishResult>,
    pub(crate) acknowledged: u32,
}

impl Work {
    /// Takes messages, if they are valid and there is room for them.
    pub(crate) fn publish(
        &mut self,
        messages: Vec<v1::Message>,
        topics: &mut TopicNames,
        limits: &Limits,
        trace: &TraceContext,
    ) -> Result<(), Failure> {
        for message in messages {
            let size = record::size(&message);
            let topic = topics.get(&message.topic)?;
            let record = record::record(message, topic, size, limits.message_bytes, trace)?;
            let bytes = self.bytes + size + limits::TRANSACTION_MESSAGE_BYTES;
            let full = self.records.len() >= limits.transaction_messages;
            if full || (bytes > limits.transaction_bytes && !self.records.is_empty()) {
                return Err(too_large(limits));
            }
            self.bytes = bytes;
            self.records.push(record);
        }
        Ok(())
    }

    /// Takes ack ids.
    pub(crate) fn acknowledge(&mut self, ids: Vec<Bytes>) -> Result<(), Failure> {
        let ids = ask::ack_ids(ids)?;
        if self.ids.len() + ids.len() > limits::ACK_IDS {
            return Err(Failure::invalid(
                "TOO_MANY_ACK_IDS",
                "more than 10000 ack ids in one transaction; use several",
            ));
        }
        for id in ids {
            self.ids.push(AckId::decode(&id).ok_or_else(not_an_ack_id)?);
        }
        Ok(())
    }

    /// Bytes of its messages, with what each takes besides.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn by_session(&self) -> BTreeMap<u64, Vec<AckId>> {
        let mut by_session: BTreeMap<u64, Vec<AckId>> = BTreeMap::new();
        for id in &self.ids {
            by_session.entry(id.session).or_default().push(*id);
        }
        by_session
    }
}

fn too_large(limits: &Limits) -> Failure {
    Failure::lasting(
        Code::ResourceExhausted,
        "TRANSACTION_TOO_LARGE",
        format!(
            "a transaction may have limits.transaction_messages = {} messages and limits.transaction_bytes = {}; use several, or raise the limits",
            limits.transaction_messages, limits.transaction_bytes
        ),
    )
}

/// One transaction in one call.
pub(crate) async fn at_once<B: Backend>(
    shared: &Shared<B>,
    messages: Vec<v1::Message>,
    ack_ids: Vec<Bytes>,
    trace: &TraceContext,
) -> Result<Done, Failure> {
    if shared.phase.stopping.is_cancelled() {
        return Err(Failure::draining());
    }
    let mut work = Work::default();
    work.publish(messages, &mut TopicNames::default(), &shared.limits, trace)?;
    work.acknowledge(ack_ids)?;
    let mut budget = shared.transactions.budget();
    budget.grow(work.bytes()).inspect_err(|_| shared.stats.refused.add(1))?;
    run(shared, work, budget).await
}

/// Commits a transaction, to its end.
pub(crate) async fn run<B: Backend>(shared: &Shared<B>, work: Work, budget: Budget) -> Result<Done, Failure> {
    if work.records.is_empty() && work.ids.is_empty() {
        return Ok(Done { results: Vec::new(), acknowledged: 0 });
    }
    let (tell, told) = oneshot::channel();
    let (killed, shared) = (shared.phase.killed.clone(), shared.clone());
    let tasks = shared.groups.tasks.clone();
    let work = async move {
        let outcome = commit(&shared, work).await;
        match &outcome {
            Ok(_) => shared.stats.transactions.add(1),
            Err(_) => shared.stats.transactions_failed.add(1),
        }
        drop(budget);
        // Whoever gave up does not need the answer.
        let _ = tell.send(outcome);
    };
    tasks.spawn(async move { killed.run_until_cancelled(work).await });
    told.await.unwrap_or_else(|_| Err(unknown("the sidecar was stopped while it committed")))
}

async fn commit<B: Backend>(shared: &Shared<B>, work: Work) -> Result<Done, Failure> {
    let seat = shared.transactions.seat(shared).await?;
    let number = shared.transactions.number();
    let by_session = work.by_session();
    let mut leases = Vec::new();
    let outcome = match prepare(shared, &seat, work.records, number, by_session, &mut leases).await {
        Ok(receipts) => conclude(&seat).await.map(|()| receipts),
        Err(failure) => Err(Undone { failure, ended: Ended::Aborted }),
    };
    let ended = outcome.as_ref().map_or_else(|undone| undone.ended, |_| Ended::Committed);
    for (session, _) in &leases {
        shared.groups.tell(*session, Ask::Resolve { number, ended }).await;
    }
    let acknowledged: usize = leases.iter().map(|(_, lease)| lease.count).sum();
    match outcome {
        Ok(receipts) => {
            seat.give_back();
            let mut results = Vec::with_capacity(receipts.len());
            for receipt in receipts {
                // They are known, or it could not have been committed.
                results.push(one::committed(&receipt.await?));
            }
            shared.stats.published.add(results.len() as u64);
            Ok(Done { results, acknowledged: u32::try_from(acknowledged).unwrap_or(u32::MAX) })
        }
        Err(undone) => {
            let aborted = seat.transactional().abort().await;
            if undone.ended == Ended::Aborted && undone.failure.reason != TRANSACTION_FAILED && aborted.is_ok() {
                seat.give_back();
            } else {
                // The next one with this id ends whatever this one has open, and fences it.
                seat.discard();
            }
            tracing::debug!(error = %undone.failure, "a transaction came to nothing");
            Err(undone.failure)
        }
    }
}

type Receipts<B> = Vec<<<B as Backend>::Transactional as Transactional>::Receipt>;

/// Everything up to the commit: records, and what is acknowledged. Sessions in order, so that no two transactions wait for each other.
async fn prepare<B: Backend>(
    shared: &Shared<B>,
    seat: &Seat<B>,
    records: Vec<ProduceRecord>,
    number: u64,
    by_session: BTreeMap<u64, Vec<AckId>>,
    leases: &mut Vec<(u64, Lease)>,
) -> Result<Receipts<B>, Failure> {
    let transactional = seat.transactional();
    transactional.begin()?;
    let mut receipts = Vec::with_capacity(records.len());
    for record in records {
        receipts.push(transactional.send(record).await.map_err(failed)?);
    }
    for (session, ids) in by_session {
        let lease = shared.groups.ask(session, |answer| Ask::Lease { number, ids, answer });
        match timeout(limits::LEASE_WAIT, lease).await {
            Ok(Some(lease)) => leases.push((session, lease?)),
            Ok(None) => return Err(lost("a group that is no longer read here")),
            Err(_) => return Err(busy()),
        }
    }
    for (_, lease) in leases.iter() {
        transactional.send_offsets(&lease.member, &lease.next).await.map_err(failed)?;
    }
    Ok(receipts)
}

/// The sender of a transaction is not fit for another.
const TRANSACTION_FAILED: &str = "TRANSACTION_FAILED";

/// Why a transaction does not count, or may.
struct Undone {
    failure: Failure,
    ended: Ended,
}

/// Commits; asks again while the answer gets lost.
async fn conclude<B: Backend>(seat: &Seat<B>) -> Result<(), Undone> {
    let until = Instant::now() + limits::TRANSACTION_RESOLVE;
    loop {
        match seat.transactional().commit().await {
            Ok(()) => return Ok(()),
            Err(ClientError::Unknown { .. }) if Instant::now() < until => {
                tokio::time::sleep(limits::GROUP_RETRY).await;
            }
            Err(error @ ClientError::Unknown { .. }) => {
                return Err(Undone { failure: unknown(&error.to_string()), ended: Ended::Unknown });
            }
            Err(error) => return Err(Undone { failure: failed(error), ended: Ended::Aborted }),
        }
    }
}

/// A failure of the cluster, as it looks to whoever wanted the transaction: it came to nothing, and may be tried anew.
fn failed(error: ClientError) -> Failure {
    match error {
        ClientError::Fenced { .. } | ClientError::AbortOnly { .. } => {
            Failure::passing(Code::Aborted, TRANSACTION_FAILED, format!("nothing was done: {error}; try it again"))
        }
        other => Failure::from(other),
    }
}

fn busy() -> Failure {
    Failure::passing(
        Code::Unavailable,
        "GROUP_BUSY",
        format!("the group's last commit is not over after {:?}; nothing was done, try it again", limits::LEASE_WAIT),
    )
}

fn unknown(why: &str) -> Failure {
    Failure::passing(
        Code::DeadlineExceeded,
        "OUTCOME_UNKNOWN",
        format!("nobody knows whether the transaction counts ({why}); its messages come again if it does not"),
    )
}

/// How long a transaction may be open at the cluster: longer than anything here waits.
pub(crate) const CLUSTER_TIMEOUT: Duration = Duration::from_secs(120);
