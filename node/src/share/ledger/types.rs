//! What the share coordinator is asked, and what it answers.

use std::sync::Arc;

use uuid::Uuid;

use crate::groups::{PersistId, Record, RequestRef};
use crate::share::Span;

/// A group's view of a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
}

/// Who writes, so that a leader of yesterday, or a message that was long on its way, changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Writer {
    /// Of the partition.
    pub(crate) leader_epoch: i32,
    /// Grows with each write and each read of a leader.
    pub(crate) sequence: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// A leader begins: what was kept?
    Read { key: Key, writer: Writer },
    /// Keep this. With `initial` the state is new.
    Write { key: Key, writer: Writer, state_epoch: i32, initial: bool, start: i64, spans: Vec<Span> },
    /// All that is kept for a group.
    Describe { group: Arc<str> },
    /// Begin anew at these offsets.
    Reset { group: Arc<str>, starts: Vec<(Uuid, i32, i64)> },
    /// Forget these topics, or everything.
    Delete { group: Arc<str>, topics: Option<Vec<Uuid>> },
}

impl Request {
    /// The group that it is about: it decides who is asked.
    pub(crate) fn group(&self) -> &str {
        match self {
            Self::Read { key, .. } | Self::Write { key, .. } => &key.group,
            Self::Describe { group } | Self::Reset { group, .. } | Self::Delete { group, .. } => group,
        }
    }
}

/// What is kept of one share-partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Another one after somebody reset it.
    pub(crate) state_epoch: i32,
    pub(crate) start: i64,
    pub(crate) spans: Vec<Span>,
}

/// One line of a description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
    pub(crate) start: i64,
    pub(crate) leader_epoch: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    /// To a read; nothing, if nothing is kept.
    Found(Option<Found>),
    /// It is durable.
    Done,
    Described(Vec<Described>),
    Refused(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The log is still read back.
    Loading,
    /// Not now.
    NotAvailable,
    /// Another node is asked.
    NotCoordinator,
    /// The state was reset or deleted: what the asker knows is no more.
    FencedStateEpoch,
    /// There is a newer leader, or a newer write.
    FencedLeader,
    /// No more share-partitions fit, or a request has more than it may.
    TooMany,
}

impl Refusal {
    pub(crate) const ALL: [Self; 6] = [
        Self::Loading,
        Self::NotAvailable,
        Self::NotCoordinator,
        Self::FencedStateEpoch,
        Self::FencedLeader,
        Self::TooMany,
    ];

    /// Whether the answer may be another one soon.
    pub(crate) const fn may_pass(self) -> bool {
        match self {
            Self::Loading | Self::NotAvailable | Self::NotCoordinator => true,
            Self::FencedStateEpoch | Self::FencedLeader | Self::TooMany => false,
        }
    }
}

/// What the driver must do: as [`crate::groups::Effect`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Reply { request: RequestRef, response: Response },
    Persist { id: PersistId, records: Vec<Record> },
}
