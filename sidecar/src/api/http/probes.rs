//! Probes and metrics, for whoever runs the sidecar.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use crate::backend::Backend;
use crate::shared::Shared;

/// `GET /livez`: this process answers.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// `GET /startupz`: the listener is open, and the spool where there is one: before that nobody answers here. The cluster is not
/// waited for, or else an outage of it would keep pods from starting.
pub(super) async fn started() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: the listener is open and the sidecar is not stopping. Whether the cluster has been reached is told, and decides
/// nothing: an outage of the cluster must not make applications unready.
pub(super) async fn ready<B: Backend>(State(shared): State<Shared<B>>) -> (StatusCode, &'static str) {
    match (shared.phase.draining.is_cancelled(), shared.backend.reached()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        (false, true) => (StatusCode::OK, "ok\n"),
        (false, false) => (StatusCode::OK, "ok; the cluster has not been reached yet\n"),
    }
}

/// `GET /metrics`: in the text format of Prometheus.
pub(super) async fn metrics<B: Backend>(State(shared): State<Shared<B>>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], shared.stats.render())
}
