//! What a simulated file holds: a length and its 4 KiB blocks. Knows nothing of durability or names.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::super::BLOCK;

const BLOCK_U64: u64 = BLOCK as u64;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A file's content. A block that is not there reads as zeros.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) len: u64,
    pub(super) blocks: BTreeMap<u64, Bytes>,
}

impl Image {
    /// Puts one block and grows the file to cover it.
    pub(super) fn put(&mut self, block: u64, bytes: Bytes) {
        self.blocks.insert(block, bytes);
        self.len = self.len.max((block + 1) * BLOCK_U64);
    }

    /// Cuts off what is behind `len`, a multiple of the block.
    pub(super) fn cut(&mut self, len: u64) {
        self.len = self.len.min(len);
        self.blocks.split_off(&len.div_ceil(BLOCK_U64));
    }

    /// Up to `len` bytes from a block boundary; fewer at the end of the file.
    pub(super) fn read(&self, offset: u64, len: usize) -> Bytes {
        let available = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = len.min(available);
        let mut out = BytesMut::with_capacity(wanted);
        let mut block = offset / BLOCK_U64;
        while out.len() < wanted {
            let take = (wanted - out.len()).min(BLOCK);
            let bytes = self.blocks.get(&block).map_or(&ZEROS[..], |b| b.as_ref());
            out.extend_from_slice(&bytes[..take]);
            block += 1;
        }
        out.freeze()
    }

    /// Inverts one bit. False where the file has no such byte.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        if offset >= self.len {
            return false;
        }
        let index = offset / BLOCK_U64;
        let old = self.blocks.get(&index).map_or(&ZEROS[..], |b| b.as_ref());
        let mut changed = BytesMut::from(old);
        let at = usize::try_from(offset % BLOCK_U64).unwrap_or(0);
        changed[at] ^= 1 << (bit % 8);
        self.blocks.insert(index, changed.freeze());
        true
    }
}

/// Cuts a write into blocks. One copy for the whole write, none for zeros, so that a pre-written journal costs nothing.
pub(super) fn cut_into_blocks(offset: u64, data: &[u8]) -> Vec<(u64, Bytes)> {
    let first = offset / BLOCK_U64;
    let owned = if data.iter().all(|b| *b == 0) { None } else { Some(Bytes::copy_from_slice(data)) };
    (0..data.len() / BLOCK)
        .map(|i| {
            let bytes = match &owned {
                Some(owned) => owned.slice(i * BLOCK..(i + 1) * BLOCK),
                None => Bytes::from_static(&ZEROS),
            };
            (first + i as u64, bytes)
        })
        .collect()
}
