//! Reading replies: one partition of the reply topic, by one task that starts with the first request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tonic::Code;
use wherry_client::{ClientError, ConsumedRecord, TopicPartition};

use super::address::{CORRELATION_ID, header};
use super::waiting::{Arrived, Waiting};
use crate::backend::{Backend, ReadSpec, Reader, Start};
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;
use crate::stats::{Entered, Stats};

/// Settings of the reply topic, where a sidecar makes it: replies are read at once or not at all.
const SETTINGS: [(&str, &str); 2] = [("cleanup.policy", "delete"), ("retention.ms", "600000")];

type Open = Waiting<oneshot::Sender<ConsumedRecord>>;

/// The requests of a sidecar. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    /// Where replies are looked for.
    pub(crate) topic: Arc<str>,
    instance: u64,
    open: Arc<Mutex<Open>>,
    home: Arc<tokio::sync::Mutex<Option<Home>>>,
}

/// The partition that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// A request that waits; it does so no longer when this is dropped.
#[derive(Debug)]
pub(crate) struct Awaiting {
    open: Arc<Mutex<Open>>,
    number: u64,
    _waiting: Entered,
}

impl Awaiting {
    pub(crate) fn correlation(&self) -> Bytes {
        lock(&self.open).correlation(self.number)
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        lock(&self.open).close(self.number);
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Requests {
    pub(crate) fn new(topic: &str, most: usize) -> Self {
        let (instance, prefix) = uuid::Uuid::new_v4().as_u64_pair();
        Self {
            topic: topic.into(),
            instance,
            open: Arc::new(Mutex::new(Waiting::new(prefix, most))),
            home: Arc::default(),
        }
    }

    /// One more request waits.
    pub(crate) fn wait(&self, stats: &Stats) -> Result<(Awaiting, oneshot::Receiver<ConsumedRecord>), Failure> {
        let (tell, reply) = oneshot::channel();
        let Some(number) = lock(&self.open).open(tell) else {
            stats.refused.add(1);
            return Err(Failure::passing(
                Code::ResourceExhausted,
                "TOO_MANY_REQUESTS",
                "limits.requests requests wait for their replies already; wait for some, or raise the limit",
            ));
        };
        Ok((Awaiting { open: self.open.clone(), number, _waiting: stats.requests.enter() }, reply))
    }

    /// The partition that is read for replies; the first caller begins that.
    pub(crate) async fn home<B: Backend>(&self, shared: &Shared<B>) -> Result<Home, Failure> {
        let mut home = self.home.lock().await;
        if let Some(home) = &*home {
            return Ok(home.clone());
        }
        let count = self.ensure(shared).await?;
        let chosen = self.instance % u64::from(count.max(1).unsigned_abs());
        let found = Home { topic: self.topic.clone(), partition: i32::try_from(chosen).unwrap_or_default() };
        let reader = shared.backend.read(read(&found, None)).await?;
        tracing::info!(topic = %found.topic, partition = found.partition, "reads replies");
        let reading = Reading { requests: self.clone(), home: found.clone(), next: None };
        let (killed, work) = (shared.phase.killed.clone(), reading.run(shared.clone(), reader));
        tokio::spawn(async move { killed.run_until_cancelled(work).await });
        *home = Some(found.clone());
        Ok(found)
    }

    /// Makes sure that there is the reply topic; its number of partitions.
    async fn ensure<B: Backend>(&self, shared: &Shared<B>) -> Result<i32, ClientError> {
        match shared.backend.partitions(&self.topic).await {
            Err(ClientError::NoSuchTopic { .. } | ClientError::Rejected { code: UNKNOWN_TOPIC, .. }) => {
                shared.backend.create_topic(&self.topic, Some(limits::REPLY_PARTITIONS), &SETTINGS).await?;
                shared.backend.partitions(&self.topic).await
            }
            found => found,
        }
    }
}

/// `UNKNOWN_TOPIC_OR_PARTITION` in the Kafka protocol.
const UNKNOWN_TOPIC: i16 = 3;

fn read(home: &Home, from: Option<i64>) -> ReadSpec {
    let at = TopicPartition::new(home.topic.clone(), home.partition);
    ReadSpec {
        topics: vec![home.topic.clone()],
        only: Some(home.partition),
        start: Start::Latest,
        offsets: from.map(|from| (at, from)).into_iter().collect(),
        committed: false,
    }
}

struct Reading {
    requests: Requests,
    home: Home,
    /// Where to go on after a failure.
    next: Option<i64>,
}

impl Reading {
    async fn run<B: Backend>(mut self, shared: Shared<B>, first: B::Reader) {
        let mut reader = Some(first);
        while let Some(mut reading) = reader.take() {
            let failure = self.follow(&shared.stats, &mut reading).await;
            tracing::warn!(topic = %self.home.topic, error = %failure, "replies can't be read, trying again");
            drop(reading);
            reader = self.again(&shared).await;
        }
        // The next request begins anew; those that wait will get no reply.
        *self.requests.home.lock().await = None;
        lock(&self.requests.open).clear();
    }

    /// Reads until that fails.
    async fn follow<R: Reader>(&mut self, stats: &Stats, reader: &mut R) -> ClientError {
        loop {
            match reader.next(limits::POLL_MESSAGES).await {
                Ok(records) => records.into_iter().for_each(|record| self.arrived(stats, record)),
                Err(error) => return error,
            }
        }
    }

    fn arrived(&mut self, stats: &Stats, record: ConsumedRecord) {
        self.next = Some(record.offset + 1);
        let arrived = header(&record, CORRELATION_ID).map(|id| lock(&self.requests.open).arrived(id));
        match arrived {
            // Whoever gave up at this moment does not wait any more.
            Some(Arrived::Awaited(who)) => drop(who.send(record)),
            Some(Arrived::Late) => stats.late_replies.add(1),
            Some(Arrived::NotOurs) | None => {}
        }
    }

    /// Another reader, from where the last one was; `None` where the topic is gone.
    async fn again<B: Backend>(&self, shared: &Shared<B>) -> Option<B::Reader> {
        loop {
            tokio::time::sleep(limits::GROUP_RETRY).await;
            match shared.backend.read(read(&self.home, self.next)).await {
                Ok(reader) => return Some(reader),
                Err(error) if error.is_retriable() => tracing::debug!(%error, "the reply topic can't be read yet"),
                Err(error) => {
                    tracing::warn!(topic = %self.home.topic, %error, "the reply topic is given up");
                    return None;
                }
            }
        }
    }
}
