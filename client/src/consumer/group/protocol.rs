//! What members tell each other through the coordinator: subscriptions and assignments (the "consumer" embedded protocol).
//!
//! These bytes come from other members, not from the broker, so they are read here with every count bounded by what is left
//! (INV-8). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::record::TopicPartition;

/// Version written: 1 has owned partitions (KIP-429), 2 the generation, 3 the rack. Any version is read.
const SUBSCRIPTION_VERSION: i16 = 3;
const ASSIGNMENT_VERSION: i16 = 1;

/// What a member wants, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Subscription {
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) user_data: Option<Bytes>,
    pub(crate) owned: Vec<TopicPartition>,
    /// Of what it owns; -1 unknown.
    pub(crate) generation: i32,
    pub(crate) rack: Option<Arc<str>>,
}

/// Why bytes of another member can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreadable(&'static str);

type Read<T> = Result<T, Unreadable>;

fn put_text(to: &mut BytesMut, text: &str) {
    // Topic names end at 249 bytes; anything longer than the field can't be meant.
    to.put_i16(i16::try_from(text.len()).unwrap_or(0));
    if i16::try_from(text.len()).is_ok() {
        to.put_slice(text.as_bytes());
    }
}

fn put_count(to: &mut BytesMut, count: usize) {
    to.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
}

fn put_optional(to: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => {
            put_count(to, bytes.len());
            to.put_slice(bytes);
        }
        None => to.put_i32(-1),
    }
}

pub(super) fn put_partitions(to: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for p in partitions {
        by_topic.entry(&p.topic).or_default().push(p.partition);
    }
    put_count(to, by_topic.len());
    for (topic, indexes) in by_topic {
        put_text(to, topic);
        put_count(to, indexes.len());
        for index in indexes {
            to.put_i32(index);
        }
    }
}

const SHORT: Unreadable = Unreadable("ends too early");

fn count(from: &mut Bytes, least_bytes_each: usize) -> Read<usize> {
    let declared = from.try_get_i32().map_err(|_| SHORT)?;
    let declared = usize::try_from(declared.max(0)).map_err(|_| SHORT)?;
    if declared.saturating_mul(least_bytes_each) > from.remaining() {
        return Err(Unreadable("declares more than it has"));
    }
    Ok(declared)
}

fn text(from: &mut Bytes) -> Read<Option<Arc<str>>> {
    let length = from.try_get_i16().map_err(|_| SHORT)?;
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    if length > from.remaining() {
        return Err(SHORT);
    }
    let bytes = from.split_to(length);
    std::str::from_utf8(&bytes).map(|t| Some(t.into())).map_err(|_| Unreadable("has a name that is not UTF-8"))
}

fn name(from: &mut Bytes) -> Read<Arc<str>> {
    text(from)?.ok_or(Unreadable("has a topic without a name"))
}

fn optional(from: &mut Bytes) -> Read<Option<Bytes>> {
    let length = from.try_get_i32().map_err(|_| SHORT)?;
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    if length > from.remaining() {
        return Err(SHORT);
    }
    Ok(Some(from.split_to(length)))
}

pub(super) fn partitions(from: &mut Bytes) -> Read<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for _ in 0..count(from, 6)? {
        let topic = name(from)?;
        for _ in 0..count(from, 4)? {
            all.push(TopicPartition { topic: topic.clone(), partition: from.try_get_i32().map_err(|_| SHORT)? });
        }
    }
    Ok(all)
}

impl Subscription {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_i16(SUBSCRIPTION_VERSION);
        put_count(&mut to, self.topics.len());
        for topic in &self.topics {
            put_text(&mut to, topic);
        }
        put_optional(&mut to, self.user_data.as_ref());
        put_partitions(&mut to, &self.owned);
        to.put_i32(self.generation);
        match &self.rack {
            Some(rack) => put_text(&mut to, rack),
            None => to.put_i16(-1),
        }
        to.freeze()
    }

    pub(crate) fn decode(mut from: Bytes) -> Read<Self> {
        let version = from.try_get_i16().map_err(|_| SHORT)?;
        let mut topics = Vec::new();
        for _ in 0..count(&mut from, 2)? {
            topics.push(name(&mut from)?);
        }
        let user_data = optional(&mut from)?;
        let owned = if version >= 1 { partitions(&mut from)? } else { Vec::new() };
        let generation = if version >= 2 { from.try_get_i32().map_err(|_| SHORT)? } else { -1 };
        let rack = if version >= 3 { text(&mut from)? } else { None };
        Ok(Self { topics, user_data, owned, generation, rack })
    }
}

/// An assignment as the leader writes it.
pub(crate) fn encode_assignment(assigned: &[TopicPartition]) -> Bytes {
    let mut to = BytesMut::new();
    to.put_i16(ASSIGNMENT_VERSION);
    put_partitions(&mut to, assigned);
    put_optional(&mut to, None);
    to.freeze()
}

/// An assignment as a member reads it; empty bytes are an empty one.
pub(crate) fn decode_assignment(mut from: Bytes) -> Read<Vec<TopicPartition>> {
    if from.is_empty() {
        return Ok(Vec::new());
    }
    from.try_get_i16().map_err(|_| SHORT)?;
    partitions(&mut from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
    use kafka_protocol::protocol::Decodable;

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    fn sample() -> Subscription {
        Subscription {
            topics: vec!["a".into(), "b".into()],
            user_data: Some(Bytes::from_static(b"u")),
            owned: vec![at("a", 0), at("a", 2), at("b", 1)],
            generation: 7,
            rack: Some("r1".into()),
        }
    }

    #[test]
    fn subscriptions_survive_the_way_and_are_what_others_read() {
        let bytes = sample().encode();
        assert_eq!(Subscription::decode(bytes.clone()).unwrap(), sample());
        let mut rest = bytes.slice(2..);
        let theirs = ConsumerProtocolSubscription::decode(&mut rest, 3).unwrap();
        assert_eq!((theirs.topics.len(), theirs.generation_id, theirs.owned_partitions.len()), (2, 7, 2));
    }

    #[test]
    fn assignments_survive_the_way_and_are_what_others_read() {
        let assigned = vec![at("a", 1), at("b", 0), at("b", 5)];
        let bytes = encode_assignment(&assigned);
        assert_eq!(decode_assignment(bytes.clone()).unwrap(), assigned);
        let mut rest = bytes.slice(2..);
        let theirs = ConsumerProtocolAssignment::decode(&mut rest, 1).unwrap();
        assert_eq!(theirs.assigned_partitions.len(), 2);
        assert_eq!(decode_assignment(Bytes::new()).unwrap(), []);
    }

    #[test]
    fn hostile_counts_are_refused_before_memory_is_taken() {
        for bytes in [&[0, 1, 0x7f, 0xff, 0xff, 0xff][..], &[0, 1, 0, 0, 0, 1, 0, 1, b'a', 0x7f, 0xff, 0xff, 0xff]] {
            assert!(decode_assignment(Bytes::copy_from_slice(bytes)).is_err());
            assert!(Subscription::decode(Bytes::copy_from_slice(bytes)).is_err());
        }
    }

    #[test]
    fn every_cut_is_refused_or_read_without_harm() {
        let bytes = sample().encode();
        for cut in 0..bytes.len() {
            assert!(Subscription::decode(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
