//! Every bound of the node's core, by name (INV-7, INV-8). At a bound the caller is slowed or refused; memory is not grown.

/// Bounds that an operator may set. The defaults suit a node with a few GiB of memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections at once; more are refused.
    pub connections: usize,
    /// Largest request frame in bytes.
    pub request_bytes: usize,
    /// Requests of one connection that are not answered yet; beyond it the connection is not read.
    pub requests_per_connection: usize,
    /// Bytes of those requests; beyond it the connection is not read.
    pub request_bytes_per_connection: usize,
    /// Bytes of unanswered requests of all connections; beyond it whoever sends is not read.
    pub request_bytes_in_flight: usize,
    /// Response bytes of one connection that the kernel has not taken; beyond it the connection is not read.
    pub response_bytes_per_connection: usize,
    /// Record bytes in one fetch response, whatever the client asks for.
    pub fetch_bytes: usize,
    /// Record bytes of one partition in a fetch response.
    pub fetch_partition_bytes: usize,
    /// Fetch sessions kept (KIP-227); without room a client is served without one.
    pub fetch_sessions: usize,
    /// Partitions in all fetch sessions together.
    pub fetch_session_partitions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            request_bytes: 100 << 20,
            requests_per_connection: 512,
            request_bytes_per_connection: 64 << 20,
            request_bytes_in_flight: 512 << 20,
            response_bytes_per_connection: 16 << 20,
            fetch_bytes: 64 << 20,
            fetch_partition_bytes: 64 << 20,
            fetch_sessions: 1_000,
            fetch_session_partitions: 500_000,
        }
    }
}

impl Limits {
    /// Refuses values that can't work.
    ///
    /// # Errors
    /// A sentence.
    pub fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("connections", self.connections),
            ("requests_per_connection", self.requests_per_connection),
            ("fetch_bytes", self.fetch_bytes),
            ("fetch_partition_bytes", self.fetch_partition_bytes),
            ("response_bytes_per_connection", self.response_bytes_per_connection),
        ] {
            if value == 0 {
                return Err(format!("limits.{name} must be at least 1"));
            }
        }
        if !(64 << 10..=1 << 30).contains(&self.request_bytes) {
            return Err(format!("limits.request_bytes {} must be from 64 KiB to 1 GiB", self.request_bytes));
        }
        if self.request_bytes_in_flight < self.request_bytes {
            return Err("limits.request_bytes_in_flight must hold at least one request of limits.request_bytes".into());
        }
        Ok(())
    }
}

/// Fetches of one connection that wait or read at once; later requests wait behind them.
pub const MAX_FETCHES_PER_CONNECTION: usize = 8;
/// Longest that a fetch waits for data, in milliseconds.
pub const MAX_FETCH_WAIT_MS: i32 = 300_000;
/// Partitions in one request of any kind; a request with more is refused whole.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 200_000;
/// Uncompressed bytes of a batch that is looked into: those for compacted topics, and the node's own.
pub const MAX_INSPECTED_BATCH_BYTES: usize = 64 << 20;
/// Coordinators that one request may ask for.
pub const MAX_COORDINATOR_KEYS: usize = 10_000;
/// Topics that one CreateTopics, DeleteTopics or CreatePartitions request may change.
pub const MAX_TOPICS_PER_CHANGE: usize = 10_000;
/// Partitions that one request may make.
pub const MAX_NEW_PARTITIONS_PER_REQUEST: usize = 20_000;
/// Partitions whose leaders or replicas one request may change.
pub const MAX_PARTITIONS_PER_CHANGE: usize = 20_000;
/// Partitions in one command of such a change: a payload holds one in any case.
pub const PARTITIONS_PER_COMMAND: usize = 2_000;
/// Configuration entries in one resource of a request.
pub const MAX_CONFIGS_PER_RESOURCE: usize = 1_000;
/// Partitions in all fetches that wait, of all connections; beyond it a fetch is refused (each takes some 200 bytes).
pub const MAX_WAITING_FETCH_PARTITIONS: usize = 2_000_000;
/// Metadata commands that wait to be durable; beyond it changes are refused.
pub const MAX_PENDING_COMMANDS: usize = 50_000;
/// Producer ids taken from the metadata at once.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;
/// Requests for a producer id that wait for the next block.
pub const MAX_PRODUCER_ID_WAITERS: usize = 20_000;
/// Producers and partitions that transactional produce requests asked a coordinator about, and whose answer has not been
/// used: beyond it those that nobody waits for are forgotten.
pub const MAX_VERIFICATIONS: usize = 100_000;
/// Responses of DescribeTopicPartitions: partitions at the most (KIP-966).
pub const MAX_DESCRIBED_PARTITIONS: usize = 2_000;
/// Metadata log records beyond the last snapshot before the next snapshot is written.
pub const SNAPSHOT_AFTER_COMMANDS: usize = 10_000;
/// Bytes of commands in one batch of the metadata log.
pub const METADATA_BATCH_BYTES: usize = 64 << 10;
/// Bytes of one read while the node's own logs are replayed.
pub const REPLAY_READ_BYTES: usize = 4 << 20;
/// Partitions of the topic that keeps the groups' state.
pub const MAX_OFFSETS_TOPIC_PARTITIONS: i32 = 1_000;
/// Groups of a whole cluster; each coordinator takes its share, so that a node can't be made to hold more by ids that
/// fall into one partition.
pub const MAX_GROUPS: usize = 200_000;
/// Coordinators that read their log at once; the others wait their turn.
pub const MAX_GROUP_LOADS: usize = 4;
/// Bytes that one of them reads in one turn.
pub const GROUP_LOAD_BYTES: usize = 1 << 20;
/// How long it waits when the store has too many reads waiting, in milliseconds.
pub const GROUP_LOAD_RETRY_MS: u64 = 10;
/// Coordinators whose deadlines are served in one turn; the others follow in the next.
pub const MAX_GROUP_TICKS_PER_TURN: usize = 32;
/// Message ids that a node remembers, of all partitions that it leads (each takes some 100 bytes): beyond it a new one takes
/// the place of its partition's oldest, whatever the window.
pub const MAX_MESSAGE_IDS: usize = 8_000_000;
/// Partitions whose message ids are read back from their logs at once; the others wait their turn.
pub const MAX_MESSAGE_ID_LOADS: usize = 4;
/// Transactional ids of a whole cluster; each coordinator takes its share.
pub const MAX_TRANSACTIONAL_IDS: usize = 1_000_000;
/// Partitions in one message between nodes about a transaction; a longer list is cut into several.
pub const MAX_TRANSACTION_MESSAGE_PARTITIONS: usize = 2_000;
/// How long the end of a transaction is left alone when a partition could not be told it, in milliseconds.
pub const TELL_RETRY_MS: u64 = 50;
/// How long a node is given to tell its partitions, before it is asked once more, in milliseconds. They may wait that long for
/// in-sync replicas.
pub const TELL_PATIENCE_MS: u64 = 30_000;
/// Questions whether partitions belong to a transaction that wait for an answer, on one node.
pub const MAX_TRANSACTION_QUESTIONS: usize = 50_000;
/// How long such a question is put off when the coordinator can't answer it yet, in milliseconds.
pub const QUESTION_RETRY_MS: u64 = 3;
/// How long it is asked again, in milliseconds; after that who asked may do so.
pub const QUESTION_PATIENCE_MS: u64 = 500;
/// Transactional ids that one DescribeTransactions request may name.
pub const MAX_DESCRIBED_TRANSACTIONS: usize = 10_000;
/// Transactions of one AddPartitionsToTxn request.
pub const MAX_TRANSACTIONS_PER_REQUEST: usize = 10_000;
/// Groups, and transactions, are counted for the metrics so long after something happened to one, in milliseconds: that looks
/// at all of them.
pub const COORDINATOR_CENSUS_MS: u64 = 10_000;
/// How long an idle fetch session is kept from eviction, in milliseconds.
pub const FETCH_SESSION_MIN_IDLE_MS: u64 = 120_000;
/// Nodes that may have opened a link of one class or another to this one, and nodes that are remembered.
pub const MAX_LINKS: usize = 1_024;
/// Addresses that links are kept to.
pub const MAX_LINK_TARGETS: usize = 1_024;
/// Bytes that may wait on one link, unless a single message is longer.
pub const LINK_QUEUE_BYTES: usize = 64 << 20;
/// Bytes that a message may be longer than the longest request: what is said about its batches.
pub const LINK_MESSAGE_OVERHEAD: usize = 1 << 20;
/// Bytes of one frame between nodes; longer messages are cut into several.
pub const MAX_LINK_FRAME_BYTES: usize = 4 << 20;
/// Bytes of a TLS handshake.
pub const MAX_HANDSHAKE_BYTES: usize = 128 << 10;
/// TLS handshakes at once; connections that would begin one more are closed.
pub const MAX_HANDSHAKES: usize = 4_096;
/// Largest frame in bytes of a client that has not authenticated itself, where it has to (as Kafka's
/// `sasl.server.max.receive.size`).
pub const MAX_STRANGER_FRAME_BYTES: usize = 512 << 10;
/// Least time between two authentications of one connection, in nanoseconds.
pub const MIN_REAUTH_INTERVAL_NS: u64 = 1_000_000_000;
/// ACLs, or filters of ACLs, in one request.
pub const MAX_ACLS_PER_REQUEST: usize = 10_000;
/// ACLs in one command: a payload holds one in any case.
pub const ACLS_PER_COMMAND: usize = 50;
/// Entities in one request about quotas.
pub const MAX_QUOTAS_PER_REQUEST: usize = 10_000;
/// Users, clients and addresses that are counted for quotas.
pub const MAX_QUOTA_BUCKETS: usize = 100_000;
/// Longest that a connection is muted because its requests took too much time, in nanoseconds (as Kafka's window).
pub const MAX_REQUEST_THROTTLE_NS: u64 = 1_000_000_000;
/// Users in one request about their credentials.
pub const MAX_USERS_PER_REQUEST: usize = 1_000;
/// Bytes of a salted password.
pub const MAX_SALTED_PASSWORD_BYTES: usize = 1_024;
/// Listeners of a node.
pub const MAX_LISTENERS: usize = 16;
/// Bytes of a file with certificates, a key or secrets.
pub const MAX_SECRET_FILE_BYTES: u64 = 1 << 20;
/// Bytes of a client's text that an error message repeats.
pub const SHOWN_TEXT: usize = 200;
/// Refused batches of idempotent producers that a connection remembers; the oldest are forgotten.
pub(crate) const MAX_REFUSALS_PER_CONNECTION: usize = 256;
/// Share-partitions (a group's view of a partition) whose state a whole cluster keeps; each coordinator takes its share.
pub const MAX_SHARE_PARTITIONS: usize = 1_000_000;
/// Runs of records in the state of one share-partition: as many as records may be under way at once.
pub const MAX_SHARE_SPANS: usize = 10_000;
/// Updates of a share-partition's state between two records of all of it.
pub const SHARE_UPDATES_PER_SNAPSHOT: u16 = 100;
/// Writes of a share coordinator that are not durable yet; beyond, more are refused with a retriable error.
pub const MAX_SHARE_PENDING_WRITES: usize = 65_536;
/// Topics and partitions that one request about a share group's offsets may name.
pub const MAX_SHARE_NAMES_PER_REQUEST: usize = 10_000;
/// Questions of one node to share coordinators that are not answered.
pub const MAX_SHARE_QUESTIONS: usize = 50_000;
/// How long such a question is put off when the coordinator can't answer it yet, in milliseconds.
pub const SHARE_RETRY_MS: u64 = 5;
/// How long an answer is waited for before the same is asked again, in milliseconds.
pub const SHARE_ASK_AGAIN_MS: u64 = 1_000;
/// How long a question is asked again, in milliseconds; after that who asked is refused.
pub const SHARE_PATIENCE_MS: u64 = 10_000;
/// Share-partitions that one node holds in memory.
pub const MAX_LED_SHARE_PARTITIONS: usize = 200_000;
/// Sessions of members of share groups on one node, and partitions in all of them together.
pub const MAX_SHARE_SESSIONS: usize = 20_000;
/// See [`MAX_SHARE_SESSIONS`].
pub const MAX_SHARE_SESSION_PARTITIONS: usize = 500_000;
/// Partitions in all requests of share groups that wait, of all connections; beyond it a request is refused.
pub const MAX_WAITING_SHARE_PARTITIONS: usize = 500_000;
/// Runs of records that one request may acknowledge: its batches, with a verdict for each record if they differ.
pub const MAX_ACKNOWLEDGED_RUNS: usize = 200_000;
/// Bytes of records that are copied to a dead-letter topic at once; one record in any case.
pub const MAX_LETTER_BYTES: usize = 256 << 10;
/// Share-partitions whose dead letters are on their way at once; the others wait.
pub const MAX_LETTERS: usize = 256;
/// How long a dead letter that could not be made or sent is put off, in milliseconds.
pub const LETTER_RETRY_MS: u64 = 1_000;
