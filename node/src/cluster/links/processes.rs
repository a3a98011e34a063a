//! Which process of each node is the current one. Incarnations have no order: whoever says Hello later is newer, and a
//! process that was superseded never comes back.

use std::collections::{BTreeMap, VecDeque};

use uuid::Uuid;

/// Superseded processes remembered of one node.
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
struct Known {
    current: Uuid,
    superseded: VecDeque<Uuid>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Processes {
    nodes: BTreeMap<i32, Known>,
}

/// What a process is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Current,
    /// Links of the process before it are over.
    New,
    Superseded,
}

impl Processes {
    /// A process of a node speaks. At most `limit` nodes are remembered: those without a link are forgotten first.
    pub(super) fn see(&mut self, node: i32, incarnation: Uuid, limit: usize, linked: impl Fn(i32) -> bool) -> Seen {
        if self.nodes.len() >= limit && !self.nodes.contains_key(&node) {
            self.nodes.retain(|node, _| linked(*node));
        }
        let known = self.nodes.entry(node).or_insert_with(|| Known { current: incarnation, ..Known::default() });
        if known.current == incarnation {
            return Seen::Current;
        }
        if known.superseded.contains(&incarnation) {
            return Seen::Superseded;
        }
        if known.superseded.len() == REMEMBERED {
            known.superseded.pop_front();
        }
        known.superseded.push_back(known.current);
        known.current = incarnation;
        Seen::New
    }
}
