//! Compression of record batches, and decompression that a hostile peer can't turn into memory (INV-8).
//!
//! It knows the formats as Kafka's clients write them: gzip members, snappy (plain, and in the xerial framing of the Java
//! client), lz4 frames with independent blocks, zstd frames. It knows nothing of batches.
//!
//! Every decompressor ends in [`DecompressError::TooLarge`] at the caller's bound, and takes at most
//! [`DECOMPRESSOR_WORKSPACE_BYTES`](crate::limits::DECOMPRESSOR_WORKSPACE_BYTES) beside the output, which never has more
//! capacity than the bound.

mod gzip;
mod lz4;
mod snappy;
#[cfg(test)]
mod tests;
mod zstd;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

/// How the records of a batch are compressed: the low three bits of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Written plain; read plain and in the xerial framing.
    Snappy,
    /// The lz4 frame format, independent blocks of 64 KiB.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// All of them, in the order of their ids.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec that a batch's attributes name; `None` for an id that is not assigned.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// Its id in a batch's attributes.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// As Kafka's `compression.type` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Levels that [`compress`] takes; `None` where the codec has none (a level is then ignored).
    #[must_use]
    pub fn levels(self) -> Option<std::ops::RangeInclusive<i32>> {
        match self {
            Self::Gzip => Some(1..=9),
            Self::Zstd => Some(zstd::levels()),
            Self::None | Self::Snappy | Self::Lz4 => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no codec's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?}: use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCodec(pub String);

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| UnknownCodec(name.to_owned()))
    }
}

/// Why bytes can't be compressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// Outside [`Codec::levels`].
    #[error("{codec} has no compression level {level}")]
    Level {
        /// The codec.
        codec: Codec,
        /// What was asked for.
        level: i32,
    },
    /// The codec refused: too much for its format, or no memory for its tables.
    #[error("{codec} can't compress {len} bytes: {why}")]
    Refused {
        /// The codec.
        codec: Codec,
        /// Size of the input in bytes.
        len: usize,
        /// The codec's own words.
        why: String,
    },
}

/// Why compressed bytes are not decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// More than the caller allows.
    #[error("{codec} data decompresses to more than {limit} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The bound in bytes.
        limit: usize,
    },
    /// Not what the codec writes.
    #[error("corrupt {codec} data: {what}")]
    Corrupt {
        /// The codec.
        codec: Codec,
        /// What is wrong.
        what: &'static str,
    },
}

/// Compresses `bytes`; a `level` of `None` is the codec's own default.
///
/// # Errors
/// [`CompressError`].
pub fn compress(codec: Codec, level: Option<i32>, bytes: &[u8]) -> Result<Vec<u8>, CompressError> {
    let mut out = Vec::new();
    compress_into(codec, level, bytes, &mut out)?;
    Ok(out)
}

/// As [`compress`], appending to `out`. On an error `out` holds what it held before.
///
/// # Errors
/// [`CompressError`].
pub fn compress_into(codec: Codec, level: Option<i32>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
    if let (Some(level), Some(levels)) = (level, codec.levels())
        && !levels.contains(&level)
    {
        return Err(CompressError::Level { codec, level });
    }
    let start = out.len();
    let done = match codec {
        Codec::None => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        Codec::Gzip => gzip::compress(level, bytes, out),
        Codec::Snappy => snappy::compress(bytes, out),
        Codec::Lz4 => lz4::compress(bytes, out),
        Codec::Zstd => zstd::compress(level, bytes, out),
    };
    done.map_err(|why| {
        out.truncate(start);
        CompressError::Refused { codec, len: bytes.len(), why }
    })
}

/// Decompresses `bytes` to at most `max_len` bytes.
///
/// # Errors
/// [`DecompressError`].
pub fn decompress(codec: Codec, bytes: &[u8], max_len: usize) -> Result<Bytes, DecompressError> {
    let mut out = Vec::new();
    decompress_into(codec, bytes, max_len, &mut out)?;
    Ok(Bytes::from(out))
}

/// As [`decompress`], replacing what `out` holds; its memory is used again. On an error its contents are unspecified.
///
/// # Errors
/// [`DecompressError`].
pub fn decompress_into(codec: Codec, bytes: &[u8], max_len: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    out.clear();
    let mut output = Output { bytes: out, limit: max_len };
    let done = match codec {
        Codec::None => output.append(bytes),
        Codec::Gzip => gzip::decompress(bytes, &mut output),
        Codec::Snappy => snappy::decompress(bytes, &mut output),
        Codec::Lz4 => lz4::decompress(bytes, &mut output),
        Codec::Zstd => zstd::decompress(bytes, &mut output),
    };
    done.map_err(|fault| match fault {
        Fault::TooLarge => DecompressError::TooLarge { codec, limit: max_len },
        Fault::Corrupt(what) => DecompressError::Corrupt { codec, what },
    })
}

/// What a decompressor reports; the codec's name is added outside.
#[derive(Debug)]
enum Fault {
    TooLarge,
    Corrupt(&'static str),
}

/// Bounded output: its capacity never grows beyond the limit.
struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    limit: usize,
}

impl Output<'_> {
    /// Bytes that may still be written.
    fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }

    /// Makes room for `more` bytes, growing geometrically up to the limit, so that the total work stays linear.
    fn reserve(&mut self, more: usize) -> Result<(), Fault> {
        if more > self.room() {
            return Err(Fault::TooLarge);
        }
        let need = self.bytes.len() + more;
        if need > self.bytes.capacity() {
            let target = need.max(self.bytes.capacity().saturating_mul(2)).min(self.limit);
            self.bytes.reserve_exact(target - self.bytes.len());
        }
        Ok(())
    }

    /// Zeroed bytes after what is written; the caller fills them and says with [`Output::keep`] how many are real.
    fn extend(&mut self, more: usize) -> Result<usize, Fault> {
        self.reserve(more)?;
        let start = self.bytes.len();
        self.bytes.resize(start + more, 0);
        Ok(start)
    }

    /// Cuts back to what was really written.
    fn keep(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.reserve(bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}
