//! Many seeds: crashes, cuts, loss, and the same run twice.

use super::world::{Faults, MS, World};

/// A few rounds of proposals and faults, then peace; returns the hash of all that happened.
fn schedule(seed: u64, nodes: i32, rounds: u64) -> u64 {
    let mut world = World::new(seed, nodes);
    world.faults = Faults { lost: seed % 5, twice: 5, slow: seed % 7 };
    world.write_ms = if seed.is_multiple_of(2) { 3 } else { 30 };
    world.snapshot_every = seed.is_multiple_of(3).then_some(7);
    let all = super::world::members(1..=nodes);
    world.quorum(1).initialize(all).expect("room");
    world.drain(1);
    world.wait("a leader", |world| world.leader().is_some());
    for round in 0..rounds {
        fault(&mut world, nodes);
        for number in 0..4 {
            if let Some(leader) = world.leader() {
                // Whether it is answered is the schedule's business.
                let _ = world.propose(leader, format!("{round}/{number}").as_bytes());
            }
            crash_amid_writes(&mut world, nodes);
            let pause = world.draw(40);
            world.run_for(pause * MS);
        }
        let pause = world.draw(900);
        world.run_for(pause * MS);
        world.check_agreement();
    }
    world.faults = Faults::default();
    world.cut_off.clear();
    for node in 1..=nodes {
        if !world.is_up(node) {
            world.start(node);
        }
    }
    world.commit(b"the last");
    world.wait("agreement", |world| {
        (1..=nodes).all(|node| world.applied(node).last() == world.applied(1).last() && !world.applied(1).is_empty())
    });
    world.check_complete();
    world.hash
}

/// Takes nodes down while writes and messages are under way, sometimes all of them.
fn crash_amid_writes(world: &mut World, nodes: i32) {
    let pause = world.draw(8_000);
    world.run_for(pause * MS / 1_000);
    let all = world.draw(6) == 0;
    for node in 1..=nodes {
        if world.is_up(node) && (all || world.draw(8) == 0) {
            world.crash(node);
            world.start(node);
        }
    }
}

fn fault(world: &mut World, nodes: i32) {
    let node = 1 + i32::try_from(world.draw(u64::try_from(nodes).expect("few"))).expect("few");
    match world.draw(6) {
        0 | 1 if world.is_up(node) => world.crash(node),
        0..=2 if !world.is_up(node) => world.start(node),
        3 => {
            world.cut_off.insert(node);
        }
        4 => world.cut_off.clear(),
        _ => {
            // The leader, at a bad moment.
            if let Some(leader) = world.leader() {
                world.crash(leader);
                world.run_for(20 * MS);
                world.start(leader);
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    for seed in 0..170 {
        schedule(seed, 3, 8);
    }
    for seed in 170..200 {
        schedule(seed, 5, 8);
    }
}

#[test]
fn a_lone_voter_loses_nothing_either() {
    for seed in 0..40 {
        schedule(seed, 1, 8);
    }
}

#[test]
fn same_seed_same_run() {
    for seed in 1_000..1_050 {
        let nodes = if seed % 5 == 0 { 5 } else { 3 };
        assert_eq!(schedule(seed, nodes, 3), schedule(seed, nodes, 3), "seed {seed}");
    }
}
