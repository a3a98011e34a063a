//! Segments: where a log's batches rest after the journal. One file per segment, all in one directory, named by log,
//! base offset and version.

pub mod chunk;

use std::path::PathBuf;

use wherry_wire::types::{LogId, Offset};

pub use chunk::{ChunkRef, StoredBatch};

/// Directory of all segments, below the shard's directory.
pub const DIRECTORY: &str = "segments";

/// Names a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentKey {
    /// The log.
    pub log: LogId,
    /// First offset that it may hold.
    pub base: Offset,
    /// Tells files apart that begin at the same offset (after a truncation, a compaction): no two files that were ever
    /// made in a data directory share it.
    pub version: u32,
}

impl SegmentKey {
    /// Path below the shard's directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path_in(DIRECTORY)
    }

    /// The same in another directory.
    pub(crate) fn path_in(&self, directory: &str) -> PathBuf {
        PathBuf::from(directory).join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("{}-{}-{:020}-{}.seg", self.log.topic, self.log.partition, self.base.0, self.version)
    }

    /// The inverse of the file name; `None` for foreign files.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".seg")?;
        let (topic, rest) = stem.split_at_checked(36)?;
        let mut parts = rest.strip_prefix('-')?.split('-');
        let key = Self {
            log: LogId { topic: topic.parse().ok()?, partition: parts.next()?.parse().ok()? },
            base: Offset(parts.next()?.parse().ok()?),
            version: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && key.file_name() == name).then_some(key)
    }
}

/// One segment as the engine knows it. Its chunk list is loaded when it is first read.
#[derive(Debug, Clone)]
pub struct Segment {
    /// First offset that it may hold.
    pub base: Offset,
    /// See [`SegmentKey::version`].
    pub version: u32,
    /// Bytes of the file that hold chunks.
    pub bytes: u64,
    /// Offset after its last record.
    pub end: Offset,
    /// Largest record timestamp, milliseconds; `i64::MIN` while empty.
    pub max_timestamp: i64,
    /// Wall clock when it was begun, milliseconds.
    pub created_ms: i64,
    /// Made by compaction, and not due for another one until enough has come after it.
    pub compacted: bool,
    /// A transaction that was open where it begins began here or above.
    pub open_from: Offset,
    /// Its file was not there at start: right if its records turn out to be deleted, damage otherwise. Never written to.
    pub missing: bool,
    /// Chunks in order, without overlaps; `None` until loaded.
    pub chunks: Option<Vec<ChunkRef>>,
}

impl Segment {
    /// An empty one.
    #[must_use]
    pub fn new(base: Offset, open_from: Offset, version: u32, now_ms: i64) -> Self {
        Self {
            base,
            version,
            bytes: 0,
            end: base,
            max_timestamp: i64::MIN,
            created_ms: now_ms,
            compacted: false,
            open_from,
            missing: false,
            chunks: Some(Vec::new()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn key(&self, log: LogId) -> SegmentKey {
        SegmentKey { log, base: self.base, version: self.version }
    }

    /// Drops what lies at and above `end`; the bytes stay until a later chunk cuts them.
    pub fn cut(&mut self, end: Offset) {
        self.end = self.end.min(end);
        if let Some(chunks) = &mut self.chunks {
            chunk::cut(chunks, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let key =
            SegmentKey { log: LogId { topic: uuid::Uuid::from_u128(7), partition: 12 }, base: Offset(345), version: 2 };
        let name = key.path().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(SegmentKey::parse(&name), Some(key));
        for bad in ["", "x.seg", "00000000-0000-0000-0000-000000000007-1-2-3-4.seg", &name.replace("345", "+345")] {
            assert_eq!(SegmentKey::parse(bad), None, "{bad}");
        }
    }
}
