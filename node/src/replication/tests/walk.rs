//! Random walks, and the proof that they would notice mistakes.

use super::super::LinkId;
use super::world::{NODES, World, log};
use crate::mutation::{self, Mutation};

const STEPS: usize = 600;
const SEEDS: u64 = 300;
/// Each mistake is seen within so many seeds.
const MUTANT_SEEDS: u64 = 300;

/// SplitMix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

fn step(world: &mut World, rng: &mut Rng, partitions: i32) {
    let node = i32::try_from(rng.below(3)).unwrap();
    let other = (node + 1 + i32::try_from(rng.below(2)).unwrap()) % NODES;
    let id = log(i32::try_from(rng.below(usize::try_from(partitions).unwrap())).unwrap());
    let links: Vec<LinkId> = world.pipes.keys().copied().collect();
    let link = (!links.is_empty()).then(|| links[rng.below(links.len())]);
    match rng.below(160) {
        0..=17 => drop(world.produce(node, id, !rng.next().is_multiple_of(4))),
        18..=29 => world.seal(node),
        30..=41 => world.write(node, 1 + rng.below(6)),
        42..=69 => {
            if let Some(link) = link {
                let to_dialler = rng.below(2) == 0;
                for _ in 0..=rng.below(4) {
                    world.deliver(link, to_dialler);
                }
            }
        }
        70..=74 => world.connect(),
        75..=80 => world.view(node),
        81..=83 => world.decide(),
        84 => link.into_iter().for_each(|link| world.cut(link)),
        85 => links.into_iter().for_each(|link| world.end(link)),
        86..=87 => world.pass_ms([1, 30, 300, 11_000][rng.below(4)]),
        88 if world.nodes[usize::try_from(node).unwrap()].up => world.crash(node, rng.below(4)),
        89..=90 if !world.nodes[usize::try_from(node).unwrap()].up => world.restart(node),
        91 => {
            world.expire_lease(node);
            if rng.below(2) == 0 {
                world.fence(node);
            }
        }
        92..=93 if world.nodes[usize::try_from(node).unwrap()].up => world.unfence(node),
        94 => world.move_leader(id, node),
        95 => world.set_busy(node, rng.below(2) == 0),
        96 => world.nodes[usize::try_from(node).unwrap()].store.cold ^= true,
        97 => world.finish_read(node),
        98 => drop(world.parted.insert((node.min(other), node.max(other)))),
        99 => world.parted.clear(),
        100..=124 => {
            for link in links {
                world.deliver(link, true);
                world.deliver(link, false);
            }
        }
        125..=139 => {
            world.seal(node);
            world.write(node, 6);
        }
        140..=144 => (0..NODES).for_each(|node| world.view(node)),
        145..=154 => drop(world.produce(node, id, true)),
        _ => {}
    }
}

fn walk(seed: u64) -> Result<usize, String> {
    let mut rng = Rng(seed);
    let partitions = 1 + i32::try_from(rng.below(2)).unwrap();
    let mut world = World::new(partitions, 1 + rng.below(3));
    for _ in 0..STEPS {
        step(&mut world, &mut rng, partitions);
        if let Some(fault) = world.fault.take() {
            return Err(fault);
        }
    }
    world.heal().map(|()| world.released)
}

#[test]
fn nothing_acknowledged_is_lost_on_any_walk() {
    let mut released = 0;
    for seed in 0..SEEDS {
        released += walk(seed).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
    assert!(released > 1_500, "{released} acknowledgements: the walks do too little");
}

fn seed_that_sees(mutation: Mutation) -> Option<u64> {
    let _enabled = mutation::enable(mutation);
    if mutation == Mutation::TruncateToHighWatermark {
        let seen = std::panic::catch_unwind(super::scenarios::truncation_by_epoch_keeps_what_is_committed);
        return seen.is_err().then_some(0);
    }
    (0..MUTANT_SEEDS).find(|seed| std::panic::catch_unwind(|| walk(*seed)).map_or(true, |r| r.is_err()))
}

#[test]
fn every_mistake_is_noticed() {
    let all = [
        Mutation::ResumeEpoch,
        Mutation::OwnEndNotDurable,
        Mutation::FollowerEndNotDurable,
        Mutation::FastestReplica,
        Mutation::IgnoreFollowers,
        Mutation::CountAnyReplica,
        Mutation::EstablishAtOnce,
        Mutation::OnlyProposedIsr,
        Mutation::OnlyCommittedIsr,
        Mutation::BelowMinimum,
        Mutation::ReleaseOnAppend,
        Mutation::ReleaseOnLoss,
        Mutation::ExpandAnyone,
        Mutation::NoDivergenceCheck,
        Mutation::ForgetTruncation,
        Mutation::TruncateToLeadersEndOnly,
        Mutation::TruncateToHighWatermark,
        Mutation::NoLease,
    ];
    let missed: Vec<Mutation> = all
        .into_iter()
        .filter(|mutation| {
            let seed = seed_that_sees(*mutation);
            println!("{mutation:?}: {seed:?}");
            seed.is_none()
        })
        .collect();
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
