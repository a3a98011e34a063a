//! The offsets of one group: what is durable, and how many writes about each are on their way.
//!
//! What is read is only ever what is durable; a write becomes visible when it is applied, in the order of the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::open_offsets::OpenOffsets;
use super::record::Committed;
use super::types::PersistId;

/// Committed offsets by topic and partition.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Slot>>,
    slots: usize,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Slot {
    committed: Option<(PersistId, Committed)>,
    in_flight: u32,
    /// Writes up to this one are of a topic that is gone.
    floor: Option<PersistId>,
    /// What open transactions have committed.
    open: OpenOffsets,
}

impl Slot {
    fn is_vacant(&self) -> bool {
        self.committed.is_none() && self.in_flight == 0 && self.open.is_empty()
    }

    fn put(&mut self, by: PersistId, value: Committed) {
        if self.floor.is_none_or(|floor| floor < by) {
            self.committed = Some((by, value));
        }
    }

    /// A tombstone: what was written before it is gone.
    fn bury(&mut self, by: PersistId) {
        self.committed.take_if(|(committed_by, _)| *committed_by < by);
        self.open.forget(by);
    }
}

impl Offsets {
    pub(super) fn is_empty(&self) -> bool {
        self.slots == 0
    }

    /// Partitions that hold memory.
    pub(super) fn len(&self) -> usize {
        self.slots
    }

    pub(super) fn contains(&self, topic: &str, partition: i32) -> bool {
        self.slot(topic, partition).is_some()
    }

    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.slot(topic, partition)?.committed.as_ref().map(|(_, committed)| committed)
    }

    /// All durable offsets.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &Committed)> {
        self.topics.iter().flat_map(|(topic, slots)| {
            slots.iter().filter_map(move |(partition, slot)| {
                slot.committed.as_ref().map(|(_, committed)| (topic, *partition, committed))
            })
        })
    }

    /// All partitions about which the log has, or may get, a record.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&Arc<str>, i32)> {
        self.topics.iter().flat_map(|(topic, slots)| slots.keys().map(move |partition| (topic, *partition)))
    }

    /// The partitions of one topic about which the log has, or may get, a record.
    pub(super) fn partitions(&self, topic: &str) -> Vec<i32> {
        self.topics.get(topic).map(|slots| slots.keys().copied().collect()).unwrap_or_default()
    }

    /// Partitions with no write on its way.
    pub(super) fn is_settled(&self, topic: &str, partition: i32) -> bool {
        self.slot(topic, partition).is_some_and(|slot| slot.in_flight == 0 && slot.open.is_empty())
    }

    /// A write about this partition is on its way.
    pub(super) fn begin(&mut self, topic: &Arc<str>, partition: i32) {
        let slot = self.topics.entry(Arc::clone(topic)).or_default().entry(partition).or_insert_with(|| {
            self.slots += 1;
            Slot::default()
        });
        slot.in_flight += 1;
    }

    /// That write is durable.
    pub(super) fn commit(&mut self, topic: &str, partition: i32, by: PersistId, value: Committed) {
        self.end(topic, partition, |slot| slot.put(by, value));
    }

    /// That write, a tombstone, is durable.
    pub(super) fn remove(&mut self, topic: &str, partition: i32, by: PersistId) {
        self.end(topic, partition, |slot| slot.bury(by));
    }

    /// That write failed.
    pub(super) fn abort(&mut self, topic: &str, partition: i32) {
        self.end(topic, partition, |_| {});
    }

    /// The topic is gone: its offset is not seen again, though the tombstone is only on its way.
    pub(super) fn hide(&mut self, topic: &str, partition: i32, by: PersistId) {
        if let Some(slot) = self.topics.get_mut(topic).and_then(|slots| slots.get_mut(&partition)) {
            slot.committed = None;
            slot.floor = Some(by);
        }
    }

    /// The tombstones of all are durable. What is on its way still ends in its own time.
    pub(super) fn clear(&mut self, by: PersistId) {
        self.topics.retain(|_, slots| {
            slots.retain(|_, slot| {
                slot.bury(by);
                !slot.is_vacant()
            });
            !slots.is_empty()
        });
        self.slots = self.topics.values().map(BTreeMap::len).sum();
    }

    /// A record found in the log; `None` for a tombstone.
    pub(super) fn replay(&mut self, topic: &Arc<str>, partition: i32, by: PersistId, value: Option<Committed>) {
        self.begin(topic, partition);
        self.end(topic, partition, |slot| match value {
            Some(value) => slot.put(by, value),
            None => slot.bury(by),
        });
    }

    /// A write in a producer's transaction is on its way.
    pub(super) fn begin_open(&mut self, topic: &Arc<str>, partition: i32, producer_id: i64) {
        self.begin(topic, partition);
        self.end(topic, partition, |slot| slot.open.begin(producer_id));
    }

    /// That write is durable, or failed.
    pub(super) fn end_open(
        &mut self,
        topic: &str,
        partition: i32,
        producer_id: i64,
        value: Option<(PersistId, Committed)>,
    ) {
        self.change(topic, partition, |slot| slot.open.end_write(producer_id, value));
    }

    /// Whether an open transaction may change the offset.
    pub(super) fn is_open(&self, topic: &str, partition: i32) -> bool {
        self.slot(topic, partition).is_some_and(|slot| !slot.open.is_empty())
    }

    /// Whether a producer's transaction has something there.
    pub(super) fn is_open_of(&self, topic: &str, partition: i32, producer_id: i64) -> bool {
        self.slot(topic, partition).is_some_and(|slot| slot.open.has(producer_id))
    }

    /// A producer's transaction ended: what it committed is seen from now on, or gone. What was committed behind it stays.
    pub(super) fn close(&mut self, topic: &str, partition: i32, producer_id: i64, commit: bool) {
        self.change(topic, partition, |slot| {
            let closed = slot.open.close(producer_id).filter(|_| commit);
            let newest = slot.committed.as_ref().map(|(by, _)| *by);
            if let Some((by, value)) = closed.filter(|(by, _)| newest.is_none_or(|newest| newest < *by)) {
                slot.put(by, value);
            }
        });
    }

    fn slot(&self, topic: &str, partition: i32) -> Option<&Slot> {
        self.topics.get(topic)?.get(&partition)
    }

    fn end(&mut self, topic: &str, partition: i32, apply: impl FnOnce(&mut Slot)) {
        self.change(topic, partition, |slot| {
            slot.in_flight = slot.in_flight.saturating_sub(1);
            apply(slot);
        });
    }

    /// Changes a slot; drops one of which nothing is left.
    fn change(&mut self, topic: &str, partition: i32, apply: impl FnOnce(&mut Slot)) {
        let Some(slots) = self.topics.get_mut(topic) else { return };
        let Some(slot) = slots.get_mut(&partition) else { return };
        apply(slot);
        if !slot.is_vacant() {
            return;
        }
        slots.remove(&partition);
        self.slots -= 1;
        if slots.is_empty() {
            self.topics.remove(topic);
        }
    }
}
