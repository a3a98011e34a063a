//! Numbers for metrics: how many transactions are where, and what has become of them.

use super::Transactions;
use super::transaction::Transaction;
use super::types::StateName;

/// Transactional ids as they are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionsStats {
    /// All of them.
    pub ids: usize,
    /// By the state of their newest transaction, in the order of [`StateName::ALL`]. Those whose first record is on its way
    /// have none.
    pub states: [usize; StateName::ALL.len()],
    /// Partitions that are being told how a transaction ends, and have not said yet that they know.
    pub untold: usize,
    /// When the oldest transaction began of those that are open, or whose end is not known to all of its partitions.
    pub oldest_start_ms: Option<i64>,
}

impl std::ops::AddAssign for TransactionsStats {
    fn add_assign(&mut self, more: Self) {
        let Self { ids, states, untold, oldest_start_ms } = more;
        self.ids += ids;
        for (sum, count) in self.states.iter_mut().zip(states) {
            *sum += count;
        }
        self.untold += untold;
        self.oldest_start_ms = self.oldest_start_ms.into_iter().chain(oldest_start_ms).min();
    }
}

impl TransactionsStats {
    fn count(&mut self, current: &Transaction) {
        for (count, _) in self.states.iter_mut().zip(StateName::ALL).filter(|(_, state)| *state == current.state) {
            *count += 1;
        }
        let is_under_way = current.state == StateName::Ongoing || current.state.is_prepared();
        let start_ms = Some(current.start_ms).filter(|_| is_under_way);
        self.oldest_start_ms = self.oldest_start_ms.into_iter().chain(start_ms).min();
    }
}

/// What has happened since it was last asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions of which it was decided that they commit.
    pub committed: u64,
    /// The same, that they abort, for whatever reason.
    pub aborted: u64,
    /// Those of them that were open for too long.
    pub timed_out: u64,
    /// Transactional ids that were forgotten because nobody used them.
    pub expired_ids: u64,
}

impl Tally {
    /// A record is committed. `by_itself`: nobody had asked for it.
    pub(super) fn note(&mut self, before: Option<StateName>, next: Option<&Transaction>, by_itself: bool) {
        let Some(next) = next else {
            self.expired_ids += 1;
            return;
        };
        // What was not open had nothing in it: such an end bumps the epoch alone.
        let was_open = before == Some(StateName::Ongoing);
        match next.state {
            StateName::PrepareCommit if was_open => self.committed += 1,
            StateName::PrepareAbort if was_open => {
                self.aborted += 1;
                self.timed_out += u64::from(by_itself);
            }
            StateName::PrepareCommit
            | StateName::PrepareAbort
            | StateName::Empty
            | StateName::Ongoing
            | StateName::CompleteCommit
            | StateName::CompleteAbort => {}
        }
    }
}

impl Transactions {
    /// Numbers for metrics; looks at every transactional id.
    pub fn stats(&self) -> TransactionsStats {
        let mut stats = TransactionsStats { ids: self.entries.len(), ..TransactionsStats::default() };
        for entry in self.entries.values() {
            stats.untold += entry.untold.len();
            if let Some(current) = &entry.current {
                stats.count(current);
            }
        }
        stats
    }

    /// What has happened since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }
}
