//! Finding a record by time inside batches.

use bytes::Bytes;
use wherry_wire::batch::BatchHeader;
use wherry_wire::records::records;
use wherry_wire::types::Offset;

use crate::config::MAX_DECOMPRESSED_BYTES;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The first record whose timestamp is this or later, milliseconds.
    AtOrAfter(i64),
}

/// The first record within `start..end` that fits, and its timestamp.
pub(crate) fn find<'a>(
    batches: impl Iterator<Item = (&'a BatchHeader, &'a Bytes)>,
    target: Target,
    start: Offset,
    end: Offset,
) -> Result<Option<(Offset, i64)>, String> {
    let Target::AtOrAfter(at) = target;
    for (header, bytes) in batches {
        if header.max_timestamp < at || header.next_offset() <= start || header.base_offset >= end {
            continue;
        }
        if let Some(found) = in_batch(header, bytes, at, start)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// With LogAppendTime every record has the batch's time, whatever its own delta says.
const LOG_APPEND_TIME: i16 = 0x08;

fn in_batch(header: &BatchHeader, bytes: &Bytes, at: i64, start: Offset) -> Result<Option<(Offset, i64)>, String> {
    if header.attributes & LOG_APPEND_TIME != 0 {
        return Ok(Some((header.base_offset.max(start), header.max_timestamp)));
    }
    let set = records(header, bytes, MAX_DECOMPRESSED_BYTES).map_err(|e| e.to_string())?;
    for record in &set {
        let record = record.map_err(|e| e.to_string())?;
        let offset = Offset(header.base_offset.0 + i64::from(record.offset_delta));
        let timestamp = header.base_timestamp.saturating_add(record.timestamp_delta);
        if timestamp >= at && offset >= start {
            return Ok(Some((offset, timestamp)));
        }
    }
    Ok(None)
}
