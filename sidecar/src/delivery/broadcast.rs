//! Subscriptions without a group: each reads all of its topics for itself, from where it says, and acknowledges nothing.
//!
//! One task each. Nothing is kept here: while the application has no credits, or does not read, nothing is asked of the reader, and the
//! client fetches no further than its bound.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::Code;
use wherry_client::{ClientError, ConsumedRecord, TopicPartition};

use super::driver::Command;
use super::message;
use super::registry::{Lease, ack_result};
use super::sink::{Outlet, SinkEvent, Sinks};
use crate::backend::{Backend, ReadSpec, Reader};
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;
use crate::stats::Entered;

/// The only subscription of its task.
const ID: u64 = 0;

/// Opens one. `credits`: how many messages it may get at first; `None`: as many as are read from it.
pub(crate) fn open<B: Backend>(
    shared: &Shared<B>,
    spec: ReadSpec,
    credits: Option<u32>,
    outlet: Outlet,
) -> Result<Lease, Failure> {
    if shared.phase.draining.is_cancelled() {
        return Err(Failure::draining());
    }
    let counted = shared.stats.broadcasts.enter();
    let open = usize::try_from(shared.stats.broadcasts.get()).unwrap_or(usize::MAX);
    if open > shared.limits.broadcasts {
        shared.stats.refused.add(1);
        return Err(too_many(shared.limits.broadcasts));
    }
    let (commands, received) = mpsc::channel(limits::GROUP_COMMANDS);
    let mut sinks = Sinks::default();
    sinks.add(ID, outlet);
    let broadcast = Broadcast {
        source: Source::Opening(shared.backend.read(spec.clone()).boxed()),
        shared: shared.clone(),
        spec,
        next: BTreeMap::new(),
        credits: credits.map(|credits| credits.min(shared.limits.credits)),
        sinks,
        room: false,
        finishing: false,
        _counted: counted,
    };
    let (killed, work) = (shared.phase.killed.clone(), broadcast.run(received));
    shared.groups.tasks.spawn(async move { killed.run_until_cancelled(work).await });
    Ok(Arc::new(commands))
}

fn too_many(most: usize) -> Failure {
    Failure::passing(
        Code::ResourceExhausted,
        "TOO_MANY_SUBSCRIBERS",
        format!(
            "there are limits.broadcasts = {most} subscriptions without a group already; end some, or raise the limit"
        ),
    )
}

fn nothing_to_settle() -> Failure {
    Failure::invalid(
        "NOTHING_TO_ACKNOWLEDGE",
        "a subscription without a group has nothing to acknowledge; leave it out",
    )
}

struct Broadcast<B: Backend> {
    shared: Shared<B>,
    spec: ReadSpec,
    source: Source<B::Reader>,
    /// Where each partition goes on after a failure.
    next: BTreeMap<TopicPartition, i64>,
    credits: Option<u32>,
    sinks: Sinks,
    room: bool,
    /// The application has said everything; it only waits for its last results.
    finishing: bool,
    _counted: Entered,
}

enum Source<R> {
    Opening(BoxFuture<'static, Result<R, ClientError>>),
    Reading(R),
    /// After a failure.
    Pausing(Pin<Box<Sleep>>),
}

/// What came of the source.
enum News<R> {
    Opened(Result<R, ClientError>),
    Read(Result<Vec<ConsumedRecord>, ClientError>),
    Paused,
}

impl<R: Reader> Source<R> {
    async fn news(&mut self, want: usize) -> News<R> {
        match self {
            Self::Opening(opening) => News::Opened(opening.await),
            Self::Reading(reader) if want > 0 => News::Read(reader.next(want).await),
            Self::Reading(_) => std::future::pending().await,
            Self::Pausing(pause) => {
                pause.await;
                News::Paused
            }
        }
    }
}

impl<B: Backend> Broadcast<B> {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let why = self.work(&mut commands).await;
        self.sinks.remove(ID, why.as_ref());
    }

    /// Works until it is over; answers with why, where there is more to say than that.
    async fn work(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Failure> {
        let phase = self.shared.phase.clone();
        let mut said_everything = false;
        loop {
            let want = if phase.draining.is_cancelled() { 0 } else { self.want() };
            tokio::select! {
                command = commands.recv(), if !said_everything => match command {
                    Some(command) => self.command(command),
                    None => said_everything = true,
                },
                event = self.sinks.next() => match event {
                    SinkEvent::Room(_) => self.room = true,
                    SinkEvent::Gone(_) => return None,
                },
                news = self.source.news(want) => {
                    if let Some(failure) = self.news(news) {
                        return Some(failure);
                    }
                }
                () = phase.draining.cancelled(), if !phase.draining.is_cancelled() => {}
                () = phase.stopping.cancelled() => return Some(Failure::draining()),
            }
            if !self.sinks.flush().is_empty() {
                self.room = false;
            }
            if self.finishing && !self.sinks.waits_for_results(ID) {
                return None;
            }
        }
    }

    /// How many records may be sent now.
    fn want(&self) -> usize {
        if !self.room || self.finishing {
            return 0;
        }
        self.credits.map_or(limits::DELIVERY_MESSAGES, |credits| (credits as usize).min(limits::DELIVERY_MESSAGES))
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Credit { more, .. } => {
                let most = self.shared.limits.credits;
                self.credits = self.credits.map(|credits| credits.saturating_add(more).min(most));
            }
            Command::Settle { ids, .. } => {
                for id in ids {
                    self.sinks.settled(ID, ack_result(id, Err(nothing_to_settle())));
                }
            }
            Command::Finish { .. } => self.finishing = true,
            // Only groups are asked for these.
            Command::Subscribe { .. } | Command::Pull { .. } | Command::Call { .. } | Command::Ask(_) => {}
        }
    }

    fn news(&mut self, news: News<B::Reader>) -> Option<Failure> {
        match news {
            News::Opened(Ok(reader)) => self.source = Source::Reading(reader),
            News::Read(Ok(records)) => self.deliver(records),
            News::Paused => self.source = Source::Opening(self.shared.backend.read(self.where_it_was()).boxed()),
            News::Opened(Err(error)) | News::Read(Err(error)) => {
                tracing::warn!(topics = ?self.spec.topics, %error, "a broadcast can't be read");
                if !error.is_retriable() {
                    return Some(error.into());
                }
                self.source = Source::Pausing(Box::pin(tokio::time::sleep(limits::GROUP_RETRY)));
            }
        }
        None
    }

    fn where_it_was(&self) -> ReadSpec {
        let mut offsets: BTreeMap<TopicPartition, i64> = self.spec.offsets.iter().cloned().collect();
        offsets.extend(self.next.iter().map(|(at, next)| (at.clone(), *next)));
        ReadSpec { offsets: offsets.into_iter().collect(), ..self.spec.clone() }
    }

    fn deliver(&mut self, records: Vec<ConsumedRecord>) {
        let count = records.len();
        let mut bytes = 0;
        for record in &records {
            bytes += record.size();
            let at = TopicPartition { topic: record.topic.clone(), partition: record.partition };
            self.next.insert(at, record.offset + 1);
        }
        self.shared.stats.delivered.add(count as u64);
        self.shared.stats.delivered_bytes.add(bytes as u64);
        let spent = u32::try_from(count).unwrap_or(u32::MAX);
        self.credits = self.credits.map(|credits| credits.saturating_sub(spent));
        self.room = self.sinks.deliver(ID, message::plain(records));
    }
}
