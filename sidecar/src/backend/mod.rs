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
//! - `resumed` MUST be known when `next` hands out the first records of an assigned partition, and MUST NOT be changed by what an open
//!   transaction does: the group's place is not known before that is over.
//! - `read` MUST have decided where it begins before it is done: what is sent from then on is read.
//! - A transaction's records and offsets MUST count together or not at all, and be visible as such to who reads committed records;
//!   `commit` MAY fail with [`ClientError::Unknown`], and MUST then say what became of it when it is called again.
//! - `commit` of a member MUST fail with [`ClientError::Stale`] when its generation is over, and MUST NOT apply it.

pub mod cluster;
pub mod memory;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use wherry_client::admin::GroupDescription;
use wherry_client::{
    ClientError, CommitOffset, ConsumedRecord, GroupMembership, ProduceRecord, RebalanceEvent, RecordMetadata,
    TopicPartition,
};

/// A cluster, as the sidecar sees it.
pub trait Backend: Clone + Send + Sync + Unpin + 'static {
    /// The future receipt of one record.
    type Receipt: Receipt + Future<Output = Result<RecordMetadata, ClientError>>;
    /// A membership in a group.
    type Member: Member;
    /// Reads partitions without a group.
    type Reader: Reader;
    /// Sends in transactions.
    type Transactional: Transactional;

    /// Takes a record if nothing has to be waited for.
    ///
    /// # Errors
    /// The record can't be sent: unknown topic, too large, closed.
    fn try_send(&self, record: ProduceRecord) -> Result<Taken<Self::Receipt>, ClientError>;

    /// Takes a record; waits for buffer space, and for the cluster within its configured time.
    fn send(&self, record: ProduceRecord) -> impl Future<Output = Result<Self::Receipt, ClientError>> + Send + 'static;

    /// Whether a topic knows message ids again, as far as that is known without waiting.
    fn knows_ids(&self, topic: &str) -> Option<bool>;

    /// Whether a topic knows message ids again: a record whose id was there within the topic's window is not appended, and its
    /// receipt says so. Waits for the cluster within its configured time.
    fn asks_ids(&self, topic: &str) -> impl Future<Output = Result<bool, ClientError>> + Send + 'static;

    /// Makes a member of a group. Waits for the cluster within its configured time.
    fn join(&self, spec: MemberSpec) -> impl Future<Output = Result<Self::Member, ClientError>> + Send + 'static;

    /// Number of partitions of a topic; never creates it.
    fn partitions(&self, topic: &str) -> impl Future<Output = Result<i32, ClientError>> + Send;

    /// Reads partitions without a group.
    fn read(&self, spec: ReadSpec) -> impl Future<Output = Result<Self::Reader, ClientError>> + Send + 'static;

    /// A sender of transactions with this transactional id: whoever had it before is fenced, and what it had open is aborted.
    fn transactional(
        &self,
        id: Arc<str>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self::Transactional, ClientError>> + Send + 'static;

    /// Makes a topic; `Ok(false)` where it exists already.
    fn create_topic(
        &self,
        topic: &str,
        partitions: Option<i32>,
        settings: &[(&str, &str)],
    ) -> impl Future<Output = Result<bool, ClientError>> + Send;

    /// All topics but the cluster's own, by name, with their number of partitions.
    fn topics(&self) -> impl Future<Output = Result<Vec<(Arc<str>, i32)>, ClientError>> + Send;

    /// Where each partition of a topic begins and ends, in order.
    fn bounds(&self, topic: &str) -> impl Future<Output = Result<Vec<Bounds>, ClientError>> + Send;

    /// Settings of a topic, as far as they are told.
    fn settings(&self, topic: &str) -> impl Future<Output = Result<Vec<(String, String)>, ClientError>> + Send;

    /// For each partition of a topic, the first offset with this time or a later one; the end where there is none.
    fn offsets_at(
        &self,
        topic: &str,
        timestamp_ms: i64,
    ) -> impl Future<Output = Result<Vec<(i32, i64)>, ClientError>> + Send;

    /// A group, and what it has committed. One that does not exist is `Dead`.
    fn group(&self, group: &str) -> impl Future<Output = Result<GroupView, ClientError>> + Send;

    /// Moves a group that has no members.
    fn move_group(
        &self,
        group: &str,
        next: &[(TopicPartition, i64)],
    ) -> impl Future<Output = Result<(), ClientError>> + Send;

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
    /// Records of transactions only once these are committed.
    pub committed: bool,
}

/// What is to be read without a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSpec {
    /// These topics.
    pub topics: Vec<Arc<str>>,
    /// Only this partition of each.
    pub only: Option<i32>,
    /// Where to start in partitions that are not in `offsets`, or do not have that offset.
    pub start: Start,
    /// Where to start in these partitions.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// Records of transactions only once these are committed.
    pub committed: bool,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The partition.
    pub partition: i32,
    /// The first offset that it has.
    pub first: i64,
    /// The next one that it will have.
    pub end: i64,
}

/// A group, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// As the cluster describes it.
    pub description: GroupDescription,
    /// Next offsets, by topic and partition.
    pub committed: Vec<(TopicPartition, i64)>,
}

impl GroupView {
    /// A group that does not exist.
    #[must_use]
    pub fn dead(group: &str) -> Self {
        let description = GroupDescription {
            group: group.into(),
            state: "Dead".into(),
            protocol_type: "".into(),
            protocol: "".into(),
            coordinator: -1,
            members: Vec::new(),
        };
        Self { description, committed: Vec::new() }
    }
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

    /// Commits next offsets in this generation, with what is to be kept beside them.
    fn commit(
        &self,
        generation: i32,
        next: Vec<CommitOffset>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + 'static;

    /// Where the group had left off in a partition when it was assigned, and what stood beside that; `None` where nothing did.
    fn resumed(&self, at: &TopicPartition) -> Option<(i64, Arc<str>)>;

    /// Who this is in the group now, for transactions; `None` before the first assignment.
    fn membership(&self) -> Option<GroupMembership>;

    /// Goes on from this offset: records from elsewhere are not handed out any more.
    fn seek(&mut self, at: &TopicPartition, offset: i64);

    /// Hands out nothing more of these partitions until they are resumed.
    fn pause(&mut self, partitions: &[TopicPartition]);

    /// Undoes `pause`.
    fn resume(&mut self, partitions: &[TopicPartition]);

    /// Gives up what is being revoked.
    fn release(&mut self);

    /// Leaves the group.
    fn close(self) -> impl Future<Output = Result<(), ClientError>> + Send;
}

/// Reads partitions without a group. Like [`Member::next`], `next` MUST be safe to drop at any point.
pub trait Reader: Send + 'static {
    /// Up to `want` records, in order within each partition; waits until there is one.
    fn next(&mut self, want: usize) -> impl Future<Output = Result<Vec<ConsumedRecord>, ClientError>> + Send;
}

/// Sends in transactions, one at a time.
pub trait Transactional: Send + Sync + 'static {
    /// The future receipt of one record: it is written, which does not mean that it counts.
    type Receipt: Receipt<Output = Result<RecordMetadata, ClientError>>;

    /// A transaction begins.
    ///
    /// # Errors
    /// One is open.
    fn begin(&self) -> Result<(), ClientError>;

    /// Takes a record into the open transaction.
    fn send(&self, record: ProduceRecord) -> impl Future<Output = Result<Self::Receipt, ClientError>> + Send;

    /// Takes offsets of a group into the open transaction.
    fn send_offsets(
        &self,
        member: &GroupMembership,
        next: &[CommitOffset],
    ) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// The open transaction counts.
    fn commit(&self) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// The open transaction does not count.
    fn abort(&self) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Ends it; what is open is aborted.
    fn close(self) -> impl Future<Output = Result<(), ClientError>> + Send;
}
