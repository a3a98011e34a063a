//! What replication asks of the engine: appends as the leader stored them, truncation with all that hangs on it, a new
//! beginning after damage, and reads that end where the caller says.

use std::path::PathBuf;

use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::*;
use crate::engine::Lookup;
use crate::io::{Fault, FaultAction, FaultOn, Survive};
use crate::producers::SeqBatch;

/// A batch as a leader stores it.
pub(super) fn stored(batch: &CheckedBatch, base: i64, epoch: i32) -> CheckedBatch {
    let mut bytes = vec![0; batch.len()];
    batch.write_at(Offset(base), LeaderEpoch(epoch), &mut bytes).unwrap();
    batch::split(Bytes::from(bytes)).next().unwrap().unwrap().check().unwrap()
}

impl Rig {
    fn store(&mut self, id: LogId, batch: &CheckedBatch, base: i64, epoch: i32) -> Result<Ticket, LogError> {
        let done = self.engine.append_replica(id, &[stored(batch, base, epoch)], self.now.wall_ms)?;
        Ok(done.ticket)
    }

    fn reopened(mut self, orderly: bool) -> Self {
        if orderly {
            self.engine.close(self.now).unwrap();
        }
        let disk = self.engine.into_disk().crash(Survive::None);
        Self::open(disk, self.config, Model::new()).unwrap().0
    }

    /// Everything that was appended is in segments, none of it in memory.
    fn cold(self) -> Self {
        self.reopened(true)
    }

    fn bases(&mut self, id: LogId) -> Vec<i64> {
        self.read_all(id).unwrap().batches.iter().map(|b| b.0).collect()
    }

    /// What producer 7 is told about a batch of one record with this sequence: its offset if it is known.
    fn retry(&mut self, id: LogId, epoch: i16, seq: i32) -> Result<Option<i64>, LogError> {
        for _ in 0..5_000 {
            let index = self.engine.index_of(id)?;
            let producers = &self.engine.logs[index].producers;
            if !producers.any_lost() {
                let verdict = producers.check(id, produced(1, 1, 50, 7, epoch, seq).header())?;
                return Ok(match verdict {
                    Verdict::Fresh => None,
                    Verdict::Duplicate(SeqBatch { base, .. }) => Some(base.0),
                });
            }
            self.turn();
        }
        panic!("producers are never found")
    }
}

#[test]
fn a_replica_keeps_offsets_epochs_and_gaps_over_crashes() {
    for (orderly, bytes) in [(false, 50), (true, 50), (false, 3000), (true, 3000)] {
        let mut rig = Rig::new(1, small());
        let id = log_id(1);
        rig.create(id);
        for (n, (base, epoch)) in [(0, 1), (1, 1), (5, 1), (6, 4), (20, 4), (31, 7)].into_iter().enumerate() {
            let t = rig.store(id, &batch(n as u64, 1, bytes), base, epoch).unwrap();
            rig.until_durable(t);
        }
        for _ in 0..2 {
            let info = rig.engine.info(id).unwrap();
            assert_eq!((info.log_end, info.durable_end, info.sealed_end), (Offset(32), Offset(32), Offset(32)));
            assert_eq!(rig.bases(id), [0, 1, 5, 6, 20, 31]);
            let ends = [0, 1, 3, 4, 6, 7, 9].map(|e| rig.engine.epoch_end(id, LeaderEpoch(e)).map(|(e, o)| (e.0, o.0)));
            let (one, four, seven) = (Some((1, 6)), Some((4, 31)), Some((7, 32)));
            assert_eq!(ends, [None, one, one, four, four, seven, seven]);
            rig = rig.reopened(orderly);
        }
        let t = rig.append(id, &[9], 1, 50).unwrap();
        rig.until_durable(t);
        assert_eq!(rig.bases(id).last(), Some(&32), "a leader goes on behind the gaps");
    }
}

#[test]
fn a_replica_refuses_what_does_not_follow() {
    let mut rig = Rig::new(2, small());
    let id = log_id(1);
    rig.create(id);
    rig.store(id, &batch(1, 5, 50), 10, 3).unwrap();
    for (base, epoch) in [(0, 3), (14, 3), (10, 3)] {
        let refused = rig.store(id, &batch(2, 1, 50), base, epoch);
        assert!(matches!(refused, Err(LogError::OutOfRange { end: Offset(15), .. })), "{base}: {refused:?}");
    }
    let refused = rig.store(id, &batch(2, 1, 50), 15, 2);
    assert!(matches!(refused, Err(LogError::StaleEpoch { .. })), "{refused:?}");
    let pair = [stored(&batch(2, 1, 50), 15, 3), stored(&batch(3, 1, 50), 15, 3)];
    assert!(rig.engine.append_replica(id, &pair, 0).is_err(), "the second overlaps the first");
    assert_eq!(rig.engine.info(id).unwrap().log_end, Offset(15), "nothing of a refused append is kept");
    let marker = {
        let mut bytes = batch(4, 1, 10).bytes().to_vec();
        bytes[22] = 0x30;
        let crc = crc32c(&bytes[batch::CRC_START..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        batch::split(Bytes::from(bytes)).next().unwrap().unwrap().check().unwrap()
    };
    let t = rig.store(id, &marker, 15, 3).unwrap();
    rig.until_durable(t);
    assert_eq!(rig.bases(id), [10, 15], "a control batch is stored as any other");
}

#[test]
fn reads_end_at_their_bound_and_never_inside_a_batch() {
    for cold in [false, true] {
        let mut rig = Rig::new(3, small());
        let id = log_id(1);
        rig.create(id);
        for (base, n) in [(0, 3), (3, 3), (10, 4)] {
            let t = rig.store(id, &batch(base, n, 700), base as i64, 0).unwrap();
            rig.until_durable(t);
        }
        if cold {
            rig = rig.cold();
        }
        let table = [
            (0, ReadUpTo::Offset(Offset(0)), vec![]),
            (0, ReadUpTo::Offset(Offset(2)), vec![]),
            (0, ReadUpTo::Offset(Offset(3)), vec![0]),
            (1, ReadUpTo::Offset(Offset(5)), vec![0]),
            (4, ReadUpTo::Offset(Offset(6)), vec![3]),
            (6, ReadUpTo::Offset(Offset(13)), vec![]),
            (7, ReadUpTo::Offset(Offset(14)), vec![10]),
            (0, ReadUpTo::Offset(Offset(99)), vec![0, 3, 10]),
            (0, ReadUpTo::Sealed, vec![0, 3, 10]),
            (14, ReadUpTo::Sealed, vec![]),
            (9, ReadUpTo::Offset(Offset(5)), vec![]),
        ];
        for (from, upto, expected) in table {
            let served = match rig.engine.read(id, Offset(from), upto, 1 << 20, true).unwrap() {
                Read::Ready(served) => served,
                Read::Pending(token) => rig.wait_read(token).unwrap(),
            };
            let bases: Vec<i64> =
                served.batches.iter().map(|b| i64::from_be_bytes(b[..8].try_into().unwrap())).collect();
            assert_eq!(bases, expected, "from {from} {upto:?}, cold {cold}");
            assert!(served.next >= Offset(from));
        }
    }
}

#[test]
fn what_is_sealed_is_told_and_read_before_it_is_durable() {
    let mut rig = Rig::new(4, small());
    let (id, quiet) = (log_id(1), log_id(2));
    for id in [id, quiet] {
        let t = rig.create(id);
        rig.until_durable(t);
    }
    rig.engine.watch_sealed(id, true).unwrap();
    rig.engine.disk_mut().inject(Fault::next(FaultOn::Write, "journal/", FaultAction::Slow { steps: 50 }));
    let t = rig.append(id, &[1, 2], 1, 50).unwrap();
    rig.append(quiet, &[3], 1, 50).unwrap();
    rig.append(id, &[4], 1, 50).unwrap();
    let before = rig.engine.info(id).unwrap();
    assert_eq!((before.log_end, before.sealed_end), (Offset(3), Offset(0)));
    rig.until("sealed", |r| r.events.iter().any(|e| matches!(e, Event::Sealed(_))));
    let info = rig.engine.info(id).unwrap();
    assert_eq!((info.durable_end, info.sealed_end), (Offset(0), Offset(3)));
    let Read::Ready(served) = rig.engine.read(id, Offset(0), ReadUpTo::Sealed, 1 << 20, true).unwrap() else {
        panic!()
    };
    assert_eq!(served.batches.len(), 3);
    rig.until_durable(t);
    let told: Vec<_> = rig.events.iter().filter(|e| matches!(e, Event::Sealed(_))).collect();
    assert!(matches!(told[..], [Event::Sealed(only)] if *only == id), "once per log and frame: {told:?}");
    rig.engine.watch_sealed(id, false).unwrap();
    rig.events.clear();
    let t = rig.append(id, &[5], 1, 50).unwrap();
    rig.until_durable(t);
    assert!(!rig.events.iter().any(|e| matches!(e, Event::Sealed(_))));
}

/// The cut is in a segment whose chunks are not known; what comes next leaves a gap over what was cut off.
#[test]
fn a_gap_does_not_bring_back_what_a_truncation_cut_off() {
    let mut rig = Rig::new(5, small());
    let id = log_id(1);
    rig.create(id);
    for n in 0..10 {
        let t = rig.store(id, &batch(n, 1, 300), n as i64, 1).unwrap();
        rig.until_durable(t);
    }
    rig = rig.cold();
    let (_, end) = rig.engine.truncate(id, Offset(5)).unwrap();
    assert_eq!(end, Offset(5));
    let t = rig.store(id, &batch(90, 1, 300), 8, 2).unwrap();
    rig.until_durable(t);
    for _ in 0..2 {
        assert_eq!(rig.bases(id), [0, 1, 2, 3, 4, 8]);
        assert_eq!(rig.engine.epoch_end(id, LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(8))));
        rig = rig.cold();
    }
}

#[test]
fn a_truncation_into_a_gap_or_a_batch_ends_with_the_last_batch() {
    let mut rig = Rig::new(6, small());
    let id = log_id(1);
    rig.create(id);
    for (base, n) in [(0, 5), (10, 5), (20, 5)] {
        rig.store(id, &batch(base, n, 50), base as i64, 1).unwrap();
    }
    for (to, expected) in [(22, 15), (15, 15), (8, 5)] {
        assert_eq!(rig.engine.truncate(id, Offset(to)).unwrap().1, Offset(expected), "to {to}");
        assert_eq!(rig.engine.info(id).unwrap().log_end, Offset(expected));
    }
    let (t, _) = rig.engine.truncate(id, Offset(5)).unwrap();
    rig.until_durable(t);
    assert_eq!(rig.reopened(false).bases(id), [0]);
}

/// Batches of producer 7, each one record, in one log; other logs push them out of memory.
fn with_producer(seed: u64, sequences: std::ops::Range<i32>, epoch: i16) -> (Rig, LogId) {
    let mut rig = Rig::new(seed, small());
    let id = log_id(1);
    rig.create(id);
    for seq in sequences {
        let base = rig.engine.info(id).unwrap().log_end.0;
        let t = rig.store(id, &produced(1, 1, 900, 7, epoch, seq), base, 1).unwrap();
        rig.until_durable(t);
    }
    (rig, id)
}

#[test]
fn producers_roll_back_exactly_with_a_truncation() {
    for (cold, crash) in [(false, false), (true, false), (true, true), (false, true)] {
        let (mut rig, id) = with_producer(7, 0..60, 3);
        if cold {
            rig = rig.cold();
        }
        let (t, _) = rig.engine.truncate(id, Offset(30)).unwrap();
        if cold {
            let index = rig.engine.index_of(id).unwrap();
            assert!(rig.engine.logs[index].producers.any_lost(), "its batches must be looked up");
            let early = rig.engine.append(id, &[produced(1, 1, 50, 7, 3, 29)], LeaderEpoch(2), 0);
            assert!(matches!(early, Err(LogError::Busy { .. })), "{early:?}");
        }
        rig.until_durable(t);
        if crash {
            rig = rig.reopened(false);
        }
        for seq in 25..30 {
            assert_eq!(rig.retry(id, 3, seq).unwrap(), Some(i64::from(seq)), "cold {cold} crash {crash}: {seq}");
        }
        assert_eq!(rig.retry(id, 3, 30).unwrap(), None);
        for seq in [24, 31, 45, 59, 60] {
            let refused = rig.retry(id, 3, seq);
            assert!(matches!(refused, Err(LogError::OutOfOrderSequence { expected: 30, .. })), "{seq}: {refused:?}");
        }
        assert!(matches!(rig.retry(id, 2, 0), Err(LogError::ProducerFenced { .. })));
        if cold && !crash {
            assert!(rig.events.iter().any(|e| matches!(e, Event::Room)), "who was refused is told");
        }
    }
}

#[test]
fn an_epoch_that_was_cut_off_is_forgotten_and_the_one_before_found() {
    let (mut rig, id) = with_producer(8, 0..20, 3);
    for seq in 0..7 {
        let t = rig.store(id, &produced(1, 1, 900, 7, 4, seq), 20 + i64::from(seq), 1).unwrap();
        rig.until_durable(t);
    }
    rig = rig.cold();
    rig.engine.truncate(id, Offset(20)).unwrap();
    assert_eq!(rig.retry(id, 3, 19).unwrap(), Some(19));
    assert_eq!(rig.retry(id, 4, 0).unwrap(), None);
}

#[test]
fn a_producer_whose_first_batch_is_cut_off_never_was() {
    let (mut rig, id) = with_producer(9, 0..3, 0);
    rig.engine.truncate(id, Offset(0)).unwrap();
    assert_eq!(rig.retry(id, 0, 0).unwrap(), None);
    let index = rig.engine.index_of(id).unwrap();
    assert!(rig.engine.logs[index].producers.is_empty());
}

#[test]
fn a_log_restarts_elsewhere_with_nothing_of_what_it_was() {
    for crash in [None, Some(false), Some(true)] {
        let (mut rig, id) = with_producer(10, 0..40, 2);
        let read = rig.engine.read(id, Offset(0), ReadUpTo::Sealed, 1000, true).unwrap();
        let ticket = rig.engine.restart_log_at(id, Offset(100)).unwrap();
        if let Read::Pending(token) = read {
            assert!(matches!(rig.wait_read(token), Err(LogError::OutOfRange { .. })));
        }
        rig.until_durable(ticket);
        if let Some(orderly) = crash {
            rig = rig.reopened(orderly);
        }
        let info = rig.engine.info(id).unwrap();
        assert_eq!((info.log_start, info.log_end, info.durable_end), (Offset(100), Offset(100), Offset(100)));
        assert_eq!((info.leader_epoch, info.size_bytes), (None, 0));
        assert_eq!(rig.retry(id, 2, 5).unwrap(), None);
        let t = rig.store(id, &batch(5, 2, 900), 103, 0).unwrap();
        rig.until_durable(t);
        rig = rig.reopened(true);
        assert_eq!(rig.bases(id), [103], "restart {crash:?}");
        assert!(rig.read_all(id).unwrap().start == 100);
    }
}

#[test]
fn a_crash_leaves_the_old_log_or_the_new_one() {
    for seed in 0..60 {
        let (mut rig, id) = with_producer(seed, 0..10, 2);
        rig.engine.restart_log_at(id, Offset(5)).unwrap();
        let _ = rig.store(id, &batch(90, 1, 900), 7, 9).unwrap();
        for _ in 0..seed % 20 {
            rig.turn();
        }
        let acknowledged = rig.engine.info(id).unwrap().durable_end == Offset(8);
        let disk = rig.engine.into_disk().crash(Survive::Seeded(seed));
        let mut rig = Rig::open(disk, small(), Model::new()).unwrap().0;
        let bases = rig.bases(id);
        let old: Vec<i64> = (0..10).collect();
        assert!(bases == [7] || (!acknowledged && (bases == old || bases.is_empty())), "seed {seed}: {bases:?}");
    }
}

fn segment_files(rig: &mut Rig) -> Vec<PathBuf> {
    let list = crate::io::Op::List { path: "segments".into() };
    let listed = crate::io::call(rig.engine.disk_mut(), crate::io::Token(u64::MAX), list, &mut Vec::new());
    let Ok(crate::io::Done::Listed(names)) = listed else { panic!("{listed:?}") };
    names.iter().map(|name| PathBuf::from("segments").join(name)).collect()
}

#[test]
fn a_damaged_log_is_never_served_and_can_be_rebuilt() {
    let (rig, id) = with_producer(11, 0..10, 0);
    let mut rig = rig.cold();
    let path = segment_files(&mut rig).remove(0);
    assert!(rig.engine.disk_mut().flip_bit(&path, 300, 2).unwrap());
    for _ in 0..3 {
        let read = rig.engine.read(id, Offset(0), ReadUpTo::Sealed, 1 << 20, true).unwrap();
        let Read::Pending(token) = read else { panic!("in memory") };
        assert!(matches!(rig.wait_read(token), Err(LogError::Corrupt(_))));
    }
    let told = rig.events.iter().filter(|e| matches!(e, Event::LogFailed(..))).count();
    assert_eq!(told, 1);
    assert!(rig.engine.info(id).unwrap().damaged);
    assert!(matches!(rig.store(id, &batch(1, 1, 50), 10, 1), Err(LogError::Corrupt(_))));
    let t = rig.engine.restart_log_at(id, Offset(0)).unwrap();
    assert!(!rig.engine.info(id).unwrap().damaged);
    rig.until_durable(t);
    for base in 0..10 {
        let t = rig.store(id, &batch(base, 1, 900), base as i64, 1).unwrap();
        rig.until_durable(t);
    }
    for orderly in [false, true] {
        assert_eq!(rig.bases(id), (0..10).collect::<Vec<_>>());
        rig = rig.reopened(orderly);
    }
    assert_eq!(rig.bases(id), (0..10).collect::<Vec<_>>());
}

/// INV-5: a new beginning is no way around a disk that refused a write.
#[test]
fn a_log_whose_write_failed_is_not_restarted() {
    let mut rig = Rig::new(12, small());
    let id = log_id(1);
    rig.create(id);
    rig.engine.disk_mut().inject(Fault::always(FaultOn::Write, "segments/", FaultAction::Fail));
    for n in 0..40 {
        let _ = rig.append(id, &[n], 1, 1000);
        rig.turn();
    }
    rig.until("reported", |r| r.events.iter().any(|e| matches!(e, Event::LogFailed(..))));
    assert!(matches!(rig.engine.restart_log_at(id, Offset(0)), Err(LogError::Corrupt(_))));
}

fn timed(name: usize, time: i64) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None, None);
    let value = vec![b'x'; 600 + name];
    builder.append(time, Some(b"k"), Some(&value[..]), &[] as &[(&str, &str)]).unwrap();
    batch::split(builder.build(Stamp::NONE).unwrap()).next().unwrap().unwrap().check().unwrap()
}

fn looked_up(rig: &mut Rig, lookup: &Lookup) -> Option<(i64, i64)> {
    let found = match lookup {
        Lookup::Ready(found) => *found,
        Lookup::Pending(token) => {
            let done = |e: &Event| matches!(e, Event::LookupDone(t, _) if t == token);
            rig.until("lookup", |r| r.events.iter().any(done));
            let at = rig.events.iter().position(done).unwrap();
            let Event::LookupDone(_, found) = rig.events.remove(at) else { unreachable!() };
            found.unwrap()
        }
    };
    found.map(|(offset, time)| (offset.0, time))
}

#[test]
fn lookups_by_time_tell_nothing_above_their_bound() {
    let times = [10, 40, 30, 90, 20, 70, 60, 50, 95, 5];
    for cold in [false, true] {
        let mut rig = Rig::new(13, small());
        let id = log_id(1);
        rig.create(id);
        for (n, time) in times.into_iter().enumerate() {
            let t = rig.store(id, &timed(n, time), n as i64, 1).unwrap();
            rig.until_durable(t);
        }
        if cold {
            rig = rig.cold();
        }
        for upto in 0..=times.len() {
            let visible = &times[..upto];
            let at = |t: i64| visible.iter().position(|time| *time >= t).map(|n| (n as i64, visible[n]));
            let lookup = rig.engine.find_max_timestamp(id, Offset(upto as i64)).unwrap();
            let newest = looked_up(&mut rig, &lookup);
            assert_eq!(newest, visible.iter().max().and_then(|t| at(*t)), "newest below {upto}, cold {cold}");
            for time in [0, 35, 65, 91, 96] {
                let lookup = rig.engine.find_offset_by_time(id, time, Offset(upto as i64)).unwrap();
                assert_eq!(looked_up(&mut rig, &lookup), at(time), "{time} below {upto}, cold {cold}");
            }
        }
        // What was cut off is not the newest any more, whatever the segment's header says.
        rig.engine.truncate(id, Offset(8)).unwrap();
        let lookup = rig.engine.find_max_timestamp(id, Offset(10)).unwrap();
        assert_eq!(looked_up(&mut rig, &lookup), Some((3, 90)));
    }
}

#[test]
fn retention_spares_what_is_not_settled() {
    let mut rig = Rig::new(14, small());
    let id = log_id(1);
    rig.create(id);
    rig.engine.set_settled_end(id, Offset(20)).unwrap();
    let config = LogConfig { retention_bytes: 1, retention_ms: -1, ..rig.log_config.clone() };
    rig.engine.configure(id, config).unwrap();
    for n in 0..100 {
        let t = rig.append(id, &[n], 1, 1000).unwrap();
        rig.until_durable(t);
    }
    for _ in 0..300 {
        rig.turn();
    }
    let start = rig.engine.info(id).unwrap().log_start;
    assert!(start <= Offset(20), "{start:?}");
    rig.engine.set_settled_end(id, Offset(100)).unwrap();
    rig.until("retention", |r| r.engine.info(id).unwrap().log_start > Offset(50));
}

#[test]
fn a_log_can_begin_anywhere() {
    let mut rig = Rig::new(15, small());
    let id = log_id(1);
    rig.engine.create_log_at(id, rig.log_config.clone(), Offset(500)).unwrap();
    assert!(rig.engine.create_log_at(log_id(2), rig.log_config.clone(), Offset(-1)).is_err());
    let t = rig.store(id, &batch(1, 1, 50), 500, 0).unwrap();
    rig.until_durable(t);
    let mut rig = rig.reopened(false);
    assert_eq!((rig.bases(id), rig.engine.info(id).unwrap().log_start), (vec![500], Offset(500)));
}

/// Rule 18: what replay meets must follow what it has, or say itself where the log ended.
#[test]
fn a_gap_that_no_entry_announces_is_corruption() {
    for (gap_after, base, fits) in [(None, 1, true), (None, 3, false), (Some(1), 3, true), (Some(2), 3, false)] {
        let mut rig = Rig::new(16, small());
        let id = log_id(1);
        rig.create(id);
        rig.append(id, &[1], 1, 50).unwrap();
        let index = rig.engine.index_of(id).unwrap();
        let gap_after = gap_after.map(Offset);
        let journal = &mut rig.engine.journal;
        let (lsn, _) = journal.append(index, id, &batch(2, 1, 50), Offset(base), LeaderEpoch(0), gap_after).unwrap();
        rig.until_durable(Ticket(lsn.frame()));
        let disk = rig.engine.into_disk().crash(Survive::None);
        match Rig::open(disk, small(), Model::new()) {
            Ok((mut rig, _)) => assert_eq!((rig.bases(id), fits), (vec![0, base], true)),
            Err(OpenError::Corrupt(_)) => assert!(!fits, "{gap_after:?} {base}"),
            Err(other) => panic!("{other}"),
        }
    }
}
