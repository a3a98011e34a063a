//! Produce: what is stored, what is refused and how.

use uuid::Uuid;
use wherry_wire::batch::BatchHeader;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::produce_request::TopicProduceData;
use wherry_wire::codec::messages::{DeleteTopicsRequest, InitProducerIdRequest, ProduceRequest};
use wherry_wire::types::LogId;

use super::*;

#[track_caller]
fn refused(node: &mut Node, version: i16, request: &ProduceRequest, error: ResponseError) {
    let conn = node.connect();
    let response = node.ask(conn, version, request);
    for partition in &response.responses[0].partition_responses {
        assert_eq!(partition.error_code, error.code(), "{:?}", partition.error_message);
        assert_eq!(partition.base_offset, -1);
    }
}

fn init_producer_id() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1000)
}

fn with_topic(configs: &[(&str, &str)]) -> (Node, ConnId, LogId) {
    let mut node = node();
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", 1, configs);
    (node, conn, LogId { topic, partition: 0 })
}

#[test]
fn offsets_count_records_and_bytes_stay_as_they_are() {
    let (mut node, conn, log) = with_topic(&[]);
    let (a, b) = (batch(&["1", "2", "3"]), batch(&["4"]));
    assert_eq!(node.produce(conn, "t", a.clone()).base_offset, 0);
    assert_eq!(node.produce(conn, "t", b).base_offset, 3);
    let stored = node.store().batches(log);
    assert_eq!(stored[0].1[16..], a[16..], "only base offset and leader epoch may change");
    assert_eq!(values(&node.fetch(conn, "t", 0).records).len(), 4);
    let stats = node.core.stats();
    assert_eq!((stats.batches_appended.get(), stats.records_appended.get()), (2, 4));
}

#[test]
fn every_version_and_codec() {
    let (mut node, conn, _) = with_topic(&[]);
    let mut next = 0;
    for version in 3..=12 {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            if codec == Codec::Zstd && version < 7 {
                continue;
            }
            let records = batch_of(codec, Stamp::NONE, WALL_MS, &[(None, "value"), (None, "value")]);
            let response = node.ask(conn, version, &produce("t", 1, &[(0, records)]));
            assert_eq!((produced(&response).error_code, produced(&response).base_offset), (0, next));
            next += 2;
        }
    }
    let all = values(&node.fetch(conn, "t", 0).records);
    assert_eq!(all.len(), usize::try_from(next).unwrap());
}

#[test]
fn by_topic_id() {
    let (mut node, conn, log) = with_topic(&[]);
    let by_id = |id| {
        let data = vec![PartitionProduceData::default().with_records(Some(batch(&["a"])))];
        let topic = TopicProduceData::default().with_topic_id(id).with_partition_data(data);
        ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic])
    };
    let response = node.ask(conn, 13, &by_id(log.topic));
    assert_eq!((produced(&response).error_code, response.responses[0].topic_id), (0, log.topic));
    let response = node.ask(conn, 13, &by_id(Uuid::from_u128(9)));
    assert_eq!(produced(&response).error_code, ResponseError::UnknownTopicId.code());
}

#[test]
fn unknown_topics_and_partitions_fail_alone() {
    let (mut node, conn, _) = with_topic(&[]);
    let response = node.ask(conn, 9, &produce("t", -1, &[(0, batch(&["a"])), (1, batch(&["b"])), (-1, batch(&["c"]))]));
    let codes: Vec<i16> = response.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(codes, [0, unknown, unknown]);
    refused(&mut node, 9, &produce("nope", -1, &[(0, batch(&["a"]))]), ResponseError::UnknownTopicOrPartition);
}

#[test]
fn no_acks_no_response_and_an_error_closes() {
    let (mut node, conn, log) = with_topic(&[]);
    node.send(conn, 9, &produce("t", 0, &[(0, batch(&["a"]))]));
    let next = node.send(conn, 0, &wherry_wire::codec::messages::ApiVersionsRequest::default());
    node.settle();
    let (correlation, _) = node.try_receive::<wherry_wire::codec::messages::ApiVersionsRequest>(conn, 0).unwrap();
    assert_eq!(correlation, next, "the produce has no response");
    assert_eq!(node.store().info(log).unwrap().durable_end.0, 1);
    node.send(conn, 9, &produce("nope", 0, &[(0, batch(&["a"]))]));
    assert!(node.closed(conn).unwrap().contains("acks=0"));
}

#[test]
fn requests_that_are_refused_whole() {
    let (mut node, ..) = with_topic(&[]);
    refused(&mut node, 9, &produce("t", 2, &[(0, batch(&["a"]))]), ResponseError::InvalidRequiredAcks);
}

#[test]
fn batches_that_are_refused() {
    let (mut node, conn, log) = with_topic(&[]);
    let good = batch(&["a", "b"]);
    let patched = |at: usize, bytes: &[u8]| {
        let mut bad = good.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = wherry_wire::batch::crc32c(&bad[21..]);
        bad[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bad)
    };
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let old = |magic: i8| patched(16, &magic.to_be_bytes());
    let future = WALL_MS + 3_600_001;
    for (records, error) in [
        (flipped.into(), ResponseError::CorruptMessage),
        (good.slice(..good.len() - 1), ResponseError::CorruptMessage),
        (good.slice(..20), ResponseError::CorruptMessage),
        (Bytes::new(), ResponseError::InvalidRecord),
        (old(0), ResponseError::UnsupportedForMessageFormat),
        (old(1), ResponseError::UnsupportedForMessageFormat),
        (old(3), ResponseError::UnsupportedForMessageFormat),
        (patched(21, &0x20i16.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(21, &0x10i16.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(21, &7i16.to_be_bytes()), ResponseError::UnsupportedCompressionType),
        (patched(21, &8i16.to_be_bytes()), ResponseError::InvalidTimestamp),
        (patched(57, &1i32.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(57, &0i32.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(23, &i32::MAX.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(8, &(-1i32).to_be_bytes()), ResponseError::InvalidRecord),
        (patched(43, &5i64.to_be_bytes()), ResponseError::InvalidRecord),
        (patched(35, &future.to_be_bytes()), ResponseError::InvalidTimestamp),
        (patched(35, &i64::MAX.to_be_bytes()), ResponseError::InvalidTimestamp),
    ] {
        refused(&mut node, 9, &produce("t", -1, &[(0, records)]), error);
    }
    let zstd = batch_of(Codec::Zstd, Stamp::NONE, WALL_MS, &[(None, "a")]);
    refused(&mut node, 6, &produce("t", -1, &[(0, zstd)]), ResponseError::UnsupportedCompressionType);
    assert_eq!(node.store().info(log).unwrap().log_end.0, 0, "nothing of it was stored");
    assert_eq!(node.produce(conn, "t", good).base_offset, 0);
}

#[test]
fn max_message_bytes() {
    let (mut node, conn, _) = with_topic(&[("max.message.bytes", "1000")]);
    assert_eq!(node.produce(conn, "t", batch(&[&"x".repeat(900)])).error_code, 0);
    let large = produce("t", -1, &[(0, batch(&[&"x".repeat(1000)]))]);
    refused(&mut node, 9, &large, ResponseError::MessageTooLarge);
}

#[test]
fn no_more_replicas_are_required_than_there_are() {
    let (mut node, conn, _) = with_topic(&[("min.insync.replicas", "2")]);
    for acks in [-1, 1] {
        let response = node.ask(conn, 9, &produce("t", acks, &[(0, batch(&["a"]))]));
        assert_eq!(produced(&response).error_code, 0, "the only replica is in sync");
    }
    node.advance_ms(1_000);
    node.settle();
    assert_eq!((node.core.stats().partitions_led.get(), node.core.stats().under_min_insync.get()), (1, 0));
}

#[test]
fn log_append_time_stamps_and_keeps_the_crc_right() {
    let (mut node, conn, log) = with_topic(&[("message.timestamp.type", "LogAppendTime")]);
    let old = batch_of(Codec::Lz4, Stamp::NONE, 5, &[(None, "a")]);
    node.advance_ms(77);
    let response = node.produce(conn, "t", old);
    assert_eq!((response.error_code, response.log_append_time_ms), (0, WALL_MS + 77));
    let (header, bytes) = node.store().batches(log)[0].clone();
    assert_eq!((header.max_timestamp, header.attributes & 8), (WALL_MS + 77, 8));
    assert_eq!(BatchHeader::read(&bytes, 0).unwrap().crc, wherry_wire::batch::crc32c(&bytes[21..]));
    assert_eq!(values(&node.fetch(conn, "t", 0).records), [(0, "a".to_owned())]);
}

#[test]
fn timestamps_are_bounded_by_the_topic() {
    let (mut node, conn, _) = with_topic(&[("message.timestamp.before.max.ms", "1000")]);
    let at = |ms| produce("t", -1, &[(0, batch_of(Codec::None, Stamp::NONE, ms, &[(None, "a")]))]);
    assert_eq!(produced(&node.ask(conn, 9, &at(WALL_MS - 1000))).error_code, 0);
    assert_eq!(produced(&node.ask(conn, 9, &at(-1))).error_code, 0, "no timestamp is allowed");
    refused(&mut node, 9, &at(WALL_MS - 1001), ResponseError::InvalidTimestamp);
}

#[test]
fn a_compacted_topic_needs_keys() {
    let (mut node, conn, _) = with_topic(&[("cleanup.policy", "compact")]);
    for codec in [Codec::None, Codec::Zstd, Codec::Gzip] {
        let keyless = batch_of(codec, Stamp::NONE, WALL_MS, &[(Some("k"), "v"), (None, "v")]);
        refused(&mut node, 9, &produce("t", -1, &[(0, keyless)]), ResponseError::InvalidRecord);
        let keyed = batch_of(codec, Stamp::NONE, WALL_MS, &[(Some("k"), "v")]);
        assert_eq!(node.produce(conn, "t", keyed).error_code, 0);
    }
}

#[test]
fn idempotent_producers() {
    let (mut node, conn, _) = with_topic(&[]);
    let init = node.ask(conn, 4, &init_producer_id());
    assert_eq!((init.error_code, init.producer_epoch), (0, 0));
    let id = init.producer_id.0;
    assert_eq!(node.produce(conn, "t", stamped(id, 0, 0, &["a", "b"])).base_offset, 0);
    assert_eq!(node.produce(conn, "t", stamped(id, 0, 2, &["c"])).base_offset, 2);
    let again = node.produce(conn, "t", stamped(id, 0, 0, &["a", "b"]));
    assert_eq!((again.error_code, again.base_offset), (0, 0), "a duplicate gets the original offset");
    assert_eq!(node.core.stats().duplicates.get(), 1);
    let gap = produce("t", -1, &[(0, stamped(id, 0, 9, &["d"]))]);
    refused(&mut node, 9, &gap, ResponseError::OutOfOrderSequenceNumber);
    assert_eq!(node.produce(conn, "t", stamped(id, 1, 3, &["d"])).error_code, 0);
    refused(&mut node, 9, &produce("t", -1, &[(0, stamped(id, 0, 4, &["e"]))]), ResponseError::InvalidProducerEpoch);
    assert_eq!(values(&node.fetch(conn, "t", 0).records).len(), 4);
}

#[test]
fn a_duplicate_waits_until_the_original_is_durable() {
    let (mut node, conn, _) = with_topic(&[]);
    node.store().hold = true;
    node.send(conn, 9, &produce("t", -1, &[(0, stamped(7, 0, 0, &["a"]))]));
    let other = node.connect();
    node.send(other, 9, &produce("t", -1, &[(0, stamped(7, 0, 0, &["a"]))]));
    node.turn();
    assert!(node.try_receive::<ProduceRequest>(other, 9).is_none(), "acknowledged before it was durable");
    node.store().hold = false;
    node.turn();
    assert_eq!(produced(&node.receive::<ProduceRequest>(other, 9)).base_offset, 0);
}

#[test]
fn an_idempotent_producer_sends_one_batch_per_partition() {
    let (mut node, conn, _) = with_topic(&[]);
    let mut two = stamped(7, 0, 0, &["a"]).to_vec();
    two.extend_from_slice(&stamped(7, 0, 1, &["b"]));
    refused(&mut node, 9, &produce("t", -1, &[(0, two.into())]), ResponseError::InvalidRecord);
    let mut plain = batch(&["a"]).to_vec();
    plain.extend_from_slice(&batch(&["b"]));
    assert_eq!(node.produce(conn, "t", plain.into()).error_code, 0);
    assert_eq!(values(&node.fetch(conn, "t", 0).records).len(), 2);
}

#[test]
fn a_full_disk_is_an_error_that_clients_retry() {
    let (mut node, conn, _) = with_topic(&[]);
    node.store().full = true;
    refused(&mut node, 9, &produce("t", -1, &[(0, batch(&["a"]))]), ResponseError::KafkaStorageError);
    node.create_topic(conn, "doomed", 1, &[]);
    let doomed = vec![name("doomed")];
    let response = node.ask(conn, 4, &DeleteTopicsRequest::default().with_topic_names(doomed));
    assert_eq!(response.responses[0].error_code, 0, "what makes room must work when there is none");
    node.store().full = false;
    assert_eq!(node.produce(conn, "t", batch(&["a"])).error_code, 0, "it recovers without a restart");
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut node = node();
    let mut seen = std::collections::BTreeSet::new();
    let init = init_producer_id();
    for round in 0..3 {
        let conns: Vec<ConnId> = (0..20).map(|_| node.connect()).collect();
        for conn in &conns {
            for _ in 0..30 {
                node.send(*conn, 4, &init);
            }
        }
        node.settle();
        for conn in conns {
            for _ in 0..30 {
                let response = node.receive::<InitProducerIdRequest>(conn, 4);
                assert_eq!(response.error_code, 0);
                assert!(seen.insert(response.producer_id.0), "id {} twice", response.producer_id.0);
            }
        }
        if round == 1 {
            node = node.restart(config());
        }
    }
    assert_eq!(seen.len(), 1800);
}

#[test]
fn what_follows_a_refused_batch_is_refused_like_it_until_that_comes_again() {
    let (mut node, conn, _) = with_topic(&[]);
    let send = |node: &mut Node, producer: i64, sequence: i32| {
        let records = stamped(producer, 0, sequence, &["x"]);
        produced(&node.ask(conn, 9, &produce("t", -1, &[(0, records)]))).error_code
    };
    let again = ResponseError::KafkaStorageError.code();
    assert_eq!(send(&mut node, 7, 0), 0);
    node.store().full = true;
    assert_eq!((send(&mut node, 7, 1), send(&mut node, 8, 0)), (again, again));
    node.store().full = false;
    // To the log, the first of these is out of order, and the other one a new producer.
    assert_eq!((send(&mut node, 7, 2), send(&mut node, 8, 1)), (again, again));
    assert_eq!((send(&mut node, 7, 1), send(&mut node, 7, 2)), (0, 0));
    assert_eq!((send(&mut node, 8, 0), send(&mut node, 8, 1)), (0, 0));
    assert_eq!(send(&mut node, 7, 9), ResponseError::OutOfOrderSequenceNumber.code(), "nothing was refused before it");
}
