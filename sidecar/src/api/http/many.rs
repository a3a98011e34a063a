//! Many messages with one answer over HTTP: a JSON message on each line of the body, however long that is.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use wherry_proto::v1::{PublishManyRequest, PublishOptions};

use super::answer::{ErrorJson, Refusal};
use super::body;
use super::json::{DeliveryName, PublishJson};
use super::publish::JSON_FACTOR;
use super::query::Params;
use crate::backend::Backend;
use crate::error::Failure;
use crate::publish::many;
use crate::publish::record::TraceContext;
use crate::shared::Shared;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    delivery: DeliveryName,
}

#[derive(Debug, Serialize)]
pub(super) struct CountsJson {
    received: u64,
    published: u64,
    duplicates: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FailedJson>,
}

#[derive(Debug, Serialize)]
struct FailedJson {
    index: u64,
    error: ErrorJson,
}

/// `POST /v1/publish-many`
pub(super) async fn publish<B: Backend>(
    State(shared): State<Shared<B>>,
    Params(options): Params<Options>,
    request: Request,
) -> Result<Json<CountsJson>, Refusal> {
    if shared.phase.stopping.is_cancelled() {
        return Err(Failure::draining().into());
    }
    let trace = TraceContext::of(request.headers());
    let first = PublishManyRequest {
        messages: Vec::new(),
        options: Some(PublishOptions {
            default_topic: options.topic.clone(),
            delivery: options.delivery.level().into(),
        }),
    };
    let most = shared.limits.message_bytes * JSON_FACTOR;
    let lines = messages(request.into_body(), most, options.topic);
    let inbound = futures::stream::iter([Ok(first)]).chain(lines);
    let counts = many::many(&shared, Box::pin(inbound), trace).await.map_err(|status| broken(&status))?;
    let errors = counts.errors.into_iter().filter_map(|of| Some((of.index, of.error?)));
    Ok(Json(CountsJson {
        received: counts.received,
        published: counts.published,
        duplicates: counts.duplicates,
        failed: counts.failed,
        errors: errors.map(|(index, error)| FailedJson { index, error: ErrorJson::from(&error) }).collect(),
    }))
}

/// What ended the call, in the words that it had.
fn broken(status: &Status) -> Failure {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument => Failure::invalid("INVALID_JSON", message),
        Code::Unavailable => Failure::passing(Code::Unavailable, "DRAINING", message),
        code => Failure::lasting(code, "STREAM_BROKEN", message),
    }
}

/// The messages of a body, in pieces as they come.
fn messages(
    body: Body,
    most: usize,
    topic: String,
) -> impl Stream<Item = Result<PublishManyRequest, Status>> + Send + 'static {
    async_stream::stream! {
        let mut chunks = body.into_data_stream();
        let mut lines = Lines::new(most);
        while let Some(chunk) = chunks.next().await {
            let read = chunk.map_err(|error| Status::invalid_argument(format!("the body broke off: {error}")));
            let parsed = read.and_then(|chunk| Ok(parse(lines.came(&chunk)?, &topic)?));
            let failed = parsed.is_err();
            yield parsed;
            if failed {
                return;
            }
        }
        yield lines.rest().and_then(|rest| Ok(parse(rest, &topic)?));
    }
}

fn parse(lines: Vec<Bytes>, topic: &str) -> Result<PublishManyRequest, Failure> {
    let mut messages = Vec::with_capacity(lines.len());
    for line in lines {
        messages.push(body::parse::<PublishJson>(&line)?.message(topic)?);
    }
    Ok(PublishManyRequest { messages, options: None })
}

/// Cuts a body into lines. A line that is longer than `most` ends it.
#[derive(Debug)]
struct Lines {
    most: usize,
    partial: BytesMut,
}

impl Lines {
    fn new(most: usize) -> Self {
        Self { most, partial: BytesMut::new() }
    }

    fn came(&mut self, mut chunk: &[u8]) -> Result<Vec<Bytes>, Status> {
        let mut lines = Vec::new();
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.grow(&chunk[..end])?;
            lines.extend(self.take());
            chunk.advance(end + 1);
        }
        self.grow(chunk)?;
        Ok(lines)
    }

    fn rest(&mut self) -> Result<Vec<Bytes>, Status> {
        Ok(self.take().into_iter().collect())
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if self.partial.len() + bytes.len() > self.most {
            let what = format!("a line is longer than {} bytes; send smaller messages", self.most);
            return Err(Status::resource_exhausted(what));
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// The line that is whole now; none where it is blank.
    fn take(&mut self) -> Option<Bytes> {
        let line = self.partial.split().freeze();
        line.iter().any(|byte| !byte.is_ascii_whitespace()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_come() {
        let body = b"one\n\n two \r\nthree";
        for step in 1..=body.len() {
            let mut lines = Lines::new(6);
            let mut found: Vec<Bytes> = body.chunks(step).flat_map(|chunk| lines.came(chunk).expect("short")).collect();
            found.extend(lines.rest().expect("short"));
            assert_eq!(found, ["one", " two \r", "three"]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_before_it_is_whole() {
        let mut lines = Lines::new(6);
        assert_eq!(lines.came(b"123456\n123456").expect("short"), ["123456"]);
        assert_eq!(lines.came(b"7").expect_err("long").code(), Code::ResourceExhausted);
    }
}
