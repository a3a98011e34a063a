//! Forwarding what is in the spool: reads it, hands it to the cluster in order, and learns what became of it.
//!
//! The producer behind it never gives up by itself, so an outage costs no order: what it has is sent when the cluster is back. Only
//! where a topic is gone is it asked to give back what it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use foldhash::fast::RandomState;
use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;
use wherry_client::{ClientError, RecordMetadata};

use super::entry::{self, Entry};
use super::store::{Happened, ReadError, Store};
use super::window::Window;
use crate::backend::{Backend, Taken};
use crate::limits;
use crate::publish::lanes::{Lanes, Ticket};

type Outcome = Result<RecordMetadata, ClientError>;
type Sending<B> = (u64, BoxFuture<'static, Result<<B as Backend>::Receipt, ClientError>>);

/// A message that the cluster will never take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) offset: i64,
    pub(super) cause: String,
}

/// See the module.
pub(super) struct Forward<B: Backend> {
    backend: B,
    /// Names the spool in message ids.
    id: Uuid,
    pub(super) window: Window,
    lanes: Lanes<B::Receipt>,
    /// Has to wait before it is taken; nothing overtakes it.
    slow: Option<Sending<B>>,
    reading: bool,
    /// Nothing is handed over before.
    paused: Option<Instant>,
    failures: u32,
    missing: Missing,
    check: Option<BoxFuture<'static, Option<Arc<str>>>>,
    check_at: Instant,
    recall: Option<BoxFuture<'static, ()>>,
    /// What is left can't be read.
    pub(super) unreadable: Option<String>,
    /// When the cluster last answered.
    pub(super) answered: Option<Instant>,
    refused: Vec<Refused>,
}

impl<B: Backend> Forward<B> {
    pub(super) fn new(backend: B, store: &Store) -> Self {
        Self {
            backend,
            id: store.id(),
            window: Window::new(store.bounds().start),
            lanes: Lanes::new(),
            slow: None,
            reading: false,
            paused: None,
            failures: 0,
            missing: Missing::default(),
            check: None,
            check_at: Instant::now() + limits::SPOOL_STUCK,
            recall: None,
            unreadable: None,
            answered: None,
            refused: Vec::new(),
        }
    }

    /// Where the read began that is under way.
    pub(super) fn reading_from(&self) -> i64 {
        self.window.end()
    }

    /// What was read, or why not.
    pub(super) fn read(&mut self, read: Result<Vec<Entry>, ReadError>, now: Instant) {
        self.reading = false;
        match read {
            Ok(entries) => self.window.extend(entries),
            Err(ReadError::Later(cause)) => {
                tracing::warn!(%cause, "the spool can't be read, trying again");
                self.pause(now);
            }
            Err(ReadError::Never(cause)) => self.unreadable = Some(cause),
        }
    }

    fn pause(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = limits::SPOOL_RETRY.0 * 2u32.saturating_pow(self.failures.min(8));
        self.paused = Some(now + pause.min(limits::SPOOL_RETRY.1));
    }

    /// Reads ahead and, if it may, hands messages over.
    pub(super) fn turn(&mut self, store: &mut Store, now: Instant, may_send: bool) {
        if self.paused.is_some_and(|until| now < until) {
            return;
        }
        self.paused = None;
        loop {
            let before = (self.window.end(), self.lanes.messages());
            self.fetch(store, now);
            if may_send {
                self.hand_over(now);
            }
            if before == (self.window.end(), self.lanes.messages()) {
                break;
            }
        }
        self.look_for_stuck(now);
    }

    fn fetch(&mut self, store: &mut Store, now: Instant) {
        let full =
            self.window.bytes() >= limits::SPOOL_FORWARD_BYTES || self.window.len() >= limits::SPOOL_FORWARD_MESSAGES;
        if self.reading || full || self.unreadable.is_some() || self.window.end() >= store.bounds().durable_end {
            return;
        }
        self.reading = true;
        if let Some(Happened::Read(read)) = store.read(self.window.end(), limits::SPOOL_READ_BYTES) {
            self.read(read, now);
        }
    }

    fn hand_over(&mut self, now: Instant) {
        while self.slow.is_none()
            && self.recall.is_none()
            && let Some(entry) = self.window.next()
        {
            let offset = entry.offset;
            if self.missing.has(&entry.record.topic, now) {
                let cause = format!("topic {} does not exist", entry.record.topic);
                self.refuse(offset, cause);
                continue;
            }
            let record = entry::outgoing(entry, self.id);
            let number = u64::try_from(offset).unwrap_or_default();
            self.window.handed(offset, now);
            match self.backend.try_send(record) {
                Ok(Taken::Now(receipt)) => self.taken(number, receipt, now),
                Ok(Taken::Later(record)) => self.slow = Some((number, self.backend.send(record).boxed())),
                Err(error) => self.decide(number, Err(error), now),
            }
        }
    }

    fn taken(&mut self, number: u64, receipt: B::Receipt, since: Instant) {
        self.lanes.push(Ticket { correlation_id: number, bytes: 0, since }, receipt);
    }

    /// A topic can go away while messages for it are with the producer, which waits for it to come back.
    fn look_for_stuck(&mut self, now: Instant) {
        if self.check.is_some() || now < self.check_at {
            return;
        }
        self.check_at = now + limits::SPOOL_STUCK;
        let Some((_, entry)) = self.window.oldest_sent().filter(|(since, _)| now >= *since + limits::SPOOL_STUCK)
        else {
            return;
        };
        let (backend, topic) = (self.backend.clone(), entry.record.topic.clone());
        self.check = Some(Box::pin(async move {
            let found = backend.partitions(&topic).await;
            matches!(found, Err(ClientError::NoSuchTopic { .. })).then_some(topic)
        }));
    }

    /// Takes what became known; true if something did.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        if let Some((_, send)) = &mut self.slow
            && let Poll::Ready(outcome) = send.poll_unpin(context)
            && let Some((number, _)) = self.slow.take()
        {
            progress = true;
            match outcome {
                Ok(receipt) => self.taken(number, receipt, now),
                Err(error) => self.decide(number, Err(error), now),
            }
        }
        if let Some(check) = &mut self.check
            && let Poll::Ready(gone) = check.poll_unpin(context)
        {
            (self.check, progress) = (None, true);
            if let Some(topic) = gone {
                self.missing.add(topic, now);
                if let Some((number, _)) = self.slow.take() {
                    self.window.came_back(i64::try_from(number).unwrap_or_default());
                }
                let backend = self.backend.clone();
                self.recall = Some(Box::pin(async move { backend.recall().await }));
            }
        }
        let recalled = self.recall.as_mut().is_some_and(|recall| recall.poll_unpin(context).is_ready());
        let mut decided = Vec::new();
        let known = |ticket: Ticket, outcome: Outcome| decided.push((ticket.correlation_id, outcome));
        if recalled {
            self.recall = None;
            self.lanes.collect_all(context, known);
        } else {
            self.lanes.collect(context, limits::SPOOL_FORWARD_MESSAGES, known);
        }
        progress |= recalled || !decided.is_empty();
        for (number, outcome) in decided {
            self.decide(number, outcome, now);
        }
        progress
    }

    fn decide(&mut self, number: u64, outcome: Outcome, now: Instant) {
        let offset = i64::try_from(number).unwrap_or_default();
        match outcome {
            Ok(_) => {
                (self.failures, self.answered) = (0, Some(now));
                self.window.done(offset);
            }
            Err(error) if comes_again(&error) => {
                tracing::debug!(offset, %error, "a spooled message was not forwarded yet");
                self.window.came_back(offset);
                self.pause(now);
            }
            Err(error) => {
                self.answered = Some(now);
                if let ClientError::NoSuchTopic { topic, .. } = &error
                    && self.window.entry(offset).is_some_and(|entry| entry.record.topic == *topic)
                {
                    self.missing.add(topic.clone(), now);
                }
                self.refuse(offset, error.to_string());
            }
        }
    }

    fn refuse(&mut self, offset: i64, cause: String) {
        self.window.aside(offset);
        self.refused.push(Refused { offset, cause });
    }

    /// Messages to put into quarantine.
    pub(super) fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// When to look again although nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let stuck = self.window.oldest_sent().map(|(since, _)| (since + limits::SPOOL_STUCK).max(self.check_at));
        self.paused.into_iter().chain(stuck.filter(|_| self.check.is_none())).min()
    }
}

/// Whether the same message may be taken later.
fn comes_again(error: &ClientError) -> bool {
    /// `THROTTLING_QUOTA_EXCEEDED`
    const QUOTA: i16 = 89;
    match error {
        ClientError::Retry { .. }
        | ClientError::Unknown { .. }
        | ClientError::Stale { .. }
        | ClientError::Fenced { .. }
        | ClientError::Closed { .. } => true,
        ClientError::Rejected { code, .. } => *code == QUOTA,
        ClientError::NoSuchTopic { .. }
        | ClientError::TooLarge { .. }
        | ClientError::AbortOnly { .. }
        | ClientError::Corrupt { .. }
        | ClientError::OutOfRange { .. }
        | ClientError::Unsupported { .. }
        | ClientError::Config { .. } => false,
    }
}

/// Topics that were not there when they were last looked for: many messages for one of them must not each wait for it.
#[derive(Debug, Default)]
struct Missing(HashMap<Arc<str>, Instant, RandomState>);

impl Missing {
    fn add(&mut self, topic: Arc<str>, now: Instant) {
        self.0.retain(|_, since| now < *since + limits::SPOOL_MISSING);
        if self.0.len() < limits::STREAM_TOPICS {
            self.0.insert(topic, now);
        }
    }

    fn has(&self, topic: &str, now: Instant) -> bool {
        self.0.get(topic).is_some_and(|since| now < *since + limits::SPOOL_MISSING)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_does_not_goes_aside() {
        let rejected = |code| ClientError::Rejected { what: "x".into(), code, name: "x".into(), message: "".into() };
        let retry = ClientError::Retry { what: "x".into(), cause: "x".into(), waited: Duration::ZERO };
        let gone = ClientError::NoSuchTopic { what: "x".into(), topic: "t".into() };
        let large = ClientError::TooLarge { what: "x".into(), size: 2, limit_name: "x", limit: 1 };
        for (error, again) in
            [(retry, true), (rejected(89), true), (rejected(29), false), (gone, false), (large, false)]
        {
            assert_eq!(comes_again(&error), again, "{error}");
        }
    }

    #[test]
    fn missing_topics_are_remembered_for_a_while_and_in_bounds() {
        let (mut missing, now) = (Missing::default(), Instant::now());
        for number in 0..1000 {
            missing.add(format!("t{number}").into(), now);
        }
        assert!(missing.has("t0", now) && missing.0.len() <= limits::STREAM_TOPICS);
        assert!(!missing.has("t0", now + limits::SPOOL_MISSING));
        missing.add("new".into(), now + limits::SPOOL_MISSING);
        assert_eq!(missing.0.len(), 1);
    }
}
