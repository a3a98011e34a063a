//! The frame: one group commit, written as one piece of whole blocks and valid or invalid as a whole.
//!
//! Layout, little endian, at a block boundary (see docs/adr/0001-disk-format.md):
//! ```text
//!  0 magic "WFRM"  | 4 header crc32c over 8..64 | 8 generation u64 | 16 incarnation u64 | 24 sequence u64
//! 32 durable sequence u64 | 40 previous frame's header crc u32 | 44 payload crc32c u32 (padding included)
//! 48 payload bytes u32 | 52 entries u32 | 56 blocks u32 | 60 zero u32 | 64 payload, zero padding to whole blocks
//! ```
//! A frame knows which life of which file it belongs to (generation), which start of the node wrote it (incarnation),
//! its place in the chain (sequence, previous crc) and what was known durable when it was issued. So a stale frame of a
//! recycled file that parses is never taken as current, and a bad frame below a sequence that a later frame calls
//! durable is corruption, not a torn tail.

use wherry_wire::batch::crc32c;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::io::{BLOCK, round_up};

/// Bytes before the payload.
pub const FRAME_HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"WFRM";

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Life of the file it lies in.
    pub generation: u64,
    /// Start of the node that wrote it.
    pub incarnation: u64,
    /// Place in the journal, without gaps.
    pub seq: u64,
    /// Highest sequence known durable when this one was issued.
    pub durable_seq: u64,
    /// Header crc of the frame before.
    pub prev_crc: u32,
    /// Bytes of entries.
    pub payload_len: u32,
    /// Number of entries; a frame without any is a mark.
    pub entries: u32,
}

impl FrameHeader {
    /// Blocks that the whole frame takes.
    #[must_use]
    pub fn blocks(&self) -> usize {
        (FRAME_HEADER + self.payload_len as usize).div_ceil(BLOCK)
    }
}

/// Completes a frame in place: zeroes the padding, writes the header in front of the payload that lies at
/// [`FRAME_HEADER`] already. Returns the header crc (the next frame's `prev_crc`) and the length in bytes.
pub fn seal(buf: &mut [u8], header: &FrameHeader) -> (u32, usize) {
    let used = FRAME_HEADER + header.payload_len as usize;
    let len = round_up(used);
    if let Some(padding) = buf.get_mut(used..len) {
        padding.fill(0);
    }
    let payload_crc = crc32c(buf.get(FRAME_HEADER..len).unwrap_or_default());
    put(buf, 0, &MAGIC);
    put(buf, 8, &header.generation.to_le_bytes());
    put(buf, 16, &header.incarnation.to_le_bytes());
    put(buf, 24, &header.seq.to_le_bytes());
    put(buf, 32, &header.durable_seq.to_le_bytes());
    put(buf, 40, &header.prev_crc.to_le_bytes());
    put(buf, 44, &payload_crc.to_le_bytes());
    put(buf, 48, &header.payload_len.to_le_bytes());
    put(buf, 52, &header.entries.to_le_bytes());
    put(buf, 56, &u32::try_from(header.blocks()).unwrap_or(u32::MAX).to_le_bytes());
    put(buf, 60, &[0; 4]);
    let header_crc = crc32c(buf.get(8..FRAME_HEADER).unwrap_or_default());
    put(buf, 4, &header_crc.to_le_bytes());
    (header_crc, len)
}

/// What lies at a block boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A whole frame whose checksums match; with its header crc.
    Frame(FrameHeader, u32),
    /// A header that is intact, over a payload that is torn or reaches past the end.
    BadPayload(FrameHeader),
    /// Not a frame.
    Nothing,
}

/// Looks at the start of `bytes` (which reach to the end of the file).
#[must_use]
pub fn look(bytes: &[u8]) -> Found {
    look_inner(bytes).unwrap_or(Found::Nothing)
}

fn look_inner(bytes: &[u8]) -> Option<Found> {
    if array::<4>(bytes, 0)? != MAGIC {
        return None;
    }
    let header_crc = u32_at(bytes, 4)?;
    if crc32c(bytes.get(8..FRAME_HEADER)?) != header_crc {
        return None;
    }
    let header = FrameHeader {
        generation: u64_at(bytes, 8)?,
        incarnation: u64_at(bytes, 16)?,
        seq: u64_at(bytes, 24)?,
        durable_seq: u64_at(bytes, 32)?,
        prev_crc: u32_at(bytes, 40)?,
        payload_len: u32_at(bytes, 48)?,
        entries: u32_at(bytes, 52)?,
    };
    let Some(payload) = bytes.get(FRAME_HEADER..header.blocks() * BLOCK) else {
        return Some(Found::BadPayload(header));
    };
    if crc32c(payload) != u32_at(bytes, 44)? {
        return Some(Found::BadPayload(header));
    }
    Some(Found::Frame(header, header_crc))
}
