//! The node as a state machine: frames and time in, effects out. No sockets, no disk, no clock: a driver owns those,
//! and the simulator is one more driver.
//!
//! ```text
//!  connected / received / disconnected / sent ─┐                 ┌─> effects: Send, Close, PauseReads, ..., Stop
//!  turn (store's events, deadlines) ───────────┴─> Core ── api ──┤
//!                                                                └─> LogStore: append, read, ...
//! ```
//! Appends happen as soon as their request arrives; the response waits in its slot until the ticket is durable (INV-1).

mod access;
mod acks;
mod conn;
mod conns;
mod consensus;
pub(crate) mod coordinators;
mod durable;
mod duties;
mod effect;
pub(crate) mod gate;
mod internal_log;
mod links;
pub(crate) mod markers;
pub(crate) mod message_ids;
mod open;
mod peers;
mod producer_ids;
pub(crate) mod purgatory;
pub(crate) mod records;
pub(crate) mod refusals;
mod replicate;
pub(crate) mod sessions;
mod shard;
pub(crate) mod share;
pub mod store;
mod throttle;
mod timers;
mod transactional_commit;
pub(crate) mod transactions;
mod turn;
pub(crate) mod verification;
mod verify;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_metadata::{Metadata, PartitionId};
use wherry_wire::types::LogId;

pub use conn::{ConnId, ListenerId, RequestId};
pub use consensus::QUORUM_LOG;
pub use effect::Effect;

use crate::api;
use crate::cluster::Cluster;
use crate::cluster::links::{Links, is_node_frame};
use crate::config::{Endpoints, NodeConfig};
use crate::entropy::Entropy;
use crate::error::Refused;
use crate::replication::Replicas;
use crate::security::Caller;
use crate::security::config::ListenerConfig;
use crate::security::secrets::Secrets;
use crate::stats::NodeStats;
use acks::Acks;
pub(crate) use acks::Awaited;
pub(crate) use conn::Blocked;
use conns::Connections;
pub(crate) use consensus::AfterCommit;
use consensus::Consensus;
use coordinators::GroupDesk;
use durable::DurableQueue;
pub(crate) use durable::Then;
pub(crate) use duties::partition_of;
use gate::Gate;
pub(crate) use internal_log::Pair;
pub(crate) use markers::Marker;
use markers::Markers;
use message_ids::MessageIds;
use producer_ids::ProducerIds;
pub(crate) use producer_ids::{IdWaiter, ProducerIdGrant};
use purgatory::Purgatory;
use sessions::Sessions;
use share::ShareDesk;
use store::{Event, LogStore, Now};
use throttle::Throttle;
pub(crate) use transactional_commit::TransactionalCommit;
use transactional_commit::TransactionalCommits;
use transactions::TransactionDesk;
use verification::Verification;
use verify::Questions;
pub(crate) use verify::Verify;

/// One node's state machine over a store of logs. Methods are cheap and never block.
#[derive(Debug)]
pub struct Core<S: LogStore> {
    pub(crate) config: NodeConfig,
    pub(crate) endpoints: Endpoints,
    /// In the order of their ids; at least one.
    pub(crate) listeners: Vec<ListenerConfig>,
    pub(crate) store: S,
    pub(crate) meta: Metadata,
    pub(crate) consensus: Consensus,
    pub(crate) cluster: Cluster,
    pub(crate) replicas: Replicas,
    pub(crate) acks: Acks,
    /// Partitions whose log, and duty, have to be made what the metadata say.
    pub(crate) log_work: VecDeque<PartitionId>,
    /// When partitions are to be counted for the metrics, if anything changed.
    census_ns: Option<u64>,
    /// Logs that this process began anew because they were damaged.
    rebuilt: HashSet<LogId, RandomState>,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) durable: DurableQueue,
    /// Responses that are durable and wait for authority.
    held: VecDeque<(RequestId, Vec<Bytes>, Option<u64>)>,
    pub(crate) stalled: VecDeque<Box<api::produce::ProduceOp>>,
    pub(crate) verification: Verification,
    pub(crate) markers: Markers,
    pub(crate) message_ids: MessageIds,
    pub(crate) purgatory: Purgatory,
    pub(crate) lookups: api::list_offsets::Lookups,
    pub(crate) sessions: Sessions,
    pub(crate) desk: GroupDesk,
    pub(crate) transactions: TransactionDesk,
    pub(crate) shares: ShareDesk,
    pub(crate) share_descriptions: api::share::offsets::Descriptions,
    pub(crate) questions: Questions,
    pub(crate) transactional_commits: TransactionalCommits,
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) secrets: Secrets,
    throttle: Throttle,
    pub(crate) entropy: Entropy,
    /// Time of the input that is being handled.
    pub(crate) now: Now,
    /// Names this start of the process.
    pub(crate) incarnation: Uuid,
    /// None outside of a cluster.
    pub(crate) links: Option<Links>,
    conns: Connections,
    effects: Vec<Effect>,
    events: Vec<Event>,
    stopping: bool,
    /// Connections to settle, and whether that is going on.
    unsettled: VecDeque<ConnId>,
    settling: bool,
}

impl<S: LogStore> Core<S> {
    /// A client connected to the first listener.
    ///
    /// # Errors
    /// [`Refused`]: the driver closes the socket.
    pub fn connected(&mut self, now: Now, peer: SocketAddr) -> Result<ConnId, Refused> {
        self.connected_to(now, ListenerId::default(), peer)
    }

    /// A client connected.
    ///
    /// # Errors
    /// [`Refused`]: the driver closes the socket.
    pub fn connected_to(&mut self, now: Now, listener: ListenerId, peer: SocketAddr) -> Result<ConnId, Refused> {
        self.now = now;
        if self.stopping {
            return Err(Refused::Stopping);
        }
        if !self.may_connect(peer.ip().to_canonical()) {
            self.stats.connections_refused.add(1);
            return Err(Refused::TooFast);
        }
        let id =
            self.conns.insert(Caller::anonymous(listener, peer), self.config.limits.connections).inspect_err(|_| {
                self.stats.connections_refused.add(1);
            })?;
        if self.listener(listener).is_some_and(|listener| listener.protocol.has_sasl())
            && let Some(connection) = self.conns.get_mut(id)
        {
            connection.gate = Some(Box::new(Gate::new()));
        }
        self.stats.connections_accepted.add(1);
        self.stats.connections.set(self.conns.len() as u64);
        Ok(id)
    }

    /// One whole request frame arrived, without its length prefix.
    pub fn received(&mut self, now: Now, conn: ConnId, frame: Bytes) {
        self.now = now;
        if let Some(link) = self.conns.link(conn) {
            return self.link_received(link, frame);
        }
        if is_node_frame(&frame) && self.may_become_link(conn) {
            return self.accept_link(conn, frame);
        }
        self.stats.bytes_in.add(frame.len() as u64);
        let limit = self.config.limits.request_bytes_in_flight;
        let full = self.conns.add_bytes(frame.len()) > limit;
        let Some(connection) = self.conns.get_mut(conn) else {
            self.conns.remove_bytes(frame.len());
            return;
        };
        if connection.backlog.is_empty() && connection.may_begin(&self.config.limits) {
            self.execute(conn, frame);
        } else {
            connection.defer(frame);
        }
        if full && let Some(connection) = self.conns.get_mut(conn) {
            connection.waits_for_memory = true;
            self.conns.wait_for_memory(conn);
        }
        self.settle(conn);
    }

    /// A connection to where nodes link, on which nothing was asked yet.
    fn may_become_link(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.conns.get_mut(conn) else { return false };
        let listener = connection.caller.listener;
        connection.is_new() && self.is_internal(listener)
    }

    /// The client is gone. What it asked for goes on; answers to it are dropped.
    pub fn disconnected(&mut self, conn: ConnId) {
        match self.conns.link(conn) {
            Some(link) => self.link_lost(link),
            None => self.forget(conn),
        }
    }

    /// The kernel took response bytes of a connection.
    pub fn sent(&mut self, conn: ConnId, bytes: usize) {
        if let Some(connection) = self.conns.get_mut(conn) {
            connection.sent(bytes);
            self.settle(conn);
        } else if let Some(link) = self.conns.link(conn) {
            self.link_sent(link, bytes);
        }
    }

    /// What to do now, in order. The list is empty afterwards.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// Whether effects wait to be taken.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// When [`Core::turn`] must be called at the latest, in monotonic nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let links = self.links.as_ref().and_then(Links::next_deadline);
        let cluster = [self.consensus.next_deadline(), self.cluster_deadline(), self.replicas.next_deadline(), links];
        let requests = [self.purgatory.next_deadline(), self.acks.next_deadline()];
        let coordinators =
            [self.desk.next_deadline(), self.transactions.next_deadline(), self.questions.next_deadline()];
        let logs = [self.message_ids.next_deadline(), self.shares.next_deadline()];
        let coordinators = coordinators.into_iter().chain([self.throttle.next_deadline()]).chain(logs);
        cluster
            .into_iter()
            .chain(requests)
            .chain(coordinators)
            .chain([self.store.next_deadline(), self.census_ns])
            .flatten()
            .min()
    }

    /// The counters; shared with whoever renders them.
    #[must_use]
    pub fn stats(&self) -> Arc<NodeStats> {
        Arc::clone(&self.stats)
    }

    /// The store, for drivers that own part of it.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The metadata as this node has applied them, and how many entries of the quorum's log that are.
    #[must_use]
    pub fn metadata(&self) -> (Option<u64>, &Metadata) {
        (self.consensus.quorum.status().applied, &self.meta)
    }

    /// Gives the store back, abandoning everything that waits.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Takes no more connections and ends long polls; call [`Core::turn`] until [`Core::is_quiet`], then
    /// [`Core::close`].
    pub fn stop(&mut self) {
        self.stopping = true;
        self.stats.ready.set(0);
        self.end_fetches();
        self.end_share_requests();
    }

    /// Whether nothing waits for the disk any more. Members that wait for a rebalance don't count: they come again.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.durable.is_empty()
            && self.acks.is_empty()
            && self.held.is_empty()
            && self.stalled.is_empty()
            && self.verification.is_empty()
            && self.markers.is_empty()
            && self.purgatory.is_empty()
            && self.lookups.is_empty()
            && self.shares.is_quiet()
    }

    /// Writes out everything and marks the end as clean.
    ///
    /// # Errors
    /// The disk's.
    pub fn close(&mut self, now: Now) -> Result<(), store::LogError> {
        self.stop();
        self.store.close(now)
    }

    /// Begins a request. Whatever it needs to wait for is registered; the rest is done at once.
    fn execute(&mut self, conn: ConnId, frame: Bytes) {
        let Some(frame) = self.pass_gate(conn, frame) else { return };
        let length = frame.len();
        match api::decode(frame) {
            Ok(decoded) => {
                let Some(connection) = self.conns.get_mut(conn) else { return };
                let api_key = decoded.api_key();
                let id = connection.open(api_key, length, self.now.monotonic_ns);
                let caller = Rc::clone(&connection.caller);
                self.stats.api(api_key).requests.add(1);
                let _span = tracing::debug_span!("request", api_key, conn = conn.as_u64()).entered();
                let outcome = api::dispatch(self, id, caller, decoded);
                self.conclude(id, outcome);
            }
            Err(reason) => self.close_connection(conn, reason),
        }
    }

    /// Does what a handler decided.
    pub(crate) fn conclude(&mut self, id: RequestId, outcome: api::Outcome) {
        match outcome {
            api::Outcome::Reply(chunks) => self.fill(id, chunks),
            api::Outcome::Silent => self.fill(id, Vec::new()),
            api::Outcome::Later => {}
            api::Outcome::LaterAlone => {
                if let Some(connection) = self.conns.get_mut(id.conn) {
                    connection.blocked = Blocked::Until(id.sequence);
                }
            }
            api::Outcome::Last(chunks, reason) => {
                self.fill(id, chunks);
                self.send_ready(id.conn);
                self.close_connection(id.conn, reason);
            }
            api::Outcome::Close(reason) => self.close_connection(id.conn, reason),
        }
    }

    /// Answers a request that waited, and goes on with its connection.
    pub(crate) fn finish(&mut self, id: RequestId, outcome: api::Outcome) {
        self.conclude(id, outcome);
        self.settle(id.conn);
    }

    fn fill(&mut self, id: RequestId, chunks: Vec<Bytes>) {
        if let Some(connection) = self.conns.get_mut(id.conn) {
            connection.fill(id, chunks);
        }
    }

    /// Sends what is ready, begins what may begin, pauses or resumes reading. A request that is answered while it is begun
    /// comes here again: that is queued rather than nested, or a client could have the stack grow with its pipeline.
    pub(crate) fn settle(&mut self, conn: ConnId) {
        if self.unsettled.back() != Some(&conn) {
            self.unsettled.push_back(conn);
        }
        if self.settling {
            return;
        }
        self.settling = true;
        while let Some(conn) = self.unsettled.pop_front() {
            self.settle_one(conn);
        }
        self.settling = false;
    }

    fn settle_one(&mut self, conn: ConnId) {
        loop {
            self.send_ready(conn);
            let Some(connection) = self.conns.get_mut(conn) else { return };
            if !connection.may_begin(&self.config.limits) {
                break;
            }
            let Some(frame) = connection.take_deferred() else { break };
            self.execute(conn, frame);
        }
        let Some(connection) = self.conns.get_mut(conn) else { return };
        if !connection.paused && connection.should_pause(&self.config.limits) {
            connection.paused = true;
            self.effects.push(Effect::PauseReads { conn });
        } else if connection.paused && connection.may_resume(&self.config.limits) {
            connection.paused = false;
            self.effects.push(Effect::ResumeReads { conn });
        }
    }

    fn send_ready(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get_mut(conn) else { return };
        let mut freed = 0;
        while let Some(out) = connection.next_outgoing() {
            freed += out.frame_bytes;
            let api = self.stats.api(out.api_key);
            api.responses.add(1);
            api.latency_ns.record(self.now.monotonic_ns.saturating_sub(out.began_ns));
            if !out.chunks.is_empty() {
                self.stats.bytes_out.add(out.chunks.iter().map(|c| c.len() as u64).sum());
                self.effects.push(Effect::Send { conn, chunks: out.chunks });
            }
        }
        self.conns.remove_bytes(freed);
        if freed > 0 {
            self.stats.request_bytes_in_flight.set(self.conns.bytes() as u64);
        }
    }

    pub(crate) fn close_connection(&mut self, conn: ConnId, reason: String) {
        if self.conns.get_mut(conn).is_some() {
            tracing::debug!(conn = conn.as_u64(), %reason, "closing a connection");
            self.stats.connections_closed.add(1);
            self.forget(conn);
            self.effects.push(Effect::Close { conn, reason });
        }
    }

    fn forget(&mut self, conn: ConnId) {
        match self.conns.get_mut(conn).map(|c| c.blocked) {
            Some(Blocked::Stalled) => self.stalled.retain(|op| op.ctx.id.conn != conn),
            Some(Blocked::Verifying) => self.verification.forget(conn),
            Some(Blocked::No | Blocked::Until(_)) | None => {}
        }
        self.forget_muted(conn);
        let left = self.conns.remove(conn);
        for fetch in left.fetches {
            self.purgatory.remove(fetch);
        }
        self.group_abandon(&left.group_requests);
        self.share_forget(conn);
        self.stats.connections.set(self.conns.len() as u64);
    }

    /// A connection that may go on because memory is there again.
    fn next_after_memory(&mut self) -> Option<ConnId> {
        self.conns.memory_returned(self.config.limits.request_bytes_in_flight)
    }

    pub(crate) fn connection(&mut self, conn: ConnId) -> Option<&mut conn::Connection> {
        self.conns.get_mut(conn)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(crate) fn stop_now(&mut self, reason: String) {
        if !self.stopping {
            self.stop();
            self.effects.push(Effect::Stop { reason });
        }
    }
}

#[cfg(test)]
mod tests;
