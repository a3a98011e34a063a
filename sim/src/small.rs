//! The engine with segments far smaller than a topic may ask for, so that they roll while the simulation looks; and, if
//! asked, with a lie about what is durable.

use wherry_log::{
    Appended, EngineStats, LogConfig, LogError, LogInfo, Lookup, Now, ProducerInfo, Read, ReadUpTo, Ticket,
};
use wherry_node::core::store::{Event, LogStore};
use wherry_wire::batch::CheckedBatch;
use wherry_wire::records::EndMarker;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

/// What a segment shrinks to.
const SEGMENT_BYTES: u64 = 24 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct SmallSegments<S> {
    inner: S,
    /// Set: appends are told as durable at once. Holds the newest.
    hasty: Option<Ticket>,
}

impl<S> SmallSegments<S> {
    pub(crate) fn new(inner: S, hasty: bool) -> Self {
        Self { inner, hasty: hasty.then(Ticket::default) }
    }

    fn appended(&mut self, outcome: Result<Appended, LogError>) -> Result<Appended, LogError> {
        if let (Some(newest), Ok(appended)) = (&mut self.hasty, &outcome) {
            *newest = appended.ticket.max(*newest);
        }
        outcome
    }
}

fn shrunk(mut config: LogConfig) -> LogConfig {
    config.segment_bytes = config.segment_bytes.min(SEGMENT_BYTES);
    config
}

impl<S: LogStore> LogStore for SmallSegments<S> {
    fn directory(&self) -> uuid::Uuid {
        self.inner.directory()
    }

    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        self.inner.create_log(id, shrunk(config))
    }

    fn create_log_at(&mut self, id: LogId, config: LogConfig, start: Offset) -> Result<Ticket, LogError> {
        self.inner.create_log_at(id, shrunk(config), start)
    }

    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        self.inner.restart_log_at(id, start)
    }

    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], now_ms: i64) -> Result<Appended, LogError> {
        let outcome = self.inner.append_replica(id, batches, now_ms);
        self.appended(outcome)
    }

    fn append_marker(
        &mut self,
        id: LogId,
        marker: &EndMarker,
        strict: bool,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let outcome = self.inner.append_marker(id, marker, strict, epoch, now_ms);
        self.appended(outcome)
    }

    fn stable_end(&self, id: LogId, upto: Offset) -> Offset {
        self.inner.stable_end(id, upto)
    }

    fn producer(&self, id: LogId, producer_id: i64) -> Option<ProducerInfo> {
        self.inner.producer(id, producer_id)
    }

    fn producers(&self, id: LogId) -> Vec<ProducerInfo> {
        self.inner.producers(id)
    }

    fn truncate(&mut self, id: LogId, to: Offset) -> Result<(Ticket, Offset), LogError> {
        self.inner.truncate(id, to)
    }

    fn watch_sealed(&mut self, id: LogId, watch: bool) -> Result<(), LogError> {
        self.inner.watch_sealed(id, watch)
    }

    fn set_settled_end(&mut self, id: LogId, end: Offset) -> Result<(), LogError> {
        self.inner.set_settled_end(id, end)
    }

    fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError> {
        self.inner.delete_log(id)
    }

    fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError> {
        self.inner.configure(id, shrunk(config))
    }

    fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let outcome = self.inner.append(id, batches, epoch, now_ms);
        self.appended(outcome)
    }

    fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.inner.append_reserved(id, batches, epoch, now_ms)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        self.inner.delete_records(id, before)
    }

    fn info(&self, id: LogId) -> Option<LogInfo> {
        self.inner.info(id)
    }

    fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError> {
        self.inner.read(id, from, upto, max_bytes, min_one)
    }

    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64, upto: Offset) -> Result<Lookup, LogError> {
        self.inner.find_offset_by_time(id, timestamp_ms, upto)
    }

    fn find_max_timestamp(&mut self, id: LogId, upto: Offset) -> Result<Lookup, LogError> {
        self.inner.find_max_timestamp(id, upto)
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.inner.epoch_end(id, epoch)
    }

    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch> {
        self.inner.epoch_at(id, offset)
    }

    fn has_batch(&self, id: LogId, batch: &CheckedBatch) -> bool {
        self.inner.has_batch(id, batch)
    }

    fn knows_producer(&self, id: LogId, producer_id: i64) -> bool {
        self.inner.knows_producer(id, producer_id)
    }

    fn logs(&self) -> Vec<LogId> {
        self.inner.logs()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }

    fn turn(&mut self, now: Now) {
        self.inner.turn(now);
    }

    fn wait(&mut self, now: Now) {
        self.inner.wait(now);
    }

    fn events(&mut self, out: &mut Vec<Event>) {
        self.inner.events(out);
        out.extend(self.hasty.map(Event::Durable));
    }

    fn next_deadline(&self) -> Option<u64> {
        self.inner.next_deadline()
    }

    fn close(&mut self, now: Now) -> Result<(), LogError> {
        self.inner.close(now)
    }
}
