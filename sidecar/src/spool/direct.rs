//! Messages that went past the spool, to the cluster, until they are decided.
//!
//! A copy of each is kept (it shares the message's memory) for the case that the producer gives it back. Where a message of a topic
//! has to wait, those of the same topic wait behind it; others pass.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::BoxFuture;
use wherry_client::{ClientError, RecordMetadata};

use super::Offer;
use crate::backend::{Backend, Taken};
use crate::publish::lanes::{Lanes, Ticket};

/// What became of a message, by its number.
pub(super) type Decided = (u64, Result<RecordMetadata, ClientError>);

/// A topic whose next message waits for buffer space, or for the cluster.
struct Slow<R> {
    head: u64,
    send: BoxFuture<'static, Result<R, ClientError>>,
    behind: VecDeque<u64>,
}

/// See the module.
pub(super) struct Direct<B: Backend> {
    backend: B,
    lanes: Lanes<B::Receipt>,
    /// Undecided, by number: the order in which they came.
    offers: BTreeMap<u64, Offer>,
    next: u64,
    slow: HashMap<Arc<str>, Slow<B::Receipt>, RandomState>,
    decided: Vec<Decided>,
}

impl<B: Backend> Direct<B> {
    pub(super) fn new(backend: B) -> Self {
        Self {
            backend,
            lanes: Lanes::new(),
            offers: BTreeMap::new(),
            next: 0,
            slow: HashMap::default(),
            decided: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    /// Since when the oldest is undecided.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.offers.first_key_value().map(|(_, offer)| offer.since)
    }

    /// Hands a message to the cluster.
    pub(super) fn give(&mut self, offer: Offer) {
        let number = self.next;
        self.next += 1;
        let topic = offer.record.topic.clone();
        self.offers.insert(number, offer);
        match self.slow.get_mut(&topic) {
            Some(slow) => slow.behind.push_back(number),
            None => self.hand(number, VecDeque::new()),
        }
    }

    /// Hands one over; where it must wait, so do those behind it.
    fn hand(&mut self, number: u64, mut behind: VecDeque<u64>) {
        let mut number = Some(number);
        while let Some(head) = number {
            let Some(offer) = self.offers.get(&head) else { return };
            let topic = offer.record.topic.clone();
            match self.backend.try_send(offer.record.clone()) {
                Ok(Taken::Now(receipt)) => self.taken(head, receipt),
                Ok(Taken::Later(record)) => {
                    let send = self.backend.send(record).boxed();
                    self.slow.insert(topic, Slow { head, send, behind });
                    return;
                }
                Err(error) => self.decided.push((head, Err(error))),
            }
            number = behind.pop_front();
        }
    }

    fn taken(&mut self, number: u64, receipt: B::Receipt) {
        if let Some(offer) = self.offers.get(&number) {
            let ticket = Ticket { correlation_id: number, bytes: offer.bytes, since: offer.since };
            self.lanes.push(ticket, receipt);
        }
    }

    /// What is decided. With `all`, receipts behind open ones are looked at as well.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, all: bool) -> Vec<Decided> {
        let ready: Vec<_> = self
            .slow
            .iter_mut()
            .filter_map(|(topic, slow)| match slow.send.poll_unpin(context) {
                Poll::Ready(outcome) => Some((topic.clone(), outcome)),
                Poll::Pending => None,
            })
            .collect();
        for (topic, outcome) in ready {
            let Some(Slow { head, mut behind, .. }) = self.slow.remove(&topic) else { continue };
            match outcome {
                Ok(receipt) => self.taken(head, receipt),
                Err(error) => self.decided.push((head, Err(error))),
            }
            if let Some(next) = behind.pop_front() {
                self.hand(next, behind);
                // What waits anew must be polled once, or nothing wakes it.
                context.waker().wake_by_ref();
            }
        }
        let decided = &mut self.decided;
        let known = |ticket: Ticket, outcome| decided.push((ticket.correlation_id, outcome));
        if all {
            self.lanes.collect_all(context, known);
        } else {
            self.lanes.collect(context, usize::MAX, known);
        }
        std::mem::take(&mut self.decided)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Offer> {
        self.offers.remove(&number)
    }

    /// Takes back what was not handed over yet.
    pub(super) fn take_slow(&mut self) -> Vec<(u64, Offer)> {
        let slow = std::mem::take(&mut self.slow).into_values();
        let numbers: Vec<u64> = slow.flat_map(|slow| std::iter::once(slow.head).chain(slow.behind)).collect();
        numbers.into_iter().filter_map(|number| Some((number, self.offers.remove(&number)?))).collect()
    }
}
