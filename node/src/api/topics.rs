//! Finding the topic and partition that a request means.

use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::{Metadata, Topic};
use wherry_wire::types::{LeaderEpoch, LogId};

use super::errors::ApiError;
use wherry_wire::codec::{ResponseError, StrBytes};

/// The topic of that name.
pub(crate) fn by_name<'a>(meta: &'a Metadata, name: &str) -> Result<&'a Arc<Topic>, ResponseError> {
    meta.topic(name).ok_or(ResponseError::UnknownTopicOrPartition)
}

/// The topic with that id; a topic that was made again has another id.
pub(crate) fn by_id(meta: &Metadata, id: Uuid) -> Result<&Arc<Topic>, ResponseError> {
    meta.topic_by_id(id).ok_or(ResponseError::UnknownTopicId)
}

/// Refuses what would harm a topic that the system keeps for itself; `what` is what was asked for.
pub(crate) fn check_not_internal(topic: &Topic, what: &str) -> Result<(), ApiError> {
    if !topic.internal {
        return Ok(());
    }
    let text = format!("the topic '{}' is kept by the system; {what} it is not possible", topic.name);
    Err(ApiError::new(ResponseError::InvalidTopicException, text))
}

/// The log of a partition.
pub(crate) fn log(topic: &Topic, partition: i32) -> Result<LogId, ResponseError> {
    if topic.partition(partition).is_some() {
        Ok(LogId { topic: topic.id, partition })
    } else {
        Err(ResponseError::UnknownTopicOrPartition)
    }
}

/// Compares the epoch that a client knows (-1 for none) with the leader's (KIP-320).
pub(crate) fn check_epoch(client: i32, leader: LeaderEpoch) -> Result<(), ResponseError> {
    match client {
        i32::MIN..0 => Ok(()),
        known if known < leader.0 => Err(ResponseError::FencedLeaderEpoch),
        known if known > leader.0 => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}

/// A name for a response.
pub(crate) fn name_of(topic: &Topic) -> StrBytes {
    StrBytes::from_string(topic.name.to_string())
}
