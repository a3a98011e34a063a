//! The producer: records in, batches out, receipts back.
//!
//! ```text
//! send ─▶ partitioner ─▶ accumulator (per partition) ─▶ sender task: lane (order, sequences) ─▶ request ─▶ broker
//!   ▲                                                        │
//!   └──────────── memory given back, receipt settled ◀───────┘ answer
//! ```
//! It knows topics, partitions and leaders; it knows nothing of groups or of who reads.

mod accumulator;
mod batch;
mod brokers;
mod compressible;
mod coordinator;
mod frame;
mod gate;
mod identity;
mod lane;
mod memory;
pub mod partitioner;
mod recall;
mod receipt;
mod sender;
mod shared;
pub mod stats;
mod transactional;
mod verdict;

pub use receipt::Delivery;
pub use stats::ProducerStats;
pub use transactional::TransactionalProducer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cluster::Cluster;
use crate::config::ProducerConfig;
use crate::error::{ClientError, Result};
use crate::record::{DedupeWindow, ProduceRecord};
use accumulator::Shape;
use coordinator::Coordinator;
use gate::Gate;
use shared::{Shared, Transactions};

/// Sends records. Cheap to clone; all clones share buffers and identity. When the last one is dropped without
/// [`Producer::close`], what was accepted is still delivered in the background.
#[derive(Debug, Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    sender: tokio::sync::watch::Receiver<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.ready.nudge();
    }
}

const CLOSED: ClientError = ClientError::Closed { what: "the producer" };

impl Producer {
    pub(crate) async fn open(cluster: Arc<Cluster>, config: ProducerConfig) -> Result<Self> {
        config.check()?;
        let identity = if config.idempotent { Some(identity::new(&cluster).await?) } else { None };
        Ok(Self::start(Shared::new(cluster, config, identity, None)))
    }

    /// The producer below a transactional one: it sends nothing that does not belong to the transaction of `gate`.
    fn transactional(
        cluster: Arc<Cluster>,
        config: ProducerConfig,
        gate: Arc<Gate>,
        coordinator: Arc<Coordinator>,
    ) -> Self {
        Self::start(Shared::new(cluster, config, None, Some(Transactions { gate, coordinator })))
    }

    fn start(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        let (ended, sender) = tokio::sync::watch::channel(false);
        tokio::spawn(sender::run(shared.clone(), ended));
        Self { handle: Arc::new(Handle { shared, sender }) }
    }

    /// Waits until every record accepted before is settled; of a transaction that can't commit any more nothing more is sent.
    async fn give_up(&self) {
        let shared = &self.handle.shared;
        for partition in shared.partitions() {
            shared.ready.add(partition);
        }
        // Closed: nothing is left to wait for.
        let _ = self.flush().await;
    }

    /// Accepts a record. Waits only for buffer space (and, for a new topic, its metadata); the returned [`Delivery`] resolves with
    /// the receipt and may be dropped if nobody cares. Records for one partition are delivered in the order of the calls.
    ///
    /// # Errors
    /// [`ClientError::NoSuchTopic`], [`ClientError::TooLarge`], [`ClientError::Closed`], [`ClientError::Retry`] where no broker
    /// could be asked about the topic.
    pub async fn send(&self, record: ProduceRecord) -> Result<Delivery> {
        match self.try_send(record)? {
            Ok(delivery) => Ok(delivery),
            Err(record) => self.send_slowly(record).await,
        }
    }

    /// As [`Producer::send`] where nothing has to be waited for; gives the record back otherwise.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn try_send(&self, record: ProduceRecord) -> Result<Result<Delivery, ProduceRecord>> {
        let shared = &self.handle.shared;
        let size = self.admit(&record)?;
        if !shared.memory.try_take(size) {
            return Ok(Err(record));
        }
        match shared.with_topic(&record.topic, |topic| self.push(topic, &record, size)) {
            Some(pushed) => pushed.inspect_err(|_| shared.memory.give_back(size)).map(Ok),
            None => {
                shared.memory.give_back(size);
                Ok(Err(record))
            }
        }
    }

    async fn send_slowly(&self, record: ProduceRecord) -> Result<Delivery> {
        let shared = &self.handle.shared;
        let size = self.admit(&record)?;
        if shared.topic(&record.topic).is_none() {
            shared.learn(&*shared.cluster.topic("send to", &record.topic, true).await?);
        }
        shared.memory.take(size).await;
        let pushed = shared.with_topic(&record.topic, |topic| self.push(topic, &record, size)).unwrap_or(Err(CLOSED));
        pushed.inspect_err(|_| shared.memory.give_back(size))
    }

    /// The record's size for the producer's memory, if it may be sent at all.
    fn admit(&self, record: &ProduceRecord) -> Result<usize> {
        let shared = &self.handle.shared;
        if shared.is_closing() {
            return Err(CLOSED);
        }
        let (size, limit) = (batch::size_bound(record), shared.config.max_record_bytes);
        if size > limit {
            let what = format!("a record for topic {}", record.topic).into();
            return Err(ClientError::TooLarge { what, size, limit_name: "max_record_bytes", limit });
        }
        Ok(size)
    }

    fn push(&self, topic: &shared::Topic, record: &ProduceRecord, size: usize) -> Result<Delivery> {
        let shared = &self.handle.shared;
        let partition = topic.choose(record, size, shared.config.batch_bytes)?;
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        let asks = topic.dedupe.is_some() && record.message_id().is_some();
        let pushed = partition.push(record, size, timestamp_ms, Shape { asks, ..shared.shape })?;
        if pushed.wake {
            shared.ready.add(partition.clone());
        }
        Ok(pushed.delivery)
    }

    /// What a topic does with message ids ([`ProduceRecord::message_id`]): within the window a record whose id is known is not
    /// appended again, whoever sends it, and its receipt says that it is a duplicate. `None` where ids mean nothing, as with
    /// every broker that is not ours.
    ///
    /// # Errors
    /// [`ClientError::NoSuchTopic`]; [`ClientError::Retry`] where no broker could be asked about the topic.
    pub async fn dedupe_window(&self, topic: &str) -> Result<Option<DedupeWindow>> {
        let shared = &self.handle.shared;
        if let Some(known) = shared.topic(topic) {
            return Ok(known.dedupe);
        }
        let meta = shared.cluster.topic("send to", &topic.into(), true).await?;
        shared.learn(&meta);
        Ok(meta.dedupe)
    }

    /// The same, if the topic is one that this producer has sent to or asked about.
    #[must_use]
    pub fn known_dedupe_window(&self, topic: &str) -> Option<Option<DedupeWindow>> {
        self.handle.shared.with_topic(topic, |known| known.dedupe)
    }

    /// Sends what has been accepted without further linger, and waits until every record accepted before has its receipt or error.
    ///
    /// # Errors
    /// [`ClientError::Closed`] if the producer was closed and its background task has ended; then nothing is left to wait for.
    pub async fn flush(&self) -> Result<()> {
        if *self.handle.sender.borrow() {
            return Err(CLOSED);
        }
        let shared = &self.handle.shared;
        let _flushing = Flushing::new(shared);
        let mut receipts = Vec::new();
        for partition in shared.partitions() {
            let open = partition.unsettled();
            if !open.is_empty() {
                receipts.extend(open);
                shared.ready.add(partition);
            }
        }
        for receipt in receipts {
            receipt.settled().await;
        }
        Ok(())
    }

    /// Refuses new records, waits until those accepted have their receipt or error, and ends the background task. Other clones
    /// are closed with it.
    ///
    /// # Errors
    /// [`ClientError::Closed`] if it already was.
    pub async fn close(&self) -> Result<()> {
        let shared = &self.handle.shared;
        if shared.closing.swap(true, Ordering::AcqRel) {
            return Err(CLOSED);
        }
        let _flushing = Flushing::new(shared);
        for partition in shared.partitions() {
            shared.ready.add(partition);
        }
        shared.ready.nudge();
        let mut ended = self.handle.sender.clone();
        // An error means that the sender's task is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }
}

/// Suspends linger while somebody waits for a flush.
struct Flushing<'a>(&'a Shared);

impl<'a> Flushing<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.flushing.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.0.flushing.fetch_sub(1, Ordering::AcqRel);
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
