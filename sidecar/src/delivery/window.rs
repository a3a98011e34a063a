//! One partition, as long as one membership owns it: what is delivered, what is settled, what may be committed.
//!
//! Pure: inputs carry the time, nothing is sent or awaited here. It knows nothing of receivers but their name, nothing of bytes but
//! their number.
//!
//! ```text
//!             take                ack                  prefix           committed
//!   Queued ----------> Held ---------------> Done --------------> out -----------> confirmed
//!     ^                |  ^                   ^ | committed beside the prefix
//!     +----------------+  | lease, resolve    | +--> confirmed
//!                         v                   |
//!                       Leased ---------------+   a transaction commits
//! ```
//! What is nacked, times out or loses its receiver goes back to `Queued`, and the cursor with it. Acknowledged messages above the prefix
//! are committed beside it ([`super::progress`]), as many of the lowest runs as fit; while some do not fit, nothing new is delivered.
//!
//! Messages are delivered at the cursor, in order. When the cursor went back, the messages behind it are delivered again after the one
//! that it went back to, except those that were settled meanwhile: until its next delivery, a held message may still be acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::progress::{self, Runs};

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
    confirming: VecDeque<Confirming<W>>,
    /// Highest offset that ever came, plus one.
    next: i64,
    /// No held entry times out before this.
    earliest_timeout: Option<Instant>,
    /// Acknowledged, durably, before this ownership began, above the prefix: these are not delivered.
    resumed: VecDeque<(i64, i64)>,
    /// Entries that are `Done`.
    above: usize,
    /// Something above the prefix is acknowledged that no commit covers, and that may fit into the next one.
    dirty: bool,
    /// Something above the prefix is acknowledged that did not fit into the last commit.
    unfit: bool,
    /// Highest offset that was acknowledged above the prefix.
    highest_done: i64,
    /// A transaction is about to commit: no other commit may pass it.
    leased: bool,
}

#[derive(Debug)]
struct Confirming<W> {
    offset: i64,
    /// A commit covered it when it was still above the prefix.
    durable: bool,
    waiters: Waiters<W>,
}

#[derive(Debug)]
struct Entry<M, O, W> {
    offset: i64,
    bytes: usize,
    attempt: u32,
    /// `None` once it is acknowledged: nobody needs it any more.
    message: Option<M>,
    state: State<O, W>,
}

#[derive(Debug)]
enum State<O, W> {
    /// To be delivered, not before this time.
    Queued(Option<Instant>),
    /// Delivered.
    Held { by: O, until: Instant },
    /// In a transaction that is being committed; the receiver may have gone meanwhile.
    Leased { by: Option<O>, until: Instant },
    /// Acknowledged.
    Done(Waiters<W>, Durable),
}

/// Whether a commit covers an acknowledged message above the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durable {
    No,
    /// One does that is on its way.
    Soon,
    Yes,
}

/// What is to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// All below this is settled.
    pub next: i64,
    /// What is settled above it, as it is written beside it.
    pub beside: String,
}

/// Why a transaction can't have a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLease {
    /// It is no longer the valid one.
    Lost,
    /// Too much is acknowledged above messages that are not.
    Scattered,
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
            resumed: VecDeque::new(),
            above: 0,
            dirty: false,
            unfit: false,
            highest_done: i64::MIN,
            leased: false,
        }
    }

    /// The group had left off here, with these acknowledged above. Before the first message comes.
    pub fn resume(&mut self, committed: i64, above: Runs) {
        if self.prefix.is_none() {
            self.prefix = Some(committed);
            self.committed = committed;
            self.resumed = above.into();
        }
    }

    /// Whether it is known where it begins.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.prefix.is_some()
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
        let run = self.resumed.partition_point(|(_, to)| *to <= offset);
        let known = self.resumed.get(run).is_some_and(|(from, _)| *from <= offset);
        if known || self.prefix.is_some_and(|prefix| offset < prefix) {
            self.absorb();
            return true;
        }
        self.bytes += bytes;
        self.entries.push_back(Entry { offset, bytes, attempt: 0, message: Some(message), state: State::Queued(None) });
        true
    }

    /// Moves what was acknowledged before this ownership into the prefix, where nothing unsettled is below it.
    fn absorb(&mut self) {
        while let Some((from, to)) = self.resumed.front().copied()
            && self.next > from
            && self.entries.front().is_none_or(|entry| entry.offset >= to)
        {
            self.prefix = self.prefix.max(Some(to));
            self.resumed.pop_front();
        }
    }

    /// The next message for `by`, if one may be delivered now.
    pub fn take(&mut self, now: Instant, by: O, timeout: Duration) -> Option<Taken<M>> {
        if self.held_back() || self.blocked_until().is_some_and(|until| now < until) {
            return None;
        }
        let entry = self.entries.get_mut(self.cursor)?;
        let message = entry.message.clone()?;
        if !matches!(entry.state, State::Held { .. }) {
            self.held += 1;
        }
        let until = now + timeout;
        entry.state = State::Held { by, until };
        entry.attempt = entry.attempt.saturating_add(1);
        let taken = Taken { offset: entry.offset, attempt: entry.attempt, bytes: entry.bytes, message };
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
        let Some(index) = self.index(offset) else { return Acked::Lost };
        let entry = &mut self.entries[index];
        match &mut entry.state {
            State::Done(_, Durable::Yes) => return Acked::Confirmed,
            State::Done(waiters, Durable::No | Durable::Soon) => waiters.push(waiter),
            State::Held { .. } if entry.attempt == attempt => {
                self.done(index, SmallVec::from_iter([waiter]), Durable::No);
                self.skip_done();
                self.advance();
            }
            State::Held { .. } | State::Leased { .. } | State::Queued(_) => return Acked::Lost,
        }
        Acked::Waiting
    }

    /// A message that was held is settled: nobody needs it any more.
    fn done(&mut self, index: usize, waiters: Waiters<W>, durable: Durable) {
        let entry = &mut self.entries[index];
        entry.state = State::Done(waiters, durable);
        entry.message = None;
        self.bytes -= std::mem::take(&mut entry.bytes);
        self.highest_done = self.highest_done.max(entry.offset);
        self.held -= 1;
        self.above += 1;
        self.dirty = true;
    }

    /// Of a message that is part of the prefix.
    fn ack_again(&mut self, offset: i64, waiter: W) -> Acked {
        if offset < self.committed {
            return Acked::Confirmed;
        }
        match self.confirming.binary_search_by_key(&offset, |confirming| confirming.offset) {
            Ok(at) if self.confirming[at].durable => Acked::Confirmed,
            Ok(at) => {
                self.confirming[at].waiters.push(waiter);
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
        for entry in &mut self.entries {
            if let State::Leased { by, .. } = &mut entry.state
                && *by == Some(gone)
            {
                *by = None;
            }
        }
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
            State::Queued(_) | State::Leased { .. } | State::Done(..) => None,
        });
        self.earliest_timeout = timeouts.min();
        expired
    }

    /// Whether a commit may be due: something is settled that no commit covers, and no transaction is in the way.
    #[must_use]
    pub fn commit_due(&self) -> bool {
        !self.leased && (self.dirty || self.prefix.is_some_and(|prefix| prefix > self.committed))
    }

    /// The next commit, with at most `most` bytes beside its offset; `None` where it would say nothing new. What it covers is
    /// confirmed by [`Window::committed`], or due again after [`Window::not_committed`].
    pub fn progress(&mut self, most: usize) -> Option<Progress> {
        if !self.commit_due() {
            return None;
        }
        let next = self.prefix?;
        let (beside, covered) = self.beside(next, most, false);
        self.dirty = false;
        let (mut news, mut left) = (next > self.committed, false);
        for entry in self.done_entries() {
            if let State::Done(_, durable @ Durable::No) = &mut entry.state {
                if entry.offset < covered {
                    *durable = Durable::Soon;
                    news = true;
                } else {
                    left = true;
                }
            }
        }
        self.unfit = left;
        news.then_some(Progress { next, beside })
    }

    /// What is acknowledged above `next`, as it is written beside it; all of it that lies below the second is in it.
    fn beside(&self, next: i64, most: usize, with_leased: bool) -> (String, i64) {
        if self.above == 0 && self.resumed.is_empty() && !with_leased {
            return (String::new(), i64::MAX);
        }
        let mut runs: Runs = self.resumed.iter().copied().collect();
        let mut run: Option<(i64, i64)> = None;
        for entry in &self.entries {
            let counts = match entry.state {
                State::Done(..) => true,
                State::Leased { .. } => with_leased,
                State::Queued(_) | State::Held { .. } => false,
            };
            if !counts {
                runs.extend(run.take());
            } else if entry.offset >= next {
                // Offsets between two messages have none: a run may go over them.
                run = Some((run.map_or(entry.offset, |(from, _)| from), entry.offset + 1));
            }
        }
        runs.extend(run);
        let runs = progress::joined(runs.into_iter().filter(|(_, to)| *to > next).collect());
        let (beside, count) = progress::encode(next, &runs, most);
        let covered =
            if count == runs.len() { i64::MAX } else { count.checked_sub(1).map_or(next, |last| runs[last].1) };
        (beside, covered)
    }

    /// A commit up to `next`, and of what was beside it, is durable; answers with those who waited for it, by offset.
    pub fn committed(&mut self, next: i64) -> Vec<(i64, Waiters<W>)> {
        self.committed = self.committed.max(next);
        let count = self.confirming.partition_point(|confirming| confirming.offset < next);
        let mut confirmed: Vec<_> = self.confirming.drain(..count).map(|c| (c.offset, c.waiters)).collect();
        for entry in self.done_entries() {
            if let State::Done(waiters, durable @ Durable::Soon) = &mut entry.state {
                *durable = Durable::Yes;
                confirmed.push((entry.offset, std::mem::take(waiters)));
            }
        }
        confirmed
    }

    /// The last commit came to nothing.
    pub fn not_committed(&mut self) {
        let mut undone = false;
        for entry in self.done_entries() {
            if let State::Done(_, durable @ Durable::Soon) = &mut entry.state {
                *durable = Durable::No;
                undone = true;
            }
        }
        self.dirty |= undone;
    }

    /// The entries among which those that are `Done` are; none, usually.
    fn done_entries(&mut self) -> impl Iterator<Item = &mut Entry<M, O, W>> {
        let among = if self.above == 0 { 0 } else { self.entries.len() };
        self.entries.iter_mut().take(among)
    }

    // Transactions.

    /// Takes deliveries, by offset and attempt, into a transaction that is about to commit, all or none; answers with what it has to
    /// commit. Until [`Window::resolve`], nothing else is committed.
    ///
    /// # Errors
    /// The first that can't be had.
    pub fn lease(&mut self, deliveries: &[(i64, u32)], most: usize) -> Result<Progress, (i64, NoLease)> {
        let held = |(offset, attempt): &&(i64, u32)| {
            self.index(*offset).is_none_or(|index| !self.entries[index].is_held(*attempt))
        };
        if let Some((offset, _)) = deliveries.iter().find(held) {
            return Err((*offset, NoLease::Lost));
        }
        for (offset, _) in deliveries {
            if let Some(entry) = self.entry(*offset)
                && let State::Held { by, until } = entry.state
            {
                entry.state = State::Leased { by: Some(by), until };
            }
        }
        self.leased = true;
        self.skip_done();
        let settled = |entry: &&Entry<M, O, W>| matches!(entry.state, State::Done(..) | State::Leased { .. });
        let front = self.entries.iter().take_while(settled).last();
        let next = front.map_or(self.prefix.unwrap_or_default(), |entry| entry.offset + 1);
        let (beside, covered) = self.beside(next, most, true);
        match deliveries.iter().find(|(offset, _)| *offset >= covered) {
            Some((offset, _)) => {
                self.resolve(None);
                Err((*offset, NoLease::Scattered))
            }
            None => Ok(Progress { next, beside }),
        }
    }

    /// The transaction is over: with what it committed, or without effect. Answers with those who waited for it, by offset.
    pub fn resolve(&mut self, committed: Option<i64>) -> Vec<(i64, Waiters<W>)> {
        self.leased = false;
        let leased = |(index, entry): (usize, &Entry<M, O, W>)| match entry.state {
            State::Leased { by, until } => Some((index, by, until)),
            State::Queued(_) | State::Held { .. } | State::Done(..) => None,
        };
        let leased: Vec<_> = self.entries.iter().enumerate().filter_map(leased).collect();
        match committed {
            Some(next) => {
                for (index, ..) in leased {
                    self.done(index, SmallVec::new(), Durable::Yes);
                }
                self.skip_done();
                self.advance();
                self.committed(next)
            }
            None => {
                for (index, by, until) in leased {
                    match by {
                        Some(by) => {
                            self.entries[index].state = State::Held { by, until };
                            self.earliest_timeout = Some(self.earliest_timeout.map_or(until, |e| e.min(until)));
                        }
                        None => self.requeue(index, None),
                    }
                }
                Vec::new()
            }
        }
    }

    /// Whether a transaction is about to commit.
    #[must_use]
    pub fn leased(&self) -> bool {
        self.leased
    }

    /// The message of a delivery that is still valid.
    #[must_use]
    pub fn peek(&self, offset: i64, attempt: u32) -> Option<&M> {
        let entry = &self.entries[self.index(offset)?];
        if entry.is_held(attempt) { entry.message.as_ref() } else { None }
    }

    /// Everyone who waits for a confirmation, because it can't be committed.
    pub fn uncommittable(&mut self) -> Vec<(i64, Waiters<W>)> {
        self.not_committed();
        let done = self.entries.iter_mut().filter_map(|entry| match &mut entry.state {
            State::Done(waiters, _) => Some((entry.offset, std::mem::take(waiters))),
            State::Queued(_) | State::Held { .. } | State::Leased { .. } => None,
        });
        let prefix = self.confirming.iter_mut().map(|c| (c.offset, std::mem::take(&mut c.waiters)));
        prefix.chain(done).collect()
    }

    /// The ownership ends: everyone who still waits for a confirmation, by offset.
    pub fn end(self) -> Vec<(i64, Waiters<W>)> {
        let done = self.entries.into_iter().filter_map(|entry| match entry.state {
            State::Done(waiters, _) => Some((entry.offset, waiters)),
            State::Queued(_) | State::Held { .. } | State::Leased { .. } => None,
        });
        self.confirming.into_iter().map(|c| (c.offset, c.waiters)).chain(done).collect()
    }

    /// Messages that wait for delivery, or for another one; settled ones among them are counted.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.entries.len() - self.cursor
    }

    /// Messages that are delivered and not settled, those in a transaction included.
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
            State::Held { .. } | State::Leased { .. } | State::Done(..) => None,
        }
    }

    /// Whether the next message has to wait until earlier ones are settled, because no more can be remembered above them.
    #[must_use]
    pub fn held_back(&self) -> bool {
        let new = |entry: &Entry<M, O, W>| entry.attempt == 0 && entry.offset > self.highest_done;
        self.unfit && self.entries.get(self.cursor).is_some_and(new)
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
        while let Some(Entry { state: State::Done(..) | State::Leased { .. }, .. }) = self.entries.get(self.cursor) {
            self.cursor += 1;
        }
    }

    /// Moves the acknowledged messages at the front into the prefix.
    fn advance(&mut self) {
        while let Some(Entry { state: State::Done(..), .. }) = self.entries.front()
            && let Some(entry) = self.entries.pop_front()
            && let State::Done(waiters, durable) = entry.state
        {
            self.above -= 1;
            self.cursor = self.cursor.saturating_sub(1);
            self.prefix = self.prefix.max(Some(entry.offset + 1));
            let durable = durable == Durable::Yes;
            self.confirming.push_back(Confirming { offset: entry.offset, durable, waiters });
        }
        self.absorb();
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
