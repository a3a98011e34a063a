//! Building batches: records are encoded as they arrive into one buffer; the header is written, and the records are
//! compressed, when the batch is sealed. Who sends it (producer id, epoch, sequence) may be said later still, and again,
//! without touching the records: [`Sealed::header`].

use bytes::Bytes;

use super::varint;
use crate::batch::{CRC_START, HEADER_LEN, LENGTH_PREFIX};
use crate::compress::{Codec, CompressError, compress_into};
use crate::limits::MAX_BATCH_BYTES;

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Why a batch can't be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The records would pass [`MAX_BATCH_BYTES`], or what an offset delta can count.
    #[error("a batch of {len} bytes would be larger than the limit of {limit}")]
    TooLarge {
        /// Bytes that it would have.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A batch has at least one record.
    #[error("a batch without records")]
    Empty,
    /// The codec refused.
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// Who sends a batch, and its place in what that producer sends to the partition (KIP-98). All -1: nobody in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's id, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
}

impl Stamp {
    /// Not an idempotent producer.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

/// A batch under construction. [`BatchBuilder::seal`] leaves it empty and ready for the next one, its memory kept.
#[derive(Debug)]
pub struct BatchBuilder {
    records: Vec<u8>,
    codec: Codec,
    level: Option<i32>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    flags: i16,
}

#[inline]
fn length(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

#[inline]
fn sized(len: usize) -> usize {
    varint::len(length(len)) + len
}

#[inline]
fn nullable(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| sized(part.len()))
}

#[inline]
fn put_nullable(to: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        Some(part) => {
            varint::put(to, length(part.len()));
            to.extend_from_slice(part);
        }
        None => to.push(1), // -1, zigzag
    }
}

impl BatchBuilder {
    /// Without memory; it grows as records come. A `level` of `None` is the codec's default.
    #[must_use]
    pub fn new(codec: Codec, level: Option<i32>) -> Self {
        Self::with_capacity(codec, level, 0)
    }

    /// With memory for `bytes` of records.
    #[must_use]
    pub fn with_capacity(codec: Codec, level: Option<i32>, bytes: usize) -> Self {
        let records = Vec::with_capacity(bytes.min(MAX_BATCH_BYTES));
        Self { records, codec, level, count: 0, base_timestamp: -1, max_timestamp: -1, flags: 0 }
    }

    /// Marks the batch as part of a transaction.
    pub fn set_transactional(&mut self, transactional: bool) {
        self.set(TRANSACTIONAL, transactional);
    }

    /// Marks the batch as one of control records (transaction markers); such a batch is never compressed.
    pub fn set_control(&mut self, control: bool) {
        self.set(CONTROL, control);
    }

    /// Another codec, from the next [`BatchBuilder::seal`] on.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = codec;
    }

    fn set(&mut self, flag: i16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch if it were sealed uncompressed now, header included.
    #[must_use]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// At most how many bytes a record adds to [`BatchBuilder::len`], so that a producer can seal before it would pass its
    /// batch size.
    #[must_use]
    pub fn size_bound<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(K, V)],
    ) -> usize {
        let headers: usize = headers.iter().map(|(k, v)| sized(k.as_ref().len()) + sized(v.as_ref().len())).sum();
        // Length, attributes, timestamp delta, offset delta, header count.
        5 + 1 + varint::MAX_LEN + 5 + nullable(key) + nullable(value) + 5 + headers
    }

    /// Appends a record; returns its offset delta. Headers keep their order, duplicates included. A header's value may be
    /// given as `Option` through [`BatchBuilder::append_nullable`].
    ///
    /// # Errors
    /// [`BuildError::TooLarge`]; the batch is as it was.
    pub fn append<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(K, V)],
    ) -> Result<i32, BuildError> {
        let headers = headers.iter().map(|(key, value)| (key.as_ref(), Some(value.as_ref())));
        self.append_nullable(timestamp_ms, key, value, headers)
    }

    /// As [`BatchBuilder::append`], with header values that may be null.
    ///
    /// # Errors
    /// [`BuildError::TooLarge`]; the batch is as it was.
    pub fn append_nullable<'h>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl ExactSizeIterator<Item = (&'h [u8], Option<&'h [u8]>)> + Clone,
    ) -> Result<i32, BuildError> {
        let base = if self.count == 0 { timestamp_ms } else { self.base_timestamp };
        let (time, offset) = (timestamp_ms.saturating_sub(base), self.count);
        let header_count = length(headers.len());
        let headers_len: usize = headers.clone().map(|(key, value)| sized(key.len()) + nullable(value)).sum();
        let body = 1
            + varint::len(time)
            + varint::len(offset.into())
            + nullable(key)
            + nullable(value)
            + varint::len(header_count)
            + headers_len;
        let total = self.len() + sized(body);
        if total > MAX_BATCH_BYTES || offset == i32::MAX {
            return Err(BuildError::TooLarge { len: total, limit: MAX_BATCH_BYTES });
        }
        let to = &mut self.records;
        to.reserve(sized(body));
        varint::put(to, length(body));
        to.push(0);
        varint::put(to, time);
        varint::put(to, offset.into());
        put_nullable(to, key);
        put_nullable(to, value);
        varint::put(to, header_count);
        for (key, value) in headers {
            put_nullable(to, Some(key));
            put_nullable(to, value);
        }
        self.base_timestamp = base;
        self.max_timestamp = if offset == 0 { timestamp_ms } else { self.max_timestamp.max(timestamp_ms) };
        self.count += 1;
        Ok(offset)
    }

    /// Compresses the records and empties the builder. From here on their bytes stay as they are, whatever is retried.
    ///
    /// # Errors
    /// [`BuildError::Empty`]; [`BuildError::Compress`], and the builder keeps its records.
    pub fn seal(&mut self) -> Result<Sealed, BuildError> {
        let codec = self.codec();
        let body = match codec {
            Codec::None if self.count > 0 => Bytes::from(std::mem::take(&mut self.records)),
            _ => Bytes::from(self.compressed(0)?),
        };
        Ok(self.finish(codec, body))
    }

    /// As [`BatchBuilder::seal`], and the whole batch as one piece: header with `stamp`, then the records.
    ///
    /// # Errors
    /// As [`BatchBuilder::seal`].
    pub fn build(&mut self, stamp: Stamp) -> Result<Bytes, BuildError> {
        let mut batch = self.compressed(HEADER_LEN)?;
        let body = batch.get(HEADER_LEN..).unwrap_or_default();
        let codec = self.codec();
        let header = self.parts(codec).header(stamp, body);
        if let Some(to) = batch.first_chunk_mut() {
            *to = header;
        }
        self.reset();
        Ok(Bytes::from(batch))
    }

    fn codec(&self) -> Codec {
        if self.flags & CONTROL != 0 { Codec::None } else { self.codec }
    }

    /// `ahead` zeros, then the records as they are sent.
    fn compressed(&self, ahead: usize) -> Result<Vec<u8>, BuildError> {
        if self.count == 0 {
            return Err(BuildError::Empty);
        }
        let codec = self.codec();
        let capacity = if codec == Codec::None { ahead + self.records.len() } else { ahead };
        let mut out = Vec::with_capacity(capacity);
        out.resize(ahead, 0);
        compress_into(codec, self.level, &self.records, &mut out)?;
        Ok(out)
    }

    fn parts(&self, codec: Codec) -> Parts {
        Parts {
            attributes: self.flags | i16::from(codec.id()),
            count: self.count,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
        }
    }

    fn finish(&mut self, codec: Codec, body: Bytes) -> Sealed {
        let sealed = Sealed { parts: self.parts(codec), body };
        self.reset();
        sealed
    }

    fn reset(&mut self) {
        self.records.clear();
        self.count = 0;
    }
}

/// What a header says beside the stamp.
#[derive(Debug, Clone, Copy)]
struct Parts {
    attributes: i16,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Parts {
    fn header(&self, stamp: Stamp, body: &[u8]) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = header.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&0_i64.to_be_bytes());
        // Bounded by MAX_BATCH_BYTES.
        put(&i32::try_from(HEADER_LEN - LENGTH_PREFIX + body.len()).unwrap_or(i32::MAX).to_be_bytes());
        put(&(-1_i32).to_be_bytes());
        put(&[2]);
        put(&0_u32.to_be_bytes());
        put(&self.attributes.to_be_bytes());
        put(&(self.count - 1).to_be_bytes());
        put(&self.base_timestamp.to_be_bytes());
        put(&self.max_timestamp.to_be_bytes());
        put(&stamp.producer_id.to_be_bytes());
        put(&stamp.producer_epoch.to_be_bytes());
        put(&stamp.base_sequence.to_be_bytes());
        put(&self.count.to_be_bytes());
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        digest.update(header.get(CRC_START..).unwrap_or_default());
        digest.update(body);
        let crc = u32::try_from(digest.finalize()).unwrap_or_default();
        if let Some(to) = header.get_mut(CRC_START - 4..CRC_START) {
            to.copy_from_slice(&crc.to_be_bytes());
        }
        header
    }
}

/// A batch whose records are fixed: its body as it goes on the wire, and a header that is made when it is sent.
#[derive(Debug, Clone)]
pub struct Sealed {
    parts: Parts,
    body: Bytes,
}

impl Sealed {
    /// The header to put before [`Sealed::body`]: base offset 0, leader epoch -1, CRC over both.
    #[must_use]
    pub fn header(&self, stamp: Stamp) -> [u8; HEADER_LEN] {
        self.parts.header(stamp, &self.body)
    }

    /// The records, compressed.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.parts.count
    }

    /// The largest timestamp in milliseconds.
    #[must_use]
    pub fn max_timestamp(&self) -> i64 {
        self.parts.max_timestamp
    }

    /// Bytes on the wire, header included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty: it has a header")]
    pub fn len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Header and records as one piece.
    #[must_use]
    pub fn to_bytes(&self, stamp: Stamp) -> Bytes {
        let mut batch = Vec::with_capacity(self.len());
        batch.extend_from_slice(&self.header(stamp));
        batch.extend_from_slice(&self.body);
        Bytes::from(batch)
    }
}
