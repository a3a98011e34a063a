//! Errors of the rooms below as the protocol's error codes.

use wherry_metadata::MetadataError;
use wherry_wire::batch::BatchError;

use crate::core::store::LogError;
use crate::limits::SHOWN_TEXT;
use wherry_wire::codec::{ResponseError, StrBytes};

/// An error code with a sentence for those versions that carry one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) error: ResponseError,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    pub(crate) fn code(&self) -> i16 {
        self.error.code()
    }

    pub(crate) fn text(&self) -> Option<StrBytes> {
        (!self.message.is_empty()).then(|| StrBytes::from_string(self.message.clone()))
    }
}

impl From<ResponseError> for ApiError {
    fn from(error: ResponseError) -> Self {
        Self { error, message: String::new() }
    }
}

impl From<&MetadataError> for ApiError {
    fn from(error: &MetadataError) -> Self {
        let code = match error {
            MetadataError::TopicExists(_) => ResponseError::TopicAlreadyExists,
            MetadataError::UnknownTopic(_) | MetadataError::UnknownPartition(_) => {
                ResponseError::UnknownTopicOrPartition
            }
            MetadataError::InvalidTopicName(_) => ResponseError::InvalidTopicException,
            MetadataError::InvalidPartitions(_) => ResponseError::InvalidPartitions,
            MetadataError::InvalidReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
            MetadataError::InvalidReplicaAssignment(_) => ResponseError::InvalidReplicaAssignment,
            MetadataError::UnknownBroker(_) => ResponseError::BrokerIdNotRegistered,
            MetadataError::StaleIncarnation { .. } => ResponseError::StaleBrokerEpoch,
            MetadataError::NotLeader { .. } => ResponseError::NotLeaderOrFollower,
            MetadataError::StaleEpoch { .. } => ResponseError::FencedLeaderEpoch,
            MetadataError::IneligibleReplica { .. } => ResponseError::IneligibleReplica,
            MetadataError::ElectionNotNeeded(_) => ResponseError::ElectionNotNeeded,
            MetadataError::PreferredLeaderNotAvailable(_) => ResponseError::PreferredLeaderNotAvailable,
            MetadataError::EligibleLeadersNotAvailable(_) => ResponseError::EligibleLeadersNotAvailable,
            MetadataError::NoReassignment(_) => ResponseError::NoReassignmentInProgress,
            MetadataError::UnknownCredential(_) => ResponseError::ResourceNotFound,
            MetadataError::BrokerInUse(_) => ResponseError::InvalidRequest,
            MetadataError::OutcomeUnknown => ResponseError::RequestTimedOut,
            MetadataError::InvalidConfig(_) => ResponseError::InvalidConfig,
            MetadataError::InvalidFeature(_) => ResponseError::InvalidUpdateVersion,
            MetadataError::LimitReached(_) => ResponseError::PolicyViolation,
            MetadataError::TopicIdExists(_)
            | MetadataError::InvalidRequest(_)
            | MetadataError::StaleProducerIds { .. }
            | MetadataError::ClusterIdMismatch { .. } => ResponseError::InvalidRequest,
            MetadataError::Malformed(_) | MetadataError::UnknownVersion { .. } => ResponseError::UnknownServerError,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&LogError> for ApiError {
    fn from(error: &LogError) -> Self {
        let code = match error {
            LogError::NoSuchLog(_) => ResponseError::UnknownTopicOrPartition,
            LogError::Exists(_) => ResponseError::UnknownServerError,
            LogError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
            LogError::StaleEpoch { .. } => ResponseError::FencedLeaderEpoch,
            LogError::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
            LogError::ProducerFenced { .. } => ResponseError::InvalidProducerEpoch,
            LogError::CoordinatorFenced { .. } => ResponseError::TransactionCoordinatorFenced,
            LogError::InvalidTransaction { .. } => ResponseError::InvalidTxnState,
            LogError::TooManyTransactions { .. } => ResponseError::PolicyViolation,
            LogError::Rejected { .. } => ResponseError::InvalidRecord,
            // The client tries again: there is room later.
            LogError::Busy { .. }
            | LogError::Full { .. }
            | LogError::ReadOnly(_)
            | LogError::ReadFailed(_)
            // Nothing is wrong with what the client sent: it looks for another leader, or waits until this copy is whole again.
            | LogError::Corrupt(_) => ResponseError::KafkaStorageError,
        };
        Self::new(code, error.to_string())
    }
}

impl From<&BatchError> for ApiError {
    fn from(error: &BatchError) -> Self {
        let code = match error {
            BatchError::Truncated { .. } | BatchError::Crc { .. } => ResponseError::CorruptMessage,
            BatchError::Magic { .. } => ResponseError::UnsupportedForMessageFormat,
            BatchError::Header { .. } => ResponseError::InvalidRecord,
            BatchError::TooLarge { .. } => ResponseError::MessageTooLarge,
        };
        Self::new(code, error.to_string())
    }
}

/// A client's text, cut to what an error message may repeat.
pub(crate) fn shown(text: &str) -> &str {
    text.char_indices().nth(SHOWN_TEXT).and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}
