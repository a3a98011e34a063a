//! Entries of a frame: what happened to which log. Replayed in order, and only in order.
//!
//! Layout, little endian: `0 kind u8 | 1 zero u8[3] | 4 body bytes u32 | 8 topic id u8[16] | 24 partition i32 | 28 body`.

use bytes::Bytes;
use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use crate::bytes_at::{array, i64_at, u32_at};

/// Bytes before an entry's body.
pub const ENTRY_HEADER: usize = 28;

const APPEND: u8 = 1;
const CREATE: u8 = 2;
const DELETE: u8 = 3;
const TRUNCATE: u8 = 4;
const LOG_START: u8 = 5;
const APPEND_AFTER: u8 = 6;
const RESTART: u8 = 7;

/// Bytes before the batch in the body of an append that leaves a gap.
pub const GAP_PREFIX: usize = 8;

/// A change to a log other than an append: journaled like appends and replayed in order with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The log begins to exist, at this offset.
    Create {
        /// First offset.
        start: Offset,
    },
    /// The log and all its records go.
    Delete,
    /// Records at and above `to` go.
    Truncate {
        /// New end.
        to: Offset,
    },
    /// Records below `start` go.
    LogStart {
        /// New start.
        start: Offset,
    },
    /// All records go, and what the log knew of epochs and producers; it goes on here.
    Restart {
        /// First offset.
        start: Offset,
    },
}

/// One decoded entry.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A batch, with base offset and epoch as assigned; its CRC is not checked here (the frame's was).
    Append(LogId, Bytes),
    /// A batch that leaves a gap on purpose (the leader compacted what was there), and where the log ended before it.
    AppendAfter(LogId, Offset, Bytes),
    /// Any other change.
    Control(LogId, Control),
}

/// Writes the header of an append entry whose batch of `batch_len` bytes follows.
pub fn put_append_header(out: &mut [u8], log: LogId, batch_len: usize) {
    put_header(out, APPEND, log, batch_len);
}

/// Writes what precedes a batch of `batch_len` bytes that is to follow `end` with a gap: header and [`GAP_PREFIX`].
pub fn put_gap_header(out: &mut [u8], log: LogId, end: Offset, batch_len: usize) {
    put_header(out, APPEND_AFTER, log, GAP_PREFIX + batch_len);
    crate::bytes_at::put(out, ENTRY_HEADER, &end.0.to_le_bytes());
}

fn put_header(out: &mut [u8], kind: u8, log: LogId, body: usize) {
    crate::bytes_at::put(out, 0, &[kind, 0, 0, 0]);
    crate::bytes_at::put(out, 4, &u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
    crate::bytes_at::put(out, 8, log.topic.as_bytes());
    crate::bytes_at::put(out, 24, &log.partition.to_le_bytes());
}

/// A control entry as bytes.
#[must_use]
pub fn encode_control(log: LogId, control: Control) -> Vec<u8> {
    let (kind, body) = match control {
        Control::Create { start } => (CREATE, Some(start)),
        Control::Delete => (DELETE, None),
        Control::Truncate { to } => (TRUNCATE, Some(to)),
        Control::LogStart { start } => (LOG_START, Some(start)),
        Control::Restart { start } => (RESTART, Some(start)),
    };
    let body = body.map(|o| o.0.to_le_bytes().to_vec()).unwrap_or_default();
    let mut out = vec![0; ENTRY_HEADER];
    put_header(&mut out, kind, log, body.len());
    out.extend_from_slice(&body);
    out
}

/// Decodes the entries of a frame's payload. A frame whose checksum matched but whose entries do not parse was written
/// by something else: the error says at which byte of the payload.
///
/// # Errors
/// Byte position in the payload, and what is wrong there.
pub fn decode(payload: &Bytes, count: u32) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries = Vec::with_capacity((count as usize).min(payload.len() / ENTRY_HEADER + 1));
    let mut at = 0;
    for _ in 0..count {
        let (entry, len) = decode_one(payload, at).ok_or_else(|| (at, "an entry that does not parse".to_owned()))?;
        entries.push(entry);
        at += len;
    }
    if at != payload.len() {
        return Err((at, format!("{} bytes after the last entry", payload.len() - at)));
    }
    Ok(entries)
}

fn decode_one(payload: &Bytes, at: usize) -> Option<(Entry, usize)> {
    let head = payload.get(at..at + ENTRY_HEADER)?;
    let body_len = u32_at(head, 4)? as usize;
    let log = LogId { topic: Uuid::from_bytes(array(head, 8)?), partition: i32::from_le_bytes(array(head, 24)?) };
    let body_at = at + ENTRY_HEADER;
    let body = payload.get(body_at..body_at.checked_add(body_len)?)?;
    let offset = || i64_at(body, 0).map(Offset);
    let entry = match *head.first()? {
        APPEND => Entry::Append(log, payload.slice(body_at..body_at + body_len)),
        CREATE => Entry::Control(log, Control::Create { start: offset()? }),
        DELETE => Entry::Control(log, Control::Delete),
        TRUNCATE => Entry::Control(log, Control::Truncate { to: offset()? }),
        APPEND_AFTER => Entry::AppendAfter(log, offset()?, payload.slice(body_at + GAP_PREFIX..body_at + body_len)),
        RESTART => Entry::Control(log, Control::Restart { start: offset()? }),
        LOG_START => Entry::Control(log, Control::LogStart { start: offset()? }),
        _ => return None,
    };
    Some((entry, ENTRY_HEADER + body_len))
}

/// Epoch of the first batch that a leader appends in a new epoch stands in the batch itself, so epoch starts need no
/// entry of their own: this reads it back.
#[must_use]
pub fn epoch_of(batch: &[u8]) -> Option<LeaderEpoch> {
    array(batch, 12).map(|b| LeaderEpoch(i32::from_be_bytes(b)))
}
