//! Offsets of one partition that were committed in transactions that are open (KIP-98, KIP-447): nobody sees them before their
//! transaction commits, and who asks for stable offsets waits until it ends.

use std::collections::BTreeMap;

use super::record::Committed;
use super::types::PersistId;

/// By producer id. Nearly always there is none, which takes no memory beyond the map itself.
#[derive(Debug, Default)]
pub(super) struct OpenOffsets(BTreeMap<i64, Open>);

/// What one transaction has committed here.
#[derive(Debug, Default)]
struct Open {
    value: Option<(PersistId, Committed)>,
    /// Writes that are on their way.
    in_flight: u32,
}

impl Open {
    fn is_vacant(&self) -> bool {
        self.value.is_none() && self.in_flight == 0
    }
}

impl OpenOffsets {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, producer_id: i64) -> bool {
        self.0.contains_key(&producer_id)
    }

    /// A write is on its way.
    pub(super) fn begin(&mut self, producer_id: i64) {
        self.0.entry(producer_id).or_default().in_flight += 1;
    }

    /// That write is committed to the log, or failed.
    pub(super) fn end_write(&mut self, producer_id: i64, value: Option<(PersistId, Committed)>) {
        self.with(producer_id, |open| {
            open.in_flight = open.in_flight.saturating_sub(1);
            if value.is_some() {
                open.value = value;
            }
        });
    }

    /// The transaction ended. Writes that are on their way belong to the next one of the same producer, for the log has them
    /// behind the end.
    pub(super) fn close(&mut self, producer_id: i64) -> Option<(PersistId, Committed)> {
        let mut value = None;
        self.with(producer_id, |open| value = open.value.take());
        value
    }

    /// A tombstone: what was committed before it is gone.
    pub(super) fn forget(&mut self, by: PersistId) {
        let producers: Vec<i64> = self.0.keys().copied().collect();
        for producer_id in producers {
            self.with(producer_id, |open| drop(open.value.take_if(|(written_by, _)| *written_by < by)));
        }
    }

    fn with(&mut self, producer_id: i64, act: impl FnOnce(&mut Open)) {
        let Some(open) = self.0.get_mut(&producer_id) else { return };
        act(open);
        if open.is_vacant() {
            self.0.remove(&producer_id);
        }
    }
}
