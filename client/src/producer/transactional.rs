//! The transactional producer (KIP-98): records to any partitions, and offsets of a group, that all count or none of them.
//!
//! ```text
//! begin ─▶ send, send_offsets ... ─▶ commit        readers of committed records see all of it
//!              └─ a failure ─▶ abort               and nothing of this
//! ```
//! Whoever opens a producer with the same transactional id later ends what this one has begun, and fences it.

use std::sync::Arc;

use super::coordinator::Coordinator;
use super::gate::Gate;
use super::{Delivery, Producer};
use crate::cluster::Cluster;
use crate::config::{ProducerConfig, TransactionConfig};
use crate::consumer::GroupMembership;
use crate::error::{ClientError, Result};
use crate::record::{CommitOffset, ProduceRecord, TopicPartition};

/// Sends records in transactions, one at a time.
#[derive(Debug)]
pub struct TransactionalProducer {
    producer: Producer,
    gate: Arc<Gate>,
    coordinator: Arc<Coordinator>,
    /// Beginning and ending, one after the other.
    steps: tokio::sync::Mutex<()>,
}

impl TransactionalProducer {
    pub(crate) async fn open(
        cluster: Arc<Cluster>,
        config: ProducerConfig,
        transactions: TransactionConfig,
    ) -> Result<Self> {
        config.check()?;
        transactions.check(&config)?;
        let id = transactions.transactional_id.as_str().into();
        let coordinator = Arc::new(Coordinator::new(cluster.clone(), id, transactions.timeout));
        let gate = Arc::new(Gate::new(coordinator.init(None).await?));
        let producer = Producer::transactional(cluster, config, gate.clone(), coordinator.clone());
        Ok(Self { producer, gate, coordinator, steps: tokio::sync::Mutex::new(()) })
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// [`ClientError::Config`] if one is open.
    pub fn begin(&self) -> Result<()> {
        if self.gate.begin() {
            return Ok(());
        }
        Err(ClientError::config("a transaction is open: commit or abort it first"))
    }

    /// As [`Producer::send`], in the open transaction. The receipt says that the record is written, not that it counts.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`ClientError::Config`] without a transaction, [`ClientError::AbortOnly`] after a failure.
    pub async fn send(&self, record: ProduceRecord) -> Result<Delivery> {
        self.check_open()?;
        self.producer.send(record).await
    }

    /// The group's next offsets count when the transaction commits. `group` is who has read the records that this transaction
    /// is about: a member that was replaced meanwhile is refused.
    ///
    /// # Errors
    /// [`ClientError::Stale`], [`ClientError::Fenced`], [`ClientError::AbortOnly`]: abort; as [`TransactionalProducer::send`].
    pub async fn send_offsets(&self, group: &GroupMembership, next: &[(TopicPartition, i64)]) -> Result<()> {
        self.send_all_offsets(group, &CommitOffset::all(next)).await
    }

    /// As [`TransactionalProducer::send_offsets`], with what is to be kept beside each offset.
    ///
    /// # Errors
    /// As [`TransactionalProducer::send_offsets`].
    pub async fn send_all_offsets(&self, group: &GroupMembership, next: &[CommitOffset]) -> Result<()> {
        self.check_open()?;
        if next.is_empty() {
            return Ok(());
        }
        self.gate.beginning();
        let done = self.coordinator.commit_offsets(self.gate.identity(), group, next).await;
        done.inspect_err(|error| self.gate.fail(error.clone()))
    }

    /// Waits until every record is written, and commits. [`ClientError::Unknown`]: commit again to learn what became of it.
    ///
    /// # Errors
    /// [`ClientError::AbortOnly`] after a failure; [`ClientError::Fenced`]; [`ClientError::Config`] without a transaction.
    pub async fn commit(&self) -> Result<()> {
        let _step = self.steps.lock().await;
        if !self.gate.is_open() {
            return Err(none_open());
        }
        self.producer.flush().await?;
        if let Some(failure) = self.gate.failure() {
            return Err(abort_only(&failure));
        }
        if !self.gate.ending(true) {
            return Err(ClientError::config("the transaction is being aborted: abort it again"));
        }
        self.end(true).await?;
        self.gate.ended(None);
        Ok(())
    }

    /// Gives up what is not written yet, and aborts. [`ClientError::Unknown`]: abort again.
    ///
    /// # Errors
    /// [`ClientError::Fenced`]; [`ClientError::Config`] without a transaction, or where a commit may have happened.
    pub async fn abort(&self) -> Result<()> {
        let _step = self.steps.lock().await;
        if !self.gate.is_open() {
            return Err(none_open());
        }
        if !self.gate.ending(false) {
            return Err(ClientError::config("the transaction may have committed: commit it again to know"));
        }
        self.gate.fail(ClientError::AbortOnly { what: self.what(), cause: "it is being aborted".into() });
        self.producer.give_up().await;
        self.gate.settled().await;
        self.end(false).await?;
        // What was given up may still arrive: the next epoch shuts it out, and begins with new sequences.
        let next =
            if self.gate.has_lost() { Some(self.coordinator.init(Some(self.gate.identity())).await?) } else { None };
        self.gate.ended(next);
        Ok(())
    }

    /// Aborts what is open and ends the background task.
    ///
    /// # Errors
    /// As [`TransactionalProducer::abort`]; it is closed all the same.
    pub async fn close(self) -> Result<()> {
        let aborted = if self.gate.is_open() { self.abort().await } else { Ok(()) };
        self.producer.close().await.and(aborted)
    }

    /// Nobody needs to be told of the end of what nobody was told of.
    async fn end(&self, commit: bool) -> Result<()> {
        if !self.gate.has_begun() {
            return Ok(());
        }
        let ended = self.coordinator.end(self.gate.identity(), commit).await;
        ended.inspect_err(|error| {
            if !error.may_have_happened() {
                self.gate.not_ended();
            }
        })
    }

    fn check_open(&self) -> Result<()> {
        if !self.gate.takes_records() {
            return Err(none_open());
        }
        self.gate.failure().map_or(Ok(()), |failure| Err(abort_only(&failure)))
    }

    fn what(&self) -> Arc<str> {
        format!("the transaction of {}", self.coordinator.id).into()
    }
}

fn none_open() -> ClientError {
    ClientError::config("no transaction is open: begin one first")
}

fn abort_only(failure: &ClientError) -> ClientError {
    match failure {
        fenced @ ClientError::Fenced { .. } => fenced.clone(),
        other => ClientError::AbortOnly { what: "the transaction".into(), cause: other.to_string().into() },
    }
}
