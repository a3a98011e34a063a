//! Error codes of the Kafka protocol and what they ask of a client. Pure.

use std::sync::Arc;

use kafka_protocol::ResponseError;

use crate::error::ClientError;
use crate::retry::Attempt;

/// What to do about an error code, where the call has no special rule for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Try again after a pause.
    Again,
    /// Ask for new metadata (or the coordinator) first, then try again.
    Elsewhere,
    /// Try again; the broker does not know whether it was applied.
    Unknown,
    /// Useless.
    Fail,
}

/// The protocol's error for a code; `None` for success.
pub(crate) fn error(code: i16) -> Option<ResponseError> {
    ResponseError::try_from_code(code)
}

/// What `code` asks for.
pub(crate) fn advice(code: ResponseError) -> Advice {
    use ResponseError as E;
    match code {
        E::NotLeaderOrFollower
        | E::LeaderNotAvailable
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::UnknownTopicOrPartition
        | E::UnknownTopicId
        | E::InconsistentTopicId
        | E::KafkaStorageError
        | E::NotController
        | E::NotCoordinator
        | E::CoordinatorNotAvailable
        | E::OffsetNotAvailable
        | E::BrokerNotAvailable
        | E::ListenerNotFound
        | E::ReplicaNotAvailable
        | E::NetworkException => Advice::Elsewhere,
        E::RequestTimedOut | E::NotEnoughReplicasAfterAppend => Advice::Unknown,
        other if other.is_retriable() => Advice::Again,
        _ => Advice::Fail,
    }
}

/// The name of an error as the protocol's documents write it: `NotCoordinator` is NOT_COORDINATOR.
pub(crate) fn name(code: ResponseError) -> Arc<str> {
    if let ResponseError::Unknown(number) = code {
        return format!("UNKNOWN_ERROR_{number}").into();
    }
    let mut name = String::new();
    for (i, letter) in code.to_string().chars().enumerate() {
        if letter.is_ascii_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name.into()
}

/// The attempt's end for an error that has no special rule in its call. `message` is the broker's own.
pub(crate) fn attempt(what: &str, code: ResponseError, message: Option<&str>) -> Attempt {
    let cause = || -> Arc<str> { describe(code, message).into() };
    match advice(code) {
        Advice::Again | Advice::Elsewhere => Attempt::Again(cause()),
        Advice::Unknown => Attempt::Unknown(cause()),
        Advice::Fail => Attempt::Fail(rejected(what, code, message)),
    }
}

/// An error that says: refused.
pub(crate) fn rejected(what: &str, code: ResponseError, message: Option<&str>) -> ClientError {
    if code == ResponseError::UnknownTopicOrPartition {
        return ClientError::NoSuchTopic { what: what.into(), topic: message.unwrap_or("named there").into() };
    }
    let message = message.filter(|m| !m.is_empty()).map(|m| format!(": {m}")).unwrap_or_default();
    ClientError::Rejected { what: what.into(), code: code.code(), name: name(code), message: message.into() }
}

/// A name, and the broker's words if there are any.
pub(crate) fn describe(code: ResponseError, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!("{} ({}): {message}", name(code), code.code()),
        Some(_) | None => format!("{} ({})", name(code), code.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_protocols() {
        assert_eq!(&*name(ResponseError::NotLeaderOrFollower), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(&*name(ResponseError::Unknown(999)), "UNKNOWN_ERROR_999");
    }

    #[test]
    fn advice_follows_the_protocol() {
        assert_eq!(advice(ResponseError::NotCoordinator), Advice::Elsewhere);
        assert_eq!(advice(ResponseError::CoordinatorLoadInProgress), Advice::Again);
        assert_eq!(advice(ResponseError::RequestTimedOut), Advice::Unknown);
        assert_eq!(advice(ResponseError::TopicAlreadyExists), Advice::Fail);
        assert_eq!(advice(ResponseError::Unknown(999)), Advice::Fail);
    }
}
