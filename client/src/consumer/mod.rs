//! The consumer.

use std::sync::Arc;

use crate::error::{ClientError, Result};
use crate::record::{ConsumedRecord, TopicPartition};

/// What happened to the assignment of a group member. Partitions not named stay as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebalanceEvent {
    /// These partitions are about to be taken away. They are given up at the next `poll`, or after `revoke_grace`; until then
    /// commits for them succeed.
    Revoking {
        /// Generation that ends.
        generation: i32,
        /// What goes.
        partitions: Vec<TopicPartition>,
    },
    /// A new generation is in force.
    Assigned {
        /// The generation; stamps every record from here on.
        generation: i32,
        /// What came.
        added: Vec<TopicPartition>,
        /// All there is now.
        assignment: Vec<TopicPartition>,
    },
    /// These partitions were lost without notice (session expired, fenced): someone else may already have them.
    Lost {
        /// Generation that ended.
        generation: i32,
        /// What went.
        partitions: Vec<TopicPartition>,
    },
    /// The reader was too slow and this many events were dropped: look at `assignment`.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A subscription to the rebalance events of a consumer, from its creation on.
#[derive(Debug)]
pub struct RebalanceEvents {}

impl RebalanceEvents {
    /// The next event; `None` once the consumer is closed.
    pub async fn next(&mut self) -> Option<RebalanceEvent> {
        None
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<RebalanceEvent> {
        None
    }
}

/// Commits for a consumer from elsewhere than the task that polls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {}

impl Committer {
    /// As [`Consumer::commit`].
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        let _ = next;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// As [`Consumer::commit_in_generation`].
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_in_generation(&self, generation: i32, next: &[(TopicPartition, i64)]) -> Result<()> {
        let _ = (generation, next);
        Err(ClientError::Closed { what: "the consumer" })
    }
}

/// Reads records, alone (`assign`) or as a member of a group (`subscribe`).
#[derive(Debug)]
pub struct Consumer {}

impl Consumer {
    /// Joins the group with these topics, in place of those before. An empty list leaves the group.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group; [`ClientError::Closed`].
    pub async fn subscribe(&mut self, topics: &[&str]) -> Result<()> {
        let _ = topics;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Reads these partitions, in place of those before, without group membership (but from its committed offsets, if a group is set).
    ///
    /// # Errors
    /// [`ClientError::Config`] while subscribed; [`ClientError::Closed`].
    pub async fn assign(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Up to `max` records, all from as few partitions as possible; waits until there is at least one. Wrap it in a timeout to stop
    /// earlier: it may be dropped at any point without losing records.
    ///
    /// # Errors
    /// What needs a decision: [`ClientError::OutOfRange`], [`ClientError::Corrupt`], [`ClientError::NoSuchTopic`],
    /// [`ClientError::Rejected`], [`ClientError::Fenced`], [`ClientError::Closed`]. What can be retried is retried inside.
    pub async fn poll(&mut self, max: usize) -> Result<Vec<ConsumedRecord>> {
        let _ = max;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Commits next offsets to consume, in the present generation; waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Stale`] after a rebalance; [`ClientError::Retry`], [`ClientError::Rejected`], [`ClientError::Fenced`].
    pub async fn commit(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        let _ = next;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// As [`Consumer::commit`], refused as [`ClientError::Stale`] where `generation` (from a record) is not the present one.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_in_generation(&self, generation: i32, next: &[(TopicPartition, i64)]) -> Result<()> {
        let _ = (generation, next);
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Commits in the background; later calls overtake earlier ones of the same partition. `close` waits for it. Errors are logged.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group; [`ClientError::Closed`].
    pub fn commit_async(&self, next: &[(TopicPartition, i64)]) -> Result<()> {
        let _ = next;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a group; [`ClientError::Retry`], [`ClientError::Rejected`].
    pub async fn committed(&self, of: &[TopicPartition]) -> Result<Vec<(TopicPartition, i64)>> {
        let _ = of;
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Continues at this offset. What was fetched ahead is dropped.
    ///
    /// # Errors
    /// [`ClientError::Config`] where the partition is not assigned.
    pub fn seek(&mut self, at: &TopicPartition, offset: i64) -> Result<()> {
        let _ = (at, offset);
        Err(ClientError::Closed { what: "the consumer" })
    }

    /// Next offset that `poll` will hand out; `None` where it is not known yet or the partition is not assigned.
    #[must_use]
    pub fn position(&self, at: &TopicPartition) -> Option<i64> {
        let _ = at;
        None
    }

    /// Hands out nothing of these partitions until [`Consumer::resume`]. Lost with the assignment.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// Undoes [`Consumer::pause`].
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// What is assigned now, ordered.
    #[must_use]
    pub fn assignment(&self) -> Vec<TopicPartition> {
        Vec::new()
    }

    /// Generation of the group in force; -1 without.
    #[must_use]
    pub fn generation(&self) -> i32 {
        -1
    }

    /// Member id that the coordinator gave, if there is one.
    #[must_use]
    pub fn member_id(&self) -> Option<Arc<str>> {
        None
    }

    /// High watermark minus position, where both are known.
    #[must_use]
    pub fn lag(&self, at: &TopicPartition) -> Option<i64> {
        let _ = at;
        None
    }

    /// A subscription to rebalance events, from now on.
    #[must_use]
    pub fn events(&self) -> RebalanceEvents {
        RebalanceEvents {}
    }

    /// A handle that commits from other tasks.
    #[must_use]
    pub fn committer(&self) -> Committer {
        Committer {}
    }

    /// Finishes background commits, leaves the group (static members stay), ends the background tasks.
    ///
    /// # Errors
    /// Of the last commit or the leave; everything is ended all the same.
    pub async fn close(self) -> Result<()> {
        Err(ClientError::Closed { what: "the consumer" })
    }
}
