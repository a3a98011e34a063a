//! One simulated file: what reads see, what is durable, and the changes between the two. Knows nothing of names.

use bytes::Bytes;

use super::super::BLOCK;
use super::fs::Seq;
use super::image::Image;

#[derive(Debug, Clone)]
pub(super) enum FileChange {
    Data {
        block: u64,
        bytes: Bytes,
    },
    /// Several in a row are one change.
    Grow(u64),
}

#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) cache: Image,
    pub(super) durable: Image,
    pub(super) dirty: Vec<(Seq, FileChange)>,
    pub(super) linked: bool,
    pub(super) opens: u32,
}

impl FileNode {
    /// Returns the new length if the file grew.
    pub(super) fn put_in_cache(&mut self, blocks: &[(u64, Bytes)]) -> Option<u64> {
        let before = self.cache.len;
        for (block, bytes) in blocks {
            self.cache.put(*block, bytes.clone());
        }
        (self.cache.len > before).then_some(self.cache.len)
    }

    pub(super) fn put_durably(&mut self, blocks: &[(u64, Bytes)]) {
        let end = blocks.iter().map(|(block, _)| (block + 1) * BLOCK as u64).max().unwrap_or(0);
        if !self.dirty.is_empty() {
            if end > self.durable.len {
                self.settle_length();
            }
            let covered = |block: u64| blocks.iter().any(|(b, _)| *b == block);
            self.dirty.retain(|(_, change)| !matches!(change, FileChange::Data { block, .. } if covered(*block)));
        }
        for (block, bytes) in blocks {
            self.durable.put(*block, bytes.clone());
        }
    }

    /// Cuts off what is behind `len`, durably.
    pub(super) fn shrink(&mut self, len: u64) {
        self.sync(Seq::MAX);
        self.durable.cut(len);
        self.cache.cut(len);
    }

    /// Makes changes older than `before` durable.
    pub(super) fn sync(&mut self, before: Seq) {
        let dirty = std::mem::take(&mut self.dirty);
        for (seq, change) in dirty {
            if seq < before {
                apply(&mut self.durable, &change);
            } else {
                self.dirty.push((seq, change));
            }
        }
    }

    /// What Linux does when write-back fails: the pages are marked clean, so reads still see them, a later sync says
    /// that all is well, and the next power cut loses them.
    pub(super) fn sync_failed(&mut self) {
        self.dirty.retain(|(_, change)| !matches!(change, FileChange::Data { .. }));
    }

    /// The changes that survive become durable, and what is durable is all that is left.
    pub(super) fn power_cut(&mut self, survives: &impl Fn(Seq) -> bool) {
        for (seq, change) in std::mem::take(&mut self.dirty) {
            if survives(seq) {
                apply(&mut self.durable, &change);
            }
        }
        self.cache = self.durable.clone();
        self.opens = 0;
    }

    /// Makes pending changes of the length durable, in order: they are one inode, written as a whole.
    fn settle_length(&mut self) {
        let mut kept: Vec<(Seq, FileChange)> = Vec::new();
        for (seq, change) in std::mem::take(&mut self.dirty) {
            match change {
                FileChange::Data { .. } => kept.push((seq, change)),
                FileChange::Grow(_) => apply(&mut self.durable, &change),
            }
        }
        self.dirty = kept;
    }

    /// Returns how many sequence numbers it used.
    pub(super) fn make_dirty(&mut self, first: Seq, blocks: &[(u64, Bytes)], grew: Option<u64>) -> u64 {
        let mut seq = first;
        for (block, bytes) in blocks {
            self.dirty.push((seq, FileChange::Data { block: *block, bytes: bytes.clone() }));
            seq += 1;
        }
        let Some(len) = grew else { return seq - first };
        let lengths = self.dirty.iter_mut().rev().filter(|(_, c)| !matches!(c, FileChange::Data { .. }));
        if let Some((_, FileChange::Grow(old))) = lengths.into_iter().next() {
            *old = len;
        } else {
            self.dirty.push((seq, FileChange::Grow(len)));
            seq += 1;
        }
        seq - first
    }
}

fn apply(image: &mut Image, change: &FileChange) {
    match change {
        FileChange::Data { block, bytes } => image.put(*block, bytes.clone()),
        FileChange::Grow(len) => image.len = image.len.max(*len),
    }
}
