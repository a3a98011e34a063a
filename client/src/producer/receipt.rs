//! Receipts: one allocation per batch, shared by the deliveries of all its records.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{ClientError, Result};
use crate::record::RecordMetadata;

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged.
    Delivered {
        /// Offset of the first record; -1 unknown.
        base_offset: i64,
        /// The broker's time for all records; -1 where they keep their own.
        append_time_ms: i64,
    },
    /// Given up.
    Failed(ClientError),
}

/// The receipt of a batch: open until it has an outcome, which never changes.
#[derive(Debug)]
pub(super) struct Receipt {
    topic: Arc<str>,
    partition: i32,
    outcome: OnceLock<Outcome>,
    wakers: Mutex<Vec<Waker>>,
}

impl Receipt {
    pub(super) fn new(topic: Arc<str>, partition: i32) -> Arc<Self> {
        Arc::new(Self { topic, partition, outcome: OnceLock::new(), wakers: Mutex::default() })
    }

    /// Settles it, once; a later outcome (of a batch given up and answered after all) is ignored. Wakes everyone.
    pub(super) fn settle(&self, outcome: Outcome) {
        let wakers = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if self.outcome.set(outcome).is_err() {
                return;
            }
            std::mem::take(&mut *wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// Topic and partition, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// The outcome, or a promise to wake; `slot` remembers the place of the caller's waker.
    fn poll(&self, context: &mut Context<'_>, slot: &mut Option<usize>) -> Poll<&Outcome> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Settling takes the same lock: what is not settled now will wake the waker put here.
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        match slot.and_then(|slot| wakers.get_mut(slot)) {
            Some(known) => known.clone_from(context.waker()),
            None => {
                *slot = Some(wakers.len());
                wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Until it has an outcome.
    pub(super) async fn settled(&self) {
        let mut slot = None;
        std::future::poll_fn(|context| self.poll(context, &mut slot).map(|_| ())).await;
    }
}

/// The future receipt of one record. Holds no task and no allocation of its own: it shares its batch's.
#[derive(Debug)]
#[must_use = "the receipt says whether the record was delivered"]
pub struct Delivery {
    receipt: Arc<Receipt>,
    index: u32,
    slot: Option<usize>,
    timestamp_ms: i64,
}

impl Delivery {
    pub(super) fn new(receipt: Arc<Receipt>, index: u32, timestamp_ms: i64) -> Self {
        Self { receipt, index, slot: None, timestamp_ms }
    }

    /// The partition that was chosen.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.receipt.partition
    }

    fn read(&self, outcome: &Outcome) -> Result<RecordMetadata> {
        match outcome {
            Outcome::Delivered { base_offset, append_time_ms } => Ok(RecordMetadata {
                topic: self.receipt.topic.clone(),
                partition: self.receipt.partition,
                offset: if *base_offset < 0 { -1 } else { base_offset.saturating_add(i64::from(self.index)) },
                timestamp_ms: if *append_time_ms < 0 { self.timestamp_ms } else { *append_time_ms },
            }),
            Outcome::Failed(error) => Err(error.clone()),
        }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match this.receipt.poll(context, &mut this.slot) {
            Poll::Ready(outcome) => Poll::Ready(this.read(outcome)),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_records_of_a_batch_learn_its_outcome_once() {
        let receipt = Receipt::new("t".into(), 3);
        let waiting: Vec<_> =
            (0..100).map(|i| tokio::spawn(Delivery::new(receipt.clone(), i, 1000 + i64::from(i)))).collect();
        tokio::task::yield_now().await;
        receipt.settle(Outcome::Delivered { base_offset: 50, append_time_ms: -1 });
        receipt.settle(Outcome::Failed(ClientError::Closed { what: "late" }));
        for (i, waiting) in (0..).zip(waiting) {
            let got = waiting.await.unwrap().unwrap();
            assert_eq!((got.partition, got.offset, got.timestamp_ms), (3, 50 + i, 1000 + i));
        }
    }

    #[tokio::test]
    async fn an_unknown_offset_stays_unknown() {
        let receipt = Receipt::new("t".into(), 0);
        receipt.settle(Outcome::Delivered { base_offset: -1, append_time_ms: 7 });
        let got = Delivery::new(receipt, 9, 1).await.unwrap();
        assert_eq!((got.offset, got.timestamp_ms), (-1, 7));
    }
}
