//! The coordinator's settings and every bound on what clients can make it hold (INV-7).

/// Settings; the defaults are Kafka's where Kafka has the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionsConfig {
    /// `transaction.max.timeout.ms`: the longest that a client may ask for.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`: an id without a transaction for so long is forgotten.
    pub id_expiration_ms: u64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub expiry_interval_ms: u64,
    /// A write that the log did not take is tried again after so long.
    pub retry_ms: u64,
    /// Transactional ids that this coordinator holds.
    pub max_ids: usize,
    /// Bytes of one.
    pub max_id_bytes: usize,
    /// Partitions of one transaction.
    pub max_partitions: usize,
    /// Persists that are not committed yet; beyond, requests that need one are refused with a retriable error.
    pub max_pending_persists: usize,
    /// Requests that wait for a producer id.
    pub max_id_asks: usize,
    /// Ids looked at in one step of the search for expired ones, so that the shard is not held up.
    pub expiry_ids_per_step: usize,
}

impl Default for TransactionsConfig {
    fn default() -> Self {
        Self {
            max_timeout_ms: 15 * 60_000,
            id_expiration_ms: 7 * 24 * 3_600_000,
            expiry_interval_ms: 3_600_000,
            retry_ms: 100,
            max_ids: 100_000,
            max_id_bytes: 1_024,
            max_partitions: 10_000,
            max_pending_persists: 65_536,
            max_id_asks: 10_000,
            expiry_ids_per_step: 256,
        }
    }
}
