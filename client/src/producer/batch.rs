//! Batches under construction: records encoded as they will stand on the wire (message format v2), and the header put before
//! them when they are sent. It knows bytes; it knows no partitions' state and no sockets.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wherry_wire::batch::{CRC_START, HEADER_LEN, LENGTH_PREFIX};

use super::receipt::{Delivery, Receipt};
use crate::config::Codec;
use crate::record::ProduceRecord;

/// Records of one partition, still growing or waiting to be sent. Uncompressed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// What its records count for in the producer's memory.
    reserved: usize,
    /// Since when its first record waits.
    pub(super) opened: Instant,
    pub(super) receipt: Arc<Receipt>,
}

/// What a record takes in a batch, at most: exact sizes, but for the offset and time deltas.
pub(super) fn size_bound(record: &ProduceRecord) -> usize {
    let optional = |bytes: &Option<Bytes>| 5 + bytes.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| 10 + name.len() + value.len()).sum();
    5 + 1 + 10 + 5 + optional(&record.key) + optional(&record.value) + 5 + headers
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn varint_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    (bits as usize).div_ceil(7)
}

fn put_varint(to: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        to.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

/// Lengths are bounded by `max_record_bytes`, far below this.
fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(to, length(bytes.len()));
    to.extend_from_slice(bytes);
}

fn put_optional(to: &mut Vec<u8>, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => put_bytes(to, bytes),
        None => put_varint(to, -1),
    }
}

fn optional_len(bytes: Option<&Bytes>) -> usize {
    bytes.map_or(1, |b| varint_len(length(b.len())) + b.len())
}

fn headers_len(headers: &[(String, Bytes)]) -> usize {
    let sized = |len: usize| varint_len(length(len)) + len;
    headers.iter().map(|(name, value)| sized(name.len()) + sized(value.len())).sum()
}

impl OpenBatch {
    pub(super) fn new(receipt: Arc<Receipt>, capacity: usize, timestamp_ms: i64, opened: Instant) -> Self {
        Self {
            records: Vec::with_capacity(capacity),
            count: 0,
            base_timestamp: timestamp_ms,
            max_timestamp: timestamp_ms,
            reserved: 0,
            opened,
            receipt,
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// What its records count for in the producer's memory.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Appends a record that counts for `reserved` bytes.
    pub(super) fn push(&mut self, record: &ProduceRecord, reserved: usize, timestamp_ms: i64) -> Delivery {
        let index = self.count;
        self.reserved += reserved;
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        let (time, offset) = (timestamp_ms.saturating_sub(self.base_timestamp), i64::from(index));
        let headers = &record.headers;
        let body = 1
            + varint_len(time)
            + varint_len(offset)
            + optional_len(record.key.as_ref())
            + optional_len(record.value.as_ref())
            + varint_len(length(headers.len()))
            + headers_len(headers);
        let to = &mut self.records;
        put_varint(to, length(body));
        to.push(0);
        put_varint(to, time);
        put_varint(to, offset);
        put_optional(to, record.key.as_ref());
        put_optional(to, record.value.as_ref());
        put_varint(to, length(headers.len()));
        for (name, value) in headers {
            put_bytes(to, name.as_bytes());
            put_bytes(to, value);
        }
        Delivery::new(self.receipt.clone(), index.cast_unsigned(), timestamp_ms)
    }

    /// Compresses the records: from here on the bytes stay as they are, whatever is retried.
    pub(super) fn seal(self, codec: Codec, level: Option<i32>) -> Result<SealedBatch, String> {
        let body = match codec {
            Codec::None => Bytes::from(self.records),
            Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => super::compress(codec, level, &self.records)?,
        };
        Ok(SealedBatch {
            body,
            reserved: self.reserved,
            codec,
            count: self.count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            opened: self.opened,
            receipt: self.receipt,
        })
    }
}

/// A batch whose records are fixed. Only the producer's identity and sequence are set when it is sent.
#[derive(Debug, Clone)]
pub(super) struct SealedBatch {
    /// The records, compressed.
    pub(super) body: Bytes,
    /// What they count for in the producer's memory.
    pub(super) reserved: usize,
    codec: Codec,
    /// Number of records.
    pub(super) count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    pub(super) opened: Instant,
    pub(super) receipt: Arc<Receipt>,
}

/// Who sends a batch, and its place in what that producer sends to the partition (KIP-98). All -1: nobody in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
}

impl Stamp {
    pub(super) const NONE: Self = Self { producer_id: -1, epoch: -1, sequence: -1 };
}

impl SealedBatch {
    /// Bytes on the wire, header included.
    pub(super) fn wire_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// The header to put before the body.
    pub(super) fn header(&self, stamp: Stamp) -> [u8; HEADER_LEN] {
        let length = i32::try_from(self.wire_len() - LENGTH_PREFIX).unwrap_or(i32::MAX);
        let mut header = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = header.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&0_i64.to_be_bytes());
        put(&length.to_be_bytes());
        put(&(-1_i32).to_be_bytes());
        put(&[2]);
        put(&0_u32.to_be_bytes());
        put(&super::codec_bits(self.codec).to_be_bytes());
        put(&(self.count - 1).to_be_bytes());
        put(&self.base_timestamp.to_be_bytes());
        put(&self.max_timestamp.to_be_bytes());
        put(&stamp.producer_id.to_be_bytes());
        put(&stamp.epoch.to_be_bytes());
        put(&stamp.sequence.to_be_bytes());
        put(&self.count.to_be_bytes());
        let crc = self.crc(&header);
        if let Some(field) = header.get_mut(17..CRC_START) {
            field.copy_from_slice(&crc.to_be_bytes());
        }
        header
    }

    fn crc(&self, header: &[u8; HEADER_LEN]) -> u32 {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(header.get(CRC_START..).unwrap_or_default());
        digest.update(&self.body);
        u32::try_from(digest.finalize()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wherry_wire::batch;

    fn open(timestamp_ms: i64) -> OpenBatch {
        OpenBatch::new(Receipt::new("t".into(), 0), 0, timestamp_ms, Instant::now())
    }

    fn whole(batch: &SealedBatch, stamp: Stamp) -> Bytes {
        [&batch.header(stamp)[..], &batch.body].concat().into()
    }

    #[test]
    fn varints_have_the_length_they_claim() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
        }
    }

    #[test]
    fn a_batch_passes_the_checks_of_the_wire() {
        let mut open = open(1000);
        let record = ProduceRecord::new("t", "value").key("key").header("h", "x");
        assert!(size_bound(&record) < 64);
        let before = open.len();
        let _ = open.push(&record, 50, 1000);
        assert!(open.len() - before <= size_bound(&record));
        let _ = open.push(&ProduceRecord { key: None, value: None, ..record }, 50, 990);
        let sealed = open.seal(Codec::None, None).unwrap();
        let bytes = whole(&sealed, Stamp { producer_id: 7, epoch: 3, sequence: 9 });
        let checked = batch::split(bytes).next().unwrap().unwrap().check().unwrap();
        let header = checked.header();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 3, 9));
        assert_eq!((header.record_count, header.last_offset_delta), (2, 1));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1000, 1000));
    }
}
