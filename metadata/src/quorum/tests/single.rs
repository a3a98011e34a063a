//! A quorum of one.

use super::super::{Output, Quorum, QuorumConfig, QuorumError, Role, Stored, limits};
use super::world::{MS, World, members};

#[test]
fn founds_itself_and_decides_alone() {
    let mut world = World::founded(1, 1);
    world.commit(b"first");
    assert_eq!(world.applied(1).last().map(|(_, value)| value.as_slice()), Some(&b"first"[..]));
    assert_eq!(world.quorum(1).contact_age_ns(), Some(0));
    assert!(world.quorum(1).is_leader_confirmed_within(0));
}

#[test]
fn leads_at_once_after_a_restart() {
    let mut world = World::founded(2, 1);
    world.commit(b"first");
    world.crash(1);
    world.start(1);
    // A few writes, no election timeout.
    world.run_for(20 * MS);
    assert_eq!(world.leader(), Some(1));
    assert_eq!(world.applied(1).len(), 1, "what was decided is decided again");
    world.commit(b"second");
}

#[test]
fn leads_at_once_when_it_crashed_before_it_ever_led() {
    let mut world = World::new(3, 1);
    world.quorum(1).initialize(members([1])).expect("room");
    world.drain(1);
    world.run_for(4 * MS);
    world.crash(1);
    world.start(1);
    world.wait("a leader or an empty log", |world| world.leader() == Some(1) || world.disk(1).len() < 2);
}

#[test]
fn snapshots_bound_log_and_disk() {
    let mut world = World::founded(4, 1);
    world.snapshot_every = Some(20);
    for value in 0..200 {
        world.commit(format!("value {value}").as_bytes());
    }
    world.run_for(100 * MS);
    assert!(world.disk(1).len() < 150, "{} records", world.disk(1).len());
    world.crash(1);
    world.start(1);
    world.run_for(50 * MS);
    assert_eq!(world.applied(1).len(), 200);
    assert_eq!(world.installs(1), 1);
    world.commit(b"after");
}

#[test]
fn a_large_snapshot_is_written_in_parts() {
    let mut world = World::founded(5, 1);
    for value in 0..3 {
        world.commit(&vec![value; limits::MAX_PAYLOAD_BYTES]);
    }
    assert!(world.quorum(1).snapshot_now());
    assert!(!world.quorum(1).snapshot_now(), "one at a time");
    world.drain(1);
    world.run_for(50 * MS);
    world.crash(1);
    world.start(1);
    world.run_for(50 * MS);
    assert_eq!(world.applied(1).len(), 3);
    assert!(!world.quorum(1).snapshot_now(), "nothing new");
}

#[test]
fn refuses_what_is_too_large_or_too_much() {
    let mut world = World::founded(6, 1);
    let large = vec![0; limits::MAX_PAYLOAD_BYTES + 1];
    assert!(matches!(world.quorum(1).propose(large), Err(QuorumError::TooLarge { .. })));
    for _ in 0..limits::MAX_OUTSTANDING {
        world.quorum(1).propose(&b"x"[..]).expect("room");
    }
    assert!(matches!(world.quorum(1).propose(&b"x"[..]), Err(QuorumError::Busy { .. })));
    world.drain(1);
    world.run_for(10_000 * MS);
    world.propose(1, b"again").expect("room");
}

#[test]
fn a_failed_write_is_fatal() {
    let mut world = World::founded(7, 1);
    let now = world.now;
    let quorum = world.quorum(1);
    quorum.propose(&b"x"[..]).expect("room");
    let write = quorum.take_outputs().into_iter().find_map(|output| match output {
        Output::Write { id, .. } => Some(id),
        _ => None,
    });
    quorum.write_failed(write.expect("a write"));
    let fatal = quorum.take_outputs().into_iter().any(|output| matches!(output, Output::Fatal(_)));
    assert!(fatal);
    assert_eq!(quorum.status().role, Role::Stopped);
    quorum.tick(now + 5_000 * MS);
    assert!(matches!(quorum.propose(&b"x"[..]), Err(QuorumError::Stopped(_))));
}

#[test]
fn refuses_the_log_of_another_node() {
    let mut world = World::founded(8, 1);
    world.commit(b"x");
    let stored = Stored::replay(world.disk(1)).expect("a log");
    let opened = Quorum::open(QuorumConfig::new(2, 1), stored, 0);
    assert_eq!(opened.err(), Some(QuorumError::OtherNode { found: 1, expected: 2 }));
}

#[test]
fn an_empty_node_waits() {
    let mut world = World::new(9, 1);
    world.run_for(10_000 * MS);
    assert_eq!(world.leader(), None);
    assert!(world.disk(1).is_empty());
    assert_eq!(world.quorum(1).status().role, Role::Learner);
    let id = world.propose(1, b"x").expect("room");
    assert_eq!(world.answer(1, id), Some(&Err(QuorumError::NotLeader { leader: None })));
}

#[test]
fn a_clock_that_starts_late_or_goes_back_does_no_harm() {
    let mut quorum = Quorum::open(QuorumConfig::new(1, 1), Stored::default(), u64::MAX / 2).expect("opens");
    quorum.tick(7);
    quorum.tick(u64::MAX / 2 + 5_000 * MS);
    assert!(quorum.next_deadline().is_some_and(|at| at > u64::MAX / 2 + 5_000 * MS));
    quorum.tick(0);
}
