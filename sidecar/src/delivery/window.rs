//! One partition, as long as one membership owns it: what is delivered, what is settled, what may be committed.
//!
//! Pure: inputs carry the time, nothing is sent or awaited here. It knows nothing of receivers but their name, nothing of bytes but
//! their number.
//!
//! ```text
//!             take                ack                  prefix           committed
//!   Queued ----------> Held ---------------> Done --------------> out -----------> confirmed
//!     ^                  |
//!     +------------------+   nack, timeout, receiver gone: the cursor goes back to it
//! ```
//! Messages are delivered at the cursor, in order. When the cursor went back, the messages behind it are delivered again after the one
//! that it went back to, except those that were settled meanwhile: until its next delivery, a held message may still be acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

/// Those who wait for an acknowledgement to be confirmed; nearly always one.
pub type Waiters<W> = SmallVec<[W; 1]>;

/// One partition during one ownership. `M` is the message, `O` names a receiver, `W` someone who waits for a confirmation.
#[derive(Debug)]
pub struct Window<M, O, W> {
    /// Messages that are not both settled and part of the prefix, by ascending offset.
    entries: VecDeque<Entry<M, O, W>>,
    /// Index of the next entry to deliver; never points to a `Done` one.
    cursor: usize,
    /// Entries that are `Held`.
    held: usize,
    bytes: usize,
    /// All messages below this offset are settled. `None` until the first message came.
    prefix: Option<i64>,
    /// All below this is durably committed.
    committed: i64,
    /// Acknowledged messages of the prefix that are not committed yet, by ascending offset.
    confirming: VecDeque<(i64, Waiters<W>)>,
    /// Highest offset that ever came, plus one.
    next: i64,
    /// No held entry times out before this.
    earliest_timeout: Option<Instant>,
}

#[derive(Debug)]
struct Entry<M, O, W> {
    offset: i64,
    bytes: usize,
    attempt: u32,
    message: M,
    state: State<O, W>,
}

#[derive(Debug)]
enum State<O, W> {
    /// To be delivered, not before this time.
    Queued(Option<Instant>),
    /// Delivered.
    Held { by: O, until: Instant },
    /// Acknowledged.
    Done(Waiters<W>),
}

/// A message to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken<M> {
    /// Its offset.
    pub offset: i64,
    /// Which delivery this is, from 1.
    pub attempt: u32,
    /// Its size.
    pub bytes: usize,
    /// The message.
    pub message: M,
}

/// What became of an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// Durable already.
    Confirmed,
    /// Taken; whoever waits is told when it is durable.
    Waiting,
    /// This delivery is no longer the valid one.
    Lost,
}

impl<M: Clone, O: Copy + PartialEq, W> Window<M, O, W> {
    /// A window into a partition of which nothing has come yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            cursor: 0,
            held: 0,
            bytes: 0,
            prefix: None,
            committed: 0,
            confirming: VecDeque::new(),
            next: i64::MIN,
            earliest_timeout: None,
        }
    }

    /// A message came from the cluster. Offsets ascend; one that came before is ignored (`false`).
    pub fn push(&mut self, offset: i64, bytes: usize, message: M) -> bool {
        if offset < self.next || offset == i64::MAX {
            return false;
        }
        self.next = offset + 1;
        if self.prefix.is_none() {
            self.prefix = Some(offset);
            self.committed = offset;
        }
        self.bytes += bytes;
        self.entries.push_back(Entry { offset, bytes, attempt: 0, message, state: State::Queued(None) });
        true
    }

    /// The next message for `by`, if one may be delivered now.
    pub fn take(&mut self, now: Instant, by: O, timeout: Duration) -> Option<Taken<M>> {
        if self.blocked_until().is_some_and(|until| now < until) {
            return None;
        }
        let entry = self.entries.get_mut(self.cursor)?;
        if !matches!(entry.state, State::Held { .. }) {
            self.held += 1;
        }
        let until = now + timeout;
        entry.state = State::Held { by, until };
        entry.attempt = entry.attempt.saturating_add(1);
        let taken =
            Taken { offset: entry.offset, attempt: entry.attempt, bytes: entry.bytes, message: entry.message.clone() };
        self.earliest_timeout = Some(self.earliest_timeout.map_or(until, |earliest| earliest.min(until)));
        self.cursor += 1;
        self.skip_done();
        Some(taken)
    }

    /// Acknowledges a delivery.
    pub fn ack(&mut self, offset: i64, attempt: u32, waiter: W) -> Acked {
        if self.prefix.is_some_and(|prefix| offset < prefix) {
            return self.ack_again(offset, waiter);
        }
        let Some(entry) = self.entry(offset) else { return Acked::Lost };
        match &mut entry.state {
            State::Done(waiters) => waiters.push(waiter),
            State::Held { .. } if entry.attempt == attempt => {
                entry.state = State::Done(SmallVec::from_iter([waiter]));
                self.held -= 1;
                self.skip_done();
                self.advance();
            }
            State::Held { .. } | State::Queued(_) => return Acked::Lost,
        }
        Acked::Waiting
    }

    /// Of a message that is part of the prefix.
    fn ack_again(&mut self, offset: i64, waiter: W) -> Acked {
        if offset < self.committed {
            return Acked::Confirmed;
        }
        match self.confirming.binary_search_by_key(&offset, |(offset, _)| *offset) {
            Ok(at) => {
                self.confirming[at].1.push(waiter);
                Acked::Waiting
            }
            Err(_) => Acked::Lost,
        }
    }

    /// Hands a delivery back; `false` if it is no longer the valid one.
    pub fn nack(&mut self, offset: i64, attempt: u32, not_before: Option<Instant>) -> bool {
        let Some(index) = self.index(offset) else { return false };
        if !self.entries[index].is_held(attempt) {
            return false;
        }
        self.requeue(index, not_before);
        true
    }

    /// Gives a delivery a new timeout; `false` if it is no longer the valid one.
    pub fn extend(&mut self, offset: i64, attempt: u32, new: Instant) -> bool {
        let Some(entry) = self.entry(offset).filter(|entry| entry.is_held(attempt)) else { return false };
        if let State::Held { until, .. } = &mut entry.state {
            *until = new;
        }
        self.earliest_timeout = Some(self.earliest_timeout.map_or(new, |earliest| earliest.min(new)));
        true
    }

    /// Takes everything back from a receiver that is gone; answers with how many messages that were.
    pub fn release(&mut self, gone: O) -> usize {
        self.requeue_where(|state| matches!(state, State::Held { by, .. } if *by == gone))
    }

    /// Takes back what timed out; answers with how many messages that were.
    pub fn tick(&mut self, now: Instant) -> usize {
        if self.earliest_timeout.is_none_or(|earliest| now < earliest) {
            return 0;
        }
        let expired = self.requeue_where(|state| matches!(state, State::Held { until, .. } if *until <= now));
        let timeouts = self.entries.iter().filter_map(|entry| match entry.state {
            State::Held { until, .. } => Some(until),
            State::Queued(_) | State::Done(_) => None,
        });
        self.earliest_timeout = timeouts.min();
        expired
    }

    /// Up to where a commit is due: all below this offset is settled, and not all of it is committed.
    #[must_use]
    pub fn commit_due(&self) -> Option<i64> {
        self.prefix.filter(|prefix| *prefix > self.committed)
    }

    /// A commit up to `next` is durable; answers with those who waited for it, by offset.
    pub fn committed(&mut self, next: i64) -> Vec<(i64, Waiters<W>)> {
        self.committed = self.committed.max(next);
        let count = self.confirming.partition_point(|(offset, _)| *offset < next);
        self.confirming.drain(..count).collect()
    }

    /// Everyone who waits for a confirmation of something that is part of the prefix, because it can't be committed.
    pub fn uncommittable(&mut self) -> Vec<(i64, Waiters<W>)> {
        self.confirming.iter_mut().map(|(offset, waiters)| (*offset, std::mem::take(waiters))).collect()
    }

    /// The ownership ends: everyone who still waits for a confirmation, by offset.
    pub fn end(self) -> Vec<(i64, Waiters<W>)> {
        let done = self.entries.into_iter().filter_map(|entry| match entry.state {
            State::Done(waiters) => Some((entry.offset, waiters)),
            State::Queued(_) | State::Held { .. } => None,
        });
        self.confirming.into_iter().chain(done).collect()
    }

    /// Messages that wait for delivery, or for another one; settled ones among them are counted.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.entries.len() - self.cursor
    }

    /// Messages that are delivered and not settled.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Messages in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no message is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Earliest time at which the next message may be delivered, where that was asked for.
    #[must_use]
    pub fn blocked_until(&self) -> Option<Instant> {
        match self.entries.get(self.cursor)?.state {
            State::Queued(not_before) => not_before,
            State::Held { .. } | State::Done(_) => None,
        }
    }

    /// When [`Window::tick`] should be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.earliest_timeout
    }

    fn index(&self, offset: i64) -> Option<usize> {
        self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()
    }

    fn entry(&mut self, offset: i64) -> Option<&mut Entry<M, O, W>> {
        let index = self.index(offset)?;
        self.entries.get_mut(index)
    }

    fn requeue(&mut self, index: usize, not_before: Option<Instant>) {
        self.entries[index].state = State::Queued(not_before);
        self.held -= 1;
        self.cursor = self.cursor.min(index);
    }

    fn requeue_where(&mut self, wanted: impl Fn(&State<O, W>) -> bool) -> usize {
        let found: Vec<usize> =
            self.entries.iter().enumerate().filter(|(_, entry)| wanted(&entry.state)).map(|(index, _)| index).collect();
        found.iter().for_each(|index| self.requeue(*index, None));
        found.len()
    }

    fn skip_done(&mut self) {
        while let Some(Entry { state: State::Done(_), .. }) = self.entries.get(self.cursor) {
            self.cursor += 1;
        }
    }

    /// Moves the acknowledged messages at the front into the prefix.
    fn advance(&mut self) {
        while let Some(Entry { state: State::Done(_), .. }) = self.entries.front()
            && let Some(entry) = self.entries.pop_front()
            && let State::Done(waiters) = entry.state
        {
            self.cursor = self.cursor.saturating_sub(1);
            self.bytes -= entry.bytes;
            self.prefix = Some(entry.offset + 1);
            self.confirming.push_back((entry.offset, waiters));
        }
    }
}

impl<M: Clone, O: Copy + PartialEq, W> Default for Window<M, O, W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M, O, W> Entry<M, O, W> {
    fn is_held(&self, attempt: u32) -> bool {
        self.attempt == attempt && matches!(self.state, State::Held { .. })
    }
}

#[cfg(test)]
mod tests;
