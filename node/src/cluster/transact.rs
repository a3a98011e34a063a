//! What nodes ask one another about transactions, on their control links: coordinators have ends written by those who lead
//! the partitions, and these ask coordinators what belongs to a transaction. Each such question is on the way of somebody's
//! commit or produce, so it is short and binary.
//!
//! ```text
//! message = kind u8, number u64, then
//!   WriteMarkers   producer i64, epoch i16, coordinator epoch i32, commit u8, version u8, partitions
//!   MarkersWritten codes: count u32, i16 each          in the order of the question's partitions; 0: it is committed
//!   Verify         producer i64, epoch i16, add u8, transactional id: length u16 utf8, partitions
//!   Verified       code i16
//! partitions = count u32, (topic 16, partition i32) each         integers are big-endian
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;
use wherry_metadata::PartitionId;

use crate::core::{Marker, Verify};
use crate::limits::MAX_TRANSACTION_MESSAGE_PARTITIONS;

const WRITE_MARKERS: u8 = 1;
const MARKERS_WRITTEN: u8 = 2;
const VERIFY: u8 = 3;
const VERIFIED: u8 = 4;
const PARTITION_BYTES: usize = 20;

/// A message; `number` is the asker's, and comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransactionMessage {
    /// Write the end of a transaction to partitions that you lead.
    WriteMarkers { number: u64, marker: Marker, partitions: Vec<PartitionId> },
    /// What became of it, for each.
    MarkersWritten { number: u64, codes: Vec<i16> },
    /// Do these partitions belong to the transaction?
    Verify { number: u64, verify: Verify },
    /// They do, or why not.
    Verified { number: u64, code: i16 },
}

impl TransactionMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Self::WriteMarkers { number, marker, partitions } => {
                head(&mut out, WRITE_MARKERS, *number);
                out.put_i64(marker.producer_id);
                out.put_i16(marker.producer_epoch);
                out.put_i32(marker.coordinator_epoch);
                out.put_u8(u8::from(marker.commit));
                out.put_u8(marker.transaction_version);
                put_partitions(&mut out, partitions);
            }
            Self::MarkersWritten { number, codes } => {
                head(&mut out, MARKERS_WRITTEN, *number);
                out.put_u32(count(codes.len()));
                codes.iter().for_each(|code| out.put_i16(*code));
            }
            Self::Verify { number, verify } => {
                head(&mut out, VERIFY, *number);
                out.put_i64(verify.producer_id);
                out.put_i16(verify.producer_epoch);
                out.put_u8(u8::from(verify.add));
                // Ids of requests are no longer than this.
                out.put_u16(u16::try_from(verify.transactional_id.len()).unwrap_or(u16::MAX));
                out.put_slice(verify.transactional_id.as_bytes());
                put_partitions(&mut out, &verify.partitions);
            }
            Self::Verified { number, code } => {
                head(&mut out, VERIFIED, *number);
                out.put_i16(*code);
            }
        }
        out.freeze()
    }

    /// What a message says.
    ///
    /// # Errors
    /// A sentence: the other side is not what it says it is.
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, String> {
        let message = Self::read(&mut body).map_err(|error| format!("a message about transactions: {error}"))?;
        if body.has_remaining() {
            return Err(format!("a message about transactions has {} bytes too many", body.remaining()));
        }
        Ok(message)
    }

    fn read(body: &mut Bytes) -> Result<Self, String> {
        let kind = body.try_get_u8().map_err(short)?;
        let number = body.try_get_u64().map_err(short)?;
        match kind {
            WRITE_MARKERS => Ok(Self::WriteMarkers { number, marker: marker(body)?, partitions: partitions(body)? }),
            MARKERS_WRITTEN => Ok(Self::MarkersWritten { number, codes: codes(body)? }),
            VERIFY => Ok(Self::Verify { number, verify: verify(body)? }),
            VERIFIED => Ok(Self::Verified { number, code: body.try_get_i16().map_err(short)? }),
            other => Err(format!("its kind {other} is unknown")),
        }
    }
}

fn head(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64(number);
}

/// Senders cut what is longer than [`MAX_TRANSACTION_MESSAGE_PARTITIONS`].
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn put_partitions(out: &mut BytesMut, partitions: &[PartitionId]) {
    out.put_u32(count(partitions.len()));
    out.reserve(partitions.len() * PARTITION_BYTES);
    for id in partitions {
        out.put_slice(id.topic.as_bytes());
        out.put_i32(id.partition);
    }
}

fn short(_: bytes::TryGetError) -> String {
    "it ends early".into()
}

fn marker(body: &mut Bytes) -> Result<Marker, String> {
    Ok(Marker {
        producer_id: body.try_get_i64().map_err(short)?,
        producer_epoch: body.try_get_i16().map_err(short)?,
        coordinator_epoch: body.try_get_i32().map_err(short)?,
        commit: flag(body)?,
        transaction_version: body.try_get_u8().map_err(short)?,
    })
}

fn verify(body: &mut Bytes) -> Result<Verify, String> {
    let producer_id = body.try_get_i64().map_err(short)?;
    let producer_epoch = body.try_get_i16().map_err(short)?;
    let add = flag(body)?;
    let length = usize::from(body.try_get_u16().map_err(short)?);
    let text = take(body, length)?;
    let transactional_id = String::from_utf8(text.to_vec()).map_err(|_| "an id is not UTF-8".to_owned())?;
    Ok(Verify { transactional_id, producer_id, producer_epoch, partitions: partitions(body)?, add })
}

fn flag(body: &mut Bytes) -> Result<bool, String> {
    match body.try_get_u8().map_err(short)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("{other} is neither yes nor no")),
    }
}

/// How many there are, if so many are there (INV-8).
fn bounded(body: &mut Bytes, bytes_each: usize) -> Result<usize, String> {
    let count = body.try_get_u32().map_err(short)? as usize;
    if count > MAX_TRANSACTION_MESSAGE_PARTITIONS {
        return Err(format!("{count} partitions at once"));
    }
    if count * bytes_each > body.remaining() {
        return Err("it ends early".into());
    }
    Ok(count)
}

fn take(body: &mut Bytes, length: usize) -> Result<Bytes, String> {
    if length > body.remaining() {
        return Err("it ends early".into());
    }
    Ok(body.split_to(length))
}

fn partitions(body: &mut Bytes) -> Result<Vec<PartitionId>, String> {
    let count = bounded(body, PARTITION_BYTES)?;
    let one = |body: &mut Bytes| {
        let topic = Uuid::from_u128(body.try_get_u128().map_err(short)?);
        Ok(PartitionId { topic, partition: body.try_get_i32().map_err(short)? })
    };
    (0..count).map(|_| one(body)).collect()
}

fn codes(body: &mut Bytes) -> Result<Vec<i16>, String> {
    let count = bounded(body, size_of::<i16>())?;
    (0..count).map(|_| body.try_get_i16().map_err(short)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<TransactionMessage> {
        let partitions: Vec<_> = (0..3).map(|n| PartitionId { topic: Uuid::from_u128(n), partition: -1 }).collect();
        let marker = Marker {
            producer_id: i64::MAX,
            producer_epoch: i16::MAX,
            coordinator_epoch: 5,
            commit: true,
            transaction_version: 2,
        };
        let verify = Verify {
            transactional_id: "an id".into(),
            producer_id: 4,
            producer_epoch: 0,
            partitions: partitions.clone(),
            add: true,
        };
        vec![
            TransactionMessage::WriteMarkers { number: 1, marker, partitions },
            TransactionMessage::MarkersWritten { number: u64::MAX, codes: vec![0, 6, -1] },
            TransactionMessage::Verify { number: 2, verify },
            TransactionMessage::Verified { number: 3, code: 48 },
        ]
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for message in samples() {
            assert_eq!(TransactionMessage::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        for bytes in samples().iter().map(TransactionMessage::encode) {
            for length in 0..bytes.len() {
                assert!(TransactionMessage::decode(bytes.slice(..length)).is_err(), "{bytes:?} cut to {length}");
            }
            assert!(TransactionMessage::decode([&bytes[..], &[0]].concat().into()).is_err());
        }
        assert!(TransactionMessage::decode(Bytes::from_static(&[9, 0, 0, 0, 0, 0, 0, 0, 0])).is_err());
    }

    #[test]
    fn hostile_counts_cost_no_memory() {
        for count in [u32::MAX, MAX_TRANSACTION_MESSAGE_PARTITIONS as u32 + 1, 1] {
            let mut bytes = vec![MARKERS_WRITTEN, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(count.to_be_bytes());
            assert!(TransactionMessage::decode(bytes.into()).is_err(), "{count}");
        }
    }
}
