//! Configuration: one struct per role, safe defaults, unsafe combinations refused with a sentence.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ClientError, Result};
use crate::limits;
use crate::producer::ProducerStats;
use crate::security::SecurityConfig;

pub use wherry_wire::compress::Codec;

/// Of a [`Client`](crate::Client): how to reach the cluster.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where to ask first, as `host:port`; any one that answers is enough.
    pub bootstrap: Vec<String>,
    /// Name under which brokers log and throttle this client.
    pub client_id: String,
    /// Longest a connection's set-up may take, TLS and SASL included.
    pub connect_timeout: Duration,
    /// Longest to wait for one answer; then the connection is given up. Long polls have their own time added.
    pub request_timeout: Duration,
    /// Longest for one call of the client with all its attempts.
    pub call_timeout: Duration,
    /// First pause between attempts; doubles, with jitter, up to `retry_backoff_max`.
    pub retry_backoff: Duration,
    /// Longest pause between attempts.
    pub retry_backoff_max: Duration,
    /// Age at which metadata in use is fetched anew, errors aside.
    pub metadata_max_age: Duration,
    /// Requests in flight on one connection.
    pub max_in_flight_requests: usize,
    /// Largest answer accepted, in bytes.
    pub max_response_bytes: usize,
    /// How connections are encrypted and authenticated.
    pub security: SecurityConfig,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: vec!["127.0.0.1:9092".into()],
            client_id: "wherry".into(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(50),
            retry_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            max_in_flight_requests: limits::IN_FLIGHT_REQUESTS,
            max_response_bytes: limits::RESPONSE_BYTES,
            security: SecurityConfig::default(),
        }
    }
}

impl ClientConfig {
    /// Defaults, with these addresses.
    pub fn new<I: IntoIterator<Item = S>, S: Into<String>>(bootstrap: I) -> Self {
        Self { bootstrap: bootstrap.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.bootstrap.is_empty() {
            return Err(ClientError::config("bootstrap is empty: name at least one broker as host:port"));
        }
        self.security.check().map_err(ClientError::config)?;
        if self.max_in_flight_requests == 0 {
            return Err(ClientError::config("max_in_flight_requests is 0: nothing could ever be sent"));
        }
        Ok(())
    }
}

/// When a produce request counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// When it is handed to the socket: no answer, no offset, and a loss goes unnoticed.
    None,
    /// When the leader has it.
    Leader,
    /// When all in-sync replicas have it.
    #[default]
    All,
}

impl Acks {
    /// As on the wire.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Of a [`Producer`](crate::Producer).
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// When a record counts as delivered.
    pub acks: Acks,
    /// No retry may duplicate or reorder. Needs `Acks::All`.
    pub idempotent: bool,
    /// Wait this long for more records before sending a batch that is not full. Zero adds no delay: a batch goes when nothing
    /// of its partition is in flight, and what arrives meanwhile becomes the next one.
    pub linger: Duration,
    /// Size at which a batch is full, in bytes before compression.
    pub batch_bytes: usize,
    /// Compression of batches.
    pub codec: Codec,
    /// Level of the codec, `None` for its default.
    pub compression_level: Option<i32>,
    /// Send batches of a topic as they are while compressing them does not pay; tried again from time to time.
    pub adaptive_compression: bool,
    /// Where its batches are counted; producers may share it.
    pub stats: Arc<ProducerStats>,
    /// From `send` to the receipt, all retries included; then the record fails.
    pub delivery_timeout: Duration,
    /// What the broker may take to get the acknowledgements it needs.
    pub ack_timeout: Duration,
    /// Bytes of records that were accepted by `send` and have no receipt yet; at the bound `send` waits.
    pub max_buffer_bytes: usize,
    /// Batches of one partition in flight; at most 5 when idempotent (brokers remember as many).
    pub max_in_flight_batches: usize,
    /// Largest single record, in bytes before compression.
    pub max_record_bytes: usize,
    /// Largest produce request, in bytes.
    pub max_request_bytes: usize,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            linger: Duration::ZERO,
            batch_bytes: 256 * 1024,
            codec: Codec::None,
            compression_level: None,
            adaptive_compression: false,
            stats: Arc::default(),
            delivery_timeout: Duration::from_secs(120),
            ack_timeout: Duration::from_secs(30),
            max_buffer_bytes: 64 * 1024 * 1024,
            max_in_flight_batches: limits::IDEMPOTENT_IN_FLIGHT,
            max_record_bytes: 1000 * 1000,
            max_request_bytes: 8 * 1024 * 1024,
        }
    }
}

impl ProducerConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(ClientError::config(what));
        if self.idempotent && self.acks != Acks::All {
            return wrong("idempotent needs acks = All: without it a broker can't tell a retry from a new record");
        }
        if self.idempotent && self.max_in_flight_batches > limits::IDEMPOTENT_IN_FLIGHT {
            return wrong("idempotent allows at most 5 batches in flight per partition: brokers remember no more");
        }
        if self.max_in_flight_batches == 0 || self.batch_bytes == 0 {
            return wrong("max_in_flight_batches and batch_bytes must be above 0: nothing could ever be sent");
        }
        if self.max_buffer_bytes < self.max_record_bytes {
            return wrong("max_buffer_bytes is below max_record_bytes: the largest record could never be sent");
        }
        if self.max_request_bytes < self.max_record_bytes + limits::BATCH_OVERHEAD_BYTES {
            return wrong("max_request_bytes leaves no room for a record of max_record_bytes");
        }
        if i32::try_from(self.max_request_bytes).is_err() {
            return wrong("max_request_bytes is above 2 GiB, which the protocol can't express");
        }
        Ok(())
    }
}

/// Of a [`TransactionalProducer`](crate::TransactionalProducer).
#[derive(Debug, Clone)]
pub struct TransactionConfig {
    /// Names the producer over its restarts: one at a time has it, and the newest fences all before it.
    pub transactional_id: String,
    /// A transaction that lasts longer is aborted by the cluster.
    pub timeout: Duration,
}

impl TransactionConfig {
    /// Defaults, with this name.
    pub fn new(transactional_id: impl Into<String>) -> Self {
        Self { transactional_id: transactional_id.into(), timeout: Duration::from_secs(60) }
    }

    pub(crate) fn check(&self, producer: &ProducerConfig) -> Result<()> {
        if self.transactional_id.is_empty() {
            return Err(ClientError::config("transactional_id is empty: name the producer"));
        }
        if self.timeout < Duration::from_millis(1) {
            return Err(ClientError::config("timeout of transactions is below a millisecond"));
        }
        if !producer.idempotent {
            return Err(ClientError::config(
                "transactions need an idempotent producer: set ProducerConfig::idempotent",
            ));
        }
        Ok(())
    }
}

/// Where to start when a group has no committed offset, or the position is outside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// At the first record there is.
    Earliest,
    /// At the end: only what comes from now on.
    #[default]
    Latest,
    /// Nowhere: `poll` fails with [`ClientError::OutOfRange`].
    Fail,
}

/// Which records of transactions are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All below the high watermark.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions, below the last stable offset.
    ReadCommitted,
}

/// How a group's leader divides partitions among members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Assignor {
    /// Contiguous ranges per topic (Kafka's `range`).
    Range,
    /// All partitions dealt out one by one (Kafka's `roundrobin`).
    RoundRobin,
    /// Balanced, and members keep what they had; everything is revoked during a rebalance (Kafka's `sticky`).
    Sticky,
    /// Balanced, and only partitions that move are revoked (Kafka's `cooperative-sticky`). Not to be offered along with the
    /// others but in a migration.
    CooperativeSticky,
}

impl Assignor {
    /// Its name in the group protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }
}

/// When partitions that are to be revoked are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RevokeWhen {
    /// At the application's next `poll`, which says that it is done with what it had.
    #[default]
    NextPoll,
    /// When it calls `release`: for applications whose records are acknowledged independently of polling.
    Released,
}

/// Of a [`Consumer`](crate::Consumer).
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// The group to belong to; `None` allows only `assign`.
    pub group: Option<String>,
    /// Static membership (KIP-345): a restart within the session keeps its partitions without a rebalance.
    pub group_instance_id: Option<String>,
    /// Where to start without a committed offset.
    pub auto_offset_reset: OffsetReset,
    /// Which records of transactions are handed out.
    pub isolation: Isolation,
    /// In order of preference; every member must share one.
    pub assignors: Vec<Assignor>,
    /// Without a heartbeat for this long the group gives the member up.
    pub session_timeout: Duration,
    /// Time between heartbeats; at most a third of the session.
    pub heartbeat_interval: Duration,
    /// What members get to finish their work and rejoin.
    pub rebalance_timeout: Duration,
    /// When partitions that are about to be revoked are given up.
    pub revoke_when: RevokeWhen,
    /// How long they wait for that, before they are given up anyway.
    pub revoke_grace: Duration,
    /// Commit the positions of what `poll` handed out before the present `poll`, this often; `None`: only what `commit` says.
    pub auto_commit_interval: Option<Duration>,
    /// A fetch answers at once when it has this much.
    pub fetch_min_bytes: usize,
    /// And after this long with whatever there is.
    pub fetch_max_wait: Duration,
    /// Per fetch answer.
    pub fetch_max_bytes: usize,
    /// Per partition and fetch answer. A single batch that is larger still comes through.
    pub partition_max_bytes: usize,
    /// Bytes fetched ahead of `poll`; at the bound no more is fetched.
    pub prefetch_bytes: usize,
    /// Bytes of records, uncompressed, after which a poll brings no more; one record it brings in any case.
    pub poll_bytes: usize,
    /// Largest batch after decompression.
    pub max_batch_bytes: usize,
    /// Rack of this consumer (KIP-392), for brokers that use it.
    pub rack: Option<String>,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            group_instance_id: None,
            auto_offset_reset: OffsetReset::default(),
            isolation: Isolation::default(),
            assignors: vec![Assignor::CooperativeSticky],
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
            revoke_when: RevokeWhen::default(),
            revoke_grace: Duration::from_secs(5),
            auto_commit_interval: None,
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 16 * 1024 * 1024,
            partition_max_bytes: 1024 * 1024,
            prefetch_bytes: 32 * 1024 * 1024,
            poll_bytes: 64 * 1024 * 1024,
            max_batch_bytes: limits::BATCH_DECOMPRESSED_BYTES,
            rack: None,
        }
    }
}

impl ConsumerConfig {
    /// Defaults, in this group.
    pub fn in_group(group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(ClientError::config(what));
        if self.group.as_deref() == Some("") {
            return wrong("group is an empty string: name it, or leave it out");
        }
        if self.group.is_some() && self.assignors.is_empty() {
            return wrong("assignors is empty: a group member must offer at least one");
        }
        if self.heartbeat_interval.saturating_mul(3) > self.session_timeout {
            return wrong(
                "heartbeat_interval is above a third of session_timeout: one lost heartbeat would cost the session",
            );
        }
        if self.revoke_grace >= self.rebalance_timeout || self.revoke_grace >= self.session_timeout {
            return wrong(
                "revoke_grace must be below rebalance_timeout and session_timeout: the group would not wait as long",
            );
        }
        if self.group_instance_id.is_some() && self.group.is_none() {
            return wrong("group_instance_id without group has no meaning");
        }
        if self.auto_commit_interval.is_some() && self.group.is_none() {
            return wrong("auto_commit_interval without group has nowhere to commit to");
        }
        let bounds = [self.prefetch_bytes, self.poll_bytes, self.fetch_max_bytes, self.partition_max_bytes];
        if bounds.contains(&0) {
            return wrong("prefetch_bytes, poll_bytes, fetch_max_bytes and partition_max_bytes must be above 0");
        }
        Ok(())
    }
}

impl Isolation {
    /// As on the wire.
    pub(crate) fn level(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}
