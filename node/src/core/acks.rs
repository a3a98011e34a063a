//! Produce requests whose records are appended here and not yet committed: answered when every one of their partitions
//! has its records below the high watermark, or can't have them any more, or when their time is over (rule 16: a timeout
//! means unknown, not absent).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::ProduceResponse;
use wherry_wire::types::{LogId, Offset};

use super::conn::ConnId;
use super::refusals::Sequenced;
use super::store::{LogStore, Ticket};
use super::timers::Timers;
use super::{Core, Then};
use crate::api::{self, Ctx, Outcome};
use crate::mutation::mutated;
use crate::replication::{WaitFailure, WaitId};

/// Records of one partition of a request: where the answer speaks of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Awaited {
    pub(crate) log: LogId,
    /// Behind the last of them.
    pub(crate) end: Offset,
    /// Their batch, if their producer numbers them.
    pub(crate) batch: Option<Sequenced>,
    pub(crate) topic: usize,
    pub(crate) partition: usize,
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    ctx: Ctx,
    response: ProduceResponse,
    waits: SmallVec<[(WaitId, Awaited); 2]>,
    appended_ns: u64,
    /// Records of partitions that nobody else has are not durable here yet.
    needs_disk: bool,
}

impl Entry {
    fn is_done(&self) -> bool {
        self.waits.is_empty() && !self.needs_disk
    }
}

/// All that wait. Bounded by the requests in flight.
#[derive(Debug)]
pub(crate) struct Acks {
    entries: Slab<Entry>,
    by_wait: HashMap<WaitId, usize, RandomState>,
    last: u64,
    timers: Timers<(usize, u64)>,
    /// What waits for other records than those of a request.
    others: HashMap<WaitId, Then, RandomState>,
}

impl Acks {
    pub(crate) fn new() -> Self {
        Self {
            entries: Slab::new(),
            by_wait: HashMap::default(),
            last: 0,
            timers: Timers::new(),
            others: HashMap::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Whose wait that is: the connection, and the records.
    fn whose(&self, wait: WaitId) -> Option<(ConnId, Awaited)> {
        let entry = self.entries.get(*self.by_wait.get(&wait)?)?;
        let (_, awaited) = entry.waits.iter().find(|(id, _)| *id == wait)?;
        Some((entry.ctx.id.conn, *awaited))
    }

    /// A wait has ended; its request, if it was the last.
    fn ended(&mut self, wait: WaitId, failure: Option<ResponseError>) -> Option<Entry> {
        let key = self.by_wait.remove(&wait)?;
        let entry = self.entries.get_mut(key)?;
        let at = entry.waits.iter().position(|(id, _)| *id == wait)?;
        let (_, awaited) = entry.waits.swap_remove(at);
        if let Some(error) = failure {
            fail(&mut entry.response, awaited, error);
        }
        entry.is_done().then(|| self.entries.remove(key))
    }

    /// A request whose time is over.
    fn pop_due(&mut self, now_ns: u64) -> Option<Entry> {
        loop {
            let (key, serial) = self.timers.pop_due(now_ns)?;
            if self.entries.get(key).is_some_and(|entry| entry.serial == serial) {
                let entry = self.entries.remove(key);
                for (wait, _) in &entry.waits {
                    self.by_wait.remove(wait);
                }
                return Some(entry);
            }
        }
    }
}

fn fail(response: &mut ProduceResponse, awaited: Awaited, error: ResponseError) {
    let topic = response.responses.get_mut(awaited.topic);
    if let Some(partition) = topic.and_then(|t| t.partition_responses.get_mut(awaited.partition)) {
        partition.error_code = error.code();
        partition.base_offset = -1;
        partition.log_append_time_ms = -1;
        partition.log_start_offset = -1;
    }
}

impl<S: LogStore> Core<S> {
    /// Keeps a response until its records are committed.
    pub(crate) fn await_acks(
        &mut self,
        ctx: Ctx,
        response: ProduceResponse,
        awaited: impl Iterator<Item = Awaited>,
        ticket: Option<Ticket>,
        timeout_ms: i32,
    ) {
        let acks = &mut self.acks;
        let mut waits = SmallVec::new();
        for one in awaited {
            acks.last += 1;
            waits.push((WaitId(acks.last), one));
        }
        let appended_ns = self.now.monotonic_ns;
        let serial = acks.last;
        let key =
            acks.entries.insert(Entry { serial, ctx, response, waits: waits.clone(), appended_ns, needs_disk: false });
        let patience_ms = u64::try_from(timeout_ms).unwrap_or(0);
        acks.timers.set(appended_ns.saturating_add(patience_ms.saturating_mul(1_000_000)), (key, serial));
        let entries = &acks.entries;
        acks.timers.tidy(entries.len(), |(key, serial)| entries.get(*key).is_some_and(|e| e.serial == *serial));
        for (wait, one) in waits {
            self.acks.by_wait.insert(wait, key);
            self.replicas.wait_for(one.log, one.end, wait);
        }
        if let Some(ticket) = ticket.filter(|ticket| !self.durable.is_durable(*ticket)) {
            if let Some(entry) = self.acks.entries.get_mut(key) {
                entry.needs_disk = true;
            }
            self.durable.push(ticket, Then::AckDurable { key, serial });
        }
    }

    /// Goes on when all below `end` is committed; never, if this node leads the log no more by then.
    pub(super) fn await_commit(&mut self, log: LogId, end: Offset, then: Then) {
        self.acks.last += 1;
        let wait = WaitId(self.acks.last);
        self.acks.others.insert(wait, then);
        self.replicas.wait_for(log, end, wait);
    }

    pub(super) fn ack_released(&mut self, wait: WaitId) {
        if let Some(then) = self.acks.others.remove(&wait) {
            return self.go_on(then);
        }
        if let Some(entry) = self.acks.ended(wait, None) {
            self.answer_produce(entry);
        }
    }

    /// What a request has in partitions without other replicas is on disk.
    pub(super) fn ack_durable(&mut self, key: usize, serial: u64) {
        let Some(entry) = self.acks.entries.get_mut(key).filter(|entry| entry.serial == serial) else { return };
        entry.needs_disk = false;
        if entry.is_done() {
            let entry = self.acks.entries.remove(key);
            self.answer_produce(entry);
        }
    }

    pub(super) fn ack_failed(&mut self, wait: WaitId, why: WaitFailure) {
        match self.acks.others.remove(&wait) {
            Some(Then::MarkerCommitted { token, partition }) => self.marker_lost(token, partition),
            Some(Then::LetterCommitted { sender }) => self.letter_answered(sender, false),
            // Whoever asked is gone with the leadership, or is asked anew.
            Some(
                Then::Respond { .. }
                | Then::QuorumWritten { .. }
                | Then::AckDurable { .. }
                | Then::GroupPersisted { .. }
                | Then::TransactionPersisted { .. }
                | Then::SharePersisted { .. },
            )
            | None => {}
        }
        let error = match why {
            WaitFailure::NotLeader | WaitFailure::LeadershipLost => ResponseError::NotLeaderOrFollower,
        };
        if let Some((conn, awaited)) = self.acks.whose(wait) {
            self.give_up(conn, awaited, error);
        }
        if let Some(entry) = self.acks.ended(wait, Some(error)) {
            self.answer_produce(entry);
        }
    }

    /// Nobody here knows what becomes of these records: their producer will send them again.
    fn give_up(&mut self, conn: ConnId, awaited: Awaited, error: ResponseError) {
        if let Some(batch) = awaited.batch.filter(|_| !mutated!(ForgetGivenUp)) {
            self.note_refusal(conn, awaited.log, batch, error);
        }
    }

    /// What follows this batch on its connection is refused like it, where it would be out of order.
    pub(crate) fn note_refusal(&mut self, conn: ConnId, log: LogId, batch: Sequenced, error: ResponseError) {
        let now_ns = self.now.monotonic_ns;
        if let Some(connection) = self.connection(conn) {
            connection.refusals.note(now_ns, log, batch, error);
        }
    }

    pub(super) fn expire_acks(&mut self) {
        while let Some(mut entry) = self.acks.pop_due(self.now.monotonic_ns) {
            for (wait, one) in std::mem::take(&mut entry.waits) {
                self.replicas.cancel_wait(one.log, one.end, wait);
                fail(&mut entry.response, one, ResponseError::RequestTimedOut);
                self.give_up(entry.ctx.id.conn, one, ResponseError::RequestTimedOut);
            }
            self.answer_produce(entry);
        }
    }

    fn answer_produce(&mut self, mut entry: Entry) {
        let waited = self.now.monotonic_ns.saturating_sub(entry.appended_ns);
        self.stats.append_latency_ns.record(waited);
        api::leaders::hint_produce(self, &entry.ctx, &mut entry.response);
        let outcome = match entry.ctx.encode(&entry.response) {
            Ok(chunks) => Outcome::Reply(chunks),
            Err(reason) => Outcome::Close(reason),
        };
        self.finish(entry.ctx.id, outcome);
    }
}
