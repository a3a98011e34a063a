//! What changes a consumer group: each is one record, and the latest of a key wins.

use std::sync::Arc;

use super::current::Current;
use super::state::{Meta, Parts, Resolved};

/// `None`: a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::groups) enum Fact {
    /// The group's epoch, and the hash of its topics.
    Epoch(Option<(i32, i64)>),
    /// The topics, as Kafka wrote them before 4.1. Read and skipped.
    PartitionMetadata,
    /// A member.
    Member(Arc<str>, Option<Arc<Meta>>),
    /// The epoch of the targets, and when they were made.
    TargetEpoch(Option<(i32, i64)>),
    /// What a member is to have.
    Target(Arc<str>, Option<Arc<Parts>>),
    /// What a member has.
    Current(Arc<str>, Option<Arc<Current>>),
    /// The topics of a regular expression.
    Regex(Arc<str>, Option<Arc<Resolved>>),
}

impl Fact {
    /// Whether it ends a record.
    pub(in crate::groups) fn is_tombstone(&self) -> bool {
        match self {
            Self::Epoch(value) | Self::TargetEpoch(value) => value.is_none(),
            Self::PartitionMetadata => true,
            Self::Member(_, value) => value.is_none(),
            Self::Target(_, value) => value.is_none(),
            Self::Current(_, value) => value.is_none(),
            Self::Regex(_, value) => value.is_none(),
        }
    }
}
