//! Quorums of several: elections, faults, membership.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Member, QuorumError, Role};
use super::world::{MS, World, member, members};

fn others(world: &World, nodes: i32) -> Vec<i32> {
    (1..=nodes).filter(|node| Some(*node) != world.leader()).collect()
}

#[test]
fn all_apply_the_same() {
    for nodes in [3, 5] {
        let mut world = World::founded(11, nodes);
        for value in 0..20 {
            world.commit(format!("value {value}").as_bytes());
        }
        world.run_for(500 * MS);
        world.check_agreement();
        for node in 1..=nodes {
            assert_eq!(world.applied(node).len(), world.applied(1).len(), "node {node}");
        }
    }
}

#[test]
fn all_founders_may_be_told_to_found() {
    let mut world = World::new(12, 3);
    for node in 1..=3 {
        world.quorum(node).initialize(members(1..=3)).expect("room");
        world.drain(node);
    }
    world.wait("a leader", |world| world.leader().is_some());
    world.commit(b"x");
    let refused = world.quorum(1).initialize(members(1..=3)).expect("room");
    world.drain(1);
    assert!(matches!(world.answer(1, refused), Some(Err(QuorumError::Refused(_)))));
}

#[test]
fn another_leads_when_the_leader_crashes() {
    let mut world = World::founded(13, 3);
    world.commit(b"before");
    let old = world.leader().expect("a leader");
    world.crash(old);
    world.wait("another leader", |world| world.leader().is_some_and(|leader| leader != old));
    world.commit(b"between");
    world.start(old);
    world.commit(b"after");
    world.run_for(1_000 * MS);
    world.check_agreement();
    assert_eq!(world.applied(old).len(), 3);
}

#[test]
fn a_leader_that_is_cut_off_knows_by_its_contact_age() {
    let mut world = World::founded(14, 3);
    world.commit(b"before");
    world.run_for(500 * MS);
    let old = world.leader().expect("a leader");
    assert!(world.quorum(old).is_leader_confirmed_within(250 * MS), "{:?}", world.quorum(old).contact_age_ns());
    let cut_at = world.now;
    world.cut_off.insert(old);
    world.run_for(300 * MS);
    assert!(!world.quorum(old).is_leader_confirmed_within(290 * MS));
    world.wait("another leader", |world| world.leader() != Some(old));
    // The promise: when another leads, nothing sent after the cut was acknowledged.
    world.tick(old);
    let (age, since) = (world.quorum(old).contact_age_ns().expect("it leads still"), world.now - cut_at);
    assert!(age >= since, "{age} < {since}");
    let id = world.propose(old, b"in vain").expect("room");
    world.run_for(11_000 * MS);
    assert_eq!(world.answer(old, id), Some(&Err(QuorumError::Unknown)));
    world.commit(b"elsewhere");
    world.cut_off.clear();
    world.run_for(3_000 * MS);
    world.check_agreement();
    assert_ne!(world.quorum(old).status().role, Role::Candidate);
    assert!(!world.acknowledged.contains_key(&b"in vain"[..]));
}

#[test]
fn followers_have_no_contact_age() {
    let mut world = World::founded(15, 3);
    world.run_for(500 * MS);
    let follower = others(&world, 3)[0];
    assert_eq!(world.quorum(follower).contact_age_ns(), None);
    let id = world.propose(follower, b"x").expect("room");
    world.run_for(10 * MS);
    let leader = world.leader();
    assert_eq!(world.answer(follower, id), Some(&Err(QuorumError::NotLeader { leader })));
}

#[test]
fn a_follower_far_behind_gets_a_snapshot() {
    let mut world = World::founded(16, 3);
    let behind = others(&world, 3)[0];
    world.crash(behind);
    let value = vec![b'v'; 100_000];
    for number in 0..30u8 {
        world.commit(&[&value[..], &[number]].concat());
    }
    // Restarted, the others keep nothing that their snapshots cover.
    for node in (1..=3).filter(|node| *node != behind) {
        assert!(world.quorum(node).snapshot_now());
        world.drain(node);
        world.run_for(200 * MS);
        world.crash(node);
        world.start(node);
    }
    world.start(behind);
    world.wait("a snapshot", |world| world.installs(behind) > 0);
    world.commit(b"after");
    world.run_for(1_000 * MS);
    assert_eq!(world.applied(behind).len(), 31);
    world.check_agreement();
    world.crash(behind);
    world.start(behind);
    world.run_for(3_000 * MS);
    assert_eq!(world.applied(behind).len(), 31);
}

#[test]
fn slow_disks_are_waited_for() {
    let mut world = World::founded(17, 3);
    world.write_ms = 400;
    let id = world.leader().and_then(|leader| world.propose(leader, b"slow").ok());
    world.wait("an answer", |world| id.is_some() && world.acknowledged.contains_key(&b"slow"[..]));
}

#[test]
fn members_come_and_go() {
    let mut world = World::founded(18, 1);
    world.commit(b"alone");
    for node in [2, 3] {
        world.start(node);
        let id = world.quorum(1).add_learner(node, member(node)).expect("room");
        world.drain(1);
        world.wait("an answer", |world| world.answer(1, id).is_some());
    }
    assert_eq!(world.quorum(1).status().members.learners, BTreeSet::from([2, 3]));
    let id = world.quorum(1).change_voters(BTreeSet::from([1, 2, 3])).expect("room");
    world.drain(1);
    world.wait("an answer", |world| world.answer(1, id).is_some());
    assert!(matches!(world.answer(1, id), Some(Ok(_))));
    let moved = Member { addr: "elsewhere:1".into(), ..member(2) };
    let id = world.quorum(1).update_member(2, moved.clone()).expect("room");
    world.drain(1);
    world.wait("an answer", |world| world.answer(1, id).is_some());
    world.run_for(500 * MS);
    assert_eq!(world.quorum(3).status().members.all.get(&2), Some(&moved));
    world.crash(1);
    world.wait("another leader", |world| world.leader().is_some());
    world.commit(b"without the first");
    let leader = world.leader().expect("a leader");
    let id = world.quorum(leader).change_voters(BTreeSet::from([2, 3])).expect("room");
    world.drain(leader);
    world.wait("an answer", |world| world.answer(leader, id).is_some());
    let id = world.quorum(leader).remove_learners(BTreeSet::from([1])).expect("room");
    world.drain(leader);
    world.wait("an answer", |world| world.answer(leader, id).is_some());
    world.run_for(500 * MS);
    assert_eq!(world.quorum(leader).status().members.all.keys().copied().collect::<Vec<_>>(), [2, 3]);
    world.check_agreement();
}

#[test]
fn impossible_memberships_are_refused() {
    let mut world = World::founded(19, 3);
    let leader = world.leader().expect("a leader");
    let unknown = world.quorum(leader).change_voters(BTreeSet::from([1, 9])).expect("room");
    let empty = world.quorum(leader).change_voters(BTreeSet::new()).expect("room");
    world.drain(leader);
    world.run_for(100 * MS);
    for id in [unknown, empty] {
        assert!(
            matches!(world.answer(leader, id), Some(Err(QuorumError::Refused(_)))),
            "{:?}",
            world.answer(leader, id)
        );
    }
    let long = Member { addr: "x".repeat(1_000), ..member(4) };
    assert!(matches!(world.quorum(leader).add_learner(4, long), Err(QuorumError::TooLarge { .. })));
    let many: BTreeMap<i32, Member> = members(1..1_000);
    assert!(matches!(world.quorum(leader).initialize(many), Err(QuorumError::TooLarge { .. })));
}

#[test]
fn leadership_can_be_handed_over() {
    for nodes in [3, 5] {
        let mut world = World::founded(20, nodes);
        world.commit(b"x");
        world.run_for(500 * MS);
        let target = others(&world, nodes)[0];
        let leader = world.leader().expect("a leader");
        let from = world.now;
        world.quorum(leader).transfer_to(target).expect("it is up to date");
        world.drain(leader);
        world.wait("the new leader", |world| world.leader() == Some(target));
        assert!(world.now - from < 3_000 * MS, "{} ms", (world.now - from) / MS);
        world.commit(b"y");
        assert!(world.quorum(leader).transfer_to(target).is_err(), "it leads no more");
    }
}

#[test]
fn a_link_that_goes_down_fails_what_is_under_way() {
    let mut world = World::founded(21, 3);
    let leader = world.leader().expect("a leader");
    let down = others(&world, 3);
    world.cut_off.extend(&down);
    world.propose(leader, b"x").expect("room");
    world.run_for(20 * MS);
    for node in down {
        world.quorum(leader).link_down(node);
        world.drain(leader);
    }
    world.cut_off.clear();
    // Sent again after the pause of one heartbeat, not after the timeout of the request.
    world.run_for(300 * MS);
    assert!(world.acknowledged.contains_key(&b"x"[..]));
}

#[test]
fn a_node_that_may_not_stand_for_election_keeps_its_term() {
    let mut world = World::founded(22, 3);
    world.commit(b"x");
    let lonely = others(&world, 3)[0];
    world.cut_off.insert(lonely);
    world.quorum(lonely).set_may_elect(false);
    let term = world.quorum(lonely).status().term;
    world.run_for(10_000 * MS);
    assert_eq!(world.quorum(lonely).status().term, term);
}

#[test]
fn dropping_a_quorum_drops_its_tasks() {
    let mut world = World::founded(23, 3);
    let leader = world.leader().expect("a leader");
    world.propose(leader, b"x").expect("room");
    let executor = std::rc::Rc::downgrade(&world.quorum(leader).executor);
    assert!(executor.upgrade().is_some_and(|executor| executor.tasks() > 3));
    world.crash(leader);
    assert!(executor.upgrade().is_none(), "something still holds it");
}

#[test]
fn a_learner_that_lost_its_volume_gets_all_again() {
    let mut world = World::founded(24, 1);
    world.start(2);
    world.quorum(1).add_learner(2, member(2)).expect("room");
    world.drain(1);
    for value in 0..5u8 {
        world.commit(&[value]);
    }
    world.crash(2);
    world.wipe(2);
    world.start(2);
    world.commit(b"after");
    world.run_for(2_000 * MS);
    assert_eq!(world.applied(2).len(), 6);
    world.check_complete();
}
