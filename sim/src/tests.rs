//! What CI runs of the simulation.

use super::{Options, Outcome, Sabotage, Violation};

/// Each is a life of some seconds with several crashes.
const SEEDS: u64 = 200;

/// 4, 8: a late read was served with an older high watermark. 113, 213: a start on a failing disk never ended.
const SEEDS_THAT_FAILED_ONCE: [u64; 4] = [4, 8, 113, 213];

fn run(seed: u64) -> Result<Outcome, Violation> {
    super::run(seed, Options::default())
}

#[test]
fn two_hundred_lives_keep_every_promise() {
    let (mut kills, mut cuts, mut acknowledged, mut commits) = (0, 0, 0, 0);
    for seed in (0..SEEDS).chain(SEEDS_THAT_FAILED_ONCE) {
        match run(seed) {
            Ok(outcome) => {
                kills += outcome.kills;
                cuts += outcome.power_cuts;
                acknowledged += outcome.acknowledged;
                commits += outcome.commits;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(kills > SEEDS && cuts > SEEDS, "nothing happened: {kills} kills, {cuts} power cuts");
    assert!(
        acknowledged > 100 * SEEDS && commits > SEEDS,
        "nothing was done: {acknowledged} records, {commits} commits"
    );
}

#[test]
fn a_seed_is_the_same_life_each_time() {
    for seed in 1_000..1_005 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second);
        assert_ne!(first.map(|o| o.trace_hash), run(seed + 1).map(|o| o.trace_hash));
    }
}

/// The oracles have eyes: what no node could survive is noticed.
#[test]
fn sabotage_is_noticed() {
    for sabotage in [Sabotage::LyingDisk, Sabotage::HastyStore] {
        let lives: Vec<_> = (0..10).map(|seed| super::run(seed, Options { sabotage, ..Options::default() })).collect();
        let noticed = lives.iter().filter(|life| life.is_err()).count();
        // A record that was acknowledged too early is lost only where a crash comes in between.
        assert!(noticed >= 3, "{sabotage:?}: only {noticed} of 10 were noticed: {lives:?}");
    }
}
