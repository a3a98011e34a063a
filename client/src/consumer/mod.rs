//! The consumer: records of partitions, chosen by the application (`assign`) or divided among the members of a group.
//!
//! ```text
//! broker ─▶ fetcher task ─▶ queues per partition (bounded) ─▶ poll: CRC, decompress, parse ─▶ application
//! coordinator ◀─▶ group task: join, assign, heartbeats ─▶ assignment
//! ```
//! It knows leaders and coordinators; it knows nothing of who produced.

mod commit;
mod decode;
mod events;
mod fetcher;
pub(crate) mod group;
mod hand_out;
mod locate;
pub(crate) mod offsets;
mod partitions;
mod shared;

pub use events::{RebalanceEvent, RebalanceEvents};

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::config::ConsumerConfig;
use crate::error::{ClientError, Result};
use crate::limits;
use crate::record::{CommitOffset, ConsumedRecord, TopicPartition};
use group::Command;
use shared::Shared;

const CLOSED: ClientError = ClientError::Closed { what: "the consumer" };

/// Reads records, alone (`assign`) or as a member of a group (`subscribe`). Dropping it ends its tasks and leaves the group
/// in the background; [`Consumer::close`] does so in the foreground and reports errors.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    group: Option<mpsc::Sender<Command>>,
    committed_at: Instant,
}

/// A member of a group, in one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMembership {
    pub(crate) group: Arc<str>,
    pub(crate) generation: i32,
    pub(crate) member_id: Arc<str>,
    pub(crate) instance_id: Option<Arc<str>>,
}

impl GroupMembership {
    /// The membership that a coordinator has given elsewhere.
    #[must_use]
    pub fn new(group: Arc<str>, generation: i32, member_id: Arc<str>) -> Self {
        Self { group, generation, member_id, instance_id: None }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Arc<str> {
        &self.group
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The member, as the coordinator calls it.
    #[must_use]
    pub fn member_id(&self) -> &Arc<str> {
        &self.member_id
    }
}

/// Commits for a consumer from elsewhere than the task that polls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    shared: Arc<Shared>,
}

impl Committer {
    /// As [`Consumer::commit`].
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        commit::commit(&self.shared, next, None).await
    }

    /// As [`Consumer::commit_in_generation`].
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_in_generation(&self, generation: i32, next: &[(TopicPartition, i64)]) -> Result<()> {
        commit::commit(&self.shared, next, Some(generation)).await
    }

    /// As [`Committer::commit_in_generation`], with what is to be kept beside each offset.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_all_in_generation(&self, generation: i32, next: &[CommitOffset]) -> Result<()> {
        commit::commit_all(&self.shared, next, Some(generation)).await
    }

    /// As [`Consumer::release`].
    pub fn release(&self) {
        self.shared.state().releases += 1;
        self.shared.polled.notify_one();
    }

    /// As [`Consumer::generation`].
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.shared.state().membership.generation
    }
}

/// Says that a poll is over, also one that is dropped while it waits.
struct Polling<'a>(&'a Shared);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.state().polling = false;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Consumer {
    pub(crate) fn open(cluster: Arc<Cluster>, config: ConsumerConfig) -> Result<Self> {
        config.check()?;
        let shared = Arc::new(Shared::new(cluster, config));
        tokio::spawn(fetcher::run(shared.clone()));
        if shared.config.group.is_some() {
            tokio::spawn(commit::run(shared.clone()));
        }
        Ok(Self { shared, group: None, committed_at: Instant::now() })
    }

    fn group_name(&self, what: &str) -> Result<Arc<str>> {
        let name = self.shared.config.group.as_deref().map(Arc::from);
        name.ok_or_else(|| ClientError::config(format!("{what} needs a group: set ConsumerConfig::group")))
    }

    /// Joins the group with these topics, in place of those before. An empty list leaves the group. Topics need not exist yet.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group, or while partitions are assigned by hand; [`ClientError::Closed`].
    pub async fn subscribe(&mut self, topics: &[&str]) -> Result<()> {
        let name = self.group_name("subscribe")?;
        {
            let mut state = self.shared.state();
            if !state.subscribed && !state.partitions.by_place.is_empty() {
                return Err(ClientError::config("subscribe while partitions are assigned by hand: assign(&[]) first"));
            }
            state.subscribed = true;
        }
        let group = self.group.get_or_insert_with(|| {
            let (sender, commands) = mpsc::channel(limits::TASK_COMMANDS);
            tokio::spawn(group::run(self.shared.clone(), name, commands));
            sender
        });
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        group.send(Command::Subscribe(topics)).await.map_err(|_| CLOSED)
    }

    /// Reads these partitions, in place of those before, without group membership (but from its committed offsets, if a group is set).
    ///
    /// # Errors
    /// [`ClientError::Config`] while subscribed, or with more topics than a client may use.
    pub async fn assign(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        if self.shared.state().subscribed {
            return Err(ClientError::config("assign while subscribed: the group decides; use another consumer"));
        }
        self.shared.cluster.follow(partitions.iter().map(|at| &at.topic))?;
        self.shared.state().partitions.set(partitions, -1);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Up to `max` records, in order within each partition; waits until there is at least one. Wrap it in a timeout to stop
    /// earlier: it may be dropped at any point without losing records.
    ///
    /// # Errors
    /// What needs a decision: [`ClientError::OutOfRange`], [`ClientError::Corrupt`] (both: the partition stands still until a
    /// seek), [`ClientError::NoSuchTopic`], [`ClientError::Rejected`], [`ClientError::Fenced`]. What can be retried is retried
    /// inside.
    pub async fn poll(&mut self, max: usize) -> Result<Vec<ConsumedRecord>> {
        self.begin_poll(false);
        let shared = self.shared.clone();
        let _polling = Polling(&shared);
        shared.polled.notify_one();
        loop {
            if let Some(failure) = shared.state().failures.pop_front() {
                return Err(failure);
            }
            let records = hand_out::hand_out(&shared, max.max(1))?;
            if !records.is_empty() {
                return Ok(records);
            }
            shared.arrived.notified().await;
        }
    }

    /// What was handed out before counts as processed from now on; with automatic commits it is committed when it is time.
    fn begin_poll(&mut self, commit_now: bool) {
        let mut state = self.shared.state();
        state.polls += 1;
        state.polling = true;
        let Some(interval) = self.shared.config.auto_commit_interval else { return };
        let positions = state.partitions.by_place.iter().filter(|(_, reading)| reading.position >= 0);
        state.processed = positions.map(|(at, reading)| (at.clone(), reading.position)).collect();
        if commit_now || self.committed_at.elapsed() >= interval {
            self.committed_at = Instant::now();
            let state = &mut *state;
            let new = state.processed.iter().filter(|(at, position)| state.auto_committed.get(*at) != Some(*position));
            state.to_commit.extend(new.map(|(at, position)| (at.clone(), *position)));
            state.auto_committed.clone_from(&state.processed);
            self.shared.commit.notify_one();
        }
    }

    /// Commits next offsets to consume, in the present generation; waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Stale`] where a partition is no longer this member's; [`ClientError::Retry`], [`ClientError::Rejected`],
    /// [`ClientError::Fenced`]; [`ClientError::Config`] without a group.
    pub async fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        commit::commit(&self.shared, next, None).await
    }

    /// As [`Consumer::commit`], refused as [`ClientError::Stale`] where the partition has been given up since `generation` (from
    /// a record), even if it came back.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_in_generation(&self, generation: i32, next: &[(TopicPartition, i64)]) -> Result<()> {
        commit::commit(&self.shared, next, Some(generation)).await
    }

    /// Commits in the background; later calls overtake earlier ones of the same partition. `close` waits for it. Errors are logged.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group.
    pub fn commit_async(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        self.group_name("commit")?;
        self.shared.state().to_commit.extend(next.iter().cloned());
        self.shared.commit.notify_one();
        Ok(())
    }

    /// Gives up what is being revoked: with [`RevokeWhen::Released`](crate::RevokeWhen) the application says so itself.
    pub fn release(&self) {
        self.committer().release();
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group; [`ClientError::Retry`], [`ClientError::Rejected`].
    pub async fn committed(&self, of: &[TopicPartition]) -> Result<Vec<(TopicPartition, i64)>> {
        self.group_name("committed")?;
        let found = locate::committed(&self.shared.cluster, &self.shared.config, of).await?;
        Ok(of.iter().filter_map(|at| Some((at.clone(), found.get(at)?.offset))).collect())
    }

    /// Where the group had left off in a partition when it was assigned, and what had been committed beside that offset. Known once
    /// records of the partition are handed out; `None` where nothing was beside it, and after a seek.
    #[must_use]
    pub fn resumed(&self, at: &TopicPartition) -> Option<(i64, Arc<str>)> {
        self.shared.state().partitions.by_place.get(at)?.resumed.clone()
    }

    /// Continues at this offset. What was fetched ahead is dropped.
    ///
    /// # Errors
    /// [`ClientError::Config`] where the partition is not assigned.
    pub fn seek(&mut self, at: &TopicPartition, offset: i64) -> Result<()> {
        let mut state = self.shared.state();
        if !state.partitions.seek(at, offset) {
            return Err(ClientError::config(format!("seek of {at}, which is not assigned")));
        }
        // That it had no place is not true any more; nobody has been told yet.
        state.failures.retain(|failure| !matches!(failure, ClientError::OutOfRange { at: of, .. } if of == at));
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Next offset that `poll` will hand out; `None` where it is not known yet or the partition is not assigned.
    #[must_use]
    pub fn position(&self, at: &TopicPartition) -> Option<i64> {
        let state = self.shared.state();
        state.partitions.by_place.get(at).map(|reading| reading.position).filter(|position| *position >= 0)
    }

    /// Hands out nothing of these partitions until [`Consumer::resume`]. Lost with the assignment.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, true);
    }

    /// Undoes [`Consumer::pause`].
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        self.set_paused(partitions, false);
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) {
        let mut state = self.shared.state();
        for at in partitions {
            if let Some(reading) = state.partitions.by_place.get_mut(at) {
                reading.paused = paused;
            }
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// What is assigned now, ordered.
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.state().partitions.by_place.keys().cloned().collect()
    }

    /// Generation of the group in force; -1 without.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.shared.state().membership.generation
    }

    /// Member id that the coordinator gave, if there is one.
    #[must_use]
    pub fn member_id(&self) -> Option<Arc<str>> {
        Some(self.shared.state().membership.member_id.clone()).filter(|id| !id.is_empty())
    }

    /// High watermark minus position, where both are known.
    #[must_use]
    pub fn lag(&self, at: &TopicPartition) -> Option<i64> {
        let state = self.shared.state();
        let reading = state.partitions.by_place.get(at)?;
        Some((reading.high_watermark? - reading.position).max(0))
    }

    /// Who this consumer is in its group, for [`TransactionalProducer::send_offsets`](crate::TransactionalProducer::send_offsets).
    /// Take it together with the records: a rebalance makes another of it. `None` without a group.
    #[must_use]
    pub fn membership(&self) -> Option<GroupMembership> {
        let group = self.shared.config.group.as_deref()?.into();
        let state = self.shared.state();
        if !state.subscribed {
            return Some(GroupMembership { group, generation: -1, member_id: "".into(), instance_id: None });
        }
        let instance_id = self.shared.config.group_instance_id.as_deref().map(Arc::from);
        let (generation, member_id) = (state.membership.generation, state.membership.member_id.clone());
        Some(GroupMembership { group, generation, member_id, instance_id })
    }

    /// A subscription to rebalance events, from now on: take it before `subscribe` to see them all.
    #[must_use]
    pub fn events(&self) -> RebalanceEvents {
        RebalanceEvents::new(self.shared.events.subscribe())
    }

    /// A handle that commits from other tasks.
    #[must_use]
    pub fn committer(&self) -> Committer {
        Committer { shared: self.shared.clone() }
    }

    /// Commits what is to be committed in the background (and with automatic commits everything handed out), leaves the group
    /// (static members stay), ends the background tasks.
    ///
    /// # Errors
    /// Of the last commit or the leave; everything is ended all the same.
    pub async fn close(mut self) -> Result<()> {
        if self.shared.config.auto_commit_interval.is_some() {
            self.begin_poll(true);
        }
        self.shared.polled.notify_one();
        let flushed = if self.shared.config.group.is_some() { commit::flush(&self.shared).await } else { Ok(()) };
        let left = self.leave().await;
        self.shared.closed.cancel();
        flushed.and(left)
    }

    async fn leave(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        // Closing says as much as a poll and a release: the application is done with what it had.
        {
            let mut state = self.shared.state();
            state.polling = true;
            state.releases += 1;
        }
        self.committer().release();
        let (done, left) = oneshot::channel();
        // Where the task has ended, there is no membership left.
        if group.send(Command::Close(done)).await.is_err() {
            return Ok(());
        }
        left.await.unwrap_or(Ok(()))
    }
}
