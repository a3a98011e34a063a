//! What CI runs of the simulation.

use super::{Options, Outcome, Sabotage, Violation};

/// Each is a life of some seconds with several crashes.
const SEEDS: u64 = 200;
/// Each is a life of half a minute, with every kind of trouble.
const CLUSTER_SEEDS: u64 = 28;

fn run(seed: u64, nodes: usize) -> Result<Outcome, Violation> {
    super::run(seed, Options { nodes: Some(nodes), ..Options::default() })
}

#[test]
fn two_hundred_lives_of_one_node_keep_every_promise() {
    let mut total = Outcome::default();
    for seed in 0..SEEDS {
        match run(seed, 1) {
            Ok(outcome) => total.add(&outcome),
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(total.count("kill") > SEEDS && total.count("power cut") > SEEDS, "nothing happened: {:?}", total.faults);
    assert!(total.acknowledged > 100 * SEEDS && total.commits > SEEDS, "nothing was done: {total:?}");
    assert!(total.transactions > SEEDS && total.aborted > SEEDS / 2, "hardly a transaction: {total:?}");
}

#[test]
fn thirty_lives_of_clusters_keep_every_promise() {
    let mut total = Outcome::default();
    for (seed, nodes) in (0..CLUSTER_SEEDS).map(|seed| (seed, 3)).chain([(1, 5), (2, 5)]) {
        match run(seed, nodes) {
            Ok(outcome) => total.add(&outcome),
            Err(violation) => panic!("{violation}"),
        }
    }
    for fault in ["kill", "power cut", "pause", "isolation", "one-way cut", "split", "stall", "slow disk", "outage"] {
        assert!(total.count(fault) > 3, "there was hardly a {fault}: {:?}", total.faults);
    }
    let each = |n: u64| n * CLUSTER_SEEDS;
    assert!(total.acknowledged > each(200) && total.commits > each(20), "nothing was done: {total:?}");
    assert!(total.epochs > each(10), "leaders hardly moved: {total:?}");
    assert!(total.duplicates > each(2), "hardly a duplicate: {total:?}");
    assert!(total.transactions > each(5) && total.aborted > each(2), "hardly a transaction: {total:?}");
}

#[test]
fn a_seed_is_the_same_life_each_time() {
    for (seed, nodes) in [(1_000, 1), (1_001, 1), (1_002, 3), (1_003, 3), (1_004, 5)] {
        let (first, second) = (run(seed, nodes), run(seed, nodes));
        assert_eq!(first, second);
        assert_ne!(first.map(|o| o.trace_hash), run(seed + 1, nodes).map(|o| o.trace_hash));
    }
}

/// The oracles have eyes: what no node could survive is noticed.
#[test]
fn sabotage_is_noticed() {
    for sabotage in [Sabotage::LyingDisk, Sabotage::HastyStore] {
        let options = Options { sabotage, nodes: Some(1), ..Options::default() };
        let lives: Vec<_> = (0..30).map(|seed| super::run(seed, options)).collect();
        let noticed = lives.iter().filter(|life| life.is_err()).count();
        // A record that was acknowledged too early is lost only where a crash comes in between.
        assert!(noticed >= 3, "{sabotage:?}: only {noticed} of 30 were noticed");
    }
}

#[cfg(feature = "mutations")]
#[test]
fn every_mutation_is_caught() {
    for mutation in wherry_node::mutation::Mutation::ALL {
        let options = Options::default();
        let caught = super::hunt(*mutation, 0..200, 1, options);
        assert!(caught.caught > 0, "{mutation:?} went unnoticed in {} lives", caught.lives);
    }
}
