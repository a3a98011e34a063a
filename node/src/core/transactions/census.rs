//! What the metrics say of transactions: what has ended is counted as it happens; what there is, once in a while, since that
//! looks at all of them.

use super::TransactionDesk;
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::COORDINATOR_CENSUS_MS;
use crate::stats::TransactionStats;
use crate::transactions::{Tally, TransactionsStats};

impl TransactionDesk {
    /// Something happened to a transaction.
    pub(super) fn ask_census(&mut self, now_ns: u64) {
        self.census_ns.get_or_insert(now_ns.saturating_add(COORDINATOR_CENSUS_MS * 1_000_000));
    }
}

impl TransactionStats {
    fn add(&self, tally: Tally) {
        let Tally { committed, aborted, timed_out, expired_ids } = tally;
        for (counter, count) in [
            (&self.committed, committed),
            (&self.aborted, aborted),
            (&self.timed_out, timed_out),
            (&self.expired_ids, expired_ids),
        ] {
            counter.add(count);
        }
    }

    fn set(&self, now: &TransactionsStats, now_ms: i64) {
        for (gauge, count) in self.states.iter().zip(now.states) {
            gauge.set(count as u64);
        }
        self.pending_markers.set(now.untold as u64);
        // The wall clock may have been set back since it began.
        let age_ms = now.oldest_start_ms.map_or(0, |start_ms| now_ms.saturating_sub(start_ms));
        self.oldest_age_ms.set(u64::try_from(age_ms).unwrap_or(0));
    }
}

impl<S: LogStore> Core<S> {
    /// A coordinator has made a step.
    pub(super) fn transactions_moved(&mut self, tally: Tally) {
        self.stats.transactions.add(tally);
        self.transactions.ask_census(self.now.monotonic_ns);
    }

    /// Counts the transactions, if it is time.
    pub(crate) fn count_transactions(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if self.transactions.census_ns.take_if(|at_ns| *at_ns <= now_ns).is_none() {
            return;
        }
        let mut all = TransactionsStats::default();
        // Until its log is read to the end, a coordinator takes what has long ended for open.
        for (_, seat) in self.transactions.seats.iter().filter(|(_, seat)| seat.is_serving()) {
            all += seat.machine.stats();
        }
        self.stats.transactions.set(&all, self.now.wall_ms);
        if all.oldest_start_ms.is_some() {
            // It grows older, whether or not anything happens.
            self.transactions.ask_census(now_ns);
        }
    }
}
