//! Receipts that are waited for, without a task, a timer or an allocation for each.
//!
//! Receipts of one lane mostly resolve in order, so only the oldest of each lane is polled and registers a waker. A receipt that resolves
//! before an older one of its lane is seen when that one resolves.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use wherry_client::{ClientError, RecordMetadata};

use crate::backend::Receipt;

/// Lanes at most; higher numbers share.
const LANES: usize = 64;

/// What is known about a message that has no result yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The application's number for it.
    pub correlation_id: u64,
    /// Its size.
    pub bytes: usize,
    /// When it was taken.
    pub since: Instant,
}

/// Receipts that are waited for.
#[derive(Debug)]
pub struct Lanes<R> {
    lanes: Vec<VecDeque<(Ticket, R)>>,
    messages: usize,
    bytes: usize,
}

impl<R: Receipt> Lanes<R> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { lanes: Vec::new(), messages: 0, bytes: 0 }
    }

    /// Messages without a result.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Bytes of messages without a result.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits for one more.
    pub fn push(&mut self, ticket: Ticket, receipt: R) {
        let lane = receipt.lane() % LANES;
        while self.lanes.len() <= lane {
            self.lanes.push(VecDeque::new());
        }
        self.messages += 1;
        self.bytes += ticket.bytes;
        self.lanes[lane].push_back((ticket, receipt));
    }

    /// Hands out results that are known, at most `most`. Registers the waker for the rest; if it stopped at `most` it does not.
    pub fn collect(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
        mut known: impl FnMut(Ticket, Result<RecordMetadata, ClientError>),
    ) -> usize {
        let mut count = 0;
        for lane in &mut self.lanes {
            while count < most
                && let Some((ticket, receipt)) = lane.front_mut()
                && let Poll::Ready(outcome) = Pin::new(receipt).poll(context)
            {
                count += 1;
                self.messages -= 1;
                self.bytes -= ticket.bytes;
                known(*ticket, outcome);
                lane.pop_front();
            }
        }
        count
    }
}

impl<R: Receipt> Default for Lanes<R> {
    fn default() -> Self {
        Self::new()
    }
}
