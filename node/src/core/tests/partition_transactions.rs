//! The partition side of transactions, over the real engine: batches and markers made by hand, the test as the coordinator.

use wherry_log::io::{SimConfig, SimDisk, Survive};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::describe_producers_request::TopicRequest;
use wherry_wire::codec::messages::describe_producers_response::PartitionResponse;
use wherry_wire::codec::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use wherry_wire::codec::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use wherry_wire::codec::messages::{
    ApiVersionsRequest, DescribeProducersRequest, ListOffsetsRequest, ProducerId, TransactionalId,
    WriteTxnMarkersRequest,
};
use wherry_wire::types::LogId;

use super::*;
use crate::config::EngineOptions;
use crate::core::markers::{Marker, MarkerToken};
use crate::core::store::Engine;
use crate::core::verify::Verify;

type Real = Node<Engine<SimDisk>>;

fn small() -> NodeConfig {
    let engine =
        EngineOptions { journal_bytes: 16 << 20, tail_bytes: 8 << 20, reserve_bytes: 0, ..EngineOptions::default() };
    NodeConfig { engine, ..config() }
}

fn open(disk: SimDisk) -> Real {
    let (engine, _) = Engine::open(disk, small().engine.engine_config(), start_time(), Uuid::from_u128(1)).unwrap();
    let mut node = Node::new(small(), engine);
    node.core.verification.by_hand = Some(Vec::new());
    node
}

/// A node with topics "t" and "u" of two partitions each.
fn fresh(seed: u64) -> (Real, ConnId) {
    let mut node = open(SimDisk::new(SimConfig { seed, ..SimConfig::default() }));
    let conn = node.connect();
    for topic in ["t", "u"] {
        assert_eq!(ask(&mut node, conn, 7, &create(topic, 2, &[])).topics[0].error_code, 0);
    }
    (node, conn)
}

fn crashed(mut node: Real, survive: Survive) -> (Real, ConnId) {
    let other =
        Engine::open(SimDisk::new(SimConfig::default()), small().engine.engine_config(), start_time(), Uuid::nil());
    let engine = std::mem::replace(node.core.store_mut(), other.unwrap().0);
    let mut node = open(engine.into_disk().crash(survive));
    let conn = node.connect();
    (node, conn)
}

/// Turns until a response is there.
#[track_caller]
fn ask<R: ApiRequest>(node: &mut Real, conn: ConnId, version: i16, request: &R) -> R::Response {
    node.send(conn, version, request);
    wait::<R>(node, conn, version)
}

#[track_caller]
fn wait<R: ApiRequest>(node: &mut Real, conn: ConnId, version: i16) -> R::Response {
    for _ in 0..10_000 {
        if let Some((_, response)) = node.try_receive::<R>(conn, version) {
            return response;
        }
        node.advance_ms(1);
        node.turn();
    }
    panic!("no response");
}

/// A producer of transactions: its epoch and what it sends next.
#[derive(Debug, Clone, Copy)]
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

fn producer(id: i64) -> Producer {
    Producer { id, epoch: 0, sequence: 0 }
}

impl Producer {
    fn batch(&mut self, value: &str) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.set_transactional(true);
        let no_headers: [(&[u8], &[u8]); 0] = [];
        builder.append(WALL_MS, None, Some(value.as_bytes()), &no_headers).unwrap();
        let stamp = Stamp { producer_id: self.id, producer_epoch: self.epoch, base_sequence: self.sequence };
        self.sequence += 1;
        builder.build(stamp).unwrap()
    }

    fn request(&mut self, topic: &str, value: &str) -> ProduceRequest {
        transactional(topic, &[(0, self.batch(value))])
    }

    fn marker(&self, commit: bool) -> WritableTxnMarker {
        WritableTxnMarker::default()
            .with_producer_id(ProducerId(self.id))
            .with_producer_epoch(self.epoch)
            .with_coordinator_epoch(1)
            .with_transaction_result(commit)
            .with_topics(vec![marked("t", &[0])])
    }
}

fn transactional(topic: &str, partitions: &[(i32, Bytes)]) -> ProduceRequest {
    produce(topic, -1, partitions).with_transactional_id(Some(TransactionalId(text("x"))))
}

fn marked(topic: &str, partitions: &[i32]) -> WritableTxnMarkerTopic {
    WritableTxnMarkerTopic::default().with_name(name(topic)).with_partition_indexes(partitions.to_vec())
}

/// What the coordinator is asked.
#[track_caller]
fn asked(node: &mut Real) -> Verify {
    let asked = node.core.verification.by_hand.as_ref().unwrap();
    asked.first().expect("a question").1.clone()
}

fn questions(node: &Real) -> usize {
    node.core.verification.by_hand.as_ref().unwrap().len()
}

#[track_caller]
fn answer(node: &mut Real, result: Result<(), ResponseError>) {
    let (token, _) = node.core.verification.by_hand.as_mut().unwrap().remove(0);
    node.core.verified(token, result);
    node.take_effects();
}

/// Sends a batch, says yes if asked, gives error code and offset.
#[track_caller]
fn send(node: &mut Real, conn: ConnId, request: &ProduceRequest) -> (i16, i64) {
    node.send(conn, 9, request);
    if questions(node) > 0 {
        answer(node, Ok(()));
    }
    let response = wait::<ProduceRequest>(node, conn, 9);
    (produced(&response).error_code, produced(&response).base_offset)
}

/// Writes one marker; the error code of its first partition.
#[track_caller]
fn end(node: &mut Real, conn: ConnId, marker: WritableTxnMarker) -> i16 {
    let response = ask(node, conn, 1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]));
    response.markers[0].topics[0].partitions[0].error_code
}

fn committed(topic: &str, offset: i64) -> FetchRequest {
    fetch(topic, offset).with_isolation_level(1)
}

/// What a reader of committed records gets and makes of it: high watermark, last stable offset, values.
#[track_caller]
fn read(node: &mut Real, conn: ConnId, offset: i64) -> (i64, i64, Vec<String>) {
    let response = ask(node, conn, 11, &committed("t", offset));
    let found = first(&response);
    assert_eq!(found.error_code, 0);
    (found.high_watermark, found.last_stable_offset, shown(found))
}

/// As Kafka's clients do it.
fn shown(found: &PartitionData) -> Vec<String> {
    let mut aborted: Vec<(i64, i64)> =
        found.aborted_transactions.iter().flatten().map(|a| (a.first_offset, a.producer_id.0)).collect();
    aborted.sort_unstable();
    aborted.reverse();
    let mut skipped = std::collections::HashSet::new();
    let mut values = Vec::new();
    for raw in wherry_wire::batch::split(found.records.clone().unwrap_or_default()) {
        let batch = raw.unwrap().check().unwrap();
        let header = *batch.header();
        while let Some((_, producer)) = aborted.pop_if(|(first, _)| *first <= header.base_offset.0) {
            skipped.insert(producer);
        }
        if let Some(end) = wherry_wire::records::EndMarker::read(&header, batch.bytes()) {
            if !end.commit {
                skipped.remove(&end.producer_id);
            }
        } else if !header.is_transactional() || !skipped.contains(&header.producer_id) {
            values.extend(super::values(&Some(batch.bytes().clone())).into_iter().map(|(_, value)| value));
        }
    }
    values
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn readers_of_committed_records_wait_for_the_end_and_skip_what_was_aborted() {
    let (mut node, conn) = fresh(1);
    let (mut a, mut b) = (producer(7), producer(8));
    assert_eq!(send(&mut node, conn, &produce("t", -1, &[(0, batch(&["plain"]))])), (0, 0));
    assert_eq!(send(&mut node, conn, &a.request("t", "a1")), (0, 1));
    assert_eq!(send(&mut node, conn, &b.request("t", "b1")), (0, 2));
    assert_eq!(read(&mut node, conn, 0), (3, 1, owned(&["plain"])));
    assert_eq!(read(&mut node, conn, 2), (3, 1, owned(&[])), "beyond the last stable offset is no error");
    let all = ask(&mut node, conn, 11, &fetch("t", 0));
    assert_eq!((values(&first(&all).records).len(), first(&all).last_stable_offset), (3, 1));
    assert!(first(&all).aborted_transactions.is_none());
    assert_eq!(end(&mut node, conn, b.marker(true)), 0);
    assert_eq!(read(&mut node, conn, 0), (4, 1, owned(&["plain"])), "the other one is still open");
    assert_eq!(send(&mut node, conn, &a.request("t", "a2")), (0, 4));
    assert_eq!(end(&mut node, conn, a.marker(false)), 0);
    assert_eq!(read(&mut node, conn, 0), (6, 6, owned(&["plain", "b1"])));
    // From within what was aborted, too.
    assert_eq!(read(&mut node, conn, 4), (6, 6, owned(&[])));
    assert_eq!(send(&mut node, conn, &a.request("t", "a3")), (0, 6));
    assert_eq!(end(&mut node, conn, a.marker(true)), 0);
    assert_eq!(read(&mut node, conn, 4), (8, 8, owned(&["a3"])));
}

#[test]
fn a_long_poll_of_committed_records_is_woken_by_the_end_and_by_nothing_before() {
    let (mut node, conn) = fresh(2);
    let reader = node.connect();
    let mut a = producer(7);
    node.send(reader, 11, &fetch_waiting("t", 0, 5_000, 1).with_isolation_level(1));
    for value in ["1", "2", "3"] {
        send(&mut node, conn, &a.request("t", value));
    }
    node.settle();
    assert!(node.try_receive::<FetchRequest>(reader, 11).is_none(), "nothing is stable yet");
    assert_eq!(end(&mut node, conn, a.marker(true)), 0);
    let response = wait::<FetchRequest>(&mut node, reader, 11);
    assert_eq!(shown(first(&response)), owned(&["1", "2", "3"]));
    assert!(node.now.monotonic_ns < start_time().monotonic_ns + 5_000_000_000, "not by its deadline");
}

#[test]
fn offsets_are_told_as_far_as_the_reader_may_see() {
    let (mut node, conn) = fresh(3);
    let mut a = producer(7);
    send(&mut node, conn, &produce("t", -1, &[(0, batch(&["plain"]))]));
    send(&mut node, conn, &a.request("t", "a1"));
    let offset = |node: &mut Real, isolation, timestamp| {
        let one = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![one]);
        let request = ListOffsetsRequest::default().with_isolation_level(isolation).with_topics(vec![topic]);
        ask(node, conn, 7, &request).topics[0].partitions[0].offset
    };
    assert_eq!([offset(&mut node, 0, -1), offset(&mut node, 1, -1)], [2, 1]);
    assert_eq!([offset(&mut node, 0, -2), offset(&mut node, 1, -2)], [0, 0]);
    end(&mut node, conn, a.marker(true));
    assert_eq!([offset(&mut node, 0, -1), offset(&mut node, 1, -1)], [3, 3]);
    // The marker has the newest time; before it was there, and for who may not see it, the record has.
    send(&mut node, conn, &a.request("t", "a2"));
    assert_eq!([offset(&mut node, 0, WALL_MS), offset(&mut node, 1, WALL_MS)], [0, 0]);
    let later = node.now.wall_ms + 1_000;
    assert_eq!(offset(&mut node, 1, later), -1);
}

#[test]
fn the_coordinator_is_asked_once_for_each_transaction_and_partition() {
    let (mut node, conn) = fresh(4);
    let mut a = producer(7);
    node.send(conn, 9, &transactional("t", &[(0, a.batch("a1")), (1, producer(7).batch("p1"))]));
    let verify = asked(&mut node);
    let topic = node.core.meta.topic("t").unwrap().id;
    let partitions: Vec<_> = verify.partitions.iter().map(|id| (id.topic, id.partition)).collect();
    assert_eq!(partitions, [(topic, 0), (topic, 1)]);
    assert_eq!((verify.transactional_id.as_str(), verify.producer_id, verify.producer_epoch), ("x", 7, 0));
    assert!(!verify.add, "clients of this version add partitions themselves");
    node.settle();
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none());
    answer(&mut node, Ok(()));
    let response = wait::<ProduceRequest>(&mut node, conn, 9);
    assert!(response.responses[0].partition_responses.iter().all(|p| p.error_code == 0));
    // Open now: nobody is asked.
    node.send(conn, 9, &a.request("t", "a2"));
    assert_eq!(questions(&node), 0);
    assert_eq!(produced(&wait::<ProduceRequest>(&mut node, conn, 9)).error_code, 0);
    end(&mut node, conn, a.marker(true));
    // The next one, and with a version whose clients leave it to the node.
    node.send(conn, 12, &a.request("t", "a3"));
    assert!(asked(&mut node).add);
    answer(&mut node, Ok(()));
    assert_eq!(produced(&wait::<ProduceRequest>(&mut node, conn, 12)).error_code, 0);
    // A newer instance of the producer has an epoch of its own.
    let mut newer = Producer { epoch: 1, sequence: 0, ..a };
    node.send(conn, 9, &newer.request("t", "a4"));
    assert_eq!(asked(&mut node).producer_epoch, 1);
}

#[test]
fn what_follows_a_request_that_waits_stays_behind_it() {
    let (mut node, conn) = fresh(5);
    let mut a = producer(7);
    let first = node.send(conn, 9, &a.request("t", "a1"));
    let second = node.send(conn, 9, &a.request("t", "a2"));
    let third = node.send(conn, 9, &produce("u", -1, &[(0, batch(&["plain"]))]));
    let fourth = node.send(conn, 0, &ApiVersionsRequest::default());
    node.settle();
    assert_eq!(questions(&node), 1, "the second waits behind the first and needs no question");
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none());
    answer(&mut node, Ok(()));
    node.settle();
    for (sent, offset) in [(first, 0), (second, 1), (third, 0)] {
        let (correlation, response) = node.try_receive::<ProduceRequest>(conn, 9).unwrap();
        assert_eq!((correlation, produced(&response).error_code, produced(&response).base_offset), (sent, 0, offset));
    }
    assert_eq!(node.try_receive::<ApiVersionsRequest>(conn, 0).unwrap().0, fourth);
}

#[test]
fn what_the_coordinator_refuses_is_told_as_clients_understand_it() {
    use ResponseError as E;
    let table = [
        (9, E::InvalidTxnState, E::InvalidTxnState),
        (10, E::TransactionAbortable, E::InvalidTxnState),
        (11, E::TransactionAbortable, E::TransactionAbortable),
        (9, E::CoordinatorNotAvailable, E::NotEnoughReplicas),
        (12, E::CoordinatorLoadInProgress, E::NotEnoughReplicas),
        (9, E::RequestTimedOut, E::NotEnoughReplicas),
        (11, E::ConcurrentTransactions, E::NotEnoughReplicas),
        (12, E::ConcurrentTransactions, E::ConcurrentTransactions),
        (9, E::ProducerFenced, E::InvalidProducerEpoch),
        (12, E::InvalidProducerIdMapping, E::InvalidProducerIdMapping),
    ];
    let (mut node, conn) = fresh(6);
    for (version, said, expected) in table {
        node.send(conn, version, &producer(7).request("t", "a1"));
        answer(&mut node, Err(said));
        let response = wait::<ProduceRequest>(&mut node, conn, version);
        assert_eq!(produced(&response).error_code, expected.code(), "{said:?} in version {version}");
    }
    assert_eq!(read(&mut node, conn, 0), (0, 0, owned(&[])), "nothing was appended");
}

/// Without a coordinator of any kind, clients are told to try again.
#[test]
fn without_a_coordinator_nothing_is_appended() {
    let (mut node, conn) = fresh(7);
    node.core.verification.by_hand = None;
    node.send(conn, 9, &producer(7).request("t", "a1"));
    let response = wait::<ProduceRequest>(&mut node, conn, 9);
    assert_eq!(produced(&response).error_code, ResponseError::NotEnoughReplicas.code());
}

#[test]
fn a_batch_that_comes_after_the_end_opens_nothing() {
    let (mut node, conn) = fresh(8);
    let other = node.connect();
    let mut a = producer(7);
    node.send(conn, 9, &a.request("t", "late"));
    assert_eq!(questions(&node), 1);
    // While the answer is on its way, the transaction is aborted.
    assert_eq!(end(&mut node, other, a.marker(false)), 0);
    answer(&mut node, Ok(()));
    let response = wait::<ProduceRequest>(&mut node, conn, 9);
    assert_eq!(produced(&response).error_code, ResponseError::InvalidTxnState.code());
    assert_eq!(read(&mut node, other, 0), (1, 1, owned(&[])), "the marker alone");
}

#[test]
fn a_later_batch_does_not_pass_one_that_could_not_be_verified() {
    let (mut node, conn) = fresh(9);
    let mut a = producer(7);
    let (one, two) = (a.request("t", "a1"), a.request("t", "a2"));
    let other = node.connect();
    node.send(conn, 9, &one);
    node.send(other, 9, &two);
    answer(&mut node, Err(ResponseError::CoordinatorNotAvailable));
    let refused = wait::<ProduceRequest>(&mut node, conn, 9);
    assert_eq!(produced(&refused).error_code, ResponseError::NotEnoughReplicas.code());
    answer(&mut node, Ok(()));
    let passed = wait::<ProduceRequest>(&mut node, other, 9);
    assert_eq!(produced(&passed).error_code, ResponseError::OutOfOrderSequenceNumber.code());
    // What follows on the same connection is told what the first was told.
    node.send(conn, 9, &two);
    answer(&mut node, Ok(()));
    let passed = wait::<ProduceRequest>(&mut node, conn, 9);
    assert_eq!(produced(&passed).error_code, ResponseError::NotEnoughReplicas.code());
    assert_eq!([send(&mut node, conn, &one), send(&mut node, conn, &two)], [(0, 0), (0, 1)]);
    // Where every transaction has an epoch of its own, it begins with 0 in any case.
    let mut b = Producer { id: 8, epoch: 3, sequence: 5 };
    node.send(conn, 12, &b.request("t", "b"));
    answer(&mut node, Ok(()));
    let response = wait::<ProduceRequest>(&mut node, conn, 12);
    assert_eq!(produced(&response).error_code, ResponseError::OutOfOrderSequenceNumber.code());
}

#[test]
fn who_goes_away_while_it_waits_leaves_nothing() {
    let (mut node, conn) = fresh(10);
    let other = node.connect();
    node.send(conn, 9, &producer(7).request("t", "a1"));
    node.core.disconnected(conn);
    answer(&mut node, Ok(()));
    assert!(node.core.verification.is_empty());
    assert_eq!(read(&mut node, other, 0), (0, 0, owned(&[])));
}

#[test]
fn requests_that_can_not_be() {
    use ResponseError as E;
    let (mut node, conn) = fresh(11);
    let code = |node: &mut Real, request: &ProduceRequest| produced(&ask(node, conn, 9, request)).error_code;
    let without_id = produce("t", -1, &[(0, producer(7).batch("a"))]);
    assert_eq!(code(&mut node, &without_id), E::TransactionalIdAuthorizationFailed.code());
    let two = transactional("t", &[(0, producer(7).batch("a")), (1, producer(8).batch("b"))]);
    assert_eq!(code(&mut node, &two), E::InvalidProducerIdMapping.code());
    let nobody = transactional("t", &[(0, Producer { id: -1, epoch: -1, sequence: -1 }.batch("a"))]);
    assert_eq!(code(&mut node, &nobody), E::InvalidRecord.code());
    assert_eq!(
        code(&mut node, &transactional("nope", &[(0, producer(7).batch("a"))])),
        E::UnknownTopicOrPartition.code()
    );
    let plain = transactional("t", &[(0, batch(&["plain"]))]);
    assert_eq!(code(&mut node, &plain), 0, "a request may name a transactional id and carry none of its batches");
    assert_eq!(questions(&node), 0);
    // In an open transaction everything of its producer is part of it.
    let mut a = producer(7);
    assert_eq!(send(&mut node, conn, &a.request("t", "a")).0, 0);
    let outside = produce("t", -1, &[(0, stamped(7, 0, 1, &["outside"]))]);
    assert_eq!(code(&mut node, &outside), E::InvalidTxnState.code());
}

#[test]
fn markers_are_written_where_they_can_be() {
    use ResponseError as E;
    let (mut node, conn) = fresh(12);
    let (mut a, mut b) = (producer(7), producer(8));
    for partition in [0, 1] {
        let mut a = a;
        send(&mut node, conn, &transactional("t", &[(partition, a.batch("a"))]));
    }
    send(&mut node, conn, &b.request("u", "b"));
    (a.sequence, b.sequence) = (1, 1);
    let topics = vec![marked("t", &[1, 0, 9]), marked("nope", &[0])];
    let markers = vec![a.marker(true).with_topics(topics), b.marker(false).with_topics(vec![marked("u", &[0])])];
    node.send(conn, 1, &WriteTxnMarkersRequest::default().with_markers(markers));
    assert!(node.try_receive::<WriteTxnMarkersRequest>(conn, 1).is_none(), "not before they are durable");
    let response = wait::<WriteTxnMarkersRequest>(&mut node, conn, 1);
    let codes: Vec<(i64, Vec<(i32, i16)>)> = response
        .markers
        .iter()
        .map(|m| {
            let all = m.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (p.partition_index, p.error_code)));
            (m.producer_id.0, all.collect())
        })
        .collect();
    let unknown = E::UnknownTopicOrPartition.code();
    assert_eq!(codes, [(7, vec![(1, 0), (0, 0), (9, unknown), (0, unknown)]), (8, vec![(0, 0)])]);
    assert_eq!(read(&mut node, conn, 0), (2, 2, owned(&["a"])));
    // Producers and coordinators of the past.
    let old = a.marker(true).with_producer_epoch(-1);
    assert_eq!(end(&mut node, conn, old), E::InvalidProducerEpoch.code());
    assert_eq!(end(&mut node, conn, a.marker(true).with_coordinator_epoch(0)), E::TransactionCoordinatorFenced.code());
    assert_eq!(end(&mut node, conn, a.marker(true)), 0, "said again");
    let empty = ask(&mut node, conn, 1, &WriteTxnMarkersRequest::default());
    assert!(empty.markers.is_empty());
}

/// The call that coordinators make, on this node or another: a marker of transaction.version 2 must be newer than what it
/// ends, and fences all before it.
#[test]
fn a_marker_of_a_coordinator_fences_what_it_ends() {
    let (mut node, conn) = fresh(13);
    let mut a = producer(7);
    send(&mut node, conn, &a.request("t", "a1"));
    let topic = node.core.meta.topic("t").unwrap().id;
    let log = LogId { topic, partition: 0 };
    let marker =
        Marker { producer_id: 7, producer_epoch: 0, coordinator_epoch: 4, commit: true, transaction_version: 2 };
    let id = wherry_metadata::PartitionId { topic, partition: 0 };
    for (epoch, ended) in [(0, false), (1, true)] {
        node.core.write_markers(
            MarkerToken::of_request(epoch as u64 + 1_000),
            Marker { producer_epoch: epoch, ..marker },
            vec![id],
        );
        for _ in 0..50 {
            node.turn();
        }
        let known = node.core.store.producer(log, 7).unwrap();
        assert_eq!((known.open_from.is_none(), known.producer_epoch), (ended, epoch));
    }
    assert!(node.core.markers.is_empty());
    node.send(conn, 9, &a.request("t", "late"));
    answer(&mut node, Ok(()));
    let response = wait::<ProduceRequest>(&mut node, conn, 9);
    assert_eq!(produced(&response).error_code, ResponseError::InvalidProducerEpoch.code());
    let mut next = Producer { epoch: 1, sequence: 0, ..a };
    assert_eq!(send(&mut node, conn, &next.request("t", "a2")), (0, 2));
}

#[track_caller]
fn described(node: &mut Real, conn: ConnId, topic: &str) -> PartitionResponse {
    let topics = vec![TopicRequest::default().with_name(name(topic)).with_partition_indexes(vec![0])];
    let response = ask(node, conn, 0, &DescribeProducersRequest::default().with_topics(topics));
    response.topics[0].partitions[0].clone()
}

/// What `kafka-transactions.sh find-hanging` looks at, and what `abort` sends.
#[test]
fn a_hanging_transaction_is_found_and_aborted() {
    let (mut node, conn) = fresh(14);
    let (mut a, mut b) = (producer(7), producer(8));
    send(&mut node, conn, &a.request("t", "a1"));
    send(&mut node, conn, &a.request("t", "a2"));
    end(&mut node, conn, a.marker(true));
    send(&mut node, conn, &b.request("t", "b1"));
    send(&mut node, conn, &produce("t", -1, &[(0, stamped(9, 2, 0, &["c"]))]));
    let found = described(&mut node, conn, "t");
    let states: Vec<_> = found
        .active_producers
        .iter()
        .map(|p| (p.producer_id.0, p.producer_epoch, p.last_sequence, p.coordinator_epoch, p.current_txn_start_offset))
        .collect();
    assert_eq!(states, [(7, 0, 1, 1, -1), (8, 0, 0, -1, 3), (9, 2, 0, -1, -1)]);
    assert!(found.active_producers.iter().all(|p| p.last_timestamp >= WALL_MS));
    assert_eq!(read(&mut node, conn, 0), (5, 3, owned(&["a1", "a2"])));
    let hanging = &found.active_producers[1];
    let abort = b
        .marker(false)
        .with_producer_epoch(i16::try_from(hanging.producer_epoch).unwrap())
        .with_coordinator_epoch(hanging.coordinator_epoch.max(0));
    assert_eq!(end(&mut node, conn, abort), 0);
    assert_eq!(read(&mut node, conn, 0), (6, 6, owned(&["a1", "a2", "c"])));
    assert_eq!(described(&mut node, conn, "t").active_producers[1].current_txn_start_offset, -1);
    assert_eq!(described(&mut node, conn, "nope").error_code, ResponseError::UnknownTopicOrPartition.code());
}

/// Whatever moment a crash takes: what was acknowledged as committed is seen, nothing that was aborted is, and a transaction
/// that was open is open.
#[test]
fn transactions_survive_a_crash_at_any_moment() {
    for seed in 0..30 {
        let (mut node, conn) = fresh(seed);
        let mut producers = [producer(7), producer(8)];
        let mut acknowledged: Vec<String> = Vec::new();
        for n in 0..12usize {
            let p = &mut producers[n % 2];
            let value = format!("{seed}-{n}");
            assert_eq!(send(&mut node, conn, &p.request("t", &value)).0, 0);
            if n % 4 > 1 {
                let commit = (seed as usize + n).is_multiple_of(3);
                assert_eq!(end(&mut node, conn, p.marker(commit)), 0);
                // Each transaction of a producer is its last two values.
                let mine = [format!("{seed}-{}", n - 2), value];
                acknowledged.extend(mine.into_iter().filter(|_| commit));
            }
        }
        // One stays open, and the end of one is on its way.
        assert_eq!(send(&mut node, conn, &producers[0].request("t", "open")).0, 0);
        assert_eq!(send(&mut node, conn, &producers[1].request("t", "ending")).0, 0);
        node.send(conn, 1, &WriteTxnMarkersRequest::default().with_markers(vec![producers[1].marker(true)]));
        for _ in 0..seed % 7 {
            node.turn();
        }
        let (mut node, conn) = crashed(node, Survive::Seeded(seed));
        let (_, stable, seen) = read(&mut node, conn, 0);
        acknowledged.sort_by_key(|value| value.split('-').nth(1).unwrap().parse::<usize>().unwrap());
        assert_eq!(seen, acknowledged, "seed {seed}");
        let log = LogId { topic: node.core.meta.topic("t").unwrap().id, partition: 0 };
        assert_eq!(node.core.store.producer(log, 7).unwrap().open_from.map(|o| o.0), Some(stable), "seed {seed}");
        // It goes on where it was: no question, and then its end.
        node.send(conn, 9, &producers[0].request("t", "more"));
        assert_eq!(questions(&node), 0);
        assert_eq!(produced(&wait::<ProduceRequest>(&mut node, conn, 9)).error_code, 0);
        for p in producers {
            assert_eq!(end(&mut node, conn, p.marker(true)), 0);
        }
        let (high_watermark, stable, seen) = read(&mut node, conn, 0);
        assert_eq!(high_watermark, stable);
        acknowledged.extend(owned(&["open", "ending", "more"]));
        assert_eq!(seen, acknowledged, "seed {seed}");
    }
}

#[test]
fn an_incremental_session_tells_of_what_becomes_stable() {
    let (mut node, conn) = fresh(15);
    let mut a = producer(7);
    let first_one = ask(&mut node, conn, 11, &committed("t", 0).with_session_epoch(0));
    let session = first_one.session_id;
    assert_ne!(session, 0);
    send(&mut node, conn, &a.request("t", "a1"));
    let next = |epoch| {
        FetchRequest::default()
            .with_session_id(session)
            .with_session_epoch(epoch)
            .with_max_bytes(1 << 20)
            .with_min_bytes(1)
            .with_isolation_level(1)
    };
    let response = ask(&mut node, conn, 11, &next(1));
    assert_eq!((first(&response).high_watermark, first(&response).last_stable_offset), (1, 0));
    end(&mut node, conn, a.marker(true));
    let response = ask(&mut node, conn, 11, &next(2));
    assert_eq!(shown(first(&response)), owned(&["a1"]));
}
