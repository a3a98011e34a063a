//! Reading a request's body within bounds.

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use tonic::Code;

use crate::error::Failure;
use crate::limits::Limits;

/// The whole body, at most `limit` bytes, within the time that a message may take.
pub(super) async fn whole(body: Body, limit: usize, limits: &Limits) -> Result<Bytes, Failure> {
    let collected = tokio::time::timeout(limits.partial_time, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::lasting(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            format!("the body is larger than {limit} bytes; send less"),
        )),
        Ok(Err(error)) => Err(Failure::invalid("BROKEN_BODY", format!("the body broke off: {error}"))),
        Err(_) => Err(Failure::passing(
            Code::DeadlineExceeded,
            "BODY_TOO_SLOW",
            "the body did not come within limits.partial_time; nothing was published, send it again",
        )),
    }
}

/// The body as JSON.
pub(super) async fn json<T: DeserializeOwned>(body: Body, limit: usize, limits: &Limits) -> Result<T, Failure> {
    parse(&whole(body, limit, limits).await?)
}

/// Bytes as JSON.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::invalid("INVALID_JSON", format!("the body is not the JSON that this call takes: {error}"))
    })
}
