//! A share group as a record of the coordinator's log, with all its members.
//!
//! ```text
//! key   = kind:u8 (3) version:u8 (0) group:str
//! value = version:u8 (0) epoch:i32 count:u32 (member:str rack:str? client:str host:str topics:u32 topic:str*)*
//! ```
//! Strings are those of `groups/record.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::state::{Member, Meta, ShareGroup};
use crate::groups::record::{KIND_SHARE, Reader, ReplayError, clamp_u32, put_optional, put_str, share_key};
use crate::groups::types::Record;

/// The record of a group, or its tombstone.
pub(in crate::groups) fn record(group: &str, value: Option<&ShareGroup>) -> Record {
    Record { key: share_key(group), value: value.map(encode) }
}

fn encode(group: &ShareGroup) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_i32(group.epoch);
    out.put_u32(clamp_u32(group.members.len()));
    for (id, Member { meta, .. }) in &group.members {
        put_str(&mut out, id);
        put_optional(&mut out, meta.rack_id.as_deref());
        put_str(&mut out, &meta.client_id);
        put_str(&mut out, &meta.client_host);
        out.put_u32(clamp_u32(meta.topics.len()));
        meta.topics.iter().for_each(|topic| put_str(&mut out, topic));
    }
    out.freeze()
}

/// Reads the value of a record.
pub(in crate::groups) fn decode(bytes: &[u8]) -> Result<ShareGroup, ReplayError> {
    let mut input = Reader(bytes);
    input.version(KIND_SHARE)?;
    let mut group = ShareGroup { epoch: input.i32()?, ..ShareGroup::default() };
    // Counts are not trusted with an allocation: what is counted must be there.
    for _ in 0..input.u32()? {
        let id = input.str()?;
        let (rack_id, client_id, client_host) = (input.optional()?, input.str()?, input.str()?);
        let mut topics = BTreeSet::new();
        for _ in 0..input.u32()? {
            topics.insert(input.str()?);
        }
        let meta = Arc::new(Meta { rack_id, client_id, client_host, topics });
        group.members.insert(id, Member { meta, epochs: None, session_ns: u64::MAX });
    }
    input.end(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> ShareGroup {
        let meta = |rack: Option<&str>| {
            Arc::new(Meta {
                rack_id: rack.map(Arc::from),
                client_id: "c".into(),
                client_host: "/h".into(),
                topics: ["t".into(), "u".into()].into(),
            })
        };
        let member = |rack| Member { meta: meta(rack), epochs: None, session_ns: u64::MAX };
        let members = [("a".into(), member(Some("r"))), ("b".into(), member(None))];
        ShareGroup { epoch: 7, members: members.into(), ..ShareGroup::default() }
    }

    #[test]
    fn records_come_back_as_written_and_are_refused_cut_or_longer() {
        let bytes = record("g", Some(&group())).value.unwrap();
        let read = decode(&bytes).unwrap();
        assert_eq!((read.epoch, &read.members), (7, &group().members));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
        assert_eq!(decode(&[1]).err(), Some(ReplayError::UnknownVersion { kind: KIND_SHARE, version: 1 }));
    }
}
