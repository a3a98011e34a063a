//! A store in memory: one journal for all logs, sealed and made durable by hand, and cut by a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use wherry_wire::batch::{BatchHeader, CRC_START, CheckedBatch, HEADER_LEN, LENGTH_PREFIX, crc32c, split};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::super::store::*;

#[derive(Debug, Clone)]
enum Entry {
    Append(BatchHeader, Bytes),
    Truncate(Offset),
    Restart(Offset),
    Start(Offset),
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) header: BatchHeader,
    pub(super) bytes: Bytes,
    entry: usize,
}

impl Stored {
    pub(super) fn payload(&self) -> u64 {
        u64::from_be_bytes(self.bytes[HEADER_LEN..HEADER_LEN + 8].try_into().unwrap())
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) batches: Vec<Stored>,
    /// Epoch of what was deleted, while nothing else is there.
    left: Option<LeaderEpoch>,
}

impl Log {
    fn apply(&mut self, entry: &Entry, index: usize) {
        match entry {
            Entry::Append(header, bytes) => {
                self.end = header.next_offset().0;
                self.batches.push(Stored { header: *header, bytes: bytes.clone(), entry: index });
                self.left = None;
            }
            Entry::Truncate(to) => {
                self.batches.retain(|b| b.header.next_offset() <= *to);
                self.end = self.batches.last().map_or(self.end.min(to.0), |b| b.header.next_offset().0).max(self.start);
            }
            Entry::Restart(start) => *self = Self { start: start.0, end: start.0, ..Self::default() },
            Entry::Start(start) => {
                self.left = self.batches.last().map(|b| b.header.leader_epoch).or(self.left);
                self.batches.retain(|b| b.header.next_offset() > *start);
                self.start = start.0;
            }
        }
    }

    fn durable_end(&self, durable: usize) -> i64 {
        self.batches.iter().find(|b| b.entry >= durable).map_or(self.end, |b| b.header.base_offset.0)
    }

    fn epochs(&self) -> Vec<(LeaderEpoch, i64)> {
        let mut epochs: Vec<(LeaderEpoch, i64)> = self.left.map(|e| (e, self.start)).into_iter().collect();
        for batch in &self.batches {
            if epochs.last().is_none_or(|(e, _)| *e < batch.header.leader_epoch) {
                epochs.push((batch.header.leader_epoch, batch.header.base_offset.0));
            }
        }
        epochs
    }
}

#[derive(Debug, Default)]
pub(super) struct Store {
    entries: Vec<(LogId, Entry)>,
    sealed: usize,
    durable: usize,
    pub(super) logs: BTreeMap<LogId, Log>,
    /// Appends of replicas are refused.
    pub(super) busy: bool,
    /// Reads go to the disk.
    pub(super) cold: bool,
    pub(super) reads: VecDeque<(ReadToken, LogId, Offset)>,
    tokens: u64,
}

/// What the disk did.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) sealed: BTreeSet<LogId>,
    pub(super) advanced: BTreeSet<LogId>,
    pub(super) ticket: Ticket,
}

/// A batch of `records` records that carries a number.
pub(super) fn batch(payload: u64, records: i32) -> CheckedBatch {
    let mut b = BytesMut::new();
    b.put_i64(0);
    b.put_i32((HEADER_LEN + 8 - LENGTH_PREFIX).try_into().unwrap());
    b.put_i32(-1);
    b.put_i8(2);
    b.put_u32(0);
    b.put_i16(0);
    b.put_i32(records - 1);
    b.put_i64(0);
    b.put_i64(0);
    b.put_i64(-1);
    b.put_i16(-1);
    b.put_i32(-1);
    b.put_i32(records);
    b.put_u64(payload);
    let crc = crc32c(&b[CRC_START..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    split(b.freeze()).next().unwrap().unwrap().check().unwrap()
}

impl Store {
    pub(super) fn create(&mut self, id: LogId) {
        self.logs.entry(id).or_default();
    }

    pub(super) fn log(&self, id: LogId) -> &Log {
        &self.logs[&id]
    }

    fn push(&mut self, id: LogId, entry: Entry) -> Result<Ticket, LogError> {
        let index = self.entries.len();
        self.logs.get_mut(&id).ok_or(LogError::NoSuchLog(id))?.apply(&entry, index);
        self.entries.push((id, entry));
        Ok(Ticket(index as u64 + 1))
    }

    fn place(&mut self, id: LogId, batch: &CheckedBatch, at: Offset, epoch: LeaderEpoch) -> Ticket {
        let mut bytes = BytesMut::zeroed(batch.len());
        let header = batch.write_at(at, epoch, &mut bytes).unwrap();
        self.push(id, Entry::Append(header, bytes.freeze())).unwrap()
    }

    /// As a leader.
    pub(super) fn append(&mut self, id: LogId, batch: &CheckedBatch, epoch: LeaderEpoch) -> (Offset, Offset) {
        let base = Offset(self.log(id).end);
        self.place(id, batch, base, epoch);
        (base, Offset(self.log(id).end))
    }

    pub(super) fn seal(&mut self) -> Done {
        let sealed = self.entries[self.sealed..].iter().map(|(id, _)| *id).collect();
        self.sealed = self.entries.len();
        Done { sealed, ..Done::default() }
    }

    /// Writes up to `entries` more sealed entries.
    pub(super) fn write(&mut self, entries: usize) -> Done {
        let to = self.sealed.min(self.durable + entries);
        let advanced = self.entries[self.durable..to].iter().map(|(id, _)| *id).collect();
        self.durable = to;
        Done { advanced, ticket: Ticket(to as u64), ..Done::default() }
    }

    /// What is durable survives, and as many of the sealed entries as chance would have it.
    pub(super) fn crash(&mut self, luck: usize) {
        let keep = self.sealed.min(self.durable + luck);
        self.entries.truncate(keep);
        (self.sealed, self.durable) = (keep, keep);
        for log in self.logs.values_mut() {
            *log = Log::default();
        }
        for (index, (id, entry)) in self.entries.iter().enumerate() {
            self.logs.get_mut(id).unwrap().apply(entry, index);
        }
        self.reads.clear();
        (self.busy, self.cold) = (false, false);
    }

    fn serve(&self, id: LogId, from: Offset, max_bytes: usize) -> Result<Served, LogError> {
        let log = self.logs.get(&id).ok_or(LogError::NoSuchLog(id))?;
        if from.0 < log.start || from.0 > log.end {
            return Err(LogError::OutOfRange { log: id, offset: from, start: Offset(log.start), end: Offset(log.end) });
        }
        let mut served = Served { next: from, ..Served::default() };
        let mut bytes = 0;
        for b in log.batches.iter().filter(|b| b.header.next_offset() > from && b.entry < self.sealed) {
            bytes += b.bytes.len();
            if bytes > max_bytes && !served.batches.is_empty() {
                break;
            }
            served.batches.push(b.bytes.clone());
            served.next = b.header.next_offset();
        }
        Ok(served)
    }

    pub(super) fn next_read(&mut self) -> Option<(ReadToken, Result<Served, LogError>)> {
        let (token, id, from) = self.reads.pop_front()?;
        Some((token, self.serve(id, from, 300)))
    }
}

impl ReplicaStore for Store {
    fn info(&self, id: LogId) -> Option<LogInfo> {
        let log = self.logs.get(&id)?;
        Some(LogInfo {
            log_start: Offset(log.start),
            durable_end: Offset(log.durable_end(self.durable)),
            log_end: Offset(log.end),
            size_bytes: 0,
            leader_epoch: log.epochs().last().map(|(e, _)| *e),
            segments: 0,
            damaged: false,
            sealed_end: Offset(log.end),
        })
    }

    fn read(&mut self, id: LogId, from: Offset, _: ReadUpTo, max_bytes: usize, _: bool) -> Result<Read, LogError> {
        let served = self.serve(id, from, max_bytes.min(300))?;
        if !self.cold || served.batches.is_empty() {
            return Ok(Read::Ready(served));
        }
        self.tokens += 1;
        self.reads.push_back((ReadToken(self.tokens), id, from));
        Ok(Read::Pending(ReadToken(self.tokens)))
    }

    fn append_replica(&mut self, id: LogId, batches: &[CheckedBatch], _: i64) -> Result<Appended, LogError> {
        if self.busy {
            return Err(LogError::Busy { waiting: 0 });
        }
        let base_offset = batches[0].header().base_offset;
        let mut ticket = Ticket(0);
        for b in batches {
            assert!(b.header().base_offset.0 >= self.log(id).end, "an overlapping append");
            ticket = self.place(id, b, b.header().base_offset, b.header().leader_epoch);
        }
        let last_offset = Offset(self.log(id).end - 1);
        Ok(Appended { base_offset, last_offset, ticket, duplicate: false, log_start: Offset(self.log(id).start) })
    }

    fn truncate(&mut self, id: LogId, to: Offset) -> Result<Ticket, LogError> {
        self.push(id, Entry::Truncate(to))
    }

    fn restart_log_at(&mut self, id: LogId, start: Offset) -> Result<Ticket, LogError> {
        self.push(id, Entry::Restart(start))
    }

    fn delete_records(&mut self, id: LogId, before: Offset) -> Result<Ticket, LogError> {
        self.push(id, Entry::Start(before))
    }

    fn epoch_end(&self, id: LogId, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let log = self.logs.get(&id)?;
        let epochs = log.epochs();
        let after = epochs.partition_point(|(e, _)| *e <= epoch);
        let (found, _) = epochs.get(after.checked_sub(1)?)?;
        Some((*found, Offset(epochs.get(after).map_or(log.end, |(_, start)| *start))))
    }
}
