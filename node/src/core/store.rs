//! The seam to the log engine: what the core needs of it. `wherry_log::Engine` is the production implementation; the
//! core's own tests use one in memory.
//!
//! Contract: single-threaded; nothing blocks but [`LogStore::wait`]; an append is visible to `read` when it is durable;
//! tickets grow, and `Event::Durable(t)` says that everything up to `t` is on stable storage (INV-1).

use wherry_wire::batch::CheckedBatch;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

pub use wherry_log::io::{BLOCK, Disk};
pub use wherry_log::{
    Appended, Cleanup, Engine, EngineConfig, EngineStats, Event, LogConfig, LogError, LogInfo, Lookup, Now, OpenError,
    Read, ReadToken, Served, Ticket,
};

/// The logs of one shard.
pub trait LogStore {
    /// Makes an empty log.
    ///
    /// # Errors
    /// [`LogError::Exists`], or the engine is read-only.
    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError>;

    /// Removes a log and its data.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], or the engine is read-only.
    fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError>;

    /// Sets what is done with a log from now on; the store does not remember it over a restart.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError>;

    /// Appends whole batches in order; checks idempotent producers.
    ///
    /// # Errors
    /// See [`LogError`]; nothing was appended then. [`LogError::Busy`] is over at [`Event::Room`].
    fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError>;

    /// As [`LogStore::append`], when the disk is too full for data as well: for the node's own logs (rule 6).
    ///
    /// # Errors
    /// See [`LogStore::append`]; never [`LogError::Full`].
    fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError>;

    /// Raises the log's start; earlier records are gone.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`].
    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError>;

    /// Where a log begins and ends.
    fn info(&self, id: LogId) -> Option<LogInfo>;

    /// Whole durable batches from the one that holds `from` on, about `max_bytes` of them; with `min_one` at least one.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`], [`LogError::Corrupt`], [`LogError::Busy`].
    fn read(&mut self, id: LogId, from: Offset, max_bytes: usize, min_one: bool) -> Result<Read, LogError>;

    /// The first durable record at or after a time in milliseconds: its offset and timestamp.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64) -> Result<Lookup, LogError>;

    /// The record with the largest timestamp (KIP-734): its offset and timestamp.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    fn find_max_timestamp(&mut self, id: LogId) -> Result<Lookup, LogError>;

    /// The largest epoch not above `epoch` that has records, and where it ends.
    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;

    /// The epoch of the batch at an offset.
    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch>;

    /// All logs that exist.
    fn logs(&self) -> Vec<LogId>;

    /// Takes what the disk completed, starts what is due.
    fn turn(&mut self, now: Now);

    /// Blocks until the disk completed something, then takes it. Only while a node starts or stops.
    fn wait(&mut self, now: Now);

    /// Moves what happened since the last call to `out`.
    fn events(&mut self, out: &mut Vec<Event>);

    /// When `turn` must be called at the latest, in monotonic nanoseconds.
    fn next_deadline(&self) -> Option<u64>;

    /// Counters and gauges.
    fn stats(&self) -> EngineStats;

    /// Writes out everything and marks the end as clean.
    ///
    /// # Errors
    /// The disk's.
    fn close(&mut self, now: Now) -> Result<(), LogError>;
}

impl<D: Disk> LogStore for Engine<D> {
    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        Engine::create_log(self, id, config)
    }

    fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError> {
        Engine::delete_log(self, id)
    }

    fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError> {
        Engine::configure(self, id, config)
    }

    fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        Engine::append(self, id, batches, epoch, now_ms)
    }

    fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        Engine::append_reserved(self, id, batches, epoch, now_ms)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        Engine::delete_records(self, id, before)
    }

    fn info(&self, id: LogId) -> Option<LogInfo> {
        Engine::info(self, id)
    }

    fn read(&mut self, id: LogId, from: Offset, max_bytes: usize, min_one: bool) -> Result<Read, LogError> {
        Engine::read(self, id, from, max_bytes, min_one)
    }

    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64) -> Result<Lookup, LogError> {
        Engine::find_offset_by_time(self, id, timestamp_ms)
    }

    fn find_max_timestamp(&mut self, id: LogId) -> Result<Lookup, LogError> {
        Engine::find_max_timestamp(self, id)
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        Engine::epoch_end(self, id, epoch)
    }

    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch> {
        Engine::epoch_at(self, id, offset)
    }

    fn logs(&self) -> Vec<LogId> {
        Engine::logs(self)
    }

    fn turn(&mut self, now: Now) {
        Engine::turn(self, now);
    }

    fn wait(&mut self, now: Now) {
        Engine::turn(self, now);
        self.wait_some();
        Engine::turn(self, now);
    }

    fn events(&mut self, out: &mut Vec<Event>) {
        out.extend(Engine::events(self));
    }

    fn next_deadline(&self) -> Option<u64> {
        Engine::next_deadline(self)
    }

    fn stats(&self) -> EngineStats {
        Engine::stats(self)
    }

    fn close(&mut self, now: Now) -> Result<(), LogError> {
        Engine::close(self, now)
    }
}
