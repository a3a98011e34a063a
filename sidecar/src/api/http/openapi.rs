//! The description of the HTTP calls, as OpenAPI 3.1.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

/// Kept by hand, so that it says what people need; the tests below see to it that nothing is missing.
const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /v1/openapi.json`
pub(super) async fn document() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT)
}
