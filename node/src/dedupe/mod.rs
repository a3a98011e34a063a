//! Message ids that a partition remembers, so that a message with an id is appended once within the topic's window, whoever
//! sends it again: another process, another sidecar, after a restart. Decided by the partition's leader alone. Pure.
//!
//! It is a cache of the log: a leader reads it back from there (`core/message_ids.rs`), so there is nothing to replicate and
//! nothing to roll back but what an aborted transaction brought. Bounded by a number of ids; the oldest go first.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use twox_hash::XxHash3_128;
use wherry_wire::types::Offset;

/// The hash of an id, under a seed that this process alone knows: two ids that an application uses have the same one with a
/// probability that no hardware reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageId(u128);

impl MessageId {
    pub(crate) fn of(seed: u64, id: &[u8]) -> Self {
        Self(XxHash3_128::oneshot_with_seed(seed, id))
    }
}

/// What is known of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The record that had it first.
    At(Offset),
    /// It belongs to another producer's transaction, which has not ended.
    Undecided,
}

/// Which record has an id, and whose transaction it came in.
#[derive(Debug, Clone, Copy)]
struct Known {
    offset: Offset,
    /// None outside of transactions.
    producer_id: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: MessageId,
    offset: Offset,
    /// When it was appended, or read back, on the monotonic clock.
    at_ns: u64,
}

/// The ids of one partition.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// By offset. An id whose record is known no more, or has a newer one, is passed over.
    order: VecDeque<Entry>,
    known: HashMap<MessageId, Known, RandomState>,
    /// Producers whose transaction is open, and where it began here.
    open: HashMap<i64, Offset, RandomState>,
}

impl Ids {
    /// What is known of an id that a producer sends, in its transaction if it has a producer id here.
    pub(crate) fn find(&self, id: MessageId, transaction_of: Option<i64>) -> Option<Found> {
        let known = self.known.get(&id)?;
        let undecided = known.producer_id.filter(|producer| self.is_open(*producer, known.offset));
        Some(match undecided {
            Some(producer) if transaction_of != Some(producer) => Found::Undecided,
            Some(_) | None => Found::At(known.offset),
        })
    }

    fn is_open(&self, producer_id: i64, offset: Offset) -> bool {
        self.open.get(&producer_id).is_some_and(|began| *began <= offset)
    }

    /// A record with this id was appended. Offsets ascend.
    pub(crate) fn insert(&mut self, id: MessageId, offset: Offset, at_ns: u64, transaction_of: Option<i64>) {
        self.known.insert(id, Known { offset, producer_id: transaction_of });
        self.order.push_back(Entry { id, offset, at_ns });
    }

    /// A producer appended in its transaction.
    pub(crate) fn begin(&mut self, producer_id: i64, offset: Offset) {
        self.open.entry(producer_id).or_insert(offset);
    }

    /// A producer's transaction ended: what it brought counts, or never was.
    pub(crate) fn end(&mut self, producer_id: i64, commit: bool) {
        let Some(began) = self.open.remove(&producer_id) else { return };
        if commit {
            return;
        }
        for entry in self.order.iter().rev().take_while(|entry| entry.offset >= began) {
            let brought = |known: &Known| known.offset == entry.offset && known.producer_id == Some(producer_id);
            if self.known.get(&entry.id).is_some_and(brought) {
                self.known.remove(&entry.id);
            }
        }
    }

    /// Forgets what was appended before that time, and beyond `max` the oldest.
    pub(crate) fn forget(&mut self, before_ns: u64, max: usize) {
        while self.order.front().is_some_and(|entry| entry.at_ns < before_ns || self.order.len() > max) {
            let Some(entry) = self.order.pop_front() else { return };
            if self.known.get(&entry.id).is_some_and(|known| known.offset == entry.offset) {
                self.known.remove(&entry.id);
            }
        }
    }

    /// Takes over what came after all that is here.
    pub(crate) fn absorb(&mut self, later: Self) {
        self.known.extend(later.known);
        self.order.extend(later.order);
        for (producer_id, offset) in later.open {
            self.open.entry(producer_id).or_insert(offset);
        }
    }

    /// Ids remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}
