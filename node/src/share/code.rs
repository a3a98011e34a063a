//! Spans and identifiers as bytes: in the coordinator's records, and between nodes.
//!
//! ```text
//! spans = count:u32 (first:i64 last:i64 state:u8 deliveries:u16)*     str = length:u16 utf8     integers are big-endian
//! state = 0 available  2 acknowledged  4 archived  5 rejected, to be copied  6 delivered too often, to be copied
//! ```
//! The first three numbers are KIP-932's.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::kept::{Cause, Kept, Span};
use crate::limits::MAX_SHARE_SPANS;

const AVAILABLE: u8 = 0;
const ACKNOWLEDGED: u8 = 2;
const ARCHIVED: u8 = 4;
const REJECTED: u8 = 5;
const EXHAUSTED: u8 = 6;
const SPAN_BYTES: usize = 19;

pub(crate) fn short(_: bytes::TryGetError) -> &'static str {
    "it ends early"
}

/// Ids are bounded far below this by what checks requests; a longer one would be cut rather than corrupt what follows it.
pub(crate) fn put_str(out: &mut BytesMut, text: &str) {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    out.put_u16(u16::try_from(end).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..end]);
}

pub(crate) fn take_str(input: &mut Bytes) -> Result<Arc<str>, &'static str> {
    let length = usize::from(input.try_get_u16().map_err(short)?);
    if length > input.remaining() {
        return Err("it ends early");
    }
    let text = input.split_to(length);
    std::str::from_utf8(&text).map(Arc::from).map_err(|_| "a string is not UTF-8")
}

pub(crate) fn put_spans(out: &mut BytesMut, spans: &[Span]) {
    out.reserve(4 + spans.len() * SPAN_BYTES);
    out.put_u32(u32::try_from(spans.len()).unwrap_or(u32::MAX));
    for Span { first, last, kept } in spans {
        let (state, count) = match *kept {
            Kept::Available { count } => (AVAILABLE, count),
            Kept::Acknowledged => (ACKNOWLEDGED, 0),
            Kept::Archived => (ARCHIVED, 0),
            Kept::Condemned { count, cause: Cause::Rejected } => (REJECTED, count),
            Kept::Condemned { count, cause: Cause::MaxDeliveries } => (EXHAUSTED, count),
        };
        out.put_i64(*first);
        out.put_i64(*last);
        out.put_u8(state);
        out.put_u16(count);
    }
}

/// A count is believed only if so many are there (INV-8).
pub(crate) fn take_spans(input: &mut Bytes) -> Result<Vec<Span>, &'static str> {
    let count = input.try_get_u32().map_err(short)? as usize;
    if count > MAX_SHARE_SPANS || count * SPAN_BYTES > input.remaining() {
        return Err("it has fewer runs of records than it says, or too many");
    }
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, last) = (input.try_get_i64().map_err(short)?, input.try_get_i64().map_err(short)?);
        let (state, count) = (input.try_get_u8().map_err(short)?, input.try_get_u16().map_err(short)?);
        let kept = match state {
            AVAILABLE => Kept::Available { count },
            ACKNOWLEDGED => Kept::Acknowledged,
            ARCHIVED => Kept::Archived,
            REJECTED => Kept::Condemned { count, cause: Cause::Rejected },
            EXHAUSTED => Kept::Condemned { count, cause: Cause::MaxDeliveries },
            _ => return Err("records in an unknown state"),
        };
        if first < 0 || last < first {
            return Err("a run of records that ends before it begins");
        }
        spans.push(Span { first, last, kept });
    }
    Ok(spans)
}
