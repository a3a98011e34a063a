//! A flipped bit anywhere: noticed and named, or without effect. Never served, never cut as if it had not been there.

use std::path::{Path, PathBuf};

use super::*;
use crate::io::{Done, Op, Survive, Token, call};

fn files(disk: &mut SimDisk) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("checkpoint-a"), PathBuf::from("checkpoint-b")];
    for dir in ["journal", "segments"] {
        let Ok(Done::Listed(names)) = call(disk, Token(u64::MAX), Op::List { path: dir.into() }, &mut Vec::new())
        else {
            panic!("list {dir}")
        };
        all.extend(names.iter().map(|n| Path::new(dir).join(n)));
    }
    all
}

/// Three logs: in the journal only, in segments only, and in both.
fn sample(orderly: bool) -> (SimDisk, Model) {
    let config = EngineConfig { journal_file_bytes: 32 << 10, ..small() };
    let mut rig = Rig::new(5, config);
    for n in 1..=3 {
        rig.create(log_id(n));
        let t = rig.append(log_id(n), &[n as u64], 2, 300).unwrap();
        rig.until_durable(t);
    }
    let index = rig.engine.index_of(log_id(2)).unwrap();
    rig.engine.queue_flush(index);
    rig.until("checkpoint", |r| r.engine.stats().checkpoints > 0 && r.engine.sync.is_clean());
    let t = rig.append(log_id(3), &[33], 2, 300).unwrap();
    rig.until_durable(t);
    if orderly {
        rig.engine.close(rig.now).unwrap();
    } else {
        // Wait for the mark: from then on the last frame is known to have been durable.
        rig.until("marked", |r| r.engine.journal.mark_deadline(0).is_none() && r.engine.journal.is_idle());
    }
    let model = rig.model();
    (rig.engine.into_disk().crash(Survive::None), model)
}

#[test]
fn a_flipped_bit_at_every_byte_is_noticed_or_harmless() {
    for orderly in [false, true] {
        let (mut disk, model) = sample(orderly);
        let (mut noticed, mut harmless) = (0, 0);
        for path in files(&mut disk) {
            let content = disk.contents(&path).unwrap();
            // Long runs of zeros are sampled: they are all alike.
            let used = content.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
            let places = (0..used).chain((used..content.len()).step_by(509));
            for at in places {
                let mut bad = disk.clone();
                assert!(bad.flip_bit(&path, at as u64, u8::try_from(at % 8).unwrap()).unwrap());
                let config = EngineConfig { journal_file_bytes: 32 << 10, ..small() };
                match Rig::open(bad, config, Model::new()) {
                    Err(OpenError::Corrupt(_)) => noticed += 1,
                    Err(other) => panic!("{} at {at}: {other}", path.display()),
                    Ok((mut rig, _)) => {
                        let refused = check_served(&mut rig, &model, &path, at);
                        noticed += usize::from(refused);
                        harmless += usize::from(!refused);
                    }
                }
            }
        }
        assert!(noticed > 1000, "orderly {orderly}: only {noticed} noticed, {harmless} harmless");
    }
}

/// Everything that is served is what was written; what is not served is refused with its place named. True if refused.
fn check_served(rig: &mut Rig, model: &Model, path: &Path, at: usize) -> bool {
    let mut refused = false;
    assert_eq!(rig.engine.logs().len(), model.len(), "{} at {at}: a log vanished or appeared", path.display());
    for (id, expected) in model {
        match rig.read_all(*id) {
            Ok(read) => assert_eq!(&read, expected, "{} at {at}", path.display()),
            Err(LogError::Corrupt(c)) => {
                refused = true;
                assert_eq!(c.log, Some(*id));
                assert_eq!(Path::new(&c.path), path, "at {at}");
                let after = rig.append(*id, &[7], 1, 10);
                assert!(matches!(after, Err(LogError::Corrupt(_))), "acknowledged after corruption: {after:?}");
            }
            Err(other) => panic!("{} at {at}: {other}", path.display()),
        }
    }
    refused
}

#[test]
fn inspection_finds_what_recovery_would_and_changes_nothing() {
    for orderly in [false, true] {
        let (mut disk, model) = sample(orderly);
        let before: Vec<_> = files(&mut disk).iter().map(|p| disk.contents(p).unwrap()).collect();
        let report = crate::inspect::inspect_disk(&mut disk, true).unwrap();
        assert!(report.is_sound(), "{:?}", report.problems);
        for (id, log) in &model {
            let found = report.log(*id).unwrap();
            assert_eq!((found.log_start, found.log_end), (log.start, log.end), "{id}");
        }
        let after: Vec<_> = files(&mut disk).iter().map(|p| disk.contents(p).unwrap()).collect();
        assert_eq!(before, after);
        let segment = files(&mut disk).into_iter().find(|p| p.starts_with("segments")).unwrap();
        disk.flip_bit(&segment, 200, 3).unwrap();
        let report = crate::inspect::inspect_disk(&mut disk, true).unwrap();
        assert!(report.problems.iter().any(|p| p.contains(&segment.display().to_string())), "{:?}", report.problems);
    }
}
