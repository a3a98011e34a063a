//! zstd frames (RFC 8878).
//!
//! A frame is decompressed in one call into an output of known bound, so that no window is allocated: a frame of 20 bytes
//! may declare one of gigabytes. Where a frame does not say its size (the Java client streams), its block headers bound it.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

use super::{Fault, Output};

const MAGIC: u32 = 0xFD2F_B528;
/// Skippable frames: sixteen magics, told by their upper 28 bits.
const SKIPPABLE: u32 = 0x184D_2A50;
/// No block regenerates more.
const MAX_BLOCK: u64 = 128 * 1024;

thread_local! {
    /// Contexts hold tables that are dear to make: about 160 KiB to read.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    /// About 1 MiB to write, at the default level. With the level that it is set to.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
}

pub(super) fn levels() -> std::ops::RangeInclusive<i32> {
    zstd::compression_level_range()
}

pub(super) fn compress(level: Option<i32>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
    let start = out.len();
    out.resize(start + zstd::zstd_safe::compress_bound(bytes.len()), 0);
    let target = out.get_mut(start..).unwrap_or_default();
    let written = with_compressor(level, |compressor| compressor.compress_to_buffer(bytes, target))
        .map_err(|error| error.to_string())?;
    out.truncate(start + written);
    Ok(())
}

fn with_compressor<T>(
    level: i32,
    work: impl FnOnce(&mut Compressor<'static>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let (_, mut compressor) = match slot.take() {
            Some((held, compressor)) if held == level => (held, compressor),
            _ => (level, Compressor::new(level)?),
        };
        let done = work(&mut compressor)?;
        *slot = Some((level, compressor));
        Ok(done)
    })
}

pub(super) fn decompress(bytes: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    let bound = bound(bytes)?;
    let exact_is_too_large = bound.least > u64::try_from(out.room()).unwrap_or(u64::MAX);
    if exact_is_too_large {
        return Err(Fault::TooLarge);
    }
    let room = usize::try_from(bound.most).unwrap_or(usize::MAX).min(out.room());
    out.bytes.reserve_exact(room);
    let written = DECOMPRESSOR.with_borrow_mut(|slot| {
        let mut context = match slot.take() {
            Some(context) => context,
            None => Decompressor::new().map_err(|_| Fault::Corrupt("no memory for a context"))?,
        };
        // A context that failed is not used again.
        let written = context.decompress_to_buffer(bytes, out.bytes).map_err(|_| Fault::Corrupt("does not decode"));
        if written.is_ok() {
            *slot = Some(context);
        }
        written
    });
    match written {
        // Memory that is used again may hold more than is allowed now.
        Ok(written) if written > out.limit => Err(Fault::TooLarge),
        Ok(_) => Ok(()),
        Err(_) if bound.most > u64::try_from(room).unwrap_or(u64::MAX) => Err(Fault::TooLarge),
        Err(fault) => Err(fault),
    }
}

/// How much some frames decompress to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bound {
    /// Not less, if they are sound.
    least: u64,
    /// Not more.
    most: u64,
}

fn cut<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Fault> {
    let (taken, after) = rest.split_at_checked(len).ok_or(Fault::Corrupt("cut short"))?;
    *rest = after;
    Ok(taken)
}

/// Little endian, at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Walks the headers of all frames and blocks.
fn bound(mut rest: &[u8]) -> Result<Bound, Fault> {
    let mut sum = Bound::default();
    while !rest.is_empty() {
        let magic = u32::try_from(number(cut(&mut rest, 4)?)).unwrap_or(0);
        if magic & !0xF == SKIPPABLE {
            let length = number(cut(&mut rest, 4)?);
            cut(&mut rest, usize::try_from(length).unwrap_or(usize::MAX))?;
        } else if magic == MAGIC {
            let one = frame_bound(&mut rest)?;
            sum.least = sum.least.saturating_add(one.least);
            sum.most = sum.most.saturating_add(one.most);
        } else {
            return Err(Fault::Corrupt("not a zstd frame"));
        }
    }
    Ok(sum)
}

fn frame_bound(rest: &mut &[u8]) -> Result<Bound, Fault> {
    let descriptor = number(cut(rest, 1)?);
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        cut(rest, 1)?; // The window: never allocated.
    }
    cut(rest, [0, 1, 2, 4].get(usize::try_from(descriptor & 3).unwrap_or(0)).copied().unwrap_or(0))?;
    let declared = match (descriptor >> 6, single_segment) {
        (0, false) => None,
        (0, true) => Some(number(cut(rest, 1)?)),
        (1, _) => Some(number(cut(rest, 2)?) + 256),
        (2, _) => Some(number(cut(rest, 4)?)),
        _ => Some(number(cut(rest, 8)?)),
    };
    let blocks = blocks_bound(rest)?;
    if descriptor & 4 != 0 {
        cut(rest, 4)?;
    }
    match declared {
        Some(size) if size > blocks => Err(Fault::Corrupt("declares more than its blocks can hold")),
        Some(size) => Ok(Bound { least: size, most: size }),
        None => Ok(Bound { least: 0, most: blocks }),
    }
}

fn blocks_bound(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut sum = 0_u64;
    loop {
        let header = number(cut(rest, 3)?);
        let size = header >> 3;
        let (stored, regenerated) = match (header >> 1) & 3 {
            0 => (size, size),
            1 => (1, size),
            2 => (size, MAX_BLOCK),
            _ => return Err(Fault::Corrupt("unknown block type")),
        };
        cut(rest, usize::try_from(stored).unwrap_or(usize::MAX))?;
        sum = sum.saturating_add(regenerated);
        if header & 1 != 0 {
            return Ok(sum);
        }
    }
}
