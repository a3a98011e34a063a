//! How a sidecar is, in one piece: for `GET /v1/status` and `wherry sidecar status`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::limits;
use crate::shared::Shared;

/// The whole. Field names stay the same between versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the sidecar.
    pub version: String,
    /// `serving`, `draining` or `stopping`.
    pub phase: String,
    /// Whether the cluster answers, and why not.
    pub cluster: ClusterStatus,
    /// Groups that it is a member of.
    pub groups: Vec<GroupStatus>,
    /// What is under way.
    pub in_flight: InFlight,
    /// The spool; absent where none is configured.
    pub spool: Option<SpoolStatus>,
    /// What it holds.
    pub memory: MemoryStatus,
}

/// See [`Status::cluster`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// It answered just now.
    pub reachable: bool,
    /// It answered at least once since the start.
    pub reached: bool,
    /// Why it does not.
    pub cause: Option<String>,
}

/// See [`Status::groups`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its name.
    pub group: String,
    /// Its topics.
    pub topics: Vec<String>,
    /// Messages of its topics that it has not acknowledged, over all members; absent until known.
    pub lag: Option<i64>,
}

/// See [`Status::in_flight`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Connections of applications.
    pub connections: i64,
    /// Calls in progress.
    pub calls: i64,
    /// Subscriptions that are open.
    pub subscriptions: i64,
    /// Messages taken for publishing that have no result yet.
    pub publishing: i64,
}

/// See [`Status::spool`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolStatus {
    /// `idle` (messages go to the cluster), `spooling` or `closed` (it failed: messages go to the cluster only).
    pub state: String,
    /// Why it closed itself.
    pub closed: Option<String>,
    /// Messages that wait.
    pub messages: i64,
    /// Bytes on disk that they take.
    pub bytes: i64,
    /// Bytes that they may take.
    pub capacity_bytes: i64,
    /// Age of the oldest, milliseconds.
    pub oldest_ms: Option<i64>,
    /// Messages that were spooled and that left since the start.
    pub spooled: u64,
    /// See `spooled`.
    pub forwarded: u64,
    /// Messages refused because it was full, since the start.
    pub refused_full: u64,
    /// Messages that the cluster refused for good.
    pub quarantine: QuarantineStatus,
}

/// See [`SpoolStatus::quarantine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineStatus {
    /// How many there are.
    pub messages: i64,
    /// Bytes on disk that they take.
    pub bytes: i64,
    /// Topic of the last one since the start.
    pub last_topic: Option<String>,
    /// Why the cluster refused it.
    pub last_cause: Option<String>,
}

/// See [`Status::memory`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStatus {
    /// Of the process, resident, as the system counts it; absent where that is not known.
    pub resident_bytes: Option<u64>,
    /// Held for delivery and acknowledgement.
    pub held_bytes: i64,
    /// Requests that are not whole messages yet.
    pub partial_bytes: i64,
}

/// How the sidecar is now. Asks the cluster, and waits a little for its answer.
pub(crate) async fn status<B: Backend>(shared: &Shared<B>) -> Status {
    let stats = &shared.stats;
    let phase = match (shared.phase.stopping.is_cancelled(), shared.phase.draining.is_cancelled()) {
        (true, _) => "stopping",
        (false, true) => "draining",
        (false, false) => "serving",
    };
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        phase: phase.into(),
        cluster: cluster(&shared.backend).await,
        groups: groups(shared),
        in_flight: InFlight {
            connections: stats.connections.get(),
            calls: stats.calls.get(),
            subscriptions: stats.subscriptions.get(),
            publishing: stats.publish_in_flight.get(),
        },
        spool: spool(shared),
        memory: MemoryStatus {
            resident_bytes: resident_bytes(),
            held_bytes: stats.held_bytes.get(),
            partial_bytes: stats.partial_bytes.get(),
        },
    }
}

async fn cluster<B: Backend>(backend: &B) -> ClusterStatus {
    let cause = match tokio::time::timeout(limits::PROBE, backend.probe()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {:?}", limits::PROBE)),
    };
    ClusterStatus { reachable: cause.is_none(), reached: backend.reached(), cause }
}

fn groups<B: Backend>(shared: &Shared<B>) -> Vec<GroupStatus> {
    let of = |spec: crate::backend::MemberSpec| GroupStatus {
        lag: shared.stats.lags.get(&spec.group),
        group: spec.group.as_ref().into(),
        topics: spec.topics.iter().map(|topic| topic.as_ref().into()).collect(),
    };
    let mut groups: Vec<GroupStatus> = shared.groups.specs().into_iter().map(of).collect();
    groups.sort_by(|one, other| one.group.cmp(&other.group));
    groups
}

fn spool<B: Backend>(shared: &Shared<B>) -> Option<SpoolStatus> {
    let stats = &shared.stats.spool;
    if stats.opened.get() == 0 {
        return None;
    }
    let closed = stats.why_closed();
    let state = match (&closed, stats.spooling.get() != 0) {
        (Some(_), _) => "closed",
        (None, true) => "spooling",
        (None, false) => "idle",
    };
    let (last_topic, last_cause) = stats.last_refused().unzip();
    Some(SpoolStatus {
        state: state.into(),
        closed,
        messages: stats.messages.get(),
        bytes: stats.bytes.get(),
        capacity_bytes: stats.usable.get(),
        oldest_ms: Some(stats.oldest_ms.get()).filter(|at| *at > 0).map(|at| (wall_ms() - at).max(0)),
        spooled: stats.spooled.get(),
        forwarded: stats.forwarded.get(),
        refused_full: stats.full.get(),
        quarantine: QuarantineStatus {
            messages: stats.quarantine_messages.get(),
            bytes: stats.quarantine_bytes.get(),
            last_topic,
            last_cause,
        },
    })
}

pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    Some(resident * rustix::param::page_size() as u64)
}
