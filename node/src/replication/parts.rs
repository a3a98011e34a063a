//! The partitions of a node and the part that it has in each.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use wherry_wire::types::{LogId, Offset};

use super::follower::Following;
use super::leader::Leader;

/// Place of a partition; the generation tells it from a later one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    index: usize,
    generation: u64,
}

#[derive(Debug)]
pub(super) enum Duty {
    Lead(Box<Leader>),
    Follow(Box<Following>),
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) id: LogId,
    key: Key,
    pub(super) duty: Duty,
    /// In the list of led partitions to be looked at in this turn.
    pub(super) touched: bool,
    /// In the queue of those that time may change.
    pub(super) watched: bool,
    /// In the list of those that wait for the lease.
    pub(super) held: bool,
}

impl Part {
    pub(super) fn high_watermark(&self) -> Option<Offset> {
        match &self.duty {
            Duty::Lead(leader) => leader.high_watermark(),
            Duty::Follow(following) => following.high_watermark(),
        }
    }

    pub(super) fn leader(&mut self) -> Option<&mut Leader> {
        match &mut self.duty {
            Duty::Lead(leader) => Some(leader),
            Duty::Follow(_) => None,
        }
    }

    pub(super) fn following(&mut self) -> Option<&mut Following> {
        match &mut self.duty {
            Duty::Follow(following) => Some(following),
            Duty::Lead(_) => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Parts {
    slab: Slab<Part>,
    by_id: HashMap<LogId, Key, RandomState>,
    generation: u64,
}

impl Parts {
    pub(super) fn key(&self, id: LogId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Part> {
        self.slab.get_mut(key.index).filter(|part| part.key == key)
    }

    pub(super) fn peek(&self, id: LogId) -> Option<&Part> {
        self.slab.get(self.by_id.get(&id)?.index)
    }

    pub(super) fn insert(&mut self, id: LogId, duty: Duty) -> Key {
        self.generation += 1;
        let entry = self.slab.vacant_entry();
        let key = Key { index: entry.key(), generation: self.generation };
        entry.insert(Part { id, key, duty, touched: false, watched: false, held: false });
        self.by_id.insert(id, key);
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Part> {
        self.get(key)?;
        let part = self.slab.try_remove(key.index)?;
        self.by_id.remove(&part.id);
        Some(part)
    }

    pub(super) fn leader(&mut self, key: Key) -> Option<&mut Leader> {
        self.get(key)?.leader()
    }

    pub(super) fn following(&mut self, key: Key) -> Option<&mut Following> {
        self.get(key)?.following()
    }
}
