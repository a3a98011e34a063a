//! A publishing stream: reads messages, waits for receipts and writes results, in one task.
//!
//! The response stream is the whole machine. HTTP/2 polls it when the application can take results; it then reads messages, hands them to
//! the backend and collects receipts. So backpressure needs no code: an application that reads no results is not read from, and while
//! the backend has no space the inbound stream stays unread and its flow control window closes.
//!
//! ```text
//!   frames -> read -> check -> try_send -> lanes -> collect -> results
//!                                 |no space
//!                                 v
//!                              waiting (one message; nothing is read meanwhile)
//! ```

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use wherry_proto::v1::{PublishAck, PublishOptions, PublishStreamRequest, PublishStreamResponse, publish_ack::Outcome};

use super::lanes::{Lanes, Ticket};
use super::one::{self, Level};
use super::outlet::{Answer, Offered};
use super::record::{self, TopicNames, TraceContext};
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;
use crate::spool::Published;
use crate::stats::Entered;

/// Messages read before results are looked at again.
const READ_MESSAGES: usize = 1024;

/// The responses of one publishing stream.
pub(crate) struct PublishStream<B: Backend, S> {
    shared: Shared<B>,
    inbound: Inbound<S>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    trace: TraceContext,
    topics: TopicNames,
    default_topic: String,
    level: Level,
    /// A message for which there is no space yet.
    waiting: Option<Waiting<Answer<B::Receipt>>>,
    lanes: Lanes<Answer<B::Receipt>>,
    acks: Vec<PublishAck>,
    _open: Entered,
}

/// A message on its way into the backend.
type Waiting<R> = (Ticket, BoxFuture<'static, Result<R, Failure>>);

enum Inbound<S> {
    Open(S),
    /// No more messages; the stream ends with this once all results are out.
    Ended(Option<Status>),
}

/// Why reading stopped.
enum Paused {
    /// Everything that could be read was; wakers are registered.
    Pending,
    /// There may be more.
    Yielded,
}

impl<B: Backend, S> PublishStream<B, S>
where
    S: Stream<Item = Result<PublishStreamRequest, Status>> + Unpin,
{
    pub(crate) fn new(shared: Shared<B>, inbound: S, trace: TraceContext) -> Self {
        Self {
            stopping: Box::pin(shared.phase.stopping.clone().cancelled_owned()),
            _open: shared.stats.publish_streams.enter(),
            shared,
            inbound: Inbound::Open(inbound),
            trace,
            topics: TopicNames::default(),
            default_topic: String::new(),
            level: Level::default(),
            waiting: None,
            lanes: Lanes::new(),
            acks: Vec::new(),
        }
    }

    /// Reads messages until nothing is left to read, a bound is reached, or others should have their turn.
    fn read(&mut self, context: &mut Context<'_>) -> Paused {
        let now = Instant::now();
        let (mut read, mut messages, mut bytes) = (0, 0, 0);
        let paused = loop {
            if self.waiting.is_some() && self.poll_waiting(context).is_pending() {
                break Paused::Pending;
            }
            if self.full() {
                break Paused::Pending;
            }
            if read == READ_MESSAGES || self.acks.len() >= limits::ACKS_PER_FRAME {
                break Paused::Yielded;
            }
            match self.poll_inbound(context) {
                Poll::Ready(Some(frame)) => {
                    read += 1;
                    if let Some(size) = self.take(frame, now) {
                        messages += 1;
                        bytes += size as u64;
                    }
                }
                Poll::Ready(None) | Poll::Pending => break Paused::Pending,
            }
        };
        if messages > 0 {
            self.shared.stats.published.add(messages);
            self.shared.stats.published_bytes.add(bytes);
        }
        paused
    }

    fn full(&self) -> bool {
        let bounds = &self.shared.limits;
        self.lanes.messages() >= bounds.stream_messages || self.lanes.bytes() >= bounds.stream_bytes
    }

    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<Option<PublishStreamRequest>> {
        let Inbound::Open(inbound) = &mut self.inbound else {
            return Poll::Ready(None);
        };
        let end = match inbound.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(frame)),
            Poll::Ready(Some(Err(status))) => Some(inbound_status(&status, self.shared.limits.message_bytes)),
            Poll::Ready(None) => None,
            Poll::Pending => {
                ready!(self.stopping.poll_unpin(context));
                Some(Failure::draining().to_status())
            }
        };
        self.inbound = Inbound::Ended(end);
        Poll::Ready(None)
    }

    /// Takes one frame; answers with the size of its message, if that was taken.
    fn take(&mut self, frame: PublishStreamRequest, now: Instant) -> Option<usize> {
        let correlation_id = frame.correlation_id;
        if let Some(options) = frame.options
            && let Err(failure) = self.set(options)
        {
            // Without its options the rest of the stream would mean something else.
            self.inbound = Inbound::Ended(Some(failure.to_status()));
            return None;
        }
        let message = frame.message?;
        let bytes = record::size(&message);
        let ticket = Ticket { correlation_id, bytes, since: now };
        match self.send(message, bytes) {
            Ok(Offered::Now(receipt)) => self.sent(ticket, receipt),
            Ok(Offered::Later(parcel)) => {
                self.shared.stats.publish_in_flight.add(1);
                self.waiting = Some((ticket, self.shared.outlet.send(parcel, self.level).boxed()));
            }
            Err(failure) => {
                self.failed(correlation_id, &failure);
                return None;
            }
        }
        Some(bytes)
    }

    fn set(&mut self, options: PublishOptions) -> Result<(), Failure> {
        self.level = Level::of(options.delivery)?;
        if !options.default_topic.is_empty() {
            record::check_topic(&options.default_topic)?;
        }
        self.default_topic = options.default_topic;
        Ok(())
    }

    fn send(&mut self, message: wherry_proto::v1::Message, bytes: usize) -> Result<Offered<B::Receipt>, Failure> {
        let named = if message.topic.is_empty() { &self.default_topic } else { &message.topic };
        let topic = self.topics.get(named)?;
        let record = record::record(message, topic, bytes, self.shared.limits.message_bytes, &self.trace)?;
        self.shared.outlet.try_send(record, self.level)
    }

    fn sent(&mut self, ticket: Ticket, receipt: Answer<B::Receipt>) {
        match self.level {
            Level::AtMostOnce => self.acks.push(ack(ticket.correlation_id, Outcome::Result(one::accepted()))),
            Level::AtLeastOnce | Level::EffectivelyOnce => {
                self.shared.stats.publish_in_flight.add(1);
                self.lanes.push(ticket, receipt);
            }
        }
    }

    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((ticket, send)) = &mut self.waiting else { return Poll::Ready(()) };
        let ticket = *ticket;
        let outcome = ready!(send.poll_unpin(context));
        self.waiting = None;
        self.shared.stats.publish_in_flight.add(-1);
        match outcome {
            Ok(receipt) => self.sent(ticket, receipt),
            Err(error) => self.failed(ticket.correlation_id, &error),
        }
        Poll::Ready(())
    }

    fn failed(&mut self, correlation_id: u64, failure: &Failure) {
        self.shared.stats.publish_failed.add(1);
        self.acks.push(ack(correlation_id, Outcome::Error(failure.to_proto())));
    }

    /// Turns receipts that are known into results.
    fn collect(&mut self, context: &mut Context<'_>) {
        let room = limits::ACKS_PER_FRAME.saturating_sub(self.acks.len());
        let (acks, stats) = (&mut self.acks, &self.shared.stats);
        let mut span: Option<(Instant, u64)> = None;
        let known = self.lanes.collect(context, room, |ticket, outcome| {
            // Messages that were read together share their time; so one observation serves many.
            match &mut span {
                Some((since, count)) if *since == ticket.since => *count += 1,
                Some((since, count)) => {
                    stats.publish_latency.observe(since.elapsed(), *count);
                    span = Some((ticket.since, 1));
                }
                None => span = Some((ticket.since, 1)),
            }
            acks.push(ack(ticket.correlation_id, result(&outcome, stats)));
        });
        if let Some((since, count)) = span {
            stats.publish_latency.observe(since.elapsed(), count);
            stats.publish_in_flight.add(-i64::try_from(known).unwrap_or(i64::MAX));
        }
    }
}

impl<B: Backend, S> Stream for PublishStream<B, S>
where
    S: Stream<Item = Result<PublishStreamRequest, Status>> + Unpin,
{
    type Item = Result<PublishStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let paused = this.read(context);
        this.collect(context);
        if !this.acks.is_empty() {
            let acks = std::mem::take(&mut this.acks);
            return Poll::Ready(Some(Ok(PublishStreamResponse { acks })));
        }
        if let Inbound::Ended(status) = &mut this.inbound
            && this.waiting.is_none()
            && this.lanes.messages() == 0
        {
            return Poll::Ready(status.take().map(Err));
        }
        if matches!(paused, Paused::Yielded) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<B: Backend, S> Drop for PublishStream<B, S> {
    fn drop(&mut self) {
        // Whoever left does not wait for these any more; they are published all the same.
        let open = self.lanes.messages() + usize::from(self.waiting.is_some());
        self.shared.stats.publish_in_flight.add(-i64::try_from(open).unwrap_or(i64::MAX));
    }
}

fn ack(correlation_id: u64, outcome: Outcome) -> PublishAck {
    PublishAck { correlation_id, outcome: Some(outcome) }
}

fn result(outcome: &Result<Published, Failure>, stats: &crate::stats::Stats) -> Outcome {
    match outcome {
        Ok(published) => Outcome::Result(one::result_on_stream(published)),
        Err(failure) => {
            stats.publish_failed.add(1);
            Outcome::Error(failure.to_proto())
        }
    }
}

/// Why the application's side of the stream broke, in words that help.
fn inbound_status(status: &Status, message_bytes: usize) -> Status {
    if status.code() == tonic::Code::OutOfRange {
        return Failure::lasting(
            tonic::Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            format!("a frame is far larger than limits.message_bytes = {message_bytes}, so the stream ends; send smaller messages"),
        )
        .to_status();
    }
    status.clone()
}
