//! gzip: one or more members (RFC 1952).

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{Fault, Output};

/// A deflate stream makes at most 1032 bytes of one (258 bytes for two bits).
const MAX_RATIO: usize = 1032;
/// How much is asked of the decoder at once, at least.
const STEP: usize = 8 * 1024;

pub(super) fn compress(level: Option<i32>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let level = level.and_then(|l| u32::try_from(l).ok()).map_or_else(Compression::default, Compression::new);
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(bytes).and_then(|()| encoder.finish().map(drop)).map_err(|error| error.to_string())
}

/// What the last member says of its size (modulo 2^32): a hint for the first allocation, held to what is possible.
fn hint(bytes: &[u8], room: usize) -> usize {
    let said = bytes.last_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b));
    usize::try_from(said).unwrap_or(0).min(bytes.len().saturating_mul(MAX_RATIO)).min(room)
}

pub(super) fn decompress(bytes: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    let mut decoder = MultiGzDecoder::new(bytes);
    out.reserve(hint(bytes, out.room()))?;
    loop {
        let spare = out.bytes.capacity().min(out.limit).saturating_sub(out.bytes.len());
        let step = spare.max(STEP).min(out.room());
        if step == 0 {
            return end(&mut decoder);
        }
        let start = out.extend(step)?;
        let read = fill(&mut decoder, out.bytes.get_mut(start..).unwrap_or_default())?;
        out.keep(start + read);
        if read < step {
            return Ok(());
        }
    }
}

/// At the bound there may be nothing more.
fn end(decoder: &mut impl Read) -> Result<(), Fault> {
    match fill(decoder, &mut [0])? {
        0 => Ok(()),
        _ => Err(Fault::TooLarge),
    }
}

/// Reads until `to` is full or the stream has ended.
fn fill(decoder: &mut impl Read, to: &mut [u8]) -> Result<usize, Fault> {
    let mut at = 0;
    while at < to.len() {
        let rest = to.get_mut(at..).unwrap_or_default();
        match decoder.read(rest).map_err(|_| Fault::Corrupt("not a gzip stream, or cut short"))? {
            0 => break,
            read => at += read,
        }
    }
    Ok(at)
}
