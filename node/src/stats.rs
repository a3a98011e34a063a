//! What the core counts. One thread writes, any thread reads: plain relaxed loads and stores, no locked instruction.
//!
//! Rendering as Prometheus text is another room's.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::store::EngineStats;
use crate::transactions::StateName;

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the core's thread may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it; only the core's thread may call it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of [`Histogram`]: bucket n counts values below 2^n, the last one everything.
pub const BUCKETS: usize = 40;

/// Counts by powers of two.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        let bits = usize::try_from(u64::BITS - value.leading_zeros()).unwrap_or(BUCKETS);
        if let Some(bucket) = self.buckets.get(bits.min(BUCKETS - 1)) {
            bucket.add(1);
        }
        self.sum.add(value);
    }

    /// Sum of all values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Upper bound (exclusive) and count of each bucket, not cumulative; the last has no upper bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.buckets.iter().enumerate().map(|(n, count)| ((n + 1 < BUCKETS).then(|| 1u64 << n), count.get()))
    }
}

/// API keys counted one by one; larger ones count as the last.
pub const API_KEYS: usize = 96;

/// Counters of one kind of request.
#[derive(Debug, Default)]
pub struct ApiStats {
    /// Requests decoded.
    pub requests: Counter,
    /// Responses handed out.
    pub responses: Counter,
    /// Nanoseconds from the whole frame to the response.
    pub latency_ns: Histogram,
}

/// Everything that a node counts.
#[derive(Debug)]
pub struct NodeStats {
    apis: [ApiStats; API_KEYS],
    /// Bytes of request frames.
    pub bytes_in: Counter,
    /// Bytes of responses.
    pub bytes_out: Counter,
    /// Connections open now.
    pub connections: Gauge,
    /// Links with other nodes, up now, in both directions.
    pub links: Gauge,
    /// Partitions that this node leads.
    pub partitions_led: Gauge,
    /// Those of them that have a replica out of sync.
    pub under_replicated: Gauge,
    /// Those of them that have fewer in-sync replicas than they must have to be written to.
    pub under_min_insync: Gauge,
    /// Partitions of the cluster that nobody leads.
    pub leaderless: Gauge,
    /// Nodes of the cluster that run, as far as the metadata know.
    pub nodes_running: Gauge,
    /// 1 while this node leads the metadata quorum.
    pub quorum_leader: Gauge,
    /// 1 while this node's session lets it acknowledge.
    pub may_acknowledge: Gauge,
    /// Connections ever accepted.
    pub connections_accepted: Counter,
    /// Connections refused at the bound.
    pub connections_refused: Counter,
    /// Clients that have proven who they are, again included.
    pub authentications: Counter,
    /// Clients that could not.
    pub authentications_failed: Counter,
    /// Times that a connection was muted for a quota.
    pub throttled: Counter,
    /// Requests, or parts of them, that their caller may not make.
    pub unauthorized: Counter,
    /// Connections that the node closed because of what they sent.
    pub connections_closed: Counter,
    /// Error codes in responses, of partitions and topics as well as of whole requests.
    pub errors: Counter,
    /// Record batches appended.
    pub batches_appended: Counter,
    /// Records appended.
    pub records_appended: Counter,
    /// Bytes of batches appended.
    pub bytes_appended: Counter,
    /// Batches that were duplicates of an idempotent producer.
    pub duplicates: Counter,
    /// Records that were not appended because their message id was known.
    pub duplicate_ids: Counter,
    /// Message ids that are remembered.
    pub message_ids: Gauge,
    /// Bytes of batches sent to consumers.
    pub bytes_fetched: Counter,
    /// Nanoseconds from the append to its durability.
    pub append_latency_ns: Histogram,
    /// Nanoseconds from a fetch to its response.
    pub fetch_latency_ns: Histogram,
    /// Appends made durable at once: how well commits are grouped.
    pub group_appends: Histogram,
    /// Fetches that wait for data now.
    pub fetches_waiting: Gauge,
    /// Groups that are coordinated here.
    pub groups: Gauge,
    /// Those of them that use the protocol of KIP-848.
    pub consumer_groups: Gauge,
    /// Those of them in which partitions are on their way from one member to another.
    pub groups_rebalancing: Gauge,
    /// Members of all of them.
    pub group_members: Gauge,
    /// What the transaction coordinators of this node count.
    pub transactions: TransactionStats,
    /// Fetch sessions now.
    pub fetch_sessions: Gauge,
    /// Produce requests held back because the disk can't keep up.
    pub produce_stalls: Counter,
    /// Bytes of unanswered requests now.
    pub request_bytes_in_flight: Gauge,
    /// Topics now.
    pub topics: Gauge,
    /// Partitions now.
    pub partitions: Gauge,
    /// Logs found damaged.
    pub logs_failed: Counter,
    /// 1 while the disk is too full to append.
    pub disk_full: Gauge,
    /// 1 once the node serves.
    pub ready: Gauge,
    /// What the log engine counts.
    pub log: LogStats,
}

/// Transactions that are coordinated here.
#[derive(Debug, Default)]
pub struct TransactionStats {
    /// Transactional ids by the state of their newest transaction; see [`Self::by_state`].
    pub(crate) states: [Gauge; StateName::ALL.len()],
    /// Age of the oldest transaction that is open, or whose end is not known to all of its partitions, in milliseconds; 0:
    /// there is none.
    pub oldest_age_ms: Gauge,
    /// Partitions that are being told how a transaction ends, and have not said yet that they know.
    pub pending_markers: Gauge,
    /// Transactions of which it was decided that they commit.
    pub committed: Counter,
    /// The same, that they abort, for whatever reason.
    pub aborted: Counter,
    /// Those of them that were open for too long.
    pub timed_out: Counter,
    /// Transactional ids that were forgotten because nobody used them.
    pub expired_ids: Counter,
}

impl TransactionStats {
    /// Transactional ids by the state of their newest transaction.
    pub fn by_state(&self) -> impl Iterator<Item = (&'static str, u64)> {
        StateName::ALL.iter().zip(&self.states).map(|(state, gauge)| (state.as_str(), gauge.get()))
    }
}

/// The log engine's counters, as of the last turn.
#[derive(Debug, Default)]
pub struct LogStats {
    /// Journal frames written: one durable write each, for a whole group of appends.
    pub journal_frames: Gauge,
    /// Bytes of journal frames written; divided by the frames, the size of a group.
    pub journal_bytes: Gauge,
    /// Batches appended.
    pub batches: Gauge,
    /// Bytes of batches appended.
    pub appended_bytes: Gauge,
    /// Writes to segments.
    pub flushes: Gauge,
    /// Bytes written to segments.
    pub flushed_bytes: Gauge,
    /// Checkpoints completed.
    pub checkpoints: Gauge,
    /// Compactions completed.
    pub compactions: Gauge,
    /// Reads served from memory.
    pub hot_reads: Gauge,
    /// Reads that went to a segment.
    pub cold_reads: Gauge,
    /// Bytes read from segments.
    pub cold_bytes: Gauge,
    /// See [`EngineStats`].
    pub scrubbed_bytes: Gauge,
    /// See [`EngineStats`].
    pub scrub_passes: Gauge,
    /// See [`EngineStats`].
    pub scrub_damage: Gauge,
    /// Memory of recent batches in bytes, now.
    pub tail_bytes: Gauge,
    /// Journal files in use now.
    pub journal_files: Gauge,
    /// Segment files open now.
    pub open_files: Gauge,
    /// Logs now.
    pub logs: Gauge,
    /// Size of the file system in bytes; 0 before it was first asked.
    pub disk_total_bytes: Gauge,
    /// What was free on it when it was last asked, in bytes.
    pub disk_free_bytes: Gauge,
    /// See [`EngineStats`].
    pub open_transactions: Gauge,
    /// See [`EngineStats`].
    pub late_transactions: Gauge,
}

impl LogStats {
    /// Takes over the engine's numbers.
    pub(crate) fn set(&self, engine: &EngineStats) {
        self.journal_frames.set(engine.frames);
        self.journal_bytes.set(engine.journal_bytes);
        self.batches.set(engine.batches);
        self.appended_bytes.set(engine.appended_bytes);
        self.flushes.set(engine.flushes);
        self.flushed_bytes.set(engine.flushed_bytes);
        self.checkpoints.set(engine.checkpoints);
        self.compactions.set(engine.compactions);
        self.hot_reads.set(engine.hot_reads);
        self.cold_reads.set(engine.cold_reads);
        self.cold_bytes.set(engine.cold_bytes);
        self.scrubbed_bytes.set(engine.scrubbed_bytes);
        self.scrub_passes.set(engine.scrub_passes);
        self.scrub_damage.set(engine.scrub_damage);
        self.tail_bytes.set(engine.tail_bytes);
        self.journal_files.set(engine.journal_files);
        self.open_files.set(engine.open_files);
        self.logs.set(engine.logs);
        self.disk_total_bytes.set(engine.disk_total_bytes);
        self.disk_free_bytes.set(engine.disk_free_bytes);
        self.open_transactions.set(engine.open_transactions);
        self.late_transactions.set(engine.late_transactions);
    }
}

impl Default for NodeStats {
    fn default() -> Self {
        Self {
            apis: std::array::from_fn(|_| ApiStats::default()),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            connections: Gauge::default(),
            links: Gauge::default(),
            partitions_led: Gauge::default(),
            under_replicated: Gauge::default(),
            under_min_insync: Gauge::default(),
            leaderless: Gauge::default(),
            nodes_running: Gauge::default(),
            quorum_leader: Gauge::default(),
            may_acknowledge: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            authentications: Counter::default(),
            authentications_failed: Counter::default(),
            throttled: Counter::default(),
            unauthorized: Counter::default(),
            connections_closed: Counter::default(),
            errors: Counter::default(),
            batches_appended: Counter::default(),
            records_appended: Counter::default(),
            bytes_appended: Counter::default(),
            duplicates: Counter::default(),
            duplicate_ids: Counter::default(),
            message_ids: Gauge::default(),
            bytes_fetched: Counter::default(),
            append_latency_ns: Histogram::default(),
            fetch_latency_ns: Histogram::default(),
            group_appends: Histogram::default(),
            fetches_waiting: Gauge::default(),
            groups: Gauge::default(),
            consumer_groups: Gauge::default(),
            groups_rebalancing: Gauge::default(),
            group_members: Gauge::default(),
            transactions: TransactionStats::default(),
            fetch_sessions: Gauge::default(),
            produce_stalls: Counter::default(),
            request_bytes_in_flight: Gauge::default(),
            topics: Gauge::default(),
            partitions: Gauge::default(),
            logs_failed: Counter::default(),
            disk_full: Gauge::default(),
            ready: Gauge::default(),
            log: LogStats::default(),
        }
    }
}

impl NodeStats {
    /// The counters of one API key.
    #[must_use]
    pub fn api(&self, key: i16) -> &ApiStats {
        let at = usize::try_from(key).unwrap_or(API_KEYS).min(API_KEYS - 1);
        // The index is below the array's length by construction.
        &self.apis[at]
    }

    /// API keys that were used, with their counters.
    pub fn apis(&self) -> impl Iterator<Item = (i16, &ApiStats)> {
        self.apis.iter().enumerate().filter(|(_, api)| api.requests.get() > 0).filter_map(|(key, api)| {
            let key = i16::try_from(key).ok()?;
            Some((key, api))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets() {
        let h = Histogram::default();
        for value in [0, 1, 2, 3, 4, u64::MAX] {
            h.record(value);
        }
        let filled: Vec<_> = h.buckets().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(Some(1), 1), (Some(2), 1), (Some(4), 2), (Some(8), 1), (None, 1)]);
        assert_eq!(h.count(), 6);
    }

    #[test]
    fn any_api_key_has_a_place() {
        let stats = NodeStats::default();
        for key in [i16::MIN, -1, 0, 95, 96, i16::MAX] {
            stats.api(key).requests.add(1);
        }
        assert_eq!(stats.apis().map(|(_, api)| api.requests.get()).sum::<u64>(), 6);
    }
}
