//! Taking back what certainly was not sent: for an application that keeps its records elsewhere while no broker answers.
//!
//! What is taken back is always the end of a partition's records: whoever sends it again later, behind what was left, keeps
//! the order.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Producer;
use super::lane::Settled;
use super::sender::{Sender, never_sent};

/// Added to the present, it is after every batch was opened.
const NO_BATCH_IS_NEWER: Duration = Duration::from_secs(1);

/// Whoever asked for it is told through these.
pub(super) type Asked = Vec<oneshot::Sender<()>>;

impl Producer {
    /// Settles with [`ClientError::Retry`](crate::ClientError::Retry) every record accepted before that no broker can have: those
    /// without a receipt afterwards are on their way, or may have been written, and get theirs as usual.
    pub async fn recall(&self) {
        let shared = &self.handle.shared;
        let (done, told) = oneshot::channel();
        shared.recalls.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        shared.ready.nudge();
        // An error means that the sender has ended: everything is settled.
        let _ = told.await;
    }
}

impl Sender {
    /// Does so, if somebody asked.
    pub(super) fn recall(&mut self, now: Instant) {
        let asked = std::mem::take(&mut *self.shared.recalls.lock().unwrap_or_else(PoisonError::into_inner));
        if asked.is_empty() {
            return;
        }
        let settled: Vec<Settled> = self.lanes.values_mut().flat_map(|slot| slot.lane.recall(now)).collect();
        self.finish(settled);
        for partition in self.shared.partitions() {
            for batch in partition.take_older(now + NO_BATCH_IS_NEWER) {
                let waited = now.saturating_duration_since(batch.opened);
                self.drop_open(&batch, never_sent(&batch, waited));
            }
        }
        for done in asked {
            // Whoever does not wait any more has what it asked for all the same.
            let _ = done.send(());
        }
    }
}
