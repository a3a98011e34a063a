//! `wherry sidecar status`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use wherry_sidecar::Status;
use wherry_sidecar::status::SpoolStatus;

use super::talk::{self, Where};
use crate::output::{self, Output};
use crate::text::{shown_bytes, shown_count};

/// The sidecar asks the cluster before it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tell how a running sidecar is: the cluster, groups, what is under way, spool, quarantine, memory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry sidecar status
  wherry sidecar status --address 127.0.0.1:7071 --output json")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    at: Where,
}

pub(super) async fn run(args: StatusArgs, output: Output) -> Result<()> {
    let status: Status = talk::ask(&args.at, "GET", "/v1/status", PATIENCE).await?;
    match output {
        Output::Json => output::json(&status),
        Output::Table => print(&status),
    }
}

fn print(status: &Status) -> Result<()> {
    output::line(format!("Sidecar {}, {}\n", status.version, status.phase))?;
    let mut table = output::table(&["what", "how"]);
    for (what, how) in lines(status) {
        table.add_row(vec![what.to_owned(), how]);
    }
    output::print(&table, "")?;
    if status.groups.is_empty() {
        return output::line("\nNo groups.");
    }
    output::line("")?;
    let mut table = output::table(&["group", "topics", "lag"]);
    for group in &status.groups {
        let lag = group.lag.map_or_else(|| "-".into(), count);
        table.add_row(vec![group.group.clone(), group.topics.join(","), lag]);
    }
    output::print(&table, "")
}

fn count(count: i64) -> String {
    shown_count(u64::try_from(count).unwrap_or_default())
}

fn bytes(bytes: i64) -> String {
    shown_bytes(u64::try_from(bytes).unwrap_or_default())
}

fn lines(status: &Status) -> Vec<(&'static str, String)> {
    let cluster = match (&status.cluster.cause, status.cluster.reached) {
        (None, _) => "reachable".to_owned(),
        (Some(cause), true) => format!("not reachable: {cause}"),
        (Some(cause), false) => format!("not reached since the start: {cause}"),
    };
    let flight = &status.in_flight;
    let mut lines = vec![
        ("cluster", cluster),
        (
            "in flight",
            format!(
                "{} messages being published, {} subscriptions, {} calls, {} connections",
                count(flight.publishing),
                flight.subscriptions,
                flight.calls,
                flight.connections
            ),
        ),
    ];
    match &status.spool {
        None => lines.push(("spool", "none (--spool-dir)".into())),
        Some(spool) => lines.extend(spool_lines(spool)),
    }
    let memory = &status.memory;
    let resident = memory.resident_bytes.map_or_else(|| "unknown".into(), shown_bytes);
    lines.push((
        "memory",
        format!(
            "{resident} resident, {} held for delivery, {} of unfinished requests",
            bytes(memory.held_bytes),
            bytes(memory.partial_bytes)
        ),
    ));
    lines
}

fn spool_lines(spool: &SpoolStatus) -> Vec<(&'static str, String)> {
    let state = match &spool.closed {
        Some(why) => format!("closed: {why}"),
        None => spool.state.clone(),
    };
    let age = spool.oldest_ms.map(|ms| format!(", the oldest for {} s", ms / 1000)).unwrap_or_default();
    let holds = format!(
        "{state}; {} messages wait{age}; {} of {} on disk",
        count(spool.messages),
        bytes(spool.bytes),
        bytes(spool.capacity_bytes)
    );
    let quarantine = &spool.quarantine;
    let last = quarantine.last_topic.as_ref().zip(quarantine.last_cause.as_ref());
    let last = last.map(|(topic, cause)| format!("; the last for {topic}: {cause}")).unwrap_or_default();
    vec![("spool", holds), ("quarantine", format!("{} messages{last}", count(quarantine.messages)))]
}

#[cfg(test)]
mod tests {
    use wherry_sidecar::status::{ClusterStatus, InFlight, MemoryStatus, QuarantineStatus};

    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_cause() {
        let quarantine = QuarantineStatus {
            messages: 2,
            bytes: 10,
            last_topic: Some("orders".into()),
            last_cause: Some("too large".into()),
        };
        let spool = SpoolStatus {
            state: "closed".into(),
            closed: Some("the disk failed".into()),
            messages: 1_234,
            bytes: 2 << 20,
            capacity_bytes: 4 << 20,
            oldest_ms: Some(61_000),
            spooled: 1,
            forwarded: 0,
            refused_full: 0,
            quarantine,
        };
        let status = Status {
            version: "1".into(),
            phase: "serving".into(),
            cluster: ClusterStatus { reachable: false, reached: true, cause: Some("no node answers".into()) },
            groups: Vec::new(),
            in_flight: InFlight { connections: 1, calls: 2, subscriptions: 3, publishing: 4_000 },
            spool: Some(spool),
            memory: MemoryStatus { resident_bytes: None, held_bytes: 0, partial_bytes: 0 },
        };
        let text: Vec<String> = lines(&status).into_iter().map(|(what, how)| format!("{what}: {how}")).collect();
        let text = text.join("\n");
        for part in [
            "cluster: not reachable: no node answers",
            "4,000 messages being published",
            "spool: closed: the disk failed; 1,234 messages wait, the oldest for 61 s; 2.0 MiB of 4.0 MiB",
            "quarantine: 2 messages; the last for orders: too large",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
