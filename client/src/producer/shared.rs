//! What a producer's handles and its sender task share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

use super::accumulator::{Partition, Shape};
use super::coordinator::Coordinator;
use super::gate::Gate;
use super::lane::Identity;
use super::memory::Memory;
use super::partitioner::{self, Sticky};
use crate::cluster::{Cluster, TopicMeta};
use crate::config::ProducerConfig;
use crate::error::{ClientError, Result};
use crate::record::{DedupeWindow, ProduceRecord};

/// A topic that is produced to. Replaced whole when it gets more partitions; the partitions themselves are kept.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Arc<Partition>>,
    /// What it does with message ids.
    pub(super) dedupe: Option<DedupeWindow>,
    sticky: Sticky,
}

impl Topic {
    /// Where a record of `size` bytes goes.
    pub(super) fn choose(&self, record: &ProduceRecord, size: usize, run: usize) -> Result<&Arc<Partition>> {
        let count = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let id = self.dedupe.and_then(|dedupe| Some((record.message_id()?, u32::try_from(dedupe.partitions).ok()?)));
        let index = match (record.partition, &record.key, id) {
            (Some(partition), ..) => u32::try_from(partition).unwrap_or(u32::MAX),
            // An id must come to where it is remembered, whoever sends it and when.
            (None, Some(key), Some((_, count))) => partitioner::partition_of(key, count),
            (None, None, Some((id, count))) => partitioner::partition_of(id, count),
            (None, Some(key), None) => partitioner::partition_of(key, count),
            (None, None, None) => self.sticky.next(count, size, run),
        };
        let chosen = usize::try_from(index).ok().and_then(|i| self.partitions.get(i));
        chosen.ok_or_else(|| ClientError::NoSuchTopic {
            what: "send".into(),
            topic: format!("{}-{}", record.topic, record.partition.unwrap_or(-1)).into(),
        })
    }
}

/// Partitions that the sender should look at.
#[derive(Debug, Default)]
pub(super) struct Ready {
    list: Mutex<Vec<Arc<Partition>>>,
    notify: Notify,
}

impl Ready {
    pub(super) fn add(&self, partition: Arc<Partition>) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(partition);
        self.notify.notify_one();
    }

    /// Wakes the sender without a partition: something else changed.
    pub(super) fn nudge(&self) {
        self.notify.notify_one();
    }

    pub(super) fn drain(&self) -> Vec<Arc<Partition>> {
        std::mem::take(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

/// Which transaction records belong to.
#[derive(Debug, Clone)]
pub(super) struct Transactions {
    pub(super) gate: Arc<Gate>,
    pub(super) coordinator: Arc<Coordinator>,
}

/// The shared state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    pub(super) config: ProducerConfig,
    pub(super) shape: Shape,
    pub(super) memory: Memory,
    pub(super) ready: Ready,
    pub(super) flushing: AtomicUsize,
    /// Who waits for a recall.
    pub(super) recalls: Mutex<super::recall::Asked>,
    /// No new records; the sender ends when the last one is settled.
    pub(super) closing: AtomicBool,
    /// What new lanes start with; `None` without idempotence.
    identity: Option<Identity>,
    /// There in a transactional producer.
    pub(super) transactions: Option<Transactions>,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>, foldhash::fast::RandomState>>,
    lanes: AtomicUsize,
}

impl Shared {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        config: ProducerConfig,
        identity: Option<Identity>,
        transactions: Option<Transactions>,
    ) -> Self {
        let codec = (config.codec, config.compression_level);
        Self {
            cluster,
            shape: Shape { batch_bytes: config.batch_bytes, codec, transactional: transactions.is_some(), asks: false },
            memory: Memory::new(config.max_buffer_bytes),
            config,
            ready: Ready::default(),
            flushing: AtomicUsize::new(0),
            recalls: Mutex::default(),
            closing: AtomicBool::new(false),
            identity,
            transactions,
            topics: RwLock::default(),
            lanes: AtomicUsize::new(0),
        }
    }

    /// What a new lane starts with.
    pub(super) fn identity(&self) -> Option<Identity> {
        let of_transactions = self.transactions.as_ref().map(|transactions| transactions.gate.identity());
        of_transactions.or(self.identity)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Runs `f` with the topic, without touching its reference count.
    pub(super) fn with_topic<T>(&self, name: &str, f: impl FnOnce(&Topic) -> T) -> Option<T> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).map(|topic| f(topic))
    }

    /// All partitions.
    pub(super) fn partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().flat_map(|t| t.partitions.iter().cloned()).collect()
    }

    /// Takes a topic up, or the partitions that it got since.
    pub(super) fn learn(&self, meta: &TopicMeta) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let known = topics.get(&meta.name);
        let have = known.map_or(0, |t| t.partitions.len());
        if known.is_some_and(|known| have >= meta.partitions.len() && known.dedupe == meta.dedupe) {
            return;
        }
        let mut partitions = known.map(|t| t.partitions.clone()).unwrap_or_default();
        for new in meta.partitions.iter().skip(have) {
            let lane = self.lanes.fetch_add(1, Ordering::Relaxed);
            partitions.push(Arc::new(Partition::new(meta.name.clone(), new.partition, lane)));
        }
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        topics
            .insert(meta.name.clone(), Arc::new(Topic { partitions, dedupe: meta.dedupe, sticky: Sticky::new(seed) }));
    }

    /// Names of the topics that are produced to.
    pub(super) fn topic_names(&self) -> Vec<Arc<str>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}
