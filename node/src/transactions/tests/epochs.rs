//! Who is the producer of a transactional id, and who was.

use super::*;
use TransactionError::*;
use TransactionVersion::{V1, V2};

/// A coordinator whose transactional id is at this epoch.
fn at_epoch(epoch: i16) -> (World, (i64, i16)) {
    let mut world = World::new();
    let (id, _) = world.init(None).unwrap();
    let mut value = Transaction::new(id, TIMEOUT_MS, WALL_MS);
    value.epoch = epoch;
    world.log.push(record::record("id", Some(&value)));
    world.take_over();
    (world, (id, epoch))
}

#[test]
fn each_new_producer_fences_the_one_before() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let second = world.init(None).unwrap();
    assert_eq!(second, (first.0, 1));
    for version in [V1, V2] {
        assert_eq!(world.add(first, 0, version), Err(ProducerFenced));
        assert_eq!(world.end(first, true, version), Err(ProducerFenced));
    }
    assert_eq!(world.init(Some(first)), Err(ProducerFenced));
    assert_eq!(world.add(second, 0, V1), Ok(()));
}

#[test]
fn a_new_producer_aborts_what_the_one_before_has_begun() {
    for version in [V1, V2] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        world.add(first, 0, version).unwrap();
        world.prompt = false;
        let asked = world.send(init("id", None));
        world.commit();
        assert_eq!(world.replies.remove(&asked), Some(Response::Init(Err(ConcurrentTransactions))));
        let (_, marker, _) = world.ends[0].clone();
        assert!(!marker.commit && marker.producer_epoch > first.1, "{marker:?}");
        let late = world.send(end(first, true, version));
        world.commit();
        assert_eq!(world.replies.remove(&late), Some(Response::End(Err(ProducerFenced))));
        world.prompt = true;
        world.tell(0);
        assert_eq!(world.state(), StateName::CompleteAbort);
        for commit in [true, false] {
            assert_eq!(world.end(first, commit, version), Err(ProducerFenced), "as if it had ended it itself");
        }
        let second = world.init(None).unwrap();
        assert!(second.1 > marker.producer_epoch);
        assert_eq!(world.add(second, 0, version), Ok(()));
    }
}

#[test]
fn a_producer_goes_on_with_the_next_epoch() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let second = world.init(Some(first)).unwrap();
    assert_eq!(second, (first.0, 1));
    assert_eq!(world.init(Some(first)), Ok(second), "the answer was lost");
    assert_eq!(world.init(Some(first)), Ok(second), "twice");
    let third = world.init(Some(second)).unwrap();
    assert_eq!(third, (first.0, 2));
    assert_eq!(world.init(Some(first)), Err(ProducerFenced));
    assert_eq!(world.init(Some((9, 2))), Err(ProducerFenced));
    let fourth = world.init(None).unwrap();
    assert_eq!(world.init(Some(third)), Err(ProducerFenced), "somebody else came");
    assert_eq!(world.init(Some(fourth)), Ok((first.0, 4)));
}

#[test]
fn a_producer_that_is_unknown_begins_anew() {
    let mut world = World::new();
    assert_eq!(world.init(Some((77, 5))), Ok((1_001, 0)));
}

#[test]
fn only_the_owner_of_a_transaction_ends_it_by_going_on() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let second = world.init(None).unwrap();
    world.add(second, 0, V1).unwrap();
    assert_eq!(world.init(Some(first)), Err(ProducerFenced));
    assert_eq!(world.state(), StateName::Ongoing, "an earlier one does not");
    assert_eq!(world.init(Some(second)), Err(ConcurrentTransactions));
    assert_eq!(world.state(), StateName::CompleteAbort);
}

#[test]
fn when_epochs_are_used_up_there_is_a_new_id() {
    let (mut world, last) = at_epoch(i16::MAX - 2);
    let last = (last.0, world.init(None).unwrap().1);
    assert_eq!(last.1, i16::MAX - 1, "the last that a producer gets");
    let next = world.init(None).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    assert_eq!(world.add(last, 0, V1), Err(InvalidProducerIdMapping));
    assert_eq!(world.init(Some(last)), Err(ProducerFenced));
    assert_eq!(world.add(next, 0, V1), Ok(()));
}

#[test]
fn a_producer_that_goes_on_gets_a_new_id_too() {
    let (mut world, last) = at_epoch(i16::MAX - 1);
    let next = world.init(Some(last)).unwrap();
    assert_eq!(next, (last.0 + 1, 0));
    assert_eq!(world.init(Some(last)), Ok(next), "the answer was lost");
    assert_eq!(world.init(Some((last.0, 5))), Err(ProducerFenced));
}

#[test]
fn an_end_that_uses_up_the_epochs_brings_a_new_id() {
    for commit in [true, false] {
        let (mut world, last) = at_epoch(i16::MAX - 1);
        world.add(last, 0, V2).unwrap();
        world.prompt = false;
        let asked = world.send(end(last, commit, V2));
        assert!(world.writes.is_empty(), "an id is asked for first");
        world.give_id();
        world.commit();
        let Some(Response::End(Ok(next))) = world.replies.remove(&asked) else { panic!() };
        assert_eq!(next, (world.next_id, 0));
        let (_, marker, _) = world.ends[0].clone();
        assert_eq!((marker.producer_id, marker.producer_epoch), (last.0, i16::MAX), "the old id, fenced for good");
        assert_eq!(world.end(last, commit, V2), Err(ConcurrentTransactions));
        world.take_over();
        assert_eq!(world.ends[0].1, marker);
        world.prompt = true;
        world.tell(0);
        assert_eq!(world.end(last, commit, V2), Ok(next), "asked again");
        assert_eq!(world.end(last, !commit, V2), Err(InvalidTxnState));
        assert_eq!(world.add(last, 0, V2), Err(InvalidProducerIdMapping));
        assert_eq!(world.add(next, 0, V2), Ok(()));
        assert_eq!(world.end(last, commit, V2), Err(InvalidProducerIdMapping), "another transaction is open");
    }
}

#[test]
fn fencing_at_the_last_epoch_is_no_end_of_the_producers_own() {
    for version in [V1, V2] {
        let (mut world, last) = at_epoch(i16::MAX - 1);
        world.add(last, 0, version).unwrap();
        world.advance_ms(TIMEOUT_MS as u64);
        assert_eq!((world.state(), world.described().producer_epoch), (StateName::CompleteAbort, i16::MAX));
        for commit in [true, false] {
            assert_eq!(world.end(last, commit, version), Err(ProducerFenced));
        }
        assert_eq!(world.init(Some(last)), Err(ProducerFenced));
        assert_eq!(world.init(None), Ok((world.next_id, 0)), "the next producer has another id");
    }
}

#[test]
fn without_a_producer_id_there_is_no_answer_but_later() {
    let mut world = World::new();
    world.prompt = false;
    let request = world.send(init("id", None));
    let ask = world.asks.pop_front().unwrap();
    world.step(Input::ProducerId { ask, id: None });
    assert_eq!(world.replies.remove(&request), Some(Response::Init(Err(CoordinatorLoadInProgress))));
    // Two wait for an id: the second finds that the first is being written.
    let requests = [world.send(init("id", None)), world.send(init("id", None))];
    world.give_id();
    world.give_id();
    assert_eq!(world.replies.remove(&requests[1]), Some(Response::Init(Err(ConcurrentTransactions))));
    world.commit();
    assert_eq!(world.replies.remove(&requests[0]), Some(Response::Init(Ok((1_001, 0)))));
}
