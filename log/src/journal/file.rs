//! The first block of a journal file: which life of the file this is, and what it continues.
//!
//! Layout, little endian: `0 magic "WHRYJRNL" | 8 crc32c over 12..96 | 12 format u32 | 16 directory id u8[16] | 32 shard u32
//! | 40 generation u64 | 48 incarnation u64 | 56 first sequence u64 | 64 previous frame's header crc u32`, zeros to the block's end.

use uuid::Uuid;
use wherry_wire::batch::crc32c;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::io::AlignedBuf;

const MAGIC: [u8; 8] = *b"WHRYJRNL";
/// Format of the journal that this version writes. 2 added appends that leave a gap, and restarts of a log; a version
/// that does not know them must not take such a file for an older one.
pub const FORMAT: u32 = 2;
/// The oldest format that this version reads.
const OLDEST_FORMAT: u32 = 1;
const CRC_END: usize = 96;

/// Header of a journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Data directory that it belongs to.
    pub directory: Uuid,
    /// Shard that it belongs to.
    pub shard: u32,
    /// Counts the lives of all files of the journal; the order of files is the order of generations.
    pub generation: u64,
    /// Start of the node that began it.
    pub incarnation: u64,
    /// Sequence of its first frame: all below it are in earlier files.
    pub first_seq: u64,
    /// Header crc of the frame before.
    pub prev_crc: u32,
}

impl FileHeader {
    /// The first block.
    #[must_use]
    pub fn encode(&self) -> AlignedBuf {
        let mut block = AlignedBuf::zeroed(1);
        put(&mut block, 0, &MAGIC);
        put(&mut block, 12, &FORMAT.to_le_bytes());
        put(&mut block, 16, self.directory.as_bytes());
        put(&mut block, 32, &self.shard.to_le_bytes());
        put(&mut block, 40, &self.generation.to_le_bytes());
        put(&mut block, 48, &self.incarnation.to_le_bytes());
        put(&mut block, 56, &self.first_seq.to_le_bytes());
        put(&mut block, 64, &self.prev_crc.to_le_bytes());
        let crc = crc32c(block.get(12..CRC_END).unwrap_or_default());
        put(&mut block, 8, &crc.to_le_bytes());
        block
    }

    /// `None` if the block is not an intact header of a known format.
    #[must_use]
    pub fn decode(block: &[u8]) -> Option<Self> {
        if array::<8>(block, 0)? != MAGIC || u32_at(block, 8)? != crc32c(block.get(12..CRC_END)?) {
            return None;
        }
        if !(OLDEST_FORMAT..=FORMAT).contains(&u32_at(block, 12)?) {
            return None;
        }
        Some(Self {
            directory: Uuid::from_bytes(array(block, 16)?),
            shard: u32_at(block, 32)?,
            generation: u64_at(block, 40)?,
            incarnation: u64_at(block, 48)?,
            first_seq: u64_at(block, 56)?,
            prev_crc: u32_at(block, 64)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_before_is_read_and_one_to_come_is_not() {
        let header = FileHeader {
            directory: Uuid::from_u128(1),
            shard: 0,
            generation: 2,
            incarnation: 3,
            first_seq: 4,
            prev_crc: 5,
        };
        for (format, known) in [(0, false), (1, true), (2, true), (3, false)] {
            let mut block = header.encode()[..].to_vec();
            put(&mut block, 12, &u32::to_le_bytes(format));
            let crc = crc32c(&block[12..CRC_END]);
            put(&mut block, 8, &crc.to_le_bytes());
            assert_eq!(FileHeader::decode(&block), known.then_some(header), "format {format}");
        }
    }
}
