//! The transaction coordinator: which producer a transactional id has, which partitions its transaction touches, and how it
//! ends. There is one for each partition of the topic that keeps its records.
//!
//! A pure state machine: [`Input`] in, [`Effect`]s out, time handed in. It must not know of connections, wire formats,
//! logs or clocks, nor of who leads the partitions that it has markers written to. What it knows is what its records say
//! ([`Transactions::replay`]); a change takes effect when its record is committed ([`Input::Persisted`]), and until then
//! everything else about that transactional id is put off. A record that was not appended changes nothing.
//!
//! ```text
//!   records of the log --replay--> Transactions --loaded--> serving; ends that were decided are told again
//!   End    --step--> Persist(Prepare) --Persisted--> Reply, WriteMarkers --MarkersWritten--> Persist(Complete)
//!   others --step--> Reply    or    Persist --Persisted--> Reply
//!   clock  --step(Tick)--> Persist            (transactions time out, ids expire)
//!   resign ----------> Reply                  (whoever waits looks for the new coordinator)
//! ```
//! That a transaction ends in one way only rests on this: the end is written before anybody is told, and nothing but its
//! completion follows a written end. Sources: KIP-98, 360 (epochs of producers that go on), 664 (lists), 890 (verification,
//! epochs bumped by each end).

mod config;
mod end;
mod entry;
mod expire;
mod outbox;
mod producer;
mod record;
mod tally;
#[cfg(test)]
mod tests;
mod transaction;
pub mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use config::TransactionsConfig;
pub(crate) use outbox::refused;
pub use record::ReplayError;
pub use tally::{Tally, TransactionsStats};
pub use types::{
    Description, Effect, Effects, EndId, EndMarker, Filter, IdAsk, Input, Listed, Now, PersistError, PersistId,
    Producer, Record, Request, RequestRef, Response, StateName, TopicPartition, TransactionError, TransactionVersion,
};

use entry::Entry;
use outbox::{After, Outbox, Pending};
use transaction::Transaction;

use crate::mutation::mutated;

/// Whether requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Records are replayed; requests are told to come again.
    Loading,
    Serving,
}

/// All transactional ids of one coordinator.
#[derive(Debug)]
pub struct Transactions {
    config: TransactionsConfig,
    phase: Phase,
    entries: BTreeMap<Arc<str>, Entry>,
    /// One entry per transactional id that has a deadline.
    alarms: BTreeSet<(u64, Arc<str>)>,
    /// Ends that partitions are being told.
    ends: BTreeMap<EndId, Arc<str>>,
    last_end: u64,
    outbox: Outbox,
    /// When ids are next looked through for expired ones, and after which.
    expiry_ns: u64,
    expiry_after: Option<Arc<str>>,
    tally: Tally,
}

impl Transactions {
    /// A coordinator that knows nothing yet.
    pub fn new(config: TransactionsConfig) -> Self {
        Self {
            config,
            phase: Phase::Loading,
            entries: BTreeMap::new(),
            alarms: BTreeSet::new(),
            ends: BTreeMap::new(),
            last_end: 0,
            outbox: Outbox::default(),
            expiry_ns: u64::MAX,
            expiry_after: None,
            tally: Tally::default(),
        }
    }

    /// One record of the log, in the log's order. An error leaves the state as it was: whether to go on is for the
    /// caller, who can say where in the log the record is.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError> {
        if self.phase != Phase::Loading {
            return Err(ReplayError::NotLoading);
        }
        let id = record::decode_key(key)?;
        match value.map(record::decode).transpose()? {
            Some(value) => drop(self.entries.insert(id, Entry::of(value))),
            None => drop(self.entries.remove(&id)),
        }
        Ok(())
    }

    /// Forgets what was replayed: it is of no use without the rest.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// All records have been replayed: transactions go on where they were.
    pub fn loaded(&mut self, now: Now) -> Effects {
        self.phase = Phase::Serving;
        self.expiry_ns = now.monotonic_ns.saturating_add(self.config.expiry_interval_ms.saturating_mul(1_000_000));
        let ids: Vec<_> = self.entries.keys().cloned().collect();
        for id in ids {
            self.resume(now, &id);
        }
        self.outbox.take_effects()
    }

    /// Something happened.
    pub fn step(&mut self, now: Now, input: Input) -> Effects {
        match input {
            Input::Request { request, body } => self.request(now, request, body, None),
            Input::Persisted { id, result } => {
                if let Some(pending) = self.outbox.take_pending(id) {
                    self.persisted(now, pending, result);
                }
            }
            Input::ProducerId { ask, id } => self.id_came(now, ask, id),
            Input::MarkersWritten { end, partitions } => self.markers_written(now, end, &partitions),
            Input::Tick => self.tick(now),
        }
        self.outbox.take_effects()
    }

    /// When, on the monotonic clock, [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(deadline_ns, _)| *deadline_ns);
        alarm.into_iter().chain([self.expiry_ns]).min().filter(|deadline_ns| *deadline_ns != u64::MAX)
    }

    /// The transactional ids that match.
    pub fn list(&self, filter: &Filter, now_ms: i64) -> Vec<Listed> {
        let all = self.entries.iter().filter_map(|(id, entry)| entry.current.as_ref().map(|current| (id, current)));
        all.filter(|(_, current)| filter.has(current, now_ms))
            .map(|(id, current)| Listed {
                transactional_id: Arc::clone(id),
                producer_id: current.producer_id,
                state: current.state,
            })
            .collect()
    }

    /// Answers whatever waits, and is no more. What was appended may still be committed: the next coordinator sees that in
    /// the log. So nobody is told that a write failed, only that this is not the place to ask any more.
    pub fn resign(mut self) -> Effects {
        self.outbox.refuse_all(TransactionError::NotCoordinator);
        self.outbox.take_effects()
    }

    /// `id` is a producer id, if the request has waited for one.
    fn request(&mut self, now: Now, request: RequestRef, body: Request, id: Option<i64>) {
        if let Err(error) = self.admit(&body) {
            return self.outbox.reply(request, refused(error, &body));
        }
        match body {
            Request::Init(body) => self.init(now, request, body, id),
            Request::Add(body) => self.add(now, request, &body),
            Request::Verify(body) => {
                let id = Arc::clone(&body.producer.transactional_id);
                let response = self.verify(body);
                self.refuse(request, &id, response);
            }
            Request::End(body) => self.end(now, request, body, id),
        }
    }

    /// What can be said without looking at a transaction.
    fn admit(&self, body: &Request) -> Result<(), TransactionError> {
        if self.phase == Phase::Loading {
            return Err(TransactionError::CoordinatorLoadInProgress);
        }
        let partitions = match body {
            Request::Init(_) | Request::End(_) => 0,
            Request::Add(body) => body.partitions.len(),
            Request::Verify(body) => body.partitions.len(),
        };
        let length = body.transactional_id().len();
        if length == 0 || length > self.config.max_id_bytes || partitions > self.config.max_partitions {
            return Err(TransactionError::InvalidRequest);
        }
        if self.outbox.pending() >= self.config.max_pending_persists || self.outbox.asks() >= self.config.max_id_asks {
            return Err(TransactionError::CoordinatorNotAvailable);
        }
        Ok(())
    }

    /// What people see of one transactional id.
    pub fn describe(&self, id: &str) -> Result<Description, TransactionError> {
        if self.phase == Phase::Loading {
            return Err(TransactionError::CoordinatorLoadInProgress);
        }
        let current = self.entries.get(id).and_then(|entry| entry.current.as_ref());
        let current = current.ok_or(TransactionError::TransactionalIdNotFound)?;
        Ok(Description {
            state: current.state,
            timeout_ms: current.timeout_ms,
            start_ms: current.start_ms,
            producer_id: current.producer_id,
            producer_epoch: current.epoch,
            partitions: current.partitions.iter().cloned().collect(),
        })
    }

    fn id_came(&mut self, now: Now, ask: IdAsk, id: Option<i64>) {
        let Some((request, body)) = self.outbox.take_ask(ask) else { return };
        match id {
            // It is looked at as if it had just come: much may have happened meanwhile. If it needs the id no more, the id
            // is lost, which costs nothing.
            Some(_) => self.request(now, request, body, id),
            None => self.outbox.reply(request, refused(TransactionError::CoordinatorLoadInProgress, &body)),
        }
    }

    /// Has the next state of a transactional id written.
    fn write(&mut self, id: &Arc<str>, next: Option<Transaction>, after: After) {
        if mutated!(HastyMarkers) {
            self.tell_hastily(next.as_ref());
        }
        let by = self.outbox.persist(Pending { transactional_id: Arc::clone(id), next, after });
        self.entries.entry(Arc::clone(id)).or_default().pending = Some(by);
    }

    /// Refuses for good, which may end a producer. A coordinator that was deposed, and has not heard of it, would refuse by
    /// what it knew then. So it first writes once more what it knows: who can't write is not the one to say.
    fn refuse(&mut self, request: RequestRef, id: &Arc<str>, response: Response) {
        let entry = self.entries.get(id);
        if !is_final(&response) || mutated!(HastyRefusals) {
            self.outbox.reply(request, response);
        } else if entry.is_some_and(|entry| entry.pending.is_some()) {
            let response = outbox::failed(TransactionError::ConcurrentTransactions, &response);
            self.outbox.reply(request, response);
        } else {
            let current = entry.and_then(|entry| entry.current.clone());
            self.write(id, current, After::Answer { request, response });
        }
    }

    /// Whether what was written was known before. Of an id that nobody has, nothing is kept.
    fn is_as_it_was(&mut self, id: &Arc<str>, written: Option<&Transaction>) -> bool {
        let known = self.entries.get(id).and_then(|entry| entry.current.as_ref());
        let as_it_was = known == written;
        if as_it_was && known.is_none() {
            self.remove(id);
        }
        as_it_was
    }

    /// A bug, on request: nothing waits for these markers, and they don't wait for the decision.
    fn tell_hastily(&mut self, next: Option<&Transaction>) {
        if let Some(next) = next.filter(|next| next.state.is_prepared() && !next.partitions.is_empty()) {
            self.last_end += 1;
            let (end, partitions) = (EndId(self.last_end), next.partitions.iter().cloned().collect());
            self.outbox.push(Effect::WriteMarkers { end, marker: next.marker(), partitions });
        }
    }

    fn persisted(&mut self, now: Now, pending: Pending, result: Result<(), PersistError>) {
        let Pending { transactional_id: id, next, after } = pending;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.pending = None;
        }
        match result {
            Ok(()) if self.is_as_it_was(&id, next.as_ref()) => {}
            Ok(()) => {
                let before = self.entries.get(&id).and_then(Entry::state);
                self.tally.note(before, next.as_ref(), after == After::Nobody);
                self.moved(now, &id, next);
            }
            Err(_) => self.not_moved(now, &id, &after),
        }
        if let After::Answer { request, response } = after {
            let response = match result {
                Ok(()) => response,
                Err(PersistError::NotAvailable) => outbox::failed(TransactionError::CoordinatorNotAvailable, &response),
                // Nothing of a coordinator's own is written in a transaction.
                Err(PersistError::TooLarge | PersistError::Fenced) => {
                    outbox::failed(TransactionError::InvalidRequest, &response)
                }
            };
            self.outbox.reply(request, response);
        }
    }

    fn moved(&mut self, now: Now, id: &Arc<str>, next: Option<Transaction>) {
        let Some(next) = next else { return self.remove(id) };
        let Some(entry) = self.entries.get_mut(id) else { return };
        let went_on = entry.state() == Some(StateName::Ongoing) && next.state == StateName::Ongoing;
        entry.current = Some(next);
        if !went_on {
            self.resume(now, id);
        }
    }

    /// What nobody waits for is tried again later.
    fn not_moved(&mut self, now: Now, id: &Arc<str>, after: &After) {
        let Some(entry) = self.entries.get(id) else { return };
        let is_over = entry.state().is_none_or(StateName::is_over);
        if entry.current.is_none() {
            self.remove(id);
        } else if *after == After::Nobody && !is_over {
            self.retry_later(now, id);
        }
    }

    /// Does what a state asks for that was just reached, or found.
    fn resume(&mut self, now: Now, id: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(current) = &entry.current else { return };
        let state = current.state;
        entry.wake_ns = match state {
            StateName::Ongoing if mutated!(NoTransactionTimeout) => u64::MAX,
            StateName::Ongoing => entry::timeout_ns(current, now),
            StateName::Empty
            | StateName::PrepareCommit
            | StateName::PrepareAbort
            | StateName::CompleteCommit
            | StateName::CompleteAbort => u64::MAX,
        };
        self.settle(id);
        if state.is_prepared() {
            self.tell(now, id);
        }
    }

    /// Has the partitions of a transaction told how it ends.
    fn tell(&mut self, now: Now, id: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(current) = &entry.current else { return };
        let most = if mutated!(OneMarker) { 1 } else { usize::MAX };
        entry.untold = current.partitions.iter().take(most).cloned().collect();
        if entry.untold.is_empty() {
            return self.complete(now, id);
        }
        self.last_end += 1;
        let end = EndId(self.last_end);
        let partitions = entry.untold.iter().cloned().collect();
        self.outbox.push(Effect::WriteMarkers { end, marker: current.marker(), partitions });
        self.ends.insert(end, Arc::clone(id));
    }

    fn markers_written(&mut self, now: Now, end: EndId, partitions: &[TopicPartition]) {
        let Some(id) = self.ends.get(&end).cloned() else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        for partition in partitions {
            entry.untold.remove(partition);
        }
        if entry.untold.is_empty() {
            self.ends.remove(&end);
            self.complete(now, &id);
        }
    }

    fn complete(&mut self, now: Now, id: &Arc<str>) {
        let Some(entry) = self.entries.get(id) else { return };
        if entry.pending.is_some() {
            return self.retry_later(now, id);
        }
        if let Some(next) = entry.current.as_ref().map(|current| current.completed(now.wall_ms)) {
            self.write(id, Some(next), After::Nobody);
        }
    }

    fn tick(&mut self, now: Now) {
        let later = self.alarms.split_off(&(now.monotonic_ns.saturating_add(1), Arc::from("")));
        let due = std::mem::replace(&mut self.alarms, later);
        for (_, id) in due {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.alarm_ns = u64::MAX;
                entry.wake_ns = u64::MAX;
                self.on_time(now, &id);
            }
        }
        if self.expiry_ns <= now.monotonic_ns {
            self.expire_some(now);
        }
    }

    fn on_time(&mut self, now: Now, id: &Arc<str>) {
        let Some(entry) = self.entries.get(id) else { return };
        let Some(current) = &entry.current else { return };
        if entry.pending.is_some() {
            return self.retry_later(now, id);
        }
        match current.state {
            StateName::Ongoing => {
                let next = current.fenced(now.wall_ms);
                tracing::info!(
                    id = &**id,
                    producer = current.producer_id,
                    "a transaction takes too long and is aborted"
                );
                self.write(id, Some(next), After::Nobody);
            }
            StateName::PrepareCommit | StateName::PrepareAbort if entry.untold.is_empty() => self.complete(now, id),
            StateName::PrepareCommit
            | StateName::PrepareAbort
            | StateName::Empty
            | StateName::CompleteCommit
            | StateName::CompleteAbort => {}
        }
    }

    fn retry_later(&mut self, now: Now, id: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.wake_ns = now.monotonic_ns.saturating_add(self.config.retry_ms.saturating_mul(1_000_000));
            self.settle(id);
        }
    }

    /// Sets the alarm of a transactional id.
    fn settle(&mut self, id: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.alarm_ns == entry.wake_ns {
            return;
        }
        let before = std::mem::replace(&mut entry.alarm_ns, entry.wake_ns);
        self.alarms.remove(&(before, Arc::clone(id)));
        if entry.wake_ns != u64::MAX {
            self.alarms.insert((entry.wake_ns, Arc::clone(id)));
        }
    }

    fn remove(&mut self, id: &Arc<str>) {
        if let Some(entry) = self.entries.remove(id) {
            self.alarms.remove(&(entry.alarm_ns, Arc::clone(id)));
        }
    }
}

/// Whether a producer that gets this does not come again.
fn is_final(response: &Response) -> bool {
    let (Response::Init(Err(error)) | Response::End(Err(error)) | Response::Add(Err(error))) = response else {
        return false;
    };
    match error {
        TransactionError::InvalidTxnState
        | TransactionError::InvalidProducerIdMapping
        | TransactionError::ProducerFenced
        | TransactionError::TransactionalIdNotFound => true,
        TransactionError::CoordinatorLoadInProgress
        | TransactionError::CoordinatorNotAvailable
        | TransactionError::NotCoordinator
        | TransactionError::ConcurrentTransactions
        | TransactionError::InvalidRequest
        | TransactionError::InvalidTransactionTimeout
        | TransactionError::TransactionAbortable => false,
    }
}
