//! What the sidecar counts about itself: plain atomics, written in batches by the hot paths, rendered for Prometheus on request.
//!
//! It must not know where the numbers come from. [`render`] gives them the names and units of the Prometheus conventions.

mod render;
pub mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wherry_client::ProducerStats;

use crate::lag::Lags;
use crate::spool::stats::SpoolStats;
use topics::TopicStats;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds, or subtracts.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Sets.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// Counts something that exists until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        self.add(1);
        Entered(self.clone())
    }
}

/// Counted in a gauge while it lives.
#[derive(Debug)]
pub(crate) struct Entered(Arc<Gauge>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// Upper bounds of the latency buckets, in seconds; the last one is open.
const BOUNDS: [f64; 16] = [
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    f64::INFINITY,
];

/// Durations, in buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BOUNDS.len()],
    sum_us: AtomicU64,
}

impl Latency {
    /// Notes `count` things that each took this long.
    pub fn observe(&self, took: Duration, count: u64) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len() - 1);
        self.buckets[bucket].fetch_add(count, Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_mul(count), Relaxed);
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Stats {
    /// Messages taken for publishing.
    pub published: Counter,
    /// Their bytes: keys, payloads, headers.
    pub published_bytes: Counter,
    /// Messages whose publishing failed.
    pub publish_failed: Counter,
    /// From taking a message to its result.
    pub publish_latency: Latency,
    /// From a message's time, as its publisher gave it, to its delivery here.
    pub end_to_end_latency: Latency,
    /// Of single topics.
    pub topics: TopicStats,
    /// Batches that are sent.
    pub producer: Arc<ProducerStats>,
    /// Publishing streams that are open.
    pub publish_streams: Arc<Gauge>,
    /// Messages taken that have no result yet.
    pub publish_in_flight: Gauge,
    /// Deliveries of messages to the application, repeated ones included.
    pub delivered: Counter,
    /// Their bytes.
    pub delivered_bytes: Counter,
    /// Deliveries that were not the first of their message.
    pub redelivered: Counter,
    /// Messages whose ack timeout ran out.
    pub ack_timeouts: Counter,
    /// Messages acknowledged durably.
    pub acknowledged: Counter,
    /// Messages handed back by the application.
    pub released: Counter,
    /// Acknowledgements that came too late.
    pub lost_acks: Counter,
    /// Offset commits, and those that failed.
    pub commits: Counter,
    /// Offset commits that failed.
    pub commits_failed: Counter,
    /// Subscriptions that are open.
    pub subscriptions: Arc<Gauge>,
    /// Groups of which the sidecar is a member.
    pub groups: Arc<Gauge>,
    /// Bytes of messages held for delivery or acknowledgement.
    pub held_bytes: Arc<Gauge>,
    /// Bytes of request bodies that are not whole messages yet.
    pub partial_bytes: Arc<Gauge>,
    /// Requests that wait for their replies.
    pub requests: Arc<Gauge>,
    /// Replies that reached their requests.
    pub replies: Counter,
    /// Replies for which nobody waited any more.
    pub late_replies: Counter,
    /// Transactions committed.
    pub transactions: Counter,
    /// Transactions that came to nothing, or nobody knows to what.
    pub transactions_failed: Counter,
    /// Subscriptions without a group that are open.
    pub broadcasts: Arc<Gauge>,
    /// Connections that are open.
    pub connections: Arc<Gauge>,
    /// Calls in progress.
    pub calls: Arc<Gauge>,
    /// Calls refused because a bound was reached.
    pub refused: Counter,
    /// How far groups are behind.
    pub lags: Lags,
    /// Of the spool.
    pub spool: SpoolStats,
}
