//! Tests that try to break the engine on simulated disks. The oracle is a model that knows nothing of journals: after any
//! crash the logs must look as they did after some prefix of what was asked, and that prefix holds all that was
//! acknowledged (INV-1).

mod basics;
mod compaction;
mod corruption;
mod crashes;
mod exhaustive;
mod faults;
mod replica;
mod scrub;
mod transactions;
mod trash;

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;
use wherry_wire::batch::{self, BatchHeader, CheckedBatch, crc32c};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::{Engine, Event, Read, ReadUpTo, Recovery};
use crate::config::{EngineConfig, LogConfig};
use crate::error::{LogError, OpenError};
use crate::io::{SimConfig, SimDisk};
use crate::producers::Verdict;
use crate::transactions::Step;
use crate::{Now, Ticket};

/// A batch of `records` records and about `bytes` bytes, whose content names it.
pub(super) fn batch(name: u64, records: i32, bytes: usize) -> CheckedBatch {
    produced(name, records, bytes, -1, -1, -1)
}

pub(super) fn produced(name: u64, records: i32, bytes: usize, id: i64, epoch: i16, seq: i32) -> CheckedBatch {
    let mut b = vec![0u8; batch::HEADER_LEN + bytes.max(8)];
    let len = i32::try_from(b.len() - batch::LENGTH_PREFIX).unwrap();
    let time = i64::try_from(name).unwrap();
    b[8..12].copy_from_slice(&len.to_be_bytes());
    b[16] = 2;
    b[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    b[27..35].copy_from_slice(&time.to_be_bytes());
    b[35..43].copy_from_slice(&time.to_be_bytes());
    b[43..51].copy_from_slice(&id.to_be_bytes());
    b[51..53].copy_from_slice(&epoch.to_be_bytes());
    b[53..57].copy_from_slice(&seq.to_be_bytes());
    b[57..61].copy_from_slice(&records.to_be_bytes());
    for (i, chunk) in b[batch::HEADER_LEN..].chunks_mut(8).enumerate() {
        let word = (name << 16 | i as u64 & 0xffff).to_be_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    let crc = crc32c(&b[batch::CRC_START..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    batch::split(Bytes::from(b)).next().unwrap().unwrap().check().unwrap()
}

pub(super) fn log_id(n: u128) -> LogId {
    LogId { topic: Uuid::from_u128(n), partition: 0 }
}

/// Small enough that a short test goes through files, segments and chunks.
pub(super) fn small() -> EngineConfig {
    EngineConfig {
        journal_file_bytes: 64 << 10,
        journal_files: 6,
        group_bytes: 8 << 10,
        tail_bytes: 48 << 10,
        flush_bytes: 12 << 10,
        chunk_bytes: 4 << 10,
        read_cache_bytes: 16 << 10,
        read_bytes: 8 << 10,
        open_files: 8,
        reserve_bytes: 0,
        housekeeping_ms: 50,
        producer_expiry_ms: 1 << 40,
        scrub_bytes_per_s: 0,
        scrub_every_ms: 1_000,
        erase_bytes_per_s: 64 << 10,
        mark_after_ms: 5,
    }
}

/// What was asked of the engine.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Create(LogId),
    Append(LogId, Vec<u64>, i32),
    /// At an offset of its own.
    Replicate(LogId, i64, u64, i32),
    Restart(LogId, Offset),
    Truncate(LogId, Offset),
    DeleteRecords(LogId, Offset),
    Delete(LogId),
}

/// A log as a user sees it: start, and batches as (base, name, records).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ModelLog {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) batches: Vec<(i64, u64, i32)>,
}

pub(super) type Model = BTreeMap<LogId, ModelLog>;

pub(super) fn apply(model: &mut Model, asked: &Asked) {
    match asked {
        Asked::Create(id) => {
            model.insert(*id, ModelLog::default());
        }
        Asked::Append(id, names, records) => {
            let log = model.get_mut(id).unwrap();
            for name in names {
                log.batches.push((log.end, *name, *records));
                log.end += i64::from(*records);
            }
        }
        Asked::Replicate(id, base, name, records) => {
            let log = model.get_mut(id).unwrap();
            log.batches.push((*base, *name, *records));
            log.end = base + i64::from(*records);
        }
        Asked::Restart(id, start) => {
            model.insert(*id, ModelLog { start: start.0, end: start.0, batches: Vec::new() });
        }
        Asked::Truncate(id, to) => {
            let log = model.get_mut(id).unwrap();
            log.start = log.start.min(to.0);
            log.batches.retain(|(base, _, n)| base + i64::from(*n) <= to.0);
            log.end = to.0;
        }
        Asked::DeleteRecords(id, before) => {
            let log = model.get_mut(id).unwrap();
            log.start = log.start.max(before.0);
            let start = log.start;
            log.batches.retain(|(base, _, n)| base + i64::from(*n) > start);
        }
        Asked::Delete(id) => {
            model.remove(id);
        }
    }
}

/// An engine on a simulated disk, beside the model.
pub(super) struct Rig {
    pub(super) engine: Engine<SimDisk>,
    pub(super) config: EngineConfig,
    pub(super) now: Now,
    pub(super) asked: Vec<(Asked, Ticket)>,
    /// State before `asked`.
    pub(super) base: Model,
    pub(super) durable: Ticket,
    pub(super) events: Vec<Event>,
    pub(super) log_config: LogConfig,
    /// Newest batch of producer 7 in each log, when it was last read.
    newest: BTreeMap<LogId, BatchHeader>,
    /// What each log said of transactions when it was last read.
    steps: BTreeMap<LogId, Vec<Step>>,
}

impl Rig {
    pub(super) fn new(seed: u64, config: EngineConfig) -> Self {
        let disk = SimDisk::new(SimConfig { seed, ..SimConfig::default() });
        Self::open(disk, config, Model::new()).unwrap().0
    }

    pub(super) fn open(disk: SimDisk, config: EngineConfig, base: Model) -> Result<(Self, Recovery), OpenError> {
        let now = Now { monotonic_ns: 1, wall_ms: 1 };
        let (engine, report) = Engine::open(disk, config.clone(), now, Uuid::from_u128(99))?;
        let log_config = LogConfig { segment_bytes: 20 << 10, ..LogConfig::default() };
        let mut rig = Self {
            engine,
            config,
            now,
            asked: Vec::new(),
            base,
            durable: Ticket(0),
            events: Vec::new(),
            log_config,
            newest: BTreeMap::new(),
            steps: BTreeMap::new(),
        };
        let logs = rig.engine.logs();
        for id in logs {
            rig.engine.configure(id, rig.log_config.clone()).unwrap();
        }
        Ok((rig, report))
    }

    /// Makes a log of several segments.
    pub(super) fn fill(&mut self, id: LogId) {
        let t = self.create(id);
        self.until_durable(t);
        for n in 0..60 {
            let t = self.append(id, &[n], 1, 1_000).unwrap();
            self.until_durable(t);
        }
    }

    /// The same disk, after an orderly end: all of it is in segments.
    pub(super) fn closed_and_opened(mut self, config: EngineConfig) -> Self {
        self.engine.close(self.now).unwrap();
        let (base, disk) = (self.model(), self.engine.into_disk());
        Self::open(disk, config, base).unwrap().0
    }

    pub(super) fn turn(&mut self) {
        self.now.monotonic_ns += 1_000_000;
        self.now.wall_ms += 1;
        self.engine.turn(self.now);
        for event in self.engine.events() {
            if let Event::Durable(ticket) = event {
                assert!(ticket >= self.durable, "acknowledgements out of order");
                self.durable = ticket;
            }
            self.events.push(event);
        }
    }

    /// Turns until this ticket is durable.
    pub(super) fn until_durable(&mut self, ticket: Ticket) {
        for _ in 0..10_000 {
            if self.durable >= ticket {
                return;
            }
            self.turn();
        }
        panic!("ticket {ticket:?} never became durable; journal failed: {:?}", self.engine.journal.failed());
    }

    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}");
    }

    fn record(&mut self, asked: Asked, ticket: Ticket) -> Ticket {
        self.asked.push((asked, ticket));
        ticket
    }

    pub(super) fn create(&mut self, id: LogId) -> Ticket {
        let ticket = self.engine.create_log(id, self.log_config.clone()).unwrap();
        self.record(Asked::Create(id), ticket)
    }

    pub(super) fn append(&mut self, id: LogId, names: &[u64], records: i32, bytes: usize) -> Result<Ticket, LogError> {
        let batches: Vec<_> = names.iter().map(|n| batch(*n, records, bytes)).collect();
        let epoch = self.engine.info(id).and_then(|info| info.leader_epoch).unwrap_or(LeaderEpoch(0));
        let done = self.engine.append(id, &batches, epoch, self.now.wall_ms)?;
        // Several batches may lie in several frames: a crash may keep the first of them.
        for name in names {
            self.record(Asked::Append(id, vec![*name], records), done.ticket);
        }
        Ok(done.ticket)
    }

    pub(super) fn truncate(&mut self, id: LogId, to: Offset) -> Ticket {
        let (ticket, to) = self.engine.truncate(id, to).unwrap();
        self.record(Asked::Truncate(id, to), ticket)
    }

    /// A batch of producer 7, `gap` offsets after the log's end; it goes on with the sequence that comes next.
    pub(super) fn replicate(
        &mut self,
        id: LogId,
        name: u64,
        gap: i64,
        epoch: LeaderEpoch,
        size: (i32, usize),
    ) -> Result<Ticket, LogError> {
        let index = self.engine.index_of(id)?;
        // A leader knows its producers, and would not take sequence 0 of the same epoch again.
        self.until("producers are found", |r| !r.engine.logs[index].producers.any_lost());
        let known = self.engine.logs[index].producers.iter().find(|(id, _)| id.0 == 7);
        let (producer_epoch, seq) = known.map_or((0, 0), |(_, p)| (p.epoch, p.batches.last().unwrap().last_seq + 1));
        let (records, bytes) = size;
        let base = self.engine.info(id).unwrap().log_end.0 + gap;
        let batch = replica::stored(&produced(name, records, bytes, 7, producer_epoch, seq), base, epoch.0);
        let done = self.engine.append_replica(id, &[batch], self.now.wall_ms)?;
        Ok(self.record(Asked::Replicate(id, base, name, records), done.ticket))
    }

    pub(super) fn restart(&mut self, id: LogId, start: Offset) -> Ticket {
        let ticket = self.engine.restart_log_at(id, start).unwrap();
        self.record(Asked::Restart(id, start), ticket)
    }

    /// The newest batch of producer 7 in the log is what the engine says of it: a retry is known, the next is new.
    fn check_producer(&mut self, id: LogId, newest: &BatchHeader, context: &str) {
        self.until("producers are found", |r| {
            r.engine.index_of(id).is_ok_and(|index| !r.engine.logs[index].producers.any_lost())
        });
        let producers = &self.engine.logs[self.engine.index_of(id).unwrap()].producers;
        let found = producers.check(id, newest);
        let known = matches!(found, Ok(Verdict::Duplicate(batch)) if batch.base == newest.base_offset);
        let next = BatchHeader { base_sequence: newest.base_sequence + newest.last_offset_delta + 1, ..*newest };
        let fresh = producers.check(id, &next);
        let fits = known && matches!(fresh, Ok(Verdict::Fresh));
        assert!(fits, "{context}: {id}: {newest:?}: a retry is {found:?}, the next {fresh:?}");
    }

    pub(super) fn delete_records(&mut self, id: LogId, before: Offset) -> Ticket {
        let ticket = self.engine.delete_records(id, before).unwrap();
        self.record(Asked::DeleteRecords(id, before), ticket)
    }

    pub(super) fn delete(&mut self, id: LogId) -> Ticket {
        let ticket = self.engine.delete_log(id).unwrap();
        self.record(Asked::Delete(id), ticket)
    }

    /// The model after all that was asked.
    pub(super) fn model(&self) -> Model {
        let mut model = self.base.clone();
        for (asked, _) in &self.asked {
            apply(&mut model, asked);
        }
        model
    }

    /// Reads a whole log back through the public API.
    pub(super) fn read_all(&mut self, id: LogId) -> Result<ModelLog, LogError> {
        let info = self.engine.info(id).ok_or(LogError::NoSuchLog(id))?;
        self.newest.remove(&id);
        let mut log = ModelLog { start: info.log_start.0, end: info.durable_end.0, batches: Vec::new() };
        let mut steps = Vec::new();
        let mut from = info.log_start;
        while from < info.durable_end {
            let served = match self.engine.read(id, from, ReadUpTo::Offset(info.durable_end), 6 << 10, true)? {
                Read::Ready(served) => served,
                Read::Pending(token) => self.wait_read(token)?,
            };
            assert!(served.next > from, "no progress at {from} of {info:?}");
            for bytes in &served.batches {
                let checked = batch::split(bytes.clone()).next().unwrap().unwrap().check().expect("served a bad CRC");
                let header = checked.header();
                assert_eq!(self.engine.epoch_at(id, header.base_offset), Some(header.leader_epoch), "{id} {header:?}");
                if header.producer_id == 7 {
                    self.newest.insert(id, *header);
                }
                steps.extend(Step::of(header, bytes));
                log.batches.push((header.base_offset.0, transactions::name_of(bytes), header.record_count));
            }
            from = served.next;
        }
        self.steps.insert(id, steps);
        Ok(log)
    }

    pub(super) fn wait_read(&mut self, token: super::ReadToken) -> Result<super::Served, LogError> {
        for _ in 0..10_000 {
            self.turn();
            let at = self.events.iter().position(|e| matches!(e, Event::ReadDone(t, _) if *t == token));
            if let Some(at) = at {
                let Event::ReadDone(_, result) = self.events.remove(at) else { unreachable!() };
                return result;
            }
        }
        panic!("read {token:?} never answered");
    }

    /// Every log as read back.
    pub(super) fn observed(&mut self) -> Model {
        self.observed_in("now")
    }

    fn observed_in(&mut self, context: &str) -> Model {
        let ids = self.engine.logs();
        ids.into_iter().map(|id| (id, self.read_all(id).unwrap_or_else(|e| panic!("{context}: {id}: {e}")))).collect()
    }

    /// Opens what a crash left and checks it against every prefix of the work that may have survived.
    pub(super) fn check_recovery(&self, disk: SimDisk, context: &str) -> Self {
        let opened = Self::open(disk, self.config.clone(), Model::new());
        let (mut next, report) = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
        let observed = next.observed_in(context);
        let acked = self.asked.iter().rposition(|(_, t)| *t <= self.durable).map_or(0, |i| i + 1);
        let mut model = self.base.clone();
        let mut fits = false;
        for (i, (asked, _)) in self.asked.iter().enumerate() {
            fits |= i >= acked && model == observed;
            apply(&mut model, asked);
        }
        fits |= model == observed;
        assert!(
            fits,
            "{context}: no prefix of at least {acked} of {} operations gives what was recovered ({report:?})\nobserved {}\nwhole    {}",
            self.asked.len(),
            brief(&observed),
            brief(&model),
        );
        for (id, newest) in std::mem::take(&mut next.newest) {
            next.check_producer(id, &newest, context);
        }
        for (id, steps) in std::mem::take(&mut next.steps) {
            next.check_transactions(id, &steps, context);
        }
        next.base = observed;
        next
    }
}

fn brief(model: &Model) -> String {
    let one = |(id, l): (&LogId, &ModelLog)| {
        let last: Vec<_> = l.batches.iter().rev().take(3).collect();
        format!("[{} {}..{} {} batches, last {last:?}]", id.topic.as_u128(), l.start, l.end, l.batches.len())
    };
    model.iter().map(one).collect::<Vec<_>>().join(" ")
}
