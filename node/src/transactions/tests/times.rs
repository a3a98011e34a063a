//! What happens by itself.

use super::*;
use TransactionError::*;
use TransactionVersion::{V1, V2};

const TIMEOUT: u64 = TIMEOUT_MS as u64;

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    for version in [V1, V2] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        world.advance_ms(10 * TIMEOUT);
        assert_eq!(world.state(), StateName::Empty, "without a transaction nothing times out");
        world.add(first, 0, version).unwrap();
        world.advance_ms(TIMEOUT - 1);
        world.add(first, 1, version).unwrap();
        assert_eq!(world.state(), StateName::Ongoing);
        world.advance_ms(1);
        assert_eq!(world.state(), StateName::CompleteAbort, "it counts from the beginning");
        assert!(world.described().producer_epoch > first.1);
        assert_eq!(world.end(first, true, version), Err(ProducerFenced));
        assert_eq!(world.end(first, false, version), Err(ProducerFenced));
        assert_eq!(world.add(first, 0, version), Err(ProducerFenced));
    }
}

#[test]
fn a_transaction_that_ended_does_not_time_out() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    world.end(first, true, V1).unwrap();
    world.advance_ms(2 * TIMEOUT);
    assert_eq!(world.state(), StateName::CompleteCommit);
    world.add(first, 0, V1).unwrap();
    world.advance_ms(TIMEOUT - 1);
    assert_eq!(world.state(), StateName::Ongoing, "the next has its own time");
    world.prompt = false;
    world.send(end(first, true, V1));
    world.advance_ms(TIMEOUT);
    assert_eq!(world.writes.len(), 1, "the end came first");
    world.prompt = true;
    world.commit();
    assert_eq!(world.state(), StateName::CompleteCommit);
}

#[test]
fn an_end_that_was_not_written_leaves_the_timeout() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    world.prompt = false;
    world.send(end(first, true, V1));
    world.advance_ms(TIMEOUT);
    world.refuse(PersistError::NotAvailable);
    world.prompt = true;
    world.advance_ms(config().retry_ms);
    assert_eq!(world.state(), StateName::CompleteAbort);
}

#[test]
fn an_abort_that_was_not_written_is_tried_again() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V2).unwrap();
    world.prompt = false;
    world.advance_ms(TIMEOUT);
    world.refuse(PersistError::NotAvailable);
    assert!(world.writes.is_empty());
    world.advance_ms(config().retry_ms);
    assert_eq!(world.writes.len(), 1);
    world.prompt = true;
    world.commit();
    assert_eq!(world.state(), StateName::CompleteAbort);
}

#[test]
fn the_age_of_a_transaction_outlives_its_coordinator() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    world.advance_ms(TIMEOUT - 10);
    world.take_over();
    world.advance_ms(9);
    assert_eq!(world.state(), StateName::Ongoing);
    world.advance_ms(1);
    assert_eq!(world.state(), StateName::CompleteAbort);
}

#[test]
fn a_wall_clock_that_jumps_is_not_trusted_with_more_than_the_timeout() {
    for jump_ms in [-1_000_000_000i64, 1_000_000_000] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        world.add(first, 0, V1).unwrap();
        world.now.wall_ms += jump_ms;
        world.take_over();
        world.advance_ms(TIMEOUT);
        assert_eq!(world.state(), StateName::CompleteAbort);
    }
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    let limits = TransactionsConfig { id_expiration_ms: 7_200_000, expiry_ids_per_step: 2, ..config() };
    let mut world = World::with(limits);
    for n in 0..5 {
        world.ask(init(&format!("idle-{n}"), None));
    }
    let first = world.init(None).unwrap();
    world.advance_ms(3_600_000);
    world.add(first, 0, V1).unwrap();
    world.end(first, true, V1).unwrap();
    while world.coordinator.next_deadline().is_some_and(|at| at <= world.now.monotonic_ns) {
        world.step(Input::Tick);
    }
    assert_eq!(world.coordinator.stats().ids, 6);
    world.advance_ms(3_600_000);
    while world.coordinator.next_deadline().is_some_and(|at| at <= world.now.monotonic_ns) {
        world.step(Input::Tick);
    }
    assert_eq!(world.coordinator.stats().ids, 1, "but the one that was used");
    world.take_over();
    assert_eq!(world.coordinator.stats().ids, 1);
    assert_eq!(world.add(first, 0, V1), Ok(()));
}

#[test]
fn what_becomes_of_transactions_is_counted() {
    let counts = |world: &mut World| {
        let Tally { committed, aborted, timed_out, expired_ids } = world.coordinator.take_tally();
        [committed, aborted, timed_out, expired_ids]
    };
    for version in [V1, V2] {
        let mut world = World::with(TransactionsConfig { id_expiration_ms: 7_200_000, ..config() });
        let first = world.init(None).unwrap();
        world.add(first, 0, version).unwrap();
        let first = world.end(first, true, version).unwrap();
        assert_eq!(counts(&mut world), [1, 0, 0, 0]);
        world.add(first, 0, version).unwrap();
        let first = world.end(first, false, version).unwrap();
        assert_eq!(counts(&mut world), [0, 1, 0, 0]);
        assert!(world.end(first, false, version).is_ok(), "again, or without anything in it");
        assert_eq!(counts(&mut world), [0; 4]);
        // One is given up by its successor, and one by the clock.
        let second = world.init(None).unwrap();
        world.add(second, 0, version).unwrap();
        assert_eq!(world.init(None), Err(ConcurrentTransactions));
        assert_eq!(counts(&mut world), [0, 1, 0, 0]);
        let third = world.init(None).unwrap();
        world.add(third, 0, version).unwrap();
        world.advance_ms(TIMEOUT);
        assert_eq!(counts(&mut world), [0, 1, 1, 0]);
        for _ in 0..3 {
            world.advance_ms(3_600_000);
        }
        assert_eq!((counts(&mut world), world.coordinator.stats().ids), ([0, 0, 0, 1], 0));
    }
}

#[test]
fn what_there_is_is_counted() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let in_state = |world: &World, state: StateName| {
        let stats = world.coordinator.stats();
        assert_eq!(stats.states.iter().sum::<usize>(), 1);
        let at = StateName::ALL.iter().position(|s| *s == state).unwrap();
        assert_eq!(stats.states[at], 1, "{stats:?}");
        (stats.untold, stats.oldest_start_ms)
    };
    assert_eq!(in_state(&world, StateName::Empty), (0, None));
    world.add(first, 0, V1).unwrap();
    world.add(first, 1, V1).unwrap();
    assert_eq!(in_state(&world, StateName::Ongoing), (0, Some(WALL_MS)));
    world.prompt = false;
    world.send(end(first, true, V1));
    assert_eq!(in_state(&world, StateName::Ongoing), (0, Some(WALL_MS)), "it is not committed yet");
    world.commit();
    assert_eq!(in_state(&world, StateName::PrepareCommit), (2, Some(WALL_MS)));
    world.tell(0);
    assert_eq!(in_state(&world, StateName::PrepareCommit), (0, Some(WALL_MS)));
    world.commit();
    assert_eq!(in_state(&world, StateName::CompleteCommit), (0, None));
}
