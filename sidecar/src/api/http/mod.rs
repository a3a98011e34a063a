//! HTTP with JSON: the same calls for programs without gRPC, and for curl.
//!
//! What calls there are is in [`table`], and described in `openapi.json`, which is served as `GET /v1/openapi.json`.
//!
//! Errors are JSON: `{"code": "NOT_FOUND", "reason": "UNKNOWN_TOPIC", "message": "...", "retryable": false}`.

mod answer;
mod body;
mod cloudevents;
mod events;
mod groups;
mod json;
mod many;
mod openapi;
mod probes;
mod publish;
mod pull;
mod query;
mod requests;
mod settle;
mod topics;
mod transactions;

use axum::Router;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};

use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

/// The call whose body is a message on each line.
pub(crate) const MANY: &str = "/v1/publish-many";

/// All HTTP calls.
pub(crate) fn routes<B: Backend>(shared: &Shared<B>) -> Router {
    let router = table::<B>().into_iter().fold(Router::new(), |router, (_, path, call)| router.route(path, call));
    router.with_state(shared.clone()).fallback(not_here).method_not_allowed_fallback(|| async { wrong_method() })
}

/// Every call: its method, its path, its handler. What stands here is described in `openapi.json`; a test compares them.
fn table<B: Backend>() -> Vec<(&'static str, &'static str, MethodRouter<Shared<B>>)> {
    vec![
        ("post", "/v1/topics/{topic}/messages", post(publish::to_topic::<B>)),
        ("get", "/v1/topics/{topic}/messages", get(pull::from_topic::<B>)),
        ("get", "/v1/topics/{topic}/events", get(events::of_topic::<B>)),
        ("post", "/v1/topics/{topic}/requests", post(requests::request::<B>)),
        ("post", "/v1/publish", post(publish::named::<B>)),
        ("post", MANY, post(many::publish::<B>)),
        ("post", "/v1/reply", post(requests::reply::<B>)),
        ("post", "/v1/transactions", post(transactions::commit::<B>)),
        ("post", "/v1/ack", post(settle::ack::<B>)),
        ("post", "/v1/nack", post(settle::nack::<B>)),
        ("post", "/v1/extend", post(settle::extend::<B>)),
        ("get", "/v1/topics", get(topics::list::<B>)),
        ("get", "/v1/topics/{topic}", get(topics::get::<B>)),
        ("put", "/v1/topics/{topic}", put(topics::ensure::<B>)),
        ("get", "/v1/groups/{group}", get(groups::get::<B>)),
        ("post", "/v1/groups/{group}/seek", post(groups::seek::<B>)),
        ("get", "/v1/openapi.json", get(openapi::document)),
        ("get", "/livez", get(probes::live)),
        ("get", "/readyz", get(probes::ready::<B>)),
        ("get", "/metrics", get(probes::metrics::<B>)),
    ]
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
        "there is no such call; GET /v1/openapi.json says which there are",
    );
    refused(failure, is_grpc(&request))
}

fn wrong_method() -> answer::Refusal {
    answer::Refusal::with_status(
        405,
        Failure::invalid("WRONG_METHOD", "this path does not answer to this method; publish with POST, pull with GET"),
    )
}
