//! What the demo says at its end: the verdict, the figures, and how to look closer.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::books::Books;
use super::outage::Outage;
use super::verdict::Verdict;
use crate::output;
use crate::text::{shown_bytes, shown_count};

/// Everything that is reported.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    pub(crate) input: String,
    pub(crate) lines_of_input: usize,
    pub(crate) producers: usize,
    pub(crate) processes: Vec<String>,
    pub(crate) figures: Figures,
    pub(crate) outages: Vec<Outage>,
    /// Where data and logs of the processes are, if they were kept.
    pub(crate) kept: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    /// From when every group received to the last acknowledgement, outages included.
    pub(crate) publishing_seconds: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) payload_bytes_per_second: f64,
    pub(crate) latencies: Vec<Latency>,
}

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    pub(crate) of: String,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
}

impl Figures {
    pub(crate) fn from(books: &Books) -> Result<Self> {
        let published = books.published();
        let begun = books.gate_opened().unwrap_or(0);
        let later = |at: u64| at >= begun;
        let acknowledged =
            || published.all().filter_map(|(id, sent)| Some((id, sent.ack?.1))).filter(|(_, at)| later(*at));
        let last = acknowledged().map(|(_, at)| at).max().unwrap_or(begun);
        let bytes: u64 = acknowledged().map(|(id, _)| books.content(id).1.len() as u64).sum();
        let seconds = (last.saturating_sub(begun) as f64 / 1e6).max(1e-6);
        let sent = || published.all().filter(|(_, sent)| later(sent.at));
        let acks = sent().filter_map(|(_, sent)| Some(sent.ack?.1.saturating_sub(sent.at)));
        let mut latencies = vec![Latency::of("publish to durable acknowledgement", acks)?];
        for group in &books.groups {
            let received = group.received();
            let times = sent().filter_map(|(id, sent)| Some(received.get(id)?.first?.1.saturating_sub(sent.at)));
            latencies.push(Latency::of(&format!("publish to delivery, group {}", group.name), times)?);
        }
        Ok(Self {
            publishing_seconds: seconds,
            messages_per_second: acknowledged().count() as f64 / seconds,
            payload_bytes_per_second: bytes as f64 / seconds,
            latencies,
        })
    }
}

impl Latency {
    fn of(what: &str, times: impl Iterator<Item = u64>) -> Result<Self> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for time in times {
            histogram.record(time.max(1))?;
        }
        Ok(Self {
            of: what.into(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        })
    }
}

/// Writes the report for people.
pub(crate) fn print(report: &Report) -> Result<()> {
    let verdict = &report.verdict;
    output::line("")?;
    output::line(format!(
        "Sent {} messages, {} acknowledged as durable.",
        shown_count(verdict.sent),
        shown_count(verdict.acknowledged)
    ))?;
    output::line("")?;
    print_groups(verdict)?;
    output::line("")?;
    print_figures(report)?;
    output::line("")?;
    for check in verdict.checks.iter().filter(|check| !check.ok) {
        output::line(format!("FAILED  {}: {}", check.what, check.found))?;
    }
    if let Some(kept) = &report.kept {
        output::line(format!("Data and logs of the processes are in {kept}."))?;
    }
    if verdict.good {
        output::line("Verdict: good. Nothing lost, nothing duplicated, order kept.")
    } else {
        output::line("Verdict: BAD.")
    }
}

fn print_groups(verdict: &Verdict) -> Result<()> {
    let headings = ["group", "received", "acknowledged", "lost", "duplicated", "out of order", "wrong", "redelivered"];
    let mut table = output::table(&headings);
    for group in &verdict.groups {
        let counts = [
            group.received,
            group.confirmed,
            group.lost,
            group.duplicated,
            group.out_of_order,
            group.wrong,
            group.redelivered,
        ];
        table.add_row(std::iter::once(group.group.clone()).chain(counts.map(shown_count)));
    }
    output::print(&table, "No group received.")
}

fn print_figures(report: &Report) -> Result<()> {
    let figures = &report.figures;
    let mut table = output::table(&["latency", "p50", "p90", "p99", "p99.9", "max"]);
    for latency in &figures.latencies {
        let times = [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us];
        table.add_row(std::iter::once(latency.of.clone()).chain(times.map(shown_time)));
    }
    output::print(&table, "No latencies.")?;
    output::line("")?;
    output::line(format!(
        "Throughput: {} messages/s, {}/s, over {:.1} s, outages included.",
        shown_count(figures.messages_per_second as u64),
        shown_bytes(figures.payload_bytes_per_second as u64),
        figures.publishing_seconds
    ))?;
    report.outages.iter().try_for_each(|outage| output::line(told(outage, report.is_alone())))
}

fn told(outage: &Outage, alone: bool) -> String {
    let shown = |ms: Option<u64>| ms.map_or_else(|| "never".into(), |ms| format!("after {ms} ms"));
    let (after, next) = (shown_count(outage.acknowledged_before), shown(outage.until_next_acknowledgement_ms));
    if alone {
        let restart = outage.restart_ms;
        return format!(
            "kill -9 of the node after {after} acknowledgements: it served again after {restart} ms; the next acknowledgement came {next}."
        );
    }
    let quorum = if outage.led_quorum { "the quorum and " } else { "" };
    let led = format!("which led {quorum}{} of {} partitions", outage.led_partitions, outage.partitions);
    format!(
        "kill -9 of node {}, {led}, after {after} acknowledgements: those partitions went on {next}, the others {}.\n  \
         It was away for {:.1} s; started again, it was in sync {}.",
        outage.node,
        shown(outage.others_silent_ms),
        outage.away_ms as f64 / 1e3,
        shown(outage.in_sync_ms),
    )
}

impl Report {
    fn is_alone(&self) -> bool {
        self.processes.iter().filter(|process| process.starts_with("node ")).count() == 1
    }
}

fn shown_time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let latency = Latency::of("x", 1..=1000).unwrap();
        assert_eq!((latency.p50_us, latency.p90_us, latency.max_us), (500, 900, 1000));
        assert_eq!(Latency::of("x", std::iter::empty()).unwrap().max_us, 0);
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(shown_time(999), "999 us");
        assert_eq!(shown_time(1_500), "1.5 ms");
        assert_eq!(shown_time(2_340_000), "2.34 s");
    }
}
