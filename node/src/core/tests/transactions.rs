//! Transactions through the wire: producers, partitions, ends, and what is durable of it.

use kafka_protocol::messages::ApiKey;
use wherry_wire::codec::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use wherry_wire::codec::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use wherry_wire::codec::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wherry_wire::codec::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use wherry_wire::codec::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DeleteTopicsRequest, DescribeTransactionsRequest, EndTxnRequest,
    EndTxnResponse, FindCoordinatorRequest, InitProducerIdRequest, ListTransactionsRequest, OffsetFetchRequest,
    ProducerId, TransactionalId, TxnOffsetCommitRequest, WriteTxnMarkersRequest,
};
use wherry_wire::types::{LeaderEpoch, LogId};

use super::*;
use crate::core::coordinators::{CoordinatorTopic, OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use crate::groups::partition_of;

const LOADING: i16 = 14;
const NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const UNKNOWN_PARTITION: i16 = 3;
const INVALID_REQUEST: i16 = 42;
const INVALID_EPOCH: i16 = 47;
const INVALID_STATE: i16 = 48;
const INVALID_TIMEOUT: i16 = 50;
const CONCURRENT: i16 = 51;
const NOT_ATTEMPTED: i16 = 55;
const FENCED: i16 = 90;
const NOT_FOUND: i16 = 105;
const ABORTABLE: i16 = 120;

type Producer = (i64, i16);

fn id(text_of: &str) -> TransactionalId {
    TransactionalId(text(text_of))
}

/// A node that has met transactions before: the topic that keeps them is there.
pub(super) fn node() -> (Node, ConnId) {
    let mut node = super::node();
    let conn = node.connect();
    assert_eq!(node.ask(conn, 2, &find()).error_code, 0);
    node.create_topic(conn, "t", 3, &[]);
    (node, conn)
}

fn find() -> FindCoordinatorRequest {
    FindCoordinatorRequest::default().with_key(text("id")).with_key_type(1)
}

pub(super) fn init(transactional_id: &str, expected: Producer) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id(transactional_id)))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(expected.0))
        .with_producer_epoch(expected.1)
}

const NOBODY: Producer = (-1, -1);

#[track_caller]
pub(super) fn producer(node: &mut Node, conn: ConnId) -> Producer {
    let response = node.ask(conn, 5, &init("id", NOBODY));
    assert_eq!(response.error_code, 0);
    (response.producer_id.0, response.producer_epoch)
}

fn topic(topic: &str, partitions: &[i32]) -> AddPartitionsToTxnTopic {
    AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(partitions.to_vec())
}

fn add(of: Producer, topics: Vec<AddPartitionsToTxnTopic>) -> AddPartitionsToTxnRequest {
    AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id("id"))
        .with_v3_and_below_producer_id(ProducerId(of.0))
        .with_v3_and_below_producer_epoch(of.1)
        .with_v3_and_below_topics(topics)
}

#[track_caller]
pub(super) fn added(node: &mut Node, conn: ConnId, version: i16, of: Producer, partition: i32) -> i16 {
    let response = node.ask(conn, version, &add(of, vec![topic("t", &[partition])]));
    response.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
}

pub(super) fn end(of: Producer, commit: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(id("id"))
        .with_producer_id(ProducerId(of.0))
        .with_producer_epoch(of.1)
        .with_committed(commit)
}

#[track_caller]
fn ended(node: &mut Node, conn: ConnId, version: i16, of: Producer, commit: bool) -> EndTxnResponse {
    node.ask(conn, version, &end(of, commit))
}

pub(super) fn state(node: &mut Node, conn: ConnId) -> String {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id("id")]);
    let response = node.ask(conn, 0, &request);
    assert_eq!(response.transaction_states[0].error_code, 0);
    response.transaction_states[0].transaction_state.to_string()
}

fn home(node: &Node) -> (i32, LogId, LeaderEpoch) {
    let topic = node.core.coordinator_topic(CoordinatorTopic::Transactions).unwrap();
    let partition = partition_of("id", topic.partition_count());
    (partition, LogId { topic: topic.id, partition }, node.core.known_epoch(topic, partition))
}

#[test]
fn the_first_who_looks_for_a_coordinator_has_the_topic_made() {
    let mut node = super::node();
    let conn = node.connect();
    assert_eq!(node.ask(conn, 5, &init("id", NOBODY)).error_code, NOT_AVAILABLE, "who did not look comes again");
    let many = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("a"), text("id")]);
    let found = node.ask(conn, 4, &many);
    assert!(found.coordinators.iter().all(|c| c.error_code == 0 && c.port == 9092), "{found:?}");
    let topic = node.core.coordinator_topic(CoordinatorTopic::Transactions).unwrap();
    let compacted = topic.config.cleanup == wherry_metadata::Cleanup::Compact;
    assert_eq!((&*topic.name, topic.partition_count(), topic.internal), (TRANSACTIONS_TOPIC, 16, true));
    assert!(compacted);
    producer(&mut node, conn);
}

#[test]
fn a_transaction_through_its_life_in_every_version() {
    let (mut node, conn) = node();
    for version in 0..=5 {
        let of = producer(&mut node, conn);
        let add_version = i16::min(version, 3);
        assert_eq!(added(&mut node, conn, add_version, of, 0), 0);
        assert_eq!(added(&mut node, conn, add_version, of, 1), 0);
        assert_eq!(state(&mut node, conn), "Ongoing");
        let response = ended(&mut node, conn, version, of, version % 2 == 0);
        assert_eq!(response.error_code, 0);
        let next = if version == 5 { (of.0, of.1 + 1) } else { NOBODY };
        assert_eq!((response.producer_id.0, response.producer_epoch), next, "version {version}");
        assert_eq!(state(&mut node, conn), if version % 2 == 0 { "CompleteCommit" } else { "CompleteAbort" });
    }
    assert_eq!(node.core.waiting_transaction_requests(), 0);
}

#[test]
fn who_is_fenced_is_told_so_in_words_that_it_knows() {
    let (mut node, conn) = node();
    let old = producer(&mut node, conn);
    producer(&mut node, conn);
    for version in 0..=3 {
        let code = added(&mut node, conn, version, old, 0);
        assert_eq!(code, if version < 2 { INVALID_EPOCH } else { FENCED }, "AddPartitionsToTxn {version}");
    }
    for version in 0..=5 {
        let code = ended(&mut node, conn, version, old, true).error_code;
        assert_eq!(code, if version < 2 { INVALID_EPOCH } else { FENCED }, "EndTxn {version}");
    }
    for version in 3..=5 {
        let code = node.ask(conn, version, &init("id", old)).error_code;
        assert_eq!(code, if version < 4 { INVALID_EPOCH } else { FENCED }, "InitProducerId {version}");
    }
    for version in 0..=4 {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(id("id"))
            .with_producer_id(ProducerId(old.0))
            .with_producer_epoch(old.1)
            .with_group_id(groups::group("g"));
        let code = node.ask(conn, version, &request).error_code;
        let expected = if version == 0 {
            NOT_AVAILABLE
        } else if version < 2 {
            INVALID_EPOCH
        } else {
            FENCED
        };
        assert_eq!(code, expected, "AddOffsetsToTxn {version}; the first has the topic of the groups made");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    assert_eq!(node.ask(conn, 3, &init("", NOBODY)).error_code, INVALID_REQUEST);
    for half in [(5, -1), (-1, 5), (-2, 0)] {
        assert_eq!(node.ask(conn, 3, &init("id", half)).error_code, INVALID_REQUEST, "{half:?}");
    }
    let forever = init("id", NOBODY).with_transaction_timeout_ms(i32::MAX);
    assert_eq!(node.ask(conn, 1, &forever).error_code, INVALID_TIMEOUT);
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, INVALID_STATE);
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id("x"), id("id")]);
    let described = node.ask(conn, 0, &request).transaction_states;
    assert_eq!((described[0].error_code, described[1].error_code), (NOT_FOUND, 0));
}

#[test]
fn a_partition_that_does_not_exist_keeps_the_others_out() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    let response = node.ask(conn, 3, &add(of, vec![topic("t", &[0, 9]), topic("nowhere", &[0])]));
    let codes: Vec<Vec<i16>> = response
        .results_by_topic_v3_and_below
        .iter()
        .map(|topic| topic.results_by_partition.iter().map(|p| p.partition_error_code).collect())
        .collect();
    assert_eq!(codes, [vec![NOT_ATTEMPTED, UNKNOWN_PARTITION], vec![UNKNOWN_PARTITION]]);
    assert_eq!(state(&mut node, conn), "Empty");
}

#[test]
fn those_that_lead_partitions_ask_for_many_transactions_at_once() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    assert_eq!(added(&mut node, conn, 3, of, 0), 0);
    let transaction = |transactional_id: &str, verify_only, partitions: &[i32]| {
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(id(transactional_id))
            .with_producer_id(ProducerId(of.0))
            .with_producer_epoch(of.1)
            .with_verify_only(verify_only)
            .with_topics(vec![topic("t", partitions)])
    };
    let all = vec![transaction("id", true, &[0, 1]), transaction("other", true, &[0]), transaction("id", false, &[2])];
    for version in 4..=5 {
        let request = AddPartitionsToTxnRequest::default().with_transactions(all.clone());
        let response = node.ask(conn, version, &request);
        assert_eq!(response.error_code, 0);
        let codes: Vec<(String, Vec<i16>)> = response
            .results_by_transaction
            .iter()
            .map(|one| {
                let codes = one.topic_results[0].results_by_partition.iter().map(|p| p.partition_error_code);
                (one.transactional_id.to_string(), codes.collect())
            })
            .collect();
        let expected = [("id".into(), vec![0, ABORTABLE]), ("other".into(), vec![49]), ("id".into(), vec![0])];
        assert_eq!(codes, expected);
    }
    let nothing = node.ask(conn, 4, &AddPartitionsToTxnRequest::default());
    assert_eq!(nothing.results_by_transaction, []);
}

#[test]
fn lists_say_what_is_going_on() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    assert_eq!(node.ask(conn, 5, &init("another", NOBODY)).error_code, 0);
    added(&mut node, conn, 3, of, 0);
    node.advance_ms(5_000);
    let listed = |node: &mut Node, request: &ListTransactionsRequest, version| {
        let response = node.ask(conn, version, request);
        assert_eq!(response.error_code, 0);
        let ids: Vec<_> = response.transaction_states.iter().map(|s| s.transactional_id.to_string()).collect();
        (ids, response.unknown_state_filters)
    };
    let all = ListTransactionsRequest::default();
    assert_eq!(listed(&mut node, &all, 0).0, ["another", "id"]);
    let ongoing = all.clone().with_state_filters(vec![text("Ongoing"), text("Sleeping")]);
    assert_eq!(listed(&mut node, &ongoing, 0), (vec!["id".into()], vec![text("Sleeping")]));
    let unknown = all.clone().with_state_filters(vec![text("Sleeping")]);
    assert_eq!(listed(&mut node, &unknown, 0), (vec![], vec![text("Sleeping")]));
    let of_producer = all.clone().with_producer_id_filters(vec![ProducerId(of.0)]);
    assert_eq!(listed(&mut node, &of_producer, 0).0, ["id"]);
    for (ms, ids) in [(4_999, vec!["id"]), (5_000, vec![])] {
        assert_eq!(listed(&mut node, &all.clone().with_duration_filter(ms), 1).0, ids);
    }
}

#[test]
fn transactions_survive_a_crash() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    added(&mut node, conn, 3, of, 0);
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(state(&mut node, conn), "Ongoing");
    assert_eq!(added(&mut node, conn, 3, of, 1), 0);
    node.store().hold = true;
    node.send(conn, 3, &end(of, true));
    node.settle();
    assert!(node.try_receive::<EndTxnRequest>(conn, 3).is_none(), "not before it is durable");
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(state(&mut node, conn), "Ongoing", "nobody was told that it committed");
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, 0);
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(state(&mut node, conn), "CompleteCommit");
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, 0, "asked again");
}

#[test]
fn a_transaction_times_out() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    added(&mut node, conn, 3, of, 0);
    node.advance_ms(59_999);
    node.settle();
    assert_eq!(state(&mut node, conn), "Ongoing");
    assert_eq!(node.core.next_deadline().map(|at| at <= node.now.monotonic_ns), Some(false));
    node.advance_ms(1);
    node.settle();
    assert_eq!(state(&mut node, conn), "CompleteAbort");
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, FENCED);
}

#[test]
fn who_waits_is_sent_elsewhere_when_the_partition_is_lost() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    node.store().hold = true;
    node.send(conn, 3, &add(of, vec![topic("t", &[0])]));
    node.settle();
    let (partition, log, epoch) = home(&node);
    node.core.resign_transactions(partition);
    node.take_effects();
    let refused = node.receive::<AddPartitionsToTxnRequest>(conn, 3);
    let code = refused.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
    assert_eq!(code, NOT_COORDINATOR);
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, NOT_COORDINATOR);
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id("id")]);
    assert_eq!(node.ask(conn, 0, &request).transaction_states[0].error_code, NOT_COORDINATOR);
    // It leads again, but what it wrote is not committed yet.
    node.core.coordinator_duty(super::super::partition_of(log));
    node.settle();
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, LOADING);
    assert_eq!(node.ask(conn, 0, &ListTransactionsRequest::default()).error_code, LOADING);
    node.store().hold = false;
    node.settle();
    assert_eq!(state(&mut node, conn), "Ongoing", "it was written");
    assert_eq!(node.core.known_epoch(node.core.meta.topic(TRANSACTIONS_TOPIC).unwrap(), partition), epoch);
}

#[test]
fn a_topic_that_is_gone_need_not_be_told() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    added(&mut node, conn, 3, of, 0);
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]).with_timeout_ms(1_000);
    assert_eq!(node.ask(conn, 5, &delete).responses[0].error_code, 0);
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, 0);
    assert_eq!(state(&mut node, conn), "CompleteCommit");
}

#[test]
fn offsets_of_a_group_become_part_of_a_transaction() {
    let (mut node, conn) = node();
    let mut node = {
        let found = node.ask(conn, 2, &FindCoordinatorRequest::default().with_key(text("g")));
        assert_eq!(found.error_code, 0);
        node
    };
    let of = producer(&mut node, conn);
    let request = AddOffsetsToTxnRequest::default()
        .with_transactional_id(id("id"))
        .with_producer_id(ProducerId(of.0))
        .with_producer_epoch(of.1)
        .with_group_id(groups::group("g"));
    for version in 0..=4 {
        assert_eq!(node.ask(conn, version, &request).error_code, 0);
    }
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![id("id")]);
    let described = node.ask(conn, 0, &request).transaction_states.remove(0);
    let partition = partition_of("g", 16);
    assert_eq!(described.topics.len(), 1);
    assert_eq!(
        (described.topics[0].topic.as_str(), &described.topics[0].partitions[..]),
        (OFFSETS_TOPIC, &[partition][..])
    );
    assert_eq!(
        (described.producer_id.0, described.producer_epoch, described.transaction_timeout_ms),
        (of.0, of.1, 60_000)
    );
    assert_eq!(described.transaction_start_time_ms, WALL_MS);
}

fn offset_commit(of: Producer, offset: i64) -> TxnOffsetCommitRequest {
    let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
    let topic = TxnOffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    TxnOffsetCommitRequest::default()
        .with_transactional_id(id("id"))
        .with_group_id(groups::group("g"))
        .with_producer_id(ProducerId(of.0))
        .with_producer_epoch(of.1)
        .with_generation_id(-1)
        .with_topics(vec![topic])
}

fn offset_code(node: &mut Node, conn: ConnId, version: i16, of: Producer, offset: i64) -> i16 {
    node.ask(conn, version, &offset_commit(of, offset)).topics[0].partitions[0].error_code
}

/// What OffsetFetch says to those who want stable offsets: error and offset.
fn stable_offset(node: &mut Node, conn: ConnId) -> (i16, i64) {
    let topics = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![0]);
    let one = OffsetFetchRequestGroup::default().with_group_id(groups::group("g")).with_topics(Some(vec![topics]));
    let request = OffsetFetchRequest::default().with_groups(vec![one]).with_require_stable(true);
    let found = node.ask(conn, 8, &request).groups[0].topics[0].partitions[0].clone();
    (found.error_code, found.committed_offset)
}

fn add_offsets(node: &mut Node, conn: ConnId, of: Producer) {
    let request = AddOffsetsToTxnRequest::default()
        .with_transactional_id(id("id"))
        .with_producer_id(ProducerId(of.0))
        .with_producer_epoch(of.1)
        .with_group_id(groups::group("g"));
    assert_eq!(node.ask(conn, 3, &request).error_code, 0);
}

const UNSTABLE: i16 = 88;

#[test]
fn offsets_count_when_their_transaction_commits() {
    let (node, _) = node();
    let mut node = groups::ready(node);
    let mut committed = -1;
    for (version, commits) in (0..=5).zip([true, false, true, false, true, true]) {
        let conn = node.connect();
        let of = producer(&mut node, conn);
        let offset = i64::from(version) + 10;
        if version < 5 {
            let code = offset_code(&mut node, conn, version, of, offset);
            assert_eq!(code, if version < 4 { INVALID_STATE } else { ABORTABLE }, "it is not part of the transaction");
            add_offsets(&mut node, conn, of);
        }
        assert_eq!(offset_code(&mut node, conn, version, of, offset), 0, "version {version}");
        assert_eq!(stable_offset(&mut node, conn), (UNSTABLE, -1));
        assert_eq!(groups::fetched(&mut node, conn, "g", "t").0, committed);
        if version == 2 {
            // It is known after a crash that it is open.
            node = node.restart(config());
        }
        let conn = node.connect();
        assert_eq!(ended(&mut node, conn, version, of, commits).error_code, 0);
        if commits {
            committed = offset;
        }
        assert_eq!(stable_offset(&mut node, conn), (0, committed), "version {version}");
        if version == 3 {
            node = node.restart(config());
        }
    }
    let conn = node.connect();
    assert_eq!(stable_offset(&mut node, conn), (0, 15));
}

#[test]
fn who_is_fenced_commits_no_offsets() {
    let (node, _) = node();
    let mut node = groups::ready(node);
    let conn = node.connect();
    let old = producer(&mut node, conn);
    add_offsets(&mut node, conn, old);
    assert_eq!(offset_code(&mut node, conn, 3, old, 5), 0);
    // The next producer aborts what was open.
    assert_eq!(node.ask(conn, 5, &init("id", NOBODY)).error_code, CONCURRENT);
    producer(&mut node, conn);
    assert_eq!(stable_offset(&mut node, conn), (0, -1));
    assert_eq!(offset_code(&mut node, conn, 3, old, 6), INVALID_EPOCH);
    assert_eq!(offset_code(&mut node, conn, 5, old, 6), INVALID_EPOCH);
    assert_eq!(offset_code(&mut node, conn, 3, (77, 0), 6), 49);
}

#[test]
fn an_end_between_question_and_write_makes_the_answer_void() {
    let (node, _) = node();
    let mut node = groups::ready(node);
    let conn = node.connect();
    let of = producer(&mut node, conn);
    // The coordinator has to write before it answers; meanwhile an administrator ends the transaction in the partition.
    node.store().hold = true;
    node.send(conn, 5, &offset_commit(of, 7));
    let partition = partition_of("g", 16);
    let topics =
        WritableTxnMarkerTopic::default().with_name(name(OFFSETS_TOPIC)).with_partition_indexes(vec![partition]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(of.0))
        .with_producer_epoch(of.1)
        .with_topics(vec![topics]);
    let second = node.connect();
    node.send(second, 1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]));
    node.store().hold = false;
    node.settle();
    let response = node.receive::<TxnOffsetCommitRequest>(conn, 5);
    assert_eq!(response.topics[0].partitions[0].error_code, LOADING, "it asks again");
    let written = node.receive::<WriteTxnMarkersRequest>(second, 1);
    assert_eq!(written.markers[0].topics[0].partitions[0].error_code, 0);
    assert_eq!(stable_offset(&mut node, second), (0, -1), "nothing was written that nobody would end");
    assert_eq!(offset_code(&mut node, conn, 5, of, 7), 0);
    assert_eq!(ended(&mut node, conn, 5, of, true).error_code, 0);
    assert_eq!(stable_offset(&mut node, conn), (0, 7));
}

#[test]
fn while_the_end_is_told_the_next_transaction_waits() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    added(&mut node, conn, 3, of, 0);
    node.store().hold = true;
    node.send(conn, 3, &end(of, true));
    node.settle();
    let second = node.connect();
    node.send(second, 3, &add(of, vec![topic("t", &[0])]));
    let refused = node.receive::<AddPartitionsToTxnRequest>(second, 3);
    let code = refused.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
    assert_eq!(code, CONCURRENT);
    node.store().hold = false;
    node.settle();
    assert_eq!(node.receive::<EndTxnRequest>(conn, 3).error_code, 0);
    assert_eq!(added(&mut node, conn, 3, of, 0), 0);
}

#[test]
fn every_version_that_is_served_is_answered() {
    let (mut node, conn) = node();
    for served in wherry_wire::codec::api_versions() {
        let known = [ApiKey::AddPartitionsToTxn, ApiKey::AddOffsetsToTxn, ApiKey::EndTxn, ApiKey::TxnOffsetCommit];
        if known.contains(&served.api) {
            assert_eq!(served.min_version, 0, "{:?}", served.api);
        }
    }
    assert_eq!(node.ask(conn, 0, &end((1, 1), true)).error_code, 49);
}

#[test]
fn transactions_are_counted() {
    let (mut node, conn) = node();
    let of = producer(&mut node, conn);
    assert_eq!(added(&mut node, conn, 3, of, 0), 0);
    let count = |node: &mut Node| {
        node.advance_ms(10_000);
        node.settle();
        let stats = &node.core.stats().transactions;
        let states: Vec<_> = stats.by_state().filter(|(_, count)| *count > 0).collect();
        (states, stats.oldest_age_ms.get() / 1_000)
    };
    assert_eq!(count(&mut node), (vec![("Ongoing", 1)], 10));
    assert_eq!(count(&mut node), (vec![("Ongoing", 1)], 20), "it grows older by itself");
    assert_eq!(ended(&mut node, conn, 3, of, true).error_code, 0);
    node.settle();
    assert_eq!(count(&mut node), (vec![("CompleteCommit", 1)], 0));
    let stats = &node.core.stats().transactions;
    let ends = [&stats.committed, &stats.aborted, &stats.timed_out, &stats.expired_ids].map(crate::stats::Counter::get);
    assert_eq!((ends, stats.pending_markers.get()), ([1, 0, 0, 0], 0));
}
