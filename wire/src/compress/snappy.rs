//! snappy: one plain block, as librdkafka, Sarama and franz-go write it, or the xerial framing that the Java client and
//! kafka-python write (magic, two version numbers, then blocks with their lengths). All of them read both; we write the
//! plain form, which is smaller.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Fault, Output};

/// Start of the xerial framing; can't begin a plain block of the length that it would declare.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Magic, version, oldest compatible version.
const XERIAL_HEADER: usize = 16;
/// A block makes at most 64 bytes of three (a copy with a two-byte offset); with a margin.
const MAX_RATIO: usize = 32;

pub(super) fn compress(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    let bound = max_compress_len(bytes.len());
    if bound == 0 {
        return Err("more than the format can hold".to_owned());
    }
    out.resize(start + bound, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    let written = Encoder::new().compress(bytes, target).map_err(|error| error.to_string())?;
    out.truncate(start + written);
    Ok(())
}

pub(super) fn decompress(bytes: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    if bytes.starts_with(XERIAL_MAGIC) {
        let blocks = bytes.get(XERIAL_HEADER..).ok_or(Fault::Corrupt("xerial header cut short"))?;
        return framed(blocks, out);
    }
    block(bytes, out)
}

fn framed(mut rest: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(Fault::Corrupt("block length cut short"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (compressed, after) = after.split_at_checked(length).ok_or(Fault::Corrupt("block cut short"))?;
        block(compressed, out)?;
        rest = after;
    }
    Ok(())
}

fn block(bytes: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
    let declared = decompress_len(bytes).map_err(|_| Fault::Corrupt("no length at the start of a block"))?;
    if declared > out.room() {
        return Err(Fault::TooLarge);
    }
    if declared > bytes.len().saturating_mul(MAX_RATIO) {
        return Err(Fault::Corrupt("declares more than its bytes can hold"));
    }
    let start = out.extend(declared)?;
    let target = out.bytes.get_mut(start..).unwrap_or_default();
    let written = Decoder::new().decompress(bytes, target).map_err(|_| Fault::Corrupt("a block does not decode"))?;
    out.keep(start + written);
    Ok(())
}
