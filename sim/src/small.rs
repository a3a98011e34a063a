//! The engine with segments far smaller than a topic may ask for, so that they roll while the simulation looks.

use wherry_log::{Appended, EngineStats, LogConfig, LogError, LogInfo, Lookup, Now, Read, Ticket};
use wherry_node::core::store::{Event, LogStore};
use wherry_wire::batch::CheckedBatch;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

/// What a segment shrinks to.
const SEGMENT_BYTES: u64 = 24 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct SmallSegments<S>(pub(crate) S);

fn shrunk(mut config: LogConfig) -> LogConfig {
    config.segment_bytes = config.segment_bytes.min(SEGMENT_BYTES);
    config
}

impl<S: LogStore> LogStore for SmallSegments<S> {
    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        self.0.create_log(id, shrunk(config))
    }

    fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError> {
        self.0.delete_log(id)
    }

    fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError> {
        self.0.configure(id, shrunk(config))
    }

    fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.0.append(id, batches, epoch, now_ms)
    }

    fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.0.append_reserved(id, batches, epoch, now_ms)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        self.0.delete_records(id, before)
    }

    fn info(&self, id: LogId) -> Option<LogInfo> {
        self.0.info(id)
    }

    fn read(&mut self, id: LogId, from: Offset, max_bytes: usize, min_one: bool) -> Result<Read, LogError> {
        self.0.read(id, from, max_bytes, min_one)
    }

    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64) -> Result<Lookup, LogError> {
        self.0.find_offset_by_time(id, timestamp_ms)
    }

    fn find_max_timestamp(&mut self, id: LogId) -> Result<Lookup, LogError> {
        self.0.find_max_timestamp(id)
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.0.epoch_end(id, epoch)
    }

    fn logs(&self) -> Vec<LogId> {
        self.0.logs()
    }

    fn stats(&self) -> EngineStats {
        self.0.stats()
    }

    fn turn(&mut self, now: Now) {
        self.0.turn(now);
    }

    fn wait(&mut self, now: Now) {
        self.0.wait(now);
    }

    fn events(&mut self, out: &mut Vec<Event>) {
        self.0.events(out);
    }

    fn next_deadline(&self) -> Option<u64> {
        self.0.next_deadline()
    }

    fn close(&mut self, now: Now) -> Result<(), LogError> {
        self.0.close(now)
    }
}
