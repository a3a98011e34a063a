//! Judges the books: what was lost, duplicated, out of order. Pure, and able to fail: the tests feed it every kind of wrong.

use serde::Serialize;

use super::ledger::{Counts, Published, Received};

/// What is known at the end of a run, besides the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Messages that were to be sent.
    pub(crate) planned: u64,
    /// Records that the log holds, by its own offsets.
    pub(crate) records_in_log: u64,
    /// Times that the node was to be killed.
    pub(crate) kills_planned: u32,
    /// Times that it was killed and came back.
    pub(crate) kills_survived: u32,
}

/// What became of the messages in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupFacts {
    pub(crate) group: String,
    /// Different messages received.
    pub(crate) received: u64,
    /// Different messages whose acknowledgement was confirmed as durable.
    pub(crate) confirmed: u64,
    /// Acknowledged to the producer, never received.
    pub(crate) lost: u64,
    /// Two records for one publish, or a delivery after its acknowledgement was confirmed.
    pub(crate) duplicated: u64,
    /// After a later message of the same key and producer.
    pub(crate) out_of_order: u64,
    /// Not what was sent, not where the producer was told, or sent by nobody.
    pub(crate) wrong: u64,
    /// Delivered again before their acknowledgement was confirmed, as at-least-once allows.
    pub(crate) redelivered: u64,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    /// What must hold.
    pub(crate) what: String,
    pub(crate) ok: bool,
    /// What was found, where it does not hold.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) found: String,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    /// Whether every check holds.
    pub(crate) good: bool,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) groups: Vec<GroupFacts>,
    pub(crate) checks: Vec<Check>,
}

/// Judges a run.
pub(crate) fn judge(run: Run, published: &Published, groups: &[(&str, &Received)]) -> Verdict {
    let sent = published.all().count() as u64;
    let acknowledged = published.all().filter(|(_, sent)| sent.ack.is_some()).count() as u64;
    let facts: Vec<_> = groups.iter().map(|(name, received)| group_facts(name, published, received)).collect();
    let mut checks = vec![
        check(sent == run.planned, "everything was sent", || format!("{sent} of {}", run.planned)),
        check(acknowledged == sent, "every publish was acknowledged", || {
            unacknowledged(sent - acknowledged, published)
        }),
        check(run.records_in_log == acknowledged, "the log holds one record for each publish", || {
            format!("{} records for {acknowledged} acknowledged publishes", run.records_in_log)
        }),
        check(run.kills_survived == run.kills_planned, "the node was killed in mid-run and came back", || {
            format!("{} of {} times", run.kills_survived, run.kills_planned)
        }),
        check(!groups.is_empty(), "somebody received", || "there is no group".into()),
    ];
    for group in &facts {
        checks.extend(group_checks(group, acknowledged));
    }
    Verdict { good: checks.iter().all(|check| check.ok), sent, acknowledged, groups: facts, checks }
}

fn check(ok: bool, what: impl Into<String>, found: impl FnOnce() -> String) -> Check {
    Check { what: what.into(), ok, found: if ok { String::new() } else { found() } }
}

fn unacknowledged(count: u64, published: &Published) -> String {
    let reasons: Vec<_> =
        published.failures().into_iter().map(|(reason, count)| format!("{count}x {reason}")).collect();
    if reasons.is_empty() { format!("{count} were not") } else { format!("{count} were not: {}", reasons.join("; ")) }
}

fn group_facts(name: &str, published: &Published, received: &Received) -> GroupFacts {
    let Counts {
        received: count,
        repeated,
        confirmed,
        second_records,
        after_confirmation,
        out_of_order,
        damaged,
        strangers,
    } = received.counts();
    let (mut lost, mut misplaced) = (0, 0);
    for (id, sent) in published.all() {
        let first = received.get(id).and_then(|seen| seen.first);
        match (sent.ack, first) {
            (Some(_), None) => lost += 1,
            (Some((told, _)), Some((found, _))) if told != found => misplaced += 1,
            (Some(_) | None, Some(_)) | (None, None) => {}
        }
    }
    GroupFacts {
        group: name.into(),
        received: count,
        confirmed,
        lost,
        duplicated: second_records + after_confirmation,
        out_of_order,
        wrong: damaged + strangers + misplaced,
        redelivered: repeated,
    }
}

fn group_checks(group: &GroupFacts, acknowledged: u64) -> [Check; 5] {
    let none = |count: u64, what: &str| check(count == 0, format!("{}: {what}", group.group), || count.to_string());
    [
        none(group.lost, "nothing lost"),
        none(group.duplicated, "nothing duplicated"),
        none(group.out_of_order, "nothing out of order"),
        none(group.wrong, "nothing damaged, misplaced or unknown"),
        check(
            group.confirmed == acknowledged,
            format!("{}: every message was acknowledged, durably", group.group),
            || format!("{} of {acknowledged}", group.confirmed),
        ),
    ]
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
