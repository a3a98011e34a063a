//! Every bound of the client that is not configured, by name (INV-7, INV-8).

use std::time::Duration;

/// Requests in flight on one connection, by default.
pub const IN_FLIGHT_REQUESTS: usize = 64;
/// Largest answer accepted, by default.
pub const RESPONSE_BYTES: usize = 100 * 1024 * 1024;
/// Batches of one partition in flight with idempotence: brokers remember the last five (KIP-98).
pub const IDEMPOTENT_IN_FLIGHT: usize = 5;
/// What a batch and a produce request need besides records, at most; for size checks.
pub const BATCH_OVERHEAD_BYTES: usize = 4096;
/// Largest batch after decompression, by default.
pub const BATCH_DECOMPRESSED_BYTES: usize = 128 * 1024 * 1024;
/// Rebalance events kept for a reader that is behind; older ones are dropped and the reader told so.
pub const REBALANCE_EVENTS: usize = 64;
/// Commands waiting for a background task.
pub const TASK_COMMANDS: usize = 64;
/// Topics that one client keeps metadata of.
pub const TOPICS_IN_USE: usize = 100_000;
/// How long a topic that no broker knows may take to appear: metadata spreads after creation.
pub const TOPIC_GRACE: Duration = Duration::from_secs(5);
/// Least time between two metadata refreshes.
pub const METADATA_PACE: Duration = Duration::from_millis(20);
/// Produce requests in flight to one leader; below [`IN_FLIGHT_REQUESTS`].
pub const PRODUCE_REQUESTS_IN_FLIGHT: usize = 16;
/// Failures that wait for `poll`; further ones are the same or will come again.
pub const CONSUMER_FAILURES: usize = 16;
/// Longest that the fetcher sleeps with nothing to do.
pub const FETCHER_IDLE: Duration = Duration::from_secs(60);
/// Long poll of a fetch that leaves a full partition out.
pub const FETCH_HURRY: Duration = Duration::from_millis(50);
/// How long a consumer that was dropped without `close` tries to leave its group.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
