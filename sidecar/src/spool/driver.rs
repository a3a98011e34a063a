//! The task that owns the spool: takes messages in, carries out what [`super::route`] decides, forwards, answers.
//!
//! Everything it holds is bounded: messages that were handed in by the room that each of them took, messages that are forwarded by
//! the window.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use wherry_client::ClientError;
use wherry_log::{LogError, Ticket};

use super::direct::{Decided, Direct};
use super::forward::{Forward, Refused};
use super::route::{Facts, Route, Router};
use super::store::{Happened, Store};
use super::{Command, Offer, Published, full};
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::stats::Stats;

/// See the module.
pub(super) struct Driver<B: Backend> {
    backend: B,
    store: Store,
    stats: Arc<Stats>,
    router: Router,
    direct: Direct<B>,
    forward: Forward<B>,
    /// Handed in, and not on their way yet.
    queue: VecDeque<Offer>,
    /// Given back by the producer, by number: they go before the queue.
    recalled: BTreeMap<u64, Offer>,
    recall: Option<BoxFuture<'static, ()>>,
    came_back: bool,
    /// On their way to the disk.
    appending: VecDeque<(Ticket, Vec<Offer>)>,
    /// The disk is busy: nothing is appended before it says that there is room.
    busy: bool,
    /// Waits for the quarantine.
    refused: VecDeque<Refused>,
    aside: VecDeque<(Ticket, i64)>,
    /// The place that was last noted on disk, and until when that takes.
    noted: i64,
    noting: Option<Ticket>,
    flushes: Vec<oneshot::Sender<()>>,
    closing: Vec<oneshot::Sender<()>>,
}

enum Woken {
    Commands(usize),
    News(News),
    Nothing,
}

/// What became known of messages that went to the cluster.
struct News {
    decided: Vec<Decided>,
    recalled: bool,
}

fn poll_all<B: Backend>(
    direct: &mut Direct<B>,
    forward: &mut Forward<B>,
    recall: &mut Option<BoxFuture<'static, ()>>,
    context: &mut Context<'_>,
) -> Poll<News> {
    let recalled = recall.as_mut().is_some_and(|recall| recall.poll_unpin(context).is_ready());
    if recalled {
        *recall = None;
    }
    let decided = direct.poll(context, recalled);
    let forwarded = forward.poll(context, Instant::now());
    if recalled || forwarded || !decided.is_empty() {
        return Poll::Ready(News { decided, recalled });
    }
    Poll::Pending
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl<B: Backend> Driver<B> {
    pub(super) fn new(backend: B, store: Store, after: Duration, stats: Arc<Stats>) -> Self {
        let bounds = store.bounds();
        let waiting = u64::try_from(bounds.end - bounds.start).unwrap_or_default();
        if waiting > 0 {
            tracing::info!(messages = waiting, "the spool holds messages of an earlier sidecar; they go first");
        }
        Self {
            router: Router::new(after, waiting),
            direct: Direct::new(backend.clone()),
            forward: Forward::new(backend.forwarder(), &store),
            backend,
            store,
            stats,
            queue: VecDeque::new(),
            recalled: BTreeMap::new(),
            recall: None,
            came_back: false,
            appending: VecDeque::new(),
            busy: false,
            refused: VecDeque::new(),
            aside: VecDeque::new(),
            noted: bounds.start,
            noting: None,
            flushes: Vec::new(),
            closing: Vec::new(),
        }
    }

    /// Runs until it is told to close, or nobody is left who could tell it anything.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut came = Vec::new();
        loop {
            self.turn();
            if !self.closing.is_empty() {
                break;
            }
            let deadline = self.deadline();
            let Self { direct, forward, recall, store, .. } = &mut self;
            // Without tokio's budget, at whose end receipts seem open that are not: what is open after a recall is taken for sent.
            let news = tokio::task::unconstrained(poll_fn(|context| poll_all(direct, forward, recall, context)));
            let woken = tokio::select! {
                count = commands.recv_many(&mut came, limits::SPOOL_COMMANDS) => Woken::Commands(count),
                news = news => Woken::News(news),
                () = store.woken() => Woken::Nothing,
                () = at(deadline) => Woken::Nothing,
            };
            match woken {
                Woken::Commands(0) => break,
                Woken::Commands(_) => came.drain(..).for_each(|command| self.command(command)),
                Woken::News(news) => self.news(news),
                Woken::Nothing => {}
            }
        }
        self.close().await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Offer(offer) => self.queue.push_back(offer),
            Command::Flush(done) => self.flushes.push(done),
            Command::Close(done) => self.closing.push(done),
        }
    }

    async fn close(self) {
        let Self { store, closing, stats, .. } = self;
        if let Err(error) = tokio::task::spawn_blocking(move || store.close()).await {
            tracing::warn!(%error, "closing the spool failed");
        }
        stats.spool.opened.set(0);
        for done in closing {
            // Whoever does not wait any more has it closed all the same.
            let _ = done.send(());
        }
    }

    fn news(&mut self, news: News) {
        for (number, outcome) in news.decided {
            let Some(offer) = self.direct.remove(number) else { continue };
            let goes_back = matches!(self.router.route(), Route::Direct | Route::Recalling);
            match outcome {
                Ok(metadata) => offer.answer(Ok(Published::Committed(metadata))),
                Err(ClientError::Retry { .. }) if goes_back => {
                    self.came_back = true;
                    self.recalled.insert(number, offer);
                }
                Err(error) => offer.answer(Err(error.into())),
            }
        }
        if news.recalled {
            let before = std::mem::take(&mut self.recalled);
            tracing::info!(
                given_back = before.len(),
                undecided = !self.direct.is_empty(),
                "the cluster does not answer: messages go into the spool"
            );
            for offer in before.into_values().rev() {
                self.queue.push_front(offer);
            }
            self.came_back = false;
            self.router.recalled();
        }
    }

    /// Does whatever can be done now.
    fn turn(&mut self) {
        let now = Instant::now();
        for happened in self.store.turn(self.forward.reading_from()) {
            self.happened(happened, now);
        }
        let facts = self.facts(now);
        let before = self.router.route();
        if self.router.step(&facts) {
            self.recalled.extend(self.direct.take_slow());
            let backend = self.backend.clone();
            self.recall = Some(Box::pin(async move { backend.recall().await }));
        }
        if before != self.router.route() && self.router.route() == Route::Direct {
            tracing::info!("the spool is empty: messages go to the cluster");
        }
        self.route(now);
        // What may have reached the cluster before comes first.
        let may_send = self.direct.is_empty() || self.router.route() == Route::Closed;
        self.forward.turn(&mut self.store, now, may_send);
        if let Some(why) = self.forward.unreadable.take() {
            self.fail(&format!("what it holds can't be read: {why}"));
        }
        self.put_aside();
        self.note();
        self.tell();
    }

    fn happened(&mut self, happened: Happened, now: Instant) {
        match happened {
            Happened::Durable(ticket) => self.durable(ticket),
            Happened::Read(read) => self.forward.read(read, now),
            Happened::Room => self.busy = false,
            Happened::QuarantineCut => {
                self.stats.spool.quarantine_cut.add(1);
                tracing::error!("the quarantine is full: its oldest messages are gone");
            }
            Happened::Failed(why) => self.fail(&why),
        }
    }

    fn durable(&mut self, ticket: Ticket) {
        while let Some((_, offers)) = self.appending.pop_front_if(|(at, _)| *at <= ticket) {
            self.stats.spool.spooled.add(offers.len() as u64);
            for offer in offers {
                offer.answer(Ok(Published::Spooled));
            }
        }
        while let Some((_, offset)) = self.aside.pop_front_if(|(at, _)| *at <= ticket) {
            self.stats.spool.refused.add(1);
            self.forward.window.done(offset);
        }
        self.noting.take_if(|at| *at <= ticket);
    }

    /// The spool takes nothing more. What was on its way into it goes to the cluster.
    pub(super) fn fail(&mut self, why: &str) {
        if self.router.route() == Route::Closed {
            return;
        }
        tracing::error!(why, "the spool is closed: messages go to the cluster, and fail where it can't be reached");
        self.stats.spool.closed(why);
        self.router.close();
        self.recall = None;
        let appending = std::mem::take(&mut self.appending).into_iter().flat_map(|(_, offers)| offers);
        let recalled = std::mem::take(&mut self.recalled).into_values();
        let first: Vec<Offer> = appending.chain(recalled).collect();
        for offer in first.into_iter().rev() {
            self.queue.push_front(offer);
        }
    }

    fn facts(&self, now: Instant) -> Facts {
        let appending: usize = self.appending.iter().map(|(_, offers)| offers.len()).sum();
        let queued = if self.router.route() == Route::Spooling { self.queue.len() } else { 0 };
        let waiting = self.store.bounds().end - self.forward.window.position();
        Facts {
            now,
            undecided: self.direct.oldest(),
            came_back: self.came_back,
            waiting: u64::try_from(waiting).unwrap_or_default() + (appending + queued) as u64,
            forwarded: self.forward.answered,
        }
    }

    fn route(&mut self, now: Instant) {
        match self.router.route() {
            Route::Direct | Route::Closed => {
                while let Some(offer) = self.queue.pop_front() {
                    self.direct.give(offer);
                }
            }
            Route::Spooling => self.append(now),
            Route::Recalling | Route::Draining { .. } => {}
        }
    }

    fn append(&mut self, now: Instant) {
        while !self.busy && self.appending.len() < limits::SPOOL_APPENDS && !self.queue.is_empty() {
            let count = self.batch();
            if count == 0 {
                break;
            }
            let records = self.queue.iter().take(count).map(|offer| &offer.record);
            match self.store.append(records) {
                Ok(ticket) => self.appending.push_back((ticket, self.queue.drain(..count).collect())),
                Err(LogError::Busy { .. }) => self.busy = true,
                // The file system has no room: as good as a full spool.
                Err(LogError::Full { .. }) => break,
                Err(LogError::Rejected { what, .. }) => self.reject(&what),
                Err(error) => return self.fail(&error.to_string()),
            }
        }
        self.refuse_late(now);
    }

    /// How many of the queue go into the next batch; none where there is no room.
    fn batch(&self) -> usize {
        let room = self.store.room();
        let (mut bytes, mut count) = (0, 0);
        for offer in self.queue.iter().take(limits::SPOOL_BATCH_MESSAGES) {
            bytes += offer.bytes;
            if bytes as u64 > room || (count > 0 && bytes > limits::SPOOL_BATCH_BYTES) {
                break;
            }
            count += 1;
        }
        count
    }

    /// One message that can't be stored at all must not hold up the others.
    fn reject(&mut self, what: &str) {
        if let Some(offer) = self.queue.pop_front() {
            let why = format!("the message can't be spooled: {what}; send it when the cluster can be reached");
            offer.answer(Err(Failure::passing(tonic::Code::ResourceExhausted, "SPOOL_REFUSED", why)));
        }
    }

    /// What has waited for room for too long is told so.
    fn refuse_late(&mut self, now: Instant) {
        while let Some(offer) = self.queue.pop_front_if(|offer| now >= offer.since + limits::SPOOL_FULL_WAIT) {
            self.stats.spool.full.add(1);
            offer.answer(Err(full(self.store.usable())));
        }
    }

    /// What the cluster refused goes into the quarantine.
    fn put_aside(&mut self) {
        self.refused.extend(self.forward.take_refused());
        while let Some(refused) = self.refused.front() {
            let Some(entry) = self.forward.window.entry(refused.offset) else {
                self.refused.pop_front();
                continue;
            };
            let put = self.store.quarantine(&entry.record, &refused.cause);
            let topic = entry.record.topic.clone();
            match put {
                Ok(ticket) => {
                    tracing::warn!(%topic, cause = %refused.cause, "the cluster refused a spooled message: it is in quarantine");
                    self.stats.spool.last_cause(&topic, &refused.cause);
                    self.aside.push_back((ticket, refused.offset));
                    self.refused.pop_front();
                }
                // Again with the next turn.
                Err(LogError::Busy { .. } | LogError::Full { .. }) => return,
                Err(error) => {
                    // It stays in the spool, and is refused again after a restart.
                    tracing::error!(%topic, cause = %refused.cause, %error, "a refused message can't be put into quarantine");
                    self.forward.window.done(refused.offset);
                    self.refused.pop_front();
                    let why = error.to_string();
                    self.fail(&why);
                }
            }
        }
    }

    /// Notes the place up to which everything was forwarded.
    fn note(&mut self) {
        let forwarded = self.forward.window.advance();
        self.stats.spool.forwarded.add(forwarded);
        let place = self.forward.window.position();
        if place == self.noted || self.noting.is_some() || self.router.route() == Route::Closed {
            return;
        }
        match self.store.forwarded(place) {
            Ok(ticket) => (self.noted, self.noting) = (place, Some(ticket)),
            Err(LogError::Busy { .. }) => {}
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn tell(&mut self) {
        let (stats, bounds) = (&self.stats.spool, self.store.bounds());
        stats.messages.set(bounds.end - self.forward.window.position());
        stats.bytes.set(i64::try_from(bounds.bytes).unwrap_or(i64::MAX));
        stats.oldest_ms.set(self.forward.window.first().map_or(0, |entry| entry.spooled_ms));
        stats.usable.set(i64::try_from(self.store.usable()).unwrap_or(i64::MAX));
        let (quarantined, bytes) = self.store.quarantined();
        stats.quarantine_messages.set(i64::try_from(quarantined).unwrap_or(i64::MAX));
        stats.quarantine_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        stats.undecided.set(i64::from(!self.direct.is_empty()));
        let spooling = matches!(self.router.route(), Route::Spooling | Route::Draining { .. } | Route::Recalling);
        stats.spooling.set(i64::from(spooling));
        if self.is_idle() {
            for done in self.flushes.drain(..) {
                // Whoever does not wait any more has it flushed all the same.
                let _ = done.send(());
            }
        }
    }

    /// Everything handed in has its answer.
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.recalled.is_empty() && self.appending.is_empty() && self.direct.is_empty()
    }

    /// When to look again although nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let route = self.router.deadline(&self.facts(Instant::now()));
        let spooling = self.router.route() == Route::Spooling;
        let full = self.queue.front().filter(|_| spooling).map(|offer| offer.since + limits::SPOOL_FULL_WAIT);
        route.into_iter().chain(full).chain(self.forward.deadline()).min()
    }
}
