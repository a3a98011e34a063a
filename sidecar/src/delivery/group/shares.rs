//! How partitions are shared among the receivers of a membership.

use std::collections::BTreeMap;

use super::{Group, Receiver};

/// How many partitions each receiver has, and how many each should have.
#[derive(Debug)]
pub(super) struct Shares {
    has: BTreeMap<Receiver, usize>,
    fair: usize,
}

impl Shares {
    /// Receivers that could take messages or hold some; the others leave their share to them.
    pub(super) fn of(group: &Group) -> Self {
        let mut has = BTreeMap::new();
        for (id, sub) in &group.subs {
            if sub.credits > 0 && !sub.finishing {
                has.insert(Receiver::Sub(*id), 0);
            }
        }
        if !group.pulls.is_empty() {
            has.insert(Receiver::Pulls, 0);
        }
        for partition in group.windows.values() {
            if let Some(owner) = partition.owner {
                match has.get_mut(&owner) {
                    Some(count) => *count += 1,
                    None if partition.window.held() > 0 => {
                        has.insert(owner, 1);
                    }
                    None => {}
                }
            }
        }
        let fair = group.windows.len().div_ceil(has.len().max(1));
        Self { has, fair }
    }

    /// Whether a receiver has more than its share.
    pub(super) fn over(&self, receiver: Receiver) -> bool {
        self.has.get(&receiver).is_some_and(|count| *count > self.fair)
    }

    /// The receiver with the fewest partitions among those that can take messages now.
    pub(super) fn poorest(&self, can_take: impl Fn(Receiver) -> bool) -> Option<Receiver> {
        self.has.iter().filter(|(receiver, _)| can_take(**receiver)).min_by_key(|(_, count)| **count).map(|(r, _)| *r)
    }

    pub(super) fn moved(&mut self, from: Option<Receiver>, to: Receiver) {
        if let Some(count) = from.and_then(|from| self.has.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        *self.has.entry(to).or_default() += 1;
    }
}
