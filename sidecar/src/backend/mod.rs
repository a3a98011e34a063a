//! The seam to the cluster: what the sidecar needs of it, and no more.
//!
//! Two implementations: [`cluster::Cluster`] (the real client) and [`memory::MemoryCluster`] (for tests, and to measure the sidecar by
//! itself). Errors and records are the client's types, because they already say what has to be decided.
//!
//! Contract, which both implementations are tested against through the sidecar's behaviour tests:
//! - `try_send` and `send` MUST keep the order of the calls for records of the same partition.
//! - A receipt MUST resolve; `Ok` means durable as the topic's settings say.
//! - `next` MUST be safe to drop at any point without losing records or events, and MUST hand out rebalance events before records of
//!   the generation that they begin.
//! - A partition that is being revoked MUST stay committable until `release` is called, or a grace time longer than
//!   [`crate::limits::REVOKE_DRAIN`] passed; none of its records may be handed out meanwhile.
//! - `commit` MUST fail with [`ClientError::Stale`] when its generation is over, and MUST NOT apply it.

pub mod cluster;
pub mod memory;

use std::future::Future;
use std::sync::Arc;

use wherry_client::{ClientError, ConsumedRecord, ProduceRecord, RebalanceEvent, RecordMetadata, TopicPartition};

/// A cluster, as the sidecar sees it.
pub trait Backend: Clone + Send + Sync + Unpin + 'static {
    /// The future receipt of one record.
    type Receipt: Receipt + Future<Output = Result<RecordMetadata, ClientError>>;
    /// A membership in a group.
    type Member: Member;

    /// Takes a record if nothing has to be waited for.
    ///
    /// # Errors
    /// The record can't be sent: unknown topic, too large, closed.
    fn try_send(&self, record: ProduceRecord) -> Result<Taken<Self::Receipt>, ClientError>;

    /// Takes a record; waits for buffer space, and for the cluster within its configured time.
    fn send(&self, record: ProduceRecord) -> impl Future<Output = Result<Self::Receipt, ClientError>> + Send + 'static;

    /// Makes a member of a group. Waits for the cluster within its configured time.
    fn join(&self, spec: MemberSpec) -> impl Future<Output = Result<Self::Member, ClientError>> + Send + 'static;

    /// Number of partitions of a topic; never creates it.
    fn partitions(&self, topic: &str) -> impl Future<Output = Result<i32, ClientError>> + Send;

    /// Makes a topic; `Ok(false)` where it exists already.
    fn create_topic(
        &self,
        topic: &str,
        partitions: Option<i32>,
    ) -> impl Future<Output = Result<bool, ClientError>> + Send;

    /// Waits until everything taken has its receipt.
    fn flush(&self) -> impl Future<Output = ()> + Send;

    /// Settles with [`ClientError::Retry`] the receipts of all that was taken and that no node can have: of each partition, the end
    /// of what has no receipt.
    fn recall(&self) -> impl Future<Output = ()> + Send;

    /// The same cluster with a producer of its own, which never gives up by itself.
    #[must_use]
    fn forwarder(&self) -> Self;

    /// Ends the connection; nothing can be sent afterwards.
    fn close(&self) -> impl Future<Output = ()> + Send;

    /// Asks the cluster whether it answers now.
    fn probe(&self) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Messages of these topics that the group has not acknowledged, over all members.
    fn lag(&self, spec: &MemberSpec) -> impl Future<Output = Result<i64, ClientError>> + Send;

    /// Whether the cluster has been reached. Says nothing about this moment.
    fn reached(&self) -> bool;
}

/// What became of a record that was offered without waiting.
#[derive(Debug)]
pub enum Taken<R> {
    /// It was taken; here is its receipt.
    Now(R),
    /// It would have to wait; here it is back.
    Later(ProduceRecord),
}

impl<R> Taken<R> {
    /// With another receipt.
    pub fn map<T>(self, of: impl FnOnce(R) -> T) -> Taken<T> {
        match self {
            Self::Now(receipt) => Taken::Now(of(receipt)),
            Self::Later(record) => Taken::Later(record),
        }
    }
}

/// The future receipt of one record.
pub trait Receipt: Future + Send + Unpin + 'static {
    /// Receipts with the same lane mostly resolve in the order in which their records were taken; a small number.
    /// Only a hint: those waiting for receipts look at the oldest of each lane first. `None`: it resolves in no order.
    fn lane(&self) -> Option<usize>;
}

/// Which membership is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSpec {
    /// Name of the group.
    pub group: Arc<str>,
    /// Its topics.
    pub topics: Vec<Arc<str>>,
    /// Where to start in a partition without a committed offset.
    pub start: Start,
}

/// Where a new group starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the oldest record.
    Earliest,
    /// At the end.
    Latest,
}

/// What a membership has to say.
#[derive(Debug)]
pub enum Polled {
    /// The assignment changed, or is about to.
    Rebalance(RebalanceEvent),
    /// Records, in order within each partition.
    Records(Vec<ConsumedRecord>),
}

/// A membership in a group.
pub trait Member: Send + 'static {
    /// The next event, or up to `want` records when `want` is above 0.
    fn next(&mut self, want: usize) -> impl Future<Output = Result<Polled, ClientError>> + Send;

    /// Commits next offsets in this generation.
    fn commit(
        &self,
        generation: i32,
        next: Vec<(TopicPartition, i64)>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + 'static;

    /// Hands out nothing more of these partitions until they are resumed.
    fn pause(&mut self, partitions: &[TopicPartition]);

    /// Undoes `pause`.
    fn resume(&mut self, partitions: &[TopicPartition]);

    /// Gives up what is being revoked.
    fn release(&mut self);

    /// Leaves the group.
    fn close(self) -> impl Future<Output = Result<(), ClientError>> + Send;
}
