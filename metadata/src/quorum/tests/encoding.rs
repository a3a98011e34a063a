//! Records and messages against bytes that nobody wrote.

use proptest::prelude::*;

use super::super::message::{Answer, Body, Request};
use super::super::record::Record;
use super::super::types::{Ballot, Position, encode};
use super::super::{Message, QuorumError, Stored, limits};
use super::world::World;

fn request() -> Message {
    let ballot = Ballot { term: 3, node: 1, committed: true };
    let before = Some(Position { term: 2, node: 1, index: 7 });
    Message(Body::Request { id: 9, request: Request::Append { ballot, before, entries: vec![], committed: before } })
}

#[test]
fn messages_survive_the_journey() {
    let ballot = Ballot { term: u64::MAX, node: i32::MIN, committed: false };
    let answer = Message(Body::Answer { id: 1, answer: Answer::Vote { ballot, granted: true, last: None } });
    for message in [request(), answer, Message(Body::TakeOver { term: 0 })] {
        let bytes = message.encode().expect("encodes");
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn other_versions_are_named() {
    let mut bytes = request().encode().expect("encodes");
    bytes[0] = 2;
    assert_eq!(Message::decode(&bytes), Err(QuorumError::UnknownVersion { version: 2, known: 1 }));
    assert!(matches!(Stored::replay([&bytes]), Err(QuorumError::UnknownVersion { .. })));
}

#[test]
fn declared_lengths_are_not_believed() {
    // A part of a snapshot that claims 2^60 bytes and has three.
    let lying = [&[1, 6][..], &[0xff; 8], &[0x0f, 1, 2, 3]].concat();
    assert!(matches!(Stored::replay([&lying]), Err(QuorumError::Malformed(_))));
    let large = vec![1; limits::MAX_MESSAGE_BYTES + 1];
    assert!(matches!(Message::decode(&large), Err(QuorumError::TooLarge { .. })));
    assert!(matches!(Message::decode(&[]), Err(QuorumError::Malformed(_))));
}

#[test]
fn bytes_too_many_are_refused() {
    let mut bytes = request().encode().expect("encodes");
    bytes.push(0);
    assert!(matches!(Message::decode(&bytes), Err(QuorumError::Malformed(_))));
}

#[test]
fn a_log_without_its_beginning_is_refused() {
    let mut world = World::founded(31, 1);
    world.commit(b"x");
    let records = world.disk(1).to_vec();
    assert!(Stored::replay(&records).is_ok_and(|stored| stored.last_index() == Some(2)));
    let late = records.iter().rposition(|record| record[1] == 2).expect("entries");
    assert!(matches!(Stored::replay(&records[late..]), Err(QuorumError::Malformed(_))));
    let doubled = [&records[..], &records[late..]].concat();
    assert!(matches!(Stored::replay(&doubled), Err(QuorumError::Malformed(_))));
}

#[test]
fn an_unfinished_snapshot_counts_for_nothing() {
    let mut world = World::founded(32, 1);
    world.snapshot_every = Some(4);
    for value in 0..8u8 {
        world.commit(&[value]);
    }
    let records = world.disk(1).to_vec();
    let end = encode(&Record::End).expect("encodes");
    let complete = records.iter().rposition(|record| *record == end).expect("a snapshot");
    let full = Stored::replay(&records).expect("a log");
    // Cut before its end, the snapshot before it and the entries since then still say the same.
    let cut = Stored::replay(&records[..complete]);
    assert!(cut.is_err() || cut.is_ok_and(|cut| cut.last_index() <= full.last_index()));
    assert!(!full.is_empty());
}

proptest! {
    #[test]
    fn hostile_bytes_give_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[1][..], &bytes].concat();
        let _ = Message::decode(&bytes);
        let _ = Stored::replay([&bytes]);
    }

    #[test]
    fn damaged_messages_do_no_harm(at in 0usize..40, flip in 1u8..) {
        let mut bytes = request().encode().expect("encodes");
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(message) = Message::decode(&bytes) {
            let mut world = World::founded(33, 3);
            let target = (1..=3).find(|node| Some(*node) != world.leader()).expect("a follower");
            world.quorum(target).receive(1, message);
            world.drain(target);
            prop_assert!(world.fatal(target).is_none());
        }
    }
}
