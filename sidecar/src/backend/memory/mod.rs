//! A cluster in memory: for tests, and to measure the sidecar by itself. Nothing in it is durable.
//!
//! It can be told to withhold receipts, to be away, to lose members: what a real cluster does at the worst time. The groups are in
//! [`groups`]. It must not be kinder than the contract in [`super`].

mod groups;
mod reader;
mod transactional;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use wherry_client::{ClientError, ConsumedRecord, ProduceRecord, RecordMetadata, TopicPartition};

use super::{Backend, Bounds, GroupView, MemberSpec, ReadSpec, Receipt, Taken};
use groups::Groups;
pub use groups::MemoryMember;
pub use reader::MemoryReader;
pub use transactional::MemoryTransactional;

/// Records that may wait for their receipt while receipts are withheld.
const BUFFER_RECORDS: usize = 100_000;

/// The cluster. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct MemoryCluster {
    shared: Arc<Mutex<State>>,
    /// Moves whenever something happened that a waiting member or sender may care about.
    changed: Arc<watch::Sender<u64>>,
    buffer: Arc<Semaphore>,
    /// Keep nothing and answer at once.
    null: bool,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<Arc<str>, Vec<Vec<ConsumedRecord>>>,
    groups: Groups,
    holding: bool,
    away: bool,
    held: VecDeque<Held>,
    fail: VecDeque<ClientError>,
    fail_join: VecDeque<ClientError>,
    /// The newest sender of each transactional id; those before it are fenced.
    transactional: BTreeMap<Arc<str>, u64>,
    /// Commits of transactions whose answers get lost from now on.
    lost_commits: usize,
    /// Offset commits whose answers get lost from now on.
    lost_offset_commits: usize,
    settings: BTreeMap<Arc<str>, Vec<(String, String)>>,
    round_robin: usize,
    closed: bool,
}

#[derive(Debug)]
struct Held {
    record: ProduceRecord,
    answer: oneshot::Sender<Result<RecordMetadata, ClientError>>,
    _space: OwnedSemaphorePermit,
}

impl Default for MemoryCluster {
    fn default() -> Self {
        Self::with_buffer(BUFFER_RECORDS)
    }
}

impl MemoryCluster {
    /// An empty cluster.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty cluster that takes this many records ahead of their receipts.
    #[must_use]
    pub fn with_buffer(records: usize) -> Self {
        Self {
            shared: Arc::default(),
            changed: Arc::new(watch::Sender::new(0)),
            buffer: Arc::new(Semaphore::new(records)),
            null: false,
        }
    }

    /// Has every topic, keeps nothing, acknowledges at once: what remains is the cost of the sidecar.
    #[must_use]
    pub fn null() -> Self {
        Self { null: true, ..Self::default() }
    }

    /// Makes a topic, or leaves it as it is.
    #[must_use]
    pub fn with_topic(self, name: &str, partitions: usize) -> Self {
        self.state().topics.entry(name.into()).or_insert_with(|| vec![Vec::new(); partitions]);
        self
    }

    /// Withholds receipts from now on, or hands them out.
    pub fn hold(&self, hold: bool) {
        let mut state = self.state();
        state.holding = hold;
        if !hold {
            state.release();
        }
        drop(state);
        self.touch();
    }

    /// Goes away: calls wait or fail as they do when no node can be reached. Or comes back.
    pub fn away(&self, away: bool) {
        self.state().away = away;
        self.touch();
    }

    /// The next record that is sent fails like this.
    pub fn fail_next(&self, error: ClientError) {
        self.state().fail.push_back(error);
    }

    /// The answers to the next so many commits of transactions get lost: nobody knows whether they happened, until they are asked for
    /// again.
    pub fn lose_commits(&self, count: usize) {
        self.state().lost_commits = count;
    }

    /// The answers to the next so many offset commits get lost, after these were made.
    pub fn lose_offset_commits(&self, count: usize) {
        self.state().lost_offset_commits = count;
    }

    /// Somebody else takes all transactional ids.
    pub fn fence_transactions(&self) {
        self.state().transactional.values_mut().for_each(|newest| *newest += 1);
    }

    /// The next attempt to join a group fails like this.
    pub fn fail_next_join(&self, error: ClientError) {
        self.state().fail_join.push_back(error);
    }

    /// Takes all partitions of a group from its members without notice, as when their sessions run out, and deals them out anew.
    pub fn expire(&self, group: &str) {
        let mut state = self.state();
        let partitions = state.partition_counts();
        state.groups.expire(group, &partitions);
        drop(state);
        self.touch();
    }

    /// What a partition has.
    #[must_use]
    pub fn records(&self, topic: &str, partition: usize) -> Vec<ConsumedRecord> {
        self.state().topics.get(topic).and_then(|all| all.get(partition)).cloned().unwrap_or_default()
    }

    /// Next offset that a group has committed.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.state().groups.committed(group, &TopicPartition::new(topic, partition))
    }

    /// What stands beside that.
    #[must_use]
    pub fn beside(&self, group: &str, topic: &str, partition: i32) -> String {
        self.state().groups.beside(group, &TopicPartition::new(topic, partition))
    }

    /// Members of a group.
    #[must_use]
    pub fn members(&self, group: &str) -> usize {
        self.state().groups.members(group)
    }

    /// Waits until this holds; for tests, which bound it.
    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !holds(self) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes a record for which there is space.
    fn take(&self, record: ProduceRecord, space: OwnedSemaphorePermit) -> Result<MemoryReceipt, ClientError> {
        let mut state = self.state();
        if state.closed {
            return Err(ClientError::Closed { what: "the producer" });
        }
        if let Some(error) = state.fail.pop_front() {
            return Err(error);
        }
        state.check(&record)?;
        let (answer, receipt) = oneshot::channel();
        state.held.push_back(Held { record, answer, _space: space });
        if !state.holding && !state.away {
            state.release();
        }
        drop(state);
        self.touch();
        Ok(MemoryReceipt::Waiting(receipt))
    }
}

impl State {
    fn check(&self, record: &ProduceRecord) -> Result<(), ClientError> {
        let partitions = self.topics.get(&record.topic).map_or(0, Vec::len);
        let asked = usize::try_from(record.partition.unwrap_or(0)).unwrap_or(usize::MAX);
        if asked < partitions {
            return Ok(());
        }
        Err(ClientError::NoSuchTopic { what: "publish".into(), topic: record.topic.clone() })
    }

    fn release(&mut self) {
        while let Some(held) = self.held.pop_front() {
            let outcome = self.append(held.record);
            // Whoever does not wait for the receipt any more has published all the same.
            let _ = held.answer.send(outcome);
        }
    }

    fn append(&mut self, record: ProduceRecord) -> Result<RecordMetadata, ClientError> {
        let gone = || ClientError::NoSuchTopic { what: "publish".into(), topic: record.topic.clone() };
        let partitions = self.topics.get_mut(&record.topic).ok_or_else(gone)?;
        let chosen = match (&record.partition, &record.key) {
            (Some(partition), _) => usize::try_from(*partition).unwrap_or_default(),
            (None, Some(key)) => key.iter().fold(7usize, |hash, byte| hash.wrapping_mul(31) + usize::from(*byte)),
            (None, None) => {
                self.round_robin += 1;
                self.round_robin
            }
        } % partitions.len();
        let partition = i32::try_from(chosen).unwrap_or_default();
        let offset = i64::try_from(partitions[chosen].len()).unwrap_or_default();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        partitions[chosen].push(ConsumedRecord {
            topic: record.topic.clone(),
            partition,
            offset,
            leader_epoch: 0,
            timestamp_ms,
            generation: -1,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, value)| (name.into(), Some(value))).collect(),
        });
        Ok(RecordMetadata { topic: record.topic, partition, offset, timestamp_ms })
    }

    fn partition_counts(&self) -> BTreeMap<Arc<str>, usize> {
        self.topics.iter().map(|(name, partitions)| (name.clone(), partitions.len())).collect()
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn no_such_topic(topic: &str) -> ClientError {
    ClientError::NoSuchTopic { what: "describe the topic".into(), topic: topic.into() }
}

fn unreachable(what: &str) -> ClientError {
    ClientError::Retry { what: what.into(), cause: "no node answers".into(), waited: std::time::Duration::ZERO }
}

impl Backend for MemoryCluster {
    type Receipt = MemoryReceipt;
    type Member = MemoryMember;
    type Reader = MemoryReader;
    type Transactional = MemoryTransactional;

    fn try_send(&self, record: ProduceRecord) -> Result<Taken<MemoryReceipt>, ClientError> {
        if self.null {
            let receipt = RecordMetadata { topic: record.topic, partition: 0, offset: 0, timestamp_ms: 0 };
            return Ok(Taken::Now(MemoryReceipt::Known(Some(receipt))));
        }
        match self.buffer.clone().try_acquire_owned() {
            Ok(space) => self.take(record, space).map(Taken::Now),
            Err(_) => Ok(Taken::Later(record)),
        }
    }

    fn send(&self, record: ProduceRecord) -> impl Future<Output = Result<MemoryReceipt, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            match this.buffer.clone().acquire_owned().await {
                Ok(space) => this.take(record, space),
                Err(_) => Err(ClientError::Closed { what: "the producer" }),
            }
        }
    }

    fn join(&self, spec: MemberSpec) -> impl Future<Output = Result<MemoryMember, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            if let Some(error) = this.state().fail_join.pop_front() {
                return Err(error);
            }
            if this.state().away {
                return Err(unreachable("join the group"));
            }
            Ok(MemoryMember::join(this, spec))
        }
    }

    async fn partitions(&self, topic: &str) -> Result<i32, ClientError> {
        if self.null {
            return Ok(1);
        }
        match self.state().topics.get(topic) {
            Some(partitions) => Ok(i32::try_from(partitions.len()).unwrap_or(i32::MAX)),
            None => Err(ClientError::NoSuchTopic { what: "describe the topic".into(), topic: topic.into() }),
        }
    }

    fn read(&self, spec: ReadSpec) -> impl Future<Output = Result<MemoryReader, ClientError>> + Send + 'static {
        let this = self.clone();
        async move { MemoryReader::open(this, &spec) }
    }

    fn transactional(
        &self,
        id: Arc<str>,
        _: std::time::Duration,
    ) -> impl Future<Output = Result<MemoryTransactional, ClientError>> + Send + 'static {
        let this = self.clone();
        async move { MemoryTransactional::open(this, id) }
    }

    async fn create_topic(
        &self,
        topic: &str,
        partitions: Option<i32>,
        settings: &[(&str, &str)],
    ) -> Result<bool, ClientError> {
        let mut state = self.state();
        if state.away {
            return Err(unreachable("create the topic"));
        }
        if state.topics.contains_key(topic) {
            return Ok(false);
        }
        let count = usize::try_from(partitions.unwrap_or(1)).unwrap_or(1);
        state.topics.insert(topic.into(), vec![Vec::new(); count]);
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        state.settings.insert(topic.into(), settings.collect());
        Ok(true)
    }

    async fn topics(&self) -> Result<Vec<(Arc<str>, i32)>, ClientError> {
        let counts = self.state().partition_counts();
        Ok(counts.into_iter().map(|(name, count)| (name, i32::try_from(count).unwrap_or(i32::MAX))).collect())
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, ClientError> {
        let state = self.state();
        let logs = state.topics.get(topic).ok_or_else(|| no_such_topic(topic))?;
        let end = |log: &Vec<ConsumedRecord>| i64::try_from(log.len()).unwrap_or(i64::MAX);
        Ok((0..).zip(logs).map(|(partition, log)| Bounds { partition, first: 0, end: end(log) }).collect())
    }

    async fn settings(&self, topic: &str) -> Result<Vec<(String, String)>, ClientError> {
        Ok(self.state().settings.get(topic).cloned().unwrap_or_default())
    }

    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<(i32, i64)>, ClientError> {
        let state = self.state();
        let logs = state.topics.get(topic).ok_or_else(|| no_such_topic(topic))?;
        let first = |log: &Vec<ConsumedRecord>| {
            let at = log.iter().position(|record| record.timestamp_ms >= timestamp_ms).unwrap_or(log.len());
            i64::try_from(at).unwrap_or(i64::MAX)
        };
        Ok((0..).zip(logs).map(|(partition, log)| (partition, first(log))).collect())
    }

    async fn group(&self, group: &str) -> Result<GroupView, ClientError> {
        Ok(self.state().groups.view(group))
    }

    async fn move_group(&self, group: &str, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        let moved = self.state().groups.move_to(group, next);
        self.touch();
        moved
    }

    async fn flush(&self) {
        self.until(|this| this.state().held.is_empty()).await;
    }

    async fn close(&self) {
        self.state().closed = true;
        self.touch();
    }

    fn reached(&self) -> bool {
        !self.state().away
    }
}

/// Receipt of a record in memory.
#[derive(Debug)]
pub enum MemoryReceipt {
    /// There already.
    Known(Option<RecordMetadata>),
    /// Withheld until the cluster says so.
    Waiting(oneshot::Receiver<Result<RecordMetadata, ClientError>>),
}

impl Future for MemoryReceipt {
    type Output = Result<RecordMetadata, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let closed = || ClientError::Closed { what: "the producer" };
        match &mut *self {
            Self::Known(metadata) => Poll::Ready(metadata.take().ok_or_else(closed)),
            Self::Waiting(receipt) => {
                Pin::new(receipt).poll(context).map(|answer| answer.unwrap_or_else(|_| Err(closed())))
            }
        }
    }
}

impl Receipt for MemoryReceipt {
    fn lane(&self) -> usize {
        0
    }
}
