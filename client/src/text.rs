//! Strings between the protocol's types and ours.

use std::sync::Arc;

use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;

pub(crate) fn text(from: &str) -> StrBytes {
    StrBytes::from_string(from.to_owned())
}

pub(crate) fn topic_name(from: &str) -> TopicName {
    TopicName(text(from))
}

pub(crate) fn group_id(from: &str) -> GroupId {
    GroupId(text(from))
}

pub(crate) fn shared(from: &StrBytes) -> Arc<str> {
    from.as_str().into()
}
