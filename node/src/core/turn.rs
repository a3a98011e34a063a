//! One turn: what the store reports becomes responses, and deadlines fire.

use super::command_log::METADATA_LOG;
use super::conn::Blocked;
use super::store::{Event, LogStore, Now};
use super::{Core, Then};
use crate::api;

impl<S: LogStore> Core<S> {
    /// Lets the store work, then does what its events and the time ask for. Call it after each batch of inputs, and when
    /// [`Core::next_deadline`] is reached.
    pub fn turn(&mut self, now: Now) {
        self.now = now;
        self.store.turn(now);
        self.take_events();
        self.run_durable();
        self.do_log_work();
        self.tick_groups();
        self.evaluate_woken();
        self.expire_fetches();
        self.resume_after_memory();
        self.snapshot_if_due();
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
            Event::Durable(ticket) => self.durable.advance(ticket),
            Event::Advanced(log) => self.wake_log(log),
            Event::ReadDone(token, result) => api::fetch::read_done(self, token, result),
            Event::LookupDone(token, result) => api::list_offsets::lookup_done(self, token, result),
            Event::Failed(reason) => self.stop_now(reason),
            Event::Full(full) => self.stats.disk_full.set(u64::from(full)),
            Event::Room => self.resume_stalled(),
            Event::StartMoved(log, start) => tracing::debug!(%log, %start, "retention moved a log's start"),
            Event::LogFailed(log, what) => {
                tracing::error!(%log, %what, "a log is damaged; it takes no more appends");
                self.stats.logs_failed.add(1);
                self.wake_log(log);
            }
        }
    }

    fn run_durable(&mut self) {
        let before = self.durable.len();
        while let Some(then) = self.durable.pop() {
            match then {
                Then::Respond { request, chunks, appended_ns } => {
                    if let Some(at) = appended_ns {
                        self.stats.append_latency_ns.record(self.now.monotonic_ns.saturating_sub(at));
                    }
                    self.finish(request, api::Outcome::Reply(chunks));
                }
                Then::Commit(proposal) => self.commit(*proposal),
                Then::GroupPersisted { id, result } => self.group_persisted(id, result),
                Then::TrimMetadata { before } => {
                    if let Err(error) = self.store.delete_records(METADATA_LOG, before) {
                        tracing::warn!(%error, "the metadata log keeps what its snapshot replaced");
                    }
                }
            }
        }
        let done = before.saturating_sub(self.durable.len());
        if done > 0 {
            self.stats.group_appends.record(done as u64);
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
