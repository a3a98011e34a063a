//! What an application asks for when it subscribes, pulls or settles, checked and brought within bounds; the same for gRPC and HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wherry_client::TopicPartition;
use wherry_proto::v1::{DeliveryLevel, InitialPosition, PartitionOffset, SubscribeMode, SubscribeStart};

use crate::backend::{MemberSpec, ReadSpec, Start};
use crate::error::Failure;
use crate::limits::{self, Limits};
use crate::publish::record::check_topic;

/// The membership that is meant: group, topics without repeats and in order, start.
pub(crate) fn member(group: &str, topics: &[String], start: i32, delivery: i32) -> Result<MemberSpec, Failure> {
    check_group(group)?;
    let topics = self::topics(topics)?;
    Ok(MemberSpec { group: group.into(), topics, start: self::start(start)?, committed: committed(delivery)? })
}

/// Refuses names that no group can have.
pub(crate) fn check_group(group: &str) -> Result<(), Failure> {
    if group.is_empty() {
        return Err(Failure::invalid("INVALID_GROUP", "no group is named; set `group`"));
    }
    if group.len() > limits::GROUP_NAME_BYTES || group.chars().any(char::is_control) {
        return Err(Failure::invalid(
            "INVALID_GROUP",
            "the group's name is longer than 255 bytes or has control characters; choose another",
        ));
    }
    Ok(())
}

/// Topics, without repeats and in order.
pub(crate) fn topics(topics: &[String]) -> Result<Vec<Arc<str>>, Failure> {
    if topics.is_empty() {
        return Err(Failure::invalid("INVALID_TOPIC", "no topic is named; set `topics`"));
    }
    if topics.len() > limits::TOPICS_PER_SUBSCRIPTION {
        return Err(Failure::invalid("INVALID_TOPIC", "more than 64 topics; use several groups"));
    }
    topics.iter().try_for_each(|topic| check_topic(topic))?;
    let mut topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(topic.as_str())).collect();
    topics.sort();
    topics.dedup();
    Ok(topics)
}

pub(crate) fn start(asked: i32) -> Result<Start, Failure> {
    match InitialPosition::try_from(asked) {
        Ok(InitialPosition::Unspecified | InitialPosition::Earliest) => Ok(Start::Earliest),
        Ok(InitialPosition::Latest) => Ok(Start::Latest),
        Err(_) => Err(Failure::invalid(
            "INVALID",
            format!("initial position {asked} is unknown to this sidecar; use one of InitialPosition"),
        )),
    }
}

/// How messages are to be divided, as far as that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Among the members of a group, by partition.
    Stream,
    /// Everything to everyone.
    Broadcast,
}

/// The mode of a subscription.
pub(crate) fn mode(asked: i32) -> Result<Mode, Failure> {
    match SubscribeMode::try_from(asked) {
        Ok(SubscribeMode::Unspecified | SubscribeMode::Stream) => Ok(Mode::Stream),
        Ok(SubscribeMode::Broadcast) => Ok(Mode::Broadcast),
        Ok(SubscribeMode::Queue) => Err(Failure::lasting(
            Code::Unimplemented,
            "NOT_OFFERED",
            "SUBSCRIBE_MODE_QUEUE is not offered yet: this sidecar does not speak share groups; use SUBSCRIBE_MODE_STREAM with more partitions",
        )),
        Err(_) => Err(Failure::invalid(
            "INVALID",
            format!("mode {asked} is unknown to this sidecar; use one of SubscribeMode"),
        )),
    }
}

/// What a subscription without a group reads.
pub(crate) fn broadcast(start: &SubscribeStart) -> Result<ReadSpec, Failure> {
    if !start.group.is_empty() {
        return Err(Failure::invalid("INVALID_GROUP", "a broadcast has no group: leave out `group`, or `mode`"));
    }
    let topics = topics(&start.topics)?;
    if start.offsets.len() > limits::OFFSETS {
        return Err(Failure::invalid("INVALID", "more than 10000 offsets; name fewer"));
    }
    let offsets = start.offsets.iter().map(|place| self::place(place, &topics)).collect::<Result<_, _>>()?;
    Ok(ReadSpec {
        topics,
        only: None,
        start: self::start(start.initial_position)?,
        offsets,
        committed: committed(start.delivery)?,
    })
}

/// A place in one of these topics.
pub(crate) fn place(place: &PartitionOffset, topics: &[Arc<str>]) -> Result<(TopicPartition, i64), Failure> {
    let topic = match topics {
        [only] if place.topic.is_empty() => Some(only),
        _ => topics.iter().find(|topic| ***topic == *place.topic),
    };
    match topic {
        Some(topic) if place.partition >= 0 && place.offset >= 0 => {
            Ok((TopicPartition::new(topic.clone(), place.partition), place.offset))
        }
        Some(_) => Err(Failure::invalid("INVALID", "a partition or an offset is negative; correct it")),
        None => Err(Failure::invalid("INVALID", "an offset names no topic of this call; set its `topic`")),
    }
}

/// Whether messages of transactions come only once these are committed, as the delivery level says.
pub(crate) fn committed(asked: i32) -> Result<bool, Failure> {
    match DeliveryLevel::try_from(asked) {
        Ok(DeliveryLevel::Unspecified | DeliveryLevel::AtLeastOnce) => Ok(false),
        Ok(DeliveryLevel::EffectivelyOnce) => Ok(true),
        Ok(DeliveryLevel::AtMostOnce) => Err(Failure::lasting(
            Code::Unimplemented,
            "NOT_OFFERED",
            "subscriptions do not deliver at most once; acknowledge a message before you handle it, or leave `delivery` out",
        )),
        Err(_) => Err(Failure::invalid(
            "INVALID",
            format!("delivery level {asked} is unknown to this sidecar; use one of DeliveryLevel"),
        )),
    }
}

/// An ack timeout, default where none is asked for.
pub(crate) fn ack_timeout(asked: Option<Duration>, limits: &Limits) -> Result<Duration, Failure> {
    match asked {
        None => Ok(limits::ACK_TIMEOUT_DEFAULT.min(limits.ack_timeout)),
        Some(asked) if asked < limits::ACK_TIMEOUT_MIN || asked > limits.ack_timeout => Err(Failure::invalid(
            "INVALID",
            format!(
                "a timeout of {asked:?} is not between {:?} and limits.ack_timeout = {:?}; choose one that is",
                limits::ACK_TIMEOUT_MIN,
                limits.ack_timeout
            ),
        )),
        Some(asked) => Ok(asked),
    }
}

/// A delay before the next delivery.
pub(crate) fn delay(asked: Option<Duration>, limits: &Limits) -> Result<Duration, Failure> {
    match asked {
        Some(asked) if asked > limits.ack_timeout => Err(Failure::invalid(
            "INVALID",
            format!(
                "a delay of {asked:?} is above limits.ack_timeout = {:?}; choose a shorter one",
                limits.ack_timeout
            ),
        )),
        asked => Ok(asked.unwrap_or_default()),
    }
}

/// How many messages a pull asks for.
pub(crate) fn pull_messages(asked: u32, limits: &Limits) -> usize {
    asked.clamp(1, limits.pull_messages) as usize
}

/// Ack ids in one request.
pub(crate) fn ack_ids(ids: Vec<Bytes>) -> Result<Vec<Bytes>, Failure> {
    if ids.len() > limits::ACK_IDS {
        return Err(Failure::invalid("TOO_MANY_ACK_IDS", "more than 10000 ack ids at once; send them in parts"));
    }
    Ok(ids)
}

/// A duration of a request.
pub(crate) fn duration(asked: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    let Some(asked) = asked else { return Ok(None) };
    match Duration::try_from(asked) {
        Ok(duration) => Ok(Some(duration)),
        Err(_) => Err(Failure::invalid("INVALID", "a duration is negative; correct it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_topics_in_any_order_are_the_same_membership() {
        let topics = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let one = member("g", &topics(&["b", "a", "b"]), 0, 0).expect("valid");
        assert_eq!(one, member("g", &topics(&["a", "b"]), 1, 2).expect("valid"));
        assert_eq!(one.start, Start::Earliest);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let topics = vec!["t".to_owned()];
        assert_eq!(member("", &topics, 0, 0).expect_err("group").reason, "INVALID_GROUP");
        assert_eq!(member("g\n", &topics, 0, 0).expect_err("group").reason, "INVALID_GROUP");
        assert_eq!(member("g", &[], 0, 0).expect_err("topics").reason, "INVALID_TOPIC");
        assert_eq!(member("g", &["a b".to_owned()], 0, 0).expect_err("topic").reason, "INVALID_TOPIC");
        assert_eq!(member("g", &topics, 9, 0).expect_err("start").reason, "INVALID");
        assert_eq!(committed(1).expect_err("level").code, Code::Unimplemented);
        let limits = Limits::default();
        assert_eq!(ack_timeout(Some(Duration::ZERO), &limits).expect_err("short").reason, "INVALID");
        assert_eq!(ack_timeout(None, &limits), Ok(limits::ACK_TIMEOUT_DEFAULT));
        assert_eq!(delay(Some(Duration::MAX), &limits).expect_err("long").reason, "INVALID");
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        assert_eq!(duration(Some(negative)).expect_err("negative").reason, "INVALID");
    }
}
