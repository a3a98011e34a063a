//! Facts as records, in Kafka's own formats: key and value begin with a number of two bytes, the kind and the version.
//!
//! ```text
//! key   = kind:i16 group:str [member:str | regex:str]                  str = length:i16 utf8
//! value = version:i16 (0) fields tags                                   in compact form (KIP-482)
//!    3  group                 epoch:i32                                  tag 0: hash of the topics:i64
//!    4  topics of the group   (read and skipped)
//!    5  member                what it says of itself
//!    6  target's epoch        epoch:i32                                  tag 0: time:i64 (KIP-1263)
//!    7  target of a member    [topic:16 [partition:i32]]
//!    8  assignment of a member  epochs, state, [topic [partition] tag 0: [epoch of each] (KIP-1251)], the same to give up
//!   16  regular expression    [topic], version:i64, time:i64
//! ```
//! Source: `group-coordinator/src/main/resources/common/message/ConsumerGroup*.json` of Apache Kafka 4.3. Unknown tags are
//! skipped, as they must be; an unknown version is refused. It must not know what facts mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::compact::{Reader, Tags, put_array, put_compact, put_compact_option, put_tag, put_uvarint};
use super::current::{Current, Held, Progress};
use super::fact::Fact;
use super::state::{Meta, Parts, Resolved, Subscription};
use crate::groups::record::{MAX_STRING_BYTES, ReplayError};
use crate::groups::types::Record;

const KIND_EPOCH: i16 = 3;
const KIND_PARTITION_METADATA: i16 = 4;
const KIND_MEMBER: i16 = 5;
const KIND_TARGET_EPOCH: i16 = 6;
const KIND_TARGET: i16 = 7;
const KIND_CURRENT: i16 = 8;
const KIND_REGEX: i16 = 16;
const VALUE_VERSION: i16 = 0;

/// The kinds of Kafka's own formats are below this: their first byte is 0.
pub(in crate::groups) const FIRST_BYTE: u8 = 0;

/// What a member of the classic protocol in a group of the new one has; these are not admitted here.
const TAG_CLASSIC_MEMBER: u32 = 0;
const NULL_STRUCT: u8 = 0;
const TAG_HASH: u32 = 0;
const TAG_TARGET_TIME: u32 = 0;
const TAG_EPOCHS: u32 = 0;

/// The record of a fact.
pub(in crate::groups) fn encode(group: &str, fact: &Fact) -> Record {
    match fact {
        Fact::Epoch(value) => Record { key: key(KIND_EPOCH, group, None), value: value.map(encode_epoch) },
        Fact::PartitionMetadata => Record { key: key(KIND_PARTITION_METADATA, group, None), value: None },
        Fact::Member(id, value) => {
            Record { key: key(KIND_MEMBER, group, Some(id)), value: value.as_ref().map(|meta| encode_meta(meta)) }
        }
        Fact::TargetEpoch(value) => Record { key: key(KIND_TARGET_EPOCH, group, None), value: value.map(encode_epoch) },
        Fact::Target(id, value) => {
            Record { key: key(KIND_TARGET, group, Some(id)), value: value.as_ref().map(|parts| encode_target(parts)) }
        }
        Fact::Current(id, value) => Record {
            key: key(KIND_CURRENT, group, Some(id)),
            value: value.as_ref().map(|current| encode_current(current)),
        },
        Fact::Regex(regex, value) => Record {
            key: key(KIND_REGEX, group, Some(regex)),
            value: value.as_ref().map(|topics| encode_regex(topics)),
        },
    }
}

fn key(kind: i16, group: &str, more: Option<&str>) -> Bytes {
    let mut out = BytesMut::with_capacity(6 + group.len() + more.map_or(0, str::len));
    out.put_i16(kind);
    for text in [Some(group), more].into_iter().flatten() {
        // Callers bound their strings: `max_id_bytes` is far below the limit of the format.
        let end = text.floor_char_boundary(MAX_STRING_BYTES.min(i16::MAX as usize));
        out.put_i16(i16::try_from(end).unwrap_or(i16::MAX));
        out.put_slice(&text.as_bytes()[..end]);
    }
    out.freeze()
}

fn value() -> BytesMut {
    let mut out = BytesMut::new();
    out.put_i16(VALUE_VERSION);
    out
}

/// An epoch, and a number in tag 0 that is left out if it is 0.
fn encode_epoch((epoch, number): (i32, i64)) -> Bytes {
    let mut out = value();
    out.put_i32(epoch);
    put_uvarint(&mut out, u32::from(number != 0));
    if number != 0 {
        put_tag(&mut out, TAG_HASH, |out| out.put_i64(number));
    }
    out.freeze()
}

fn encode_meta(meta: &Meta) -> Bytes {
    let mut out = value();
    put_compact_option(&mut out, meta.instance_id.as_deref());
    put_compact_option(&mut out, meta.rack_id.as_deref());
    put_compact(&mut out, &meta.client_id);
    put_compact(&mut out, &meta.client_host);
    put_array(&mut out, &meta.subscription.topics, |out, topic| put_compact(out, topic));
    put_compact_option(&mut out, meta.subscription.regex.as_deref());
    out.put_i32(meta.rebalance_timeout_ms);
    put_compact_option(&mut out, meta.assignor.as_deref());
    // To Kafka a member without this tag is a classic one: it is said that this one is not.
    put_uvarint(&mut out, 1);
    put_tag(&mut out, TAG_CLASSIC_MEMBER, |out| out.put_u8(NULL_STRUCT));
    out.freeze()
}

fn encode_target(parts: &Parts) -> Bytes {
    let mut out = value();
    put_array(&mut out, parts, |out, (topic, partitions)| {
        out.put_slice(topic.as_bytes());
        put_array(out, partitions, |out, partition| out.put_i32(*partition));
        put_uvarint(out, 0);
    });
    put_uvarint(&mut out, 0);
    out.freeze()
}

fn encode_current(current: &Current) -> Bytes {
    let mut out = value();
    out.put_i32(current.epoch);
    out.put_i32(current.previous_epoch);
    out.put_i8(match current.progress {
        Progress::Stable => 0,
        Progress::Unrevoked => 1,
        Progress::Unreleased => 2,
    });
    put_held(&mut out, &current.assigned);
    put_held(&mut out, &current.revoking);
    put_uvarint(&mut out, 0);
    out.freeze()
}

fn put_held(out: &mut BytesMut, held: &Held) {
    put_array(out, held, |out, (topic, partitions)| {
        out.put_slice(topic.as_bytes());
        put_array(out, partitions.keys(), |out, partition| out.put_i32(*partition));
        put_uvarint(out, 1);
        put_tag(out, TAG_EPOCHS, |out| put_array(out, partitions.values(), |out, epoch| out.put_i32(*epoch)));
    });
}

fn encode_regex(resolved: &Resolved) -> Bytes {
    let mut out = value();
    put_array(&mut out, &resolved.topics, |out, topic| put_compact(out, topic));
    out.put_i64(resolved.version);
    out.put_i64(resolved.timestamp_ms);
    put_uvarint(&mut out, 0);
    out.freeze()
}

/// The group and the fact of a record whose key begins with [`FIRST_BYTE`].
pub(in crate::groups) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<(Arc<str>, Fact), ReplayError> {
    let mut input = Reader::new(key);
    let kind = input.i16()?;
    let group = input.string()?;
    let about = match kind {
        KIND_MEMBER | KIND_TARGET | KIND_CURRENT | KIND_REGEX => input.string()?,
        KIND_EPOCH | KIND_PARTITION_METADATA | KIND_TARGET_EPOCH => "".into(),
        _ => return Err(ReplayError::UnknownKind { kind: u8::try_from(kind).unwrap_or(u8::MAX) }),
    };
    input.end()?;
    let value = value.map(|bytes| Value::of(kind, bytes)).transpose()?;
    let fact = match kind {
        KIND_EPOCH => Fact::Epoch(value.map(|v| v.epoch(TAG_HASH)).transpose()?),
        KIND_TARGET_EPOCH => Fact::TargetEpoch(value.map(|v| v.epoch(TAG_TARGET_TIME)).transpose()?),
        KIND_MEMBER => Fact::Member(about, value.map(Value::meta).transpose()?.map(Arc::new)),
        KIND_TARGET => Fact::Target(about, value.map(Value::target).transpose()?.map(Arc::new)),
        KIND_CURRENT => Fact::Current(about, value.map(Value::current).transpose()?.map(Arc::new)),
        KIND_REGEX => Fact::Regex(about, value.map(Value::regex).transpose()?.map(Arc::new)),
        _ => Fact::PartitionMetadata,
    };
    Ok((group, fact))
}

/// A value after its version.
struct Value<'a>(Reader<'a>);

impl<'a> Value<'a> {
    fn of(kind: i16, bytes: &'a [u8]) -> Result<Self, ReplayError> {
        let mut input = Reader::new(bytes);
        match input.i16()? {
            VALUE_VERSION => Ok(Self(input)),
            version => Err(ReplayError::UnknownVersion {
                kind: u8::try_from(kind).unwrap_or(u8::MAX),
                version: u8::try_from(version).unwrap_or(u8::MAX),
            }),
        }
    }

    fn epoch(mut self, tag: u32) -> Result<(i32, i64), ReplayError> {
        let epoch = self.0.i32()?;
        let mut number = 0;
        self.0.tags(Tags::Last, |found, input| {
            if found == tag {
                number = input.i64()?;
            }
            Ok(())
        })?;
        Ok((epoch, number))
    }

    fn meta(mut self) -> Result<Meta, ReplayError> {
        let input = &mut self.0;
        let (instance_id, rack_id) = (input.compact_option()?, input.compact_option()?);
        let (client_id, client_host) = (input.compact()?, input.compact()?);
        let topics = strings(input)?;
        let regex = input.compact_option()?.filter(|regex| !regex.is_empty());
        let (rebalance_timeout_ms, assignor) = (input.i32()?, input.compact_option()?);
        let mut classic = false;
        input.tags(Tags::Last, |tag, input| {
            classic |= tag == TAG_CLASSIC_MEMBER && input.u8()? != NULL_STRUCT;
            Ok(())
        })?;
        if classic {
            return Err(ReplayError::Malformed { what: "a member of the classic protocol in a group of the new one" });
        }
        let subscription = Arc::new(Subscription { topics, regex });
        Ok(Meta { instance_id, rack_id, client_id, client_host, rebalance_timeout_ms, assignor, subscription })
    }

    fn target(mut self) -> Result<Parts, ReplayError> {
        let mut parts = Parts::new();
        for _ in 0..self.0.count()? {
            let topic = Uuid::from_bytes(self.0.array()?);
            parts.insert(topic, self.0.numbers()?.into_iter().collect());
            self.0.tags(Tags::Inner, |_, _| Ok(()))?;
        }
        self.0.tags(Tags::Last, |_, _| Ok(()))?;
        Ok(parts)
    }

    fn current(mut self) -> Result<Current, ReplayError> {
        let (epoch, previous_epoch) = (self.0.i32()?, self.0.i32()?);
        let progress = match self.0.u8()? {
            0 => Progress::Stable,
            1 => Progress::Unrevoked,
            2 => Progress::Unreleased,
            _ => return Err(ReplayError::Malformed { what: "a member in an unknown state" }),
        };
        let (assigned, revoking) = (held(&mut self.0, epoch)?, held(&mut self.0, epoch)?);
        self.0.tags(Tags::Last, |_, _| Ok(()))?;
        Ok(Current { epoch, previous_epoch, progress, assigned, revoking })
    }

    fn regex(mut self) -> Result<Resolved, ReplayError> {
        let topics = strings(&mut self.0)?;
        let (version, timestamp_ms) = (self.0.i64()?, self.0.i64()?);
        self.0.tags(Tags::Last, |_, _| Ok(()))?;
        Ok(Resolved { topics, version, timestamp_ms })
    }
}

fn strings(input: &mut Reader<'_>) -> Result<BTreeSet<Arc<str>>, ReplayError> {
    let mut strings = BTreeSet::new();
    for _ in 0..input.count()? {
        strings.insert(input.compact()?);
    }
    Ok(strings)
}

/// Where epochs are missing (written before KIP-1251), the member's stands in for them.
fn held(input: &mut Reader<'_>, member_epoch: i32) -> Result<Held, ReplayError> {
    let mut held = Held::new();
    for _ in 0..input.count()? {
        let topic = Uuid::from_bytes(input.array()?);
        let partitions = input.numbers()?;
        let mut epochs = Vec::new();
        input.tags(Tags::Inner, |tag, input| {
            if tag == TAG_EPOCHS {
                epochs = input.numbers()?;
            }
            Ok(())
        })?;
        if !epochs.is_empty() && epochs.len() != partitions.len() {
            return Err(ReplayError::Malformed { what: "not as many epochs as partitions" });
        }
        let epochs = epochs.into_iter().chain(std::iter::repeat(member_epoch));
        held.insert(topic, partitions.into_iter().zip(epochs).collect());
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: Uuid = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn facts() -> Vec<Fact> {
        let subscription = Subscription { topics: ["a".into(), "b".into()].into(), regex: Some("r.*".into()) };
        let meta = Meta {
            instance_id: Some("i".into()),
            rack_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_timeout_ms: 60_000,
            assignor: Some("range".into()),
            subscription: Arc::new(subscription),
        };
        let current = Current {
            epoch: 9,
            previous_epoch: 8,
            progress: Progress::Unrevoked,
            assigned: [(TOPIC, [(0, 3), (2, 4)].into())].into(),
            revoking: [(TOPIC, [(5, 6)].into())].into(),
        };
        let resolved = Resolved { topics: ["ra".into()].into(), version: 12, timestamp_ms: 34 };
        vec![
            Fact::Epoch(Some((7, 0x1122_3344_5566_7788))),
            Fact::Epoch(Some((7, 0))),
            Fact::Member("m".into(), Some(Arc::new(meta))),
            Fact::TargetEpoch(Some((8, 1_234_567_890_123))),
            Fact::Target("m".into(), Some(Arc::new([(TOPIC, [0, 2].into())].into()))),
            Fact::Current("m".into(), Some(Arc::new(current))),
            Fact::Regex("r.*".into(), Some(Arc::new(resolved))),
        ]
    }

    /// What Apache Kafka 4.3.1 makes of the same (its `GroupCoordinatorRecordSerde`).
    const KAFKAS: [(&str, &str); 7] = [
        ("0003000167", "0000000000070100081122334455667788"),
        ("0003000167", "00000000000700"),
        ("000500016700016d", "00000269000263032f68030261026204722e2a0000ea600672616e676501000100"),
        ("0006000167", "0000000000080100080000011f71fb04cb"),
        ("000700016700016d", "0000020102030405060708090a0b0c0d0e0f100300000000000000020000"),
        (
            "000800016700016d",
            "0000000000090000000801020102030405060708090a0b0c0d0e0f1003000000000000000201000903000000030000000402\
             0102030405060708090a0b0c0d0e0f100200000005010005020000000600",
        ),
        ("00100001670003722e2a", "000002037261000000000000000c000000000000002200"),
    ];

    #[test]
    fn records_are_kafkas() {
        for (fact, (key, value)) in facts().iter().zip(KAFKAS) {
            let record = encode("g", fact);
            let value: String = value.split_whitespace().collect();
            assert_eq!((hex(&record.key).as_str(), hex(&record.value.unwrap())), (key, value), "{fact:?}");
        }
    }

    #[test]
    fn records_come_back_as_written() {
        for fact in facts() {
            let record = encode("g", &fact);
            assert_eq!(decode(&record.key, record.value.as_deref()), Ok(("g".into(), fact.clone())));
            let (_, ended) = decode(&record.key, None).unwrap();
            assert!(ended.is_tombstone() && encode("g", &ended) == Record { value: None, ..record });
        }
    }

    #[test]
    fn older_records_have_no_epochs_and_topics_that_are_skipped() {
        // Written before KIP-1251: a member at epoch 9 that has partition 5.
        let value = bytes("0000000000090000000800020102030405060708090a0b0c0d0e0f100200000005000100");
        let (_, fact) = decode(&bytes("000800016700016d"), Some(&value)).unwrap();
        let Fact::Current(_, Some(current)) = fact else { panic!("{fact:?}") };
        assert_eq!(current.given_in(TOPIC, 5), Some(9), "that of the member");
        let topics = decode(&bytes("0004000167"), Some(&bytes("00000100")));
        assert_eq!(topics, Ok(("g".into(), Fact::PartitionMetadata)));
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        for fact in facts() {
            let record = encode("g", &fact);
            let value = record.value.unwrap();
            for len in 0..value.len() {
                assert!(decode(&record.key, Some(&value[..len])).is_err(), "{fact:?} cut to {len}");
            }
            for len in 0..record.key.len() {
                assert!(decode(&record.key[..len], None).is_err(), "the key of {fact:?} cut to {len}");
            }
            let (longer, key) = ([&value[..], &[0]].concat(), [&record.key[..], &[0]].concat());
            assert!(decode(&record.key, Some(&longer)).is_err() && decode(&key, None).is_err());
        }
    }

    #[test]
    fn what_is_not_known_is_named_and_what_may_be_is_skipped() {
        assert_eq!(decode(&[0, 99, 0, 1, b'g'], None), Err(ReplayError::UnknownKind { kind: 99 }));
        let newer = decode(&bytes("0003000167"), Some(&bytes("00010000000700")));
        assert_eq!(newer, Err(ReplayError::UnknownVersion { kind: 3, version: 1 }));
        let tagged = decode(&bytes("0003000167"), Some(&bytes("000000000007010902abcd")));
        assert_eq!(tagged, Ok(("g".into(), Fact::Epoch(Some((7, 0))))), "an unknown tag");
        let hostile = decode(&bytes("000700016700016d"), Some(&bytes("0000ffffffff0f")));
        assert_eq!(hostile, Err(ReplayError::Malformed { what: "it ends early" }));
        let classic = "00000269000263032f68030261026204722e2a0000ea600672616e67650100080100002710010000";
        assert!(matches!(
            decode(&bytes("000500016700016d"), Some(&bytes(classic))),
            Err(ReplayError::Malformed { .. })
        ));
    }
}
