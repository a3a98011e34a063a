//! Finds the task of a group, or starts it; and the task that an ack id belongs to.
//!
//! A task that is idle ends by itself. It may do so only under the lock here, and only when nobody is about to send it something.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Code;
use wherry_proto::v1::{self, AckOutcome, AckResult};

use super::ack_id::AckId;
use super::driver::{self, Ask, Command, Credits};
use super::group::{Outcome, SubId, Verb};
use super::sink::Outlet;
use crate::backend::{Backend, MemberSpec};
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;

/// The groups of a sidecar. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Groups<B: Backend> {
    inner: Arc<Inner>,
    /// Tasks of groups, to wait for at the end.
    pub(crate) tasks: TaskTracker,
    _backend: std::marker::PhantomData<fn() -> B>,
}

impl<B: Backend> Clone for Groups<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), tasks: self.tasks.clone(), _backend: std::marker::PhantomData }
    }
}

impl<B: Backend> Default for Groups<B> {
    fn default() -> Self {
        Self { inner: Arc::default(), tasks: TaskTracker::new(), _backend: std::marker::PhantomData }
    }
}

#[derive(Debug, Default)]
struct Inner {
    next_id: AtomicU64,
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    spec: MemberSpec,
    /// Its clones are those who are about to send.
    commands: Arc<mpsc::Sender<Command>>,
}

/// The right to send to a group's task; while it is held the task does not end for idleness.
pub(crate) type Lease = Arc<mpsc::Sender<Command>>;

impl<B: Backend> Groups<B> {
    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.inner.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other subscription or call has.
    pub(crate) fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The task of this group, started if there is none.
    fn lease(&self, shared: &Shared<B>, spec: &MemberSpec) -> Result<Lease, Failure> {
        if shared.phase.draining.is_cancelled() {
            return Err(Failure::draining());
        }
        let mut entries = self.entries();
        let found = entries.values().find(|e| e.spec.group == spec.group && e.spec.topics == spec.topics);
        if let Some(entry) = found {
            if spec.committed && !entry.spec.committed {
                return Err(other_level(&spec.group));
            }
            return Ok(entry.commands.clone());
        }
        if entries.len() >= shared.limits.groups {
            shared.stats.refused.add(1);
            return Err(Failure::passing(
                Code::ResourceExhausted,
                "TOO_MANY_GROUPS",
                format!(
                    "this sidecar is a member of limits.groups = {} groups already; use fewer, or raise the limit",
                    entries.len()
                ),
            ));
        }
        let session = session();
        let (commands, received) = mpsc::channel(limits::GROUP_COMMANDS);
        let commands = Arc::new(commands);
        entries.insert(session, Entry { spec: spec.clone(), commands: commands.clone() });
        let (killed, task) =
            (shared.phase.killed.clone(), driver::run(shared.clone(), session, spec.clone(), received));
        self.tasks.spawn(async move { killed.run_until_cancelled(task).await });
        Ok(commands)
    }

    /// The task that made this session, if it still runs.
    fn leased(&self, session: u64) -> Option<Lease> {
        self.entries().get(&session).map(|entry| entry.commands.clone())
    }

    /// Asks the task that made this session; `None` where it has ended.
    pub(crate) async fn ask<T>(&self, session: u64, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let lease = self.leased(session)?;
        let (answer, answered) = oneshot::channel();
        lease.send(Command::Ask(ask(answer))).await.ok()?;
        drop(lease);
        answered.await.ok()
    }

    /// Tells the task that made this session, if it still runs.
    pub(crate) async fn tell(&self, session: u64, ask: Ask) {
        if let Some(lease) = self.leased(session) {
            // One that has ended needs not be told.
            let _ = lease.send(Command::Ask(ask)).await;
        }
    }

    /// The sessions of this group, with their topics.
    pub(crate) fn of_group(&self, group: &str) -> Vec<(u64, Vec<Arc<str>>)> {
        let entries = self.entries();
        let of = entries.iter().filter(|(_, entry)| &*entry.spec.group == group);
        of.map(|(session, entry)| (*session, entry.spec.topics.clone())).collect()
    }

    /// An idle task asks whether it may end. It may not while anybody is about to send to it.
    pub(crate) fn may_end(&self, session: u64, commands: &mpsc::Receiver<Command>) -> bool {
        let mut entries = self.entries();
        let idle =
            entries.get(&session).is_none_or(|entry| Arc::strong_count(&entry.commands) == 1 && commands.is_empty());
        if idle {
            entries.remove(&session);
        }
        idle
    }

    /// The memberships there are.
    pub(crate) fn specs(&self) -> Vec<MemberSpec> {
        self.entries().values().map(|entry| entry.spec.clone()).collect()
    }

    /// A task ends whatever comes.
    pub(crate) fn forget(&self, session: u64) {
        self.entries().remove(&session);
    }

    /// Opens a subscription; its frames come through the other end of `outlet`. The lease is for its further commands.
    pub(crate) async fn subscribe(
        &self,
        shared: &Shared<B>,
        spec: &MemberSpec,
        credits: Credits,
        ack_timeout: Duration,
        outlet: Outlet,
    ) -> Result<(SubId, Lease), Failure> {
        let id = self.next_id();
        let mut command = Command::Subscribe { id, outlet, credits, ack_timeout };
        loop {
            let lease = self.lease(shared, spec)?;
            match lease.send(command).await {
                Ok(()) => return Ok((id, lease)),
                // It has just ended; the next one is another.
                Err(mpsc::error::SendError(back)) => command = back,
            }
        }
    }

    /// Takes messages; waits for the first until `until`.
    pub(crate) async fn pull(
        &self,
        shared: &Shared<B>,
        spec: &MemberSpec,
        max: usize,
        until: Instant,
        ack_timeout: Duration,
    ) -> Result<Vec<v1::ReceivedMessage>, Failure> {
        let (answer, answered) = oneshot::channel();
        let mut command = Command::Pull { id: self.next_id(), max, until, ack_timeout, answer };
        loop {
            let lease = self.lease(shared, spec)?;
            match lease.send(command).await {
                Ok(()) => break,
                Err(mpsc::error::SendError(back)) => command = back,
            }
        }
        answered.await.unwrap_or_else(|_| Err(Failure::draining()))
    }

    /// Settles deliveries of any groups; answers in the order of the ids.
    pub(crate) async fn settle(&self, ids: Vec<Bytes>, verb: Verb) -> Vec<AckResult> {
        let mut outcomes: Vec<Result<Outcome, Failure>> = ids.iter().map(|_| Ok(Outcome::Lost)).collect();
        let mut by_session: HashMap<u64, Vec<(usize, AckId)>> = HashMap::new();
        for (index, bytes) in ids.iter().enumerate() {
            match AckId::decode(bytes) {
                Some(id) => by_session.entry(id.session).or_default().push((index, id)),
                None => outcomes[index] = Err(not_an_ack_id()),
            }
        }
        let calls = by_session.into_iter().map(|(session, of_session)| self.settle_in(session, of_session, verb));
        for (index, outcome) in futures::future::join_all(calls).await.into_iter().flatten() {
            outcomes[index] = outcome;
        }
        ids.into_iter().zip(outcomes).map(|(id, outcome)| ack_result(id, outcome)).collect()
    }

    async fn settle_in(
        &self,
        session: u64,
        ids: Vec<(usize, AckId)>,
        verb: Verb,
    ) -> Vec<(usize, Result<Outcome, Failure>)> {
        let Some(lease) = self.leased(session) else { return Vec::new() };
        let (answer, answered) = oneshot::channel();
        let command = Command::Call { id: self.next_id(), ids, verb, answer };
        if lease.send(command).await.is_err() {
            return Vec::new();
        }
        drop(lease);
        answered.await.unwrap_or_default()
    }
}

fn session() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low
}

fn other_level(group: &Arc<str>) -> Failure {
    Failure::lasting(
        Code::FailedPrecondition,
        "OTHER_DELIVERY",
        format!(
            "group {group} is read here with a lesser delivery level already, and these subscriptions share what is read; end them first, or ask for the same"
        ),
    )
}

/// For bytes that this sidecar never made.
pub(crate) fn not_an_ack_id() -> Failure {
    Failure::invalid("INVALID_ACK_ID", "not an ack id: send back `ack_id` exactly as it came with the message")
}

/// As an application gets it.
pub(crate) fn ack_result(ack_id: Bytes, outcome: Result<Outcome, Failure>) -> AckResult {
    let outcome = match outcome {
        Ok(Outcome::Acknowledged) => AckOutcome::Acknowledged,
        Ok(Outcome::Released) => AckOutcome::Released,
        Ok(Outcome::Extended) => AckOutcome::Extended,
        Ok(Outcome::Lost) => AckOutcome::Lost,
        Ok(Outcome::Refused) => return failed(ack_id, &commit_refused()),
        Err(failure) => return failed(ack_id, &failure),
    };
    AckResult { ack_id, outcome: outcome.into(), error: None }
}

fn failed(ack_id: Bytes, failure: &Failure) -> AckResult {
    AckResult { ack_id, outcome: AckOutcome::Failed.into(), error: Some(failure.to_proto()) }
}

fn commit_refused() -> Failure {
    Failure::lasting(
        Code::FailedPrecondition,
        "COMMIT_REFUSED",
        "the cluster refused to store the acknowledgement; see the sidecar's log, and check that this application may use the group",
    )
}
