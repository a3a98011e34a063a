//! Disks that fail: INV-5, INV-6, rules 6 and 19.

use super::*;
use crate::io::{Disk, Fault, FaultAction, FaultOn, Survive};

fn started(seed: u64, config: EngineConfig) -> Rig {
    let mut rig = Rig::new(seed, config);
    let t = rig.create(log_id(1));
    rig.until_durable(t);
    rig
}

#[test]
fn after_a_failed_journal_write_nothing_is_acknowledged_and_what_was_is_there() {
    let mut rig = started(1, small());
    let id = log_id(1);
    let good = rig.append(id, &[1], 1, 100).unwrap();
    rig.until_durable(good);
    rig.engine.disk_mut().inject(Fault::next(FaultOn::Write, "journal/", FaultAction::Fail));
    let bad = rig.append(id, &[2], 1, 100).unwrap();
    rig.until("the failure is told", |r| r.events.iter().any(|e| matches!(e, Event::Failed(_))));
    for _ in 0..50 {
        rig.turn();
    }
    assert!(rig.durable < bad, "acknowledged after a failed write");
    let after = rig.append(id, &[3], 1, 100);
    assert!(matches!(after, Err(LogError::ReadOnly(_))), "{after:?}");
    assert_eq!(rig.read_all(id).unwrap().batches, vec![(0, 1, 1)], "what was durable is still served");
    let disk = rig.engine.disk_mut().crash(Survive::Seeded(3));
    rig.check_recovery(disk, "after a failed write");
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    for seed in 0..20 {
        let mut rig = started(seed, small());
        let id = log_id(1);
        rig.engine.disk_mut().inject(Fault::next(FaultOn::Sync, "segments/", FaultAction::Fail));
        for n in 0..2000 {
            if rig.engine.journal.failed().is_some() {
                break;
            }
            match rig.append(id, &[n], 1, 1000) {
                Ok(t) => {
                    for _ in 0..200 {
                        if rig.durable >= t || rig.engine.journal.failed().is_some() {
                            break;
                        }
                        rig.turn();
                    }
                }
                Err(LogError::Busy { .. } | LogError::ReadOnly(_)) => rig.turn(),
                Err(e) => panic!("{e}"),
            }
        }
        assert!(rig.engine.journal.failed().is_some(), "seed {seed}: no sync was made");
        // The pages that the sync lost are gone; the journal still has every record.
        let disk = rig.engine.disk_mut().crash(Survive::Seeded(seed));
        rig.check_recovery(disk, &format!("failed sync, seed {seed}"));
    }
}

#[test]
fn a_failed_segment_write_makes_that_log_read_only_and_no_other() {
    let mut rig = started(2, small());
    let (bad, good) = (log_id(1), log_id(2));
    rig.create(good);
    rig.engine.disk_mut().inject(Fault::always(FaultOn::Write, &format!("segments/{}", bad.topic), FaultAction::Fail));
    for n in 0..40 {
        let _ = rig.append(bad, &[n], 1, 1000);
        rig.turn();
    }
    rig.until("reported", |r| r.events.iter().any(|e| matches!(e, Event::LogFailed(id, _) if *id == bad)));
    assert!(matches!(rig.append(bad, &[99], 1, 10), Err(LogError::Corrupt(_))));
    let t = rig.append(good, &[1], 1, 10).unwrap();
    rig.until_durable(t);
    assert_eq!(rig.observed(), rig.model(), "all that was acknowledged is served from memory");
    let disk = rig.engine.disk_mut().crash(Survive::None);
    rig.check_recovery(disk, "failed segment write");
}

#[test]
fn a_log_that_can_not_be_written_does_not_hold_up_the_others_for_ever() {
    for seed in 0..20 {
        let mut rig = started(seed, small());
        let (bad, good) = (log_id(1), log_id(2));
        rig.create(good);
        let path = format!("segments/{}", bad.topic);
        rig.engine.disk_mut().inject(Fault::always(FaultOn::Write, &path, FaultAction::Fail));
        for n in 0..5000 {
            if rig.engine.journal.failed().is_some() {
                break;
            }
            let _ = rig.append(if n % 9 == 0 { bad } else { good }, &[n], 1, 1000);
            rig.turn();
        }
        let failed = rig.engine.journal.failed().unwrap_or_default().to_owned();
        assert!(failed.contains("no room") && failed.contains(&bad.to_string()), "seed {seed}: {failed}");
        assert!(rig.events.iter().any(|e| matches!(e, Event::Failed(_))), "seed {seed}");
        let disk = rig.engine.disk_mut().crash(Survive::Seeded(seed));
        rig.check_recovery(disk, &format!("pinned journal, seed {seed}"));
    }
}

#[test]
fn a_start_on_a_disk_that_takes_no_writes_ends() {
    for (on, path) in [(FaultOn::Write, "segments/"), (FaultOn::Open, "journal/"), (FaultOn::Open, "segments/")] {
        let mut rig = started(4, small());
        for n in 0..60 {
            if let Ok(t) = rig.append(log_id(1), &[n], 1, 1000) {
                rig.until_durable(t);
            }
        }
        let mut disk = rig.engine.disk_mut().crash(Survive::All);
        disk.inject(Fault::always(on, path, FaultAction::Fail));
        let now = Now { monotonic_ns: 1, wall_ms: 1 };
        // Less memory than is to be replayed: segments must be written during the start.
        let config = EngineConfig { group_bytes: 4 << 10, tail_bytes: 16 << 10, ..small() };
        let Ok((mut engine, _)) = Engine::open(disk, config, now, Uuid::from_u128(9)) else { continue };
        for _ in 0..200 {
            engine.turn(now);
        }
        assert_eq!(engine.disk_mut().in_flight(), 0, "{path}: what fails is tried again and again");
    }
}

#[test]
fn a_full_disk_refuses_appends_keeps_deletes_and_recovers_without_a_restart() {
    let config = EngineConfig { reserve_bytes: 256 << 10, ..small() };
    let mut rig = Rig::new(3, config);
    rig.engine.disk_mut().set_capacity(1200 << 10);
    let (a, b) = (log_id(1), log_id(2));
    rig.create(a);
    rig.create(b);
    let mut refused = false;
    for n in 0..3000 {
        match rig.append(if n % 2 == 0 { a } else { b }, &[n], 1, 1000) {
            Ok(t) => rig.until_durable(t),
            Err(LogError::Full { .. }) => {
                refused = true;
                break;
            }
            Err(LogError::Busy { .. }) => rig.turn(),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused, "never refused");
    assert!(rig.engine.journal.failed().is_none());
    assert_eq!(rig.observed(), rig.model(), "everything acknowledged is readable on a full disk");
    let t = rig.delete(a);
    rig.until_durable(t);
    rig.until("room again", |r| r.events.iter().any(|e| matches!(e, Event::Full(false))));
    let t = rig.append(b, &[9999], 1, 1000).unwrap();
    rig.until_durable(t);
    assert_eq!(rig.observed(), rig.model());
    let disk = rig.engine.disk_mut().crash(Survive::None);
    rig.check_recovery(disk, "full disk");
}

#[test]
fn a_disk_that_fills_up_under_flushes_loses_nothing() {
    for seed in 0..20 {
        let mut rig = started(seed, small());
        rig.engine.disk_mut().set_capacity(450 << 10);
        let id = log_id(1);
        for n in 0..2000 {
            match rig.append(id, &[n], 1, 1000) {
                Ok(_) | Err(LogError::Busy { .. }) => rig.turn(),
                Err(LogError::Full { .. }) => break,
                Err(e) => panic!("{e}"),
            }
        }
        rig.engine.disk_mut().set_capacity(10 << 20);
        rig.until("room", |r| !r.engine.house.full && !r.engine.room_unknown() && !r.engine.overloaded());
        let t = rig.append(id, &[5000], 1, 10).unwrap();
        rig.until_durable(t);
        assert_eq!(rig.observed(), rig.model());
        let disk = rig.engine.disk_mut().crash(Survive::Seeded(seed));
        rig.check_recovery(disk, &format!("seed {seed}"));
    }
}

#[test]
fn a_journal_write_that_never_reached_the_disk_is_noticed() {
    let mut rig = started(4, small());
    let id = log_id(1);
    // Until nothing but a frame is written next.
    (0..100).for_each(|_| rig.turn());
    rig.engine.disk_mut().inject(Fault::next(FaultOn::Write, "journal/", FaultAction::LoseNow));
    for n in 0..5 {
        let t = rig.append(id, &[n], 1, 100).unwrap();
        rig.until_durable(t);
    }
    let disk = rig.engine.disk_mut().crash(Survive::All);
    let opened = Rig::open(disk, small(), Model::new());
    assert!(matches!(opened, Err(OpenError::Corrupt(_))), "a lost frame in the middle was taken for the end");
}

/// A sync that ends while the journal is full and a group waits: the checkpoint waits for that group, and the group for
/// a file that only the checkpoint frees.
#[test]
fn a_full_journal_and_a_slow_sync_do_not_wait_for_each_other() {
    for seed in 0..30 {
        let mut rig = Rig::new(seed, EngineConfig { journal_files: 3, journal_file_bytes: 32 << 10, ..small() });
        rig.engine.disk_mut().inject(Fault::always(FaultOn::Sync, "", FaultAction::Slow { steps: 100 }));
        let id = log_id(1);
        let mut last = rig.create(id);
        for n in 0..400 {
            match rig.append(id, &[n], 1, 2000) {
                Ok(ticket) => last = ticket,
                Err(LogError::Busy { .. }) => {}
                Err(e) => panic!("seed {seed}: {e}"),
            }
            rig.turn();
        }
        rig.until_durable(last);
        // What is queued when a sync ends may need files of its own, and the next stall comes before they are freed.
        assert!(rig.engine.stats().journal_files <= 12, "seed {seed}: {:?}", rig.engine.stats());
        assert_eq!(rig.observed(), rig.model(), "seed {seed}");
    }
}
