//! Applied exactly once: a proposer that gets no answer proposes again, and only one of the two may count.
//!
//! ```text
//!   process new, sequence 1      -> applied, the process before it is in the past
//!   same process, sequence + 1   -> applied
//!   anything else                -> skipped: applied before, out of order, or from a process of the past
//! ```

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Metadata, limits};
use crate::Origin;

/// How far a node has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LastSequence {
    pub(crate) incarnation: Uuid,
    pub(crate) sequence: u64,
    /// The processes before, the latest first.
    pub(crate) past: Vec<Uuid>,
}

impl LastSequence {
    fn accepts(&self, origin: Origin) -> bool {
        if self.incarnation == origin.incarnation {
            Some(origin.sequence) == self.sequence.checked_add(1)
        } else {
            origin.sequence == 1 && !self.past.contains(&origin.incarnation)
        }
    }

    fn advance(&mut self, origin: Origin) {
        if self.incarnation != origin.incarnation {
            self.past.insert(0, self.incarnation);
            self.past.truncate(limits::MAX_PAST_INCARNATIONS);
        }
        self.incarnation = origin.incarnation;
        self.sequence = origin.sequence;
    }
}

impl Metadata {
    /// Whether a payload of this origin is to be applied; if so, it counts as applied from now on.
    pub(super) fn take_sequence(&mut self, origin: Origin) -> bool {
        match self.origins.get_mut(&origin.node_id) {
            Some(last) if last.accepts(origin) => last.advance(origin),
            None if origin.sequence == 1 => self.first_of(origin),
            Some(_) | None => return false,
        }
        true
    }

    fn first_of(&mut self, origin: Origin) {
        if self.origins.len() >= limits::MAX_ORIGINS {
            let gone = self.origins.keys().find(|n| !self.brokers.contains_key(n)).copied();
            gone.map(|node| self.origins.remove(&node));
        }
        let Origin { node_id, incarnation, sequence } = origin;
        self.origins.insert(node_id, LastSequence { incarnation, sequence, past: Vec::new() });
    }

    /// The last sequence of a node's process that was applied: 0 for one that nothing came from yet.
    #[must_use]
    pub fn last_sequence(&self, node_id: i32, incarnation: Uuid) -> u64 {
        self.origins.get(&node_id).filter(|last| last.incarnation == incarnation).map_or(0, |last| last.sequence)
    }
}
