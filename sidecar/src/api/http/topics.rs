//! Topics over HTTP.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use wherry_proto::v1::ListTopicsRequest;

use super::answer::Refusal;
use super::body;
use super::query::Params;
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

#[derive(Debug, Serialize)]
pub(super) struct DescribedJson {
    name: String,
    partitions: i32,
    bounds: Vec<BoundsJson>,
    settings: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct BoundsJson {
    partition: i32,
    first_offset: i64,
    end_offset: i64,
}

/// `GET /v1/topics/{topic}`
pub(super) async fn get<B: Backend>(
    State(shared): State<Shared<B>>,
    Path(name): Path<String>,
) -> Result<Json<DescribedJson>, Refusal> {
    let described = topics::describe(&shared, &name).await?;
    let bounds = described.partitions.into_iter().map(|of| BoundsJson {
        partition: of.partition,
        first_offset: of.first_offset,
        end_offset: of.end_offset,
    });
    let partitions = described.topic.unwrap_or_default().partitions;
    let settings = described.settings.into_iter().collect();
    Ok(Json(DescribedJson { name, partitions, bounds: bounds.collect(), settings }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    page_size: i32,
    #[serde(default)]
    page_token: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ListedJson {
    topics: Vec<TopicJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    next_page_token: String,
}

/// `GET /v1/topics`
pub(super) async fn list<B: Backend>(
    State(shared): State<Shared<B>>,
    Params(params): Params<List>,
) -> Result<Json<ListedJson>, Refusal> {
    let List { prefix, page_size, page_token } = params;
    let listed = topics::list(&shared, &ListTopicsRequest { prefix, page_size, page_token }).await?;
    let topics = listed.topics.into_iter().map(|topic| TopicJson { name: topic.name, partitions: topic.partitions });
    Ok(Json(ListedJson { topics: topics.collect(), next_page_token: listed.next_page_token }))
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
