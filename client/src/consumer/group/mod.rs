//! Membership in a group: the classic protocol (JoinGroup, SyncGroup, Heartbeat, LeaveGroup), one task per consumer.
//!
//! ```text
//!            join            sync              heartbeats
//! Outside ────────▶ Joined ────────▶ Assigned ────────────┐
//!    ▲                                  │ rebalance in progress, topics changed
//!    │ Lost (unknown member)            ▼
//!    └───────────────────────────── rejoin (eager: revoke all first; cooperative: revoke what moves, rejoin)
//! ```
//! What it decides about whose partitions are whose is in [`assignor`]; positions and fetching are not its business.

pub(crate) mod assignor;
mod calls;
pub(crate) mod protocol;
mod revoke;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::JoinGroupResponse;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::assignor::Topics;
use self::calls::{Caller, Coordinator, Setback};
use self::protocol::Subscription;
use super::commit;
use super::events::RebalanceEvent;
use super::shared::{Membership, Shared};
use crate::config::Assignor;
use crate::error::{ClientError, Result};
use crate::limits;
use crate::net::Link;
use crate::record::TopicPartition;
use crate::retry::{self, Attempt};

/// What the consumer asks of its membership.
#[derive(Debug)]
pub(super) enum Command {
    /// These topics from now on; none: leave.
    Subscribe(Vec<Arc<str>>),
    /// Leave, and end.
    Close(oneshot::Sender<Result<()>>),
}

/// The member.
pub(super) struct Group {
    shared: Arc<Shared>,
    name: Arc<str>,
    topics: Vec<Arc<str>>,
    link: Link,
    member_id: Arc<str>,
    generation: i32,
    /// Last time that the coordinator answered as to a member.
    last_contact: Instant,
    failures: u32,
    /// As leader: the topics as they were when they were divided.
    divided: Option<Topics>,
    /// What it had before an eager rebalance.
    eager_memory: Vec<TopicPartition>,
}

/// Runs until closed.
pub(super) async fn run(shared: Arc<Shared>, name: Arc<str>, mut commands: mpsc::Receiver<Command>) {
    let closed = shared.closed.clone();
    let mut group = Group {
        shared,
        name,
        topics: Vec::new(),
        link: Link::default(),
        member_id: "".into(),
        generation: -1,
        last_contact: Instant::now(),
        failures: 0,
        divided: None,
        eager_memory: Vec::new(),
    };
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::Subscribe(topics)) => group.subscribe(topics).await,
                Some(Command::Close(done)) => {
                    // The consumer may have stopped waiting.
                    let _ = done.send(group.leave().await);
                    return;
                }
                None => break,
            },
            () = closed.cancelled() => break,
            error = Box::pin(group.be_member()) => {
                group.topics.clear();
                group.lose();
                group.shared.fail(error);
            }
        }
    }
    // Dropped without close: leave all the same, but nobody waits for it.
    let _ = tokio::time::timeout(limits::LEAVE_PATIENCE, group.leave()).await;
}

impl Group {
    async fn subscribe(&mut self, topics: Vec<Arc<str>>) {
        self.topics = topics;
        if let Err(error) = self.shared.cluster.follow(&self.topics) {
            self.shared.fail(error);
        }
        if self.topics.is_empty()
            && let Err(error) = self.leave().await
        {
            tracing::debug!(%error, "leaving the group failed; its session will expire");
        }
    }

    fn cooperative(&self) -> bool {
        self.shared.config.assignors.iter().all(|a| *a == Assignor::CooperativeSticky)
    }

    fn owned(&self) -> Vec<TopicPartition> {
        self.shared.state().partitions.by_place.keys().cloned().collect()
    }

    fn caller(&self) -> Caller {
        Caller {
            group: self.name.clone(),
            member_id: self.member_id.clone(),
            instance_id: self.shared.config.group_instance_id.as_deref().map(Arc::from),
            generation: self.generation,
        }
    }

    async fn coordinator(&self) -> Result<Coordinator<'_>, Setback> {
        let config = &self.shared.cluster.config;
        match commit::coordinator(&self.shared, &self.name).await {
            Ok(address) => Ok(Coordinator { config, link: &self.link, address }),
            Err(Attempt::Again(cause) | Attempt::Unknown(cause)) => Err(Setback::Later(cause)),
            Err(Attempt::Fail(error)) => Err(Setback::Fatal(error)),
        }
    }

    /// Joins, and joins again whenever it must; ends only with an error for the application.
    async fn be_member(&mut self) -> ClientError {
        if self.topics.is_empty() {
            return std::future::pending().await;
        }
        loop {
            self.revoke_before_joining().await;
            let setback = match self.generation_long().await {
                Ok(()) => continue,
                Err(setback) => setback,
            };
            match setback {
                Setback::Rejoin => self.failures = 0,
                Setback::NewId(id) => self.member_id = id,
                Setback::Lost => self.lose(),
                Setback::Coordinator(cause) => {
                    commit::forget_coordinator(&self.shared);
                    self.pause(&cause).await;
                }
                Setback::Later(cause) => self.pause(&cause).await,
                Setback::Fatal(error) => return error,
            }
        }
    }

    async fn pause(&mut self, cause: &str) {
        self.failures = self.failures.saturating_add(1);
        tracing::debug!(group = %self.name, %cause, failures = self.failures, "group call failed");
        if self.last_contact.elapsed() > self.shared.config.session_timeout && !self.owned().is_empty() {
            // The coordinator must have given it up by now: someone else may have its partitions.
            self.lose();
        }
        tokio::time::sleep(retry::pause_after(&self.shared.cluster.config, self.failures)).await;
    }

    /// One generation, from joining to the next rebalance.
    async fn generation_long(&mut self) -> Result<(), Setback> {
        let joined = self.join().await?;
        let assignments = if joined.leader == joined.member_id { self.divide(&joined).await? } else { Vec::new() };
        let protocol = joined.protocol_name.as_deref().unwrap_or("").to_owned();
        let coordinator = self.coordinator().await?;
        let timeout = self.shared.config.rebalance_timeout;
        let bytes = coordinator.sync(&self.caller(), &protocol, assignments, timeout).await?;
        self.last_contact = Instant::now();
        self.failures = 0;
        let what = |e: protocol::Unreadable| Setback::Later(format!("an assignment that {e}").into());
        let assigned = protocol::decode_assignment(bytes).map_err(what)?;
        if self.adopt(assigned).await {
            return Ok(());
        }
        self.stay().await
    }

    fn subscription(&self, assignor: Assignor) -> Subscription {
        let owned = self.owned();
        let generation = self.generation;
        let rack = self.shared.config.rack.as_deref().map(Arc::from);
        let topics = self.topics.clone();
        match assignor {
            Assignor::CooperativeSticky => Subscription { topics, user_data: None, owned, generation, rack },
            Assignor::Sticky => {
                let user_data = Some(assignor::user_data(&self.remembered(), generation));
                Subscription { topics, user_data, owned: Vec::new(), generation, rack }
            }
            Assignor::Range | Assignor::RoundRobin => {
                Subscription { topics, user_data: None, owned: Vec::new(), generation, rack }
            }
        }
    }

    async fn join(&mut self) -> Result<JoinGroupResponse, Setback> {
        let config = &self.shared.config;
        let protocols = config.assignors.iter().map(|a| (a.name(), self.subscription(*a).encode())).collect();
        let coordinator = self.coordinator().await?;
        let (session, rebalance) = (config.session_timeout, config.rebalance_timeout);
        let joined = coordinator.join(&self.caller(), protocols, session, rebalance).await?;
        self.last_contact = Instant::now();
        self.member_id = joined.member_id.as_str().into();
        self.generation = joined.generation_id;
        self.divided = None;
        Ok(joined)
    }

    /// As leader: divides the partitions of all topics that any member wants.
    async fn divide(&mut self, joined: &JoinGroupResponse) -> Result<Vec<(Arc<str>, Bytes)>, Setback> {
        let chosen = joined.protocol_name.as_deref().unwrap_or("");
        let offered = self.shared.config.assignors.iter().find(|a| a.name() == chosen).copied();
        let Some(assignor) = offered else {
            let what = format!("group {} chose the assignor {chosen:?}, which this member did not offer", self.name);
            return Err(Setback::Fatal(ClientError::config(what)));
        };
        let members: Vec<_> = joined.members.iter().filter_map(member).collect();
        let wanted: BTreeSet<_> = members.iter().flat_map(|m| m.subscription.topics.iter().cloned()).collect();
        let topics = self.count_partitions(&wanted).await;
        self.divided = Some(topics.clone());
        if joined.skip_assignment {
            return Ok(Vec::new());
        }
        let assignment = assignor::assign(assignor, members, &topics);
        Ok(assignment.into_iter().map(|(id, p)| (id, protocol::encode_assignment(&p))).collect())
    }

    /// Topics that do not exist (yet) have no partitions; the leader looks out for them.
    async fn count_partitions(&self, wanted: &BTreeSet<Arc<str>>) -> Topics {
        let cluster = &self.shared.cluster;
        // More topics than a client may use: then those beyond are not divided, and that is said.
        if let Err(error) = cluster.follow(wanted) {
            self.shared.fail(error);
        }
        let missing = || wanted.iter().any(|t| !cluster.metadata().topics.contains_key(t));
        let mut changes = cluster.watch_metadata();
        let patience = Instant::now() + limits::TOPIC_GRACE;
        while missing() && tokio::time::timeout_at(patience, changes.changed()).await.is_ok() {}
        self.current_counts(wanted.iter())
    }

    fn current_counts<'a>(&self, topics: impl Iterator<Item = &'a Arc<str>>) -> Topics {
        let metadata = self.shared.cluster.metadata();
        let count = |topic: &Arc<str>| {
            let partitions = metadata.topic(topic).map_or(0, |t| t.partitions.len());
            (topic.clone(), i32::try_from(partitions).unwrap_or(i32::MAX))
        };
        topics.map(count).collect()
    }

    /// Takes an assignment over; true where it must join again at once, because it gave something up for others.
    async fn adopt(&mut self, assigned: Vec<TopicPartition>) -> bool {
        let membership = Membership { generation: self.generation, member_id: self.member_id.clone() };
        self.shared.state().membership = membership;
        let owned = self.owned();
        let going = assignor::difference(&owned, &assigned);
        self.revoke(&going).await;
        let kept = assignor::difference(&owned, &going);
        let added = assignor::difference(&assigned, &kept);
        let mut assignment = assigned;
        assignment.sort();
        assignment.dedup();
        self.shared.state().partitions.set(&assignment, self.generation);
        self.shared.changed.notify_one();
        let generation = self.generation;
        self.shared.tell(RebalanceEvent::Assigned { generation, added, assignment });
        self.cooperative() && !going.is_empty()
    }

    /// Heartbeats until something happens.
    async fn stay(&mut self) -> Result<(), Setback> {
        let mut metadata = self.shared.cluster.watch_metadata();
        let mut next = Instant::now() + self.shared.config.heartbeat_interval;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    next = Instant::now() + self.heartbeat().await?;
                }
                _ = metadata.changed() => {
                    if self.divided.as_ref().is_some_and(|d| *d != self.current_counts(d.keys())) {
                        return Err(Setback::Rejoin);
                    }
                }
            }
        }
    }

    /// One heartbeat; the pause until the next.
    async fn heartbeat(&mut self) -> Result<Duration, Setback> {
        let beat = async { self.coordinator().await?.heartbeat(&self.caller()).await };
        match beat.await {
            Ok(()) => {
                self.last_contact = Instant::now();
                self.failures = 0;
                Ok(self.shared.config.heartbeat_interval)
            }
            Err(Setback::Coordinator(cause) | Setback::Later(cause)) => {
                commit::forget_coordinator(&self.shared);
                if self.last_contact.elapsed() > self.shared.config.session_timeout {
                    return Err(Setback::Lost);
                }
                self.failures = self.failures.saturating_add(1);
                tracing::debug!(group = %self.name, %cause, "heartbeat failed");
                Ok(retry::pause_after(&self.shared.cluster.config, self.failures))
            }
            Err(setback) => Err(setback),
        }
    }

    /// Leaves, so that others need not wait for the session to expire. Static members stay: they come back.
    async fn leave(&mut self) -> Result<()> {
        let going = self.owned();
        self.revoke(&going).await;
        let caller = self.caller();
        self.forget_membership();
        if caller.member_id.is_empty() || caller.instance_id.is_some() {
            return Ok(());
        }
        let left = async { self.coordinator().await?.leave(&caller).await };
        match left.await {
            // Whatever the coordinator says of a member that leaves, it is gone.
            Ok(()) | Err(Setback::Lost | Setback::Rejoin | Setback::NewId(_)) => Ok(()),
            Err(Setback::Fatal(error)) => Err(error),
            Err(Setback::Coordinator(cause) | Setback::Later(cause)) => {
                let (what, waited) = (format!("leave group {}", self.name).into(), Duration::ZERO);
                Err(ClientError::Unknown { what, cause, waited })
            }
        }
    }

    fn forget_membership(&mut self) {
        self.member_id = "".into();
        self.generation = -1;
        self.divided = None;
        self.shared.state().membership = Membership { generation: -1, member_id: "".into() };
    }
}

/// A member whose subscription can't be read gets nothing.
fn member(from: &kafka_protocol::messages::join_group_response::JoinGroupResponseMember) -> Option<assignor::Member> {
    let subscription = Subscription::decode(from.metadata.clone());
    let subscription = subscription
        .inspect_err(|error| tracing::warn!(member = %from.member_id, %error, "its subscription is not readable"))
        .ok()?;
    let id = from.member_id.as_str().into();
    Some(assignor::Member { id, instance_id: from.group_instance_id.as_ref().map(|i| i.as_str().into()), subscription })
}
