//! The seam to the log engine: what the core needs of it. `wherry_log::Engine` is the production implementation; the
//! core's own tests use one in memory.
//!
//! Contract: single-threaded; nothing blocks but [`LogStore::wait`]; how far a reader may see is for the caller to say;
//! tickets grow, and `Event::Durable(t)` says that everything up to `t` is on stable storage (INV-1).

use uuid::Uuid;
use wherry_wire::batch::CheckedBatch;
use wherry_wire::records::EndMarker;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

pub use wherry_log::io::{BLOCK, Disk};
pub use wherry_log::{
    Aborted, Appended, Cleanup, Engine, EngineConfig, EngineStats, Event, LogConfig, LogError, LogInfo, Lookup, Now,
    OpenError, ProducerInfo, Read, ReadToken, ReadUpTo, Served, Ticket,
};

/// The logs of one shard.
pub trait LogStore {
    /// Names the data directory: another one after the disk was replaced.
    fn directory(&self) -> Uuid;

    /// Makes an empty log.
    ///
    /// # Errors
    /// [`LogError::Exists`], or the engine is read-only.
    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError>;

    /// Makes an empty log that begins at `start`.
    ///
    /// # Errors
    /// As [`LogStore::create_log`]; [`LogError::OutOfRange`] for a negative start.
    fn create_log_at(&mut self, id: LogId, config: LogConfig, start: Offset) -> Result<Ticket, LogError>;

    /// Throws away everything in a log, damage included, and goes on at `start` without epochs or producers. A crash
    /// leaves the old log or the new one. Reads under way end with [`LogError::OutOfRange`].
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`], [`LogError::OutOfRange`]; [`LogError::Corrupt`] after a failed write (INV-5).
    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError>;

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

    /// Ends a producer's transaction in a log, and fences its older epochs. A `strict` marker (transaction.version 2) must have
    /// a newer epoch than all that the producer wrote, unless it repeats the newest marker.
    ///
    /// # Errors
    /// As [`LogStore::append_reserved`]; [`LogError::CoordinatorFenced`].
    fn append_marker(
        &mut self,
        id: LogId,
        marker: &EndMarker,
        strict: bool,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError>;

    /// The last stable offset of a log whose readers may see up to `upto`: below it every transaction has ended. Moves with
    /// `upto`; beside that only with [`Event::StableMoved`].
    fn stable_end(&self, id: LogId, upto: Offset) -> Offset;

    /// What a log knows of a producer.
    fn producer(&self, id: LogId, producer_id: i64) -> Option<ProducerInfo>;

    /// The producers that a log knows, by id.
    fn producers(&self, id: LogId) -> Vec<ProducerInfo>;

    /// Appends batches as the leader stored them: at their own offsets and epochs. An offset above the log's end leaves a
    /// gap. Producers are remembered, not checked.
    ///
    /// # Errors
    /// As [`LogStore::append`]; [`LogError::OutOfRange`] below the end, [`LogError::StaleEpoch`] for an epoch before the
    /// newest.
    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError>;

    /// Drops the records at and above `to` (which is where a batch begins), and gives the log's new end. Later appends
    /// come after it, on disk too.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`].
    fn truncate(&mut self, id: LogId, to: Offset) -> Result<(Ticket, Offset), LogError>;

    /// Asks for `Event::Sealed` whenever batches of this log can be read with [`ReadUpTo::Sealed`], or no longer.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    fn watch_sealed(&mut self, id: LogId, watch: bool) -> Result<(), LogError>;

    /// Records from `end` on may still be truncated: compaction and retention leave them alone. Not remembered over a
    /// restart.
    ///
    /// # Errors
    /// [`LogError::NoSuchLog`].
    fn set_settled_end(&mut self, id: LogId, end: Offset) -> Result<(), LogError>;

    /// Raises the log's start; earlier records are gone.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], [`LogError::NoSuchLog`].
    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError>;

    /// Where a log begins and ends.
    fn info(&self, id: LogId) -> Option<LogInfo>;

    /// Whole batches from the one that holds `from` on, or the next, about `max_bytes` of them; with `min_one` at least
    /// one. One that crosses `upto` is left out.
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

    /// The first record at or after a time in milliseconds, in batches wholly below `upto`: its offset and timestamp.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64, upto: Offset) -> Result<Lookup, LogError>;

    /// The record with the largest timestamp (KIP-734), in batches wholly below `upto`: its offset and timestamp.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    fn find_max_timestamp(&mut self, id: LogId, upto: Offset) -> Result<Lookup, LogError>;

    /// The largest epoch not above `epoch` that has records, and where it ends: at the next one that has, or at the log's
    /// end (KIP-101).
    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)>;

    /// The epoch of the batch at an offset.
    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch>;

    /// Whether the log has this very batch already, as far as it remembers its producer's last ones.
    fn has_batch(&self, id: LogId, batch: &CheckedBatch) -> bool;

    /// Whether the log remembers batches of this idempotent producer.
    fn knows_producer(&self, id: LogId, producer_id: i64) -> bool;

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
    fn directory(&self) -> Uuid {
        Engine::directory(self)
    }

    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        Engine::create_log(self, id, config)
    }

    fn create_log_at(&mut self, id: LogId, config: LogConfig, start: Offset) -> Result<Ticket, LogError> {
        Engine::create_log_at(self, id, config, start)
    }

    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        Engine::restart_log_at(self, id, start)
    }

    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError> {
        Engine::append_replica(self, id, batches, now_ms)
    }

    fn truncate(&mut self, id: LogId, to: Offset) -> Result<(Ticket, Offset), LogError> {
        Engine::truncate(self, id, to)
    }

    fn watch_sealed(&mut self, id: LogId, watch: bool) -> Result<(), LogError> {
        Engine::watch_sealed(self, id, watch)
    }

    fn set_settled_end(&mut self, id: LogId, end: Offset) -> Result<(), LogError> {
        Engine::set_settled_end(self, id, end)
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

    fn append_marker(
        &mut self,
        id: LogId,
        marker: &EndMarker,
        strict: bool,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        Engine::append_marker(self, id, marker, strict, epoch, now_ms)
    }

    fn stable_end(&self, id: LogId, upto: Offset) -> Offset {
        Engine::stable_end(self, id, upto)
    }

    fn producer(&self, id: LogId, producer_id: i64) -> Option<ProducerInfo> {
        Engine::producer(self, id, producer_id)
    }

    fn producers(&self, id: LogId) -> Vec<ProducerInfo> {
        Engine::producers(self, id)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        Engine::delete_records(self, id, before)
    }

    fn info(&self, id: LogId) -> Option<LogInfo> {
        Engine::info(self, id)
    }

    fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError> {
        Engine::read(self, id, from, upto, max_bytes, min_one)
    }

    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64, upto: Offset) -> Result<Lookup, LogError> {
        Engine::find_offset_by_time(self, id, timestamp_ms, upto)
    }

    fn find_max_timestamp(&mut self, id: LogId, upto: Offset) -> Result<Lookup, LogError> {
        Engine::find_max_timestamp(self, id, upto)
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        Engine::epoch_end(self, id, epoch)
    }

    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch> {
        Engine::epoch_at(self, id, offset)
    }

    fn has_batch(&self, id: LogId, batch: &CheckedBatch) -> bool {
        Engine::has_batch(self, id, batch)
    }

    fn knows_producer(&self, id: LogId, producer_id: i64) -> bool {
        Engine::knows_producer(self, id, producer_id)
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
