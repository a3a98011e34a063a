//! Transactional ids that nobody used for long: they are forgotten, a few at a time.

use std::ops::Bound;
use std::sync::Arc;

use super::Transactions;
use super::entry::Entry;
use super::outbox::After;
use super::types::{Now, StateName};

impl Transactions {
    /// Looks for expired ones among the next few ids.
    pub(super) fn expire_some(&mut self, now: Now) {
        let step = self.config.expiry_ids_per_step.max(1);
        let after = self.expiry_after.take();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let batch: Vec<_> = self.entries.range((from, Bound::Unbounded)).take(step).collect();
        let is_whole = batch.len() == step;
        let last = batch.last().map(|(id, _)| Arc::clone(id));
        let expired = batch.into_iter().filter(|(_, entry)| self.is_expired(entry, now.wall_ms));
        for id in expired.map(|(id, _)| Arc::clone(id)).collect::<Vec<_>>() {
            self.write(&id, None, After::Nobody);
        }
        if is_whole {
            self.expiry_after = last;
        } else {
            let interval_ns = self.config.expiry_interval_ms.max(1).saturating_mul(1_000_000);
            self.expiry_ns = now.monotonic_ns.saturating_add(interval_ns);
        }
    }

    fn is_expired(&self, entry: &Entry, now_ms: i64) -> bool {
        let Some(current) = entry.current.as_ref().filter(|_| entry.pending.is_none()) else { return false };
        let rests = match current.state {
            StateName::Empty | StateName::CompleteCommit | StateName::CompleteAbort => true,
            StateName::Ongoing | StateName::PrepareCommit | StateName::PrepareAbort => false,
        };
        let expiration_ms = i64::try_from(self.config.id_expiration_ms).unwrap_or(i64::MAX);
        rests && now_ms >= current.updated_ms.saturating_add(expiration_ms)
    }
}
