//! How the share coordinator's state is written: for a compacted log, of which the last record of each key counts.
//!
//! ```text
//! key   = kind:u8 (1) version:u8 (0) group:str topic:16 partition:i32 slot:u16        str, spans: `share/code.rs`
//! value = version:u8 (0) state_epoch:i32 leader_epoch:i32 sequence:u64 start:i64 spans
//! ```
//! Slot 0 holds all of a share-partition's state. The other slots hold changes since, in turn: one that is found after a
//! record of slot 0 changes what that one says. A slot that is older than the last record of slot 0 says nothing; it comes
//! before it in the log, and is overwritten the next time round. The state is deleted when slot 0 is.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::types::{Key, Writer};
use crate::groups::Record;
use crate::share::Span;
use crate::share::code::{put_spans, put_str, short, take_spans, take_str};

const KIND: u8 = 1;
const VERSION: u8 = 0;

/// The slot of the whole state.
pub(super) const SNAPSHOT: u16 = 0;

/// The state, or a change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) state_epoch: i32,
    pub(super) writer: Writer,
    pub(super) start: i64,
    pub(super) spans: Vec<Span>,
}

pub(super) fn record(key: &Key, slot: u16, value: Option<&Value>) -> Record {
    let mut out = BytesMut::with_capacity(28 + key.group.len());
    out.put_slice(&[KIND, VERSION]);
    put_str(&mut out, &key.group);
    out.put_slice(key.topic.as_bytes());
    out.put_i32(key.partition);
    out.put_u16(slot);
    Record { key: out.freeze(), value: value.map(encode) }
}

fn encode(value: &Value) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    out.put_u8(VERSION);
    out.put_i32(value.state_epoch);
    out.put_i32(value.writer.leader_epoch);
    out.put_u64(value.writer.sequence);
    out.put_i64(value.start);
    put_spans(&mut out, &value.spans);
    out.freeze()
}

/// The key of a record, with its slot.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode_key(bytes: &[u8]) -> Result<(Key, u16), &'static str> {
    let mut input = Bytes::copy_from_slice(bytes);
    let (kind, version) = (input.try_get_u8().map_err(short)?, input.try_get_u8().map_err(short)?);
    if (kind, version) != (KIND, VERSION) {
        return Err("a record of an unknown kind or version: written by a newer version? upgrade this node");
    }
    let group = take_str(&mut input)?;
    let topic = Uuid::from_u128(input.try_get_u128().map_err(short)?);
    let partition = input.try_get_i32().map_err(short)?;
    let slot = input.try_get_u16().map_err(short)?;
    end(&input)?;
    Ok((Key { group, topic, partition }, slot))
}

/// The value of a record.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode_value(bytes: &[u8]) -> Result<Value, &'static str> {
    let mut input = Bytes::copy_from_slice(bytes);
    if input.try_get_u8().map_err(short)? != VERSION {
        return Err("a value of an unknown version: written by a newer version? upgrade this node");
    }
    let state_epoch = input.try_get_i32().map_err(short)?;
    let leader_epoch = input.try_get_i32().map_err(short)?;
    let sequence = input.try_get_u64().map_err(short)?;
    let start = input.try_get_i64().map_err(short)?;
    let spans = take_spans(&mut input)?;
    end(&input)?;
    Ok(Value { state_epoch, writer: Writer { leader_epoch, sequence }, start, spans })
}

fn end(input: &Bytes) -> Result<(), &'static str> {
    if input.has_remaining() { Err("bytes follow its end") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{Cause, Kept};

    fn key() -> Key {
        Key { group: "g".into(), topic: Uuid::from_u128(7), partition: 3 }
    }

    fn value() -> Value {
        let all = [
            Kept::Available { count: 2 },
            Kept::Acknowledged,
            Kept::Archived,
            Kept::Condemned { count: 5, cause: Cause::Rejected },
            Kept::Condemned { count: 6, cause: Cause::MaxDeliveries },
        ];
        let spans = (0i64..).zip(all).map(|(at, kept)| Span { first: 10 * at, last: 10 * at + 4, kept }).collect();
        Value { state_epoch: 1, writer: Writer { leader_epoch: 2, sequence: 3 }, start: 4, spans }
    }

    #[test]
    fn records_come_back_as_written() {
        let written = record(&key(), 9, Some(&value()));
        assert_eq!(decode_key(&written.key), Ok((key(), 9)));
        assert_eq!(decode_value(&written.value.unwrap()), Ok(value()));
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let written = record(&key(), 9, Some(&value()));
        let bytes = written.value.unwrap();
        for length in 0..bytes.len() {
            assert!(decode_value(&bytes[..length]).is_err(), "cut to {length}");
        }
        for length in 0..written.key.len() {
            assert!(decode_key(&written.key[..length]).is_err(), "the key cut to {length}");
        }
        let longer = (decode_key(&[&written.key[..], &[0]].concat()), decode_value(&[&bytes[..], &[0]].concat()));
        assert!(longer.0.is_err() && longer.1.is_err());
        assert!(decode_key(&[2, 0]).is_err() && decode_value(&[1]).is_err());
    }

    #[test]
    fn a_hostile_count_costs_no_memory() {
        let mut bytes = encode(&Value { spans: Vec::new(), ..value() }).to_vec();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(decode_value(&bytes).is_err());
    }
}
