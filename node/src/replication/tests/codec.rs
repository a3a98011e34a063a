//! Messages survive the way; what is no message is an error and nothing else.

use bytes::Bytes;
use wherry_wire::types::{LeaderEpoch, Offset};

use super::super::message::*;
use super::walk::Rng;
use super::world::log;

fn examples() -> Vec<Message> {
    let subscribe = |alias| Subscribe {
        alias,
        log: log(3),
        leader_epoch: LeaderEpoch(4),
        log_end: Offset(20),
        last_epoch: (alias > 1).then_some(LeaderEpoch(3)),
        durable_end: Offset(15),
        log_start: Offset(5),
    };
    let part = |alias, hw: Option<i64>, batches: &'static [u8]| DataPart {
        alias,
        high_watermark: hw.map(Offset),
        log_start: Offset(1),
        from: Offset(7),
        batches: if batches.is_empty() { Vec::new() } else { vec![Bytes::from_static(batches)] },
    };
    let refused = |why| Message::Refused { alias: 9, why };
    vec![
        Message::Subscribe(vec![subscribe(1), subscribe(2)]),
        Message::Unsubscribe(vec![1, u32::MAX]),
        Message::Progress(vec![(1, Offset(2)), (3, Offset(i64::MAX))]),
        Message::Credit(8 << 20),
        Message::Data(vec![part(1, None, b"abc"), part(2, Some(5), b""), part(3, Some(0), b"defgh")]),
        Message::Diverged { alias: 1, epoch: LeaderEpoch(2), end_offset: Offset(3) },
        refused(Why::NotLeader),
        refused(Why::UnknownPartition),
        refused(Why::FencedEpoch),
        refused(Why::UnknownEpoch),
        refused(Why::OutOfRange { log_start: Offset(77) }),
    ]
}

fn body(message: &Message) -> Bytes {
    Bytes::from(message.encode().concat())
}

#[test]
fn messages_survive_the_way() {
    for message in examples() {
        assert_eq!(Message::decode(body(&message)), Ok(message));
    }
}

#[test]
fn batches_are_not_copied() {
    let bytes = Bytes::from(vec![7; 1000]);
    let part = DataPart {
        alias: 1,
        high_watermark: None,
        log_start: Offset(0),
        from: Offset(0),
        batches: vec![bytes.clone()],
    };
    let chunks = Message::Data(vec![part]).encode();
    assert_eq!(chunks[1].as_ptr(), bytes.as_ptr());
    let received = Bytes::from(chunks.concat());
    let Ok(Message::Data(parts)) = Message::decode(received.clone()) else { panic!() };
    assert!(received.as_ptr_range().contains(&parts[0].batches[0].as_ptr()));
}

#[test]
fn what_is_cut_or_longer_is_refused() {
    for message in examples() {
        let whole = body(&message);
        for len in 0..whole.len() {
            assert!(Message::decode(whole.slice(..len)).is_err(), "{message:?} cut to {len}");
        }
        assert!(Message::decode(Bytes::from([&whole[..], &[0]].concat())).is_err(), "{message:?} with one byte more");
    }
}

#[test]
fn declared_counts_are_compared_with_the_bytes() {
    for tag in [1, 2, 3, 5] {
        let huge = [&[tag][..], &u32::MAX.to_be_bytes(), &[0; 64]].concat();
        assert!(Message::decode(Bytes::from(huge)).is_err());
    }
}

#[test]
fn hostile_bytes_are_errors_at_worst() {
    let mut rng = Rng(1);
    for _ in 0..20_000 {
        let len = rng.below(200);
        let mut bytes: Vec<u8> = (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
        if let Some(tag) = bytes.first_mut() {
            *tag %= 9;
        }
        drop(Message::decode(Bytes::from(bytes)));
    }
    for message in examples() {
        let whole = body(&message).to_vec();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            drop(Message::decode(Bytes::from(flipped)));
        }
    }
}
