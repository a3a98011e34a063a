//! What moves a group other than single acknowledgements: transactions that carry some, and seeks.

use std::collections::BTreeMap;

use wherry_client::{CommitOffset, ConsumedRecord, TopicPartition};

use super::super::ack_id::AckId;
use super::super::window::NoLease;
use super::{Group, Outcome, offset};

/// What a transaction has of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    /// What it has to commit.
    pub next: Vec<CommitOffset>,
    windows: Vec<(u32, i64)>,
    /// Acknowledgements in it.
    pub count: usize,
}

impl Group {
    /// Whether a transaction may take these now: no commit is on its way, and no other transaction in theirs.
    #[must_use]
    pub fn may_lease(&self, ids: &[AckId]) -> bool {
        let leased = |id: &AckId| self.windows.get(&id.window).is_some_and(|partition| partition.window.leased());
        self.committing.is_none() && !ids.iter().any(leased)
    }

    /// Takes deliveries into a transaction that is about to commit, all or none.
    ///
    /// # Errors
    /// The first that can't be had.
    pub fn lease(&mut self, ids: &[AckId]) -> Result<Leased, (AckId, NoLease)> {
        let mut by_window: BTreeMap<u32, Vec<AckId>> = BTreeMap::new();
        for id in ids {
            by_window.entry(id.window).or_default().push(*id);
        }
        let mut leased = Leased { next: Vec::new(), windows: Vec::new(), count: 0 };
        for (window, mut ids) in by_window {
            ids.sort_unstable();
            ids.dedup();
            let taken = self.lease_in(window, &ids);
            match taken {
                Ok(next) => {
                    leased.windows.push((window, next.offset));
                    leased.next.push(next);
                    leased.count += ids.len();
                }
                Err(refused) => {
                    self.resolve(&leased, false);
                    return Err(refused);
                }
            }
        }
        Ok(leased)
    }

    fn lease_in(&mut self, window: u32, ids: &[AckId]) -> Result<CommitOffset, (AckId, NoLease)> {
        let of = |offset: i64| ids.iter().find(|id| id.offset == offset).copied().unwrap_or(ids[0]);
        let ours = ids.iter().all(|id| id.session == self.session);
        let Some(partition) = self.windows.get_mut(&window).filter(|_| ours) else {
            return Err((ids[0], NoLease::Lost));
        };
        let deliveries: Vec<(i64, u32)> = ids.iter().map(|id| (id.offset, id.attempt)).collect();
        let taken = partition.window.lease(&deliveries, self.beside_bytes);
        taken.map(|progress| offset(&partition.at, progress)).map_err(|(offset, why)| (of(offset), why))
    }

    /// The transaction is over: it was committed, or came to nothing.
    pub fn resolve(&mut self, leased: &Leased, committed: bool) {
        for (id, next) in &leased.windows {
            if let Some(partition) = self.windows.get_mut(id) {
                let told = partition.window.resolve(committed.then_some(*next));
                self.tell(*id, told, Outcome::Acknowledged);
            }
        }
        if committed {
            self.tally.acknowledged += leased.count as u64;
        }
    }

    /// The message of a delivery that is still valid.
    #[must_use]
    pub fn peek(&self, id: AckId) -> Option<&ConsumedRecord> {
        let window = self.windows.get(&id.window).filter(|_| id.session == self.session)?;
        window.window.peek(id.offset, id.attempt)
    }

    /// Which of these partitions it has.
    #[must_use]
    pub fn has(&self, at: &TopicPartition) -> bool {
        self.by_partition.contains_key(at)
    }

    /// Whether these partitions may be moved now: no commit is on its way, and no transaction in them.
    #[must_use]
    pub fn may_move(&self, partitions: &[TopicPartition]) -> bool {
        let leased = |at: &TopicPartition| {
            let partition = self.by_partition.get(at).and_then(|id| self.windows.get(id));
            partition.is_some_and(|partition| partition.window.leased())
        };
        self.committing.is_none() && !partitions.iter().any(leased)
    }

    /// These partitions go on from elsewhere: what was delivered of them is void, and nothing is taken until [`Group::moved`].
    pub fn start_move(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            self.end_window(at);
            self.moving.insert(at.clone());
        }
    }

    /// From here on what comes of these partitions is from their new place.
    pub fn moved(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if self.moving.remove(at) {
                self.open_window(at, self.generation);
            }
        }
    }
}
