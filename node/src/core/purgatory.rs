//! Fetches that wait for data: woken by the logs they watch, or by their deadline. Never polled.
//!
//! It knows which fetch watches which log and until when; what a fetch is, `api::fetch` knows.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use wherry_wire::types::LogId;

use super::store::ReadToken;
use super::timers::Timers;
use crate::api::fetch::FetchOp;
use crate::limits::MAX_FETCH_WATCHES;

/// A fetch that is not answered. The generation tells it from a later one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FetchId {
    key: usize,
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    id: FetchId,
    /// Absent while it is being evaluated.
    op: Option<Box<FetchOp>>,
    watches: Vec<LogId>,
    woken: bool,
}

/// One partition of one waiting fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watch {
    fetch: usize,
    part: u32,
}

/// All fetches that are not answered.
#[derive(Debug)]
pub(crate) struct Purgatory {
    entries: Slab<Entry>,
    generation: u64,
    watches: HashMap<LogId, SmallVec<[Watch; 2]>, RandomState>,
    watch_count: usize,
    reads: HashMap<ReadToken, (FetchId, u32), RandomState>,
    woken: Vec<FetchId>,
    timers: Timers<FetchId>,
}

impl Purgatory {
    pub(crate) fn new() -> Self {
        Self {
            entries: Slab::new(),
            generation: 0,
            watches: HashMap::default(),
            watch_count: 0,
            reads: HashMap::default(),
            woken: Vec::new(),
            timers: Timers::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every fetch that is not answered.
    pub(crate) fn ids(&self) -> Vec<FetchId> {
        self.entries.iter().map(|(_, entry)| entry.id).collect()
    }

    pub(crate) fn insert(&mut self, op: Box<FetchOp>) -> FetchId {
        self.generation += 1;
        let entry = self.entries.vacant_entry();
        let id = FetchId { key: entry.key(), generation: self.generation };
        entry.insert(Entry { id, op: Some(op), watches: Vec::new(), woken: false });
        id
    }

    fn entry(&mut self, id: FetchId) -> Option<&mut Entry> {
        self.entries.get_mut(id.key).filter(|e| e.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: FetchId) -> Option<&mut FetchOp> {
        self.entry(id)?.op.as_deref_mut()
    }

    /// Takes a fetch out to evaluate it; its place, watches and reads stay.
    pub(crate) fn check_out(&mut self, id: FetchId) -> Option<Box<FetchOp>> {
        self.entry(id)?.op.take()
    }

    /// Puts it back.
    pub(crate) fn check_in(&mut self, id: FetchId, op: Box<FetchOp>) {
        if let Some(entry) = self.entry(id) {
            entry.op = Some(op);
        }
    }

    /// Forgets a fetch. A read that is in flight for it finds nobody.
    pub(crate) fn remove(&mut self, id: FetchId) {
        if self.entry(id).is_some() {
            let entry = self.entries.remove(id.key);
            self.unwatch(id.key, &entry.watches);
        }
    }

    fn unwatch(&mut self, fetch: usize, logs: &[LogId]) {
        for log in logs {
            let Some(list) = self.watches.get_mut(log) else { continue };
            let before = list.len();
            list.retain(|w| w.fetch != fetch);
            self.watch_count -= before - list.len();
            if list.is_empty() {
                self.watches.remove(log);
            }
        }
    }

    /// Has a fetch woken when one of these logs moves. Beyond the bound it is not, and waits out its time.
    pub(crate) fn watch(&mut self, id: FetchId, deadline_ns: u64, logs: impl Iterator<Item = (LogId, u32)>) {
        let Some(entry) = self.entries.get_mut(id.key).filter(|e| e.id == id) else { return };
        for (log, part) in logs {
            if self.watch_count >= MAX_FETCH_WATCHES {
                break;
            }
            self.watches.entry(log).or_default().push(Watch { fetch: id.key, part });
            entry.watches.push(log);
            self.watch_count += 1;
        }
        self.timers.set(deadline_ns, id);
        let entries = &self.entries;
        self.timers.tidy(entries.len(), |id| entries.get(id.key).is_some_and(|e| e.id == *id));
    }

    pub(crate) fn expect_read(&mut self, token: ReadToken, id: FetchId, part: u32) {
        self.reads.insert(token, (id, part));
    }

    pub(crate) fn read_arrived(&mut self, token: ReadToken) -> Option<(FetchId, u32)> {
        self.reads.remove(&token)
    }

    /// A log moved, or is gone.
    pub(crate) fn wake(&mut self, log: LogId) {
        let Some(list) = self.watches.get(&log) else { return };
        for watch in list {
            let Some(entry) = self.entries.get_mut(watch.fetch) else { continue };
            if let Some(op) = &mut entry.op {
                op.mark_dirty(watch.part);
            }
            if !entry.woken {
                entry.woken = true;
                self.woken.push(entry.id);
            }
        }
    }

    /// Fetches that were woken since the last call.
    pub(crate) fn take_woken(&mut self) -> Vec<FetchId> {
        let woken = std::mem::take(&mut self.woken);
        for id in &woken {
            if let Some(entry) = self.entries.get_mut(id.key).filter(|e| e.id == *id) {
                entry.woken = false;
            }
        }
        woken
    }

    /// A fetch whose time is over.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<FetchId> {
        loop {
            let id = self.timers.pop_due(now_ns)?;
            if self.entries.get(id.key).is_some_and(|e| e.id == id) {
                return Some(id);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }
}
