//! Finding a record by time inside batches.

use bytes::Bytes;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::Offset;

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
    for (header, _bytes) in batches {
        if header.max_timestamp < at || header.next_offset() <= start || header.base_offset >= end {
            continue;
        }
        return Ok(Some((header.base_offset.max(start), header.max_timestamp)));
    }
    Ok(None)
}
