//! Damage that nobody reads is found all the same; what is whole, or counts no more, is left in peace.

use super::*;
use crate::io::{Fault, FaultAction, FaultOn, Survive};
use crate::segment::SegmentKey;
use std::path::PathBuf;

const RATE: u64 = 400 << 10;

/// A log on disk alone, in several segments.
fn cold(seed: u64) -> (Rig, LogId) {
    let config = EngineConfig { scrub_bytes_per_s: RATE, scrub_every_ms: 1_000, ..small() };
    let mut rig = Rig::new(seed, EngineConfig { scrub_bytes_per_s: 0, ..small() });
    let id = log_id(1);
    rig.fill(id);
    let rig = rig.closed_and_opened(config);
    assert!(rig.engine.info(id).unwrap().segments > 2);
    (rig, id)
}

fn segments(rig: &Rig, id: LogId) -> Vec<(SegmentKey, u64)> {
    let log = &rig.engine.logs[rig.engine.by_id[&id]];
    log.segments.iter().filter(|s| s.bytes > 0).map(|s| (s.key(id), s.bytes)).collect()
}

fn path(key: SegmentKey) -> PathBuf {
    key.path()
}

fn failures(rig: &Rig) -> usize {
    rig.events.iter().filter(|e| matches!(e, Event::LogFailed(..))).count()
}

fn passes(rig: &mut Rig, count: u64) {
    let upto = rig.engine.stats().scrub_passes + count;
    rig.until("the passes are over", |rig| rig.engine.stats().scrub_passes >= upto);
}

#[test]
fn everything_is_verified_again_and_again_at_the_pace_that_is_allowed() {
    let (mut rig, id) = cold(1);
    let all: u64 = segments(&rig, id).iter().map(|(_, bytes)| bytes).sum();
    let began_ns = rig.now.monotonic_ns;
    passes(&mut rig, 1);
    assert_eq!(rig.engine.stats().scrubbed_bytes, all);
    let took_ns = rig.now.monotonic_ns - began_ns;
    assert!(took_ns > (all - (8 << 10)) * 1_000_000_000 / RATE, "{took_ns} ns for {all} bytes");
    passes(&mut rig, 2);
    assert_eq!((rig.engine.stats().scrubbed_bytes, rig.engine.stats().scrub_damage), (3 * all, 0));
    assert!(rig.now.monotonic_ns - began_ns >= 3_000_000_000, "no sooner than it is due");
    assert_eq!(failures(&rig), 0);
    let log = &rig.engine.logs[rig.engine.by_id[&id]];
    assert!(log.segments.iter().filter(|s| s.bytes > 0).all(|s| s.chunks.is_none()), "nothing is kept in memory");
    assert_eq!(rig.observed(), rig.model());
}

#[test]
fn a_flipped_bit_anywhere_is_found_while_nobody_reads() {
    for seed in 0..40 {
        let (mut rig, id) = cold(seed);
        let of = segments(&rig, id);
        let (key, bytes) = of[usize::try_from(seed).unwrap() % of.len()];
        // In a chunk's header, in a batch's, in records.
        let at = (seed % 4) * 4096 % bytes + [5, 40, 110, 700][usize::try_from(seed).unwrap() / 4 % 4];
        rig.engine.disk_mut().flip_bit(&path(key), at, 3).unwrap();
        rig.until("it is told", |rig| failures(rig) == 1);
        assert!(rig.engine.info(id).unwrap().damaged);
        passes(&mut rig, 2);
        assert_eq!((failures(&rig), rig.engine.stats().scrub_damage), (1, 1), "seed {seed}");
        assert!(matches!(rig.append(id, &[99], 1, 10), Err(LogError::Corrupt(_))));
    }
}

#[test]
fn what_a_reader_has_in_memory_does_not_hide_damage() {
    let (mut rig, id) = cold(2);
    let Read::Pending(token) = rig.engine.read(id, Offset(0), ReadUpTo::Sealed, 100, true).unwrap() else { panic!() };
    rig.wait_read(token).unwrap();
    let (key, _) = segments(&rig, id)[0];
    rig.engine.disk_mut().flip_bit(&path(key), 300, 3).unwrap();
    rig.until("it is told", |rig| failures(rig) == 1);
}

#[test]
fn a_bit_that_only_one_read_got_wrong_is_no_damage() {
    let (mut rig, id) = cold(3);
    rig.engine.disk_mut().inject(Fault::next(FaultOn::Read, "segments/", FaultAction::FlipInRead { bit: 3_000 }));
    passes(&mut rig, 2);
    assert_eq!((failures(&rig), rig.engine.stats().scrub_damage), (0, 0));
    assert_eq!(rig.read_all(id).unwrap(), rig.model()[&id]);
}

#[test]
fn a_disk_that_can_not_be_read_is_noticed_and_does_not_stop_the_rest() {
    let (mut rig, id) = cold(4);
    let (key, _) = segments(&rig, id)[0];
    let file = path(key).display().to_string();
    rig.engine.disk_mut().inject(Fault::always(FaultOn::Read, &file, FaultAction::Fail));
    passes(&mut rig, 1);
    let stats = rig.engine.stats();
    assert!(stats.scrub_damage == 1 && stats.scrubbed_bytes > 0, "{stats:?}");
    assert_eq!(failures(&rig), 0, "the next read may succeed");
}

#[test]
fn what_counts_no_more_is_no_damage() {
    // Deleted: the first chunk has records up to 3 at the most.
    let (mut rig, id) = cold(5);
    let (first, _) = segments(&rig, id)[0];
    let t = rig.delete_records(id, Offset(10));
    rig.until_durable(t);
    rig.engine.disk_mut().flip_bit(&path(first), 300, 3).unwrap();
    passes(&mut rig, 2);
    assert_eq!((failures(&rig), rig.engine.stats().scrub_damage), (0, 0));
    assert_eq!(segments(&rig, id)[0].0, first, "its file is still there");
    assert_eq!(rig.read_all(id).unwrap(), rig.model()[&id]);
    // Cut off, and followed by others.
    let (mut rig, id) = cold(6);
    let (last, bytes) = *segments(&rig, id).last().unwrap();
    let t = rig.truncate(id, Offset(54));
    rig.until_durable(t);
    for n in 0..20 {
        let t = rig.append(id, &[100 + n], 1, 1_000).unwrap();
        rig.until_durable(t);
    }
    rig.engine.disk_mut().flip_bit(&path(last), bytes - 4096 + 300, 3).unwrap();
    passes(&mut rig, 2);
    assert_eq!((failures(&rig), rig.engine.stats().scrub_damage), (0, 0));
    assert_eq!(rig.read_all(id).unwrap(), rig.model()[&id]);
}

#[test]
fn a_pass_goes_on_while_logs_come_and_go() {
    let (mut rig, id) = cold(7);
    for n in 2..40 {
        let other = log_id(n);
        let t = rig.create(other);
        rig.until_durable(t);
        for name in 0..20 {
            if let Ok(t) = rig.append(other, &[name], 1, 1_000) {
                rig.until_durable(t);
            }
        }
        if n % 3 == 0 {
            rig.delete(log_id(n - 1));
        }
        if n % 7 == 0 {
            rig.delete_records(id, Offset(i64::try_from(n).unwrap()));
        }
    }
    passes(&mut rig, 2);
    assert_eq!((failures(&rig), rig.engine.stats().scrub_damage), (0, 0));
    let disk = rig.engine.disk_mut().crash(Survive::Seeded(7));
    rig.check_recovery(disk, "while it is scrubbed");
}

#[test]
fn without_a_rate_nothing_is_read() {
    let mut rig = Rig::new(8, small());
    let t = rig.create(log_id(1));
    rig.until_durable(t);
    for _ in 0..100 {
        rig.turn();
    }
    assert_eq!(rig.engine.scrub.next_deadline(), None);
}
