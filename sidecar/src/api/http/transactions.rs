//! Transactions over HTTP: one in one call.

use axum::Json;
use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::json::{self, PublishJson, ResultJson};
use super::{body, publish};
use crate::backend::Backend;
use crate::publish::record::TraceContext;
use crate::shared::Shared;
use crate::transactions;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Commit {
    #[serde(default)]
    messages: Vec<PublishJson>,
    #[serde(default)]
    ack_ids: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct CommittedJson {
    results: Vec<ResultJson>,
    acknowledged: u32,
}

/// `POST /v1/transactions`
pub(super) async fn commit<B: Backend>(
    State(shared): State<Shared<B>>,
    request: Request,
) -> Result<Json<CommittedJson>, Refusal> {
    let (parts, body) = request.into_parts();
    let trace = TraceContext::of(&parts.headers);
    let most = shared.limits.transaction_bytes.max(shared.limits.message_bytes);
    let asked: Commit = body::json(body, most * publish::JSON_FACTOR, &shared.limits).await?;
    let messages = asked.messages.into_iter().map(|message| message.message("")).collect::<Result<_, _>>()?;
    let ack_ids = asked.ack_ids.into_iter().map(json::read_ack_id).collect();
    let done = transactions::at_once(&shared, messages, ack_ids, &trace).await?;
    let results = done.results.into_iter().map(ResultJson::from).collect();
    Ok(Json(CommittedJson { results, acknowledged: done.acknowledged }))
}
