//! The native async client of the mesh: producer, consumer with groups, admin, over the Kafka protocol.
//!
//! It speaks to any broker of that protocol. It must not know the node, its storage, or what the sidecar and the command line
//! make of it. State machines (idempotence, positions, group membership, assignors) are pure; tasks drive them.

pub mod admin;
mod cluster;
pub mod config;
pub mod consumer;
pub mod error;
pub mod limits;
mod net;
pub mod producer;
pub mod record;
mod retry;
mod security;
#[cfg(test)]
mod send_check;
mod text;

pub use admin::Admin;
pub use config::{
    Acks, Assignor, ClientConfig, Codec, ConsumerConfig, Isolation, OffsetReset, ProducerConfig, RevokeWhen,
    TransactionConfig,
};
pub use consumer::{Committer, Consumer, GroupMembership, RebalanceEvent, RebalanceEvents};
pub use error::{ClientError, Result};
pub use producer::{Delivery, Producer, ProducerStats, TransactionalProducer};
pub use record::{
    CommitOffset, ConsumedRecord, DedupeWindow, Header, MESSAGE_ID_HEADER, ProduceRecord, RecordMetadata,
    TopicPartition,
};
pub use security::{SaslConfig, ScramHash, SecurityConfig, TlsConfig};

use std::sync::Arc;

use cluster::Cluster;

/// A connection to a cluster, from which producers, consumers and admin calls come. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
}

impl Client {
    /// Reaches the cluster through the first bootstrap address that answers.
    ///
    /// # Errors
    /// [`ClientError::Config`]; [`ClientError::Retry`] if none answers within `call_timeout`.
    pub async fn connect(config: ClientConfig) -> Result<Self> {
        Ok(Self { cluster: Cluster::connect(config).await? })
    }

    /// A producer.
    ///
    /// # Errors
    /// [`ClientError::Config`]; with idempotence [`ClientError::Retry`] where no producer id could be had.
    pub async fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        Producer::open(self.cluster.clone(), config).await
    }

    /// A producer of transactions. Whoever had the transactional id before is fenced, and what it had open is aborted.
    ///
    /// # Errors
    /// [`ClientError::Config`]; [`ClientError::Retry`] where the coordinator could not be asked.
    pub async fn transactional_producer(
        &self,
        config: ProducerConfig,
        transactions: TransactionConfig,
    ) -> Result<TransactionalProducer> {
        TransactionalProducer::open(self.cluster.clone(), config, transactions).await
    }

    /// A consumer; nothing is read before `subscribe` or `assign`.
    ///
    /// # Errors
    /// [`ClientError::Config`].
    pub async fn consumer(&self, config: ConsumerConfig) -> Result<Consumer> {
        Consumer::open(self.cluster.clone(), config)
    }

    /// Admin calls.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.cluster.clone())
    }
}
