//! Publishing over HTTP.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::Instrument;
use wherry_proto::v1;

use super::answer::{ErrorJson, Refusal};
use super::body;
use super::cloudevents::{self, Kind};
use super::json::{DeliveryName, OneOrMany, ResultJson};
use super::query::Params;
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::publish::one::{self, Level};
use crate::publish::record::{TopicNames, TraceContext};
use crate::shared::Shared;
use crate::transactions;

/// Request header with the message's key.
const KEY: &str = "wherry-key";
/// Request header with the message's id.
const MESSAGE_ID: &str = "wherry-message-id";
/// Request headers that become headers of the message, without this.
const HEADER_PREFIX: &str = "wherry-header-";
/// What curl says of any body unless it is told otherwise; so it says nothing.
const CURL_TYPE: &str = "application/x-www-form-urlencoded";
/// What JSON may be larger than what it says: base64, escapes, field names.
pub(super) const JSON_FACTOR: usize = 2;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToTopic {
    key: Option<String>,
    partition: Option<i32>,
    #[serde(default)]
    batch: bool,
    /// All messages of the batch or none.
    #[serde(default)]
    atomic: bool,
    #[serde(default)]
    delivery: DeliveryName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    /// All messages of the array or none.
    #[serde(default)]
    atomic: bool,
    #[serde(default)]
    delivery: DeliveryName,
}

/// `POST /v1/topics/{topic}/messages`
pub(super) async fn to_topic<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(topic): Path<String>,
    Params(params): Params<ToTopic>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    let how = How { level: Level::of(params.delivery.level().into())?, atomic: params.atomic, trace: &trace };
    if params.batch {
        return Ok(batch(&shared, body, &topic, &how).await?);
    }
    let kind = cloudevents::kind(&parts.headers);
    let message = match kind {
        Kind::Batch => return Ok(events(&shared, body, &topic, &how).await?),
        Kind::Structured => {
            let limit = shared.limits.message_bytes * JSON_FACTOR;
            let event: Box<RawValue> = body::json(body, limit, &shared.limits).await?;
            let message = cloudevents::structured(&event, &topic)?;
            let key = params.key.map(Bytes::from).or(message.key);
            v1::Message { key, partition: params.partition, ..message }
        }
        Kind::Binary | Kind::None => {
            let payload = body::whole(body, shared.limits.message_bytes, &shared.limits).await?;
            let message = raw(topic, params.key, params.partition, &parts.headers, payload)?;
            if kind == Kind::Binary { cloudevents::binary(message, &parts.headers)? } else { message }
        }
    };
    Ok(publish_one(&shared, message, &how).await?)
}

/// How messages are to be published.
struct How<'a> {
    level: Level,
    atomic: bool,
    trace: &'a TraceContext,
}

/// A batch of CloudEvents.
async fn events<B: Backend>(shared: &Shared<B>, body: Body, topic: &str, how: &How<'_>) -> Result<Response, Failure> {
    let limit = shared.limits.stream_bytes.max(shared.limits.message_bytes) * JSON_FACTOR;
    let events: Vec<Box<RawValue>> = body::json(body, limit, &shared.limits).await?;
    publish_many(shared, events.into_iter().map(|event| cloudevents::structured(&event, topic)), how).await
}

/// `POST /v1/publish`
pub(super) async fn named<B: Backend>(
    State(shared): State<Shared<B>>,
    Params(params): Params<Named>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    let how = How { level: Level::of(params.delivery.level().into())?, atomic: params.atomic, trace: &trace };
    Ok(batch(&shared, body, "", &how).await?)
}

/// The message that a body and its headers make.
pub(super) fn raw(
    topic: String,
    key: Option<String>,
    partition: Option<i32>,
    headers: &HeaderMap,
    payload: Bytes,
) -> Result<v1::Message, Failure> {
    let text = |name: &str| headers.get(name).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let utf8 = |name: &str| match text(name).map(|bytes| String::from_utf8(bytes.into())) {
        Some(Ok(text)) => Ok(text),
        Some(Err(_)) => Err(Failure::invalid("INVALID_HEADER", format!("the header {name} is not UTF-8; correct it"))),
        None => Ok(String::new()),
    };
    let carried = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(HEADER_PREFIX)?.to_owned();
        Some(v1::Header { name, value: Bytes::copy_from_slice(value.as_bytes()) })
    });
    Ok(v1::Message {
        topic,
        key: key.map(Bytes::from).or_else(|| text(KEY)),
        payload,
        headers: carried.collect(),
        content_type: Some(utf8(header::CONTENT_TYPE.as_str())?).filter(|given| given != CURL_TYPE).unwrap_or_default(),
        message_id: utf8(MESSAGE_ID)?,
        partition,
        ..v1::Message::default()
    })
}

async fn publish_one<B: Backend>(shared: &Shared<B>, message: v1::Message, how: &How<'_>) -> Result<Response, Failure> {
    let How { level, trace, .. } = how;
    let topic = message.topic.clone();
    let span = tracing::debug_span!("publish", %topic, traceparent = ?trace.parent);
    let publish = async {
        let taken = one::take(shared, message, &mut TopicNames::default(), trace).await?;
        one::finish(shared, taken, *level).await
    };
    let result = publish.instrument(span).await?;
    Ok(Json(ResultJson::from(v1::PublishResult { topic, ..result })).into_response())
}

#[derive(Debug, Serialize)]
struct BatchJson {
    results: Vec<OutcomeJson>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OutcomeJson {
    Published(ResultJson),
    Failed { error: ErrorJson },
}

/// One message, or several, each with its own outcome. Answers 207 when some failed.
async fn batch<B: Backend>(shared: &Shared<B>, body: Body, topic: &str, how: &How<'_>) -> Result<Response, Failure> {
    let limit = shared.limits.stream_bytes.max(shared.limits.message_bytes) * JSON_FACTOR;
    let messages = match body::json(body, limit, &shared.limits).await? {
        OneOrMany::One(one) => return publish_one(shared, one.message(topic)?, how).await,
        OneOrMany::Many(messages) => messages,
    };
    publish_many(shared, messages.into_iter().map(|message| message.message(topic)), how).await
}

async fn publish_many<B: Backend>(
    shared: &Shared<B>,
    messages: impl ExactSizeIterator<Item = Result<v1::Message, Failure>>,
    how: &How<'_>,
) -> Result<Response, Failure> {
    if messages.len() > limits::HTTP_BATCH_MESSAGES {
        return Err(Failure::invalid("TOO_MANY_MESSAGES", "more than 10000 messages at once; send them in parts"));
    }
    let results = if how.atomic {
        let messages = messages.collect::<Result<_, _>>()?;
        let done = transactions::at_once(shared, messages, Vec::new(), how.trace).await?;
        done.results.into_iter().map(|result| OutcomeJson::Published(result.into())).collect()
    } else {
        publish_all(shared, messages.collect(), how).await
    };
    let all = results.iter().all(|outcome| matches!(outcome, OutcomeJson::Published(_)));
    let status = if all { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(BatchJson { results })).into_response())
}

async fn publish_all<B: Backend>(
    shared: &Shared<B>,
    messages: Vec<Result<v1::Message, Failure>>,
    how: &How<'_>,
) -> Vec<OutcomeJson> {
    let mut topics = TopicNames::default();
    let mut taken = Vec::with_capacity(messages.len());
    for message in messages {
        // All are taken before the first is waited for: so they share batches.
        taken.push(match message {
            Ok(message) => {
                let topic = message.topic.clone();
                one::take(shared, message, &mut topics, how.trace).await.map(|publishing| (topic, publishing))
            }
            Err(failure) => Err(failure),
        });
    }
    let mut results = Vec::with_capacity(taken.len());
    for publishing in taken {
        let outcome = match publishing {
            Ok((topic, publishing)) => {
                one::finish(shared, publishing, how.level).await.map(|result| v1::PublishResult { topic, ..result })
            }
            Err(failure) => Err(failure),
        };
        results.push(match outcome {
            Ok(result) => OutcomeJson::Published(result.into()),
            Err(failure) => OutcomeJson::Failed { error: ErrorJson::from(&failure) },
        });
    }
    results
}
