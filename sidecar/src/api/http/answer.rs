//! What HTTP calls answer with.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::Failure;

/// A failed call.
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    failure: Failure,
}

impl Refusal {
    pub(super) fn with_status(status: u16, failure: Failure) -> Self {
        Self { status, failure }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { status: failure.http_status(), failure }
    }
}

/// A failure, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct ErrorJson {
    code: &'static str,
    reason: String,
    message: String,
    retryable: bool,
}

impl From<&wherry_proto::v1::Error> for ErrorJson {
    fn from(error: &wherry_proto::v1::Error) -> Self {
        Self {
            code: code_name(tonic::Code::from(error.code)),
            reason: error.reason.clone(),
            message: error.message.clone(),
            retryable: error.retryable,
        }
    }
}

impl From<&Failure> for ErrorJson {
    fn from(failure: &Failure) -> Self {
        Self::from(&failure.to_proto())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(ErrorJson::from(&self.failure))).into_response()
    }
}

/// As google.rpc.Code spells it.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
