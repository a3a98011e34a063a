//! What an application is told when something fails: one type for gRPC statuses, results on streams and HTTP.
//!
//! It knows the client's errors and how to say them; it does not know who asks.

use std::borrow::Cow;

use tonic::{Code, Status, metadata::MetadataValue};
use wherry_client::ClientError;
use wherry_proto::v1;

/// gRPC trailer that carries [`Failure::reason`].
pub const REASON_TRAILER: &str = "wherry-reason";

/// A refusal or failure, as an application sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The gRPC code; HTTP statuses are derived from it.
    pub code: Code,
    /// For machines: one word, stable.
    pub reason: &'static str,
    /// For people: what, which, and what to do.
    pub message: Cow<'static, str>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl Failure {
    /// A failure that will not go away by itself.
    pub fn lasting(code: Code, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason, message: message.into(), retryable: false }
    }

    /// A failure that may go away by itself.
    pub fn passing(code: Code, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason, message: message.into(), retryable: true }
    }

    /// A request that makes no sense.
    pub fn invalid(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::lasting(Code::InvalidArgument, reason, message)
    }

    /// The sidecar is stopping.
    #[must_use]
    pub fn draining() -> Self {
        Self::passing(Code::Unavailable, "DRAINING", "the sidecar is stopping; connect again when it is back")
    }

    /// As a gRPC status, with the reason in its trailers.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let mut status = Status::new(self.code, self.message.clone());
        status.metadata_mut().insert(REASON_TRAILER, MetadataValue::from_static(self.reason));
        status
    }

    /// As the result of one message or acknowledgement.
    #[must_use]
    pub fn to_proto(&self) -> v1::Error {
        v1::Error {
            code: self.code as i32,
            reason: self.reason.to_owned(),
            message: self.message.clone().into_owned(),
            retryable: self.retryable,
        }
    }

    /// The HTTP status with the same meaning (as google.rpc.Code has it).
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.code {
            Code::Ok => 200,
            Code::Cancelled => 499,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
            Code::DeadlineExceeded => 504,
            Code::NotFound => 404,
            Code::AlreadyExists | Code::Aborted => 409,
            Code::PermissionDenied => 403,
            Code::Unauthenticated => 401,
            Code::ResourceExhausted if self.reason == "MESSAGE_TOO_LARGE" => 413,
            Code::ResourceExhausted => 429,
            Code::Unimplemented => 501,
            Code::Unavailable => 503,
            Code::Unknown | Code::Internal | Code::DataLoss => 500,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.to_status()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::from(&error)
    }
}

impl From<&ClientError> for Failure {
    fn from(error: &ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Retry { .. } => Self::passing(Code::Unavailable, "CLUSTER_UNAVAILABLE", message),
            ClientError::Unknown { .. } => Self::passing(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", message),
            ClientError::Rejected { code, .. } => rejected(*code, message),
            ClientError::NoSuchTopic { .. } => Self::lasting(Code::NotFound, "UNKNOWN_TOPIC", message),
            ClientError::TooLarge { .. } => Self::lasting(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message),
            ClientError::Stale { .. } => Self::passing(Code::Aborted, "NO_LONGER_YOURS", message),
            ClientError::AbortOnly { .. } => Self::lasting(Code::Aborted, "TRANSACTION_FAILED", message),
            ClientError::Fenced { .. } => Self::lasting(Code::Aborted, "FENCED", message),
            ClientError::Corrupt { .. } => Self::lasting(Code::DataLoss, "CORRUPT", message),
            ClientError::OutOfRange { .. } => Self::lasting(Code::OutOfRange, "OFFSET_OUT_OF_RANGE", message),
            ClientError::Unsupported { .. } => Self::lasting(Code::Unimplemented, "UNSUPPORTED_BY_BROKER", message),
            ClientError::Config { .. } => Self::invalid("INVALID", message),
            ClientError::Closed { .. } => Self::draining(),
        }
    }
}

/// Error codes of the Kafka protocol that mean something else to an application than "refused".
fn rejected(code: i16, message: String) -> Failure {
    match code {
        // TOPIC_, GROUP_, CLUSTER_ and TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        29 | 30 | 31 | 53 => Failure::lasting(Code::PermissionDenied, "PERMISSION_DENIED", message),
        // MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE
        10 | 18 => Failure::lasting(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message),
        // UNKNOWN_TOPIC_OR_PARTITION
        3 => Failure::lasting(Code::NotFound, "UNKNOWN_TOPIC", message),
        // INVALID_TOPIC_EXCEPTION, INVALID_PARTITIONS, INVALID_GROUP_ID, INVALID_RECORD, INVALID_TIMESTAMP
        17 | 24 | 32 | 37 | 87 => Failure::invalid("REFUSED_BY_CLUSTER", message),
        // THROTTLING_QUOTA_EXCEEDED, GROUP_MAX_SIZE_REACHED
        81 | 89 => Failure::passing(Code::ResourceExhausted, "QUOTA", message),
        _ => Failure::lasting(Code::FailedPrecondition, "REFUSED_BY_CLUSTER", message),
    }
}
