//! Receipts that are waited for, without a task, a timer or an allocation for each.
//!
//! Receipts of one lane mostly resolve in order, so only the oldest of each lane is polled and registers a waker. A receipt that resolves
//! before an older one of its lane is seen when that one resolves. Those that resolve in no order have no lane, and pay for it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

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
    /// Those without a lane.
    any: FuturesUnordered<Ticketed<R>>,
    messages: usize,
    bytes: usize,
}

/// A receipt with what it is for.
#[derive(Debug)]
struct Ticketed<R>(Ticket, R);

impl<R: Receipt> Future for Ticketed<R> {
    type Output = (Ticket, R::Output);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.0;
        Pin::new(&mut self.1).poll(context).map(|outcome| (ticket, outcome))
    }
}

impl<R: Receipt> Lanes<R> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { lanes: Vec::new(), any: FuturesUnordered::new(), messages: 0, bytes: 0 }
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
        self.messages += 1;
        self.bytes += ticket.bytes;
        let Some(lane) = receipt.lane().map(|lane| lane % LANES) else {
            return self.any.push(Ticketed(ticket, receipt));
        };
        while self.lanes.len() <= lane {
            self.lanes.push(VecDeque::new());
        }
        self.lanes[lane].push_back((ticket, receipt));
    }

    /// Hands out results that are known, at most `most`. Registers the waker for the rest; if it stopped at `most` it does not.
    pub fn collect(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
        mut known: impl FnMut(Ticket, R::Output),
    ) -> usize {
        let mut count = 0;
        while count < most
            && !self.any.is_empty()
            && let Poll::Ready(Some((ticket, outcome))) = self.any.poll_next_unpin(context)
        {
            count += 1;
            self.messages -= 1;
            self.bytes -= ticket.bytes;
            known(ticket, outcome);
        }
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

    /// Hands out all results that are known, those behind older ones of their lane as well.
    pub fn collect_all(&mut self, context: &mut Context<'_>, mut known: impl FnMut(Ticket, R::Output)) {
        self.collect(context, usize::MAX, &mut known);
        for lane in &mut self.lanes {
            lane.retain_mut(|(ticket, receipt)| {
                let Poll::Ready(outcome) = Pin::new(receipt).poll(context) else { return true };
                self.messages -= 1;
                self.bytes -= ticket.bytes;
                known(*ticket, outcome);
                false
            });
        }
    }
}

impl<R: Receipt> Default for Lanes<R> {
    fn default() -> Self {
        Self::new()
    }
}
