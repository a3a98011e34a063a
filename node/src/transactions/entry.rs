//! What the coordinator holds of one transactional id beside its state: what is on its way.

use std::collections::BTreeSet;

use super::transaction::Transaction;
use super::types::{Filter, Now, PersistId, StateName, TopicPartition};

/// See the module.
#[derive(Debug)]
pub(super) struct Entry {
    /// As the last committed record says; `None`: the first is on its way.
    pub(super) current: Option<Transaction>,
    /// The write of its next state.
    pub(super) pending: Option<PersistId>,
    /// Partitions that do not know the end yet, if it is decided.
    pub(super) untold: BTreeSet<TopicPartition>,
    /// When something is to be done by itself.
    pub(super) wake_ns: u64,
    /// Its entry among the alarms.
    pub(super) alarm_ns: u64,
}

impl Default for Entry {
    fn default() -> Self {
        Self { current: None, pending: None, untold: BTreeSet::new(), wake_ns: u64::MAX, alarm_ns: u64::MAX }
    }
}

impl Entry {
    pub(super) fn of(current: Transaction) -> Self {
        Self { current: Some(current), ..Self::default() }
    }

    pub(super) fn state(&self) -> Option<StateName> {
        self.current.as_ref().map(|current| current.state)
    }
}

/// When an open transaction is aborted, on the monotonic clock. How old it is, its record says on the wall clock: that is
/// not trusted with more than its timeout (rule 16).
pub(super) fn timeout_ns(current: &Transaction, now: Now) -> u64 {
    let timeout_ms = i64::from(current.timeout_ms);
    let age_ms = now.wall_ms.saturating_sub(current.start_ms).clamp(0, timeout_ms);
    let left_ms = u64::try_from(timeout_ms - age_ms).unwrap_or(0);
    now.monotonic_ns.saturating_add(left_ms.saturating_mul(1_000_000))
}

impl Filter {
    pub(super) fn has(&self, current: &Transaction, now_ms: i64) -> bool {
        let has_begun_before =
            |longer_ms: i64| current.start_ms >= 0 && now_ms.saturating_sub(current.start_ms) > longer_ms;
        (self.states.is_empty() || self.states.contains(&current.state))
            && (self.producer_ids.is_empty() || self.producer_ids.contains(&current.producer_id))
            && self.longer_than_ms.is_none_or(has_begun_before)
    }
}
