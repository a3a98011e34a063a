//! What replication needs of the log engine: a part of [`crate::core::store::LogStore`].

use wherry_wire::batch::CheckedBatch;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

pub use crate::core::store::{Appended, LogError, LogInfo, Now, Read, ReadToken, Served, Ticket};

/// How far a read may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadUpTo {
    /// To the durable end.
    Durable,
    /// To the end of what is in a journal frame, durable or not: for followers, so that their writes overlap the leader's.
    Sealed,
}

/// The logs of one shard, as replication sees them.
pub trait ReplicaStore {
    /// Where a log begins and ends. `durable_end` MUST only cover records that a crash can't lose.
    fn info(&self, id: LogId) -> Option<LogInfo>;

    /// Whole batches from the one that holds `from` on, about `max_bytes` of them; with `min_one` at least one. MUST be
    /// empty where nothing (more) may be read yet.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`], [`LogError::Corrupt`], [`LogError::Busy`].
    fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError>;

    /// Appends batches as the leader has them, offsets and epochs included. The first MUST NOT begin below the log's end.
    ///
    /// # Errors
    /// Nothing was appended then; [`LogError::Busy`] and [`LogError::Full`] may be tried again.
    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError>;

    /// Drops the records at and above `to`, in order with appends, also after a crash.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`].
    fn truncate(&mut self, id: LogId, to: Offset) -> Result<Ticket, LogError>;

    /// Drops all records; the next one gets the offset `start`, which MAY lie below the log's start.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError>;

    /// Raises the log's start, to its durable end at the most.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`].
    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError>;

    /// The largest epoch not above `epoch` that has records, and where it ends.
    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;
}
