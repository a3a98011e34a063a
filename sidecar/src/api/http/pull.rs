//! Pulling over HTTP.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wherry_proto::v1::InitialPosition;

use super::answer::Refusal;
use super::cloudevents;
use super::json::{DeliveryName, Encoding, ReceivedJson, StartName};
use super::query::{self, Params};
use crate::api::ask;
use crate::backend::Backend;
use crate::shared::Shared;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromTopic {
    group: String,
    #[serde(default)]
    max: u32,
    wait: Option<String>,
    ack_timeout: Option<String>,
    #[serde(default)]
    start: StartName,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    delivery: DeliveryName,
}

#[derive(Debug, Serialize)]
pub(super) struct PulledJson {
    messages: Vec<ReceivedJson>,
}

/// `GET /v1/topics/{topic}/messages`
pub(super) async fn from_topic<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(topic): Path<String>,
    Params(params): Params<FromTopic>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let limits = &shared.limits;
    let start = InitialPosition::from(params.start);
    let spec = ask::member(&params.group, &[topic], start.into(), params.delivery.level().into())?;
    let wait = query::duration("wait", params.wait.as_deref())?.unwrap_or_default().min(limits.pull_wait);
    let ack_timeout = ask::ack_timeout(query::duration("ack_timeout", params.ack_timeout.as_deref())?, limits)?;
    let max = ask::pull_messages(params.max, limits);
    let messages = shared.groups.pull(&shared, &spec, max, Instant::now() + wait, ack_timeout).await?;
    if cloudevents::wanted(&headers) {
        let events: Vec<serde_json::Value> = messages.into_iter().map(cloudevents::event).collect();
        return Ok(([(CONTENT_TYPE, cloudevents::BATCH)], Json(events)).into_response());
    }
    let base64 = params.encoding == Encoding::Base64;
    Ok(Json(PulledJson { messages: messages.into_iter().map(|message| ReceivedJson::of(message, base64)).collect() })
        .into_response())
}
