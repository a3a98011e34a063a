//! The task of one group: joins it, feeds the pure [`Group`] with commands, records, commits and time, and does what it says.
//!
//! ```text
//!   subscriptions, pulls, acks --commands--> +--------+ --frames--> subscriptions
//!                    cluster --records-----> | Group  | --answers-> pulls, calls
//!                    cluster <--commits----- +--------+
//! ```

mod asks;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep};
use tonic::Code;
use wherry_client::{ClientError, RebalanceEvent};
use wherry_proto::v1;

use super::ack_id::AckId;
use super::group::{CallId, Caller, Effect, Group, Leased, Outcome, Outgoing, SubId, Verb};
use super::registry::{ack_result, not_an_ack_id};
use super::sink::{Outlet, SinkEvent, Sinks};
use super::{message, progress};
use crate::backend::{Backend, Member, MemberSpec, Polled};
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;
use crate::stats::Entered;
pub(crate) use asks::{Ask, Ended, Lease, lost};

/// Commands taken at a time.
const COMMANDS_AT_ONCE: usize = 64;

type Answer<T> = oneshot::Sender<Result<T, Failure>>;
type CallOutcomes = Vec<(usize, Result<Outcome, Failure>)>;

/// What others ask of a group.
#[derive(Debug)]
pub(crate) enum Command {
    /// A subscription opens.
    Subscribe { id: SubId, outlet: Outlet, credits: Credits, ack_timeout: Duration },
    /// A subscription may get more.
    Credit { id: SubId, more: u32 },
    /// A subscription settles deliveries.
    Settle { id: SubId, ids: Vec<bytes::Bytes>, verb: Verb },
    /// A subscription will say nothing more.
    Finish { id: SubId },
    /// Takes messages.
    Pull { id: CallId, max: usize, until: Instant, ack_timeout: Duration, answer: Answer<Vec<v1::ReceivedMessage>> },
    /// Settles deliveries.
    Call { id: CallId, ids: Vec<(usize, AckId)>, verb: Verb, answer: oneshot::Sender<CallOutcomes> },
    /// Something else; see there.
    Ask(Ask),
}

/// How much a subscription may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credits {
    /// So many messages, and more when it says so.
    Given(u32),
    /// As long as no more than so many are unsettled.
    Window(u32),
}

/// Runs a group until nobody uses it, it fails for good, or the sidecar stops.
pub(crate) async fn run<B: Backend>(
    shared: Shared<B>,
    session: u64,
    spec: MemberSpec,
    mut commands: mpsc::Receiver<Command>,
) {
    let group = Group::new(session, shared.limits.window_messages, shared.limits.credits);
    let mut driver = Driver {
        _counted: shared.stats.groups.enter(),
        membership: Membership::Joining(shared.backend.join(spec.clone()).boxed()),
        shared,
        session,
        spec,
        group,
        sinks: Sinks::default(),
        finishing: Vec::new(),
        pulls: HashMap::new(),
        pull_ends: BTreeSet::new(),
        calls: HashMap::new(),
        call_ends: VecDeque::new(),
        committing: None,
        retry_commit: None,
        unsure: false,
        asks: VecDeque::new(),
        leases: HashMap::new(),
        moving: None,
        starved: false,
        bytes: 0,
        idle_since: Instant::now(),
        linger: limits::GROUP_LINGER_STREAM,
    };
    let end = driver.work(&mut commands).await;
    driver.end(&mut commands, end).await;
}

/// Why a group's task ends.
#[derive(Debug)]
enum End {
    /// Nobody uses it.
    Idle,
    /// The sidecar stops.
    Stopping,
    /// It can't go on.
    Failed(Failure),
}

enum Membership<M> {
    Joining(BoxFuture<'static, Result<M, ClientError>>),
    Member(M),
    /// After a failure.
    Pausing(Pin<Box<Sleep>>),
}

/// What came of the membership.
enum News<M> {
    Joined(Result<M, ClientError>),
    Polled(Result<Polled, ClientError>),
    Paused,
}

impl<M: Member> Membership<M> {
    async fn next(&mut self, want: usize) -> News<M> {
        match self {
            Self::Joining(joining) => News::Joined(joining.await),
            Self::Member(member) => News::Polled(member.next(want).await),
            Self::Pausing(pause) => {
                pause.await;
                News::Paused
            }
        }
    }
}

struct Call {
    outcomes: CallOutcomes,
    left: HashMap<usize, AckId>,
    answer: oneshot::Sender<CallOutcomes>,
}

struct Driver<B: Backend> {
    shared: Shared<B>,
    session: u64,
    spec: MemberSpec,
    membership: Membership<B::Member>,
    group: Group,
    sinks: Sinks,
    /// Subscriptions that end once their last results are out, or at this time.
    finishing: Vec<(Instant, SubId)>,
    pulls: HashMap<CallId, (Instant, Answer<Vec<v1::ReceivedMessage>>)>,
    pull_ends: BTreeSet<(Instant, CallId)>,
    calls: HashMap<CallId, Call>,
    call_ends: VecDeque<(Instant, CallId)>,
    committing: Option<BoxFuture<'static, Result<(), ClientError>>>,
    retry_commit: Option<Instant>,
    /// The answer to a commit got lost: it may still come into force, and undo what a transaction commits after it.
    unsure: bool,
    /// What can't be done before the commit in progress is over, or a transaction is.
    asks: VecDeque<Ask>,
    /// Transactions that are about to commit, by their number.
    leases: HashMap<u64, Leased>,
    /// The commit in progress moves the group.
    moving: Option<asks::Moving>,
    /// Wants records and may not ask for them.
    starved: bool,
    /// What this group has counted in `held_bytes`.
    bytes: usize,
    idle_since: Instant,
    linger: Duration,
    _counted: Entered,
}

impl<B: Backend> Driver<B> {
    async fn work(&mut self, commands: &mut mpsc::Receiver<Command>) -> End {
        let mut batch = Vec::with_capacity(COMMANDS_AT_ONCE);
        let phase = self.shared.phase.clone();
        let mut draining = false;
        loop {
            let now = Instant::now();
            self.settle_up(now);
            if phase.stopping.is_cancelled() && !self.group.has_uncommitted() && self.leases.is_empty() {
                return End::Stopping;
            }
            if self.idle(now) && self.shared.groups.may_end(self.session, commands) {
                return End::Idle;
            }
            let want = self.want(now);
            let deadline = self.deadline(now);
            tokio::select! {
                count = commands.recv_many(&mut batch, COMMANDS_AT_ONCE), if !commands.is_closed() => {
                    if count > 0 {
                        batch.drain(..).for_each(|command| self.command(command));
                    }
                }
                event = self.sinks.next() => self.sink(event),
                outcome = wait(&mut self.committing) => self.committed(outcome),
                news = self.membership.next(want) => if let Some(failure) = self.news(news) {
                    return End::Failed(failure);
                },
                () = tokio::time::sleep_until(deadline) => {}
                () = phase.draining.cancelled(), if !draining => {
                    draining = true;
                    self.group.drain();
                }
                () = phase.stopping.cancelled(), if !phase.stopping.is_cancelled() => {}
            }
        }
    }

    // Inputs.

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Subscribe { id, outlet, credits, ack_timeout } => self.subscribe(id, outlet, credits, ack_timeout),
            Command::Credit { id, more } => self.group.credit(id, more),
            Command::Settle { id, ids, verb } => self.settle(id, ids, verb),
            Command::Finish { id } => {
                self.group.finish(id);
                self.finishing.push((now + limits::UNARY_SETTLE, id));
            }
            Command::Pull { id, max, until, ack_timeout, answer } => {
                self.linger = limits::GROUP_LINGER_PULL;
                self.pull(id, max, until, ack_timeout, answer);
            }
            Command::Ask(ask) => self.ask(ask),
            Command::Call { id, ids, verb, answer } => {
                let left = ids.iter().copied().collect();
                self.calls.insert(id, Call { outcomes: Vec::with_capacity(ids.len()), left, answer });
                self.call_ends.push_back((now + limits::UNARY_SETTLE, id));
                for (index, ack_id) in ids {
                    self.group.settle(Caller::Call(id, index), ack_id, verb, now.into_std());
                }
            }
        }
    }

    fn receivers(&self) -> usize {
        self.sinks.len() + self.pulls.len()
    }

    fn subscribe(&mut self, id: SubId, outlet: Outlet, credits: Credits, ack_timeout: Duration) {
        if self.receivers() >= self.shared.limits.subscribers_per_group {
            self.shared.stats.refused.add(1);
            // Only the first reason counts.
            let _ = outlet.end.set(self.too_many());
            return;
        }
        self.linger = limits::GROUP_LINGER_STREAM;
        match credits {
            Credits::Given(credits) => self.group.subscribe(id, credits, ack_timeout),
            Credits::Window(window) => {
                self.group.subscribe(id, window, ack_timeout);
                self.group.bound(id, window);
            }
        }
        self.group.hold(id);
        self.sinks.add(id, outlet);
    }

    fn too_many(&self) -> Failure {
        Failure::passing(
            Code::ResourceExhausted,
            "TOO_MANY_SUBSCRIBERS",
            format!(
                "group {} has limits.subscribers_per_group = {} subscriptions and pulls here already; use fewer, or raise the limit",
                self.spec.group, self.shared.limits.subscribers_per_group
            ),
        )
    }

    fn settle(&mut self, id: SubId, ids: Vec<bytes::Bytes>, verb: Verb) {
        let now = Instant::now().into_std();
        for bytes in ids {
            match AckId::decode(&bytes) {
                Some(ack_id) => self.group.settle(Caller::Sub(id), ack_id, verb, now),
                None => self.sinks.settled(id, ack_result(bytes, Err(not_an_ack_id()))),
            }
        }
    }

    fn pull(
        &mut self,
        id: CallId,
        max: usize,
        until: Instant,
        ack_timeout: Duration,
        answer: Answer<Vec<v1::ReceivedMessage>>,
    ) {
        if self.receivers() >= self.shared.limits.subscribers_per_group {
            self.shared.stats.refused.add(1);
            // Whoever gave up does not need the answer.
            let _ = answer.send(Err(self.too_many()));
            return;
        }
        self.pulls.insert(id, (until, answer));
        self.pull_ends.insert((until, id));
        self.group.pull(id, max, ack_timeout);
    }

    fn sink(&mut self, event: SinkEvent) {
        match event {
            SinkEvent::Room(id) => self.group.sent(id),
            SinkEvent::Gone(id) => {
                self.sinks.remove(id, None);
                self.group.unsubscribe(id);
            }
        }
    }

    fn committed(&mut self, outcome: Result<(), ClientError>) {
        self.committing = None;
        self.shared.stats.commits.add(1);
        if let Some(moving) = self.moving.take() {
            return self.moved(moving, outcome);
        }
        match outcome {
            Ok(()) => self.group.commit_done(),
            Err(error) => {
                self.unsure |= error.may_have_happened();
                self.shared.stats.commits_failed.add(1);
                tracing::warn!(group = %self.spec.group, %error, "an offset commit failed");
                if matches!(error, ClientError::Rejected { code: OFFSET_METADATA_TOO_LARGE, .. }) {
                    self.group.say_less();
                    self.group.commit_failed();
                } else if error.is_retriable() || matches!(error, ClientError::Stale { .. }) {
                    self.group.commit_failed();
                } else {
                    self.group.commit_refused();
                }
                self.retry_commit = Some(Instant::now() + limits::GROUP_RETRY);
            }
        }
    }

    /// What came of the membership; answers with a failure that ends the group.
    fn news(&mut self, news: News<B::Member>) -> Option<Failure> {
        match news {
            News::Joined(Ok(member)) => self.membership = Membership::Member(member),
            News::Paused => {
                self.membership = Membership::Joining(self.shared.backend.join(self.spec.clone()).boxed());
            }
            News::Polled(Ok(Polled::Records(records))) => {
                let Membership::Member(member) = &self.membership else { return None };
                self.group.records(records, |at| {
                    let (committed, beside) = member.resumed(at)?;
                    Some((committed, progress::decode(committed, &beside)))
                });
            }
            News::Polled(Ok(Polled::Rebalance(event))) => self.rebalance(event),
            News::Joined(Err(error)) | News::Polled(Err(error)) => return self.failed(&error),
        }
        None
    }

    fn rebalance(&mut self, event: RebalanceEvent) {
        tracing::debug!(group = %self.spec.group, ?event, "rebalance");
        match event {
            RebalanceEvent::Revoking { partitions, .. } => {
                self.group.revoking(&partitions, (Instant::now() + limits::REVOKE_DRAIN).into_std());
            }
            RebalanceEvent::Assigned { generation, added, .. } => self.group.assigned(generation, &added),
            RebalanceEvent::Lost { generation, partitions } => self.group.lost(generation, &partitions),
            RebalanceEvent::Lagged { missed } => {
                tracing::warn!(group = %self.spec.group, missed, "missed rebalance events, joining anew");
                self.rejoin();
            }
        }
    }

    fn failed(&mut self, error: &ClientError) -> Option<Failure> {
        tracing::warn!(group = %self.spec.group, %error, "the group can't be read");
        match error {
            ClientError::Retry { .. } | ClientError::Unknown { .. } | ClientError::Stale { .. } => {
                self.rejoin();
                None
            }
            ClientError::Rejected { .. }
            | ClientError::NoSuchTopic { .. }
            | ClientError::TooLarge { .. }
            | ClientError::AbortOnly { .. }
            | ClientError::Fenced { .. }
            | ClientError::Corrupt { .. }
            | ClientError::OutOfRange { .. }
            | ClientError::Unsupported { .. }
            | ClientError::Config { .. }
            | ClientError::Closed { .. } => Some(Failure::from(error)),
        }
    }

    /// Gives the membership up and makes another. What was delivered and not committed comes again.
    fn rejoin(&mut self) {
        self.group.reset();
        self.committing = None;
        self.moving = None;
        // What the membership that ends here has sent is refused from now on.
        self.unsure = false;
        self.membership = Membership::Pausing(Box::pin(tokio::time::sleep(limits::GROUP_RETRY)));
    }

    // Outputs.

    /// Lets the group act on what came, and does what it says.
    fn settle_up(&mut self, now: Instant) {
        self.expire(now);
        if self.group.give_up_revoked(now.into_std())
            && let Membership::Member(member) = &mut self.membership
        {
            member.release();
        }
        self.group.turn(now.into_std());
        while self.act() {
            self.group.turn(now.into_std());
        }
        self.finish(now);
        self.count();
        self.take_up_asks();
        if self.retry_commit.is_none_or(|at| at <= now) {
            self.retry_commit = None;
            self.start_commit();
        }
    }

    fn start_commit(&mut self) {
        if let Membership::Member(member) = &self.membership
            && self.committing.is_none()
            && let Some((generation, next)) = self.group.commit()
        {
            self.committing = Some(member.commit(generation, next).boxed());
        }
    }

    /// Does what the group says; answers whether more could be delivered at once.
    fn act(&mut self) -> bool {
        let mut more = false;
        for effect in self.group.effects() {
            match effect {
                Effect::Deliver(id, messages) => {
                    tracing::debug!(group = %self.spec.group, subscription = id, messages = messages.len(), "deliver");
                    if self.sinks.deliver(id, message::received(messages)) {
                        self.group.sent(id);
                        more = true;
                    }
                }
                Effect::Answer(id, messages) => self.answer(id, messages),
                Effect::Settled(caller, id, outcome) => self.settled(caller, id, outcome),
                Effect::Pause(partitions) => {
                    if let Membership::Member(member) = &mut self.membership {
                        member.pause(&partitions);
                    }
                }
                Effect::Resume(partitions) => {
                    if let Membership::Member(member) = &mut self.membership {
                        member.resume(&partitions);
                    }
                }
            }
        }
        for id in self.sinks.flush() {
            self.group.hold(id);
        }
        more
    }

    /// Ends subscriptions that have said and heard everything.
    fn finish(&mut self, now: Instant) {
        let (sinks, group) = (&mut self.sinks, &mut self.group);
        self.finishing.retain(|(until, id)| {
            let open = sinks.waits_for_results(*id);
            let late = open && *until <= now;
            if !open || late {
                sinks.remove(*id, late.then(not_durable_yet).as_ref());
                group.unsubscribe(*id);
            }
            open && !late
        });
    }

    fn answer(&mut self, id: CallId, messages: Vec<Outgoing>) {
        let Some((until, answer)) = self.pulls.remove(&id) else { return };
        self.pull_ends.remove(&(until, id));
        // Whoever gave up does not get them; so they are not held by anyone.
        if answer.is_closed() {
            return self.group.undelivered(&messages);
        }
        let received = message::received(messages);
        if answer.send(Ok(received)).is_err() {
            tracing::debug!(group = %self.spec.group, "a pull was given up as its answer came; its messages time out");
        }
    }

    fn settled(&mut self, caller: Caller, id: AckId, outcome: Outcome) {
        match caller {
            Caller::Sub(sub) => {
                let bytes = AckId::encode_all([id].into_iter()).next().unwrap_or_default();
                self.sinks.settled(sub, ack_result(bytes, Ok(outcome)));
            }
            Caller::Call(call, index) => {
                let Some(open) = self.calls.get_mut(&call) else { return };
                open.left.remove(&index);
                open.outcomes.push((index, Ok(outcome)));
                if open.left.is_empty() {
                    self.end_call(call);
                }
            }
        }
    }

    fn end_call(&mut self, id: CallId) {
        if let Some(call) = self.calls.remove(&id) {
            let not_yet = call.left.into_keys().map(|index| (index, Err(not_durable_yet())));
            // Whoever gave up does not need the answer.
            let _ = call.answer.send(call.outcomes.into_iter().chain(not_yet).collect());
        }
    }

    /// Pulls and calls that have waited long enough.
    fn expire(&mut self, now: Instant) {
        while let Some((until, id)) = self.pull_ends.first().copied().filter(|(until, _)| *until <= now) {
            self.pull_ends.remove(&(until, id));
            self.group.end_pull(id);
            self.answer(id, Vec::new());
        }
        while let Some((_, id)) = self.call_ends.front().copied().filter(|(until, _)| *until <= now) {
            self.call_ends.pop_front();
            self.end_call(id);
        }
        while let Some((_, id)) = self.call_ends.front()
            && !self.calls.contains_key(id)
        {
            self.call_ends.pop_front();
        }
    }

    fn count(&mut self) {
        let tally = self.group.tally();
        let stats = &self.shared.stats;
        stats.delivered.add(tally.delivered);
        stats.delivered_bytes.add(tally.delivered_bytes);
        stats.redelivered.add(tally.redelivered);
        stats.ack_timeouts.add(tally.timeouts);
        stats.acknowledged.add(tally.acknowledged);
        stats.released.add(tally.released);
        stats.lost_acks.add(tally.lost);
        let bytes = self.group.bytes();
        let change = i64::try_from(bytes).unwrap_or(i64::MAX) - i64::try_from(self.bytes).unwrap_or(i64::MAX);
        stats.held_bytes.add(change);
        self.bytes = bytes;
    }

    // When to do what.

    /// How many records to ask for now.
    fn want(&mut self, now: Instant) -> usize {
        let demand = self.group.demand(now.into_std()).min(limits::POLL_MESSAGES);
        let held = usize::try_from(self.shared.stats.held_bytes.get()).unwrap_or_default();
        let allowed = match (held < self.shared.limits.window_bytes, self.bytes) {
            (true, _) => demand,
            // Over the bound, a group that has nothing still moves.
            (false, 0) => demand.min(1),
            (false, _) => 0,
        };
        self.starved = allowed < demand;
        allowed
    }

    fn deadline(&self, now: Instant) -> Instant {
        let group = self.group.next_deadline(now.into_std()).map(Instant::from_std);
        let pull = self.pull_ends.first().map(|(until, _)| *until);
        let call = self.call_ends.front().map(|(until, _)| *until);
        let finishing = self.finishing.iter().map(|(until, _)| *until).min();
        let idle = Some(self.idle_since + self.linger).filter(|at| *at > now);
        let longest = now + if self.starved { STARVED_SLEEP } else { MAX_SLEEP };
        [group, pull, call, finishing, self.retry_commit, idle]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(longest)
            .min(longest)
    }

    fn idle(&mut self, now: Instant) -> bool {
        let used = self.receivers() > 0 || !self.calls.is_empty() || self.group.has_open_business() || self.has_asks();
        if used {
            self.idle_since = now;
        }
        !used && now >= self.idle_since + self.linger
    }

    // The end.

    async fn end(mut self, commands: &mut mpsc::Receiver<Command>, end: End) {
        let failure = match end {
            End::Idle | End::Stopping => Failure::draining(),
            End::Failed(failure) => failure,
        };
        self.shared.groups.forget(self.session);
        commands.close();
        self.group.reset();
        self.act();
        while let Some(command) = commands.recv().await {
            refuse(command, &failure);
        }
        for id in self.sinks.ids() {
            self.sinks.remove(id, Some(&failure));
        }
        for ask in std::mem::take(&mut self.asks) {
            ask.refuse(&failure);
        }
        for (_, answer) in self.pulls.drain().map(|(_, pull)| pull) {
            // Whoever gave up does not need the answer.
            let _ = answer.send(Err(failure.clone()));
        }
        self.count();
        if let Membership::Member(member) = self.membership
            && let Err(error) = member.close().await
        {
            tracing::warn!(group = %self.spec.group, %error, "could not leave the group in good order");
        }
    }
}

/// `OFFSET_METADATA_TOO_LARGE` in the Kafka protocol.
const OFFSET_METADATA_TOO_LARGE: i16 = 12;
/// Longest sleep of a group's task.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Longest sleep while other groups hold the memory that this one wants.
const STARVED_SLEEP: Duration = Duration::from_millis(20);

fn refuse(command: Command, failure: &Failure) {
    match command {
        // Only the first reason counts, and whoever gave up does not need an answer.
        Command::Subscribe { outlet, .. } => drop(outlet.end.set(failure.clone())),
        Command::Pull { answer, .. } => drop(answer.send(Err(failure.clone()))),
        Command::Call { ids, answer, .. } => {
            drop(answer.send(ids.into_iter().map(|(index, _)| (index, Ok(Outcome::Lost))).collect()));
        }
        Command::Ask(ask) => ask.refuse(failure),
        Command::Credit { .. } | Command::Settle { .. } | Command::Finish { .. } => {}
    }
}

fn not_durable_yet() -> Failure {
    Failure::passing(
        Code::DeadlineExceeded,
        "NOT_DURABLE_YET",
        "taken, but not durable within 30 s, because earlier messages of the partition are not settled or the cluster does not answer; acknowledge those, then send this ack again",
    )
}

async fn wait(commit: &mut Option<BoxFuture<'static, Result<(), ClientError>>>) -> Result<(), ClientError> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}
