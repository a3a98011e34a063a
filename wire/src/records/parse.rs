//! Reading records. [`RecordRef`] borrows; [`Record`] holds slices of the (decompressed) bytes, which it keeps alive.

use std::borrow::Cow;

use bytes::Bytes;

use super::varint;
use crate::batch::{BatchHeader, HEADER_LEN};
use crate::compress::{Codec, DecompressError, decompress};
use crate::limits::MAX_RECORD_HEADERS;
use crate::types::Offset;

/// Why a batch's records can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// A compression id that is not assigned.
    #[error("batch at offset {base_offset}: unknown compression id {id}")]
    UnknownCodec {
        /// The batch.
        base_offset: Offset,
        /// The id.
        id: u8,
    },
    /// The records don't decompress, or to too much.
    #[error("batch at offset {base_offset}: {source}")]
    Decompress {
        /// The batch.
        base_offset: Offset,
        /// Why.
        source: DecompressError,
    },
    /// Uncompressed records longer than the caller allows.
    #[error("batch at offset {base_offset}: {len} bytes of records, more than the limit of {limit}")]
    TooLarge {
        /// The batch.
        base_offset: Offset,
        /// Bytes there.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// A record that does not parse, or contradicts its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("batch at offset {base_offset}: record {index} at byte {at} of the uncompressed records: {what}")]
pub struct RecordError {
    /// The batch.
    pub base_offset: Offset,
    /// Which record, from 0.
    pub index: i32,
    /// Where it begins.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// A record that borrows the bytes of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Offset, relative to the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds, relative to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Number of headers.
    pub header_count: usize,
    /// The headers as they are encoded, checked.
    headers: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Key and value of each header, in the producer's order, duplicates included.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.headers;
        (0..self.header_count).map_while(move |_| header(&mut rest))
    }
}

/// A record. Its parts are slices of the batch's bytes, or of what they decompress to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset, relative to the batch's base offset.
    pub offset_delta: i32,
    /// Milliseconds, relative to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// `None` is a null key.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers; reading them is left to [`Headers::iter`].
    pub headers: Headers,
}

/// The headers of a record, in the producer's order, duplicates included. Checked when the record was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    count: usize,
    encoded: Bytes,
}

/// A record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by convention; nobody checks it.
    pub key: Bytes,
    /// `None` is a null value.
    pub value: Option<Bytes>,
}

impl Header {
    /// The key as text, what is not UTF-8 replaced.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

impl Headers {
    /// Number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each header.
    pub fn iter(&self) -> impl Iterator<Item = Header> + '_ {
        let mut rest: &[u8] = &self.encoded;
        (0..self.count).map_while(move |_| {
            let (key, value) = header(&mut rest)?;
            Some(Header { key: self.encoded.slice_ref(key), value: value.map(|v| self.encoded.slice_ref(v)) })
        })
    }
}

fn header<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key = nullable(rest)??;
    Some((key, nullable(rest)?))
}

/// `None` if it does not parse, `Some(None)` if it is null.
#[inline]
#[expect(clippy::option_option, reason = "null is a value here")]
fn nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take(rest)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(Some(bytes))
}

/// Takes a record off the start of `rest`.
#[inline]
pub(super) fn record<'a>(rest: &mut &'a [u8]) -> Result<RecordRef<'a>, &'static str> {
    const SHORT: &str = "cut short, or a length beyond its end";
    let length = varint::take(rest).and_then(|length| usize::try_from(length).ok()).ok_or("no length")?;
    let (mut body, after) = rest.split_at_checked(length).ok_or("longer than the batch")?;
    let body = &mut body;
    let (_attributes, fields) = body.split_first().ok_or(SHORT)?;
    *body = fields;
    let timestamp_delta = varint::take(body).ok_or(SHORT)?;
    let offset_delta = varint::take(body).ok_or(SHORT)?;
    let offset_delta = i32::try_from(offset_delta).map_err(|_| "an offset delta beyond 32 bits")?;
    let key = nullable(body).ok_or(SHORT)?;
    let value = nullable(body).ok_or(SHORT)?;
    let header_count = varint::take(body).and_then(|count| usize::try_from(count).ok()).ok_or(SHORT)?;
    if header_count > MAX_RECORD_HEADERS {
        return Err("too many headers");
    }
    let headers = *body;
    for _ in 0..header_count {
        header(body).ok_or("a header that does not parse")?;
    }
    if !body.is_empty() {
        return Err("bytes left over at its end");
    }
    *rest = after;
    Ok(RecordRef { offset_delta, timestamp_delta, key, value, header_count, headers })
}

/// The records of a batch, decompressed.
#[derive(Debug, Clone)]
pub struct RecordSet {
    header: BatchHeader,
    data: Bytes,
}

/// The records of `batch` (its header included), at most `max_len` bytes of them once decompressed. Uncompressed records
/// are not copied.
///
/// # Errors
/// [`RecordsError`].
pub fn records(header: &BatchHeader, batch: &Bytes, max_len: usize) -> Result<RecordSet, RecordsError> {
    let base_offset = header.base_offset;
    let id = header.compression();
    let codec = Codec::from_id(id).ok_or(RecordsError::UnknownCodec { base_offset, id })?;
    let end = header.len.min(batch.len()).max(HEADER_LEN.min(batch.len()));
    let body = batch.slice(HEADER_LEN.min(batch.len())..end);
    let data = match codec {
        Codec::None if body.len() > max_len => {
            return Err(RecordsError::TooLarge { base_offset, len: body.len(), limit: max_len });
        }
        Codec::None => body,
        Codec::Gzip | Codec::Snappy | Codec::Lz4 | Codec::Zstd => {
            decompress(codec, &body, max_len).map_err(|source| RecordsError::Decompress { base_offset, source })?
        }
    };
    Ok(RecordSet { header: *header, data })
}

impl RecordSet {
    /// The batch's header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records as they are encoded.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Borrowed records; ends after the first error.
    #[must_use]
    pub fn iter(&self) -> Refs<'_> {
        Refs { cursor: Cursor::new(&self.header), data: &self.data }
    }
}

/// Where an iteration stands.
#[derive(Debug, Clone)]
struct Cursor {
    base_offset: Offset,
    last_delta: i32,
    count: i32,
    index: i32,
    at: usize,
    previous: i32,
    failed: bool,
}

impl Cursor {
    fn new(header: &BatchHeader) -> Self {
        Self {
            base_offset: header.base_offset,
            last_delta: header.last_offset_delta,
            count: header.record_count,
            index: 0,
            at: 0,
            previous: -1,
            failed: false,
        }
    }

    #[inline]
    fn next<'a>(&mut self, data: &'a [u8]) -> Option<Result<RecordRef<'a>, RecordError>> {
        if self.failed {
            return None;
        }
        let result = if self.index == self.count {
            if self.at == data.len() {
                return None;
            }
            Err("bytes after the last record that the header counts")
        } else {
            self.step(data)
        };
        match result {
            Ok(record) => {
                self.index = self.index.saturating_add(1);
                Some(Ok(record))
            }
            Err(what) => {
                self.failed = true;
                Some(Err(RecordError { base_offset: self.base_offset, index: self.index, at: self.at, what }))
            }
        }
    }

    #[inline]
    fn step<'a>(&mut self, data: &'a [u8]) -> Result<RecordRef<'a>, &'static str> {
        let mut rest = data.get(self.at..).unwrap_or_default();
        let record = record(&mut rest)?;
        if record.offset_delta <= self.previous {
            return Err("an offset not above the one before");
        }
        if record.offset_delta > self.last_delta {
            return Err("an offset beyond the batch's last");
        }
        self.previous = record.offset_delta;
        self.at = data.len() - rest.len();
        Ok(record)
    }
}

/// Iterator of [`RecordSet::iter`].
#[derive(Debug, Clone)]
pub struct Refs<'a> {
    cursor: Cursor,
    data: &'a [u8],
}

impl<'a> Iterator for Refs<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next(self.data)
    }
}

/// Iterator of [`RecordSet`] by value.
#[derive(Debug, Clone)]
pub struct Records {
    cursor: Cursor,
    data: Bytes,
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match self.cursor.next(&self.data)? {
            Ok(record) => record,
            Err(error) => return Some(Err(error)),
        };
        let slice = |part: &[u8]| self.data.slice_ref(part);
        Some(Ok(Record {
            offset_delta: record.offset_delta,
            timestamp_delta: record.timestamp_delta,
            key: record.key.map(slice),
            value: record.value.map(slice),
            headers: Headers {
                count: record.header_count,
                encoded: if record.header_count == 0 { Bytes::new() } else { slice(record.headers) },
            },
        }))
    }
}

impl IntoIterator for RecordSet {
    type Item = Result<Record, RecordError>;
    type IntoIter = Records;

    fn into_iter(self) -> Records {
        Records { cursor: Cursor::new(&self.header), data: self.data }
    }
}

impl<'a> IntoIterator for &'a RecordSet {
    type Item = Result<RecordRef<'a>, RecordError>;
    type IntoIter = Refs<'a>;

    fn into_iter(self) -> Refs<'a> {
        self.iter()
    }
}
