//! Publishing over HTTP.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use wherry_proto::v1;

use super::answer::{ErrorJson, Refusal};
use super::body;
use super::json::{DeliveryName, OneOrMany, PublishJson, ResultJson};
use super::query::Params;
use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::publish::one::{self, Level};
use crate::publish::record::{TopicNames, TraceContext};
use crate::shared::Shared;

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
    #[serde(default)]
    delivery: DeliveryName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
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
    let level = Level::of(params.delivery.level().into())?;
    if params.batch {
        return Ok(batch(&shared, body, &topic, level, &trace).await?);
    }
    let payload = body::whole(body, shared.limits.message_bytes, &shared.limits).await?;
    let message = raw(topic, params.key, params.partition, &parts.headers, payload)?;
    Ok(publish_one(&shared, message, level, &trace).await?)
}

/// `POST /v1/publish`
pub(super) async fn named<B: Backend>(
    State(shared): State<Shared<B>>,
    Params(params): Params<Named>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    Ok(batch(&shared, body, "", Level::of(params.delivery.level().into())?, &trace).await?)
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

async fn publish_one<B: Backend>(
    shared: &Shared<B>,
    message: v1::Message,
    level: Level,
    trace: &TraceContext,
) -> Result<Response, Failure> {
    let topic = message.topic.clone();
    let span = tracing::debug_span!("publish", %topic, traceparent = ?trace.parent);
    let publish = async {
        let taken = one::take(shared, message, &mut TopicNames::default(), trace).await?;
        one::finish(shared, taken, level).await
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
async fn batch<B: Backend>(
    shared: &Shared<B>,
    body: Body,
    topic: &str,
    level: Level,
    trace: &TraceContext,
) -> Result<Response, Failure> {
    let limit = shared.limits.stream_bytes.max(shared.limits.message_bytes) * JSON_FACTOR;
    let messages = match body::json(body, limit, &shared.limits).await? {
        OneOrMany::One(one) => return publish_one(shared, one.message(topic)?, level, trace).await,
        OneOrMany::Many(messages) => messages,
    };
    if messages.len() > limits::HTTP_BATCH_MESSAGES {
        return Err(Failure::invalid("TOO_MANY_MESSAGES", "more than 10000 messages at once; send them in parts"));
    }
    let results = publish_all(shared, messages, topic, level, trace).await;
    let all = results.iter().all(|outcome| matches!(outcome, OutcomeJson::Published(_)));
    let status = if all { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(BatchJson { results })).into_response())
}

async fn publish_all<B: Backend>(
    shared: &Shared<B>,
    messages: Vec<PublishJson>,
    topic: &str,
    level: Level,
    trace: &TraceContext,
) -> Vec<OutcomeJson> {
    let mut topics = TopicNames::default();
    let mut taken = Vec::with_capacity(messages.len());
    for json in messages {
        // All are taken before the first is waited for: so they share batches.
        taken.push(match json.message(topic) {
            Ok(message) => {
                let topic = message.topic.clone();
                one::take(shared, message, &mut topics, trace).await.map(|publishing| (topic, publishing))
            }
            Err(failure) => Err(failure),
        });
    }
    let mut results = Vec::with_capacity(taken.len());
    for publishing in taken {
        let outcome = match publishing {
            Ok((topic, publishing)) => {
                one::finish(shared, publishing, level).await.map(|result| v1::PublishResult { topic, ..result })
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
