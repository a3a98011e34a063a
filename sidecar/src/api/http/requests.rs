//! Requests and replies over HTTP.

use axum::Json;
use axum::extract::{Path, Request, State};
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::json::{self, PublishJson, ReceivedJson, ResultJson};
use super::query::{self, Params};
use super::settle::{self, AckResultJson};
use super::{body, publish};
use crate::backend::Backend;
use crate::publish::record::TraceContext;
use crate::requests;
use crate::shared::Shared;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ToTopic {
    key: Option<String>,
    partition: Option<i32>,
    timeout: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RepliedJson {
    reply: ReceivedJson,
    request: ResultJson,
}

/// `POST /v1/topics/{topic}/requests`
pub(super) async fn request<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(topic): Path<String>,
    Params(params): Params<ToTopic>,
    request: Request,
) -> Result<Json<RepliedJson>, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    let asked = query::duration("timeout", params.timeout.as_deref())?;
    let payload = body::whole(body, shared.limits.message_bytes, &shared.limits).await?;
    let message = publish::raw(topic, params.key, params.partition, &parts.headers, payload)?;
    let patience = requests::patience(asked, None, shared.limits.request_time);
    let replied = requests::request(&shared, message, patience, &trace).await?;
    Ok(Json(RepliedJson {
        reply: json::reply(replied.reply.unwrap_or_default()),
        request: replied.request.unwrap_or_default().into(),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    ack_id: String,
    message: PublishJson,
    #[serde(default)]
    keep: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ReplyJson {
    result: ResultJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<AckResultJson>,
}

/// `POST /v1/reply`
pub(super) async fn reply<B: Backend>(
    State(shared): State<Shared<B>>,
    request: Request,
) -> Result<Json<ReplyJson>, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    let limit = shared.limits.message_bytes * publish::JSON_FACTOR;
    let reply: Reply = body::json(body, limit, &shared.limits).await?;
    let (ack_id, message) = (json::read_ack_id(reply.ack_id), reply.message.message("")?);
    let replied = requests::reply(&shared, ack_id, message, reply.keep, &trace).await?;
    Ok(Json(ReplyJson {
        result: replied.result.unwrap_or_default().into(),
        ack: replied.ack.as_ref().map(settle::result),
    }))
}
