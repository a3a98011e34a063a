//! One turn: what the store reports becomes responses, and deadlines fire.

use bytes::Bytes;

use super::conn::{Blocked, RequestId};
use super::store::{Event, LogError, LogStore, Now, ReadToken, Served};
use super::{Core, Then};
use crate::api;
use crate::groups::Groups;
use crate::share::ledger::Ledgers;
use crate::transactions::Transactions;

impl<S: LogStore> Core<S> {
    /// Lets the store work, then does what its events and the time ask for. Call it after each batch of inputs, and when
    /// [`Core::next_deadline`] is reached.
    pub fn turn(&mut self, now: Now) {
        self.now = now;
        self.replicas.set_now(now);
        self.consensus.quorum.tick(now.monotonic_ns);
        self.store.turn(now);
        self.take_events();
        self.run_durable();
        self.tick_links();
        self.turn_cluster();
        self.run_quorum();
        self.do_log_work();
        self.run_replicas();
        self.count_partitions();
        self.load_coordinators::<Groups>();
        self.load_coordinators::<Transactions>();
        self.load_message_ids();
        self.load_coordinators::<Ledgers>();
        self.tick_groups();
        self.count_groups();
        self.tick_transactions();
        self.count_transactions();
        self.tick_shares();
        self.expire_acks();
        self.evaluate_woken();
        self.expire_fetches();
        self.resume_after_memory();
        self.unmute();
        self.stats.log.set(&self.store.stats());
    }

    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.store.events(&mut events);
        for event in events.drain(..) {
            self.take_event(event);
        }
        self.events = events;
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Durable(ticket) => {
                self.durable.advance(ticket);
                self.replicas.durable(ticket);
            }
            Event::Advanced(log) => self.replicas.advanced(&mut self.store, log),
            Event::Sealed(log) => self.replicas.sealed(log),
            Event::ReadDone(token, result) => self.read_done(token, result),
            Event::LookupDone(token, result) => {
                if !self.share_lookup_done(token, &result) {
                    api::list_offsets::lookup_done(self, token, result);
                }
            }
            Event::Failed(reason) => self.stop_now(reason),
            Event::Full(full) => {
                self.stats.disk_full.set(u64::from(full));
                if !full {
                    self.replicas.room();
                }
            }
            Event::Room => {
                self.replicas.room();
                self.resume_stalled();
            }
            Event::StartMoved(log, start) => {
                tracing::debug!(%log, %start, "a log's start moved");
                self.replicas.start_moved(log);
            }
            Event::StableMoved(log) => self.wake_log(log),
            Event::LogFailed(log, what) => {
                tracing::error!(%log, %what, "a log is damaged; it takes no more appends");
                self.stats.logs_failed.add(1);
                self.replicas.log_failed(log);
                self.wake_log(log);
            }
        }
    }

    fn run_durable(&mut self) {
        let before = self.durable.len();
        self.answer_held();
        while let Some(then) = self.durable.pop() {
            self.go_on(then);
        }
        let done = before.saturating_sub(self.durable.len());
        if done > 0 {
            self.stats.group_appends.record(done as u64);
        }
    }

    /// What was waited for is durable, or committed.
    pub(crate) fn go_on(&mut self, then: Then) {
        match then {
            Then::Respond { request, chunks, appended_ns } if !self.may_acknowledge() => {
                self.held.push_back((request, chunks, appended_ns));
            }
            Then::Respond { request, chunks, appended_ns } => {
                self.acknowledge(request, chunks, appended_ns);
            }
            Then::AckDurable { key, serial } => self.ack_durable(key, serial),
            Then::QuorumWritten { id, trim } => self.quorum_written(id, trim),
            Then::MarkerCommitted { token, partition } => self.marker_committed(token, partition),
            Then::GroupPersisted { partition, term, id, result } => {
                self.group_persisted(partition, term, id, result);
            }
            Then::TransactionPersisted { partition, term, id, result } => {
                self.transaction_persisted(partition, term, id, result);
            }
            Then::LetterCommitted { sender } => self.letter_answered(sender, true),
            Then::SharePersisted { partition, term, id, result } => {
                self.share_persisted(partition, term, id, result);
            }
        }
    }

    fn acknowledge(&mut self, request: RequestId, chunks: Vec<Bytes>, appended_ns: Option<u64>) {
        if let Some(at) = appended_ns {
            self.stats.append_latency_ns.record(self.now.monotonic_ns.saturating_sub(at));
        }
        self.finish(request, api::Outcome::Reply(chunks));
    }

    /// What is durable and waits for this node's authority (INV-4): answered when it has it again. Once the cluster has
    /// fenced it, others may lead: its clients are sent away and ask again.
    fn answer_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        if self.may_acknowledge() {
            for (request, chunks, appended_ns) in std::mem::take(&mut self.held) {
                self.acknowledge(request, chunks, appended_ns);
            }
        } else if self.meta.broker(self.config.node_id).is_some_and(|broker| broker.fenced) {
            for (request, ..) in std::mem::take(&mut self.held) {
                self.close_connection(request.conn, "this node was fenced before it could acknowledge".into());
            }
        }
    }

    /// Bytes that the disk brought: for a client's fetch, or for a follower.
    fn read_done(&mut self, token: ReadToken, result: Result<Served, LogError>) {
        if let Err(result) = self.replicas.read_done(&mut self.store, token, result) {
            if let Some(partition) = self.desk.seats.take_read(token) {
                self.load_read_done::<Groups>(partition, result);
            } else if let Some(partition) = self.transactions.seats.take_read(token) {
                self.load_read_done::<Transactions>(partition, result);
            } else if let Some(log) = self.message_ids.take_read(token) {
                self.id_read_done(log, result);
            } else if let Some(partition) = self.shares.seats.take_read(token) {
                self.load_read_done::<Ledgers>(partition, result);
            } else {
                let result = self.share_read_done(token, result);
                let result = result.and_then(|result| self.letter_read_done(token, result));
                if let Some(result) = result {
                    api::fetch::read_done(self, token, result);
                }
            }
        }
    }

    /// Produce requests that the disk held up go on, in the order in which they came.
    fn resume_stalled(&mut self) {
        for _ in 0..self.stalled.len() {
            let Some(op) = self.stalled.pop_front() else { return };
            let conn = op.ctx.id.conn;
            let Some(connection) = self.connection(conn) else { continue };
            connection.blocked = Blocked::No;
            let stalled_before = self.stalled.len();
            let id = op.ctx.id;
            let outcome = api::produce::run(self, *op);
            self.finish(id, outcome);
            if self.stalled.len() > stalled_before {
                // Still no room: whoever comes next would only jump the queue.
                self.stalled.rotate_right(1);
                return;
            }
        }
    }

    fn resume_after_memory(&mut self) {
        while let Some(conn) = self.next_after_memory() {
            if let Some(connection) = self.connection(conn) {
                connection.waits_for_memory = false;
            }
            self.settle(conn);
        }
    }
}
