//! Small worlds, completely: every workload of three operations, cut at every completion, with every subset of what was
//! not yet settled on disk.

use super::*;
use crate::io::Survive;

/// Units beyond this many are sampled rather than enumerated.
const MAX_UNITS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Append,
    Flush,
    Truncate,
    Roll,
    Delete,
    Restart,
    Gap,
}

const WORK: [Work; 7] = [Work::Append, Work::Flush, Work::Truncate, Work::Roll, Work::Delete, Work::Restart, Work::Gap];

fn tiny() -> EngineConfig {
    EngineConfig { journal_file_bytes: 16 << 10, journal_files: 4, mark_after_ms: 1 << 40, ..small() }
}

fn begin(rig: &mut Rig, work: Work, n: u64) {
    let id = log_id(1);
    let model = rig.model();
    let log = model.get(&id).cloned();
    match (work, log) {
        (_, None) => {
            rig.create(id);
        }
        (Work::Append, Some(_)) => {
            rig.append(id, &[n], 1, 200).unwrap();
        }
        (Work::Flush, Some(_)) => {
            let index = rig.engine.index_of(id).unwrap();
            rig.engine.queue_flush(index);
            rig.engine.sync.due = true;
            rig.engine.sync.changed = true;
        }
        (Work::Truncate, Some(log)) => {
            let to = log.batches.last().map_or(log.end, |b| b.0);
            rig.truncate(id, Offset(to));
        }
        // Enough for the journal to go on in its next file.
        (Work::Roll, Some(_)) => {
            rig.append(id, &[n], 1, 7000).unwrap();
        }
        (Work::Restart, Some(log)) => {
            rig.restart(id, Offset(log.end + 1));
        }
        (Work::Gap, Some(_)) => {
            rig.replicate(id, n, 2, LeaderEpoch(i32::try_from(n).unwrap()), (1, 200)).unwrap();
        }
        (Work::Delete, Some(_)) => {
            rig.delete(id);
        }
    }
}

fn check_all_subsets(rig: &Rig, context: &str, checked: &mut usize) {
    let disk = &rig.engine.disk;
    let units = disk.unsynced().len() + disk.in_flight_units().len();
    let masks: Vec<u64> = if units <= MAX_UNITS {
        (0..1u64 << units).collect()
    } else {
        (0..256).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).collect()
    };
    for mask in masks {
        *checked += 1;
        rig.check_recovery(disk.crash(Survive::Mask(mask)), &format!("{context} mask {mask:#b} of {units}"));
    }
}

#[test]
fn every_short_workload_survives_every_power_cut() {
    let mut checked = 0;
    for first in WORK {
        for second in WORK {
            for third in WORK {
                let mut rig = Rig::new(7, tiny());
                let start = rig.create(log_id(1));
                rig.until_durable(start);
                rig.append(log_id(1), &[900], 1, 100).unwrap();
                for (n, work) in [first, second, third].into_iter().enumerate() {
                    begin(&mut rig, work, n as u64 + 1);
                    let mut seen = None;
                    for turn in 0..4 {
                        rig.turn();
                        // A turn that changed nothing on disk needs no second look.
                        let now = format!("{:?} {:?}", rig.engine.disk.unsynced(), rig.engine.disk.in_flight_units());
                        if seen.replace(now.clone()) == Some(now) {
                            continue;
                        }
                        check_all_subsets(
                            &rig,
                            &format!("{first:?} {second:?} {third:?} after {n} turn {turn}"),
                            &mut checked,
                        );
                    }
                }
            }
        }
    }
    assert!(checked > 3000, "only {checked} power cuts were tried");
}
