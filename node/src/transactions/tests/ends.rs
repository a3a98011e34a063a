//! How transactions begin and end.

use super::*;
use TransactionError::*;
use TransactionVersion::{V1, V2};

const COMMIT: bool = true;
const ABORT: bool = false;

#[test]
fn a_transaction_from_its_beginning_to_its_end() {
    for (version, commit) in [(V1, COMMIT), (V1, ABORT), (V2, COMMIT), (V2, ABORT)] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        assert_eq!((first, world.state()), ((1_001, 0), StateName::Empty));
        assert_eq!(world.add(first, 0, version), Ok(()));
        assert_eq!(world.add(first, 1, version), Ok(()));
        assert_eq!(world.described().partitions, [("t".into(), 0), ("t".into(), 1)]);
        assert_eq!((world.state(), world.described().start_ms), (StateName::Ongoing, WALL_MS));
        world.prompt = false;
        let ended = world.send(end(first, commit, version));
        assert!(world.replies.is_empty() && world.ends.is_empty(), "nobody is told before it is written");
        world.commit();
        let next = if version == V2 { (first.0, 1) } else { first };
        assert_eq!(world.replies.remove(&ended), Some(Response::End(Ok(next))));
        let (_, marker, partitions) = world.ends[0].clone();
        let expected = EndMarker { producer_id: next.0, producer_epoch: next.1, commit, version };
        assert_eq!((marker, partitions.len()), (expected, 2));
        assert_eq!(world.add(next, 2, version), Err(ConcurrentTransactions), "the end is not over");
        let (id, ..) = world.ends[0];
        world.step(Input::MarkersWritten { end: id, partitions: vec![("t".into(), 1)] });
        assert!(world.writes.is_empty(), "one partition does not know it yet");
        world.step(Input::MarkersWritten { end: id, partitions });
        assert!(world.state().is_prepared(), "not before it is written");
        world.commit();
        let over = if commit { StateName::CompleteCommit } else { StateName::CompleteAbort };
        assert_eq!((world.state(), world.described().partitions), (over, vec![]));
        world.prompt = true;
        assert_eq!(world.add(next, 2, version), Ok(()), "the next transaction");
    }
}

#[test]
fn what_was_asked_before_gets_the_same_answer() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    assert_eq!(world.end(first, COMMIT, V1), Ok(first));
    assert_eq!(world.end(first, COMMIT, V1), Ok(first));
    assert_eq!(world.end(first, ABORT, V1), Err(InvalidTxnState));
    world.add(first, 0, V2).unwrap();
    let second = world.end(first, ABORT, V2).unwrap();
    assert_eq!(second, (first.0, 1));
    assert_eq!(world.end(first, ABORT, V2), Ok(second));
    assert_eq!(world.end(first, COMMIT, V2), Err(InvalidTxnState), "it aborted");
    assert_eq!(world.end(second, COMMIT, V2), Err(InvalidTxnState), "nothing is in it");
    let third = world.end(second, ABORT, V2).unwrap();
    assert_eq!(third, (first.0, 2), "nothing to abort, but a new epoch");
    assert_eq!(world.end(first, ABORT, V2), Err(ProducerFenced));
    world.add(third, 0, V2).unwrap();
    assert_eq!(world.end(second, ABORT, V2), Err(ProducerFenced), "another transaction is open");
    assert_eq!(world.state(), StateName::Ongoing);
}

#[test]
fn while_partitions_are_told_an_end_is_not_decided_again() {
    for version in [V1, V2] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        world.add(first, 0, version).unwrap();
        world.prompt = false;
        world.send(end(first, COMMIT, version));
        assert_eq!(world.end(first, ABORT, version), Err(ConcurrentTransactions), "it is being written");
        world.commit();
        assert_eq!(world.end(first, COMMIT, version), Err(ConcurrentTransactions));
        let refused = world.send(end(first, ABORT, version));
        world.commit();
        assert_eq!(world.replies.remove(&refused), Some(Response::End(Err(InvalidTxnState))));
        assert_eq!(world.init(None), Err(ConcurrentTransactions));
        assert!(world.writes.is_empty());
    }
}

#[test]
fn an_end_without_a_beginning_is_refused() {
    let mut world = World::new();
    assert_eq!(world.end((5, 0), COMMIT, V1), Err(InvalidProducerIdMapping));
    assert_eq!(world.add((5, 0), 0, V1), Err(InvalidProducerIdMapping));
    let first = world.init(None).unwrap();
    assert_eq!(world.end(first, COMMIT, V1), Err(InvalidTxnState));
    assert_eq!(world.end(first, ABORT, V1), Err(InvalidTxnState));
    assert_eq!(world.end(first, COMMIT, V2), Err(InvalidTxnState));
    assert_eq!(world.end((5, 0), COMMIT, V2), Err(InvalidProducerIdMapping));
    assert_eq!(world.end(first, ABORT, V2), Ok((first.0, 1)));
    assert_eq!(world.state(), StateName::CompleteAbort);
}

#[test]
fn partitions_are_asked_after() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let asked = |world: &mut World, partition| world.ask(verify(first, partition));
    let stranger = |partition| Response::Add(Ok(vec![(("t".into(), partition), TransactionAbortable)]));
    assert_eq!(asked(&mut world, 0), stranger(0));
    world.add(first, 0, V1).unwrap();
    assert_eq!(asked(&mut world, 0), Response::Add(Ok(vec![])));
    assert_eq!(asked(&mut world, 1), stranger(1));
    assert_eq!(world.ask(verify((first.0, 7), 0)), Response::Add(Err(ProducerFenced)));
    assert_eq!(world.ask(verify((7, 0), 0)), Response::Add(Err(InvalidProducerIdMapping)));
    world.prompt = false;
    world.send(end(first, COMMIT, V1));
    assert_eq!(asked(&mut world, 0), Response::Add(Ok(vec![])), "it is not decided yet");
    world.commit();
    assert_eq!(asked(&mut world, 0), Response::Add(Err(ConcurrentTransactions)));
    world.prompt = true;
    world.tell(0);
    assert_eq!(asked(&mut world, 0), stranger(0), "that transaction is over");
}

#[test]
fn a_partition_that_is_there_is_not_written_again() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    let written = world.log.len();
    assert_eq!(world.add(first, 0, V1), Ok(()));
    let nothing = Request::Add(AddRequest { producer: producer(first), partitions: vec![], version: V1 });
    assert_eq!(world.ask(nothing), Response::Add(Ok(vec![])));
    assert_eq!(world.log.len(), written);
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let mut world = World::new();
    world.prompt = false;
    let request = world.send(init("id", None));
    world.give_id();
    assert_eq!(world.init(None), Err(ConcurrentTransactions));
    assert_eq!(world.add((1_001, 0), 0, V1), Err(ConcurrentTransactions), "there is no such producer yet");
    world.refuse(PersistError::NotAvailable);
    assert_eq!(world.replies.remove(&request), Some(Response::Init(Err(CoordinatorNotAvailable))));
    assert_eq!(world.coordinator.stats(), TransactionsStats::default(), "as if it had never been");
    world.prompt = true;
    let first = world.init(None).unwrap();
    world.add(first, 0, V1).unwrap();
    world.prompt = false;
    for (body, refused) in [
        (add(first, 1, V1), Response::Add(Err(CoordinatorNotAvailable))),
        (end(first, COMMIT, V1), Response::End(Err(CoordinatorNotAvailable))),
        (init("id", None), Response::Init(Err(CoordinatorNotAvailable))),
    ] {
        let before = world.described();
        let request = world.send(body);
        world.refuse(PersistError::NotAvailable);
        assert_eq!(world.replies.remove(&request), Some(refused));
        assert_eq!(world.described(), before);
    }
    let request = world.send(add(first, 1, V1));
    world.refuse(PersistError::TooLarge);
    assert_eq!(world.replies.remove(&request), Some(Response::Add(Err(InvalidRequest))));
    world.prompt = true;
    assert_eq!(world.end(first, COMMIT, V1), Ok(first), "and it can still commit");
}

#[test]
fn a_completion_that_fails_is_tried_again() {
    let mut world = World::new();
    world.committing();
    world.tell(0);
    for _ in 0..3 {
        world.refuse(PersistError::NotAvailable);
        assert!(world.writes.is_empty());
        world.advance_ms(config().retry_ms);
    }
    world.commit();
    assert_eq!(world.state(), StateName::CompleteCommit);
    assert!(world.ends.is_empty(), "partitions are not told again");
}

#[test]
fn the_next_coordinator_tells_who_was_not_told() {
    for commit in [COMMIT, ABORT] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        world.add(first, 0, V2).unwrap();
        world.add(first, 1, V2).unwrap();
        world.prompt = false;
        world.send(end(first, commit, V2));
        world.commit();
        let told = world.ends[0].clone();
        world.step(Input::MarkersWritten { end: told.0, partitions: vec![("t".into(), 0)] });
        world.take_over();
        assert_eq!((world.ends[0].1, &world.ends[0].2), (told.1, &told.2), "the same, to all");
        world.tell(0);
        world.take_over();
        assert_eq!(world.ends[0].1, told.1, "that it is complete was not committed");
        world.prompt = true;
        world.tell(0);
        world.take_over();
        assert!(world.state().is_over() && world.ends.is_empty());
    }
}

#[test]
fn who_waits_is_sent_elsewhere() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    world.prompt = false;
    let adding = world.send(add(first, 0, V1));
    let other = world.send(init("other", None));
    world.take_over();
    assert_eq!(world.replies.remove(&adding), Some(Response::Add(Err(NotCoordinator))));
    assert_eq!(world.replies.remove(&other), Some(Response::Init(Err(NotCoordinator))));
}

#[test]
fn while_records_are_read_back_everybody_is_told_to_come_again() {
    let mut world = World::new();
    world.coordinator = Transactions::new(config());
    assert_eq!(world.init(None), Err(CoordinatorLoadInProgress));
    assert_eq!(world.end((1, 1), COMMIT, V2), Err(CoordinatorLoadInProgress));
    let effects = world.coordinator.loaded(world.now);
    world.take(effects);
    assert_eq!(world.coordinator.replay(&[0, 0, 0, 0], None), Err(ReplayError::NotLoading));
}

#[test]
fn bounds_are_kept() {
    let limits = TransactionsConfig {
        max_ids: 2,
        max_id_bytes: 5,
        max_partitions: 3,
        max_pending_persists: 1,
        max_id_asks: 1,
        ..config()
    };
    let mut world = World::with(limits);
    for id in ["", "longer"] {
        assert_eq!(world.ask(init(id, None)), Response::Init(Err(InvalidRequest)));
    }
    let first = world.init(None).unwrap();
    world.ask(init("b", None));
    assert_eq!(world.ask(init("c", None)), Response::Init(Err(CoordinatorNotAvailable)));
    for partition in 0..3 {
        world.add(first, partition, V1).unwrap();
    }
    assert_eq!(world.add(first, 3, V1), Err(InvalidRequest));
    let partitions = (0..4).map(|p| ("t".into(), p)).collect();
    let asked = Request::Verify(VerifyRequest { producer: producer(first), partitions });
    assert_eq!(world.ask(asked), Response::Add(Err(InvalidRequest)));
    world.prompt = false;
    world.send(init("b", None));
    assert_eq!(world.end(first, COMMIT, V1), Err(CoordinatorNotAvailable), "too much is on its way");
    assert_eq!(world.ask(init("id", None)), Response::Init(Err(CoordinatorNotAvailable)));
}

#[test]
fn timeouts_out_of_bounds_are_refused() {
    let mut world = World::new();
    for timeout_ms in [i32::MIN, -1, 0, config().max_timeout_ms + 1, i32::MAX] {
        let body = InitRequest { transactional_id: "id".into(), timeout_ms, expected: None };
        assert_eq!(world.ask(Request::Init(body)), Response::Init(Err(InvalidTransactionTimeout)));
    }
}

/// A producer that is told "fenced" or "invalid" is over. What a coordinator knew when it was deposed must not be the reason.
#[test]
fn a_coordinator_that_can_write_no_more_refuses_nobody_for_good() {
    let stranger = (77, 0);
    for version in [V1, V2] {
        let mut world = World::new();
        let first = world.init(None).unwrap();
        let newer = (first.0, first.1 + 1);
        world.prompt = false;
        let asked = [
            (end(first, COMMIT, version), Response::End(Err(InvalidTxnState))),
            (end(newer, COMMIT, version), Response::End(Err(ProducerFenced))),
            (add(newer, 0, version), Response::Add(Err(ProducerFenced))),
            (verify(stranger, 0), Response::Add(Err(InvalidProducerIdMapping))),
            (init("id", Some(stranger)), Response::Init(Err(ProducerFenced))),
        ];
        let known = world.coordinator.describe("id");
        for (body, refusal) in asked {
            let request = world.send(body.clone());
            assert_eq!(world.replies.get(&request), None, "{body:?}: nobody is told before it is written");
            world.refuse(PersistError::NotAvailable);
            let Some(Response::Init(Err(error)) | Response::Add(Err(error)) | Response::End(Err(error))) =
                world.replies.remove(&request)
            else {
                panic!("{body:?} was not refused");
            };
            assert_eq!(error, CoordinatorNotAvailable, "{body:?}");
            let request = world.send(body.clone());
            world.commit();
            assert_eq!(world.replies.remove(&request), Some(refusal), "{body:?}");
            assert_eq!(world.coordinator.describe("id"), known, "{body:?} changed something");
        }
        world.prompt = true;
        let before = world.log.len();
        let nobody = Producer { transactional_id: "nobody".into(), ..producer(stranger) };
        let of_nobody = Request::End(EndRequest { producer: nobody, commit: COMMIT, version });
        let request = world.send(of_nobody);
        assert_eq!(world.replies.remove(&request), Some(Response::End(Err(InvalidProducerIdMapping))));
        assert_eq!(world.coordinator.describe("nobody"), Err(TransactionalIdNotFound));
        assert_eq!(world.log.len(), before + 1, "a tombstone for what is not there");
    }
}

#[test]
fn partitions_that_are_told_while_somebody_is_refused_are_not_forgotten() {
    let mut world = World::new();
    let first = world.committing();
    let refused = world.send(end((first.0, 9), COMMIT, V1));
    world.tell(0);
    assert!(world.state().is_prepared());
    world.commit();
    assert_eq!(world.replies.remove(&refused), Some(Response::End(Err(ProducerFenced))));
    assert!(world.ends.is_empty(), "nobody is told twice");
    world.prompt = true;
    world.advance_ms(world.config.retry_ms);
    assert_eq!(world.state(), StateName::CompleteCommit);
}
