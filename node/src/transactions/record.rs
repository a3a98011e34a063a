//! How the coordinator's state is written: Kafka's `TransactionLogKey` and `TransactionLogValue`, so that its tools read
//! them. Keys are transactional ids, so that compaction keeps the last state of each.
//!
//! ```text
//! key      = 0:i16 id:(length:i16 utf8)
//! value 0  = 0:i16 producer:i64 epoch:i16 timeout_ms:i32 state:i8 partitions updated_ms:i64 start_ms:i64
//! value 1  = 1:i16, then the same with compact strings and arrays, and tagged: 0 previous id:i64, 1 next id:i64, 2 version:i16
//! ```
//! Value 1 is what is written. Tags that are not known are passed over: that is what they are for.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::transaction::Transaction;
use super::types::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, StateName, TopicPartition, TransactionVersion};

const KEY_VERSION: i16 = 0;
const PLAIN: i16 = 0;
const FLEXIBLE: i16 = 1;

const TAG_PREVIOUS_ID: u32 = 0;
const TAG_NEXT_ID: u32 = 1;
const TAG_VERSION: u32 = 2;

/// Why a record can't be replayed. The state is as before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A version that this version does not know.
    #[error("transaction record of unknown version {version}: written by a newer version? upgrade this node")]
    UnknownVersion {
        /// The version found.
        version: i16,
    },
    /// A state that this version does not know.
    #[error("transaction record of unknown state {state}: written by a newer version? upgrade this node")]
    UnknownState {
        /// The number found.
        state: i8,
    },
    /// The bytes do not say what their version must say.
    #[error("malformed transaction record: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Records come before requests.
    #[error("transaction record after loading had ended")]
    NotLoading,
}

pub(super) fn record(id: &str, value: Option<&Transaction>) -> Record {
    let mut key = BytesMut::with_capacity(4 + id.len());
    key.put_i16(KEY_VERSION);
    // Ids are bounded far below this by the coordinator's settings.
    key.put_i16(i16::try_from(id.len()).unwrap_or(i16::MAX));
    key.put_slice(id.as_bytes());
    Record { key: key.freeze(), value: value.map(encode) }
}

fn encode(value: &Transaction) -> Bytes {
    let mut out = BytesMut::with_capacity(96 + 24 * value.partitions.len());
    out.put_i16(FLEXIBLE);
    out.put_i64(value.producer_id);
    out.put_i16(value.epoch);
    out.put_i32(value.timeout_ms);
    out.put_i8(code(value.state));
    put_partitions(&mut out, value);
    out.put_i64(value.updated_ms);
    out.put_i64(value.start_ms);
    put_tags(&mut out, value);
    out.freeze()
}

fn put_partitions(out: &mut BytesMut, value: &Transaction) {
    if value.state == StateName::Empty {
        return put_uvarint(out, 0);
    }
    let mut topics: Vec<(&Arc<str>, Vec<i32>)> = Vec::new();
    for (topic, partition) in &value.partitions {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(*partition),
            Some(_) | None => topics.push((topic, vec![*partition])),
        }
    }
    put_uvarint(out, topics.len() + 1);
    for (topic, partitions) in topics {
        put_uvarint(out, topic.len() + 1);
        out.put_slice(topic.as_bytes());
        put_uvarint(out, partitions.len() + 1);
        partitions.into_iter().for_each(|partition| out.put_i32(partition));
        put_uvarint(out, 0);
    }
}

fn put_tags(out: &mut BytesMut, value: &Transaction) {
    let ids = [(TAG_PREVIOUS_ID, value.previous_id), (TAG_NEXT_ID, value.next_id)];
    let ids: Vec<_> = ids.into_iter().filter(|(_, id)| *id != NO_PRODUCER_ID).collect();
    let version = i16::from(value.version.code());
    put_uvarint(out, ids.len() + usize::from(version != 0));
    for (tag, id) in ids {
        put_uvarint(out, tag as usize);
        put_uvarint(out, size_of::<i64>());
        out.put_i64(id);
    }
    if version != 0 {
        put_uvarint(out, TAG_VERSION as usize);
        put_uvarint(out, size_of::<i16>());
        out.put_i16(version);
    }
}

fn put_uvarint(out: &mut BytesMut, value: usize) {
    let mut left = value;
    while left >= 0x80 {
        out.put_u8((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}

fn code(state: StateName) -> i8 {
    match state {
        StateName::Empty => 0,
        StateName::Ongoing => 1,
        StateName::PrepareCommit => 2,
        StateName::PrepareAbort => 3,
        StateName::CompleteCommit => 4,
        StateName::CompleteAbort => 5,
    }
}

fn state(code_found: i8) -> Result<StateName, ReplayError> {
    let named = StateName::ALL.into_iter().find(|state| code(*state) == code_found);
    named.ok_or(ReplayError::UnknownState { state: code_found })
}

/// The transactional id of a key.
pub(super) fn decode_key(bytes: &[u8]) -> Result<Arc<str>, ReplayError> {
    let mut input = Reader(bytes);
    match input.i16()? {
        KEY_VERSION => {
            let length = input.i16()?;
            let id = input.text(usize::try_from(length).unwrap_or(usize::MAX))?;
            input.end(id)
        }
        version => Err(ReplayError::UnknownVersion { version }),
    }
}

/// Reads the value of a record.
pub(super) fn decode(bytes: &[u8]) -> Result<Transaction, ReplayError> {
    let mut input = Reader(bytes);
    let flexible = match input.i16()? {
        PLAIN => false,
        FLEXIBLE => true,
        version => return Err(ReplayError::UnknownVersion { version }),
    };
    let mut value = Transaction {
        producer_id: input.i64()?,
        previous_id: NO_PRODUCER_ID,
        next_id: NO_PRODUCER_ID,
        epoch: input.i16()?,
        last_epoch: NO_PRODUCER_EPOCH,
        timeout_ms: input.i32()?,
        state: state(input.i8()?)?,
        partitions: input.partitions(flexible)?,
        updated_ms: input.i64()?,
        start_ms: input.i64()?,
        version: TransactionVersion::V1,
    };
    if flexible {
        take_tags(&mut input, &mut value)?;
    }
    input.end(value)
}

fn take_tags(input: &mut Reader<'_>, value: &mut Transaction) -> Result<(), ReplayError> {
    for _ in 0..input.uvarint()? {
        let tag = input.uvarint()?;
        let length = input.uvarint()? as usize;
        let mut field = Reader(input.take(length)?);
        match tag {
            TAG_PREVIOUS_ID => value.previous_id = field.i64()?,
            TAG_NEXT_ID => value.next_id = field.i64()?,
            TAG_VERSION if field.i16()? >= i16::from(TransactionVersion::V2.code()) => {
                value.version = TransactionVersion::V2;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

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

    fn i8(&mut self) -> Result<i8, ReplayError> {
        self.array().map(i8::from_be_bytes)
    }

    fn i16(&mut self) -> Result<i16, ReplayError> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, ReplayError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, ReplayError> {
        self.array().map(i64::from_be_bytes)
    }

    fn uvarint(&mut self) -> Result<u32, ReplayError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ReplayError::Malformed { what: "a varint of more than 32 bits" })
    }

    fn text(&mut self, len: usize) -> Result<Arc<str>, ReplayError> {
        match std::str::from_utf8(self.take(len)?) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(ReplayError::Malformed { what: "a string is not UTF-8" }),
        }
    }

    fn string(&mut self, flexible: bool) -> Result<Arc<str>, ReplayError> {
        let len = if flexible {
            self.uvarint()?.checked_sub(1).map(|len| len as usize)
        } else {
            usize::try_from(self.i16()?).ok()
        };
        self.text(len.ok_or(ReplayError::Malformed { what: "a string is missing" })?)
    }

    /// The length of an array; one that is missing is empty.
    fn count(&mut self, flexible: bool) -> Result<u32, ReplayError> {
        if flexible {
            return Ok(self.uvarint()?.saturating_sub(1));
        }
        Ok(u32::try_from(self.i32()?).unwrap_or(0))
    }

    /// Counts are not trusted with an allocation: the set grows as partitions are really read.
    fn partitions(&mut self, flexible: bool) -> Result<BTreeSet<TopicPartition>, ReplayError> {
        let mut partitions = BTreeSet::new();
        for _ in 0..self.count(flexible)? {
            let topic = self.string(flexible)?;
            for _ in 0..self.count(flexible)? {
                partitions.insert((Arc::clone(&topic), self.i32()?));
            }
            if flexible {
                self.skip_tags()?;
            }
        }
        Ok(partitions)
    }

    fn skip_tags(&mut self) -> Result<(), ReplayError> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let length = self.uvarint()? as usize;
            self.take(length)?;
        }
        Ok(())
    }

    fn end<T>(self, value: T) -> Result<T, ReplayError> {
        if self.0.is_empty() { Ok(value) } else { Err(ReplayError::Malformed { what: "bytes follow its end" }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Transaction {
        let partitions = [("orders", 0), ("orders", 300), ("payments", 7)];
        Transaction {
            producer_id: 4_000_000_001,
            previous_id: 3,
            next_id: 9,
            epoch: 12,
            last_epoch: NO_PRODUCER_EPOCH,
            timeout_ms: 60_000,
            state: StateName::PrepareCommit,
            partitions: partitions.into_iter().map(|(topic, p)| (topic.into(), p)).collect(),
            start_ms: 1_700_000_000_000,
            updated_ms: 1_700_000_000_001,
            version: TransactionVersion::V2,
        }
    }

    #[test]
    fn records_come_back_as_written() {
        for state in StateName::ALL {
            let mut value = Transaction { state, ..sample() };
            if state == StateName::Empty {
                value.partitions.clear();
            }
            let written = record("my-id", Some(&value));
            assert_eq!(decode_key(&written.key), Ok("my-id".into()));
            assert_eq!(decode(&written.value.unwrap()), Ok(value));
        }
        assert_eq!(record("my-id", None).value, None);
        let many = (0..200).map(|n| (Arc::from(format!("topic-{n}").repeat(20)), n)).collect();
        let value = Transaction { partitions: many, ..sample() };
        assert_eq!(decode(&encode(&value)), Ok(value), "lengths of more than seven bits");
    }

    /// Bytes as the message generator of Kafka lays them out, by hand from `TransactionLogValue.json`.
    #[test]
    fn the_bytes_are_those_of_kafka() {
        let value = Transaction {
            producer_id: 1,
            previous_id: 1,
            next_id: NO_PRODUCER_ID,
            epoch: 2,
            timeout_ms: 3,
            state: StateName::Ongoing,
            partitions: [(Arc::from("t"), 5)].into(),
            updated_ms: 6,
            start_ms: 7,
            ..sample()
        };
        #[rustfmt::skip]
        let expected = [
            0, 1,
            0, 0, 0, 0, 0, 0, 0, 1,
            0, 2,
            0, 0, 0, 3,
            1,
            2, 2, b't', 2, 0, 0, 0, 5, 0,
            0, 0, 0, 0, 0, 0, 0, 6,
            0, 0, 0, 0, 0, 0, 0, 7,
            2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 2,
        ];
        assert_eq!(encode(&value)[..], expected);
        assert_eq!(record("ab", None).key[..], [0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn the_older_version_is_read() {
        #[rustfmt::skip]
        let bytes = [
            0, 0,
            0, 0, 0, 0, 0, 0, 0, 1,
            0, 2,
            0, 0, 0, 3,
            4,
            0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 5,
            0, 0, 0, 0, 0, 0, 0, 6,
            0, 0, 0, 0, 0, 0, 0, 7,
        ];
        let value = decode(&bytes).unwrap();
        assert_eq!((value.producer_id, value.epoch, value.timeout_ms), (1, 2, 3));
        assert_eq!((value.state, value.updated_ms, value.start_ms), (StateName::CompleteCommit, 6, 7));
        assert_eq!((value.previous_id, value.next_id, value.version), (-1, -1, TransactionVersion::V1));
        assert_eq!(value.partitions, [(Arc::from("t"), 5)].into());
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        let written = record("id", Some(&sample()));
        let value = written.value.unwrap();
        for len in 0..value.len() {
            assert!(decode(&value[..len]).is_err(), "value cut to {len}");
        }
        for len in 0..written.key.len() {
            assert!(decode_key(&written.key[..len]).is_err(), "key cut to {len}");
        }
        assert!(decode(&[&value[..], &[0]].concat()).is_err());
        assert!(decode_key(&[&written.key[..], &[0]].concat()).is_err());
    }

    #[test]
    fn what_is_not_known_is_named_or_passed_over() {
        assert_eq!(decode_key(&[0, 9]), Err(ReplayError::UnknownVersion { version: 9 }));
        assert_eq!(decode(&[0, 2]), Err(ReplayError::UnknownVersion { version: 2 }));
        let mut dead = encode(&sample()).to_vec();
        dead[16] = 6;
        assert_eq!(decode(&dead), Err(ReplayError::UnknownState { state: 6 }));
        let mut tagged = encode(&Transaction { version: TransactionVersion::V1, next_id: -1, ..sample() }).to_vec();
        let count = tagged.len() - 11;
        assert_eq!(tagged[count], 1);
        tagged[count] = 2;
        tagged.extend([77, 3, 1, 2, 3]);
        assert_eq!(decode(&tagged).unwrap().previous_id, 3);
    }

    #[test]
    fn hostile_counts_cost_no_memory() {
        let mut bytes = encode(&Transaction { partitions: BTreeSet::new(), ..sample() }).to_vec();
        bytes.splice(17..18, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(decode(&bytes).is_err());
    }
}
