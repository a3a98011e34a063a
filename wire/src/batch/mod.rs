//! Record batches, magic 2: the unit that is produced, journaled, stored, replicated and fetched, unchanged (INV-3).
//!
//! Parse, don't validate: [`RawBatch`] (framed) → [`CheckedBatch`] (CRC and header agree) → written with its offset by
//! [`CheckedBatch::write_at`]. Only a checked batch can be given an offset.
//!
//! Layout (Kafka's message format v2), big endian:
//! ```text
//!  0 base offset i64 | 8 batch length i32 | 12 partition leader epoch i32 | 16 magic i8 | 17 crc u32 (crc32c from 21 on)
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64
//! 43 producer id i64 | 51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records
//! ```

use bytes::Bytes;

use crate::types::{LeaderEpoch, Offset, ProducerId};

/// Bytes before the records.
pub const HEADER_LEN: usize = 61;
/// Bytes before those that the batch length counts.
pub const LENGTH_PREFIX: usize = 12;
/// Where the bytes under the CRC begin.
pub const CRC_START: usize = 21;

/// CRC-32C (Castagnoli).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or_default()
}

/// Why bytes are not a batch that may be stored. Each carries the byte position in what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end inside the batch.
    #[error("batch at byte {at}: {have} bytes where {need} are needed")]
    Truncated {
        /// Position of the batch.
        at: usize,
        /// Bytes there.
        have: usize,
        /// Bytes wanted.
        need: usize,
    },
    /// A magic other than 2: formats v0 and v1 are not spoken here.
    #[error("batch at byte {at}: magic {magic}; only message format v2 is supported (use a client of 0.11 or newer)")]
    Magic {
        /// Position of the batch.
        at: usize,
        /// What was found.
        magic: i8,
    },
    /// The CRC does not match the bytes.
    #[error("batch at byte {at}: CRC {computed:#010x} where the header says {stored:#010x}")]
    Crc {
        /// Position of the batch.
        at: usize,
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Header fields that contradict each other.
    #[error("batch at byte {at}: {what}")]
    Header {
        /// Position of the batch.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Larger than the topic allows.
    #[error("batch at byte {at}: {len} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Position of the batch.
        at: usize,
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The fixed header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Whole length in bytes, the first 12 included.
    pub len: usize,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// As stored.
    pub crc: u32,
    /// Compression, timestamp type, transactional, control bits.
    pub attributes: i16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Milliseconds since the epoch, of the first record.
    pub base_timestamp: i64,
    /// Milliseconds since the epoch, the largest in the batch.
    pub max_timestamp: i64,
    /// -1 where there is none.
    pub producer_id: i64,
    /// -1 where there is none.
    pub producer_epoch: i16,
    /// -1 where there is none.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; checks magic and that lengths and counts make sense, not the CRC.
    /// `at` is only for the error message.
    ///
    /// # Errors
    /// [`BatchError::Truncated`], [`BatchError::Magic`], [`BatchError::Header`].
    pub fn read(bytes: &[u8], at: usize) -> Result<Self, BatchError> {
        let short = BatchError::Truncated { at, have: bytes.len(), need: HEADER_LEN };
        // The magic stands at the same place in every format, so an old client gets the right error even for a short batch.
        if let Some(&magic) = bytes.get(16)
            && magic != 2
        {
            return Err(BatchError::Magic { at, magic: magic.cast_signed() });
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Err(short) };
        Self::parse(header, at).ok_or(short)?
    }

    fn parse(b: &[u8; HEADER_LEN], at: usize) -> Option<Result<Self, BatchError>> {
        let length = i32::from_be_bytes(array(b, 8)?);
        let header = Self {
            base_offset: Offset(i64::from_be_bytes(array(b, 0)?)),
            len: usize::try_from(length).unwrap_or(0).saturating_add(LENGTH_PREFIX),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(array(b, 12)?)),
            crc: u32::from_be_bytes(array(b, 17)?),
            attributes: i16::from_be_bytes(array(b, 21)?),
            last_offset_delta: i32::from_be_bytes(array(b, 23)?),
            base_timestamp: i64::from_be_bytes(array(b, 27)?),
            max_timestamp: i64::from_be_bytes(array(b, 35)?),
            producer_id: i64::from_be_bytes(array(b, 43)?),
            producer_epoch: i16::from_be_bytes(array(b, 51)?),
            base_sequence: i32::from_be_bytes(array(b, 53)?),
            record_count: i32::from_be_bytes(array(b, 57)?),
        };
        let wrong = |what| Some(Err(BatchError::Header { at, what }));
        if header.len < HEADER_LEN {
            return wrong("declared length is shorter than a header");
        }
        if header.last_offset_delta < 0 {
            return wrong("negative last offset delta");
        }
        if header.record_count < 0 {
            return wrong("negative record count");
        }
        Some(Ok(header))
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1))
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// The idempotent producer, if there is one.
    #[must_use]
    pub fn producer(&self) -> Option<ProducerId> {
        (self.producer_id >= 0).then_some(ProducerId(self.producer_id))
    }

    /// Low three bits of the attributes: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    #[must_use]
    pub fn compression(&self) -> u8 {
        self.attributes.to_be_bytes()[1] & 0x07
    }

    /// Holds control records (transaction markers), not data.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }
}

/// Bytes framed as one batch; nothing but the header's plausibility is known.
#[derive(Debug, Clone)]
pub struct RawBatch {
    header: BatchHeader,
    bytes: Bytes,
    at: usize,
}

/// Cuts the concatenated batches of a record set apart, without copying. Stops after the first error.
#[must_use]
pub fn split(records: Bytes) -> Split {
    Split { rest: records, at: 0, failed: false }
}

/// Iterator of [`split`].
#[derive(Debug)]
pub struct Split {
    rest: Bytes,
    at: usize,
    failed: bool,
}

impl Iterator for Split {
    type Item = Result<RawBatch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let at = self.at;
        let result = BatchHeader::read(&self.rest, at).and_then(|header| {
            if header.len > self.rest.len() {
                return Err(BatchError::Truncated { at, have: self.rest.len(), need: header.len });
            }
            Ok(RawBatch { header, bytes: self.rest.split_to(header.len), at })
        });
        match &result {
            Ok(batch) => self.at += batch.header.len,
            Err(_) => self.failed = true,
        }
        Some(result)
    }
}

impl RawBatch {
    /// Verifies the CRC.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn check(self) -> Result<CheckedBatch, BatchError> {
        let computed = crc32c(self.bytes.get(CRC_START..).unwrap_or_default());
        if computed != self.header.crc {
            return Err(BatchError::Crc { at: self.at, stored: self.header.crc, computed });
        }
        Ok(CheckedBatch { header: self.header, bytes: self.bytes })
    }

    /// The header, not yet trusted.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}

/// A batch whose CRC matches.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl CheckedBatch {
    /// Its header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Its bytes, header included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Size in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty: it has a header")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Copies the batch to the start of `target` with this base offset and leader epoch: the only two fields a log may
    /// set, both outside the CRC. Returns the header as written, or `None` if `target` is too short.
    pub fn write_at(&self, base_offset: Offset, leader_epoch: LeaderEpoch, target: &mut [u8]) -> Option<BatchHeader> {
        let target = target.get_mut(..self.bytes.len())?;
        target.copy_from_slice(&self.bytes);
        target.get_mut(0..8)?.copy_from_slice(&base_offset.0.to_be_bytes());
        target.get_mut(12..16)?.copy_from_slice(&leader_epoch.0.to_be_bytes());
        Some(BatchHeader { base_offset, leader_epoch, ..self.header })
    }
}

#[cfg(test)]
mod tests;
