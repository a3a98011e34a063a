//! Duties of the node that leads the quorum: who is alive, who may stop, who should lead. Pure: heartbeats and time in,
//! commands for the metadata out.
//!
//! ```text
//!  registered (fenced) ── heartbeat ──> Unfence ──> active ── no heartbeat for a session,  ──> Fence
//!                                                    │         or its process is gone
//!                                                    └── wants to stop ──> BeginShutdown ── leads nothing ──> may stop
//! ```
//! Commands are proposed again until they are seen applied: each changes nothing when it comes twice.

use std::collections::BTreeMap;

use uuid::Uuid;
use wherry_metadata::{Command, Metadata, PartitionId};

use super::control::{Heartbeat, HeartbeatAnswer};
use super::lease::SESSION_NS;
use crate::mutation::mutated;

/// Least time between two proposals of the same kind for one node, in nanoseconds.
const AGAIN_NS: u64 = 500_000_000;
/// How often leaderships are looked at for balance, in nanoseconds.
const BALANCE_NS: u64 = 5_000_000_000;
/// Leaderships moved back at once, so that clients aren't all sent elsewhere in one moment.
const BALANCE_PARTITIONS: usize = 1_000;
/// How often sessions are looked at, in nanoseconds.
const LOOK_NS: u64 = 100_000_000;
/// Replicas moved at once when nodes come or go.
const REBALANCE_MOVES: usize = 16;

#[derive(Debug)]
struct Session {
    incarnation: Uuid,
    heard_ns: u64,
    stopping: bool,
    /// Its process is gone: a connection to it was refused.
    gone: bool,
    proposed_ns: Option<u64>,
}

/// See the module. It exists while this node leads the quorum.
#[derive(Debug)]
pub(crate) struct Controller {
    since_ns: u64,
    sessions: BTreeMap<i32, Session>,
    look_ns: u64,
    balance_ns: u64,
    rebalance: bool,
}

impl Controller {
    /// Begins to lead: whoever is registered has a whole session from now on. `rebalance`: replicas move by themselves
    /// when nodes come or go.
    pub(crate) fn new(now_ns: u64, rebalance: bool) -> Self {
        Self {
            since_ns: if mutated!(HastyController) { now_ns.saturating_sub(SESSION_NS) } else { now_ns },
            sessions: BTreeMap::new(),
            look_ns: now_ns,
            balance_ns: now_ns + BALANCE_NS,
            rebalance,
        }
    }

    /// A node gave a sign of life. No answer for one that is not registered as this process.
    pub(crate) fn heartbeat(
        &mut self,
        now_ns: u64,
        meta: &Metadata,
        node: i32,
        heartbeat: Heartbeat,
    ) -> Option<HeartbeatAnswer> {
        let broker = meta.broker(node).filter(|broker| broker.incarnation == heartbeat.incarnation)?;
        let session = self.session(now_ns, node, heartbeat.incarnation);
        session.heard_ns = now_ns;
        session.gone = false;
        session.stopping = heartbeat.stopping;
        if broker.fenced || heartbeat.stopping && !broker.shutting_down {
            self.look_ns = now_ns;
        }
        // A fenced node has no authority.
        if broker.fenced {
            return None;
        }
        let may_stop = broker.shutting_down && meta.partitions_led_by(node).next().is_none();
        Some(HeartbeatAnswer { sequence: heartbeat.sequence, incarnation: heartbeat.incarnation, may_stop })
    }

    fn session(&mut self, now_ns: u64, node: i32, incarnation: Uuid) -> &mut Session {
        let fresh = || Session { incarnation, heard_ns: now_ns, stopping: false, gone: false, proposed_ns: None };
        let session = self.sessions.entry(node).or_insert_with(fresh);
        if session.incarnation != incarnation {
            *session = fresh();
        }
        session
    }

    /// Nothing listens any more where a node was reached: its process has ended. Authority that it had has ended with it.
    pub(crate) fn process_gone(&mut self, now_ns: u64, meta: &Metadata, node: i32) {
        let Some(broker) = meta.broker(node).filter(|broker| !broker.fenced) else { return };
        self.session(now_ns, node, broker.incarnation).gone = true;
        self.look_ns = now_ns;
    }

    /// What should be committed now.
    pub(crate) fn tick(&mut self, now_ns: u64, meta: &Metadata) -> Vec<Command> {
        if now_ns < self.look_ns {
            return Vec::new();
        }
        self.look_ns = now_ns + LOOK_NS;
        let brokers: Vec<(i32, Uuid, bool, bool)> =
            meta.brokers().values().map(|b| (b.node_id, b.incarnation, b.fenced, b.shutting_down)).collect();
        self.sessions.retain(|node, _| brokers.iter().any(|b| b.0 == *node));
        let mut commands: Vec<Command> = brokers
            .into_iter()
            .filter_map(|(node, incarnation, fenced, leaving)| self.judge(now_ns, node, incarnation, fenced, leaving))
            .collect();
        if commands.is_empty() && now_ns >= self.balance_ns {
            self.balance_ns = now_ns + BALANCE_NS;
            commands.extend(self.balance(meta));
        }
        commands
    }

    fn judge(&mut self, now_ns: u64, node_id: i32, incarnation: Uuid, fenced: bool, leaving: bool) -> Option<Command> {
        let since_ns = self.since_ns;
        let session = self.sessions.get_mut(&node_id).filter(|s| s.incarnation == incarnation);
        let heard_ns = session.as_ref().map_or(since_ns, |s| s.heard_ns);
        let gone = session.as_ref().is_some_and(|s| s.gone);
        let alive = session.as_ref().is_some_and(|s| !s.gone) && now_ns.saturating_sub(heard_ns) < SESSION_NS;
        let stopping = session.as_ref().is_some_and(|s| s.stopping);
        let expired = now_ns.saturating_sub(heard_ns) >= SESSION_NS;
        let command = match fenced {
            false if gone || expired => Command::Fence { node_id, incarnation },
            false if stopping && !leaving => Command::BeginShutdown { node_id, incarnation },
            true if alive && !stopping => Command::Unfence { node_id, incarnation },
            true | false => return None,
        };
        let session = self.session(now_ns.min(heard_ns), node_id, incarnation);
        if session.proposed_ns.is_some_and(|at| now_ns < at + AGAIN_NS) {
            return None;
        }
        session.proposed_ns = Some(now_ns);
        tracing::info!(node_id, ?command, gone, "a node's standing changes");
        Some(command)
    }

    /// Leaderships go back to their preferred replicas, replicas to nodes that have fewer.
    fn balance(&self, meta: &Metadata) -> Vec<Command> {
        let moves: Vec<PartitionId> = meta.preferred_leader_moves().into_iter().take(BALANCE_PARTITIONS).collect();
        if !moves.is_empty() {
            return vec![Command::ElectLeaders { partitions: Some(moves), unclean: false }];
        }
        if !self.rebalance || meta.partitions().any(|(_, partition)| partition.is_reassigning()) {
            return Vec::new();
        }
        let plan = meta.rebalance_plan(REBALANCE_MOVES);
        if plan.is_empty() {
            return Vec::new();
        }
        let partitions = plan.into_iter().map(|(id, replicas)| (id, Some(replicas))).collect();
        vec![Command::Reassign { partitions }]
    }

    /// A command took effect: what comes next may be proposed at once.
    pub(crate) fn applied(&mut self, node: i32) {
        if let Some(session) = self.sessions.get_mut(&node) {
            session.proposed_ns = None;
        }
    }

    pub(crate) fn next_deadline(&self) -> u64 {
        self.look_ns
    }
}
