//! lz4 frames, read and written block by block straight into the output.
//!
//! The Java client reads independent blocks only, so those are written; linked ones are read as well. The header checksum
//! is verified, as the Java client does; block and content checksums are stepped over, since the batch's CRC covers them.

use std::cell::RefCell;

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};

use super::{Fault, Output};

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// Version 1, independent blocks, no checksums, no content size.
const WRITTEN_FLAGS: u8 = 0b0110_0000;
/// Blocks of at most 64 KiB, Kafka's default.
const WRITTEN_BLOCK: usize = 64 * 1024;
const WRITTEN_BLOCK_CODE: u8 = 4 << 4;
/// In a block's length: stored, not compressed.
const STORED: u32 = 1 << 31;
/// How far a linked block refers back.
const WINDOW: usize = 64 * 1024;
/// A byte of a match length adds at most 255 bytes; with the shortest sequences on top.
const MAX_RATIO: usize = 255;

thread_local! {
    /// The match finder's table, 16 KiB, once per thread.
    static TABLE: RefCell<CompressTable> = RefCell::new(CompressTable::large());
}

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let descriptor = [WRITTEN_FLAGS, WRITTEN_BLOCK_CODE];
    out.reserve(bytes.len() / 2 + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&descriptor);
    out.push(header_checksum(&descriptor));
    TABLE
        .with_borrow_mut(|table| bytes.chunks(WRITTEN_BLOCK).try_for_each(|block| compress_block(block, table, out)))?;
    out.extend_from_slice(&0_u32.to_le_bytes());
    Ok(())
}

fn compress_block(block: &[u8], table: &mut CompressTable, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let data = start + 4;
    out.resize(data + get_maximum_output_size(block.len()), 0);
    let target = out.get_mut(data..).unwrap_or_default();
    let written = compress_into_with_table(block, target, table).map_err(|error| error.to_string())?;
    let length = if written < block.len() {
        out.truncate(data + written);
        u32::try_from(written).map_err(|error| error.to_string())?
    } else {
        out.truncate(data);
        out.extend_from_slice(block);
        u32::try_from(block.len()).map_err(|error| error.to_string())? | STORED
    };
    if let Some(prefix) = out.get_mut(start..data) {
        prefix.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

/// Second byte of the XXH32 of a frame descriptor (at most 14 bytes, so the short form of the hash will do).
pub(super) fn header_checksum(descriptor: &[u8]) -> u8 {
    const P1: u32 = 2_654_435_761;
    const P2: u32 = 2_246_822_519;
    const P3: u32 = 3_266_489_917;
    const P4: u32 = 668_265_263;
    const P5: u32 = 374_761_393;
    let length = u32::try_from(descriptor.len()).unwrap_or(u32::MAX);
    let (words, tail) = descriptor.as_chunks::<4>();
    let mut hash = P5.wrapping_add(length);
    for word in words {
        hash = hash.wrapping_add(u32::from_le_bytes(*word).wrapping_mul(P3)).rotate_left(17).wrapping_mul(P4);
    }
    for byte in tail {
        hash = hash.wrapping_add(u32::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(P3);
    (hash ^ (hash >> 16)).to_le_bytes()[1]
}

/// What a frame's header says.
struct Frame {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    max_block: usize,
    content_size: Option<u64>,
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, after) = rest.split_at_checked(len).ok_or(Fault::Corrupt("cut short"))?;
    *rest = after;
    Ok(taken)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(Fault::Corrupt("cut short"))?;
    *rest = after;
    Ok(*taken)
}

fn header(rest: &mut &[u8]) -> Result<Frame, Fault> {
    if take_array::<4>(rest)? != MAGIC {
        return Err(Fault::Corrupt("not an lz4 frame"));
    }
    let descriptor = *rest;
    let [flags, block] = take_array::<2>(rest)?;
    if flags >> 6 != 1 {
        return Err(Fault::Corrupt("unknown frame version"));
    }
    if flags & 1 != 0 {
        return Err(Fault::Corrupt("needs a dictionary"));
    }
    let content_size = if flags & 8 != 0 { Some(u64::from_le_bytes(take_array(rest)?)) } else { None };
    let covered = descriptor.get(..descriptor.len() - rest.len()).unwrap_or_default();
    let [checksum] = take_array::<1>(rest)?;
    if checksum != header_checksum(covered) {
        return Err(Fault::Corrupt("header checksum"));
    }
    let max_block = match (block >> 4) & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err(Fault::Corrupt("unknown block size")),
    };
    Ok(Frame {
        linked: flags & 0x20 == 0,
        block_checksums: flags & 0x10 != 0,
        content_checksum: flags & 4 != 0,
        max_block,
        content_size,
    })
}

pub(super) fn decompress(bytes: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    let mut rest = bytes;
    loop {
        frame(&mut rest, out)?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn frame(rest: &mut &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    let frame = header(rest)?;
    let start = out.bytes.len();
    let likely = frame.content_size.map_or(rest.len().saturating_mul(3), |s| usize::try_from(s).unwrap_or(usize::MAX));
    out.reserve(likely.min(rest.len().saturating_mul(MAX_RATIO)).min(out.room()))?;
    loop {
        let length = u32::from_le_bytes(take_array(rest)?);
        if length == 0 {
            break;
        }
        let len = usize::try_from(length & !STORED).unwrap_or(usize::MAX);
        if len > frame.max_block {
            return Err(Fault::Corrupt("a block larger than the frame's maximum"));
        }
        let block = take(rest, len)?;
        if length & STORED != 0 {
            out.append(block)?;
        } else {
            decompress_block(block, &frame, start, out)?;
        }
        if frame.block_checksums {
            take(rest, 4)?;
        }
    }
    if frame.content_checksum {
        take(rest, 4)?;
    }
    match frame.content_size {
        Some(size) if usize::try_from(size) != Ok(out.bytes.len() - start) => {
            Err(Fault::Corrupt("content is not as long as the frame says"))
        }
        _ => Ok(()),
    }
}

fn decompress_block(block: &[u8], frame: &Frame, frame_start: usize, out: &mut Output<'_>) -> Result<(), Fault> {
    let possible = frame.max_block.min(block.len().saturating_mul(MAX_RATIO).saturating_add(64));
    let room = possible.min(out.room());
    let start = out.extend(room)?;
    let (before, target) = out.bytes.split_at_mut(start);
    let written = if frame.linked {
        let window = before.get(frame_start.max(start.saturating_sub(WINDOW))..).unwrap_or_default();
        decompress_into_with_dict(block, target, window)
    } else {
        decompress_into(block, target)
    };
    match written {
        Ok(written) => {
            out.keep(start + written);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if room < possible => Err(Fault::TooLarge),
        Err(_) => Err(Fault::Corrupt("a block does not decode")),
    }
}
