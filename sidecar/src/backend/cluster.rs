//! The real cluster, through `wherry_client`. Connects in the background: nothing here delays the start of the sidecar.

mod reader;
mod topics;
mod transactional;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wherry_client::admin::{Admin, OffsetAt, OffsetSpec};
use wherry_client::{
    Client, ClientError, CommitOffset, Committer, ConsumedRecord, Consumer, ConsumerConfig, Delivery, GroupMembership,
    Isolation, OffsetReset, ProduceRecord, Producer, ProducerConfig, RebalanceEvents, RecordMetadata, RevokeWhen,
    TopicPartition,
};

use super::{Backend, Bounds, GroupView, Member, MemberSpec, Polled, ReadSpec, Receipt, Start, Taken};
use crate::config::SidecarConfig;
use crate::limits;

/// First and longest pause between attempts to reach the cluster.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// After this long without a heartbeat the partitions of a dead sidecar go to others. Shorter than Kafka's 45 s, because a pod that is
/// killed is the usual case here; longer than any pause that a throttled container should see.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a revoked partition is kept at most; what is out of it may be settled for less than that.
const REVOKE_GRACE: Duration = limits::REVOKE_DRAIN.saturating_add(Duration::from_secs(2));

/// The cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    link: watch::Receiver<Link>,
    /// Sends with the producer that never gives up.
    forwards: bool,
    wait: Duration,
    prefetch_bytes: usize,
    closing: CancellationToken,
    /// How producers of transactions send.
    transactions: Arc<ProducerConfig>,
}

#[derive(Debug, Clone)]
enum Link {
    /// Not reached yet, and what the last attempt met.
    Connecting(Option<ClientError>),
    /// Reached once; from then on the client reconnects by itself.
    Up { client: Client, producer: Producer, forwarder: Option<Producer> },
}

impl Cluster {
    /// Starts to connect.
    #[must_use]
    pub fn start(config: &SidecarConfig) -> Self {
        let (sender, link) = watch::channel(Link::Connecting(None));
        let closing = CancellationToken::new();
        let connect = connect(config.clone(), sender);
        let stop = closing.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(connect).await;
        });
        let (transactions, prefetch_bytes) = (Arc::new(config.transactions()), config.limits.prefetch_bytes);
        Self { link, forwards: false, wait: config.cluster_wait, prefetch_bytes, closing, transactions }
    }

    fn producer(&self) -> Option<Producer> {
        match &*self.link.borrow() {
            Link::Up { producer, forwarder, .. } => self.choose(producer, forwarder.as_ref()),
            Link::Connecting(_) => None,
        }
    }

    async fn client(&self, what: &str) -> Result<Client, ClientError> {
        Ok(self.clone().up(what).await?.0)
    }

    fn choose(&self, producer: &Producer, forwarder: Option<&Producer>) -> Option<Producer> {
        if self.forwards { forwarder.cloned() } else { Some(producer.clone()) }
    }

    /// The client, once the cluster is reached, within the configured time.
    async fn up(mut self, what: &str) -> Result<(Client, Producer), ClientError> {
        let reached = {
            let up = self.link.wait_for(|link| matches!(link, Link::Up { .. }));
            tokio::time::timeout(self.wait, up).await.ok().and_then(Result::ok).map(|link| link.clone())
        };
        if let Some(Link::Up { client, producer, forwarder }) = reached
            && let Some(producer) = self.choose(&producer, forwarder.as_ref())
        {
            return Ok((client, producer));
        }
        Err(ClientError::Retry { what: what.into(), cause: self.why_not(), waited: self.wait })
    }

    fn why_not(&self) -> Arc<str> {
        match &*self.link.borrow() {
            Link::Connecting(Some(error)) => error.to_string().into(),
            Link::Connecting(None) | Link::Up { .. } => "the cluster has not been reached yet".into(),
        }
    }
}

async fn connect(config: SidecarConfig, link: watch::Sender<Link>) {
    let mut pause = RECONNECT.0;
    loop {
        match reach(&config).await {
            Ok(up) => {
                tracing::info!(bootstrap = ?config.bootstrap, "reached the cluster");
                link.send_replace(up);
                return;
            }
            Err(error) => {
                tracing::warn!(bootstrap = ?config.bootstrap, %error, "can't reach the cluster, trying again");
                link.send_replace(Link::Connecting(Some(error)));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

async fn reach(config: &SidecarConfig) -> Result<Link, ClientError> {
    let client = Client::connect(config.client()).await?;
    let producer = client.producer(config.producer()).await?;
    let forwarder = match config.forwarder() {
        Some(forwarder) => Some(client.producer(forwarder).await?),
        None => None,
    };
    Ok(Link::Up { client, producer, forwarder })
}

impl Backend for Cluster {
    type Receipt = ClusterReceipt;
    type Member = ClusterMember;
    type Reader = reader::ClusterReader;
    type Transactional = transactional::ClusterTransactional;

    fn try_send(&self, record: ProduceRecord) -> Result<Taken<ClusterReceipt>, ClientError> {
        let Some(producer) = self.producer() else {
            return Ok(Taken::Later(record));
        };
        Ok(match producer.try_send(record)? {
            Ok(delivery) => Taken::Now(ClusterReceipt(delivery)),
            Err(record) => Taken::Later(record),
        })
    }

    fn send(
        &self,
        record: ProduceRecord,
    ) -> impl Future<Output = Result<ClusterReceipt, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            let (_, producer) = this.up("publish").await?;
            Ok(ClusterReceipt(producer.send(record).await?))
        }
    }

    fn knows_ids(&self, topic: &str) -> Option<bool> {
        self.producer()?.known_dedupe_window(topic).map(|window| window.is_some())
    }

    fn asks_ids(&self, topic: &str) -> impl Future<Output = Result<bool, ClientError>> + Send + 'static {
        let (this, topic) = (self.clone(), Arc::<str>::from(topic));
        async move {
            let (_, producer) = this.up("publish").await?;
            Ok(producer.dedupe_window(&topic).await?.is_some())
        }
    }

    fn join(&self, spec: MemberSpec) -> impl Future<Output = Result<ClusterMember, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            let prefetch_bytes = this.prefetch_bytes;
            let (client, _) = this.up("join the group").await?;
            let config = ConsumerConfig {
                auto_offset_reset: reset(spec.start),
                isolation: isolation(spec.committed),
                session_timeout: SESSION_TIMEOUT,
                revoke_when: RevokeWhen::Released,
                revoke_grace: REVOKE_GRACE,
                prefetch_bytes,
                fetch_max_bytes: prefetch_bytes,
                poll_bytes: prefetch_bytes,
                ..ConsumerConfig::in_group(&*spec.group)
            };
            let mut consumer = client.consumer(config).await?;
            let events = consumer.events();
            let topics: Vec<&str> = spec.topics.iter().map(|topic| &**topic).collect();
            consumer.subscribe(&topics).await?;
            Ok(ClusterMember { committer: consumer.committer(), consumer, events, polled: Vec::new() })
        }
    }

    async fn partitions(&self, topic: &str) -> Result<i32, ClientError> {
        topics::partitions(&self.client("describe the topic").await?, topic).await
    }

    fn read(
        &self,
        spec: ReadSpec,
    ) -> impl Future<Output = Result<reader::ClusterReader, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            let prefetch_bytes = this.prefetch_bytes;
            reader::ClusterReader::open(this.up("read the topic").await?.0, spec, prefetch_bytes).await
        }
    }

    fn transactional(
        &self,
        id: Arc<str>,
        timeout: Duration,
    ) -> impl Future<Output = Result<transactional::ClusterTransactional, ClientError>> + Send + 'static {
        let this = self.clone();
        async move {
            let producer = ProducerConfig::clone(&this.transactions);
            let client = this.up("begin a transaction").await?.0;
            transactional::ClusterTransactional::open(client, producer, &id, timeout).await
        }
    }

    async fn create_topic(
        &self,
        topic: &str,
        partitions: Option<i32>,
        settings: &[(&str, &str)],
    ) -> Result<bool, ClientError> {
        topics::create(&self.client("create the topic").await?, topic, partitions, settings).await
    }

    async fn topics(&self) -> Result<Vec<(Arc<str>, i32)>, ClientError> {
        topics::list(&self.client("list topics").await?).await
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, ClientError> {
        topics::bounds(&self.client("describe the topic").await?, topic).await
    }

    async fn settings(&self, topic: &str) -> Result<Vec<(String, String)>, ClientError> {
        topics::settings(&self.client("describe the topic").await?, topic).await
    }

    async fn offsets_at(&self, topic: &str, timestamp_ms: i64) -> Result<Vec<(i32, i64)>, ClientError> {
        topics::offsets_at(&self.client("look offsets up").await?, topic, timestamp_ms).await
    }

    async fn group(&self, group: &str) -> Result<GroupView, ClientError> {
        topics::group(&self.client("describe the group").await?, group).await
    }

    async fn move_group(&self, group: &str, next: &[(TopicPartition, i64)]) -> Result<(), ClientError> {
        topics::move_group(&self.client("move the group").await?, group, next).await
    }

    async fn flush(&self) {
        if let Some(producer) = self.producer()
            && let Err(error) = producer.flush().await
        {
            tracing::warn!(%error, "could not flush");
        }
    }

    async fn recall(&self) {
        if let Some(producer) = self.producer() {
            producer.recall().await;
        }
    }

    fn forwarder(&self) -> Self {
        Self { forwards: true, ..self.clone() }
    }

    async fn close(&self) {
        self.closing.cancel();
        let producers = match &*self.link.borrow() {
            Link::Up { producer, forwarder, .. } => vec![Some(producer.clone()), forwarder.clone()],
            Link::Connecting(_) => Vec::new(),
        };
        for producer in producers.into_iter().flatten() {
            if let Err(error) = producer.close().await {
                tracing::debug!(%error, "closing the producer");
            }
        }
    }

    async fn probe(&self) -> Result<(), ClientError> {
        let (client, _) = self.clone().up("ask the cluster").await?;
        client.admin().cluster().await.map(|_| ())
    }

    async fn lag(&self, spec: &MemberSpec) -> Result<i64, ClientError> {
        let (client, _) = self.clone().up("look up the lag").await?;
        lag(&client.admin(), spec).await
    }

    fn reached(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up { .. })
    }
}

/// From what is committed to the end, of all partitions. Where nothing is committed the group begins at its start.
async fn lag(admin: &Admin, spec: &MemberSpec) -> Result<i64, ClientError> {
    let topics: Vec<&str> = spec.topics.iter().map(|topic| &**topic).collect();
    let described = admin.describe_topics(&topics).await?;
    let found = described.into_iter().filter_map(|(topic, described)| Some((topic, described.ok()?)));
    let partitions: Vec<TopicPartition> = found
        .flat_map(|(topic, described)| {
            described
                .partitions
                .into_iter()
                .map(move |p| TopicPartition { topic: topic.clone(), partition: p.partition })
        })
        .collect();
    let committed = admin.group_offsets(&spec.group, Some(&partitions)).await?;
    let committed: HashMap<&TopicPartition, i64> = committed.iter().map(|known| (&known.at, known.offset)).collect();
    let begins = match spec.start {
        Start::Earliest => OffsetSpec::Earliest,
        Start::Latest => OffsetSpec::Latest,
    };
    let ends: Vec<_> = partitions.iter().map(|at| (at.clone(), OffsetSpec::Latest)).collect();
    let starts: Vec<_> =
        partitions.iter().filter(|at| !committed.contains_key(at)).map(|at| (at.clone(), begins)).collect();
    let ends = admin.list_offsets(&ends).await?;
    let starts = if starts.is_empty() { Vec::new() } else { admin.list_offsets(&starts).await? };
    let known = |each: &[(TopicPartition, Result<OffsetAt, ClientError>)]| -> HashMap<TopicPartition, i64> {
        each.iter().filter_map(|(at, found)| Some((at.clone(), found.as_ref().ok()?.offset))).collect()
    };
    let starts = known(&starts);
    let left = known(&ends).into_iter().map(|(at, end)| {
        let from = committed.get(&at).or_else(|| starts.get(&at)).copied().unwrap_or(end);
        (end - from).max(0)
    });
    Ok(left.sum())
}

/// Receipt of a record sent by the client.
#[derive(Debug)]
pub struct ClusterReceipt(Delivery);

impl Future for ClusterReceipt {
    type Output = Result<RecordMetadata, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl Receipt for ClusterReceipt {
    fn lane(&self) -> Option<usize> {
        // Batches of one partition are acknowledged in order.
        usize::try_from(self.0.partition()).ok()
    }
}

/// A consumer of the client, with its events and records in one sequence.
#[derive(Debug)]
pub struct ClusterMember {
    consumer: Consumer,
    committer: Committer,
    events: RebalanceEvents,
    /// Records that came with events which have to be told first.
    polled: Vec<ConsumedRecord>,
}

impl Member for ClusterMember {
    async fn next(&mut self, want: usize) -> Result<Polled, ClientError> {
        if let Some(event) = self.events.try_next() {
            return Ok(Polled::Rebalance(event));
        }
        if !self.polled.is_empty() {
            return Ok(Polled::Records(std::mem::take(&mut self.polled)));
        }
        if want == 0 {
            return self.events.next().await.map(Polled::Rebalance).ok_or(CLOSED);
        }
        tokio::select! {
            biased;
            event = self.events.next() => return event.map(Polled::Rebalance).ok_or(CLOSED),
            records = self.consumer.poll(want) => self.polled = records?,
        }
        // What poll met on its way comes before what it brought.
        Ok(match self.events.try_next() {
            Some(event) => Polled::Rebalance(event),
            None => Polled::Records(std::mem::take(&mut self.polled)),
        })
    }

    fn commit(
        &self,
        generation: i32,
        next: Vec<CommitOffset>,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + 'static {
        let committer = self.committer.clone();
        async move { committer.commit_all_in_generation(generation, &next).await }
    }

    fn resumed(&self, at: &TopicPartition) -> Option<(i64, Arc<str>)> {
        self.consumer.resumed(at)
    }

    fn membership(&self) -> Option<GroupMembership> {
        self.consumer.membership().filter(|membership| membership.generation() >= 0)
    }

    fn seek(&mut self, at: &TopicPartition, offset: i64) {
        self.polled.retain(|record| record.partition != at.partition || record.topic != at.topic);
        if let Err(error) = self.consumer.seek(at, offset) {
            // It is no longer assigned: whoever has it next begins at what was committed.
            tracing::debug!(%at, offset, %error, "could not seek");
        }
    }

    fn pause(&mut self, partitions: &[TopicPartition]) {
        self.consumer.pause(partitions);
    }

    fn resume(&mut self, partitions: &[TopicPartition]) {
        self.consumer.resume(partitions);
    }

    fn release(&mut self) {
        self.consumer.release();
    }

    async fn close(self) -> Result<(), ClientError> {
        self.consumer.close().await
    }
}

const CLOSED: ClientError = ClientError::Closed { what: "the consumer" };

fn reset(start: Start) -> OffsetReset {
    match start {
        Start::Earliest => OffsetReset::Earliest,
        Start::Latest => OffsetReset::Latest,
    }
}

fn isolation(committed: bool) -> Isolation {
    if committed { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}
