//! Transactions of the real cluster.

use std::time::Duration;

use wherry_client::{
    Client, ClientError, CommitOffset, GroupMembership, ProduceRecord, ProducerConfig, TransactionConfig,
    TransactionalProducer,
};

use super::ClusterReceipt;
use crate::backend::Transactional;

/// A transactional producer of the client.
#[derive(Debug)]
pub struct ClusterTransactional {
    producer: TransactionalProducer,
}

impl ClusterTransactional {
    pub(super) async fn open(
        client: Client,
        producer: ProducerConfig,
        id: &str,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let transactions = TransactionConfig { timeout, ..TransactionConfig::new(id) };
        Ok(Self { producer: client.transactional_producer(producer, transactions).await? })
    }
}

impl Transactional for ClusterTransactional {
    type Receipt = ClusterReceipt;

    fn begin(&self) -> Result<(), ClientError> {
        self.producer.begin()
    }

    async fn send(&self, record: ProduceRecord) -> Result<ClusterReceipt, ClientError> {
        self.producer.send(record).await.map(ClusterReceipt)
    }

    async fn send_offsets(&self, member: &GroupMembership, next: &[CommitOffset]) -> Result<(), ClientError> {
        self.producer.send_all_offsets(member, next).await
    }

    async fn commit(&self) -> Result<(), ClientError> {
        self.producer.commit().await
    }

    async fn abort(&self) -> Result<(), ClientError> {
        self.producer.abort().await
    }

    async fn close(self) -> Result<(), ClientError> {
        self.producer.close().await
    }
}
