//! Message ids: what is known, for how long, and to whom it is told.

use wherry_wire::codec::ResponseError;
use wherry_wire::codec::dedupe::{self, TopicIds};
use wherry_wire::codec::messages::{CreatePartitionsRequest, MetadataRequest, create_partitions_request};
use wherry_wire::records::MESSAGE_ID_HEADER;

use super::*;

const WINDOW: &[(&str, &str)] = &[("wherry.dedupe.window.ms", "60000")];

/// A batch whose records have these ids, or none.
fn named(stamp: Stamp, ids: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Lz4, None);
    for id in ids {
        let headers: Vec<(&str, &[u8])> =
            if id.is_empty() { Vec::new() } else { vec![(MESSAGE_ID_HEADER, id.as_bytes())] };
        builder.append(WALL_MS, None, Some(id.as_bytes()), &headers).unwrap();
    }
    builder.build(stamp).unwrap()
}

fn stamp(producer_id: i64, base_sequence: i32) -> Stamp {
    Stamp { producer_id, producer_epoch: 0, base_sequence }
}

fn asking(topic: &str, records: Bytes) -> ProduceRequest {
    let mut request = produce(topic, -1, &[(0, records)]);
    request.unknown_tagged_fields.insert(dedupe::TAG, dedupe::asked());
    request
}

/// What a producer that asks is told: the base offset, or which records are known and where.
#[track_caller]
fn send(node: &mut Node, conn: ConnId, records: &Bytes) -> Result<i64, Vec<(u32, i64)>> {
    for _ in 0..20 {
        let response = node.ask(conn, 9, &asking("t", records.clone()));
        let partition = produced(&response);
        match partition.error_code {
            0 => return Ok(partition.base_offset),
            code if code == ResponseError::InvalidRecord.code() => {
                let named = dedupe::read_duplicates(&partition.unknown_tagged_fields);
                assert!(!named.is_empty(), "{:?}", partition.error_message);
                return Err(named.iter().map(|d| (d.index, d.offset)).collect());
            }
            code => assert_eq!(code, ResponseError::NotEnoughReplicas.code(), "{:?}", partition.error_message),
        }
    }
    panic!("never answered");
}

fn fresh() -> (Node, ConnId) {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, WINDOW);
    (node, conn)
}

#[test]
fn duplicates_are_named_and_nothing_of_their_batch_is_appended() {
    let (mut node, conn) = fresh();
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["a", "", "b"])), Ok(0));
    assert_eq!(
        send(&mut node, conn, &named(Stamp::NONE, &["c", "b", "", "a", "c"])),
        Err(vec![(1, 2), (3, 0), (4, -1)])
    );
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["c", ""])), Ok(3));
    assert_eq!(values(&node.fetch(conn, "t", 0).records).len(), 5);
    assert_eq!(node.core.stats.duplicate_ids.get(), 3);
}

#[test]
fn the_same_batch_sent_again_is_its_own_original() {
    let (mut node, conn) = fresh();
    let batch = named(stamp(9, 0), &["a", "b"]);
    assert_eq!(send(&mut node, conn, &batch), Ok(0));
    assert_eq!(send(&mut node, conn, &batch), Ok(0), "a retry after a lost answer");
    assert_eq!(send(&mut node, conn, &named(stamp(10, 0), &["a", "b"])), Err(vec![(0, 0), (1, 1)]), "somebody else");
}

#[test]
fn what_follows_a_refused_batch_waits_for_the_rest_of_it() {
    let (mut node, conn) = fresh();
    assert_eq!(send(&mut node, conn, &named(stamp(9, 0), &["a"])), Ok(0));
    assert_eq!(send(&mut node, conn, &named(stamp(9, 1), &["a", "b"])), Err(vec![(0, 0)]));
    let behind = node.ask(conn, 9, &asking("t", named(stamp(9, 3), &["c"])));
    assert_eq!(produced(&behind).error_code, ResponseError::NotEnoughReplicas.code());
    assert_eq!(send(&mut node, conn, &named(stamp(9, 1), &["b"])), Ok(1));
    assert_eq!(send(&mut node, conn, &named(stamp(9, 2), &["c"])), Ok(2));
}

#[test]
fn ids_are_known_after_a_restart_and_until_their_window_is_over() {
    let (mut node, conn) = fresh();
    // Appended by a producer that does not ask, before anybody did.
    assert_eq!(node.produce(conn, "t", named(Stamp::NONE, &["a", "b"])).error_code, 0);
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["b"])), Err(vec![(0, 1)]));
    // And after.
    assert_eq!(node.produce(conn, "t", named(Stamp::NONE, &["c"])).error_code, 0);
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["c", "a", "x"])), Err(vec![(0, 2), (1, 0)]));
    node.advance_ms(60_001);
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["c", "a", "x"])), Ok(3));
}

#[test]
fn no_more_ids_are_kept_than_the_topic_allows() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[WINDOW, &[("wherry.dedupe.max.ids", "3")]].concat());
    for (n, id) in (0..).zip(["a", "b", "c", "d"]) {
        assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &[id])), Ok(n));
    }
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["b"])), Err(vec![(0, 1)]));
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["a"])), Ok(4), "forgotten");
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["b"])), Ok(5), "forgotten");
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["a"])), Err(vec![(0, 4)]));
    assert_eq!(node.core.message_ids.held(), 3);
}

#[test]
fn only_topics_with_a_window_and_producers_that_ask_are_meant() {
    let (mut node, conn) = fresh();
    node.create_topic(conn, "plain", 1, &[]);
    for _ in 0..2 {
        assert_eq!(produced(&node.ask(conn, 9, &asking("plain", named(Stamp::NONE, &["a"])))).error_code, 0);
        assert_eq!(node.produce(conn, "t", named(Stamp::NONE, &["a"])).error_code, 0);
    }
    assert_eq!(send(&mut node, conn, &named(Stamp::NONE, &["a"])), Err(vec![(0, 1)]));
}

#[test]
fn a_batch_that_cannot_be_looked_into_is_refused() {
    let (mut node, conn) = fresh();
    let mut broken = BytesMut::from(named(Stamp::NONE, &["a", "b"]).as_ref());
    let last = broken.len() - 9;
    broken[last..].fill(0xff);
    let crc = wherry_wire::batch::crc32c(&broken[wherry_wire::batch::CRC_START..]);
    broken[17..21].copy_from_slice(&crc.to_be_bytes());
    let response = node.ask(conn, 9, &asking("t", broken.freeze()));
    assert_eq!(produced(&response).error_code, ResponseError::CorruptMessage.code());
}

#[test]
fn metadata_say_what_a_topic_does_with_ids() {
    let (mut node, conn) = fresh();
    node.create_topic(conn, "plain", 1, &[]);
    let grow = create_partitions_request::CreatePartitionsTopic::default()
        .with_name(name("t"))
        .with_count(4)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![grow]).with_timeout_ms(1000);
    assert_eq!(node.ask(conn, 3, &request).results[0].error_code, 0);
    let answer = node.ask(conn, 12, &MetadataRequest::default().with_topics(None));
    let told: Vec<_> = answer
        .topics
        .iter()
        .map(|t| (t.name.as_ref().unwrap().to_string(), TopicIds::read(&t.unknown_tagged_fields)))
        .collect();
    let of_t = TopicIds { window_ms: 60_000, partitions: 1 };
    assert_eq!(told, [("plain".to_owned(), None), ("t".to_owned(), Some(of_t))]);
}
