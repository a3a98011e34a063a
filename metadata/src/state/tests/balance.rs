//! Placement, and moves that even out.

use std::collections::BTreeSet;

use super::*;

fn racked(racks: &[&str]) -> Metadata {
    let mut state = Metadata::default();
    for (node, rack) in (0..).zip(racks) {
        add(&mut state, node, Some(rack));
    }
    state
}

fn add(state: &mut Metadata, node: i32, rack: Option<&str>) {
    state.done(register_as(node, 0, 0, rack));
    state.done(unfence(node));
}

/// Replicas and preferred leaderships of each node.
fn loads(state: &Metadata) -> BTreeMap<i32, (usize, usize)> {
    let mut loads: BTreeMap<i32, (usize, usize)> = state.brokers().keys().map(|n| (*n, (0, 0))).collect();
    for (_, p) in state.partitions() {
        for (at, node) in p.target().iter().enumerate() {
            let load = loads.get_mut(node).unwrap();
            load.0 += 1;
            load.1 += usize::from(at == 0);
        }
    }
    loads
}

fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
    counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
}

fn racks_of(state: &Metadata, p: &Partition) -> usize {
    p.target().iter().map(|n| state.broker(*n).unwrap().rack.clone()).collect::<BTreeSet<_>>().len()
}

#[test]
fn a_large_topic_spreads_evenly() {
    for (nodes, factor) in [(1, 1), (3, 1), (3, 2), (3, 3), (5, 3), (7, 3), (4, 4)] {
        let mut state = running(nodes);
        state.done(create("a", 0x1234_5678_9abc_def0, nodes * (nodes - 1).max(1) * 4, factor));
        let loads = loads(&state);
        assert_eq!(spread(loads.values().map(|l| l.0)), 0, "{nodes} {factor} {loads:?}");
        assert_eq!(spread(loads.values().map(|l| l.1)), 0, "{nodes} {factor} {loads:?}");
    }
}

#[test]
fn growing_goes_on_where_it_stopped() {
    let (mut at_once, mut grown) = (running(5), running(5));
    at_once.done(create("a", 99, 40, 3));
    grown.done(create("a", 99, 7, 3));
    grown.done(Command::GrowTopic { id: id(99), partitions: 40, assignment: None });
    assert_eq!(at_once.topic("a"), grown.topic("a"));
}

#[test]
fn many_small_topics_spread() {
    let mut state = running(5);
    for n in 1..=1_000 {
        state.done(create(&format!("t{n}"), n * 0x9e37_79b9_7f4a_7c15_0000_0001, 1, 3));
    }
    let loads = loads(&state);
    assert!(loads.values().all(|l| l.0 > 500 && l.0 < 700 && l.1 > 150 && l.1 < 250), "{loads:?}");
}

#[test]
fn replicas_spread_over_racks() {
    for racks in [&["a", "a", "b", "b", "c", "c"][..], &["a", "a", "a", "b", "c"], &["a", "b", "c"]] {
        let mut state = racked(racks);
        state.done(create("t", 5, 60, 3));
        assert!(state.partitions().all(|(_, p)| racks_of(&state, p) == 3), "{racks:?}");
    }
    // Two racks for three replicas: both are used, neither has all.
    let mut state = racked(&["a", "a", "b", "b"]);
    state.done(create("t", 5, 60, 3));
    assert!(state.partitions().all(|(_, p)| racks_of(&state, p) == 2));
}

#[test]
fn new_partitions_avoid_who_is_not_there_to_stay() {
    let mut state = running(4);
    state.done(fence(0));
    state.done(stop(1));
    state.done(create("a", 1, 10, 2));
    assert!(state.partitions().all(|(_, p)| p.replicas.iter().all(|n| [2, 3].contains(n))));
}

/// Carries out plans until none is left, each replica caught up at once.
fn settle(state: &mut Metadata, plan: impl Fn(&Metadata) -> Vec<(PartitionId, Vec<i32>)>) -> usize {
    let mut moves = 0;
    for _ in 0..200 {
        let planned = plan(state);
        if planned.is_empty() {
            return moves;
        }
        moves += planned.len();
        let partitions = planned.into_iter().map(|(id, target)| (id, Some(target))).collect();
        let Change::Reassigned(outcomes) = state.done(Command::Reassign { partitions }) else { panic!() };
        for (id, outcome) in outcomes {
            outcome.unwrap();
            let p = state.partition(id).unwrap();
            let Partition { leader, leader_epoch, partition_epoch, .. } = *p;
            let fit = |n: &&i32| p.isr.contains(n) || state.broker(**n).unwrap().is_active();
            let isr = p.replicas.iter().filter(fit).copied();
            let isr = isr.map(|n| (n, incarnation(n, 0))).collect();
            state.ask(leader.unwrap(), PartitionChange { id, leader_epoch, partition_epoch, isr }).unwrap();
        }
        assert!(state.partitions().all(|(_, p)| !p.is_reassigning()));
    }
    panic!("the plans oscillate")
}

#[test]
fn an_even_cluster_stays_as_it_is() {
    let mut state = running(3);
    state.done(create("a", 7, 30, 2));
    assert!(state.rebalance_plan(100).is_empty());
    assert!(Metadata::default().rebalance_plan(100).is_empty());
}

#[test]
fn a_new_node_gets_its_share_in_as_few_moves_as_can_be() {
    for factor in [1, 2, 3] {
        let mut state = running(3);
        state.done(create("a", 7, 120, factor));
        add(&mut state, 3, None);
        assert_eq!(state.rebalance_plan(5).len(), 5, "no more than asked");
        let moves = settle(&mut state, |s| s.rebalance_plan(7));
        assert_eq!(moves, 30 * usize::try_from(factor).unwrap(), "a fourth of all replicas");
        let loads = loads(&state);
        assert!(spread(loads.values().map(|l| l.0)) <= 1, "{loads:?}");
        assert!(spread(loads.values().map(|l| l.1)) <= 3, "{loads:?}");
    }
}

#[test]
fn moves_keep_the_racks_apart() {
    let mut state = racked(&["a", "b", "c"]);
    state.done(create("t", 5, 60, 3));
    add(&mut state, 3, Some("a"));
    settle(&mut state, |s| s.rebalance_plan(10));
    assert!(state.partitions().all(|(_, p)| racks_of(&state, p) == 3));
    let loads = loads(&state);
    // Only what is in rack a can move within it.
    assert_eq!(loads.values().map(|l| l.0).collect::<Vec<_>>(), [30, 60, 60, 30]);
}

#[test]
fn a_new_rack_is_used() {
    let mut state = racked(&["a", "a", "b"]);
    state.done(create("t", 5, 60, 3));
    add(&mut state, 3, Some("c"));
    settle(&mut state, |s| s.rebalance_plan(10));
    // Rack c gets 45 of 180 replicas: a third of them from b, where that gains no rack.
    assert_eq!(state.partitions().filter(|(_, p)| racks_of(&state, p) == 3).count(), 30);
}

#[test]
fn who_is_away_neither_gives_nor_gets() {
    let mut state = running(4);
    state.done(create("a", 7, 48, 2));
    state.done(fence(2));
    add(&mut state, 4, None);
    state.done(stop(1));
    let before = loads(&state);
    settle(&mut state, |s| s.rebalance_plan(10));
    let after = loads(&state);
    assert_eq!((after[&1], after[&2]), (before[&1], before[&2]));
    // Only what is on 0 and 3 alone can move: the rest would wait for who is away.
    let moved = state.partitions().filter(|(_, p)| p.replicas.contains(&4)).count();
    assert!(moved > 0 && moved == after[&4].0, "{after:?}");
    assert!(state.partitions_on(4).all(|(_, p)| !p.replicas.contains(&1) && !p.replicas.contains(&2)));
}

#[test]
fn a_node_that_is_to_go_is_emptied() {
    let mut state = running(4);
    state.done(create("a", 7, 40, 3));
    settle(&mut state, |s| s.drain_plan(2, 6));
    assert_eq!(state.partitions_on(2).count(), 0);
    let loads = loads(&state);
    assert!(loads.iter().all(|(n, l)| *n == 2 || l.0 == 40), "{loads:?}");
    // Three nodes that run, three replicas: nowhere to go.
    state.done(fence(2));
    assert!(state.drain_plan(1, 6).is_empty());
    assert!(state.drain_plan(9, 6).is_empty());
}

#[test]
fn a_node_that_is_alone_in_its_rack_can_go() {
    let mut state = racked(&["a", "a", "b"]);
    state.done(create("t", 5, 20, 2));
    settle(&mut state, |s| s.drain_plan(2, 6));
    assert_eq!(state.partitions_on(2).count(), 0);
}
