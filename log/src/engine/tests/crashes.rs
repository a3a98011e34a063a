//! Random work, random crashes, many seeds.

use super::*;
use crate::io::Survive;

/// A small generator of its own: the tests must not depend on the disk's.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

fn some_work(rig: &mut Rig, dice: &mut Dice, steps: u64, names: &mut u64) {
    for _ in 0..steps {
        let id = log_id(u128::from(dice.roll(4)) + 1);
        let model = rig.model();
        let Some(log) = model.get(&id) else {
            rig.create(id);
            continue;
        };
        match dice.roll(52) {
            0 => {
                rig.delete(id);
            }
            1 | 2 => {
                let boundaries: Vec<i64> = log.batches.iter().map(|b| b.0).filter(|b| *b >= log.start).collect();
                if !boundaries.is_empty() {
                    let to = boundaries[dice.roll(boundaries.len() as u64) as usize];
                    rig.truncate(id, Offset(to));
                }
            }
            3 => {
                let end = rig.engine.info(id).unwrap().durable_end;
                if end.0 > log.start {
                    let before = log.start + 1 + dice.roll((end.0 - log.start) as u64) as i64;
                    rig.delete_records(id, Offset(before));
                }
            }
            4 => {
                let start = dice.roll(2 * log.end.max(10) as u64) as i64;
                rig.restart(id, Offset(start));
            }
            40..52 => transactions::some_work(rig, dice, id, names),
            5..15 => {
                *names += 10;
                let latest = rig.engine.info(id).unwrap().leader_epoch.map_or(0, |e| e.0);
                let epoch = LeaderEpoch(latest + i32::from(dice.roll(4) == 0));
                let gap = if dice.roll(3) == 0 { dice.roll(9) as i64 } else { 0 };
                let size = (1 + i32::try_from(dice.roll(4)).unwrap(), [20, 300, 1500, 5000][dice.roll(4) as usize]);
                match rig.replicate(id, *names, gap, epoch, size) {
                    Ok(_) | Err(LogError::Busy { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            _ => {
                *names += 10;
                let count = 1 + dice.roll(3);
                let list: Vec<u64> = (0..count).map(|i| *names + i).collect();
                let records = 1 + i32::try_from(dice.roll(4)).unwrap();
                let bytes = [20, 300, 1500, 5000, 15_000][dice.roll(5) as usize];
                match rig.append(id, &list, records, bytes) {
                    Ok(_) | Err(LogError::Busy { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        }
        for _ in 0..dice.roll(12) {
            rig.turn();
        }
    }
}

fn one_seed(seed: u64, rounds: u64) {
    let mut dice = Dice::new(seed);
    let mut rig = Rig::new(seed, small());
    let mut names = 0;
    for round in 0..rounds {
        let steps = 1 + dice.roll(60);
        some_work(&mut rig, &mut dice, steps, &mut names);
        let survive = Survive::Seeded(dice.roll(1 << 40));
        let disk = match dice.roll(5) {
            0 => {
                rig.engine.close(rig.now).unwrap();
                rig.durable = rig.engine.durable();
                rig.engine.disk_mut().crash(survive)
            }
            1 | 2 => rig.engine.disk_mut().kill(survive),
            _ => rig.engine.disk_mut().crash(survive),
        };
        rig = rig.check_recovery(disk, &format!("seed {seed} round {round}"));
    }
}

/// INV-1, 1,000 rounds: kills, power cuts and orderly stops at random points of random work.
#[test]
fn nothing_acknowledged_is_lost_in_random_crashes() {
    let factor = std::env::var("WHERRY_SOAK").map_or(1, |v| v.parse().expect("WHERRY_SOAK is a factor"));
    for seed in 0..200 * factor {
        one_seed(seed, 5);
    }
}

/// A node that crashes again and again right after its start finds room in the journal each time.
#[test]
fn a_crash_loop_does_not_use_up_the_journal() {
    let mut rig = Rig::new(1, small());
    let id = log_id(1);
    rig.create(id);
    for round in 0..40 {
        let t = rig.append(id, &[round], 1, 100).unwrap();
        rig.until_durable(t);
        let disk = rig.engine.disk_mut().crash(Survive::Seeded(round));
        rig = rig.check_recovery(disk, &format!("round {round}"));
    }
}
