//! The numbers of the protocol, each its own type: no arithmetic between different ones.

use std::fmt;

use uuid::Uuid;

/// Position of a record in a partition's log; the first is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset(pub i64);

impl Offset {
    /// The first offset of a log.
    pub const ZERO: Self = Self(0);

    /// The offset `count` records later; `None` on overflow or a negative count.
    #[must_use]
    pub fn checked_add(self, count: i64) -> Option<Self> {
        if count < 0 { None } else { self.0.checked_add(count).map(Self) }
    }

    /// Records from `earlier` to this one; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the leaderships of a partition (KIP-101).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LeaderEpoch(pub i32);

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of an idempotent producer (KIP-98); -1 on the wire means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub i64);

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A partition's log, known by topic id, never by name: a topic that is deleted and made again is another log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId {
    /// Id of the topic.
    pub topic: Uuid,
    /// Index of the partition, from 0.
    pub partition: i32,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}
