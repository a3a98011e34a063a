//! A node's counters as OpenMetrics text.

use std::fmt::Write;

use wherry_node::stats::{Histogram, LogStats, NodeStats, TransactionStats};
use wherry_wire::codec::messages::ApiKey;

/// Everything that a node counts.
pub(crate) fn render(stats: &NodeStats) -> String {
    let mut text = Text::default();
    counters(&mut text, stats);
    gauges(&mut text, stats);
    transactions(&mut text, &stats.transactions);
    engine(&mut text, &stats.log);
    text.seconds("append_latency_seconds", "From an append to its durability", &stats.append_latency_ns);
    text.seconds("fetch_latency_seconds", "From a fetch to its response", &stats.fetch_latency_ns);
    text.histogram("group_commit_appends", "Appends made durable at once", &stats.group_appends, 1.0);
    apis(&mut text, stats);
    text.0.push_str("# EOF\n");
    text.0
}

fn counters(text: &mut Text, stats: &NodeStats) {
    let counters = [
        ("received_bytes", "Bytes of request frames", &stats.bytes_in),
        ("sent_bytes", "Bytes of responses", &stats.bytes_out),
        ("accepted_connections", "Connections accepted", &stats.connections_accepted),
        ("refused_connections", "Connections refused at the bound", &stats.connections_refused),
        ("authentications", "Clients that have proven who they are", &stats.authentications),
        ("failed_authentications", "Clients that could not prove who they are", &stats.authentications_failed),
        ("throttled", "Times that a connection was muted for a quota", &stats.throttled),
        ("unauthorized", "Requests, or parts of them, that their caller may not make", &stats.unauthorized),
        ("closed_connections", "Connections that the node closed because of what they sent", &stats.connections_closed),
        ("errors", "Error codes in responses", &stats.errors),
        ("appended_batches", "Record batches appended", &stats.batches_appended),
        ("appended_records", "Records appended", &stats.records_appended),
        ("appended_bytes", "Bytes of batches appended", &stats.bytes_appended),
        ("duplicate_batches", "Batches that an idempotent producer sent again", &stats.duplicates),
        ("duplicate_message_ids", "Records not appended because their message id was known", &stats.duplicate_ids),
        ("fetched_bytes", "Bytes of batches sent to consumers", &stats.bytes_fetched),
        ("produce_stalls", "Produce requests held back because the disk can't keep up", &stats.produce_stalls),
    ];
    text.counters(counters.map(|(name, help, counter)| (name, help, counter.get())));
}

fn gauges(text: &mut Text, stats: &NodeStats) {
    let gauges = [
        ("message_ids", "Message ids that are remembered, to know them again", &stats.message_ids),
        ("connections", "Connections open", &stats.connections),
        ("links", "Links with other nodes, in both directions", &stats.links),
        ("running_nodes", "Nodes of the cluster that run", &stats.nodes_running),
        ("leads_quorum", "1 while this node leads the metadata quorum", &stats.quorum_leader),
        ("may_acknowledge", "1 while this node's session lets it acknowledge", &stats.may_acknowledge),
        ("led_partitions", "Partitions that this node leads", &stats.partitions_led),
        ("under_replicated_partitions", "Led partitions with a replica out of sync", &stats.under_replicated),
        ("under_min_insync_partitions", "Led partitions that acks=all is refused for", &stats.under_min_insync),
        ("leaderless_partitions", "Partitions of the cluster that nobody leads", &stats.leaderless),
        ("waiting_fetches", "Fetches that wait for data", &stats.fetches_waiting),
        ("groups", "Groups coordinated here", &stats.groups),
        ("consumer_groups", "Those of them of the new consumer protocol (KIP-848)", &stats.consumer_groups),
        ("rebalancing_groups", "Those of them in a rebalance", &stats.groups_rebalancing),
        ("group_members", "Members of groups coordinated here", &stats.group_members),
        ("fetch_sessions", "Fetch sessions", &stats.fetch_sessions),
        ("in_flight_request_bytes", "Bytes of unanswered requests", &stats.request_bytes_in_flight),
        ("topics", "Topics", &stats.topics),
        ("partitions", "Partitions", &stats.partitions),
        ("disk_full", "1 while the disk is too full to append", &stats.disk_full),
        ("ready", "1 once the node serves", &stats.ready),
    ];
    text.gauges(gauges.map(|(name, help, gauge)| (name, help, gauge.get())));
}

fn transactions(text: &mut Text, stats: &TransactionStats) {
    let by_state = "Transactional ids coordinated here, by the state of their newest transaction";
    text.head("transactional_ids", "gauge", by_state);
    for (state, count) in stats.by_state() {
        text.sample("transactional_ids", &format!("{{state=\"{state}\"}}"), count);
    }
    let oldest = "Age of the oldest transaction that has not ended in all of its partitions, 0 for none";
    text.head("oldest_transaction_age_seconds", "gauge", oldest);
    text.sample("oldest_transaction_age_seconds", "", stats.oldest_age_ms.get() as f64 / 1e3);
    text.gauges([(
        "pending_transaction_markers",
        "Partitions that have yet to take the end of a transaction coordinated here",
        stats.pending_markers.get(),
    )]);
    let counters = [
        ("committed_transactions", "Transactions decided here to commit", &stats.committed),
        ("aborted_transactions", "Transactions decided here to abort", &stats.aborted),
        ("timed_out_transactions", "Those of them that were open for too long", &stats.timed_out),
        ("expired_transactional_ids", "Transactional ids forgotten because nobody used them", &stats.expired_ids),
    ];
    text.counters(counters.map(|(name, help, counter)| (name, help, counter.get())));
}

fn engine(text: &mut Text, log: &LogStats) {
    let counters = [
        ("journal_frames", "Durable writes to the journal, one for each group of appends", &log.journal_frames),
        ("journal_bytes", "Bytes of them", &log.journal_bytes),
        ("segment_writes", "Writes from the journal's tail to segments", &log.flushes),
        ("segment_written_bytes", "Bytes of batches in them", &log.flushed_bytes),
        ("checkpoints", "Checkpoints completed", &log.checkpoints),
        ("compactions", "Segment compactions completed", &log.compactions),
        ("hot_reads", "Reads served from memory", &log.hot_reads),
        ("cold_reads", "Reads served from segments", &log.cold_reads),
        ("cold_read_bytes", "Bytes read from segments", &log.cold_bytes),
        ("scrubbed_bytes", "Bytes of segments verified by the scrub", &log.scrubbed_bytes),
        ("scrub_passes", "Times that the scrub has been through all segments", &log.scrub_passes),
        ("scrub_damage", "Places where the scrub found damage, or what can't be read", &log.scrub_damage),
    ];
    text.counters(counters.map(|(name, help, counter)| (name, help, counter.get())));
    let gauges = [
        ("tail_bytes", "Memory of recent batches", &log.tail_bytes),
        ("journal_files", "Journal files in use", &log.journal_files),
        ("segment_files_open", "Segment files open", &log.open_files),
        ("disk_total_bytes", "Size of the data directory's file system", &log.disk_total_bytes),
        ("disk_free_bytes", "Free on it when it was last asked", &log.disk_free_bytes),
        ("open_transactions", "Open transactions, in each partition that they are in", &log.open_transactions),
        ("late_transactions", "Those to which nothing was added for 20 minutes", &log.late_transactions),
    ];
    text.gauges(gauges.map(|(name, help, gauge)| (name, help, gauge.get())));
}

fn apis(text: &mut Text, stats: &NodeStats) {
    text.head("requests", "counter", "Requests decoded, by kind");
    for (key, api) in stats.apis() {
        text.sample("requests_total", &label(key), api.requests.get());
    }
    text.head("responses", "counter", "Responses handed out, by kind");
    for (key, api) in stats.apis() {
        text.sample("responses_total", &label(key), api.responses.get());
    }
    text.head("request_latency_nanoseconds", "counter", "Time from request to response, added up, by kind");
    for (key, api) in stats.apis() {
        text.sample("request_latency_nanoseconds_total", &label(key), api.latency_ns.sum());
    }
}

fn label(key: i16) -> String {
    let name = ApiKey::try_from(key).map_or_else(|()| key.to_string(), |key| format!("{key:?}"));
    format!("{{api=\"{name}\"}}")
}

/// Text under construction. Writing to a string can't fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP wherry_node_{name} {help}.\n# TYPE wherry_node_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "wherry_node_{name}{labels} {value}");
    }

    /// Names, help texts and values.
    fn counters<const N: usize>(&mut self, counters: [(&str, &str, u64); N]) {
        for (name, help, value) in counters {
            self.head(name, "counter", help);
            self.sample(&format!("{name}_total"), "", value);
        }
    }

    /// As `counters`.
    fn gauges<const N: usize>(&mut self, gauges: [(&str, &str, u64); N]) {
        for (name, help, value) in gauges {
            self.head(name, "gauge", help);
            self.sample(name, "", value);
        }
    }

    fn seconds(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.histogram(name, help, histogram, 1e9);
    }

    /// Buckets below their upper bound (exclusive there, inclusive here: a bound of 2^n counts integers up to 2^n - 1).
    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram, per_unit: f64) {
        self.head(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in histogram.buckets() {
            below += count;
            let bound = bound.map_or_else(|| "+Inf".into(), |bound| ((bound - 1) as f64 / per_unit).to_string());
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), below);
        }
        self.sample(&format!("{name}_sum"), "", histogram.sum() as f64 / per_unit);
        self.sample(&format!("{name}_count"), "", below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_under_their_names() {
        let stats = NodeStats::default();
        stats.records_appended.add(7);
        stats.connections.set(3);
        stats.log.journal_frames.set(5);
        stats.log.tail_bytes.set(4096);
        stats.api(0).requests.add(2);
        stats.transactions.committed.add(6);
        stats.transactions.oldest_age_ms.set(1_500);
        stats.append_latency_ns.record(1000);
        stats.append_latency_ns.record(3000);
        let text = render(&stats);
        for line in [
            "wherry_node_appended_records_total 7",
            "wherry_node_connections 3",
            "wherry_node_journal_frames_total 5",
            "wherry_node_tail_bytes 4096",
            "wherry_node_transactional_ids{state=\"Ongoing\"} 0",
            "wherry_node_oldest_transaction_age_seconds 1.5",
            "wherry_node_committed_transactions_total 6",
            "wherry_node_requests_total{api=\"Produce\"} 2",
            "wherry_node_append_latency_seconds_count 2",
            "wherry_node_append_latency_seconds_bucket{le=\"+Inf\"} 2",
            "wherry_node_append_latency_seconds_bucket{le=\"0.000001023\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn no_name_is_used_twice() {
        let text = render(&NodeStats::default());
        let mut names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
