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
    /// Bytes that the client fetches ahead for one group; what is taken from it counts in [`Limits::window_bytes`].
    pub prefetch_bytes: usize,
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
    /// Transactions that may be committing at a time, each with a sender of its own; at the bound the next one waits. Twice
    /// `transaction_bytes` may be kept for all that are not committed; at that bound one is refused with `RESOURCE_EXHAUSTED`.
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
        Self::within(MEMORY_BYTES)
    }
}

/// Parts of the budget, in sixteenths. What is not here is fixed: about 64 KiB for each connection, 8 KiB for each call.
const SIXTEENTHS: [(&str, usize); 6] =
    [("producer", 4), ("window", 4), ("prefetch", 2), ("partial", 1), ("connections", 3), ("calls", 2)];

/// A part of the budget.
pub(crate) fn share(memory_bytes: usize, of: &str) -> usize {
    SIXTEENTHS.iter().filter(|(name, _)| *name == of).map(|(_, parts)| memory_bytes / 16 * parts).sum()
}

impl Limits {
    /// Bounds under which applications can't make the sidecar hold more than about so many bytes, whatever they do.
    #[must_use]
    pub fn within(memory_bytes: usize) -> Self {
        let (groups, broadcasts) = (12, 4);
        let share = |of| share(memory_bytes, of);
        let roomy = ROOMY_CONNECTIONS * CONNECTION_WINDOW_BYTES as usize;
        Self {
            connections: ROOMY_CONNECTIONS + share("connections").saturating_sub(roomy) / SMALL_WINDOW_BYTES as usize,
            streams_per_connection: 1024,
            streams: share("calls") / CALL_BYTES,
            message_bytes: 1000 * 1000,
            stream_messages: 16 * 1024,
            stream_bytes: share("producer") / 4,
            partial_bytes: share("partial"),
            partial_time: Duration::from_secs(30),
            groups,
            prefetch_bytes: share("prefetch") / (groups + broadcasts),
            subscribers_per_group: 1024,
            broadcasts,
            window_messages: 8 * 1024,
            window_bytes: share("window"),
            credits: 1_000_000,
            pull_messages: 1000,
            pull_wait: Duration::from_secs(60),
            ack_timeout: Duration::from_secs(60 * 60),
            transactions: 8,
            transaction_messages: 10_000,
            transaction_bytes: share("producer") / 2,
            transaction_time: Duration::from_secs(60),
            requests: 4096,
            request_time: Duration::from_secs(5 * 60),
        }
    }

    /// The flow control window of a connection and the calls that it may have at a time, where so many are open with it: an
    /// application that needs many connections gets small ones.
    pub(crate) fn connection_window(&self, open: i64) -> (u32, u32) {
        let roomy = usize::try_from(open).is_ok_and(|open| open <= ROOMY_CONNECTIONS);
        if roomy {
            (CONNECTION_WINDOW_BYTES, self.streams_per_connection)
        } else {
            (SMALL_WINDOW_BYTES, self.streams_per_connection.min(SMALL_WINDOW_STREAMS))
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
            ("prefetch_bytes", self.prefetch_bytes),
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

/// What applications can make the sidecar hold where nothing else is said, in bytes.
pub const MEMORY_BYTES: usize = 32 * 1024 * 1024;
/// The least budget with which messages of the usual size go through, in bytes.
pub const MEMORY_BYTES_MIN: usize = 16 * 1024 * 1024;
/// What a call takes of its part of the budget: the beginning of a message and its own state.
const CALL_BYTES: usize = 4 * 1024;
/// Connections with a large flow control window; those after them get a small one.
const ROOMY_CONNECTIONS: usize = 4;
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
/// Least disk for a spool, in bytes.
pub const SPOOL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Left free on the spool's file system: below it nothing is spooled, in bytes.
pub const SPOOL_RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// Commands that wait for the task of the spool.
pub const SPOOL_COMMANDS: usize = 1024;
/// Bytes and messages in one batch of the spool; a larger message goes alone.
pub const SPOOL_BATCH_BYTES: usize = 256 * 1024;
/// See [`SPOOL_BATCH_BYTES`].
pub const SPOOL_BATCH_MESSAGES: usize = 4096;
/// Largest batch of the spool once decompressed, in bytes.
pub const SPOOL_BATCH_DECOMPRESSED: usize = MESSAGE_BYTES_MAX + 4 * 1024 * 1024;
/// Batches on their way to the spool's disk.
pub const SPOOL_APPENDS: usize = 4;
/// How long a message waits for room in a full spool before it is refused.
pub const SPOOL_FULL_WAIT: Duration = Duration::from_secs(5);
/// Bytes read from the spool at once.
pub const SPOOL_READ_BYTES: usize = 256 * 1024;
/// Bytes of messages that are being forwarded; the last read may go over it.
pub const SPOOL_FORWARD_BYTES: usize = 512 * 1024;
/// Messages that are being forwarded; the last read may go over it.
pub const SPOOL_FORWARD_MESSAGES: usize = 4096;
/// With so few messages left in the spool, new ones wait until it is empty.
pub const SPOOL_NEARLY_EMPTY: u64 = 256;
/// First and longest pause before what was not forwarded is tried again.
pub const SPOOL_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// After so long without an answer it is asked whether the topic of a forwarded message still exists.
pub const SPOOL_STUCK: Duration = Duration::from_secs(10);
/// For so long a topic that does not exist is not looked for again.
pub const SPOOL_MISSING: Duration = Duration::from_secs(30);
/// How long the cluster may take to answer whether it is there.
pub const PROBE: Duration = Duration::from_secs(2);
/// How often the lag of groups is asked for.
pub const LAG_EVERY: Duration = Duration::from_secs(15);
/// Topics that have metrics of their own; the rest are counted together.
pub const METRIC_TOPICS: usize = 100;
/// HTTP/2 flow control window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// HTTP/2 flow control window of one connection, in bytes, while there are few.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
/// The same where there are many: what HTTP/2 begins with.
pub const SMALL_WINDOW_BYTES: u32 = 64 * 1024 - 1;
/// Calls at a time on a connection with a small window: h2 ends a connection whose window is full of small frames.
pub const SMALL_WINDOW_STREAMS: u32 = 128;
/// Bytes that wait to be written to one HTTP/2 stream.
pub const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Largest set of HTTP/2 request headers, in bytes.
pub const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Buffer of one HTTP/1 connection, in bytes.
pub const HTTP1_BUFFER_BYTES: usize = 16 * 1024;
/// How long HTTP/1 request headers may take.
pub const HEADER_READ: Duration = Duration::from_secs(30);
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take to answer.
pub const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        assert_eq!(SIXTEENTHS.iter().map(|(_, parts)| parts).sum::<usize>(), 16);
        for memory in [MEMORY_BYTES_MIN, MEMORY_BYTES, 10 * MEMORY_BYTES] {
            let limits = Limits::within(memory);
            assert_eq!(limits.check(), Ok(()), "{memory}");
            let windows: usize =
                (1..=limits.connections).map(|open| limits.connection_window(open as i64).0 as usize).sum();
            let held = share(memory, "producer")
                + limits.window_bytes
                + limits.groups * limits.prefetch_bytes
                + limits.partial_bytes
                + windows
                + limits.streams * CALL_BYTES;
            assert!(held <= memory && held > memory / 10 * 9, "{held} of {memory}");
        }
    }
}
