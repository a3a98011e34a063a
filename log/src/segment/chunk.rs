//! The chunk: whole batches behind a header that checks them, padded to whole blocks, written once and never rewritten.
//!
//! A segment file is a row of chunks. The header carries what the batch CRC does not cover (base offset, length, epoch,
//! magic of every batch: rule 21) as a second checksum, and makes the file self-describing: an index is only a cache.
//! A later chunk cuts earlier ones at its base offset (that is how a truncated log goes on).
//!
//! Layout, little endian: `0 magic "WCHK" | 4 crc32c over 8..96 | 8 topic id u8[16] | 24 partition i32 | 28 batches u32
//! | 32 base offset i64 | 40 next offset i64 | 48 data bytes u32 | 52 crc32c of the batches' first 21 bytes u32
//! | 56 max timestamp i64 | 64 zero | 96 batches`, zeros to whole blocks.

use bytes::Bytes;
use uuid::Uuid;
use wherry_wire::batch::{self, BatchHeader, CRC_START, crc32c};
use wherry_wire::types::{LogId, Offset};

use crate::bytes_at::{array, i64_at, put, u32_at};
use crate::io::{AlignedBuf, BLOCK, round_up};

/// Bytes before the batches.
pub const CHUNK_HEADER: usize = 96;
const MAGIC: [u8; 4] = *b"WCHK";

/// Where a chunk lies and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// First offset that it may hold: nothing that earlier chunks hold from here on counts.
    pub base: Offset,
    /// Offset after the last, or where a later chunk cuts it.
    pub next: Offset,
    /// Byte position in the file.
    pub position: u64,
    /// Bytes of batches.
    pub data_len: u32,
    /// Largest record timestamp, milliseconds.
    pub max_timestamp: i64,
}

impl ChunkRef {
    /// Bytes in the file, whole blocks.
    #[must_use]
    pub fn file_len(&self) -> usize {
        round_up(CHUNK_HEADER + self.data_len as usize)
    }
}

/// A batch in memory, as it is served.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// Its header.
    pub header: BatchHeader,
    /// Its bytes, header included.
    pub bytes: Bytes,
}

/// Writes one chunk at `at` in `buf` that takes the place of all that earlier chunks hold at and above `base`, which is
/// the first batch's offset or, where the log has a gap before it, one below; returns where the next one may begin, and the reference (its position relative to
/// the buffer). The caller sized the buffer with [`space_for`].
pub fn write<'a>(
    buf: &mut AlignedBuf,
    at: usize,
    log: LogId,
    base: Offset,
    batches: impl Iterator<Item = (&'a BatchHeader, &'a Bytes)>,
) -> Option<(usize, ChunkRef)> {
    let mut data_at = at + CHUNK_HEADER;
    let mut heads: Vec<u8> = Vec::new();
    let mut count = 0u32;
    let (mut next, mut max_timestamp) = (base, i64::MIN);
    for (header, bytes) in batches {
        buf.get_mut(data_at..data_at + bytes.len())?.copy_from_slice(bytes);
        heads.extend_from_slice(bytes.get(..CRC_START)?);
        data_at += bytes.len();
        count += 1;
        next = header.next_offset();
        max_timestamp = max_timestamp.max(header.max_timestamp);
    }
    let data_len = u32::try_from(data_at - at - CHUNK_HEADER).ok()?;
    let end = at + round_up(CHUNK_HEADER + data_len as usize);
    buf.get_mut(data_at..end)?.fill(0);
    let head = buf.get_mut(at..at + CHUNK_HEADER)?;
    head.fill(0);
    put(head, 0, &MAGIC);
    put(head, 8, log.topic.as_bytes());
    put(head, 24, &log.partition.to_le_bytes());
    put(head, 28, &count.to_le_bytes());
    put(head, 32, &base.0.to_le_bytes());
    put(head, 40, &next.0.to_le_bytes());
    put(head, 48, &data_len.to_le_bytes());
    put(head, 52, &crc32c(&heads).to_le_bytes());
    put(head, 56, &max_timestamp.to_le_bytes());
    let crc = crc32c(head.get(8..)?);
    put(head, 4, &crc.to_le_bytes());
    Some((end, ChunkRef { base, next, position: at as u64, data_len, max_timestamp }))
}

/// Bytes that a chunk with this much data takes in the file.
#[must_use]
pub fn space_for(data_len: usize) -> usize {
    round_up(CHUNK_HEADER + data_len)
}

/// Reads a chunk's header (at least one block of it); `position` is where it lies in its file. `None`: not a chunk of
/// this log.
#[must_use]
pub fn read_header(head: &[u8], log: LogId, position: u64) -> Option<ChunkRef> {
    if array::<4>(head, 0)? != MAGIC || u32_at(head, 4)? != crc32c(head.get(8..CHUNK_HEADER)?) {
        return None;
    }
    let topic = Uuid::from_bytes(array(head, 8)?);
    let partition = i32::from_le_bytes(array(head, 24)?);
    if (LogId { topic, partition }) != log {
        return None;
    }
    Some(ChunkRef {
        base: Offset(i64_at(head, 32)?),
        next: Offset(i64_at(head, 40)?),
        position,
        data_len: u32_at(head, 48)?,
        max_timestamp: i64_at(head, 56)?,
    })
}

/// Checks a whole chunk and gives its batches: both checksums of every batch, and that offsets ascend within the
/// header's bounds.
///
/// # Errors
/// Byte position in the chunk, and what is wrong there.
pub fn verify(chunk: &Bytes, log: LogId, position: u64) -> Result<(ChunkRef, Vec<StoredBatch>), (u64, String)> {
    let found =
        read_header(chunk, log, position).ok_or_else(|| (0, "not an intact chunk header of this log".to_owned()))?;
    let data_end = CHUNK_HEADER + found.data_len as usize;
    if data_end > chunk.len() {
        return Err((48, format!("chunk of {data_end} bytes where {} are there", chunk.len())));
    }
    let mut heads = Vec::new();
    let mut batches = Vec::new();
    let mut at = CHUNK_HEADER;
    let mut next = found.base;
    for raw in batch::split(chunk.slice(CHUNK_HEADER..data_end)) {
        let checked = raw.and_then(batch::RawBatch::check).map_err(|e| (at as u64, e.to_string()))?;
        let header = *checked.header();
        if header.base_offset < next {
            return Err((at as u64, format!("batch at offset {} where {next} or later must come", header.base_offset)));
        }
        next = header.next_offset();
        heads.extend_from_slice(checked.bytes().get(..CRC_START).unwrap_or_default());
        at += checked.len();
        batches.push(StoredBatch { header, bytes: checked.bytes().clone() });
    }
    if u32_at(chunk, 52) != Some(crc32c(&heads)) {
        return Err((CHUNK_HEADER as u64, "a batch header differs from what was written".to_owned()));
    }
    if next != found.next {
        return Err((40, format!("batches end at offset {next}, the header says {}", found.next)));
    }
    Ok((found, batches))
}

/// A later chunk cuts earlier ones at its base offset. Keeps `chunks` ascending and free of overlaps.
pub fn push_cutting(chunks: &mut Vec<ChunkRef>, chunk: ChunkRef) {
    cut(chunks, chunk.base);
    chunks.push(chunk);
}

/// Drops what lies at and above `end`.
pub fn cut(chunks: &mut Vec<ChunkRef>, end: Offset) {
    while chunks.last().is_some_and(|last| last.base >= end) {
        chunks.pop();
    }
    if let Some(last) = chunks.last_mut()
        && last.next > end
    {
        last.next = end;
    }
}

const _: () = assert!(CHUNK_HEADER < BLOCK);
