//! Topics over HTTP.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::body;
use crate::api::topics;
use crate::backend::Backend;
use crate::shared::Shared;

/// Largest body.
const BODY_BYTES: usize = 4096;

#[derive(Debug, Serialize)]
pub(super) struct TopicJson {
    name: String,
    partitions: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    partitions: i32,
}

/// `GET /v1/topics/{topic}`
pub(super) async fn get<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(name): Path<String>,
) -> Result<Json<TopicJson>, Refusal> {
    let partitions = topics::get(&shared, &name).await?;
    Ok(Json(TopicJson { name, partitions }))
}

/// `PUT /v1/topics/{topic}`, with an empty body or `{"partitions": 12}`
pub(super) async fn ensure<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<TopicJson>), Refusal> {
    let body = body::whole(request.into_body(), BODY_BYTES, &shared.limits).await?;
    let wanted: Wanted = if body.is_empty() { Wanted::default() } else { body::parse(&body)? };
    let (partitions, created) = topics::ensure(&shared, &name, wanted.partitions).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(TopicJson { name, partitions })))
}
