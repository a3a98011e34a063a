//! The engine where nothing breaks.

use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::*;
use crate::engine::Lookup;

#[test]
fn an_append_is_durable_then_readable_and_survives_close() {
    let mut rig = Rig::new(1, small());
    let id = log_id(1);
    rig.create(id);
    let ticket = rig.append(id, &[1, 2], 3, 100).unwrap();
    assert_eq!(rig.engine.info(id).unwrap().durable_end, Offset(0), "nothing is durable before the disk said so");
    rig.until_durable(ticket);
    assert_eq!(rig.engine.info(id).unwrap().durable_end, Offset(6));
    assert_eq!(rig.observed(), rig.model());
    rig.engine.close(rig.now).unwrap();
    let model = rig.model();
    let disk = rig.engine.into_disk().crash(crate::io::Survive::None);
    let (mut again, report) = Rig::open(disk, small(), Model::new()).unwrap();
    assert_eq!(again.observed(), model);
    assert_eq!(report.batches, 0, "an orderly stop leaves nothing to replay: {report:?}");
}

#[test]
fn appends_that_arrive_during_a_write_share_the_next_frame() {
    let mut rig = Rig::new(2, small());
    let id = log_id(1);
    rig.create(id);
    let t = rig.append(id, &[1], 1, 10).unwrap();
    rig.until_durable(t);
    let frames = rig.engine.stats().frames;
    rig.append(id, &[2], 1, 10).unwrap();
    rig.turn();
    let last = (3..40).map(|n| rig.append(id, &[n], 1, 10).unwrap()).last().unwrap();
    rig.until_durable(last);
    let used = rig.engine.stats().frames - frames;
    assert!(used <= 4, "{used} frames for one append and a burst of 37");
}

#[test]
fn an_append_to_an_idle_disk_is_not_left_waiting_for_something_else_to_happen() {
    let mut rig = Rig::new(2, small());
    let id = log_id(1);
    rig.create(id);
    let is_due = |rig: &Rig| rig.engine.next_deadline().is_some_and(|at| at <= rig.now.monotonic_ns);
    let t = rig.append(id, &[1], 1, 10).unwrap();
    rig.until_durable(t);
    assert!(!is_due(&rig));
    rig.append(id, &[2], 1, 10).unwrap();
    assert!(is_due(&rig), "nothing is in flight whose end would bring it on its way");
    rig.turn();
    rig.append(id, &[3], 1, 10).unwrap();
    if rig.engine.info(id).unwrap().durable_end == Offset(1) {
        assert!(!is_due(&rig), "the write in flight will");
    }
    let t = rig.append(id, &[4], 1, 10).unwrap();
    rig.until_durable(t);
    assert!(!is_due(&rig), "it does not spin");
}

#[test]
fn a_log_much_larger_than_memory_and_journal_is_read_back_whole() {
    let mut rig = Rig::new(3, small());
    let (a, b) = (log_id(1), log_id(2));
    rig.create(a);
    rig.create(b);
    for n in 0..400 {
        let id = if n % 7 == 0 { b } else { a };
        let ticket = rig.append(id, &[n], 2, 1500).unwrap();
        rig.until_durable(ticket);
    }
    let stats = rig.engine.stats();
    assert!(stats.checkpoints > 0 && stats.flushes > 0, "{stats:?}");
    assert!(stats.tail_bytes <= small().tail_bytes as u64, "{stats:?}");
    assert!(stats.journal_files <= 6, "{stats:?}");
    assert!(rig.engine.info(a).unwrap().segments > 3);
    assert_eq!(rig.observed(), rig.model());
}

#[test]
fn batches_larger_than_a_group_and_a_chunk_pass() {
    let mut rig = Rig::new(4, small());
    let id = log_id(1);
    rig.create(id);
    for n in 0..12 {
        rig.until("room", |r| !r.engine.overloaded());
        let ticket = rig.append(id, &[n], 5, 20_000).unwrap();
        rig.until_durable(ticket);
    }
    assert_eq!(rig.observed(), rig.model());
    let huge = rig.append(id, &[99], 1, 64 << 10);
    assert!(matches!(huge, Err(LogError::Rejected { .. })), "{huge:?}");
}

#[test]
fn reads_honour_bounds() {
    let mut rig = Rig::new(5, small());
    let id = log_id(1);
    rig.create(id);
    let t = rig.append(id, &[1, 2, 3], 10, 100).unwrap();
    rig.until_durable(t);
    for (from, fits) in [(-1, false), (0, true), (30, true), (31, false)] {
        let read = rig.engine.read(id, Offset(from), ReadUpTo::Sealed, 1000, true);
        assert_eq!(read.is_ok(), fits, "{from}: {read:?}");
    }
    let Read::Ready(one) = rig.engine.read(id, Offset(15), ReadUpTo::Sealed, 1, true).unwrap() else { panic!("cold") };
    assert_eq!(
        (one.batches.len(), one.next),
        (1, Offset(20)),
        "the whole batch that holds the offset, though it is large"
    );
    let Read::Ready(none) = rig.engine.read(id, Offset(15), ReadUpTo::Sealed, 1, false).unwrap() else {
        panic!("cold")
    };
    assert!(none.batches.is_empty());
}

#[test]
fn truncated_records_are_gone_and_offsets_go_on_from_there() {
    let mut rig = Rig::new(6, small());
    let id = log_id(1);
    rig.create(id);
    for n in 0..60 {
        let t = rig.append(id, &[n], 1, 1000).unwrap();
        rig.until_durable(t);
    }
    rig.truncate(id, Offset(20));
    let t = rig.append(id, &[100], 1, 1000).unwrap();
    rig.until_durable(t);
    assert_eq!(rig.observed(), rig.model());
    for n in 101..160 {
        let t = rig.append(id, &[n], 1, 1000).unwrap();
        rig.until_durable(t);
    }
    rig.until("flushed", |r| r.engine.flushes.in_flight() == 0);
    assert_eq!(rig.observed(), rig.model());
}

/// Files grow ahead of their writes; not for a first write, and not into what is kept free.
#[test]
fn segments_take_space_ahead_where_there_is_plenty() {
    let taken_ahead = |capacity: u64, reserve_bytes: u64, logs: u128, batches: u64| {
        let mut rig = Rig::new(1, EngineConfig { reserve_bytes, ..small() });
        rig.engine.disk_mut().set_capacity(capacity);
        rig.until("space is known", |r| r.now.monotonic_ns > 100_000_000);
        for log in 1..=logs {
            rig.create(log_id(log));
        }
        for n in 0..batches {
            let ticket = rig.append(log_id(1 + u128::from(n) % logs), &[n], 1, 1500).unwrap();
            rig.until_durable(ticket);
        }
        assert_eq!(rig.observed(), rig.model());
        assert!(rig.engine.stats().flushes > 0);
        rig.engine.files.taken_ahead()
    };
    let plenty = taken_ahead(1 << 30, 64 << 10, 1, 60);
    assert_eq!(taken_ahead(1 << 30, 64 << 10, 40, 40), 0, "one write to each log");
    let scarce = taken_ahead(740 << 10, 384 << 10, 1, 60);
    assert!(scarce < plenty, "{scarce} bytes where little is free, {plenty} elsewhere");
}

#[test]
fn a_retry_is_answered_with_the_original_offset_also_after_a_restart() {
    let mut rig = Rig::new(7, small());
    let id = log_id(1);
    rig.create(id);
    let first = produced(1, 3, 50, 42, 0, 0);
    let a = rig.engine.append(id, std::slice::from_ref(&first), LeaderEpoch(0), 0).unwrap();
    let again = rig.engine.append(id, std::slice::from_ref(&first), LeaderEpoch(0), 0).unwrap();
    assert!(again.duplicate && again.base_offset == a.base_offset && again.ticket == a.ticket);
    rig.until_durable(a.ticket);
    let gap = rig.engine.append(id, &[produced(2, 1, 50, 42, 0, 9)], LeaderEpoch(0), 0);
    assert!(matches!(gap, Err(LogError::OutOfOrderSequence { expected: 3, .. })), "{gap:?}");
    for orderly in [false, true] {
        if orderly {
            rig.engine.close(rig.now).unwrap();
        }
        let disk = rig.engine.into_disk().crash(crate::io::Survive::None);
        rig = Rig::open(disk, small(), Model::new()).unwrap().0;
        let again = rig.engine.append(id, std::slice::from_ref(&first), LeaderEpoch(0), 0).unwrap();
        assert!(again.duplicate, "orderly stop: {orderly}");
        assert!(again.ticket <= rig.engine.durable());
    }
}

#[test]
fn retention_by_size_and_time_deletes_whole_segments() {
    let mut rig = Rig::new(8, small());
    let (by_size, by_time) = (log_id(1), log_id(2));
    rig.create(by_size);
    rig.create(by_time);
    let base = rig.log_config.clone();
    rig.engine.configure(by_size, LogConfig { retention_bytes: 30_000, retention_ms: -1, ..base.clone() }).unwrap();
    rig.engine.configure(by_time, LogConfig { retention_ms: 100, ..base }).unwrap();
    for n in 0..150 {
        for id in [by_size, by_time] {
            let t = rig.append(id, &[n], 1, 1000).unwrap();
            rig.until_durable(t);
        }
    }
    rig.until("retention", |r| r.engine.info(by_time).unwrap().log_start == Offset(150));
    let info = rig.engine.info(by_size).unwrap();
    assert!(info.log_start > Offset(0) && info.size_bytes >= 30_000 && info.size_bytes < 90_000, "{info:?}");
    assert!(rig.events.iter().any(|e| matches!(e, Event::StartMoved(..))));
    let t = rig.append(by_time, &[500], 1, 10).unwrap();
    rig.until_durable(t);
    assert_eq!(
        rig.read_all(by_time).unwrap().batches.last().unwrap().0,
        150,
        "offsets go on after all records are gone"
    );
    let files = crate::io::call(
        rig.engine.disk_mut(),
        crate::io::Token(u64::MAX),
        crate::io::Op::List { path: "segments".into() },
        &mut Vec::new(),
    );
    let Ok(crate::io::Done::Listed(files)) = files else { panic!("{files:?}") };
    assert!(files.len() < 12, "files of deleted segments remain: {files:?}");
}

#[test]
fn records_are_found_by_time_in_memory_and_in_segments() {
    let mut rig = Rig::new(9, small());
    let id = log_id(1);
    rig.create(id);
    rig.create(log_id(2));
    for n in 0..40 {
        // Real records, 20 ms a batch: two records, 10 ms apart.
        let mut builder = BatchBuilder::new(Codec::Lz4, None);
        for i in 0..2 {
            let value = vec![b'x'; 500 + n];
            builder.append(n as i64 * 20 + i * 10, Some(b"k"), Some(&value[..]), &[] as &[(&str, &str)]).unwrap();
        }
        let bytes = builder.build(Stamp::NONE).unwrap();
        let checked = batch::split(bytes).next().unwrap().unwrap().check().unwrap();
        let done = rig.engine.append(id, &[checked], LeaderEpoch(0), 0).unwrap();
        rig.until_durable(done.ticket);
        let filler = rig.engine.append(log_id(2), &[batch(1, 1, 4000)], LeaderEpoch(0), 0).unwrap();
        rig.until_durable(filler.ticket);
    }
    assert!(rig.engine.info(id).unwrap().segments > 0 && rig.engine.stats().checkpoints > 0);
    for (time, expected) in [(-5, Some(0)), (0, Some(0)), (11, Some(2)), (400, Some(40)), (790, Some(79)), (791, None)]
    {
        let found = match rig.engine.find_offset_by_time(id, time, Offset(80)).unwrap() {
            Lookup::Ready(found) => found,
            Lookup::Pending(token) => {
                let mut answer = None;
                rig.until("lookup", |r| r.events.iter().any(|e| matches!(e, Event::LookupDone(t, _) if *t == token)));
                for event in &rig.events {
                    if let Event::LookupDone(t, Ok(found)) = event
                        && *t == token
                    {
                        answer = *found;
                    }
                }
                answer
            }
        };
        assert_eq!(found.map(|(o, _)| o.0), expected, "at {time}");
    }
}

#[test]
fn idle_logs_cost_no_file_and_little_memory() {
    let mut rig = Rig::new(10, EngineConfig { open_files: 16, journal_file_bytes: 1 << 20, ..small() });
    for n in 0..500 {
        let id = log_id(n);
        rig.create(id);
        let t = rig.append(id, &[n as u64], 1, 50).unwrap();
        rig.until_durable(t);
    }
    rig.engine.close(rig.now).unwrap();
    rig.engine.sync.closing = false;
    assert!(rig.engine.files.len() <= 16, "{} files open", rig.engine.files.len());
    assert_eq!(rig.observed(), rig.model());
}

/// Memory and journal for many frames: neither asks for flushes before a log has [`EngineConfig::flush_bytes`]. Frames are
/// small in these tests, so a flush is of about one chunk.
fn roomy() -> EngineConfig {
    EngineConfig { tail_bytes: 4 << 20, journal_file_bytes: 2 << 20, ..small() }
}

/// How long the engine must see no append to call it quiet: two rounds of housekeeping.
const TWO_ROUNDS: u64 = 3 * 5_000 * 1_000_000;

#[test]
fn load_after_a_quiet_time_is_flushed_in_large_pieces() {
    let config = EngineConfig { housekeeping_ms: 5_000, ..roomy() };
    let mut rig = Rig::new(20, config.clone());
    let id = log_id(1);
    rig.create(id);
    let first = rig.append(id, &[0], 1, 100).unwrap();
    rig.until_durable(first);
    rig.now.monotonic_ns += TWO_ROUNDS;
    rig.until("what is old to be flushed", |r| r.engine.stats().flushes == 1);
    let before = rig.engine.stats();
    for n in 1..=200 {
        let ticket = rig.append(id, &[n], 1, 200).unwrap();
        rig.until_durable(ticket);
    }
    let stats = rig.engine.stats();
    let (writes, bytes) = (stats.flushes - before.flushes, stats.flushed_bytes - before.flushed_bytes);
    assert!(writes > 0 && bytes / writes > config.chunk_bytes as u64 / 2, "{writes} writes for {bytes} bytes");
}

#[test]
fn an_old_frame_asks_no_log_for_what_is_written_already() {
    let mut rig = Rig::new(21, roomy());
    let logs: Vec<LogId> = (1..=6).map(log_id).collect();
    for id in &logs {
        rig.create(*id);
    }
    for n in 0..2_000 {
        let ticket = rig.append(logs[n as usize % logs.len()], &[n], 1, 300).unwrap();
        rig.until_durable(ticket);
    }
    let stats = rig.engine.stats();
    let mean = stats.flushed_bytes / stats.flushes;
    assert!(mean > roomy().chunk_bytes as u64 / 2, "{} writes of {mean} bytes", stats.flushes);
}

/// A log in segments, with nothing of it in memory.
fn cold_log(seed: u64) -> (Rig, LogId) {
    let config = EngineConfig { read_cache_bytes: 64 << 10, ..small() };
    let mut rig = Rig::new(seed, config.clone());
    let id = log_id(1);
    rig.create(id);
    for n in 0..300 {
        let ticket = rig.append(id, &[n], 1, 1_000).unwrap();
        rig.until_durable(ticket);
    }
    rig.engine.close(rig.now).unwrap();
    let disk = rig.engine.into_disk().crash(crate::io::Survive::None);
    let (rig, _) = Rig::open(disk, config, Model::new()).unwrap();
    (rig, id)
}

/// Reads like a consumer does; gives the offset to go on from, and the bytes read from disk meanwhile.
fn read_from(rig: &mut Rig, id: LogId, from: Offset) -> (Offset, u64) {
    let before = rig.engine.stats().cold_bytes;
    let read = rig.engine.read(id, from, ReadUpTo::Sealed, 4_000, true).unwrap();
    let Read::Pending(token) = read else { panic!("{from:?} is in memory") };
    let served = rig.wait_read(token).unwrap();
    (served.next, rig.engine.stats().cold_bytes - before)
}

#[test]
fn a_reader_that_goes_on_finds_what_follows_in_memory() {
    let (mut rig, id) = cold_log(22);
    let (mut next, _) = read_from(&mut rig, id, Offset(0));
    let (mut from_disk, mut reads) = (0, 0);
    while next < Offset(250) {
        // The consumer is busy with what it got; the disk is not.
        for _ in 0..20 {
            rig.turn();
        }
        let (after, bytes) = read_from(&mut rig, id, next);
        assert!(after > next);
        (next, from_disk, reads) = (after, from_disk + u64::from(bytes > 0), reads + 1);
    }
    assert!(from_disk * 4 < reads, "{from_disk} of {reads} reads had to wait for the disk");
    let read = rig.engine.stats().cold_bytes;
    let stored = rig.engine.info(id).unwrap().size_bytes;
    assert!(read < stored * 5 / 4, "{read} bytes were read of {stored}");
}

#[test]
fn a_reader_that_jumps_is_not_read_ahead_for() {
    let (mut rig, id) = cold_log(23);
    for n in 0..10 {
        read_from(&mut rig, id, Offset(n * 37 % 300));
        let before = rig.engine.stats().cold_bytes;
        for _ in 0..20 {
            rig.turn();
        }
        assert_eq!(rig.engine.stats().cold_bytes, before, "nobody asked for more");
    }
}
