//! What the sidecar counts about itself: plain atomics, written in batches by the hot paths, rendered for Prometheus on request.
//!
//! It must not know where the numbers come from. Names and units are those of the Prometheus conventions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

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
}

impl Stats {
    /// In the text format of Prometheus (`OpenMetrics` 1.0).
    #[must_use]
    pub fn render(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Rendered(self.clone())));
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
            tracing::error!("could not render the metrics");
        }
        text
    }
}

#[derive(Debug)]
struct Rendered(Arc<Stats>);

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = &self.0;
        let counters = [
            ("published_messages", "Messages taken for publishing", &stats.published),
            ("published_bytes", "Bytes of messages taken for publishing", &stats.published_bytes),
            ("publish_failures", "Messages whose publishing failed", &stats.publish_failed),
            ("delivered_messages", "Deliveries of messages, repeated ones included", &stats.delivered),
            ("delivered_bytes", "Bytes of delivered messages", &stats.delivered_bytes),
            ("redelivered_messages", "Deliveries that were not the first of their message", &stats.redelivered),
            ("ack_timeouts", "Messages whose ack timeout ran out", &stats.ack_timeouts),
            ("acknowledged_messages", "Messages acknowledged durably", &stats.acknowledged),
            ("released_messages", "Messages handed back by the application", &stats.released),
            ("lost_acknowledgements", "Acknowledgements that came too late", &stats.lost_acks),
            ("commits", "Offset commits", &stats.commits),
            ("commit_failures", "Offset commits that failed", &stats.commits_failed),
            ("replies", "Replies that reached their requests", &stats.replies),
            ("late_replies", "Replies for which nobody waited any more", &stats.late_replies),
            ("transactions", "Transactions committed", &stats.transactions),
            (
                "transaction_failures",
                "Transactions that came to nothing, or nobody knows to what",
                &stats.transactions_failed,
            ),
            ("refused_calls", "Calls refused because a bound was reached", &stats.refused),
        ];
        for (name, help, counter) in counters {
            encoder
                .encode_descriptor(&format!("wherry_sidecar_{name}"), help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)?;
        }
        let gauges: [(&str, &str, &Gauge); 11] = [
            ("publish_streams", "Publishing streams that are open", &stats.publish_streams),
            ("publish_in_flight_messages", "Messages taken that have no result yet", &stats.publish_in_flight),
            ("subscriptions", "Subscriptions that are open", &stats.subscriptions),
            ("groups", "Groups of which the sidecar is a member", &stats.groups),
            ("requests", "Requests that wait for their replies", &stats.requests),
            ("broadcasts", "Subscriptions without a group that are open", &stats.broadcasts),
            ("held_bytes", "Bytes of messages held for delivery or acknowledgement", &stats.held_bytes),
            ("partial_bytes", "Bytes of requests that are not whole messages yet", &stats.partial_bytes),
            ("connections", "Connections that are open", &stats.connections),
            ("calls", "Calls in progress", &stats.calls),
            ("up", "1 while the sidecar runs", &ONE),
        ];
        for (name, help, gauge) in gauges {
            encoder
                .encode_descriptor(&format!("wherry_sidecar_{name}"), help, None, MetricType::Gauge)?
                .encode_gauge(&gauge.get())?;
        }
        encode_latency(&mut encoder, "publish_latency_seconds", &stats.publish_latency)
    }
}

static ONE: Gauge = Gauge(AtomicI64::new(1));

fn encode_latency(encoder: &mut DescriptorEncoder<'_>, name: &str, latency: &Latency) -> fmt::Result {
    let counts = latency.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
    let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts).collect();
    let sum = Duration::from_micros(latency.sum_us.load(Relaxed)).as_secs_f64();
    encoder
        .encode_descriptor(
            &format!("wherry_sidecar_{name}"),
            "From taking a message to its result",
            None,
            MetricType::Histogram,
        )?
        .encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_what_was_counted() {
        let stats = Arc::new(Stats::default());
        stats.published.add(3);
        stats.publish_latency.observe(Duration::from_micros(300), 2);
        stats.publish_latency.observe(Duration::from_secs(100), 1);
        let inside = stats.connections.enter();
        let text = stats.render();
        assert!(text.contains("wherry_sidecar_published_messages_total 3"), "{text}");
        assert!(text.contains("wherry_sidecar_connections 1"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_bucket{le=\"0.0005\"} 2"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_bucket{le=\"+Inf\"} 3"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_count 3"), "{text}");
        drop(inside);
        assert_eq!(stats.connections.get(), 0);
    }
}
