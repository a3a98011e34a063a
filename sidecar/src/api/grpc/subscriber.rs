//! `SubscriberService`.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::subscriber_service_server::SubscriberService;
use wherry_proto::v1::{
    AckRequest, AckResponse, ExtendRequest, ExtendResponse, NackRequest, NackResponse, PullRequest, PullResponse,
    SubscribeRequest, SubscribeResponse, SubscribeStart, SubscribeStarted, subscribe_response,
};

use crate::api::ask::{self, Mode};
use crate::backend::Backend;
use crate::delivery::broadcast;
use crate::delivery::driver::{Command, Credits};
use crate::delivery::group::{SubId, Verb};
use crate::delivery::registry::Lease;
use crate::delivery::sink::Outlet;
use crate::error::Failure;
use crate::limits::{self, Limits};
use crate::shared::Shared;
use crate::stats::Entered;

pub(super) struct Subscriber<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> SubscriberService for Subscriber<B> {
    type SubscribeStream = Frames;

    async fn subscribe(&self, request: Request<Streaming<SubscribeRequest>>) -> Result<Response<Frames>, Status> {
        let mut inbound = request.into_inner();
        let start = first(&mut inbound).await?;
        let frames = self.open(start, inbound).await?;
        Ok(Response::new(frames))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<PullResponse>, Status> {
        let request = request.into_inner();
        let limits = &self.shared.limits;
        let spec = ask::member(&request.group, &request.topics, request.initial_position, request.delivery)?;
        let max = ask::pull_messages(request.max_messages, limits);
        let wait = ask::duration(request.max_wait)?.unwrap_or_default().min(limits.pull_wait);
        let ack_timeout = ask::ack_timeout(ask::duration(request.ack_timeout)?, limits)?;
        let span = tracing::debug_span!("pull", group = %spec.group);
        let pull = self.shared.groups.pull(&self.shared, &spec, max, Instant::now() + wait, ack_timeout);
        Ok(Response::new(PullResponse { messages: pull.instrument(span).await? }))
    }

    async fn ack(&self, request: Request<AckRequest>) -> Result<Response<AckResponse>, Status> {
        let ids = ask::ack_ids(request.into_inner().ack_ids)?;
        Ok(Response::new(AckResponse { results: self.shared.groups.settle(ids, Verb::Ack).await }))
    }

    async fn nack(&self, request: Request<NackRequest>) -> Result<Response<NackResponse>, Status> {
        let request = request.into_inner();
        let verb = nack(request.delay, &self.shared.limits)?;
        let results = self.shared.groups.settle(ask::ack_ids(request.ack_ids)?, verb).await;
        Ok(Response::new(NackResponse { results }))
    }

    async fn extend(&self, request: Request<ExtendRequest>) -> Result<Response<ExtendResponse>, Status> {
        let request = request.into_inner();
        let verb = extend(request.timeout, &self.shared.limits)?;
        let results = self.shared.groups.settle(ask::ack_ids(request.ack_ids)?, verb).await;
        Ok(Response::new(ExtendResponse { results }))
    }
}

/// The first frame, which must open the subscription.
async fn first(inbound: &mut Streaming<SubscribeRequest>) -> Result<SubscribeStart, Status> {
    let not_started =
        || Failure::invalid("NOT_STARTED", "the first frame of a subscription must be `start`, within 30 s");
    let Ok(frame) = tokio::time::timeout(limits::FIRST_FRAME, inbound.message()).await else {
        return Err(not_started().into());
    };
    match frame?.and_then(|request| request.frame) {
        Some(Frame::Start(start)) => Ok(start),
        Some(Frame::Credits(_) | Frame::Ack(_) | Frame::Nack(_) | Frame::Extend(_)) | None => Err(not_started().into()),
    }
}

fn nack(delay: Option<prost_types::Duration>, limits: &Limits) -> Result<Verb, Failure> {
    Ok(Verb::Nack(ask::delay(ask::duration(delay)?, limits)?))
}

fn extend(timeout: Option<prost_types::Duration>, limits: &Limits) -> Result<Verb, Failure> {
    match ask::duration(timeout)? {
        Some(timeout) => Ok(Verb::Extend(Some(ask::ack_timeout(Some(timeout), limits)?))),
        None => Ok(Verb::Extend(None)),
    }
}

impl<B: Backend> Subscriber<B> {
    async fn open(&self, start: SubscribeStart, inbound: Streaming<SubscribeRequest>) -> Result<Frames, Failure> {
        let limits = &self.shared.limits;
        if ask::mode(start.mode)? == Mode::Broadcast {
            return self.broadcast(&start, inbound);
        }
        if !start.offsets.is_empty() {
            return Err(Failure::invalid(
                "INVALID",
                "`offsets` are for broadcasts; a group begins where it left off, move it with GroupService.Seek",
            ));
        }
        let spec = ask::member(&start.group, &start.topics, start.initial_position, start.delivery)?;
        let ack_timeout = ask::ack_timeout(ask::duration(start.ack_timeout)?, limits)?;
        let (outlet, received) = Outlet::new();
        let frames = Frames {
            started: Some(started(ack_timeout)),
            received,
            end: outlet.end.clone(),
            _gone: outlet.gone.clone().drop_guard(),
            _open: self.shared.stats.subscriptions.enter(),
        };
        let (acks, gone, end) = (outlet.acks.clone(), outlet.gone.clone(), outlet.end.clone());
        let (id, lease) = self
            .shared
            .groups
            .subscribe(&self.shared, &spec, Credits::Given(start.credits), ack_timeout, outlet)
            .await?;
        tracing::debug!(group = %spec.group, subscription = id, "subscribed");
        let reader = Reader { id, lease, acks, gone, end, limits: limits.clone() };
        tokio::spawn(reader.run(inbound));
        Ok(frames)
    }
}

impl<B: Backend> Subscriber<B> {
    fn broadcast(&self, start: &SubscribeStart, inbound: Streaming<SubscribeRequest>) -> Result<Frames, Failure> {
        let spec = ask::broadcast(start)?;
        let (outlet, received) = Outlet::new();
        let frames = Frames {
            started: Some(started(Duration::ZERO)),
            received,
            end: outlet.end.clone(),
            _gone: outlet.gone.clone().drop_guard(),
            _open: self.shared.stats.subscriptions.enter(),
        };
        let (acks, gone, end) = (outlet.acks.clone(), outlet.gone.clone(), outlet.end.clone());
        let lease = broadcast::open(&self.shared, spec, Some(start.credits), outlet)?;
        let reader = Reader { id: 0, lease, acks, gone, end, limits: self.shared.limits.clone() };
        tokio::spawn(reader.run(inbound));
        Ok(frames)
    }
}

fn started(ack_timeout: Duration) -> SubscribeResponse {
    let ack_timeout = prost_types::Duration::try_from(ack_timeout).ok();
    SubscribeResponse { frame: Some(subscribe_response::Frame::Started(SubscribeStarted { ack_timeout })) }
}

/// Reads what an application says on its subscription. It is a task of its own, so that acknowledgements flow also while the
/// application does not read messages.
struct Reader {
    id: SubId,
    lease: Lease,
    acks: Arc<Semaphore>,
    gone: CancellationToken,
    end: Arc<OnceLock<Failure>>,
    limits: Arc<Limits>,
}

impl Reader {
    async fn run(self, mut inbound: Streaming<SubscribeRequest>) {
        let gone = self.gone.clone();
        let said_everything = gone.run_until_cancelled(self.read(&mut inbound)).await;
        match said_everything {
            Some(Ok(())) => drop(self.lease.send(Command::Finish { id: self.id }).await),
            Some(Err(failure)) => {
                // Only the first reason counts.
                let _ = self.end.set(failure);
                self.gone.cancel();
            }
            None => {}
        }
    }

    async fn read(&self, inbound: &mut Streaming<SubscribeRequest>) -> Result<(), Failure> {
        loop {
            let frame = match inbound.message().await {
                Ok(Some(request)) => request.frame,
                Ok(None) => return Ok(()),
                Err(status) => return Err(broken(&status)),
            };
            let command = match frame {
                Some(Frame::Start(_)) => {
                    return Err(Failure::invalid(
                        "ALREADY_STARTED",
                        "`start` came twice; open another stream for another subscription",
                    ));
                }
                Some(Frame::Credits(credits)) => Command::Credit { id: self.id, more: credits.messages },
                Some(Frame::Ack(ack)) => self.settle(ack.ack_ids, Verb::Ack).await?,
                Some(Frame::Nack(frame)) => self.settle(frame.ack_ids, nack(frame.delay, &self.limits)?).await?,
                Some(Frame::Extend(frame)) => self.settle(frame.ack_ids, extend(frame.timeout, &self.limits)?).await?,
                // A frame of a later version of this API.
                None => {
                    return Err(Failure::invalid(
                        "UNKNOWN_FRAME",
                        "a frame is empty or unknown to this sidecar; leave it out",
                    ));
                }
            };
            if self.lease.send(command).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Waits until this many results may be outstanding.
    async fn settle(&self, ids: Vec<Bytes>, verb: Verb) -> Result<Command, Failure> {
        let ids = ask::ack_ids(ids)?;
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if let Ok(permits) = self.acks.acquire_many(count).await {
            // Given back with the results.
            permits.forget();
        }
        Ok(Command::Settle { id: self.id, ids, verb })
    }
}

fn broken(status: &Status) -> Failure {
    Failure::passing(status.code(), "STREAM_BROKEN", status.message().to_owned())
}

/// What goes out on a subscription.
pub(super) struct Frames {
    started: Option<SubscribeResponse>,
    received: mpsc::Receiver<SubscribeResponse>,
    end: Arc<OnceLock<Failure>>,
    _gone: DropGuard,
    _open: Entered,
}

impl Stream for Frames {
    type Item = Result<SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(started) = self.started.take() {
            return Poll::Ready(Some(Ok(started)));
        }
        match ready!(self.received.poll_recv(context)) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(self.end.get().map(|failure| Err(failure.to_status()))),
        }
    }
}
