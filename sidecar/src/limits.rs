//! Every bound of the sidecar, by name (INV-7, INV-8): what an application may make it hold.
//!
//! The fields of [`Limits`] are configuration; the constants are not, because nothing is gained by another value.

use std::time::Duration;

/// Bounds that an operator may set. All are checked by [`Limits::check`] before the sidecar starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at a time, over TCP and the Unix socket together. At the bound new ones wait in the kernel's queue.
    pub connections: usize,
    /// Calls in progress on one HTTP/2 connection. At the bound the application's library waits.
    pub streams_per_connection: u32,
    /// Calls in progress in all. At the bound a call is refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Largest message: key, payload and headers, in bytes. A larger one is refused with `RESOURCE_EXHAUSTED`.
    pub message_bytes: usize,
    /// Messages of one publishing stream that have no result yet. At the bound the stream is not read.
    pub stream_messages: usize,
    /// Bytes of messages of one publishing stream that have no result yet. At the bound the stream is not read.
    pub stream_bytes: usize,
    /// Bytes of request bodies that are not yet whole messages, in all. At the bound bodies are not read.
    pub partial_bytes: usize,
    /// How long the rest of a large message may take once its first bytes came; then its call ends.
    pub partial_time: Duration,
    /// Groups in use at a time. At the bound another one is refused with `RESOURCE_EXHAUSTED`.
    pub groups: usize,
    /// Subscriptions and waiting pulls of one group. At the bound another one is refused with `RESOURCE_EXHAUSTED`.
    pub subscribers_per_group: usize,
    /// Subscriptions without a group; each reads for itself. At the bound another one is refused with `RESOURCE_EXHAUSTED`.
    pub broadcasts: usize,
    /// Messages of one partition that are delivered or waiting and not yet durably acknowledged. At the bound the partition
    /// is paused until the oldest is settled.
    pub window_messages: usize,
    /// Bytes of messages that are held for delivery and acknowledgement, over all groups. At the bound nothing is fetched
    /// except one message for a group that holds none.
    pub window_bytes: usize,
    /// Credits of one subscription; more are not counted.
    pub credits: u32,
    /// Most messages in the answer to one pull.
    pub pull_messages: u32,
    /// Longest wait of one pull.
    pub pull_wait: Duration,
    /// Longest ack timeout, and longest delay of a negative acknowledgement.
    pub ack_timeout: Duration,
    /// Transactions that may be committing at a time, each with a sender of its own; at the bound the next one waits. So many times
    /// `transaction_bytes` may be kept for transactions that are not committed; at that bound one is refused with
    /// `RESOURCE_EXHAUSTED`.
    pub transactions: usize,
    /// Messages of one transaction, and of one batch. A larger one is refused with `RESOURCE_EXHAUSTED`.
    pub transaction_messages: usize,
    /// Bytes of messages of one transaction, and of one batch; at least one message always fits. A larger one is refused with
    /// `RESOURCE_EXHAUSTED`.
    pub transaction_bytes: usize,
    /// How long a transaction may be open; then it is aborted.
    pub transaction_time: Duration,
    /// Requests that wait for a reply. At the bound another one is refused with `RESOURCE_EXHAUSTED`.
    pub requests: usize,
    /// Longest wait for a reply.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            streams_per_connection: 1024,
            streams: 16 * 1024,
            message_bytes: 1000 * 1000,
            stream_messages: 16 * 1024,
            stream_bytes: 8 * 1024 * 1024,
            partial_bytes: 8 * 1024 * 1024,
            partial_time: Duration::from_secs(30),
            groups: 32,
            subscribers_per_group: 1024,
            broadcasts: 64,
            window_messages: 8 * 1024,
            window_bytes: 16 * 1024 * 1024,
            credits: 1_000_000,
            pull_messages: 1000,
            pull_wait: Duration::from_secs(60),
            ack_timeout: Duration::from_secs(60 * 60),
            transactions: 16,
            transaction_messages: 10_000,
            transaction_bytes: 4 * 1024 * 1024,
            transaction_time: Duration::from_secs(60),
            requests: 4096,
            request_time: Duration::from_secs(5 * 60),
        }
    }
}

impl Limits {
    /// Refuses bounds under which nothing could ever go through.
    ///
    /// # Errors
    /// A sentence: which bound, and what to do.
    pub fn check(&self) -> Result<(), String> {
        let above_zero = [
            ("connections", self.connections),
            ("streams_per_connection", self.streams_per_connection as usize),
            ("streams", self.streams),
            ("message_bytes", self.message_bytes),
            ("stream_messages", self.stream_messages),
            ("groups", self.groups),
            ("subscribers_per_group", self.subscribers_per_group),
            ("broadcasts", self.broadcasts),
            ("window_messages", self.window_messages),
            ("credits", self.credits as usize),
            ("pull_messages", self.pull_messages as usize),
            ("transactions", self.transactions),
            ("transaction_messages", self.transaction_messages),
            ("requests", self.requests),
        ];
        for (name, value) in above_zero {
            if value == 0 {
                return Err(format!("limits.{name} is 0: nothing could ever go through; set it to at least 1"));
            }
        }
        let room_for_a_message = [
            ("stream_bytes", self.stream_bytes),
            ("partial_bytes", self.partial_bytes),
            ("window_bytes", self.window_bytes),
        ];
        for (name, value) in room_for_a_message {
            if value < self.message_bytes {
                return Err(format!(
                    "limits.{name} is {value}, below limits.message_bytes = {}: the largest message could never go through; raise it",
                    self.message_bytes
                ));
            }
        }
        if self.message_bytes > MESSAGE_BYTES_MAX {
            return Err(format!("limits.message_bytes is {}, above {MESSAGE_BYTES_MAX}; lower it", self.message_bytes));
        }
        if self.ack_timeout < ACK_TIMEOUT_MIN {
            return Err(format!("limits.ack_timeout is below {ACK_TIMEOUT_MIN:?}; raise it"));
        }
        Ok(())
    }
}

/// Largest value of [`Limits::message_bytes`].
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a gRPC frame may be larger than its message: topic, field tags, correlation. Up to here a message that is too large
/// gets its own answer; beyond, the stream ends.
pub const FRAME_OVERHEAD_BYTES: usize = 1024 * 1024;
/// Longest topic name (as in Kafka).
pub const TOPIC_NAME_BYTES: usize = 249;
/// Longest group name.
pub const GROUP_NAME_BYTES: usize = 255;
/// Longest content type, message id or header name.
pub const TEXT_BYTES: usize = 1024;
/// Headers of one message.
pub const HEADERS: usize = 256;
/// Topics of one subscription.
pub const TOPICS_PER_SUBSCRIPTION: usize = 64;
/// Ack ids in one frame or call.
pub const ACK_IDS: usize = 10_000;
/// Topics in one page of a list.
pub const TOPICS_PER_PAGE: usize = 1000;
/// How long moving a group waits for a rebalance that is under way.
pub const SEEK_WAIT: Duration = Duration::from_secs(15);
/// Offsets named in one call.
pub const OFFSETS: usize = 10_000;
/// Messages in one HTTP batch.
pub const HTTP_BATCH_MESSAGES: usize = 10_000;
/// Ack ids of one subscription that have no result yet; at the bound the subscription is not read.
pub const SUBSCRIPTION_ACKS: usize = 64 * 1024;
/// Frames that wait for one subscription's HTTP/2 stream.
pub const SUBSCRIPTION_FRAMES: usize = 2;
/// Messages in one delivery frame.
pub const DELIVERY_MESSAGES: usize = 512;
/// Bytes of messages after which a delivery frame is sent.
pub const DELIVERY_BYTES: usize = 256 * 1024;
/// Results in one frame of a publishing stream.
pub const ACKS_PER_FRAME: usize = 1024;
/// Commands that wait for the task of one group.
pub const GROUP_COMMANDS: usize = 256;
/// Bytes that the client fetches ahead for one group; what is taken from it counts in [`Limits::window_bytes`].
pub const GROUP_PREFETCH_BYTES: usize = 2 * 1024 * 1024;
/// Bytes beside a committed offset that say what is acknowledged above it; clusters take 4096 unless they are told otherwise
/// (`offset.metadata.max.bytes`). At the bound nothing new of the partition is delivered until earlier messages are settled.
pub const BESIDE_BYTES: usize = 4096;
/// Messages asked for in one poll.
pub const POLL_MESSAGES: usize = 1000;
/// Topic names that one stream keeps at hand.
pub const STREAM_TOPICS: usize = 64;
/// Ack timeout when none is asked for.
pub const ACK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest ack timeout: below it, redelivery would race with the application's answer.
pub const ACK_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// How long a group without subscriptions and pulls stays a member after a subscription ended.
pub const GROUP_LINGER_STREAM: Duration = Duration::from_secs(2);
/// How long a group without subscriptions and pulls stays a member after a pull.
pub const GROUP_LINGER_PULL: Duration = Duration::from_secs(60);
/// How long unsettled messages of a partition that is about to be taken away may still be settled. Below the client's
/// `revoke_grace`, after which the partition goes anyway.
pub const REVOKE_DRAIN: Duration = Duration::from_secs(3);
/// Pause after a failed commit or poll before the next.
pub const GROUP_RETRY: Duration = Duration::from_millis(100);
/// How long a unary ack waits until it is durable; earlier messages of the partition may hold it up.
pub const UNARY_SETTLE: Duration = Duration::from_secs(30);
/// What each message of a transaction counts besides its own bytes.
pub const TRANSACTION_MESSAGE_BYTES: usize = 128;
/// How long a transaction waits until it may acknowledge in a group: for the commit that is on its way, and for other transactions.
pub const LEASE_WAIT: Duration = Duration::from_secs(20);
/// How long the outcome of a transaction is asked for when its answer got lost.
pub const TRANSACTION_RESOLVE: Duration = Duration::from_secs(60);
/// Failures that the answer to many messages names.
pub const PUBLISH_MANY_ERRORS: usize = 100;
/// How long a request waits for its reply when it does not say.
pub const REQUEST_DEFAULT: Duration = Duration::from_secs(30);
/// Partitions of the reply topic where a sidecar makes it; each sidecar reads one.
pub const REPLY_PARTITIONS: i32 = 16;
/// Messages of an event stream that may be unsettled, when it does not say.
pub const EVENT_WINDOW: u32 = 100;
/// How often a silent event stream says that it is there: below what proxies and clients usually wait.
pub const EVENT_HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a subscription may take to say what it wants.
pub const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Bytes of an incomplete message that each call may hold without touching [`Limits::partial_bytes`], so that small
/// messages get through whatever large ones do.
pub const PARTIAL_FREE_BYTES: usize = 4 * 1024;
/// HTTP/2 flow control window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 flow control window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// Largest set of HTTP/2 request headers, in bytes.
pub const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Buffer of one HTTP/1 connection, in bytes.
pub const HTTP1_BUFFER_BYTES: usize = 64 * 1024;
/// How long HTTP/1 request headers may take.
pub const HEADER_READ: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take to answer.
pub const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
