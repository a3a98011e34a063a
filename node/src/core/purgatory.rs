//! Fetches that wait for data: woken by the logs they watch, or by their deadline. Never polled.
//!
//! It knows which fetch watches which log and until when; what a fetch is, `api::fetch` knows. A watch is used up when its
//! log moves, and set again by a fetch that goes on waiting. Watches of fetches that are gone stay in their list until it
//! has doubled: removing each at once would cost as much as the list is long, for every one of many consumers of a log.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use wherry_wire::types::LogId;

use super::store::ReadToken;
use super::timers::Timers;
use crate::api::fetch::FetchOp;
use crate::limits::MAX_WAITING_FETCH_PARTITIONS;

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
    parts: usize,
    timed: bool,
    woken: bool,
}

/// One partition of one waiting fetch.
#[derive(Debug, Clone, Copy)]
struct Watch {
    fetch: FetchId,
    part: u32,
}

/// A list below this length is never cleaned.
const CLEAN_ABOVE: usize = 8;

/// Who watches one log.
#[derive(Debug, Default)]
struct Watches {
    list: SmallVec<[Watch; 2]>,
    clean_at: usize,
}

/// All fetches that are not answered.
#[derive(Debug)]
pub(crate) struct Purgatory {
    entries: Slab<Entry>,
    generation: u64,
    /// Of all entries.
    parts: usize,
    watches: HashMap<LogId, Watches, RandomState>,
    reads: HashMap<ReadToken, (FetchId, u32), RandomState>,
    woken: Vec<FetchId>,
    timers: Timers<FetchId>,
}

fn is_alive(entries: &Slab<Entry>, id: FetchId) -> bool {
    entries.get(id.key).is_some_and(|entry| entry.id == id)
}

impl Purgatory {
    pub(crate) fn new() -> Self {
        Self {
            entries: Slab::new(),
            generation: 0,
            parts: 0,
            watches: HashMap::default(),
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

    /// Whether a fetch of so many partitions may wait.
    pub(crate) fn has_room(&self, parts: usize) -> bool {
        self.parts.saturating_add(parts) <= MAX_WAITING_FETCH_PARTITIONS
    }

    pub(crate) fn insert(&mut self, op: Box<FetchOp>) -> FetchId {
        let parts = op.parts.len();
        self.parts += parts;
        self.generation += 1;
        let entry = self.entries.vacant_entry();
        let id = FetchId { key: entry.key(), generation: self.generation };
        entry.insert(Entry { id, op: Some(op), parts, timed: false, woken: false });
        id
    }

    fn entry(&mut self, id: FetchId) -> Option<&mut Entry> {
        self.entries.get_mut(id.key).filter(|entry| entry.id == id)
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
        if is_alive(&self.entries, id) {
            self.parts -= self.entries.remove(id.key).parts;
        }
    }

    /// Has a fetch woken at its deadline, and when one of its logs moves: those that it does not watch already.
    pub(crate) fn watch(&mut self, id: FetchId) {
        let Some(entry) = self.entries.get_mut(id.key).filter(|entry| entry.id == id) else { return };
        let Some(op) = entry.op.as_deref_mut() else { return };
        let mut set: SmallVec<[(LogId, u32); 8]> = SmallVec::new();
        for (n, part) in (0u32..).zip(&mut op.parts) {
            if let Some(log) = part.log.filter(|_| !part.watched) {
                part.watched = true;
                set.push((log, n));
            }
        }
        let deadline_ns = (!entry.timed).then_some(op.deadline_ns);
        entry.timed = true;
        for (log, part) in set {
            self.add_watch(log, Watch { fetch: id, part });
        }
        if let Some(deadline_ns) = deadline_ns {
            self.timers.set(deadline_ns, id);
            let entries = &self.entries;
            self.timers.tidy(entries.len(), |id| is_alive(entries, *id));
        }
    }

    fn add_watch(&mut self, log: LogId, watch: Watch) {
        let entries = &self.entries;
        let watches = self.watches.entry(log).or_default();
        if watches.list.len() >= watches.clean_at.max(CLEAN_ABOVE) {
            watches.list.retain(|watch| is_alive(entries, watch.fetch));
            watches.clean_at = 2 * watches.list.len();
        }
        watches.list.push(watch);
    }

    pub(crate) fn expect_read(&mut self, token: ReadToken, id: FetchId, part: u32) {
        self.reads.insert(token, (id, part));
    }

    pub(crate) fn read_arrived(&mut self, token: ReadToken) -> Option<(FetchId, u32)> {
        self.reads.remove(&token)
    }

    /// A log moved, or is gone. The watches of it are used up.
    pub(crate) fn wake(&mut self, log: LogId) {
        let Some(watches) = self.watches.remove(&log) else { return };
        for Watch { fetch, part } in watches.list {
            let Some(entry) = self.entries.get_mut(fetch.key).filter(|entry| entry.id == fetch) else { continue };
            if let Some(op) = &mut entry.op {
                op.moved(part);
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
            if let Some(entry) = self.entry(*id) {
                entry.woken = false;
            }
        }
        woken
    }

    /// A fetch whose time is over.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<FetchId> {
        loop {
            let id = self.timers.pop_due(now_ns)?;
            if is_alive(&self.entries, id) {
                return Some(id);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    #[cfg(test)]
    pub(super) fn watch_count(&self) -> usize {
        self.watches.values().map(|watches| watches.list.len()).sum()
    }
}
