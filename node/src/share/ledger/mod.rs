//! The share coordinator: what has become of the records of share-partitions, durably. There is one for each partition of
//! `__share_group_state`; a group's id says which, so that all of a group is in one place.
//!
//! ```text
//!   a leader ── Read ──> what is kept               a leader ── Write ──> Persist ── log ──> Done
//!   an administrator ── Describe, Reset, Delete
//! ```
//! What it is told counts at once for whoever asks next, who is answered only when it is durable; a write that the log
//! refuses is undone before anything else happens. Leaders of yesterday are told so by their epoch, and those who have not
//! heard of a reset by the state's.

pub(crate) mod record;
#[cfg(test)]
mod tests;
pub(crate) mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use self::record::{SNAPSHOT, Value, decode_key, decode_value, record};
pub(crate) use self::types::{Described, Effect, Found, Key, Refusal, Request, Response, Writer};
use super::runs::Runs;
use super::{Kept, Span};
use crate::groups::{PersistError, PersistId, Record, RequestRef};
use crate::limits::{MAX_SHARE_PENDING_WRITES, MAX_SHARE_SPANS, SHARE_UPDATES_PER_SNAPSHOT};

/// A change of few runs is written by itself only where the whole state has at least so many more.
const SMALL_STATE: usize = 8;

/// What is kept of one share-partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    state_epoch: i32,
    writer: Writer,
    start: i64,
    kept: Runs<Kept>,
    /// The slot of the last change since all of it was written.
    slot: u16,
    /// The last slot that has a record.
    last_slot: u16,
}

impl Entry {
    fn of(value: &Value, last_slot: u16) -> Self {
        let mut entry = Self {
            state_epoch: value.state_epoch,
            writer: value.writer,
            start: value.start,
            kept: Runs::default(),
            slot: SNAPSHOT,
            last_slot,
        };
        entry.change(value.start, &value.spans);
        entry
    }

    fn change(&mut self, start: i64, spans: &[Span]) {
        for span in spans {
            match span.kept {
                // As if nothing were kept.
                Kept::Available { count: 0 } => self.kept.clear(span.first, span.last),
                kept => self.kept.set(span.first, span.last, kept),
            }
        }
        self.start = self.start.max(start);
        self.kept.cut_below(self.start);
        while let Some((first, last, kept)) = self.kept.first() {
            if first > self.start || !kept.is_final() {
                break;
            }
            self.start = last.saturating_add(1);
            self.kept.cut_below(self.start);
        }
    }

    fn spans(&self) -> Vec<Span> {
        self.kept.iter().map(|(first, last, kept)| Span { first, last, kept }).collect()
    }

    fn whole(&self) -> Value {
        Value { state_epoch: self.state_epoch, writer: self.writer, start: self.start, spans: self.spans() }
    }

    /// The record of a change that was made, or of everything.
    fn write(&mut self, key: &Key, spans: Vec<Span>) -> Record {
        let by_itself = self.kept.len() > spans.len() + SMALL_STATE && self.slot < SHARE_UPDATES_PER_SNAPSHOT;
        if !by_itself {
            self.slot = SNAPSHOT;
            return record(key, SNAPSHOT, Some(&self.whole()));
        }
        self.slot += 1;
        self.last_slot = self.last_slot.max(self.slot);
        record(key, self.slot, Some(&Value { spans, ..self.whole() }))
    }
}

/// A write that is on its way.
#[derive(Debug)]
struct Pending {
    /// The entries as they were before.
    undo: Vec<(Key, Option<Entry>)>,
    /// Who is answered then, if somebody waits.
    answer: Option<RequestRef>,
}

/// All that one coordinator keeps.
#[derive(Debug)]
pub(crate) struct Ledgers {
    max_entries: usize,
    serving: bool,
    entries: BTreeMap<Key, Entry>,
    effects: Vec<Effect>,
    last_persist: u64,
    pending: BTreeMap<PersistId, Pending>,
    /// Answers that speak of writes of others. Bounded by the requests in flight.
    held: BTreeMap<PersistId, Vec<(RequestRef, Response)>>,
}

impl Ledgers {
    pub(crate) fn new(max_entries: usize) -> Self {
        Self {
            max_entries,
            serving: false,
            entries: BTreeMap::new(),
            effects: Vec::new(),
            last_persist: 0,
            pending: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// One record of the log, in the log's order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let (key, slot) = decode_key(key).map_err(|what| format!("malformed share record: {what}"))?;
        let value = value.map(decode_value).transpose().map_err(|what| format!("malformed share record: {what}"))?;
        match (slot, value) {
            (SNAPSHOT, None) => drop(self.entries.remove(&key)),
            (SNAPSHOT, Some(value)) => {
                let last_slot = self.entries.get(&key).map_or(0, |entry| entry.last_slot);
                self.entries.insert(key, Entry::of(&value, last_slot));
            }
            (_, None) => {}
            (slot, Some(value)) => {
                // Without all of it, a change is left over from an earlier round.
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.slot = slot;
                    entry.last_slot = entry.last_slot.max(slot);
                    entry.writer = value.writer;
                    entry.change(value.start, &value.spans);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// All records are replayed. `exists` says whether a topic does: of others nothing is kept.
    pub(crate) fn loaded(&mut self, exists: impl Fn(Uuid) -> bool) -> Vec<Effect> {
        self.serving = true;
        let strangers: BTreeSet<Uuid> =
            self.entries.keys().map(|key| key.topic).filter(|topic| !exists(*topic)).collect();
        for topic in strangers {
            self.forget_topic(topic);
        }
        std::mem::take(&mut self.effects)
    }

    /// A topic is gone.
    pub(crate) fn topic_deleted(&mut self, topic: Uuid) -> Vec<Effect> {
        self.forget_topic(topic);
        std::mem::take(&mut self.effects)
    }

    fn forget_topic(&mut self, topic: Uuid) {
        let keys = self.entries.keys().filter(|key| key.topic == topic).cloned().collect();
        self.remove(keys, None);
    }

    /// Somebody asks.
    pub(crate) fn request(&mut self, request: RequestRef, body: Request) -> Vec<Effect> {
        if let Err(refusal) = self.answer(request, body) {
            self.reply(request, Response::Refused(refusal));
        }
        std::mem::take(&mut self.effects)
    }

    /// The log does not take a write: it is undone, before anything builds on it.
    pub(crate) fn refused(&mut self, id: PersistId) -> Vec<Effect> {
        if let Some(Pending { undo, answer }) = self.pending.remove(&id) {
            for (key, entry) in undo.into_iter().rev() {
                match entry {
                    Some(entry) => drop(self.entries.insert(key, entry)),
                    None => drop(self.entries.remove(&key)),
                }
            }
            if let Some(request) = answer {
                self.reply(request, Response::Refused(Refusal::NotAvailable));
            }
        }
        self.release(id);
        std::mem::take(&mut self.effects)
    }

    /// A write is durable, or was refused before.
    pub(crate) fn persisted(&mut self, id: PersistId, result: Result<(), PersistError>) -> Vec<Effect> {
        if result.is_err() {
            return self.refused(id);
        }
        if let Some(request) = self.pending.remove(&id).and_then(|pending| pending.answer) {
            self.reply(request, Response::Done);
        }
        self.release(id);
        std::mem::take(&mut self.effects)
    }

    /// The end of this coordinator: whoever waits asks the next one.
    pub(crate) fn resign(mut self) -> Vec<Effect> {
        let writers = std::mem::take(&mut self.pending).into_values().filter_map(|pending| pending.answer);
        let readers = std::mem::take(&mut self.held).into_values().flatten().map(|(request, _)| request);
        for request in writers.chain(readers).collect::<Vec<_>>() {
            self.reply(request, Response::Refused(Refusal::NotCoordinator));
        }
        self.effects
    }

    fn answer(&mut self, request: RequestRef, body: Request) -> Result<(), Refusal> {
        if !self.serving {
            return Err(Refusal::Loading);
        }
        match body {
            Request::Read { key, writer } => {
                let found = self.read(&key, writer)?;
                self.reply_when_durable(request, Response::Found(found));
            }
            Request::Describe { group } => {
                let lines = self.of_group(&group).map(|(key, entry)| Described {
                    topic: key.topic,
                    partition: key.partition,
                    start: entry.start,
                    leader_epoch: entry.writer.leader_epoch,
                });
                let lines = lines.collect();
                self.reply_when_durable(request, Response::Described(lines));
            }
            Request::Write { key, writer, state_epoch, initial, start, spans } => {
                self.may_write()?;
                self.write(request, key, writer, (state_epoch, initial), start, spans)?;
            }
            Request::Reset { group, starts } => {
                self.may_write()?;
                self.reset(request, &group, starts)?;
            }
            Request::Delete { group, topics } => {
                self.may_write()?;
                let is_meant = |key: &Key| topics.as_ref().is_none_or(|topics| topics.contains(&key.topic));
                let keys: Vec<Key> =
                    self.of_group(&group).map(|(key, _)| key).filter(|key| is_meant(key)).cloned().collect();
                if keys.is_empty() {
                    self.reply_when_durable(request, Response::Done);
                } else {
                    self.remove(keys, Some(request));
                }
            }
        }
        Ok(())
    }

    fn may_write(&self) -> Result<(), Refusal> {
        if self.pending.len() >= MAX_SHARE_PENDING_WRITES { Err(Refusal::NotAvailable) } else { Ok(()) }
    }

    fn of_group(&self, group: &Arc<str>) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = Key { group: Arc::clone(group), topic: Uuid::nil(), partition: i32::MIN };
        let group = Arc::clone(group);
        self.entries.range(first..).take_while(move |(key, _)| key.group == group)
    }

    /// Later writes of earlier leaders, or of this one from before, are refused from now on.
    fn read(&mut self, key: &Key, writer: Writer) -> Result<Option<Found>, Refusal> {
        let Some(entry) = self.entries.get_mut(key) else { return Ok(None) };
        if writer < entry.writer {
            return Err(Refusal::FencedLeader);
        }
        entry.writer = writer;
        Ok(Some(Found { state_epoch: entry.state_epoch, start: entry.start, spans: entry.spans() }))
    }

    fn write(
        &mut self,
        request: RequestRef,
        key: Key,
        writer: Writer,
        (state_epoch, initial): (i32, bool),
        start: i64,
        spans: Vec<Span>,
    ) -> Result<(), Refusal> {
        if !self.entries.contains_key(&key) {
            if !initial {
                return Err(Refusal::FencedStateEpoch);
            }
            if self.entries.len() >= self.max_entries {
                return Err(Refusal::TooMany);
            }
        }
        let before = self.entries.get(&key).cloned();
        let mut entry = match &before {
            Some(entry) if writer < entry.writer => return Err(Refusal::FencedLeader),
            Some(entry) if state_epoch != entry.state_epoch => return Err(Refusal::FencedStateEpoch),
            Some(entry) => entry.clone(),
            None => Entry::of(&Value { state_epoch, writer, start, spans: Vec::new() }, SNAPSHOT),
        };
        entry.writer = writer;
        entry.change(start, &spans);
        if entry.kept.len() > MAX_SHARE_SPANS {
            return Err(Refusal::TooMany);
        }
        let record =
            if before.is_some() { entry.write(&key, spans) } else { record(&key, SNAPSHOT, Some(&entry.whole())) };
        self.entries.insert(key.clone(), entry);
        self.persist(vec![record], Pending { undo: vec![(key, before)], answer: Some(request) });
        Ok(())
    }

    /// From now on those who lead these partitions must read anew.
    fn reset(&mut self, request: RequestRef, group: &Arc<str>, starts: Vec<(Uuid, i32, i64)>) -> Result<(), Refusal> {
        if self.entries.len().saturating_add(starts.len()) > self.max_entries {
            return Err(Refusal::TooMany);
        }
        let (mut records, mut undo) = (Vec::new(), Vec::new());
        for (topic, partition, start) in starts {
            let key = Key { group: Arc::clone(group), topic, partition };
            let before = self.entries.get(&key).cloned();
            let (epoch, writer, last_slot) = before.as_ref().map_or((0, Writer::default(), 0), |entry| {
                (entry.state_epoch.saturating_add(1), entry.writer, entry.last_slot)
            });
            let entry = Entry::of(&Value { state_epoch: epoch, writer, start, spans: Vec::new() }, last_slot);
            records.push(record(&key, SNAPSHOT, Some(&entry.whole())));
            self.entries.insert(key.clone(), entry);
            undo.push((key, before));
        }
        if records.is_empty() {
            self.reply_when_durable(request, Response::Done);
        } else {
            self.persist(records, Pending { undo, answer: Some(request) });
        }
        Ok(())
    }

    /// The whole state goes last: of an append that tears, what is left goes on as it was.
    fn remove(&mut self, keys: Vec<Key>, answer: Option<RequestRef>) {
        let (mut records, mut undo) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(entry) = self.entries.remove(&key) else { continue };
            records.extend((SNAPSHOT + 1..=entry.last_slot).map(|slot| record(&key, slot, None)));
            records.push(record(&key, SNAPSHOT, None));
            undo.push((key, Some(entry)));
        }
        if !records.is_empty() {
            self.persist(records, Pending { undo, answer });
        }
    }

    fn persist(&mut self, records: Vec<Record>, pending: Pending) {
        self.last_persist += 1;
        let id = PersistId(self.last_persist);
        self.pending.insert(id, pending);
        self.effects.push(Effect::Persist { id, records });
    }

    fn reply(&mut self, request: RequestRef, response: Response) {
        self.effects.push(Effect::Reply { request, response });
    }

    /// Once everything that was written until now is durable.
    fn reply_when_durable(&mut self, request: RequestRef, response: Response) {
        match self.pending.last_key_value().map(|(id, _)| *id) {
            Some(id) => self.held.entry(id).or_default().push((request, response)),
            None => self.reply(request, response),
        }
    }

    fn release(&mut self, id: PersistId) {
        for (request, response) in self.held.remove(&id).into_iter().flatten() {
            self.reply(request, response);
        }
    }

    /// How many share-partitions there are, for the metrics.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
