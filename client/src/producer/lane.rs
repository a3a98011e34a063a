//! What is sent to one partition and not yet acknowledged: order, sequences, retries (KIP-98, KIP-360). Pure.
//!
//! ```text
//!            next            Acknowledged, Refused, given up
//! Waiting ─────────▶ InFlight ───────────────────────────────▶ settled
//!    ▲                  │
//!    └── Retry, OutOfSequence
//! ```
//! The rules that keep order and forbid duplicates:
//! 1. Batches stand in sequence order; one may be sent only if none behind it is in flight. So after a failure everything in
//!    flight is awaited first, and then resent in order.
//! 2. A batch keeps its bytes and its sequence through every retry whose outcome is not known: the broker recognises the last
//!    five, and no more than five are ever sent beyond the last before the first unacknowledged one.
//! 3. A batch may get a new sequence only where the broker has said that it does not have it: when the *first* unacknowledged
//!    batch is out of sequence, a predecessor was given up (or the broker forgot this producer). Then, and when nothing is in
//!    flight any more, all that is unacknowledged starts at sequence 0 of the next epoch, which also shuts out stragglers.
//! 4. A broker that knows nothing of a producer takes any sequence as its first. So until the first batch of an identity and
//!    epoch is acknowledged, it goes alone: a second one must not get there before it.
//! 5. Epochs are counted per partition: a broker keeps producer state per partition, so one lane's reset needs no other's.
//! 6. A batch of which the broker has some records (their message ids are known there) was not written at all: what is left of it
//!    takes its place and its first sequence. What was sent behind it counted on its length and is renumbered as rule 3 says;
//!    where the epoch can't be raised, in transactions, nothing is sent behind a batch that may shrink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use wherry_wire::codec::dedupe::Duplicate;
use wherry_wire::records::Stamp;

use super::batch::{Parted, SealedBatch};
use super::receipt::Outcome;
use crate::error::ClientError;

/// A producer's identity in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    InFlight,
}

#[derive(Debug)]
struct Entry {
    token: u64,
    /// Its place among all that was ever sent; those behind the first unacknowledged one are counted by it.
    order: u64,
    batch: SealedBatch,
    sequence: i32,
    progress: Progress,
    sends: u32,
    /// An attempt ended without saying whether it was applied.
    maybe_written: bool,
    /// Its receipt is settled; only its place in the sequence is still of interest.
    given_up: bool,
}

/// What a broker, or the lack of one, said about a batch.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// It has it.
    Acknowledged {
        /// Of the first record, -1 unknown.
        base_offset: i64,
        /// -1: records keep their own.
        append_time_ms: i64,
    },
    /// Not now. `maybe_written`: it may have been applied all the same.
    Retry {
        /// For the error, should time run out.
        cause: Arc<str>,
        maybe_written: bool,
    },
    /// The broker expects another sequence, or knows nothing of this producer: it does not have it.
    OutOfSequence,
    /// Someone else has this producer id, or it is no longer valid.
    IdentityLost,
    /// Never.
    Refused(ClientError),
    /// Not in one piece.
    TooLarge(ClientError),
    /// These of its records are there already; nothing of it was written.
    Duplicates(Vec<Duplicate>),
}

/// A receipt to settle, and memory to give back.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) batch: SealedBatch,
    pub(super) outcome: Outcome,
}

/// What to do next for a lane.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Send {
        /// For the answer.
        token: u64,
        batch: SealedBatch,
        stamp: Stamp,
    },
    /// Nothing before this time.
    NotBefore(Instant),
    /// Nothing before an answer comes.
    Blocked,
    /// Nothing before [`Lane::identify`].
    NeedsIdentity,
    /// There is room for another batch.
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reset {
    None,
    NextEpoch,
    NewIdentity,
}

/// The state.
#[derive(Debug)]
pub(super) struct Lane {
    /// `None` without idempotence.
    identity: Option<Identity>,
    next_sequence: i32,
    unacknowledged: VecDeque<Entry>,
    reset: Reset,
    route: u64,
    next_token: u64,
    next_order: u64,
    failures: u32,
    not_before: Option<Instant>,
    last_cause: Arc<str>,
    max_in_flight: usize,
    /// A batch of the present identity and epoch has been acknowledged.
    known_to_broker: bool,
    /// Its epoch is not its own to raise: that of a transaction.
    fixed_epoch: bool,
}

/// The sequence `count` records after `sequence`; wraps to 0 as brokers expect.
fn advance(sequence: i32, count: i32) -> i32 {
    sequence.wrapping_add(count) & i32::MAX
}

impl Lane {
    pub(super) fn new(identity: Option<Identity>, max_in_flight: usize, fixed_epoch: bool) -> Self {
        Self {
            identity,
            next_sequence: 0,
            unacknowledged: VecDeque::new(),
            reset: Reset::None,
            route: 0,
            next_token: 0,
            next_order: 0,
            failures: 0,
            not_before: None,
            last_cause: "not sent yet".into(),
            max_in_flight,
            known_to_broker: false,
            fixed_epoch,
        }
    }

    /// Nothing is in flight, and nothing waits to be resent.
    pub(super) fn is_idle(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// Failures in a row; for the pause before the next attempt.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    fn in_flight(&self) -> usize {
        self.unacknowledged.iter().filter(|e| e.progress == Progress::InFlight).count()
    }

    /// Rules 4 and 6.
    fn limit(&self) -> usize {
        let may_shrink = self.fixed_epoch && self.unacknowledged.iter().any(|entry| entry.batch.asks);
        if (self.known_to_broker || self.identity.is_none()) && !may_shrink { self.max_in_flight } else { 1 }
    }

    /// Rule 2: counted from the oldest that is unacknowledged, those behind it that are acknowledged included, so that the
    /// broker still remembers it.
    fn has_room(&self) -> bool {
        self.in_window(self.next_order)
    }

    fn in_window(&self, order: u64) -> bool {
        let oldest = self.unacknowledged.front().map_or(order, |e| e.order);
        order.saturating_sub(oldest) < u64::try_from(self.limit()).unwrap_or(u64::MAX)
    }

    /// Takes a new batch, after [`Next::Room`]; it is sent by the next [`Lane::next`].
    pub(super) fn add(&mut self, batch: SealedBatch) {
        let sequence = self.next_sequence;
        self.next_sequence = advance(sequence, batch.count());
        let order = self.next_order;
        self.next_order += 1;
        let entry = self.entry(batch, sequence, order);
        self.unacknowledged.push_back(entry);
    }

    fn entry(&mut self, batch: SealedBatch, sequence: i32, order: u64) -> Entry {
        self.next_token += 1;
        Entry {
            token: self.next_token,
            order,
            batch,
            sequence,
            progress: Progress::Waiting,
            sends: 0,
            maybe_written: false,
            given_up: false,
        }
    }

    /// What to do now, towards a leader over the connection `route`.
    pub(super) fn next(&mut self, now: Instant, route: u64) -> Next {
        let in_flight = self.in_flight();
        if self.reset != Reset::None {
            if in_flight > 0 {
                return Next::Blocked;
            }
            if !self.apply_reset() {
                return Next::NeedsIdentity;
            }
        }
        let Some(first) = self.unacknowledged.iter().position(|e| e.progress == Progress::Waiting) else {
            let elsewhere = in_flight > 0 && route != self.route;
            return if self.has_room() && !elsewhere { Next::Room } else { Next::Blocked };
        };
        if let Some(not_before) = self.not_before.filter(|t| *t > now) {
            return Next::NotBefore(not_before);
        }
        // Rule 1: those before it are in flight on this very connection, none behind it is.
        let behind = self.unacknowledged.iter().skip(first).any(|e| e.progress == Progress::InFlight);
        let beyond = self.unacknowledged.get(first).is_some_and(|e| !self.in_window(e.order));
        if behind || beyond || in_flight >= self.limit() || (in_flight > 0 && route != self.route) {
            return Next::Blocked;
        }
        self.route = route;
        self.send(first)
    }

    fn send(&mut self, index: usize) -> Next {
        let identity = self.identity;
        let Some(entry) = self.unacknowledged.get_mut(index) else { return Next::Room };
        entry.progress = Progress::InFlight;
        entry.sends += 1;
        let stamp = identity.map_or(Stamp::NONE, |id| Stamp {
            producer_id: id.producer_id,
            producer_epoch: id.epoch,
            base_sequence: entry.sequence,
        });
        Next::Send { token: entry.token, batch: entry.batch.clone(), stamp }
    }

    /// Rule 3. False where a new identity is needed and not there yet.
    fn apply_reset(&mut self) -> bool {
        let Some(identity) = &mut self.identity else {
            self.reset = Reset::None;
            return true;
        };
        match self.reset {
            Reset::None => return true,
            Reset::NextEpoch if identity.epoch < i16::MAX - 1 => identity.epoch += 1,
            Reset::NextEpoch | Reset::NewIdentity => {
                self.reset = Reset::NewIdentity;
                return false;
            }
        }
        self.renumber();
        true
    }

    /// A new identity, after [`Next::NeedsIdentity`].
    pub(super) fn identify(&mut self, identity: Identity) {
        if self.reset == Reset::NewIdentity && self.in_flight() == 0 {
            self.identity = Some(identity);
            self.renumber();
        }
    }

    /// Another identity, and nothing in its sequences: what was in flight is not waited for any more.
    pub(super) fn restart(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.unacknowledged.clear();
        self.failures = 0;
        self.not_before = None;
        self.renumber();
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    fn renumber(&mut self) {
        self.reset = Reset::None;
        self.known_to_broker = false;
        self.next_sequence = 0;
        for entry in &mut self.unacknowledged {
            entry.sequence = self.next_sequence;
            self.next_sequence = advance(self.next_sequence, entry.batch.count());
        }
    }

    /// The answer for the batch sent under `token`. `pause` is awaited before anything is resent.
    pub(super) fn answered(&mut self, token: u64, answer: Answer, resend_at: Instant) -> Option<Settled> {
        let index = self.unacknowledged.iter().position(|e| e.token == token)?;
        match answer {
            Answer::Acknowledged { base_offset, append_time_ms } => {
                self.failures = 0;
                self.not_before = None;
                self.known_to_broker = true;
                let entry = self.unacknowledged.remove(index)?;
                (!entry.given_up).then(|| Settled {
                    batch: entry.batch,
                    outcome: Outcome::Delivered { base_offset, append_time_ms },
                })
            }
            Answer::Retry { cause, maybe_written } => {
                self.count_failure(resend_at);
                self.last_cause = cause;
                self.wait(index, maybe_written);
                None
            }
            Answer::OutOfSequence => {
                if index == 0 && self.identity.is_some() {
                    self.last_cause = "the broker expects another sequence".into();
                    self.count_failure(resend_at);
                    self.demand(Reset::NextEpoch);
                }
                self.wait(index, false);
                None
            }
            Answer::IdentityLost => {
                self.last_cause = "the broker no longer accepts this producer id".into();
                self.count_failure(resend_at);
                self.demand(Reset::NewIdentity);
                self.wait(index, false);
                None
            }
            Answer::Refused(error) => self.refuse(index, error),
            Answer::TooLarge(error) => self.split(index, error),
            Answer::Duplicates(duplicates) => self.part(index, &duplicates),
        }
    }

    /// Rule 6.
    fn part(&mut self, index: usize, duplicates: &[Duplicate]) -> Option<Settled> {
        self.failures = 0;
        self.not_before = None;
        let entry = self.unacknowledged.get_mut(index)?;
        if entry.given_up {
            self.wait(index, false);
            return None;
        }
        let Some(Parted { rest, fates }) = entry.batch.without(duplicates) else {
            let what = format!("produce to {}", entry.batch.receipt.place()).into();
            let (name, message) =
                ("INVALID_RECORD".into(), ": it names records as duplicates that were not sent".into());
            return self.refuse(index, ClientError::Rejected { what, code: 87, name, message });
        };
        let mut batch = entry.batch.clone();
        let outcome = Outcome::Parted { fates, rest: rest.as_ref().map(|rest| rest.receipt.clone()) };
        batch.reserved = batch.reserved.saturating_sub(rest.as_ref().map_or(0, |rest| rest.reserved));
        let (sequence, order) = (entry.sequence, entry.order);
        let is_last = index + 1 == self.unacknowledged.len();
        self.unacknowledged.remove(index);
        if is_last {
            self.next_sequence = rest.as_ref().map_or(sequence, |rest| advance(sequence, rest.count()));
        } else if self.identity.is_some() {
            self.demand(Reset::NextEpoch);
        }
        if let Some(rest) = rest {
            let rest = self.entry(rest, sequence, order);
            self.unacknowledged.insert(index, rest);
        }
        Some(Settled { batch, outcome })
    }

    /// Puts two halves in the place of a batch: together they have its sequences, so that nothing behind it changes.
    fn split(&mut self, index: usize, error: ClientError) -> Option<Settled> {
        let entry = self.unacknowledged.get(index)?;
        let Some((first, second)) = entry.batch.halves().filter(|_| !entry.given_up) else {
            return self.refuse(index, error);
        };
        let Entry { batch, sequence, order, .. } = self.unacknowledged.remove(index)?;
        let middle = advance(sequence, first.count());
        let at = first.count().cast_unsigned();
        let outcome = Outcome::Split { at, first: first.receipt.clone(), second: second.receipt.clone() };
        for behind in self.unacknowledged.iter_mut().skip(index) {
            behind.order += 1;
        }
        self.next_order += 1;
        let (first, second) = (self.entry(first, sequence, order), self.entry(second, middle, order + 1));
        self.unacknowledged.insert(index, second);
        self.unacknowledged.insert(index, first);
        Some(Settled { batch, outcome })
    }

    /// Many batches in flight that fail together count once.
    fn count_failure(&mut self, resend_at: Instant) {
        if !self.unacknowledged.iter().any(|e| e.progress == Progress::Waiting) {
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(resend_at);
        }
    }

    fn demand(&mut self, reset: Reset) {
        if self.reset != Reset::NewIdentity {
            self.reset = reset;
        }
    }

    fn wait(&mut self, index: usize, maybe_written: bool) {
        let Some(entry) = self.unacknowledged.get_mut(index) else { return };
        entry.progress = Progress::Waiting;
        entry.maybe_written |= maybe_written;
        if entry.given_up {
            self.unacknowledged.remove(index);
        }
    }

    fn refuse(&mut self, index: usize, error: ClientError) -> Option<Settled> {
        let last = index + 1 == self.unacknowledged.len();
        let entry = self.unacknowledged.remove(index)?;
        // Certainly not written, and nothing was sent after it: its sequence is free again.
        if last && entry.sends == 1 {
            self.next_sequence = entry.sequence;
        }
        (!entry.given_up).then(|| Settled { batch: entry.batch, outcome: Outcome::Failed(error) })
    }

    /// Gives up what was accepted before `opened`, `waited` ago. What is in flight keeps its place until its answer.
    pub(super) fn expire(&mut self, opened: Instant, waited: Duration) -> Vec<Settled> {
        let mut settled = Vec::new();
        let cause = self.last_cause.clone();
        for entry in self.unacknowledged.iter_mut().filter(|e| !e.given_up && e.batch.opened < opened) {
            entry.given_up = true;
            let maybe = entry.maybe_written || entry.progress == Progress::InFlight;
            let outcome = Outcome::Failed(expired(&entry.batch, maybe, cause.clone(), waited));
            settled.push(Settled { batch: entry.batch.clone(), outcome });
        }
        self.unacknowledged.retain(|e| !(e.given_up && e.progress == Progress::Waiting));
        settled
    }
}

/// Taking back.
impl Lane {
    /// Gives up, with [`ClientError::Retry`], the batches at the end that no broker can have. Their sequences are free again.
    pub(super) fn recall(&mut self, now: Instant) -> Vec<Settled> {
        let mut settled = Vec::new();
        while let Some(last) =
            self.unacknowledged.pop_back_if(|e| e.progress == Progress::Waiting && !e.maybe_written && !e.given_up)
        {
            self.next_sequence = last.sequence;
            self.next_order = last.order;
            let waited = now.saturating_duration_since(last.batch.opened);
            let error = expired(&last.batch, false, self.last_cause.clone(), waited);
            settled.push(Settled { batch: last.batch, outcome: Outcome::Failed(error) });
        }
        settled
    }
}

/// The error of a batch whose time ran out.
fn expired(batch: &SealedBatch, maybe_written: bool, cause: Arc<str>, waited: Duration) -> ClientError {
    let what = format!("deliver {} records to {}", batch.count(), batch.receipt.place()).into();
    if maybe_written {
        ClientError::Unknown { what, cause, waited }
    } else {
        ClientError::Retry { what, cause, waited }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
