//! The simulated disk's own promises: what survives, what does not, and what faults do.

use std::collections::BTreeSet;

use super::*;
use crate::io::BLOCK;
use crate::io::conformance::{Bench, blocks, suite};

fn bench(seed: u64) -> Bench<SimDisk> {
    Bench::new(SimDisk::new(SimConfig { seed, ..SimConfig::default() }))
}

/// A file `f` of `durable` blocks of 1, all synced, its name too.
fn settled(seed: u64, len: usize) -> (Bench<SimDisk>, FileId) {
    let mut b = bench(seed);
    let file = b.create("f");
    b.write(file, 0, blocks(&vec![1; len]), true).unwrap();
    b.ok(Op::SyncDir { path: "".into() });
    assert!(b.disk.unsynced().is_empty(), "{:?}", b.disk.unsynced());
    (b, file)
}

fn first_bytes(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let bytes = disk.clone().contents(Path::new(path)).ok()?;
    Some(bytes.chunks(BLOCK).map(|block| block[0]).collect())
}

#[test]
fn conforms() {
    for seed in 0..20 {
        for max_delay in [0, 5] {
            suite(|| SimDisk::new(SimConfig { seed, max_delay, ..SimConfig::default() }));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_order() {
    let order = |seed| {
        let mut b = bench(seed);
        let file = b.create("f");
        for i in 0..50 {
            let token = b.token();
            b.disk.submit(token, Op::Write { file, offset: i * BLOCK as u64, data: blocks(&[1]), durable: true });
        }
        b.drain().into_iter().map(|c| c.token).collect::<Vec<_>>()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let mut sorted = order(1);
    sorted.sort();
    assert_ne!(order(1), sorted, "completions are reordered");
}

#[test]
fn every_subset_of_unsynced_blocks_can_survive() {
    let (mut b, file) = settled(1, 3);
    b.write(file, 0, blocks(&[2, 3, 4]), false).unwrap();
    assert_eq!(b.disk.unsynced().len(), 3);
    let outcomes: BTreeSet<Vec<u8>> =
        (0..8).map(|mask| first_bytes(&b.disk.crash(Survive::Mask(mask)), "f").unwrap()).collect();
    assert_eq!(outcomes.len(), 8);
    assert!(outcomes.contains(&vec![1, 1, 1]) && outcomes.contains(&vec![2, 1, 4]));
    b.ok(Op::Sync { files: vec![file] });
    assert!(b.disk.unsynced().is_empty());
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![2, 3, 4]));
}

#[test]
fn a_block_written_twice_may_come_back_as_any_of_three() {
    let (mut b, file) = settled(1, 1);
    b.write(file, 0, blocks(&[2]), false).unwrap();
    b.write(file, 0, blocks(&[3]), false).unwrap();
    let outcomes: BTreeSet<_> = (0..4).map(|mask| first_bytes(&b.disk.crash(Survive::Mask(mask)), "f")).collect();
    assert_eq!(outcomes, BTreeSet::from([Some(vec![1]), Some(vec![2]), Some(vec![3])]));
}

#[test]
fn a_durable_write_settles_its_own_blocks_only() {
    let (mut b, file) = settled(1, 2);
    b.write(file, 0, blocks(&[2, 2]), false).unwrap();
    b.write(file, 1, blocks(&[3]), true).unwrap();
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![1, 3]));
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "f"), Some(vec![2, 3]));
}

#[test]
fn a_write_in_flight_may_be_there_in_part_after_a_crash_or_a_kill() {
    let (mut b, file) = settled(1, 2);
    let token = b.token();
    b.disk.submit(token, Op::Write { file, offset: 0, data: blocks(&[2, 2]), durable: true });
    assert_eq!(b.disk.in_flight_units().len(), 2);
    for (mask, expected) in [(0, [1, 1]), (1, [2, 1]), (2, [1, 2]), (3, [2, 2])] {
        assert_eq!(first_bytes(&b.disk.crash(Survive::Mask(mask)), "f"), Some(expected.to_vec()));
        let killed = b.disk.kill(Survive::Mask(mask));
        assert_eq!(first_bytes(&killed, "f"), Some(expected.to_vec()));
        assert_eq!(first_bytes(&killed.crash(Survive::None), "f"), Some(vec![1, 1]), "a kill syncs nothing");
    }
    b.drain();
}

#[test]
fn a_kill_keeps_what_completed_and_a_crash_does_not() {
    let (mut b, file) = settled(1, 1);
    b.write(file, 0, blocks(&[2, 2]), false).unwrap();
    b.create("g");
    let killed = b.disk.kill(Survive::None);
    assert_eq!(first_bytes(&killed, "f"), Some(vec![2, 2]));
    assert_eq!(first_bytes(&killed, "g"), Some(vec![]));
    let crashed = b.disk.crash(Survive::None);
    assert_eq!(first_bytes(&crashed, "f"), Some(vec![1]));
    assert_eq!(first_bytes(&crashed, "g"), None);
}

#[test]
fn names_are_lost_until_their_directory_is_synced() {
    let mut b = bench(3);
    b.ok(Op::CreateDir { path: "d".into() });
    let file = b.create("d/f");
    b.write(file, 0, blocks(&[1]), true).unwrap();
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "d/f"), None, "data durable, name not");
    b.ok(Op::SyncDir { path: "d".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "d/f"), None, "its directory has no durable name yet");
    b.ok(Op::SyncDir { path: "".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "d/f"), Some(vec![1]));

    b.ok(Op::Rename { from: "d/f".into(), to: "d/g".into() });
    let (lost, kept) = (b.disk.crash(Survive::None), b.disk.crash(Survive::All));
    assert_eq!((first_bytes(&lost, "d/f"), first_bytes(&lost, "d/g")), (Some(vec![1]), None));
    assert_eq!((first_bytes(&kept, "d/f"), first_bytes(&kept, "d/g")), (None, Some(vec![1])));

    b.ok(Op::Close { file });
    b.ok(Op::SyncDir { path: "d".into() });
    b.ok(Op::Remove { path: "d/g".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "d/g"), Some(vec![1]), "the removal is not durable");
    b.ok(Op::SyncDir { path: "d".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "d/g"), None);
}

#[test]
fn a_replaced_file_comes_back_when_the_rename_is_lost() {
    let (mut b, file) = settled(1, 1);
    b.ok(Op::Close { file });
    let new = b.create("new");
    b.write(new, 0, blocks(&[9]), true).unwrap();
    b.ok(Op::Rename { from: "new".into(), to: "f".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![1]));
    b.ok(Op::SyncDir { path: "".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![9]));
}

#[test]
fn a_removed_directory_comes_back_whole_or_in_part() {
    let mut b = bench(1);
    b.ok(Op::CreateDir { path: "d/e".into() });
    b.create("d/e/f");
    b.create("d/e/g");
    for path in ["d/e", "d", ""] {
        b.ok(Op::SyncDir { path: path.into() });
    }
    b.ok(Op::RemoveDir { path: "d".into() });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "d/e/f"), Some(vec![]));
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "d/e/f"), None);
    let in_part = (0..16).map(|mask| b.disk.crash(Survive::Mask(mask)));
    assert!(in_part.into_iter().any(|d| first_bytes(&d, "d/e/f").is_none() && first_bytes(&d, "d/e/g").is_some()));
    b.ok(Op::SyncDir { path: "".into() });
    assert!(b.disk.unsynced().is_empty(), "{:?}", b.disk.unsynced());
    assert_eq!(b.disk.fs.space().0, b.disk.config.capacity);
}

#[test]
fn a_length_may_survive_without_its_data() {
    let (mut b, file) = settled(1, 1);
    b.write(file, 1, blocks(&[2]), false).unwrap();
    let outcomes: BTreeSet<_> =
        (0..4).filter_map(|mask| first_bytes(&b.disk.crash(Survive::Mask(mask)), "f")).collect();
    assert_eq!(outcomes, BTreeSet::from([vec![1], vec![1, 0], vec![1, 2]]));
    b.ok(Op::Sync { files: vec![file] });
    b.ok(Op::Grow { file, len: 4 * BLOCK as u64 });
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![1, 2]));
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "f"), Some(vec![1, 2, 0, 0]));
}

#[test]
fn a_durable_write_in_what_was_grown_settles_the_length() {
    let (mut b, file) = settled(1, 1);
    b.ok(Op::Grow { file, len: 4 * BLOCK as u64 });
    b.write(file, 1, blocks(&[5]), true).unwrap();
    assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![1, 5, 0, 0]));
}

#[test]
fn a_sync_covers_what_had_completed_when_it_was_submitted() {
    for seed in 0..50 {
        let (mut b, file) = settled(seed, 1);
        let sync = b.token();
        b.disk.submit(sync, Op::Sync { files: vec![file] });
        let write = b.token();
        b.disk.submit(write, Op::Write { file, offset: 0, data: blocks(&[2]), durable: false });
        b.drain();
        assert_eq!(first_bytes(&b.disk.crash(Survive::None), "f"), Some(vec![1]));
    }
}

#[test]
fn a_failed_sync_is_never_made_good_by_a_second_one() {
    let (mut b, file) = settled(1, 2);
    b.write(file, 0, blocks(&[2, 2, 2]), false).unwrap();
    b.disk.inject(Fault::next(FaultOn::Sync, "f", FaultAction::Fail));
    assert!(b.run(Op::Sync { files: vec![file] }).is_err());
    b.ok(Op::Sync { files: vec![file] });
    assert_eq!(first_bytes(&b.disk, "f"), Some(vec![2, 2, 2]), "reads see the data");
    assert_eq!(first_bytes(&b.disk.kill(Survive::None), "f"), Some(vec![2, 2, 2]), "and so does the next process");
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "f"), Some(vec![1, 1, 0]), "the disk never had it");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let mut b = Bench::new(SimDisk::new(SimConfig { capacity: 4 * BLOCK as u64, ..SimConfig::default() }));
    let (f, g) = (b.create("f"), b.create("g"));
    b.write(f, 0, blocks(&[1, 1, 1]), true).unwrap();
    let full = b.write(g, 0, blocks(&[2, 2]), true);
    assert!(matches!(full, Err(DiskError::Full { .. })), "{full:?}");
    b.write(f, 0, blocks(&[3, 3, 3]), true).unwrap();
    b.write(g, 0, blocks(&[2]), true).unwrap();
    b.ok(Op::Remove { path: "f".into() });
    assert!(b.write(g, 1, blocks(&[2]), true).is_err(), "f is still open");
    b.ok(Op::Close { file: f });
    b.write(g, 1, blocks(&[2, 2, 2]), true).unwrap();
    b.disk.set_capacity(0);
    assert!(b.write(g, 4, blocks(&[2]), true).is_err());
    b.disk.set_capacity(1 << 20);
    b.write(g, 4, blocks(&[2]), true).unwrap();
    assert!(matches!(b.run(Op::FreeSpace), Ok(Done::Space { free, .. }) if free == (1 << 20) - 5 * BLOCK as u64));
}

#[test]
fn faults_do_what_they_say() {
    let cases: [(FaultAction, bool, Vec<u8>, Vec<u8>); 6] = [
        // action, reported as success, what reads see, what a power cut leaves
        (FaultAction::Fail, false, vec![1, 1, 1], vec![1, 1, 1]),
        (FaultAction::Full, false, vec![1, 1, 1], vec![1, 1, 1]),
        (FaultAction::FailAfterCache, false, vec![2, 2, 1], vec![1, 1, 1]),
        (FaultAction::LoseAtPowerCut, true, vec![2, 2, 1], vec![1, 1, 1]),
        (FaultAction::LoseNow, true, vec![1, 1, 1], vec![1, 1, 1]),
        (FaultAction::Misdirect { blocks: 1 }, true, vec![1, 2, 2], vec![1, 2, 2]),
    ];
    for (action, succeeds, seen, left) in cases {
        let (mut b, file) = settled(1, 3);
        b.disk.inject(Fault::nth(FaultOn::Write, "f", 2, action));
        b.write(file, 2, blocks(&[1]), true).unwrap();
        let result = b.write(file, 0, blocks(&[2, 2]), true);
        assert_eq!(result.is_ok(), succeeds, "{action:?}: {result:?}");
        assert_eq!(first_bytes(&b.disk, "f"), Some(seen), "{action:?}");
        assert_eq!(first_bytes(&b.disk.crash(Survive::All), "f"), Some(left), "{action:?}");
        b.write(file, 0, blocks(&[3]), true).unwrap();
    }
}

#[test]
fn torn_writes_are_proper_subsets() {
    for seed in 0..100 {
        for (action, succeeds) in [(FaultAction::TornThenFail, false), (FaultAction::TornSilently, true)] {
            let (mut b, file) = settled(seed, 4);
            b.disk.inject(Fault::next(FaultOn::Write, "", action));
            assert_eq!(b.write(file, 0, blocks(&[2, 2, 2, 2]), true).is_ok(), succeeds);
            let written = first_bytes(&b.disk, "f").unwrap().iter().filter(|byte| **byte == 2).count();
            assert!((1..4).contains(&written), "{written} of 4");
        }
    }
    let (mut b, file) = settled(1, 1);
    b.disk.inject(Fault::next(FaultOn::Write, "", FaultAction::TornSilently));
    b.write(file, 0, blocks(&[2]), true).unwrap();
    assert_eq!(first_bytes(&b.disk, "f"), Some(vec![1]), "one block is there or not");
}

#[test]
fn reads_can_be_short_or_wrong_and_bits_can_rot() {
    let (mut b, file) = settled(1, 2);
    b.disk.inject(Fault::next(FaultOn::Read, "f", FaultAction::ShortRead { bytes: 100 }));
    assert_eq!(b.read(file, 0, 2 * BLOCK).len(), 100);
    b.disk.inject(Fault::next(FaultOn::Read, "f", FaultAction::FlipInRead { bit: 9 }));
    assert_eq!(b.read(file, 0, BLOCK)[1], 1 ^ 2);
    assert_eq!(b.read(file, 0, BLOCK)[1], 1);
    assert!(b.disk.flip_bit(Path::new("f"), BLOCK as u64, 0).unwrap());
    assert!(!b.disk.flip_bit(Path::new("f"), 2 * BLOCK as u64, 0).unwrap());
    assert_eq!(b.read(file, BLOCK as u64, BLOCK)[0], 0);
    assert_eq!(first_bytes(&b.disk.crash(Survive::All), "f"), Some(vec![1, 0]));
    b.disk.inject(Fault::always(FaultOn::Read, "f", FaultAction::Fail));
    for _ in 0..3 {
        assert!(b.run(Op::Read { file, offset: 0, len: BLOCK }).is_err());
    }
    b.disk.clear_faults();
    b.read(file, 0, BLOCK);
}

#[test]
fn slow_operations_are_overtaken() {
    let (mut b, file) = settled(1, 1);
    b.disk.inject(Fault::next(FaultOn::Write, "", FaultAction::Slow { steps: 1000 }));
    let slow = b.token();
    b.disk.submit(slow, Op::Write { file, offset: 0, data: blocks(&[1]), durable: true });
    for _ in 0..100 {
        let token = b.token();
        b.disk.submit(token, Op::Write { file, offset: 0, data: blocks(&[2]), durable: true });
    }
    let done = b.drain();
    assert_eq!(done.last().map(|c| c.token), Some(slow));
}

#[test]
fn a_clone_is_independent() {
    let (mut b, file) = settled(1, 1);
    let snapshot = b.disk.clone();
    b.write(file, 0, blocks(&[2]), true).unwrap();
    assert_eq!(first_bytes(&snapshot, "f"), Some(vec![1]));
}
