//! The counters in the text format of Prometheus (`OpenMetrics` 1.0).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::topics::TopicCounts;
use super::{BOUNDS, Counter, Gauge, Latency, Stats};
use crate::spool::stats::SpoolStats;
use crate::status::wall_ms;

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
        counters(&mut encoder, stats)?;
        gauges(&mut encoder, stats)?;
        topics(&mut encoder, stats)?;
        lags(&mut encoder, stats)?;
        latency(
            &mut encoder,
            "publish_latency_seconds",
            "From taking a message to its result",
            &stats.publish_latency,
        )?;
        let help = "From a message's time, as its publisher gave it, to its delivery";
        latency(&mut encoder, "end_to_end_latency_seconds", help, &stats.end_to_end_latency)
    }
}

fn counters(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let (spool, producer) = (&stats.spool, &stats.producer);
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
        ("spooled_messages", "Messages put into the spool", &spool.spooled),
        ("spool_forwarded_messages", "Messages that left the spool", &spool.forwarded),
        ("spool_full_refusals", "Messages refused because the spool was full", &spool.full),
        ("quarantined_messages", "Messages that the cluster refused when they were forwarded", &spool.refused),
        ("quarantine_cuts", "Times that the quarantine lost its oldest messages", &spool.quarantine_cut),
    ];
    for (name, help, counter) in counters {
        counter_of(encoder, name, help, counter.get())?;
    }
    let of_producer = [
        ("batches", "Batches that were made", &producer.batches),
        ("batched_messages", "Messages in them", &producer.records),
        ("batch_raw_bytes", "Their bytes before compression", &producer.raw_bytes),
        ("batch_sent_bytes", "Their bytes as they are sent", &producer.sealed_bytes),
        ("batches_not_compressed", "Batches that were not compressed", &producer.batches_as_they_are),
        ("batch_retries", "Answers after which a batch is sent again", &producer.retries),
    ];
    for (name, help, counter) in of_producer {
        counter_of(encoder, name, help, counter.get())?;
    }
    Ok(())
}

fn counter_of(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder
        .encode_descriptor(&format!("wherry_sidecar_{name}"), help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let spool = &stats.spool;
    let gauges: [(&str, &str, &Gauge); 19] = [
        ("publish_streams", "Publishing streams that are open", &stats.publish_streams),
        ("publish_in_flight_messages", "Messages taken that have no result yet", &stats.publish_in_flight),
        ("subscriptions", "Subscriptions that are open", &stats.subscriptions),
        ("requests", "Requests that wait for their replies", &stats.requests),
        ("broadcasts", "Subscriptions without a group that are open", &stats.broadcasts),
        ("groups", "Groups of which the sidecar is a member", &stats.groups),
        ("held_bytes", "Bytes of messages held for delivery or acknowledgement", &stats.held_bytes),
        ("partial_bytes", "Bytes of requests that are not whole messages yet", &stats.partial_bytes),
        ("connections", "Connections that are open", &stats.connections),
        ("calls", "Calls in progress", &stats.calls),
        ("up", "1 while the sidecar runs", &ONE),
        ("spool_open", "1 while there is an open spool", &spool.opened),
        ("spooling", "1 while messages go into the spool", &spool.spooling),
        ("spool_messages", "Messages that wait in the spool", &spool.messages),
        ("spool_bytes", "Their bytes on disk", &spool.bytes),
        ("spool_capacity_bytes", "Bytes that they may take", &spool.usable),
        ("spool_oldest_age_seconds", "Age of the oldest message in the spool", &oldest(spool)),
        ("quarantine_messages", "Messages in quarantine", &spool.quarantine_messages),
        ("quarantine_bytes", "Their bytes on disk", &spool.quarantine_bytes),
    ];
    for (name, help, gauge) in gauges {
        gauge_of(encoder, name, help, gauge)?;
    }
    let closed = Gauge::default();
    closed.set(i64::from(spool.why_closed().is_some()));
    gauge_of(encoder, "spool_failed", "1 once the spool has closed itself", &closed)
}

fn gauge_of(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, gauge: &Gauge) -> fmt::Result {
    encoder
        .encode_descriptor(&format!("wherry_sidecar_{name}"), help, None, MetricType::Gauge)?
        .encode_gauge(&gauge.get())
}

fn oldest(spool: &SpoolStats) -> Gauge {
    let age = Gauge::default();
    let since = spool.oldest_ms.get();
    age.set(if since > 0 { (wall_ms() - since).max(0) / 1000 } else { 0 });
    age
}

type OfTopic = (&'static str, &'static str, fn(&TopicCounts) -> &Counter);

fn topics(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    const COUNTERS: [OfTopic; 4] = [
        ("topic_published_messages", "Messages taken for publishing, by topic", |counts| &counts.published),
        ("topic_published_bytes", "Their bytes, by topic", |counts| &counts.bytes),
        ("topic_publish_failures", "Messages whose publishing failed, by topic", |counts| &counts.failed),
        ("topic_duplicate_messages", "Messages whose id was known, by topic", |counts| &counts.duplicates),
    ];
    let all = stats.topics.all();
    for (name, help, counter) in COUNTERS {
        let name = format!("wherry_sidecar_{name}");
        let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        for (topic, counts) in &all {
            let labels = [("topic", &**topic)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&counter(counts).get(), None)?;
        }
    }
    Ok(())
}

fn lags(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let help = "Messages that a group has not acknowledged, over all its members";
    let mut family = encoder.encode_descriptor("wherry_sidecar_group_lag_messages", help, None, MetricType::Gauge)?;
    for (group, lag) in stats.lags.all() {
        family.encode_family(&[("group", &*group)])?.encode_gauge(&lag)?;
    }
    Ok(())
}

static ONE: Gauge = Gauge(AtomicI64::new(1));

fn latency(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, latency: &Latency) -> fmt::Result {
    let counts = latency.buckets.each_ref().map(|bucket| bucket.load(Relaxed));
    let buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(counts).collect();
    let sum = Duration::from_micros(latency.sum_us.load(Relaxed)).as_secs_f64();
    encoder
        .encode_descriptor(&format!("wherry_sidecar_{name}"), help, None, MetricType::Histogram)?
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
        stats.topics.of(&"orders".into()).published.add(4);
        stats.spool.messages.set(7);
        let text = stats.render();
        assert!(text.contains("wherry_sidecar_published_messages_total 3"), "{text}");
        assert!(text.contains("wherry_sidecar_connections 1"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_bucket{le=\"0.0005\"} 2"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_bucket{le=\"+Inf\"} 3"), "{text}");
        assert!(text.contains("wherry_sidecar_publish_latency_seconds_count 3"), "{text}");
        assert!(text.contains("wherry_sidecar_topic_published_messages_total{topic=\"orders\"} 4"), "{text}");
        assert!(text.contains("wherry_sidecar_spool_messages 7"), "{text}");
        assert!(text.contains("wherry_sidecar_end_to_end_latency_seconds_count 0"), "{text}");
        drop(inside);
        assert_eq!(stats.connections.get(), 0);
    }

    #[test]
    fn no_name_is_used_twice() {
        let text = Arc::new(Stats::default()).render();
        let mut names: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() == count && count > 30, "{text}");
    }
}
