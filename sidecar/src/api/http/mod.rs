//! HTTP with JSON: the same calls for programs without gRPC, and for curl.
//!
//! | call | does |
//! |---|---|
//! | `POST /v1/topics/{topic}/messages` | publishes the body, as it is (`?batch=true`: a JSON array of messages) |
//! | `POST /v1/publish` | publishes a JSON message, or an array of them |
//! | `GET /v1/topics/{topic}/messages?group=` | pulls (`max`, `wait`, `ack_timeout`, `start`) |
//! | `POST /v1/topics/{topic}/requests` | publishes the body as a request, answers with its reply (`timeout`) |
//! | `POST /v1/reply` | replies to a request that was pulled: `{"ack_id": .., "message": {..}}` |
//! | `POST /v1/ack`, `/v1/nack`, `/v1/extend` | settles `{"ack_ids": [..]}` |
//! | `GET /v1/topics/{topic}`, `PUT /v1/topics/{topic}` | describes a topic, makes sure that it exists |
//! | `GET /livez`, `/readyz`, `/metrics` | for whoever runs the sidecar |
//!
//! Errors are JSON: `{"code": "NOT_FOUND", "reason": "UNKNOWN_TOPIC", "message": "...", "retryable": false}`.

mod answer;
mod body;
mod json;
mod probes;
mod publish;
mod pull;
mod query;
mod requests;
mod settle;
mod topics;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

/// All HTTP calls.
pub(crate) fn routes<B: Backend>(shared: &Shared<B>) -> Router {
    Router::new()
        .route("/v1/topics/{topic}/messages", post(publish::to_topic::<B>).get(pull::from_topic::<B>))
        .route("/v1/publish", post(publish::named::<B>))
        .route("/v1/topics/{topic}/requests", post(requests::request::<B>))
        .route("/v1/reply", post(requests::reply::<B>))
        .route("/v1/ack", post(settle::ack::<B>))
        .route("/v1/nack", post(settle::nack::<B>))
        .route("/v1/extend", post(settle::extend::<B>))
        .route("/v1/topics/{topic}", get(topics::get::<B>).put(topics::ensure::<B>))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready::<B>))
        .route("/metrics", get(probes::metrics::<B>))
        .with_state(shared.clone())
        .fallback(not_here)
        .method_not_allowed_fallback(|| async { wrong_method() })
}

/// Whether a call is a gRPC call.
pub(crate) fn is_grpc(request: &Request) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The answer to a call that did not get as far as a handler, in the caller's own form.
pub(crate) fn refused(failure: Failure, grpc: bool) -> Response {
    if grpc { failure.to_status().into_http() } else { answer::Refusal::from(failure).into_response() }
}

async fn not_here(request: Request) -> Response {
    let failure = Failure::lasting(
        tonic::Code::Unimplemented,
        "NO_SUCH_CALL",
        "there is no such call; see POST /v1/topics/{topic}/messages, POST /v1/publish, GET /v1/topics/{topic}/messages, POST /v1/ack",
    );
    refused(failure, is_grpc(&request))
}

fn wrong_method() -> answer::Refusal {
    answer::Refusal::with_status(
        405,
        Failure::invalid("WRONG_METHOD", "this path does not answer to this method; publish with POST, pull with GET"),
    )
}
