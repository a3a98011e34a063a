//! A store in memory whose disk is held by the test: nothing is durable before `turn` while `hold` is set, reads can be
//! made cold, appends busy.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use wherry_wire::batch::{BatchHeader, CheckedBatch};
use wherry_wire::records::EndMarker;
use wherry_wire::types::{LeaderEpoch, LogId, Offset, ProducerId};

use crate::core::store::{
    Appended, EngineStats, Event, LogConfig, LogError, LogInfo, LogStore, Lookup, Now, ProducerInfo, Read, ReadToken,
    ReadUpTo, Served, Ticket,
};

#[derive(Debug, Default)]
struct MemLog {
    batches: Vec<(BatchHeader, Bytes)>,
    start: i64,
    end: i64,
    durable: i64,
    config: LogConfig,
    watched: bool,
    producers: HashMap<i64, MemProducer>,
}

/// Epoch, last sequence, and the batches that a retry may repeat.
type MemProducer = (i16, i32, Vec<(i32, Appended)>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemStore {
    logs: BTreeMap<LogId, MemLog>,
    moved: BTreeSet<LogId>,
    ticket: u64,
    durable: u64,
    events: Vec<Event>,
    token: u64,
    cold: Vec<(ReadToken, LogId, Offset, ReadUpTo, usize, bool)>,
    cold_lookups: Vec<(ReadToken, LogId, i64, Offset)>,
    /// Nothing becomes durable.
    pub(super) hold: bool,
    /// Reads are answered by an event, when the test says so.
    pub(super) cold_reads: bool,
    /// Appends are refused as busy.
    pub(super) busy: bool,
    /// Appends are refused as the disk is full.
    pub(super) full: bool,
    pub(super) turns: u64,
    pub(super) reads: u64,
    pub(super) infos: std::cell::Cell<u64>,
}

impl MemStore {
    /// Answers the reads that wait for the disk.
    pub(super) fn finish_reads(&mut self) {
        for (token, log, from, upto, max, one) in std::mem::take(&mut self.cold) {
            let result = self.serve(log, from, upto, max, one);
            self.events.push(Event::ReadDone(token, result));
        }
        for (token, log, timestamp, upto) in std::mem::take(&mut self.cold_lookups) {
            let found = self.find(log, timestamp, upto);
            self.events.push(Event::LookupDone(token, Ok(found)));
        }
    }

    pub(super) fn make_room(&mut self) {
        self.busy = false;
        self.events.push(Event::Room);
    }

    pub(super) fn fail(&mut self) {
        self.events.push(Event::Failed("the disk is gone".into()));
    }

    pub(super) fn waiting_reads(&self) -> usize {
        self.cold.len()
    }

    pub(super) fn config(&self, id: LogId) -> &LogConfig {
        &self.logs[&id].config
    }

    pub(super) fn batches(&self, id: LogId) -> Vec<(BatchHeader, Bytes)> {
        self.logs[&id].batches.clone()
    }

    /// A crash: what is not durable is gone, and so is what was in flight.
    pub(super) fn crash(&mut self) {
        for log in self.logs.values_mut() {
            log.batches.retain(|(header, _)| header.next_offset().0 <= log.durable);
            log.end = log.durable;
        }
        self.events.clear();
        self.cold.clear();
        self.hold = false;
        self.ticket = self.durable;
    }

    fn log(&mut self, id: LogId) -> Result<&mut MemLog, LogError> {
        self.logs.get_mut(&id).ok_or(LogError::NoSuchLog(id))
    }

    fn next_ticket(&mut self) -> Ticket {
        self.ticket += 1;
        Ticket(self.ticket)
    }

    fn serve(&mut self, id: LogId, from: Offset, upto: ReadUpTo, max: usize, one: bool) -> Result<Served, LogError> {
        let log = self.log(id)?;
        let bound = match upto {
            ReadUpTo::Offset(upto) | ReadUpTo::Committed(upto) => upto.0.min(log.end),
            ReadUpTo::Sealed => log.end,
        };
        if from.0 < log.start || from.0 > log.end {
            return Err(LogError::OutOfRange { log: id, offset: from, start: Offset(log.start), end: Offset(log.end) });
        }
        let mut served = Served { next: from, ..Served::default() };
        let mut bytes = 0;
        for (header, data) in &log.batches {
            if header.next_offset() <= from || header.next_offset().0 > bound {
                continue;
            }
            if bytes + data.len() > max && !(one && served.batches.is_empty()) {
                break;
            }
            bytes += data.len();
            served.batches.push(data.clone());
            served.next = header.next_offset();
        }
        Ok(served)
    }

    fn find(&mut self, id: LogId, timestamp: i64, upto: Offset) -> Option<(Offset, i64)> {
        let log = self.logs.get(&id)?;
        let found = log.batches.iter().find(|(h, _)| h.max_timestamp >= timestamp && h.next_offset() <= upto)?;
        Some((found.0.base_offset, found.0.max_timestamp))
    }

    fn check_producer(log: &MemLog, id: LogId, header: &BatchHeader) -> Result<Option<Appended>, LogError> {
        let Some((epoch, last, recent)) = log.producers.get(&header.producer_id) else { return Ok(None) };
        let producer = ProducerId(header.producer_id);
        if header.producer_epoch < *epoch {
            return Err(LogError::ProducerFenced { log: id, producer, got: header.producer_epoch, current: *epoch });
        }
        if let Some((_, appended)) = recent.iter().find(|(first, _)| *first == header.base_sequence) {
            return Ok(Some(Appended { duplicate: true, ..*appended }));
        }
        if header.base_sequence != last + 1 {
            return Err(LogError::OutOfOrderSequence {
                log: id,
                producer,
                got: header.base_sequence,
                expected: last + 1,
            });
        }
        Ok(None)
    }
}

impl LogStore for MemStore {
    fn directory(&self) -> uuid::Uuid {
        uuid::Uuid::from_u128(1)
    }

    fn create_log(&mut self, id: LogId, config: LogConfig) -> Result<Ticket, LogError> {
        self.create_log_at(id, config, Offset::ZERO)
    }

    fn create_log_at(&mut self, id: LogId, config: LogConfig, start: Offset) -> Result<Ticket, LogError> {
        if self.logs.contains_key(&id) {
            return Err(LogError::Exists(id));
        }
        let start = start.0;
        self.logs.insert(id, MemLog { config, start, end: start, durable: start, ..MemLog::default() });
        Ok(self.next_ticket())
    }

    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        let old = self.logs.remove(&id).ok_or(LogError::NoSuchLog(id))?;
        let ticket = self.create_log_at(id, old.config, start)?;
        self.watch_sealed(id, old.watched)?;
        Ok(ticket)
    }

    /// It keeps markers in their order and judges nothing: tests of what logs make of transactions run over the engine.
    fn append_marker(
        &mut self,
        id: LogId,
        marker: &EndMarker,
        _: bool,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.append_reserved(id, &[marker.batch(now_ms).unwrap()], epoch, now_ms)
    }

    fn stable_end(&self, _: LogId, upto: Offset) -> Offset {
        upto
    }

    fn producer(&self, _: LogId, _: i64) -> Option<ProducerInfo> {
        None
    }

    fn producers(&self, _: LogId) -> Vec<ProducerInfo> {
        Vec::new()
    }

    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], _: i64) -> Result<Appended, LogError> {
        if self.full {
            return Err(LogError::Full { reserve: 1 });
        }
        if self.busy {
            return Err(LogError::Busy { waiting: 1 });
        }
        let log = self.log(id)?;
        let (mut next, mut latest) = (log.end, log.batches.last().map(|(h, _)| h.leader_epoch));
        for header in batches.iter().map(CheckedBatch::header) {
            let (offset, got) = (header.base_offset, header.leader_epoch);
            if offset.0 < next {
                return Err(LogError::OutOfRange { log: id, offset, start: Offset(log.start), end: Offset(next) });
            }
            if let Some(latest) = latest.filter(|latest| got < *latest) {
                return Err(LogError::StaleEpoch { log: id, got, latest });
            }
            (next, latest) = (header.next_offset().0, Some(got));
        }
        log.end = next;
        log.batches.extend(batches.iter().map(|b| (*b.header(), b.bytes().clone())));
        let appended = Appended {
            base_offset: batches.first().map_or(Offset(next), |b| b.header().base_offset),
            last_offset: Offset(next - 1),
            ticket: Ticket(0),
            duplicate: false,
            log_start: Offset(log.start),
        };
        if log.watched {
            self.events.push(Event::Sealed(id));
        }
        self.moved.insert(id);
        Ok(Appended { ticket: self.next_ticket(), ..appended })
    }

    fn truncate(&mut self, id: LogId, to: Offset) -> Result<(Ticket, Offset), LogError> {
        let log = self.log(id)?;
        if to.0 < log.start || to.0 > log.end {
            let (start, end) = (Offset(log.start), Offset(log.end));
            return Err(LogError::OutOfRange { log: id, offset: to, start, end });
        }
        log.batches.retain(|(h, _)| h.next_offset() <= to);
        log.end = log.batches.last().map_or(log.start, |(h, _)| h.next_offset().0);
        log.durable = log.durable.min(log.end);
        for (_, last, recent) in log.producers.values_mut() {
            recent.retain(|(_, appended)| appended.base_offset < to);
            let sequence = |(first, a): &(i32, Appended)| first + (a.last_offset.0 - a.base_offset.0) as i32;
            *last = recent.last().map_or(-1, sequence);
        }
        let end = Offset(log.end);
        Ok((self.next_ticket(), end))
    }

    fn watch_sealed(&mut self, id: LogId, watch: bool) -> Result<(), LogError> {
        self.log(id)?.watched = watch;
        Ok(())
    }

    fn set_settled_end(&mut self, id: LogId, _: Offset) -> Result<(), LogError> {
        self.log(id).map(drop)
    }

    fn delete_log(&mut self, id: LogId) -> Result<Ticket, LogError> {
        self.logs.remove(&id).ok_or(LogError::NoSuchLog(id))?;
        Ok(self.next_ticket())
    }

    fn configure(&mut self, id: LogId, config: LogConfig) -> Result<(), LogError> {
        self.log(id)?.config = config;
        Ok(())
    }

    fn append(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        _: i64,
    ) -> Result<Appended, LogError> {
        if self.full {
            return Err(LogError::Full { reserve: 1 });
        }
        self.append_reserved(id, batches, epoch, 0)
    }

    fn append_reserved(
        &mut self,
        id: LogId,
        batches: &[CheckedBatch],
        epoch: LeaderEpoch,
        _: i64,
    ) -> Result<Appended, LogError> {
        if self.busy {
            return Err(LogError::Busy { waiting: 1 });
        }
        let log = self.log(id)?;
        for batch in batches.iter().filter(|b| b.header().producer_id >= 0 && b.header().base_sequence >= 0) {
            if let Some(duplicate) = Self::check_producer(log, id, batch.header())? {
                return Ok(duplicate);
            }
        }
        let ticket = self.next_ticket();
        self.moved.insert(id);
        let log = self.log(id)?;
        let base_offset = Offset(log.end);
        let log_start = Offset(log.start);
        for batch in batches {
            let mut target = vec![0; batch.len()];
            let header = batch.write_at(Offset(log.end), epoch, &mut target).unwrap();
            log.end = header.next_offset().0;
            log.batches.push((header, target.into()));
        }
        let last_offset = Offset(log.end - 1);
        let appended = Appended { base_offset, last_offset, ticket, duplicate: false, log_start };
        let numbered = |h: &&BatchHeader| h.producer_id >= 0 && h.base_sequence >= 0;
        for header in batches.iter().map(CheckedBatch::header).filter(numbered) {
            let entry = log.producers.entry(header.producer_id).or_insert((header.producer_epoch, -1, Vec::new()));
            entry.0 = header.producer_epoch;
            entry.1 = header.base_sequence + header.last_offset_delta;
            entry.2.push((header.base_sequence, appended));
        }
        if log.watched {
            self.events.push(Event::Sealed(id));
        }
        Ok(appended)
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        let log = self.log(id)?;
        log.start = log.start.max(before.0);
        Ok(self.next_ticket())
    }

    fn info(&self, id: LogId) -> Option<LogInfo> {
        self.infos.set(self.infos.get() + 1);
        let log = self.logs.get(&id)?;
        Some(LogInfo {
            log_start: Offset(log.start),
            durable_end: Offset(log.durable),
            log_end: Offset(log.end),
            size_bytes: log.batches.iter().map(|(_, b)| b.len() as u64).sum(),
            leader_epoch: log.batches.last().map(|(h, _)| h.leader_epoch),
            sealed_end: Offset(log.end),
            segments: 1,
            damaged: false,
        })
    }

    fn read(
        &mut self,
        id: LogId,
        from: Offset,
        upto: ReadUpTo,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Read, LogError> {
        self.reads += 1;
        let served = self.serve(id, from, upto, max_bytes, min_one)?;
        if self.cold_reads && !served.batches.is_empty() {
            self.token += 1;
            let token = ReadToken(self.token);
            self.cold.push((token, id, from, upto, max_bytes, min_one));
            return Ok(Read::Pending(token));
        }
        Ok(Read::Ready(served))
    }

    fn find_offset_by_time(&mut self, id: LogId, timestamp_ms: i64, upto: Offset) -> Result<Lookup, LogError> {
        self.log(id)?;
        if self.cold_reads {
            self.token += 1;
            self.cold_lookups.push((ReadToken(self.token), id, timestamp_ms, upto));
            return Ok(Lookup::Pending(ReadToken(self.token)));
        }
        Ok(Lookup::Ready(self.find(id, timestamp_ms, upto)))
    }

    fn find_max_timestamp(&mut self, id: LogId, upto: Offset) -> Result<Lookup, LogError> {
        let below = self.log(id)?.batches.iter().filter(|(h, _)| h.next_offset() <= upto);
        let newest = below.map(|(h, _)| h.max_timestamp).max();
        Ok(Lookup::Ready(newest.and_then(|t| self.find(id, t, upto))))
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let log = self.logs.get(&id)?;
        let last = log.batches.iter().rev().find(|(h, _)| h.leader_epoch <= epoch)?;
        let next = log.batches.iter().find(|(h, _)| h.leader_epoch > epoch);
        Some((last.0.leader_epoch, next.map_or(Offset(log.end), |(h, _)| h.base_offset)))
    }

    fn epoch_at(&self, id: LogId, offset: Offset) -> Option<LeaderEpoch> {
        let batches = &self.logs.get(&id)?.batches;
        batches.iter().find(|(h, _)| h.next_offset() > offset).map(|(h, _)| h.leader_epoch)
    }

    fn has_batch(&self, id: LogId, batch: &CheckedBatch) -> bool {
        let log = self.logs.get(&id);
        log.is_some_and(|log| matches!(Self::check_producer(log, id, batch.header()), Ok(Some(_))))
    }

    fn knows_producer(&self, id: LogId, producer_id: i64) -> bool {
        self.logs.get(&id).is_some_and(|log| log.producers.contains_key(&producer_id))
    }

    fn logs(&self) -> Vec<LogId> {
        self.logs.keys().copied().collect()
    }

    fn turn(&mut self, _: Now) {
        self.turns += 1;
        if self.hold || self.durable == self.ticket {
            return;
        }
        self.durable = self.ticket;
        self.events.push(Event::Durable(Ticket(self.durable)));
        for id in std::mem::take(&mut self.moved) {
            if let Some(log) = self.logs.get_mut(&id) {
                log.durable = log.end;
                self.events.push(Event::Advanced(id));
            }
        }
    }

    fn wait(&mut self, now: Now) {
        self.finish_reads();
        self.turn(now);
    }

    fn events(&mut self, out: &mut Vec<Event>) {
        out.append(&mut self.events);
    }

    fn next_deadline(&self) -> Option<u64> {
        None
    }

    fn stats(&self) -> EngineStats {
        let space = EngineStats { disk_total_bytes: 1000, disk_free_bytes: 400, ..EngineStats::default() };
        EngineStats { batches: self.ticket, ..space }
    }

    fn close(&mut self, now: Now) -> Result<(), LogError> {
        self.turn(now);
        Ok(())
    }
}
