//! How the coordinator's state is written: versioned keys and values for a compacted log.
//!
//! Keys are the identity of what they describe, so that compaction keeps the last state of each group and of each
//! committed offset. It must not know what the states mean.
//!
//! ```text
//! key   = kind:u8 version:u8 then  offset: group:str topic:str partition:i32   |  group, share group: group:str
//! value = version:u8         then  offset: offset:i64 epoch:i32 topic_id:16 metadata:str commit_ms:i64 expire_ms:i64
//!                                  group:  since_ms:i64 generation:i32 type:str? protocol:str? leader:str? members
//! str = length:u16 utf8    str? = 0xffff or str    bytes = length:u32 bytes    integers are big-endian
//! ```
//!
//! A value with trailing bytes is refused: who adds a field raises the version.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::types::Record;

const KIND_OFFSET: u8 = 1;
const KIND_GROUP: u8 = 2;
/// A share group: `share/record.rs` has its value.
pub(super) const KIND_SHARE: u8 = 3;
const KEY_VERSION: u8 = 0;
const VALUE_VERSION: u8 = 0;
const NO_STRING: u16 = u16::MAX;

/// The longest string that a record holds.
pub(super) const MAX_STRING_BYTES: usize = NO_STRING as usize - 1;

/// Why a record can't be replayed. The state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A kind of record that this version does not know.
    #[error("group record of unknown kind {kind}: written by a newer version? upgrade this node")]
    UnknownKind {
        /// The first byte of the key.
        kind: u8,
    },
    /// A version that this version does not know.
    #[error("group record (kind {kind}) of unknown version {version}: written by a newer version? upgrade this node")]
    UnknownVersion {
        /// The first byte of the key.
        kind: u8,
        /// The version found.
        version: u8,
    },
    /// The bytes do not say what their version must say.
    #[error("malformed group record: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Records come before requests.
    #[error("group record after loading had ended")]
    NotLoading,
}

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Offset { group: Arc<str>, topic: Arc<str>, partition: i32 },
    Group { group: Arc<str> },
    Share { group: Arc<str> },
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) offset: i64,
    pub(super) leader_epoch: i32,
    pub(super) topic_id: Uuid,
    pub(super) metadata: Arc<str>,
    pub(super) commit_ms: i64,
    /// Set by clients that ask for a retention of their own.
    pub(super) expire_ms: Option<i64>,
}

/// A group between rebalances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupRecord {
    pub(super) since_ms: i64,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol_name: Option<Arc<str>>,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: Vec<MemberRecord>,
}

/// One member with its assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberRecord {
    pub(super) member_id: Arc<str>,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    pub(super) session_timeout_ms: u32,
    pub(super) rebalance_timeout_ms: u32,
    /// For the chosen protocol.
    pub(super) metadata: Bytes,
    pub(super) assignment: Bytes,
}

pub(super) fn offset_record(group: &str, topic: &str, partition: i32, value: Option<&Committed>) -> Record {
    let mut key = BytesMut::with_capacity(10 + group.len() + topic.len());
    key.put_slice(&[KIND_OFFSET, KEY_VERSION]);
    put_str(&mut key, group);
    put_str(&mut key, topic);
    key.put_i32(partition);
    Record { key: key.freeze(), value: value.map(encode_committed) }
}

pub(super) fn group_record(group: &str, value: Option<&GroupRecord>) -> Record {
    let mut key = BytesMut::with_capacity(4 + group.len());
    key.put_slice(&[KIND_GROUP, KEY_VERSION]);
    put_str(&mut key, group);
    Record { key: key.freeze(), value: value.map(encode_group) }
}

/// The key of a share group.
pub(super) fn share_key(group: &str) -> Bytes {
    let mut key = BytesMut::with_capacity(4 + group.len());
    key.put_slice(&[KIND_SHARE, KEY_VERSION]);
    put_str(&mut key, group);
    key.freeze()
}

fn encode_committed(value: &Committed) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + value.metadata.len());
    out.put_u8(VALUE_VERSION);
    out.put_i64(value.offset);
    out.put_i32(value.leader_epoch);
    out.put_slice(value.topic_id.as_bytes());
    put_str(&mut out, &value.metadata);
    out.put_i64(value.commit_ms);
    out.put_i64(value.expire_ms.unwrap_or(-1));
    out.freeze()
}

fn encode_group(value: &GroupRecord) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VALUE_VERSION);
    out.put_i64(value.since_ms);
    out.put_i32(value.generation);
    put_optional(&mut out, value.protocol_type.as_deref());
    put_optional(&mut out, value.protocol_name.as_deref());
    put_optional(&mut out, value.leader.as_deref());
    out.put_u32(clamp_u32(value.members.len()));
    for member in &value.members {
        put_str(&mut out, &member.member_id);
        put_optional(&mut out, member.instance_id.as_deref());
        put_str(&mut out, &member.client_id);
        put_str(&mut out, &member.client_host);
        out.put_u32(member.session_timeout_ms);
        out.put_u32(member.rebalance_timeout_ms);
        put_bytes(&mut out, &member.metadata);
        put_bytes(&mut out, &member.assignment);
    }
    out.freeze()
}

/// Callers bound their strings to [`MAX_STRING_BYTES`] ([`super::GroupsConfig::validate`]); a longer one would be cut
/// rather than corrupt what follows it.
pub(super) fn put_str(out: &mut BytesMut, text: &str) {
    let end = text.floor_char_boundary(MAX_STRING_BYTES);
    out.put_u16(u16::try_from(end).unwrap_or(NO_STRING - 1));
    out.put_slice(&text.as_bytes()[..end]);
}

pub(super) fn put_optional(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_str(out, text),
        None => out.put_u16(NO_STRING),
    }
}

/// Callers bound their bytes by `max_group_metadata_bytes`, far below 4 GiB.
fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(clamp_u32(bytes.len()));
    out.put_slice(bytes);
}

pub(super) fn clamp_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Reads the key of a record.
pub(super) fn decode_key(bytes: &[u8]) -> Result<Key, ReplayError> {
    let mut input = Reader(bytes);
    let kind = input.u8()?;
    let version = input.u8()?;
    match (kind, version) {
        (KIND_OFFSET, KEY_VERSION) => {
            let key = Key::Offset { group: input.str()?, topic: input.str()?, partition: input.i32()? };
            input.end(key)
        }
        (KIND_GROUP, KEY_VERSION) => {
            let key = Key::Group { group: input.str()? };
            input.end(key)
        }
        (KIND_SHARE, KEY_VERSION) => {
            let key = Key::Share { group: input.str()? };
            input.end(key)
        }
        (KIND_OFFSET | KIND_GROUP | KIND_SHARE, _) => Err(ReplayError::UnknownVersion { kind, version }),
        _ => Err(ReplayError::UnknownKind { kind }),
    }
}

/// Reads the value of a record whose key is [`Key::Offset`].
pub(super) fn decode_committed(bytes: &[u8]) -> Result<Committed, ReplayError> {
    let mut input = Reader(bytes);
    input.version(KIND_OFFSET)?;
    let value = Committed {
        offset: input.i64()?,
        leader_epoch: input.i32()?,
        topic_id: Uuid::from_bytes(input.array()?),
        metadata: input.str()?,
        commit_ms: input.i64()?,
        expire_ms: Some(input.i64()?).filter(|at| *at >= 0),
    };
    input.end(value)
}

/// Reads the value of a record whose key is [`Key::Group`].
pub(super) fn decode_group(bytes: &[u8]) -> Result<GroupRecord, ReplayError> {
    let mut input = Reader(bytes);
    input.version(KIND_GROUP)?;
    let mut value = GroupRecord {
        since_ms: input.i64()?,
        generation: input.i32()?,
        protocol_type: input.optional()?,
        protocol_name: input.optional()?,
        leader: input.optional()?,
        members: Vec::new(),
    };
    // The count is not trusted with an allocation: the vector grows as members are really read.
    for _ in 0..input.u32()? {
        value.members.push(decode_member(&mut input)?);
    }
    input.end(value)
}

fn decode_member(input: &mut Reader<'_>) -> Result<MemberRecord, ReplayError> {
    Ok(MemberRecord {
        member_id: input.str()?,
        instance_id: input.optional()?,
        client_id: input.str()?,
        client_host: input.str()?,
        session_timeout_ms: input.u32()?,
        rebalance_timeout_ms: input.u32()?,
        metadata: input.bytes()?,
        assignment: input.bytes()?,
    })
}

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ReplayError> {
        let Some((head, rest)) = self.0.split_at_checked(len) else {
            return Err(ReplayError::Malformed { what: "it ends early" });
        };
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, ReplayError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, ReplayError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ReplayError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, ReplayError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, ReplayError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn optional(&mut self) -> Result<Option<Arc<str>>, ReplayError> {
        let len = self.u16()?;
        if len == NO_STRING {
            return Ok(None);
        }
        match std::str::from_utf8(self.take(usize::from(len))?) {
            Ok(text) => Ok(Some(text.into())),
            Err(_) => Err(ReplayError::Malformed { what: "a string is not UTF-8" }),
        }
    }

    pub(super) fn str(&mut self) -> Result<Arc<str>, ReplayError> {
        self.optional()?.ok_or(ReplayError::Malformed { what: "a string is missing" })
    }

    fn bytes(&mut self) -> Result<Bytes, ReplayError> {
        let len = self.u32()?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.take(len).map(Bytes::copy_from_slice)
    }

    pub(super) fn version(&mut self, kind: u8) -> Result<(), ReplayError> {
        match self.u8()? {
            VALUE_VERSION => Ok(()),
            version => Err(ReplayError::UnknownVersion { kind, version }),
        }
    }

    pub(super) fn end<T>(self, value: T) -> Result<T, ReplayError> {
        if self.0.is_empty() { Ok(value) } else { Err(ReplayError::Malformed { what: "bytes follow its end" }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Committed {
        Committed {
            offset: 42,
            leader_epoch: 3,
            topic_id: Uuid::from_u128(7),
            metadata: "a note".into(),
            commit_ms: 1_000,
            expire_ms: Some(2_000),
        }
    }

    fn group() -> GroupRecord {
        let member = |id: &str, instance: Option<&str>| MemberRecord {
            member_id: id.into(),
            instance_id: instance.map(Into::into),
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            metadata: Bytes::from_static(b"topics"),
            assignment: Bytes::from_static(b"partitions"),
        };
        GroupRecord {
            since_ms: 5,
            generation: 9,
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            leader: Some("m1".into()),
            members: vec![member("m1", None), member("m2", Some("i2"))],
        }
    }

    #[test]
    fn records_come_back_as_written() {
        let record = offset_record("g", "t", 3, Some(&committed()));
        assert_eq!(decode_key(&record.key), Ok(Key::Offset { group: "g".into(), topic: "t".into(), partition: 3 }));
        assert_eq!(decode_committed(&record.value.unwrap()), Ok(committed()));
        let record = group_record("g", Some(&group()));
        assert_eq!(decode_key(&record.key), Ok(Key::Group { group: "g".into() }));
        assert_eq!(decode_group(&record.value.unwrap()), Ok(group()));
    }

    #[test]
    fn absent_and_empty_strings_differ() {
        let mut value = group();
        value.protocol_name = None;
        value.leader = Some("".into());
        assert_eq!(decode_group(&encode_group(&value)), Ok(value));
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let (offset, group) = (encode_committed(&committed()), encode_group(&group()));
        let key = offset_record("g", "t", 3, None).key;
        for len in 0..offset.len() {
            assert!(decode_committed(&offset[..len]).is_err(), "offset value cut to {len}");
        }
        for len in 0..group.len() {
            assert!(decode_group(&group[..len]).is_err(), "group value cut to {len}");
        }
        for len in 0..key.len() {
            assert!(decode_key(&key[..len]).is_err(), "key cut to {len}");
        }
        for bytes in [offset, group, key] {
            let longer = [&bytes[..], &[0]].concat();
            let outcomes = (decode_committed(&longer), decode_group(&longer), decode_key(&longer));
            assert!(outcomes.0.is_err() && outcomes.1.is_err() && outcomes.2.is_err());
        }
    }

    #[test]
    fn unknown_kinds_and_versions_are_named() {
        assert_eq!(decode_key(&[9, 0]), Err(ReplayError::UnknownKind { kind: 9 }));
        assert_eq!(decode_key(&[KIND_GROUP, 7]), Err(ReplayError::UnknownVersion { kind: KIND_GROUP, version: 7 }));
        assert_eq!(decode_committed(&[1]), Err(ReplayError::UnknownVersion { kind: KIND_OFFSET, version: 1 }));
        assert_eq!(decode_group(&[200]), Err(ReplayError::UnknownVersion { kind: KIND_GROUP, version: 200 }));
    }

    #[test]
    fn a_hostile_count_costs_no_memory() {
        let mut value = group();
        value.members.clear();
        let mut bytes = encode_group(&value).to_vec();
        let count_at = bytes.len() - 4;
        bytes[count_at..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(decode_group(&bytes), Err(ReplayError::Malformed { what: "it ends early" }));
    }
}
