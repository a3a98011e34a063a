//! Server-sent events: messages as they come, for whoever can read a long answer.
//!
//! A stream may have `window` messages out; each that is settled (`POST /v1/ack`, `/v1/nack`, or its timeout) makes room for another.
//! Without a group (`mode=broadcast`) there is nothing to settle, and the reader's own pace is the bound.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wherry_proto::v1::{InitialPosition, ReceivedMessage, SubscribeResponse, SubscribeStart, subscribe_response};

use super::answer::{ErrorJson, Refusal};
use super::json::{DeliveryName, Encoding, ReceivedJson, StartName};
use super::query::{self, Params};
use crate::api::ask;
use crate::backend::Backend;
use crate::delivery::broadcast;
use crate::delivery::driver::Credits;
use crate::delivery::sink::Outlet;
use crate::error::Failure;
use crate::limits;
use crate::shared::Shared;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromTopic {
    #[serde(default)]
    group: String,
    #[serde(default)]
    mode: ModeName,
    window: Option<u32>,
    ack_timeout: Option<String>,
    #[serde(default)]
    start: StartName,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    delivery: DeliveryName,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeName {
    #[default]
    Stream,
    Broadcast,
}

/// `GET /v1/topics/{topic}/events`
pub(super) async fn of_topic<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(topic): Path<String>,
    Params(params): Params<FromTopic>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let (outlet, received) = Outlet::new();
    let open = Open {
        received,
        end: outlet.end.clone(),
        draining: shared.phase.draining.clone(),
        base64: params.encoding == Encoding::Base64,
    };
    // Whoever reads no more drops these with the stream.
    let guards = (outlet.gone.clone().drop_guard(), shared.stats.subscriptions.enter());
    let lease = match params.mode {
        ModeName::Broadcast => broadcast::open(&shared, ask::broadcast(&start(topic, &params))?, None, outlet)?,
        ModeName::Stream => subscribe(&shared, topic, &params, outlet).await?,
    };
    let events = open.events((guards, lease));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(limits::EVENT_HEARTBEAT)))
}

fn start(topic: String, params: &FromTopic) -> SubscribeStart {
    SubscribeStart {
        group: params.group.clone(),
        topics: vec![topic],
        initial_position: InitialPosition::from(params.start).into(),
        delivery: params.delivery.level().into(),
        ..SubscribeStart::default()
    }
}

async fn subscribe<B: Backend>(
    shared: &Shared<B>,
    topic: String,
    params: &FromTopic,
    outlet: Outlet,
) -> Result<crate::delivery::registry::Lease, Failure> {
    let start = start(topic, params);
    let spec = ask::member(&start.group, &start.topics, start.initial_position, start.delivery)?;
    let asked = query::duration("ack_timeout", params.ack_timeout.as_deref())?;
    let ack_timeout = ask::ack_timeout(asked, &shared.limits)?;
    let window = params.window.unwrap_or(limits::EVENT_WINDOW);
    if window == 0 {
        return Err(Failure::invalid("INVALID_QUERY", "`window` is 0, so nothing could ever come; leave it out"));
    }
    let credits = Credits::Window(window);
    let (id, lease) = shared.groups.subscribe(shared, &spec, credits, ack_timeout, outlet).await?;
    tracing::debug!(group = %spec.group, subscription = id, "event stream");
    Ok(lease)
}

struct Open {
    received: mpsc::Receiver<SubscribeResponse>,
    end: Arc<OnceLock<Failure>>,
    draining: CancellationToken,
    base64: bool,
}

impl Open {
    /// The events, until the subscription ends; keeps `guards` as long.
    fn events<G: Send + 'static>(
        mut self,
        guards: G,
    ) -> impl Stream<Item = Result<Event, Infallible>> + Send + 'static {
        async_stream::stream! {
            let _guards = guards;
            let mut told = false;
            loop {
                tokio::select! {
                    frame = self.received.recv() => match frame {
                        Some(frame) => for message in messages(frame) {
                            yield Ok(event(message, self.base64));
                        },
                        None => break,
                    },
                    // What is out may still be settled; nothing more comes.
                    () = self.draining.cancelled(), if !told => {
                        told = true;
                        yield Ok(named("draining", &Failure::draining()));
                    }
                }
            }
            if let Some(failure) = self.end.get() {
                yield Ok(named("end", failure));
            }
        }
    }
}

fn messages(response: SubscribeResponse) -> Vec<ReceivedMessage> {
    match response.frame {
        Some(subscribe_response::Frame::Delivery(delivery)) => delivery.messages,
        // Nothing is settled on this stream.
        Some(subscribe_response::Frame::Started(_) | subscribe_response::Frame::Settled(_)) | None => Vec::new(),
    }
}

fn event(received: ReceivedMessage, base64: bool) -> Event {
    let partition = received.message.as_ref().and_then(|message| message.partition).unwrap_or_default();
    let id = format!("{partition}:{}", received.offset);
    Event::default().id(id).data(line(&ReceivedJson::of(received, base64)))
}

fn named(name: &str, failure: &Failure) -> Event {
    Event::default().event(name).data(line(&ErrorJson::from(failure)))
}

/// JSON on one line: a payload that is JSON may have line breaks between its tokens, where a space says as much.
fn line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().replace(['\r', '\n'], " ")
}
