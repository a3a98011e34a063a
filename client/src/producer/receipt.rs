//! Receipts: one allocation per batch, shared by the deliveries of all its records.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{ClientError, Result};
use crate::record::RecordMetadata;

/// What became of a batch.
#[derive(Debug, Clone)]
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
    /// Too large for the broker: sent again as two, each with a receipt of its own.
    Split {
        /// Index of the first record of the second half.
        at: u32,
        /// Of the records before.
        first: Arc<Receipt>,
        /// Of the records from there on.
        second: Arc<Receipt>,
    },
    /// Some records were there already; the others are sent again without them.
    Parted {
        /// What became of each.
        fates: Arc<[Fate]>,
        /// Of the others, if there are any.
        rest: Option<Arc<Receipt>>,
    },
}

/// What became of a record of a batch of which some records were there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was there, at this offset; -1 unknown.
    Known(i64),
    /// It is sent with the rest, in this place.
    Sent(u32),
    /// It has the same message id as that record of the rest.
    Repeats(u32),
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

    /// An open receipt for the same partition.
    pub(super) fn another(&self) -> Arc<Self> {
        Self::new(self.topic.clone(), self.partition)
    }

    /// Topic and partition, for messages.
    pub(super) fn place(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }

    /// Whether every record of it has its outcome.
    pub(super) fn is_settled(&self) -> bool {
        match self.outcome.get() {
            None => false,
            Some(Outcome::Delivered { .. } | Outcome::Failed(_)) => true,
            Some(Outcome::Split { first, second, .. }) => first.is_settled() && second.is_settled(),
            Some(Outcome::Parted { rest, .. }) => rest.as_ref().is_none_or(|rest| rest.is_settled()),
        }
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

    /// Until every record of it has its outcome.
    pub(super) async fn settled(self: Arc<Self>) {
        let mut open = vec![self];
        while let Some(receipt) = open.pop() {
            let mut slot = None;
            let outcome = std::future::poll_fn(|context| receipt.poll(context, &mut slot).map(Outcome::clone)).await;
            match outcome {
                Outcome::Split { first, second, .. } => open.extend([first, second]),
                Outcome::Parted { rest, .. } => open.extend(rest),
                Outcome::Delivered { .. } | Outcome::Failed(_) => {}
            }
        }
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
    /// It has the message id of a record before it.
    duplicate: bool,
}

impl Delivery {
    pub(super) fn new(receipt: Arc<Receipt>, index: u32, timestamp_ms: i64) -> Self {
        Self { receipt, index, slot: None, timestamp_ms, duplicate: false }
    }

    /// The partition that was chosen.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.receipt.partition
    }

    /// What the outcome means for this record; `None` where it now waits for that of another batch.
    fn read(&mut self, outcome: &Outcome) -> Option<Result<RecordMetadata>> {
        Some(match outcome {
            Outcome::Delivered { base_offset, append_time_ms } => Ok(RecordMetadata {
                topic: self.receipt.topic.clone(),
                partition: self.receipt.partition,
                offset: if *base_offset < 0 { -1 } else { base_offset.saturating_add(i64::from(self.index)) },
                timestamp_ms: if *append_time_ms < 0 { self.timestamp_ms } else { *append_time_ms },
                duplicate: self.duplicate,
            }),
            Outcome::Parted { fates, rest } => {
                match (usize::try_from(self.index).ok().and_then(|i| fates.get(i)), rest) {
                    (Some(Fate::Sent(index)), Some(rest)) => return self.follow(rest, *index),
                    (Some(Fate::Repeats(index)), Some(rest)) => {
                        self.duplicate = true;
                        return self.follow(rest, *index);
                    }
                    (Some(Fate::Known(offset)), _) => Ok(self.known_at(*offset)),
                    (Some(Fate::Sent(_) | Fate::Repeats(_)) | None, _) => Ok(self.known_at(-1)),
                }
            }
            Outcome::Failed(error) => Err(error.clone()),
            Outcome::Split { at, first, second } => {
                return match self.index.checked_sub(*at) {
                    None => self.follow(first, self.index),
                    Some(index) => self.follow(second, index),
                };
            }
        })
    }

    /// Waits for another receipt from here on.
    fn follow(&mut self, receipt: &Arc<Receipt>, index: u32) -> Option<Result<RecordMetadata>> {
        self.slot = None;
        self.index = index;
        self.receipt = receipt.clone();
        None
    }

    fn known_at(&self, offset: i64) -> RecordMetadata {
        let (topic, partition) = (self.receipt.topic.clone(), self.receipt.partition);
        RecordMetadata { topic, partition, offset, timestamp_ms: self.timestamp_ms, duplicate: true }
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let receipt = this.receipt.clone();
            let Poll::Ready(outcome) = receipt.poll(context, &mut this.slot) else { return Poll::Pending };
            if let Some(result) = this.read(outcome) {
                return Poll::Ready(result);
            }
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
    async fn the_records_of_a_split_batch_follow_their_halves() {
        let receipt = Receipt::new("t".into(), 0);
        let (first, second) = (Receipt::new("t".into(), 0), Receipt::new("t".into(), 0));
        let waiting: Vec<_> = (0..5).map(|i| tokio::spawn(Delivery::new(receipt.clone(), i, 0))).collect();
        let all = tokio::spawn(receipt.clone().settled());
        tokio::task::yield_now().await;
        receipt.settle(Outcome::Split { at: 2, first: first.clone(), second: second.clone() });
        assert!(!receipt.is_settled());
        second.settle(Outcome::Delivered { base_offset: 100, append_time_ms: -1 });
        first.settle(Outcome::Delivered { base_offset: 7, append_time_ms: -1 });
        all.await.unwrap();
        let mut offsets = Vec::new();
        for waiting in waiting {
            offsets.push(waiting.await.unwrap().unwrap().offset);
        }
        assert_eq!((offsets, receipt.is_settled()), (vec![7, 8, 100, 101, 102], true));
    }

    #[tokio::test]
    async fn records_of_a_batch_that_shrank_learn_where_they_are() {
        let (receipt, rest) = (Receipt::new("t".into(), 2), Receipt::new("t".into(), 2));
        let waiting: Vec<_> = (0..4).map(|i| tokio::spawn(Delivery::new(receipt.clone(), i, 5))).collect();
        tokio::task::yield_now().await;
        let fates = [Fate::Sent(0), Fate::Known(40), Fate::Repeats(0), Fate::Known(-1)];
        receipt.settle(Outcome::Parted { fates: fates.into(), rest: Some(rest.clone()) });
        assert!(!receipt.is_settled());
        rest.settle(Outcome::Delivered { base_offset: 90, append_time_ms: -1 });
        assert!(receipt.is_settled());
        let mut told = Vec::new();
        for waiting in waiting {
            let got = waiting.await.unwrap().unwrap();
            told.push((got.offset, got.duplicate));
        }
        assert_eq!(told, [(90, false), (40, true), (90, true), (-1, true)]);
    }

    #[tokio::test]
    async fn an_unknown_offset_stays_unknown() {
        let receipt = Receipt::new("t".into(), 0);
        receipt.settle(Outcome::Delivered { base_offset: -1, append_time_ms: 7 });
        let got = Delivery::new(receipt, 9, 1).await.unwrap();
        assert_eq!((got.offset, got.timestamp_ms), (-1, 7));
    }
}
