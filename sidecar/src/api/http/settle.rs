//! Acknowledging, handing back and extending over HTTP.

use axum::Json;
use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};
use wherry_proto::v1::{AckOutcome, AckResult};

use super::answer::{ErrorJson, Refusal};
use super::{body, json, query};
use crate::api::ask;
use crate::backend::Backend;
use crate::delivery::group::Verb;
use crate::limits;
use crate::shared::Shared;

/// Largest body: as many ack ids as may come at once, with room for spaces.
const BODY_BYTES: usize = limits::ACK_IDS * 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    ack_ids: Vec<String>,
    /// Of a nack.
    delay: Option<String>,
    /// Of an extend.
    timeout: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SettledJson {
    results: Vec<AckResultJson>,
}

#[derive(Debug, Serialize)]
pub(super) struct AckResultJson {
    ack_id: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

/// `POST /v1/ack`
pub(super) async fn ack<B: Backend>(
    State(shared): State<Shared<B>>,
    request: Request,
) -> Result<Json<SettledJson>, Refusal> {
    let settle: Settle = body::json(request.into_body(), BODY_BYTES, &shared.limits).await?;
    run(&shared, settle.ack_ids, Verb::Ack).await
}

/// `POST /v1/nack`
pub(super) async fn nack<B: Backend>(
    State(shared): State<Shared<B>>,
    request: Request,
) -> Result<Json<SettledJson>, Refusal> {
    let settle: Settle = body::json(request.into_body(), BODY_BYTES, &shared.limits).await?;
    let delay = ask::delay(query::duration("delay", settle.delay.as_deref())?, &shared.limits)?;
    run(&shared, settle.ack_ids, Verb::Nack(delay)).await
}

/// `POST /v1/extend`
pub(super) async fn extend<B: Backend>(
    State(shared): State<Shared<B>>,
    request: Request,
) -> Result<Json<SettledJson>, Refusal> {
    let settle: Settle = body::json(request.into_body(), BODY_BYTES, &shared.limits).await?;
    let timeout = match query::duration("timeout", settle.timeout.as_deref())? {
        Some(timeout) => Some(ask::ack_timeout(Some(timeout), &shared.limits)?),
        None => None,
    };
    run(&shared, settle.ack_ids, Verb::Extend(timeout)).await
}

async fn run<B: Backend>(shared: &Shared<B>, ids: Vec<String>, verb: Verb) -> Result<Json<SettledJson>, Refusal> {
    let ids = ask::ack_ids(ids.into_iter().map(json::read_ack_id).collect())?;
    let results = shared.groups.settle(ids, verb).await;
    Ok(Json(SettledJson { results: results.iter().map(result).collect() }))
}

pub(super) fn result(result: &AckResult) -> AckResultJson {
    let outcome = match result.outcome() {
        AckOutcome::Acknowledged => "acknowledged",
        AckOutcome::Released => "released",
        AckOutcome::Extended => "extended",
        AckOutcome::Lost => "lost",
        AckOutcome::Failed | AckOutcome::Unspecified => "failed",
    };
    AckResultJson { ack_id: json::ack_id(&result.ack_id), outcome, error: result.error.as_ref().map(ErrorJson::from) }
}
