//! What compaction does to one batch: which keys it holds, and the batch without the records that go. Pure.
//!
//! The one place where stored batches change beside base offset and epoch (INV-3 names it): the CRC is computed anew.
//! Records that stay keep their bytes, so their offsets and timestamps stay what they were.

use bytes::Bytes;
use wherry_wire::batch::{BatchHeader, CRC_START, HEADER_LEN, LENGTH_PREFIX, crc32c};
use wherry_wire::compress::{Codec, compress};
use wherry_wire::records::records;
use wherry_wire::types::Offset;

use crate::config::MAX_DECOMPRESSED_BYTES;
use crate::segment::StoredBatch;

/// Whether a record stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Yes,
    No,
}

/// Calls `each` with every key and the offset of its record.
///
/// # Errors
/// The records do not parse: says how.
pub(crate) fn keys(batch: &StoredBatch, mut each: impl FnMut(&[u8], Offset)) -> Result<(), String> {
    if batch.header.is_control() {
        return Ok(());
    }
    let set = records(&batch.header, &batch.bytes, MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
    for record in &set {
        let record = record.map_err(|e| e.to_string())?;
        if let Some(key) = record.key {
            each(key, Offset(batch.header.base_offset.0 + i64::from(record.offset_delta)));
        }
    }
    Ok(())
}

/// The batch with only the records that stay: unchanged if all do, `None` if none does. `hold` keeps an empty batch
/// where the end of the log would otherwise have no batch to show for its offsets.
///
/// # Errors
/// The records do not parse, or do not compress: says how.
pub(crate) fn rewrite(
    batch: &StoredBatch,
    hold: bool,
    keep: impl Fn(Option<&[u8]>, bool, Offset) -> Keep,
) -> Result<Option<StoredBatch>, String> {
    if batch.header.is_control() {
        return Ok(Some(batch.clone()));
    }
    let set = records(&batch.header, &batch.bytes, MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
    let mut kept = Vec::new();
    let (mut count, mut all) = (0, true);
    let mut rest: &[u8] = set.data();
    for record in &set {
        let record = record.map_err(|e| e.to_string())?;
        let (whole, after) = split_record(rest).ok_or("a record's length does not fit the batch")?;
        rest = after;
        let offset = Offset(batch.header.base_offset.0 + i64::from(record.offset_delta));
        match keep(record.key, record.value.is_none(), offset) {
            Keep::Yes => {
                kept.extend_from_slice(whole);
                count += 1;
            }
            Keep::No => all = false,
        }
    }
    // One that an earlier compaction has left empty is held no longer than it must be.
    if all && (count > 0 || hold) {
        return Ok(Some(batch.clone()));
    }
    if count == 0 && !hold {
        return Ok(None);
    }
    rebuild(batch, &kept, count).map(Some)
}

/// A record with its length prefix (a zigzag varint), and what follows.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut value, mut at) = (0u64, 0usize);
    loop {
        let byte = *bytes.get(at)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            return None;
        }
    }
    let len = usize::try_from(value >> 1).ok().filter(|_| value & 1 == 0)?;
    bytes.split_at_checked(at.checked_add(len)?)
}

fn rebuild(batch: &StoredBatch, kept: &[u8], count: i32) -> Result<StoredBatch, String> {
    let codec =
        if count == 0 { Codec::None } else { Codec::from_id(batch.header.compression()).unwrap_or(Codec::None) };
    let body = compress(codec, None, kept).map_err(|e| e.to_string())?;
    let mut bytes = batch.bytes.get(..HEADER_LEN).ok_or("a batch without a header")?.to_vec();
    bytes.extend_from_slice(&body);
    let length = i32::try_from(bytes.len() - LENGTH_PREFIX).map_err(|e| e.to_string())?;
    let attributes = (batch.header.attributes & !0x07) | i16::from(codec.id());
    crate::bytes_at::put(&mut bytes, 8, &length.to_be_bytes());
    crate::bytes_at::put(&mut bytes, CRC_START, &attributes.to_be_bytes());
    crate::bytes_at::put(&mut bytes, 57, &count.to_be_bytes());
    let crc = crc32c(bytes.get(CRC_START..).unwrap_or_default());
    crate::bytes_at::put(&mut bytes, 17, &crc.to_be_bytes());
    let header = BatchHeader::read(&bytes, 0).map_err(|e| e.to_string())?;
    Ok(StoredBatch { header, bytes: Bytes::from(bytes) })
}
