//! Transactions in logs: what the engine says of them is what the batches of the log say, after crashes, truncations near
//! and far, as a replica, and after compaction.

use std::collections::{BTreeMap, BTreeSet};

use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, EndMarker, Stamp, records};

use super::crashes::Dice;
use super::replica::stored;
use super::*;
use crate::config::Cleanup;
use crate::io::Survive;
use crate::transactions::Aborted;

/// What names a batch in the model: for a marker, what its record says; nothing where compaction left no record.
pub(super) fn name_of(batch: &[u8]) -> u64 {
    batch.get(61..69).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()) >> 16)
}

/// The same batch, as part of a transaction.
fn transactional(batch: &CheckedBatch) -> CheckedBatch {
    let mut bytes = batch.bytes().to_vec();
    bytes[22] |= 0x10;
    let crc = crc32c(&bytes[batch::CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    batch::split(Bytes::from(bytes)).next().unwrap().unwrap().check().unwrap()
}

fn marker(producer_id: i64, commit: bool) -> EndMarker {
    EndMarker { producer_id, producer_epoch: 0, coordinator_epoch: 0, commit }
}

/// What the batches of a log say: open transactions as (producer, first), ended ones as (producer, first, last, committed).
#[derive(Debug, Default)]
struct Truth {
    open: BTreeMap<i64, i64>,
    ended: Vec<(i64, i64, i64, bool)>,
}

impl Truth {
    fn of<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Self {
        let mut truth = Self::default();
        for step in steps {
            match step {
                Step::Data { producer, first, .. } => {
                    truth.open.entry(*producer).or_insert(first.0);
                }
                Step::End { marker, at } => {
                    if let Some(first) = truth.open.remove(&marker.producer_id) {
                        truth.ended.push((marker.producer_id, first, at.0, marker.commit));
                    }
                }
            }
        }
        truth
    }

    fn stable_end(&self, upto: i64) -> i64 {
        let ended = self.ended.iter().filter(|(_, _, last, _)| *last >= upto).map(|(_, first, ..)| *first);
        self.open.values().copied().chain(ended).fold(upto, i64::min)
    }

    fn aborted(&self, from: i64, upto: i64) -> BTreeSet<(i64, i64)> {
        let inside = |(_, first, last, commit): &&(i64, i64, i64, bool)| !commit && *last >= from && *first < upto;
        self.ended.iter().filter(inside).map(|(producer, first, ..)| (*producer, *first)).collect()
    }
}

impl Rig {
    fn settled(&mut self, id: LogId) {
        self.until("transactions are found", |r| !r.engine.logs[r.engine.index_of(id).unwrap()].lost_transactions());
        self.until("producers are found", |r| !r.engine.logs[r.engine.index_of(id).unwrap()].producers.any_lost());
    }

    /// One record of a transaction; the producer goes on with the sequence that comes next.
    pub(super) fn transact(&mut self, id: LogId, name: u64, producer: i64, bytes: usize) -> Result<Ticket, LogError> {
        self.settled(id);
        let known = self.engine.producer(id, producer).filter(|p| p.last_sequence >= 0);
        let seq = known.map_or(0, |p| p.last_sequence + 1);
        let batch = transactional(&produced(name, 1, bytes, producer, 0, seq));
        let epoch = self.engine.info(id).and_then(|info| info.leader_epoch).unwrap_or(LeaderEpoch(0));
        let done = self.engine.append(id, &[batch], epoch, self.now.wall_ms)?;
        Ok(self.record(Asked::Append(id, vec![name], 1), done.ticket))
    }

    pub(super) fn end(&mut self, id: LogId, producer: i64, commit: bool) -> Result<Ticket, LogError> {
        self.settled(id);
        let epoch = self.engine.info(id).and_then(|info| info.leader_epoch).unwrap_or(LeaderEpoch(0));
        let end = marker(producer, commit);
        let done = self.engine.append_marker(id, &end, false, epoch, self.now.wall_ms)?;
        Ok(self.record(Asked::Append(id, vec![name_of(end.batch(0).unwrap().bytes())], 1), done.ticket))
    }

    /// What the engine says is what the log says. Of what began before the log's start it may know more.
    pub(super) fn check_transactions(&mut self, id: LogId, steps: &[Step], context: &str) {
        self.settled(id);
        let truth = Truth::of(steps);
        let info = self.engine.info(id).unwrap();
        let transactions = self.engine.logs[self.engine.index_of(id).unwrap()].transactions.clone().unwrap_or_default();
        if info.log_start > Offset(0) {
            let seen: BTreeSet<(i64, i64)> = truth.open.into_iter().collect();
            let told = transactions.open.iter().map(|(first, producer)| (*producer, first.0));
            let wrong: Vec<_> = told.filter(|open| open.1 >= info.log_start.0 && !seen.contains(open)).collect();
            return assert!(wrong.is_empty(), "{context}: {id}: open but not in the log: {wrong:?}");
        }
        let told: BTreeMap<i64, i64> = transactions.open.iter().map(|(first, producer)| (*producer, first.0)).collect();
        assert_eq!(told, truth.open, "{context}: {id}: open transactions");
        let list: Vec<_> = transactions.aborted.iter().map(|a| (a.producer_id, a.first.0, a.last.0, false)).collect();
        let aborted: Vec<_> = truth.ended.iter().copied().filter(|(.., commit)| !commit).collect();
        assert_eq!(list, aborted, "{context}: {id}: aborted transactions");
        let end = info.durable_end;
        assert_eq!(self.engine.stable_end(id, end).0, truth.stable_end(end.0), "{context}: {id}");
    }

    /// Reads everything there is, and compares.
    fn check_now(&mut self, id: LogId, context: &str) {
        self.read_all(id).unwrap();
        let steps = self.steps.remove(&id).unwrap();
        self.check_transactions(id, &steps, context);
    }

    fn reopen(self, orderly: bool) -> Self {
        let (mut rig, config, log_config) = (self, small(), LogConfig::default());
        if orderly {
            rig.engine.close(rig.now).unwrap();
        }
        let config = EngineConfig { producer_expiry_ms: rig.config.producer_expiry_ms, ..config };
        let kept = rig.log_config.clone();
        let disk = rig.engine.into_disk().crash(Survive::None);
        let mut rig = Self::open(disk, config, Model::new()).unwrap().0;
        rig.log_config = if kept == log_config { log_config } else { kept };
        for id in rig.engine.logs() {
            rig.engine.configure(id, rig.log_config.clone()).unwrap();
        }
        rig
    }

    /// All of a log as a reader of committed records gets it, in reads of some size: bases of data batches.
    fn committed(&mut self, id: LogId, max_bytes: usize) -> Vec<i64> {
        let info = self.engine.info(id).unwrap();
        let upto = self.engine.stable_end(id, info.durable_end);
        let (mut from, mut seen) = (info.log_start, Vec::new());
        while from < upto {
            let served = match self.engine.read(id, from, ReadUpTo::Committed(upto), max_bytes, true).unwrap() {
                Read::Ready(served) => served,
                Read::Pending(token) => self.wait_read(token).unwrap(),
            };
            assert!(served.next > from);
            seen.extend(consume(&served.batches, &served.aborted));
            from = served.next;
        }
        seen
    }
}

/// As Kafka's clients do it.
fn consume(batches: &[Bytes], aborted: &[Aborted]) -> Vec<i64> {
    let mut queue: Vec<&Aborted> = aborted.iter().collect();
    queue.sort_by_key(|aborted| std::cmp::Reverse(aborted.first));
    let (mut skipped, mut seen) = (BTreeSet::new(), Vec::new());
    for bytes in batches {
        let header = BatchHeader::read(bytes, 0).unwrap();
        while let Some(next) = queue.pop_if(|next| next.first <= header.last_offset()) {
            skipped.insert(next.producer_id);
        }
        match EndMarker::read(&header, bytes) {
            Some(end) if !end.commit => drop(skipped.remove(&header.producer_id)),
            Some(_) => {}
            None if header.is_transactional() && skipped.contains(&header.producer_id) => {}
            None if header.record_count > 0 => seen.push(header.base_offset.0),
            None => {}
        }
    }
    seen
}

/// For the random crashes: transactions of three producers.
pub(super) fn some_work(rig: &mut Rig, dice: &mut Dice, id: LogId, names: &mut u64) {
    *names += 10;
    let producer = 20 + dice.roll(3) as i64;
    let bytes = [20, 300, 1500, 5000][dice.roll(4) as usize];
    let done = match dice.roll(5) {
        0 => rig.end(id, producer, true),
        1 => rig.end(id, producer, false),
        _ => rig.transact(id, *names, producer, bytes),
    };
    assert!(matches!(done, Ok(_) | Err(LogError::Busy { .. })), "{done:?}");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Data(i64),
    End(bool),
    Flush,
    Truncate,
    TruncateFar,
}

const WORK: [Work; 7] =
    [Work::Data(20), Work::Data(21), Work::End(true), Work::End(false), Work::Flush, Work::Truncate, Work::TruncateFar];

fn begin(rig: &mut Rig, work: Work, n: u64) {
    let id = log_id(1);
    match work {
        Work::Data(producer) => drop(rig.transact(id, n, producer, 200).unwrap()),
        Work::End(commit) => drop(rig.end(id, 20, commit).unwrap()),
        Work::Flush => {
            let index = rig.engine.index_of(id).unwrap();
            rig.engine.queue_flush(index);
            rig.engine.sync.due = true;
            rig.engine.sync.changed = true;
        }
        Work::Truncate | Work::TruncateFar => {
            let model = rig.model();
            let back = if work == Work::Truncate { 1 } else { 3 };
            let log = &model[&id];
            let to = log.batches.iter().rev().nth(back - 1).map_or(0, |batch| batch.0);
            rig.truncate(id, Offset(to));
        }
    }
}

/// As `exhaustive` does it, for transactions: every workload of three operations after a transaction that is open, cut at
/// every completion, with every subset of what was not settled on disk.
#[test]
fn every_short_transaction_survives_every_power_cut() {
    let tiny = EngineConfig { journal_file_bytes: 16 << 10, journal_files: 4, mark_after_ms: 1 << 40, ..small() };
    let mut checked = 0;
    for (first, second, third) in
        WORK.iter().flat_map(|a| WORK.iter().flat_map(move |b| WORK.iter().map(move |c| (*a, *b, *c))))
    {
        let mut rig = Rig::new(7, tiny.clone());
        rig.create(log_id(1));
        let t = rig.transact(log_id(1), 900, 20, 100).unwrap();
        rig.until_durable(t);
        for (n, work) in [first, second, third].into_iter().enumerate() {
            begin(&mut rig, work, n as u64 + 1);
            let mut seen = None;
            for turn in 0..4 {
                rig.turn();
                let now = format!("{:?} {:?}", rig.engine.disk.unsynced(), rig.engine.disk.in_flight_units());
                if seen.replace(now.clone()) == Some(now) {
                    continue;
                }
                let disk = &rig.engine.disk;
                let units = disk.unsynced().len() + disk.in_flight_units().len();
                let masks = if units <= 6 { 1u64 << units } else { 64 };
                for mask in 0..masks {
                    checked += 1;
                    let context = format!("{first:?} {second:?} {third:?} after {n} turn {turn} mask {mask:#b}");
                    rig.check_recovery(rig.engine.disk.crash(Survive::Mask(mask)), &context);
                }
            }
        }
    }
    assert!(checked > 3000, "only {checked} power cuts were tried");
}

/// Three producers take turns; each ends its transaction now and then.
fn interleaved(rig: &mut Rig, id: LogId, rounds: u64, bytes: usize) {
    let mut dice = Dice::new(rounds);
    for n in 0..rounds {
        let producer = 20 + dice.roll(3) as i64;
        let t = match dice.roll(6) {
            0 => rig.end(id, producer, true).unwrap(),
            1 => rig.end(id, producer, false).unwrap(),
            2 => rig.append(id, &[n], 1, bytes).unwrap(),
            _ => rig.transact(id, n, producer, bytes).unwrap(),
        };
        rig.until_durable(t);
    }
}

#[test]
fn readers_of_committed_records_see_them_and_nothing_else() {
    for cold in [false, true] {
        let mut rig = Rig::new(30, small());
        let id = log_id(1);
        rig.create(id);
        interleaved(&mut rig, id, 150, 900);
        if cold {
            rig = rig.reopen(true);
        }
        rig.read_all(id).unwrap();
        let truth = Truth::of(&rig.steps[&id]);
        let all = rig.model().get(&id).map(|log| log.batches.clone()).unwrap_or_default();
        let stable = truth.stable_end(rig.engine.info(id).unwrap().durable_end.0);
        let steps = rig.steps[&id].clone();
        let is_shown = |base: i64| {
            let step = steps.iter().find(|step| match step {
                Step::Data { first, .. } => first.0 == base,
                Step::End { at, .. } => at.0 == base,
            });
            match step {
                Some(Step::End { .. }) => false,
                Some(Step::Data { producer, .. }) => !truth
                    .ended
                    .iter()
                    .any(|(p, first, last, commit)| p == producer && (*first..=*last).contains(&base) && !commit),
                None => true,
            }
        };
        let bases: Vec<i64> = if cold {
            (0..stable).collect()
        } else {
            all.iter().map(|batch| batch.0).filter(|base| *base < stable).collect()
        };
        let expected: Vec<i64> = bases.into_iter().filter(|base| is_shown(*base)).collect();
        assert!(expected.len() > 30 && !truth.aborted(0, stable).is_empty());
        for max_bytes in [1, 4_000, 1 << 20] {
            assert_eq!(rig.committed(id, max_bytes), expected, "cold {cold}, {max_bytes} bytes at once");
        }
    }
}

#[test]
fn a_replica_knows_what_its_leader_knows() {
    let mut leader = Rig::new(31, small());
    let id = log_id(1);
    leader.create(id);
    interleaved(&mut leader, id, 120, 300);
    let mut follower = Rig::new(32, small());
    follower.create(id);
    let info = leader.engine.info(id).unwrap();
    let mut from = Offset(0);
    while from < info.durable_end {
        let served = match leader.engine.read(id, from, ReadUpTo::Sealed, 3_000, true).unwrap() {
            Read::Ready(served) => served,
            Read::Pending(token) => leader.wait_read(token).unwrap(),
        };
        for bytes in &served.batches {
            let checked = batch::split(bytes.clone()).next().unwrap().unwrap().check().unwrap();
            let done = follower.engine.append_replica(id, &[checked], follower.now.wall_ms).unwrap();
            follower.until_durable(done.ticket);
        }
        from = served.next;
    }
    let known = |rig: &Rig| {
        let list = rig.engine.producers(id).into_iter();
        list.map(|p| (p.producer_id, p.producer_epoch, p.last_sequence, p.coordinator_epoch, p.open_from))
            .collect::<Vec<_>>()
    };
    assert_eq!(known(&follower), known(&leader));
    let aborted = |rig: &Rig| rig.engine.logs[rig.engine.index_of(id).unwrap()].transactions.clone().unwrap().aborted;
    assert_eq!(aborted(&follower), aborted(&leader));
    follower.check_now(id, "the follower");
    let mut follower = follower.reopen(false);
    follower.check_now(id, "after a crash");
    assert_eq!(aborted(&follower), aborted(&leader));
}

/// An unclean election cuts off what was settled long ago: what is open is read from the log again, and meanwhile nothing
/// that may be part of it counts as stable.
#[test]
fn a_truncation_that_goes_too_far_is_found_out() {
    for crash in [false, true] {
        let mut rig = Rig::new(33, small());
        let id = log_id(1);
        rig.create(id);
        interleaved(&mut rig, id, 200, 900);
        rig = rig.reopen(true);
        rig.read_all(id).unwrap();
        let steps = rig.steps[&id].clone();
        // Inside of a transaction that was committed since.
        let truth = Truth::of(&steps);
        let (producer, first, last, _) =
            *truth.ended.iter().rfind(|(_, first, last, commit)| *commit && last - first > 3 && *last < 150).unwrap();
        rig.engine.truncate(id, Offset(last)).unwrap();
        let index = rig.engine.index_of(id).unwrap();
        assert!(rig.engine.logs[index].lost_transactions());
        assert!(
            rig.engine.stable_end(id, Offset(last)).0 <= first,
            "the transaction of producer {producer} is open again"
        );
        assert!(matches!(rig.append(id, &[1], 1, 50), Err(LogError::Busy { .. })));
        assert!(matches!(
            rig.engine.append_replica(id, &[stored(&batch(1, 1, 50), last, 9)], 0),
            Err(LogError::Busy { .. })
        ));
        if crash {
            rig = rig.reopen(false);
        }
        rig.settled(id);
        let info = rig.engine.producer(id, producer).unwrap();
        assert_eq!(
            info.open_from.is_some(),
            rig.engine.info(id).unwrap().log_end >= Offset(last).min(Offset(first + 1))
        );
        rig.check_now(id, "after the truncation");
        if !crash {
            assert!(rig.events.iter().any(|e| matches!(e, Event::StableMoved(_))));
            assert!(rig.events.iter().any(|e| matches!(e, Event::Room)), "who was refused is told");
        }
        let t = rig.end(id, producer, false).unwrap();
        rig.until_durable(t);
        rig.check_now(id, "it goes on");
    }
}

#[test]
fn the_last_stable_offset_follows_what_is_committed() {
    let mut rig = Rig::new(34, small());
    let id = log_id(1);
    rig.create(id);
    assert_eq!(rig.engine.stable_end(id, Offset(0)), Offset(0));
    rig.append(id, &[1], 1, 50).unwrap();
    rig.transact(id, 2, 20, 50).unwrap();
    rig.append(id, &[3], 1, 50).unwrap();
    rig.end(id, 20, true).unwrap();
    let t = rig.append(id, &[4], 1, 50).unwrap();
    rig.until_durable(t);
    // 0 data, 1 of the transaction, 2 data, 3 its end, 4 data.
    let ends: Vec<i64> = (0..=5).map(|upto| rig.engine.stable_end(id, Offset(upto)).0).collect();
    assert_eq!(ends, [0, 1, 1, 1, 4, 5]);
    rig.engine.delete_records(id, Offset(2)).unwrap();
    assert_eq!(rig.engine.stable_end(id, Offset(3)), Offset(2), "never below the log's start");
}

#[test]
fn markers_are_checked() {
    let mut rig = Rig::new(35, small());
    let id = log_id(1);
    rig.create(id);
    rig.transact(id, 1, 20, 50).unwrap();
    let end = |rig: &mut Rig, epoch, coordinator_epoch, strict| {
        let end = EndMarker { producer_id: 20, producer_epoch: epoch, coordinator_epoch, commit: true };
        rig.engine.append_marker(id, &end, strict, LeaderEpoch(0), 5).map(|done| done.base_offset.0)
    };
    assert!(matches!(end(&mut rig, 0, 5, true), Err(LogError::ProducerFenced { .. })));
    assert_eq!(end(&mut rig, 1, 5, true).unwrap(), 1);
    assert_eq!(end(&mut rig, 1, 5, true).unwrap(), 2, "said again");
    assert!(matches!(end(&mut rig, 1, 4, true), Err(LogError::CoordinatorFenced { .. })));
    assert!(matches!(end(&mut rig, 0, 5, false), Err(LogError::ProducerFenced { .. })));
    // Data of the epoch that was ended comes too late; the next one begins with sequence 0.
    let data = |seq, epoch| transactional(&produced(9, 1, 50, 20, epoch, seq));
    let late = rig.engine.append(id, &[data(1, 0)], LeaderEpoch(0), 5);
    assert!(matches!(late, Err(LogError::ProducerFenced { .. })), "{late:?}");
    let gap = rig.engine.append(id, &[data(1, 1)], LeaderEpoch(0), 5);
    assert!(matches!(gap, Err(LogError::OutOfOrderSequence { expected: 0, .. })), "{gap:?}");
    rig.engine.append(id, &[data(0, 1)], LeaderEpoch(0), 5).unwrap();
    let outside = rig.engine.append(id, &[produced(9, 1, 50, 20, 1, 1)], LeaderEpoch(0), 5);
    assert!(matches!(outside, Err(LogError::InvalidTransaction { .. })), "{outside:?}");
    // A producer that the log does not know: the marker counts for what comes.
    let fence = EndMarker { producer_id: 99, producer_epoch: 7, coordinator_epoch: 0, commit: false };
    rig.engine.append_marker(id, &fence, false, LeaderEpoch(0), 5).unwrap();
    let fenced = rig.engine.append(id, &[transactional(&produced(9, 1, 50, 99, 6, 0))], LeaderEpoch(0), 5);
    assert!(matches!(fenced, Err(LogError::ProducerFenced { .. })), "{fenced:?}");
}

#[test]
fn an_open_transaction_is_never_forgotten_and_idle_logs_keep_nothing() {
    let config = EngineConfig { producer_expiry_ms: 200, ..small() };
    let mut rig = Rig::new(36, config);
    let (id, plain) = (log_id(1), log_id(2));
    rig.create(id);
    rig.create(plain);
    rig.transact(id, 1, 20, 50).unwrap();
    rig.transact(id, 2, 21, 50).unwrap();
    rig.end(id, 21, true).unwrap();
    rig.append(plain, &[3], 1, 50).unwrap();
    let index = |rig: &Rig, id| rig.engine.index_of(id).unwrap();
    assert!(rig.engine.logs[index(&rig, plain)].transactions.is_none());
    for _ in 0..600 {
        rig.turn();
    }
    let known: Vec<i64> = rig.engine.producers(id).iter().map(|p| p.producer_id).collect();
    assert_eq!(known, [20], "only who has an open transaction");
    assert_eq!(rig.engine.stable_end(id, Offset(3)), Offset(0));
    rig.now.wall_ms += crate::config::LATE_TRANSACTION_MS;
    rig.until("late", |r| r.engine.stats().late_transactions == 1 && r.engine.stats().open_transactions == 1);
    let t = rig.end(id, 20, false).unwrap();
    rig.until_durable(t);
    for _ in 0..600 {
        rig.turn();
    }
    assert!(rig.engine.producers(id).is_empty());
    rig.engine.delete_records(id, Offset(4)).unwrap();
    rig.until("nothing is kept", |r| r.engine.logs[index(r, id)].transactions.is_none());
}

const LOG: u128 = 1;

fn keyed(producer: Option<(i64, i32)>, key: &str, value: &str) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::Lz4, None);
    builder.set_transactional(producer.is_some());
    builder.append(7, Some(key.as_bytes()), Some(value.as_bytes()), &[("h", "v")]).unwrap();
    let stamp = producer.map_or(Stamp::NONE, |(producer_id, base_sequence)| Stamp {
        producer_id,
        producer_epoch: 0,
        base_sequence,
    });
    batch::split(builder.build(stamp).unwrap()).next().unwrap().unwrap().check().unwrap()
}

/// A compacted log, and what a reader of committed records must find in it: by key, the newest value.
struct Compacted {
    rig: Rig,
    sequences: BTreeMap<i64, i32>,
    open: BTreeMap<i64, Vec<(String, String)>>,
    newest: BTreeMap<String, String>,
    names: u64,
}

impl Compacted {
    fn new(seed: u64, delete_retention_ms: i64) -> Self {
        let mut rig = Rig::new(seed, small());
        rig.log_config = LogConfig {
            segment_bytes: 12 << 10,
            cleanup: Cleanup::Compact,
            min_cleanable_permille: 200,
            delete_retention_ms,
            ..LogConfig::default()
        };
        let t = rig.create(log_id(LOG));
        rig.until_durable(t);
        Self { rig, sequences: BTreeMap::new(), open: BTreeMap::new(), newest: BTreeMap::new(), names: 0 }
    }

    fn work(&mut self, dice: &mut Dice, batches: u64) {
        let id = log_id(LOG);
        for _ in 0..batches {
            self.rig.settled(id);
            self.names += 1;
            let (key, value) = (format!("key-{}", dice.roll(12)), format!("{}-{}", self.names, "v".repeat(500)));
            let producer = 20 + dice.roll(3) as i64;
            let ticket = match dice.roll(7) {
                0 | 1 => {
                    let commit = dice.roll(2) == 0;
                    let done = self.rig.end(id, producer, commit).unwrap();
                    let ended = self.open.remove(&producer).unwrap_or_default();
                    self.newest.extend(ended.into_iter().filter(|_| commit));
                    done
                }
                2 => {
                    self.newest.insert(key.clone(), value.clone());
                    self.rig.engine.append(id, &[keyed(None, &key, &value)], LeaderEpoch(0), 0).unwrap().ticket
                }
                _ => {
                    let sequence = self.sequences.entry(producer).or_default();
                    let batch = keyed(Some((producer, *sequence)), &key, &value);
                    *sequence += 1;
                    self.open.entry(producer).or_default().push((key, value));
                    self.rig.engine.append(id, &[batch], LeaderEpoch(0), 0).unwrap().ticket
                }
            };
            self.rig.until_durable(ticket);
        }
    }

    /// Ends what is open.
    fn end_all(&mut self) {
        for producer in 20..23 {
            let t = self.rig.end(log_id(LOG), producer, false).unwrap();
            self.rig.until_durable(t);
            self.open.remove(&producer);
        }
    }

    /// Keys in the order of their records in a log are overwritten in that order, whoever commits first.
    fn read(&mut self) -> BTreeMap<String, String> {
        let id = log_id(LOG);
        let shown = self.rig.committed(id, 6 << 10);
        let info = self.rig.engine.info(id).unwrap();
        let mut found = BTreeMap::new();
        let mut from = info.log_start;
        while from < info.durable_end {
            let served = match self.rig.engine.read(id, from, ReadUpTo::Sealed, 6 << 10, true).unwrap() {
                Read::Ready(served) => served,
                Read::Pending(token) => self.rig.wait_read(token).unwrap(),
            };
            for bytes in &served.batches {
                let header = BatchHeader::read(bytes, 0).unwrap();
                for record in &records(&header, bytes, 1 << 20).unwrap() {
                    let record = record.unwrap();
                    if shown.contains(&header.base_offset.0) {
                        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                        found.insert(text(record.key.unwrap()), text(record.value.unwrap()));
                    }
                }
            }
            from = served.next;
        }
        found
    }

    fn markers(&mut self) -> usize {
        let id = log_id(LOG);
        self.rig.read_all(id).unwrap();
        self.rig.steps[&id].iter().filter(|step| matches!(step, Step::End { .. })).count()
    }
}

/// By key the last committed value in the order of the log.
fn expected(list: &[(String, String, bool)]) -> BTreeMap<String, String> {
    list.iter().filter(|(.., shown)| *shown).map(|(key, value, _)| (key.clone(), value.clone())).collect()
}

/// Keys and values of a log with whether readers of committed records see them, before anything is compacted.
fn whole(c: &mut Compacted) -> Vec<(String, String, bool)> {
    let id = log_id(LOG);
    let shown = c.rig.committed(id, 1 << 20);
    let info = c.rig.engine.info(id).unwrap();
    let (mut from, mut list) = (info.log_start, Vec::new());
    while from < info.durable_end {
        let served = match c.rig.engine.read(id, from, ReadUpTo::Sealed, 1 << 20, true).unwrap() {
            Read::Ready(served) => served,
            Read::Pending(token) => c.rig.wait_read(token).unwrap(),
        };
        for bytes in &served.batches {
            let header = BatchHeader::read(bytes, 0).unwrap();
            for record in records(&header, bytes, 1 << 20).unwrap().iter().filter(|_| !header.is_control()) {
                let record = record.unwrap();
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                let is_shown = shown.contains(&header.base_offset.0);
                list.push((text(record.key.unwrap()), text(record.value.unwrap()), is_shown));
            }
        }
        from = served.next;
    }
    list
}

/// Trap 24: what was aborted goes and shadows nothing; nothing of an open transaction is touched; markers stay while
/// anything of their transaction does.
#[test]
fn compaction_keeps_what_is_committed() {
    for seed in 0..12 {
        let mut dice = Dice::new(seed);
        // Without compaction, the truth.
        let mut plain = Compacted::new(seed, i64::MAX);
        plain.rig.log_config.cleanup = Cleanup::Delete;
        plain.rig.engine.configure(log_id(LOG), plain.rig.log_config.clone()).unwrap();
        plain.work(&mut dice, 150);
        plain.end_all();
        let truth = expected(&whole(&mut plain));
        let mut dice = Dice::new(seed);
        let mut c = Compacted::new(seed, i64::MAX);
        c.work(&mut dice, 150);
        c.end_all();
        c.rig.until("compacted", |r| r.engine.stats().compactions > 0);
        c.rig.until("old files gone", |r| r.engine.sync.is_clean());
        assert_eq!(c.read(), truth, "seed {seed}");
        c.rig.check_marked(seed);
    }
}

impl Rig {
    /// Every transaction of which something is left has its end.
    fn check_marked(&mut self, seed: u64) {
        let id = log_id(LOG);
        self.read_all(id).unwrap();
        let open = Truth::of(&self.steps[&id]).open;
        assert!(open.is_empty(), "seed {seed}: without an end: {open:?}");
    }
}

#[test]
fn nothing_of_an_open_transaction_is_compacted() {
    let mut c = Compacted::new(50, i64::MAX);
    let id = log_id(LOG);
    for n in 0..4 {
        let plain = keyed(None, "shadowed", &format!("{n}-{}", "v".repeat(500)));
        c.rig.engine.append(id, &[plain], LeaderEpoch(0), 0).unwrap();
    }
    let open = keyed(Some((20, 0)), "shadowed", "of the transaction");
    c.rig.engine.append(id, &[open], LeaderEpoch(0), 0).unwrap();
    for n in 0..120 {
        let other = keyed(None, "other", &format!("{n}-{}", "v".repeat(500)));
        let done = c.rig.engine.append(id, &[other], LeaderEpoch(0), 0).unwrap();
        c.rig.until_durable(done.ticket);
    }
    for _ in 0..400 {
        c.rig.turn();
    }
    assert_eq!(c.rig.read_all(id).unwrap().batches.len(), 125, "all of it lies at the last stable offset or above");
    let t = c.rig.end(id, 20, false).unwrap();
    c.rig.until_durable(t);
    c.rig.until("compacted", |r| r.engine.stats().compactions > 0);
    let found = c.read();
    assert!(found["shadowed"].starts_with("3-"), "what was aborted shadows nothing: {found:?}");
}

#[test]
fn markers_go_when_nothing_is_left_of_their_transactions() {
    let mut c = Compacted::new(51, 0);
    let mut dice = Dice::new(51);
    c.work(&mut dice, 120);
    c.end_all();
    let before = c.markers();
    let mut last = usize::MAX;
    for _ in 0..12 {
        let done = c.rig.engine.stats().compactions;
        for n in 0..60 {
            let other = keyed(None, &format!("key-{}", n % 12), &format!("{n}-{}", "w".repeat(500)));
            let done = c.rig.engine.append(log_id(LOG), &[other], LeaderEpoch(0), 0).unwrap();
            c.rig.until_durable(done.ticket);
        }
        c.rig.until("compacted", |r| r.engine.stats().compactions > done);
        c.rig.until("old files gone", |r| r.engine.sync.is_clean());
        last = c.markers();
        c.rig.check_marked(51);
    }
    assert!(last < 5, "{last} of {before} markers are left");
    let index = c.rig.engine.index_of(log_id(LOG)).unwrap();
    let aborted = c.rig.engine.logs[index].transactions.as_ref().map_or(0, |t| t.aborted.len());
    assert!(aborted < 5, "{aborted} entries are left of transactions that are gone");
}

#[test]
fn a_crash_at_any_point_of_a_compaction_shows_nothing_aborted() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed + 900);
        let mut c = Compacted::new(seed, if seed % 2 == 0 { i64::MAX } else { 0 });
        let mut truth = BTreeMap::new();
        for round in 0..4 {
            let mut plain = whole(&mut c);
            let batches = 20 + dice.roll(30);
            c.work(&mut dice, batches);
            c.end_all();
            plain.extend(whole(&mut c));
            truth.extend(expected(&plain));
            for _ in 0..dice.roll(150) {
                c.rig.turn();
            }
            let survive = Survive::Seeded(dice.roll(1 << 40));
            let disk = c.rig.engine.disk_mut();
            let disk = if dice.roll(2) == 0 { disk.crash(survive) } else { disk.kill(survive) };
            let config = c.rig.log_config.clone();
            let context = format!("seed {seed} round {round}");
            c.rig = Rig::open(disk, small(), Model::new()).unwrap_or_else(|e| panic!("{context}: {e}")).0;
            c.rig.engine.configure(log_id(LOG), config.clone()).unwrap();
            c.rig.log_config = config;
            assert_eq!(c.read(), truth, "{context}");
        }
    }
}
