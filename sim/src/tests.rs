//! What CI runs of the simulation.

use super::run;

/// Each is a life of some seconds with several crashes.
const SEEDS: u64 = 200;

#[test]
fn two_hundred_lives_keep_every_promise() {
    let (mut kills, mut cuts, mut acknowledged, mut commits) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        match run(seed, false) {
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
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(first, second);
        assert_ne!(first.map(|o| o.trace_hash), run(seed + 1, false).map(|o| o.trace_hash));
    }
}
