//! What can go wrong, as decisions: each variant says what a caller should do, not where it came from.
//!
//! It knows protocol error codes by number and name; it knows no sockets and no messages.

use std::sync::Arc;
use std::time::Duration;

use crate::record::TopicPartition;

/// Result of a client call.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A failed call. Cheap to clone, because one failure answers every record of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nothing was done, and a later attempt may succeed: the client itself tried until its deadline.
    #[error("{what}: not possible within {waited:?} ({cause}); nothing was done, try again later")]
    Retry {
        /// The operation and what it was about.
        what: Arc<str>,
        /// What the last attempt met.
        cause: Arc<str>,
        /// How long the client tried.
        waited: Duration,
    },
    /// The deadline passed after the request was sent: it may or may not have been applied.
    #[error("{what}: no answer within {waited:?} ({cause}); it may have been applied, look before doing it again")]
    Unknown {
        /// The operation and what it was about.
        what: Arc<str>,
        /// What the last attempt met.
        cause: Arc<str>,
        /// How long the client tried.
        waited: Duration,
    },
    /// The broker refused, and would refuse again: change the request, its target or the permissions.
    #[error("{what}: refused by the broker with {name} ({code}){message}")]
    Rejected {
        /// The operation and what it was about.
        what: Arc<str>,
        /// Error code of the Kafka protocol.
        code: i16,
        /// Its name.
        name: Arc<str>,
        /// The broker's own words, if it had any; starts with ": ".
        message: Arc<str>,
    },
    /// There is no such topic or partition: create it, or correct the name.
    #[error("{what}: topic {topic} does not exist, or has no such partition; create it or correct the name")]
    NoSuchTopic {
        /// The operation.
        what: Arc<str>,
        /// The name asked for, with the partition where one was asked for.
        topic: Arc<str>,
    },
    /// Larger than a limit that has a name: send less, or raise the limit.
    #[error("{what}: {size} bytes, more than {limit_name} = {limit}")]
    TooLarge {
        /// What was too large.
        what: Arc<str>,
        /// Its size in bytes.
        size: usize,
        /// Where the limit is set.
        limit_name: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The group has moved on since (a rebalance): drop the work, its partitions are someone else's or will come again.
    #[error("group {group}: {what} belongs to generation {generation}, which is over; drop it, the records come again")]
    Stale {
        /// The group.
        group: Arc<str>,
        /// What was refused.
        what: &'static str,
        /// The generation it belonged to.
        generation: i32,
    },
    /// Something in the transaction failed: abort it, and begin again.
    #[error("{what} can only be aborted: {cause}")]
    AbortOnly {
        /// Which.
        what: Arc<str>,
        /// What failed.
        cause: Arc<str>,
    },
    /// Someone else has taken this identity (producer id or group instance id): stop.
    #[error("{what}: another instance has taken this identity ({name}); stop this one")]
    Fenced {
        /// Who was fenced.
        what: Arc<str>,
        /// Name of the protocol error.
        name: Arc<str>,
    },
    /// Bytes from a broker that contradict themselves or their checksum: do not use them, look at the broker.
    #[error("{at} offset {offset}: {what}; the data is damaged on the broker or on the way")]
    Corrupt {
        /// Where.
        at: TopicPartition,
        /// The offset that was asked for.
        offset: i64,
        /// What is wrong.
        what: Arc<str>,
    },
    /// The position lies outside the log and no reset was configured: seek, or configure `auto_offset_reset`.
    #[error("{at} offset {offset} is outside the log; seek, or set auto_offset_reset")]
    OutOfRange {
        /// Where.
        at: TopicPartition,
        /// The offset asked for; -1 where the group has none committed.
        offset: i64,
    },
    /// The broker is too old or does not serve this call.
    #[error("{what}: not supported by broker {broker}")]
    Unsupported {
        /// The call.
        what: Arc<str>,
        /// Address of the broker.
        broker: Arc<str>,
    },
    /// The configuration or an argument makes no sense: correct it.
    #[error("configuration: {what}")]
    Config {
        /// What, and what to do.
        what: Arc<str>,
    },
    /// The producer, consumer or client was closed.
    #[error("{what} is closed")]
    Closed {
        /// What was closed.
        what: &'static str,
    },
}

impl ClientError {
    /// Whether the same call may succeed later without a change by anyone who reads the error.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Retry { .. } | Self::Unknown { .. } => true,
            Self::Rejected { .. }
            | Self::NoSuchTopic { .. }
            | Self::TooLarge { .. }
            | Self::Stale { .. }
            | Self::AbortOnly { .. }
            | Self::Fenced { .. }
            | Self::Corrupt { .. }
            | Self::OutOfRange { .. }
            | Self::Unsupported { .. }
            | Self::Config { .. }
            | Self::Closed { .. } => false,
        }
    }

    /// Whether what was asked for may have happened although the call failed.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    pub(crate) fn config(what: impl Into<Arc<str>>) -> Self {
        Self::Config { what: what.into() }
    }
}
