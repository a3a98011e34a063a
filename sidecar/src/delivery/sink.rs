//! The way out to subscriptions: one small queue each, and results of acknowledgements that wait for room in it.
//!
//! It holds at most [`limits::SUBSCRIPTION_FRAMES`] frames per subscription, and one result per ack id that the subscription was allowed
//! to send. An application that does not read stops both.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{OwnedPermit, Sender};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use wherry_proto::v1::{self, AckResult, SubscribeResponse, subscribe_response};

use super::group::SubId;
use crate::error::Failure;
use crate::limits;

/// A subscription's way out, as it is handed to the group.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) frames: Sender<SubscribeResponse>,
    /// Cancelled when nobody listens any more.
    pub(crate) gone: CancellationToken,
    /// A permit for each ack id that may be sent; given back with its result.
    pub(crate) acks: Arc<Semaphore>,
    /// Why the last frame was the last, where there is more to say than that.
    pub(crate) end: Arc<OnceLock<Failure>>,
}

impl Outlet {
    /// A way out, and its other end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<SubscribeResponse>) {
        let (frames, received) = mpsc::channel(limits::SUBSCRIPTION_FRAMES);
        let acks = Arc::new(Semaphore::new(limits::SUBSCRIPTION_ACKS));
        (Self { frames, gone: CancellationToken::new(), acks, end: Arc::default() }, received)
    }
}

#[derive(Debug)]
struct Sink {
    room: Option<OwnedPermit<SubscribeResponse>>,
    results: Vec<AckResult>,
    acks: Arc<Semaphore>,
    end: Arc<OnceLock<Failure>>,
}

/// What happened to a subscription's way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SinkEvent {
    /// There is room for a frame.
    Room(SubId),
    /// Nobody listens any more.
    Gone(SubId),
}

type Wait = BoxFuture<'static, (SubId, Option<OwnedPermit<SubscribeResponse>>)>;

/// The ways out of one group.
#[derive(Default)]
pub(crate) struct Sinks {
    sinks: HashMap<SubId, Sink>,
    waits: FuturesUnordered<Wait>,
}

impl Sinks {
    /// Adds one. There is room in it once [`Sinks::next`] says so.
    pub(crate) fn add(&mut self, id: SubId, outlet: Outlet) {
        let gone = outlet.gone;
        self.waits.push(Box::pin(async move {
            gone.cancelled().await;
            (id, None)
        }));
        self.wait_for_room(id, outlet.frames);
        self.sinks.insert(id, Sink { room: None, results: Vec::new(), acks: outlet.acks, end: outlet.end });
    }

    /// Ends one, with the reason if there is one.
    pub(crate) fn remove(&mut self, id: SubId, why: Option<&Failure>) {
        if let Some(sink) = self.sinks.remove(&id)
            && let Some(failure) = why
        {
            // Only the first reason counts.
            let _ = sink.end.set(failure.clone());
        }
    }

    /// All there are.
    pub(crate) fn ids(&self) -> Vec<SubId> {
        self.sinks.keys().copied().collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.sinks.len()
    }

    /// Whether a subscription has sent ack ids whose results are not out.
    pub(crate) fn waits_for_results(&self, id: SubId) -> bool {
        self.sinks.get(&id).is_some_and(|sink| sink.acks.available_permits() < limits::SUBSCRIPTION_ACKS)
    }

    /// Sends messages; `false` if there is no room for another frame now. There must have been room for this one.
    pub(crate) fn deliver(&mut self, id: SubId, messages: Vec<v1::ReceivedMessage>) -> bool {
        self.send(id, subscribe_response::Frame::Delivery(v1::Delivery { messages }))
    }

    /// Keeps a result until there is room.
    pub(crate) fn settled(&mut self, id: SubId, result: AckResult) {
        if let Some(sink) = self.sinks.get_mut(&id) {
            sink.results.push(result);
        }
    }

    /// Sends results where there is room; answers with those that have none afterwards.
    pub(crate) fn flush(&mut self) -> Vec<SubId> {
        let due = |sink: &Sink| sink.room.is_some() && !sink.results.is_empty();
        let ready: Vec<SubId> = self.sinks.iter().filter(|(_, sink)| due(sink)).map(|(id, _)| *id).collect();
        ready.into_iter().filter(|id| !self.send_results(*id)).collect()
    }

    fn send_results(&mut self, id: SubId) -> bool {
        let Some(sink) = self.sinks.get_mut(&id) else { return true };
        let results = std::mem::take(&mut sink.results);
        sink.acks.add_permits(results.len());
        self.send(id, subscribe_response::Frame::Settled(v1::Settled { results }))
    }

    fn send(&mut self, id: SubId, frame: subscribe_response::Frame) -> bool {
        let Some(sink) = self.sinks.get_mut(&id) else { return true };
        let Some(room) = sink.room.take() else { return false };
        let frames = room.send(SubscribeResponse { frame: Some(frame) });
        match frames.try_reserve_owned() {
            Ok(room) => {
                sink.room = Some(room);
                true
            }
            Err(full) => {
                self.wait_for_room(id, full.into_inner());
                false
            }
        }
    }

    fn wait_for_room(&mut self, id: SubId, frames: Sender<SubscribeResponse>) {
        self.waits.push(Box::pin(async move { (id, frames.reserve_owned().await.ok()) }));
    }

    /// What happens next; never, while there is nothing to wait for.
    pub(crate) async fn next(&mut self) -> SinkEvent {
        loop {
            match self.waits.next().await {
                Some((id, Some(room))) => {
                    if let Some(sink) = self.sinks.get_mut(&id) {
                        sink.room = Some(room);
                        return SinkEvent::Room(id);
                    }
                }
                Some((id, None)) => {
                    if self.sinks.contains_key(&id) {
                        return SinkEvent::Gone(id);
                    }
                }
                None => std::future::pending().await,
            }
        }
    }
}
