//! `RequestService`.

use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use wherry_proto::v1::request_service_server::RequestService;
use wherry_proto::v1::{ReplyRequest, ReplyResponse, RequestRequest, RequestResponse};

use crate::api::ask;
use crate::backend::Backend;
use crate::error::Failure;
use crate::publish::record::TraceContext;
use crate::requests;
use crate::shared::Shared;

pub(super) struct Requests<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> RequestService for Requests<B> {
    async fn request(&self, request: Request<RequestRequest>) -> Result<Response<RequestResponse>, Status> {
        let trace = TraceContext::of(request.metadata().as_ref());
        let call = grpc_timeout(request.metadata());
        let request = request.into_inner();
        let message = request.message.ok_or_else(no_message)?;
        let asked = ask::duration(request.timeout)?;
        let patience = requests::patience(asked, call, self.shared.limits.request_time);
        let span = tracing::debug_span!("request", topic = %message.topic, traceparent = ?trace.parent);
        let reply = requests::request(&self.shared, message, patience, &trace).instrument(span).await?;
        Ok(Response::new(reply))
    }

    async fn reply(&self, request: Request<ReplyRequest>) -> Result<Response<ReplyResponse>, Status> {
        let trace = TraceContext::of(request.metadata().as_ref());
        let ReplyRequest { ack_id, message, keep } = request.into_inner();
        let message = message.ok_or_else(no_message)?;
        Ok(Response::new(requests::reply(&self.shared, ack_id, message, keep, &trace).await?))
    }
}

fn no_message() -> Failure {
    Failure::invalid("INVALID_MESSAGE", "there is no message; set `message`")
}

/// The call's own deadline, where it has one: at most eight digits and a unit.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_of_calls_are_read() {
        let read = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("value"));
            grpc_timeout(&metadata)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        for wrong in ["", "S", "5", "5x", "-5S", "123456789S", "5 S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
