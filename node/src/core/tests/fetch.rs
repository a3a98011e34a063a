//! Fetch: whole batches, long polls, cold reads, sessions.

use uuid::Uuid;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::FetchRequest;
use wherry_wire::codec::messages::fetch_request::{FetchTopic, ForgottenTopic};

use super::*;
use crate::limits::Limits;

fn with_topic(partitions: i32) -> (Node, ConnId, Uuid) {
    let mut node = node();
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", partitions, &[]);
    (node, conn, topic)
}

#[test]
fn a_fetch_inside_a_batch_gets_the_whole_batch() {
    let (mut node, conn, _) = with_topic(1);
    node.produce(conn, "t", batch(&["0", "1", "2"]));
    node.produce(conn, "t", batch(&["3"]));
    let found = node.fetch(conn, "t", 1);
    assert_eq!(values(&found.records).first().unwrap().0, 0);
    assert_eq!((found.high_watermark, found.last_stable_offset, found.log_start_offset), (4, 4, 0));
    assert_eq!(values(&node.fetch(conn, "t", 3).records), [(3, "3".to_owned())]);
    assert!(values(&node.fetch(conn, "t", 4).records).is_empty());
}

#[test]
fn every_version() {
    let (mut node, conn, topic) = with_topic(1);
    node.produce(conn, "t", batch(&["a", "b"]));
    for version in 4..=17 {
        for isolation in [0, 1] {
            let mut request = fetch("t", 0).with_isolation_level(isolation);
            if version >= 13 {
                request.topics[0].topic = TopicName::default();
                request.topics[0].topic_id = topic;
            }
            let response = node.ask(conn, version, &request);
            assert_eq!(values(&first(&response).records).len(), 2, "version {version}");
            assert_eq!(first(&response).aborted_transactions.is_some(), isolation == 1);
        }
    }
}

#[test]
fn errors() {
    let (mut node, conn, topic) = with_topic(1);
    node.produce(conn, "t", batch(&["a"]));
    let code = |node: &mut Node, request: &FetchRequest, version| {
        let response = node.ask(conn, version, request);
        first(&response).error_code
    };
    assert_eq!(code(&mut node, &fetch("t", 2), 11), ResponseError::OffsetOutOfRange.code());
    assert_eq!(code(&mut node, &fetch("t", -1), 11), ResponseError::OffsetOutOfRange.code());
    assert_eq!(code(&mut node, &fetch("nope", 0), 11), ResponseError::UnknownTopicOrPartition.code());
    let mut request = fetch("t", 0);
    request.topics[0].partitions[0].partition = 5;
    assert_eq!(code(&mut node, &request, 11), ResponseError::UnknownTopicOrPartition.code());
    let mut request = fetch("", 0);
    request.topics[0].topic_id = Uuid::from_u128(1);
    assert_eq!(code(&mut node, &request, 13), ResponseError::UnknownTopicId.code());
    let mut request = fetch("t", 0);
    request.topics[0].partitions[0].current_leader_epoch = 99;
    assert_eq!(code(&mut node, &request, 11), ResponseError::UnknownLeaderEpoch.code());
    // A topic that was made again has another id.
    let mut request = fetch("", 0);
    request.topics[0].topic_id = topic;
    let names = vec![name("t")];
    node.ask(conn, 4, &wherry_wire::codec::messages::DeleteTopicsRequest::default().with_topic_names(names));
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(code(&mut node, &request, 13), ResponseError::UnknownTopicId.code());
    assert!(values(&node.fetch(conn, "t", 0).records).is_empty(), "nothing of the old topic");
}

#[test]
fn budgets_hold_but_one_batch_always_comes() {
    let (mut node, conn, _) = with_topic(2);
    let big = "x".repeat(1000);
    for partition in [0, 1] {
        for _ in 0..4 {
            node.ask(conn, 9, &produce("t", -1, &[(partition, batch(&[&big]))]));
        }
    }
    let two = |max_bytes, partition_max| {
        let partition = |n| {
            FetchPartition::default()
                .with_partition(n)
                .with_partition_max_bytes(partition_max)
                .with_current_leader_epoch(-1)
        };
        let topic = FetchTopic::default().with_topic(name("t")).with_partitions(vec![partition(0), partition(1)]);
        FetchRequest::default()
            .with_min_bytes(1)
            .with_max_bytes(max_bytes)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    };
    let counts = |node: &mut Node, request: &FetchRequest| -> Vec<usize> {
        let response = node.ask(conn, 11, request);
        response.responses[0].partitions.iter().map(|p| values(&p.records).len()).collect()
    };
    assert_eq!(counts(&mut node, &two(1 << 20, 1 << 20)), [4, 4]);
    assert_eq!(counts(&mut node, &two(1 << 20, 2500)), [2, 2]);
    assert_eq!(counts(&mut node, &two(3500, 1 << 20)), [3, 0]);
    assert_eq!(counts(&mut node, &two(1, 1)), [1, 0]);
    assert_eq!(counts(&mut node, &two(0, 0)), [1, 0]);
    assert_eq!(counts(&mut node, &two(-5, -5)), [1, 0]);
}

#[test]
fn the_node_has_a_bound_of_its_own() {
    let limits = Limits { fetch_bytes: 2500, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for _ in 0..4 {
        node.produce(conn, "t", batch(&[&"x".repeat(1000)]));
    }
    assert_eq!(values(&node.fetch(conn, "t", 0).records).len(), 2);
}

#[test]
fn a_long_poll_is_answered_when_data_is_durable_and_not_before() {
    let (mut node, conn, _) = with_topic(1);
    node.send(conn, 11, &fetch_waiting("t", 0, 500, 1));
    node.turn();
    let turns = node.store().reads;
    for _ in 0..20 {
        node.advance_ms(1);
        node.turn();
    }
    assert_eq!(node.store().reads, turns, "a waiting fetch is not polled");
    let producer = node.connect();
    node.store().hold = true;
    node.send(producer, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    node.turn();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none(), "consumers see durable records only (INV-2)");
    node.store().hold = false;
    node.turn();
    assert_eq!(values(&first(&node.receive::<FetchRequest>(conn, 11)).records), [(0, "a".to_owned())]);
}

#[test]
fn a_long_poll_ends_at_its_deadline() {
    let (mut node, conn, _) = with_topic(1);
    node.send(conn, 11, &fetch_waiting("t", 0, 500, 1));
    assert!(node.core.next_deadline() <= Some(node.now.monotonic_ns + 500_000_000));
    node.advance_ms(499);
    node.turn();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none());
    node.advance_ms(1);
    node.turn();
    let response = node.receive::<FetchRequest>(conn, 11);
    assert_eq!((first(&response).error_code, first(&response).high_watermark), (0, 0));
    assert!(node.core.is_quiet());
}

#[test]
fn min_bytes_counts_over_all_partitions() {
    let (mut node, conn, _) = with_topic(3);
    let partition = |n| FetchPartition::default().with_partition(n).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name("t")).with_partitions((0..3).map(partition).collect());
    let size = i32::try_from(batch(&["a"]).len()).unwrap();
    let request = FetchRequest::default()
        .with_max_wait_ms(1000)
        .with_min_bytes(size * 3)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    node.send(conn, 11, &request);
    let producer = node.connect();
    for n in [2, 0] {
        node.ask(producer, 9, &produce("t", -1, &[(n, batch(&["a"]))]));
        assert!(node.try_receive::<FetchRequest>(conn, 11).is_none());
    }
    node.ask(producer, 9, &produce("t", -1, &[(2, batch(&["b"]))]));
    let response = node.receive::<FetchRequest>(conn, 11);
    let counts: Vec<usize> = response.responses[0].partitions.iter().map(|p| values(&p.records).len()).collect();
    assert_eq!(counts, [1, 0, 2]);
}

#[test]
fn deleting_a_topic_ends_the_fetches_that_wait_for_it() {
    let (mut node, conn, _) = with_topic(1);
    node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    let admin = node.connect();
    let delete = wherry_wire::codec::messages::DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
    node.ask(admin, 4, &delete);
    let response = node.receive::<FetchRequest>(conn, 11);
    assert_eq!(first(&response).error_code, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn a_cold_read_does_not_block_and_its_answer_keeps_its_place() {
    let (mut node, conn, _) = with_topic(1);
    node.produce(conn, "t", batch(&["a", "b"]));
    node.store().cold_reads = true;
    node.send(conn, 11, &fetch_waiting("t", 0, 100, 1));
    node.turn();
    assert_eq!(node.store().waiting_reads(), 1);
    let other = node.connect();
    node.ask(other, 0, &wherry_wire::codec::messages::ApiVersionsRequest::default());
    node.advance_ms(5000);
    node.turn();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none(), "the disk is slow, but what it reads is awaited");
    node.store().finish_reads();
    node.turn();
    assert_eq!(values(&first(&node.receive::<FetchRequest>(conn, 11)).records).len(), 2);
}

#[test]
fn a_cold_read_for_a_connection_that_is_gone_finds_nobody() {
    let (mut node, conn, _) = with_topic(1);
    node.produce(conn, "t", batch(&["a"]));
    node.store().cold_reads = true;
    node.send(conn, 11, &fetch("t", 0));
    node.core.disconnected(conn);
    node.store().finish_reads();
    node.settle();
    assert!(node.core.is_quiet());
    assert_eq!(node.core.stats().fetches_waiting.get(), 0);
}

#[test]
fn stopping_ends_long_polls() {
    let (mut node, conn, _) = with_topic(1);
    node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    node.turn();
    assert!(!node.core.is_quiet());
    node.core.stop();
    node.turn();
    assert_eq!(first(&node.receive::<FetchRequest>(conn, 11)).error_code, 0);
    assert!(node.core.is_quiet());
}

fn in_session(id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
    let partition = |(n, offset): &(i32, i64)| {
        FetchPartition::default().with_partition(*n).with_fetch_offset(*offset).with_partition_max_bytes(1 << 20)
    };
    let topics = if partitions.is_empty() {
        Vec::new()
    } else {
        vec![FetchTopic::default().with_topic(name("t")).with_partitions(partitions.iter().map(partition).collect())]
    };
    FetchRequest::default()
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(topics)
}

fn answered(response: &FetchResponse) -> Vec<(i32, usize)> {
    let partitions = response.responses.iter().flat_map(|t| &t.partitions);
    partitions.map(|p| (p.partition_index, values(&p.records).len())).collect()
}

#[test]
fn incremental_sessions_name_only_what_is_new() {
    let (mut node, conn, _) = with_topic(3);
    let producer = node.connect();
    node.ask(producer, 9, &produce("t", -1, &[(1, batch(&["a"]))]));
    let opened = node.ask(conn, 11, &in_session(0, 0, &[(0, 0), (1, 0), (2, 0)]));
    assert_ne!(opened.session_id, 0);
    assert_eq!(answered(&opened), [(0, 0), (1, 1), (2, 0)], "the first answer is full");
    let id = opened.session_id;
    // The consumer moved on in partition 1; nothing else is said again.
    let next = node.ask(conn, 11, &in_session(id, 1, &[(1, 1)]));
    assert_eq!((next.error_code, next.session_id, answered(&next)), (0, id, vec![]));
    node.ask(producer, 9, &produce("t", -1, &[(2, batch(&["b", "c"]))]));
    assert_eq!(answered(&node.ask(conn, 11, &in_session(id, 2, &[]))), [(2, 2)]);
    let mut forget = in_session(id, 3, &[]);
    forget.forgotten_topics_data = vec![ForgottenTopic::default().with_topic(name("t")).with_partitions(vec![2])];
    assert_eq!(answered(&node.ask(conn, 11, &forget)), []);
    node.ask(producer, 9, &produce("t", -1, &[(2, batch(&["d"])), (0, batch(&["e"]))]));
    assert_eq!(answered(&node.ask(conn, 11, &in_session(id, 4, &[]))), [(0, 1)]);
    // A new high watermark is news even where the consumer asked for less than there is.
    assert_eq!(node.core.stats().fetch_sessions.get(), 1);
}

#[test]
fn session_errors_and_their_end() {
    let (mut node, conn, _) = with_topic(1);
    let opened = node.ask(conn, 11, &in_session(0, 0, &[(0, 0)]));
    let id = opened.session_id;
    let wrong = node.ask(conn, 11, &in_session(id, 7, &[]));
    assert_eq!(wrong.error_code, ResponseError::InvalidFetchSessionEpoch.code());
    let unknown = node.ask(conn, 11, &in_session(id + 1, 1, &[]));
    assert_eq!(unknown.error_code, ResponseError::FetchSessionIdNotFound.code());
    let ended = node.ask(conn, 11, &in_session(id, -1, &[(0, 0)]));
    assert_eq!((ended.session_id, ended.responses.len()), (0, 1));
    let gone = node.ask(conn, 11, &in_session(id, 1, &[]));
    assert_eq!(gone.error_code, ResponseError::FetchSessionIdNotFound.code());
}

#[test]
fn a_deleted_topic_is_an_error_in_its_session_each_time() {
    let (mut node, conn, _) = with_topic(1);
    let id = node.ask(conn, 11, &in_session(0, 0, &[(0, 0)])).session_id;
    let delete = wherry_wire::codec::messages::DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
    node.ask(conn, 4, &delete);
    for epoch in 1..3 {
        let response = node.ask(conn, 11, &in_session(id, epoch, &[]));
        assert_eq!(first(&response).error_code, ResponseError::UnknownTopicOrPartition.code());
    }
}

#[test]
fn without_room_for_a_session_a_client_is_served_without_one() {
    let limits = Limits { fetch_sessions: 1, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_ne!(node.ask(conn, 11, &in_session(0, 0, &[(0, 0)])).session_id, 0);
    let second = node.ask(conn, 11, &in_session(0, 0, &[(0, 0)]));
    assert_eq!((second.session_id, second.error_code, second.responses.len()), (0, 0, 1));
}

#[test]
fn a_fetch_costs_what_it_asks_for_not_what_exists() {
    let mut node = node();
    let conn = node.connect();
    for chunk in 0..10 {
        let topics: Vec<CreatableTopic> = (0..1000)
            .map(|n| {
                CreatableTopic::default()
                    .with_name(name(&format!("topic-{chunk}-{n}")))
                    .with_num_partitions(1)
                    .with_replication_factor(1)
            })
            .collect();
        let response = node.ask(conn, 7, &CreateTopicsRequest::default().with_topics(topics));
        assert!(response.topics.iter().all(|t| t.error_code == 0));
    }
    node.settle();
    let (infos, reads) = (node.store().infos.get(), node.store().reads);
    node.produce(conn, "topic-3-500", batch(&["a"]));
    assert_eq!(values(&node.fetch(conn, "topic-3-500", 0).records).len(), 1);
    node.settle();
    assert!(node.store().infos.get() - infos < 10, "work on the hot path grows with the number of topics");
    assert!(node.store().reads - reads < 5);
}

#[test]
fn watches_of_fetches_that_are_gone_do_not_pile_up() {
    let (mut node, conn, _) = with_topic(1);
    let waiting = node.connect();
    node.send(waiting, 11, &fetch_waiting("t", 0, 300_000, 1));
    for _ in 0..5_000 {
        node.send(conn, 11, &fetch_waiting("t", 0, 10, 1));
        node.advance_ms(10);
        node.turn();
        node.receive::<FetchRequest>(conn, 11);
    }
    assert!(node.core.purgatory.watch_count() < 100, "{}", node.core.purgatory.watch_count());
    let producer = node.connect();
    node.produce(producer, "t", batch(&["a"]));
    assert_eq!(values(&first(&node.receive::<FetchRequest>(waiting, 11)).records).len(), 1);
}

#[test]
fn many_consumers_of_one_partition_are_all_woken() {
    let (mut node, _, _) = with_topic(1);
    let conns: Vec<ConnId> = (0..3_000).map(|_| node.connect()).collect();
    for conn in &conns {
        node.send(*conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    }
    let producer = node.connect();
    node.produce(producer, "t", batch(&["a"]));
    for conn in conns {
        assert_eq!(values(&first(&node.receive::<FetchRequest>(conn, 11)).records).len(), 1);
    }
    assert_eq!(node.core.purgatory.watch_count(), 0);
}

#[test]
fn data_that_comes_while_the_disk_reads_is_not_missed() {
    let (mut node, conn, _) = with_topic(2);
    node.produce(conn, "t", batch(&["a"]));
    let size = i32::try_from(batch(&["a"]).len()).unwrap();
    let partition = |n| FetchPartition::default().with_partition(n).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name("t")).with_partitions(vec![partition(0), partition(1)]);
    let request = FetchRequest::default()
        .with_max_wait_ms(60_000)
        .with_min_bytes(2 * size)
        .with_max_bytes(4 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    node.send(conn, 11, &request);
    // It waits, is woken by one partition while the other's bytes are read from disk, and must see both.
    node.store().cold_reads = true;
    let producer = node.connect();
    node.ask(producer, 9, &produce("t", -1, &[(1, batch(&["b"]))]));
    for _ in 0..4 {
        node.store().finish_reads();
        node.settle();
    }
    let response = node.receive::<FetchRequest>(conn, 11);
    let counts: Vec<usize> = response.responses[0].partitions.iter().map(|p| values(&p.records).len()).collect();
    assert_eq!(counts, [1, 1]);
}
