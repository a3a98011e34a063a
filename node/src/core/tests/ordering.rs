//! Pipelining: appended at once, answered in order, bounded in flight.

use wherry_wire::codec::messages::{ApiVersionsRequest, FetchRequest, ListOffsetsRequest, ProduceRequest};

use super::*;
use crate::limits::{Limits, MAX_FETCHES_PER_CONNECTION};

#[test]
fn pipelined_produces_are_appended_before_the_first_is_durable() {
    let mut node = node();
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", 1, &[]);
    node.store().hold = true;
    let sent: Vec<i32> =
        (0..5).map(|n| node.send(conn, 9, &produce("t", -1, &[(0, batch(&[&n.to_string()]))]))).collect();
    node.turn();
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none(), "nothing is acknowledged before it is durable");
    let log = wherry_wire::types::LogId { topic, partition: 0 };
    assert_eq!(node.store().info(log).unwrap().log_end.0, 5, "all five are appended");
    node.store().hold = false;
    node.turn();
    for (n, correlation) in sent.into_iter().enumerate() {
        let (got, response) = node.try_receive::<ProduceRequest>(conn, 9).unwrap();
        assert_eq!(got, correlation);
        assert_eq!(produced(&response).base_offset, i64::try_from(n).unwrap());
    }
}

#[test]
fn a_quick_answer_waits_for_the_slow_one_before_it() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().hold = true;
    let first = node.send(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    let second = node.send(conn, 0, &ApiVersionsRequest::default());
    node.turn();
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none());
    node.store().hold = false;
    node.turn();
    assert_eq!(node.try_receive::<ProduceRequest>(conn, 9).unwrap().0, first);
    assert_eq!(node.try_receive::<ApiVersionsRequest>(conn, 0).unwrap().0, second);
}

#[test]
fn a_slow_connection_does_not_hold_up_another() {
    let mut node = node();
    let (slow, quick) = (node.connect(), node.connect());
    node.create_topic(slow, "t", 1, &[]);
    node.send(slow, 11, &fetch_waiting("t", 0, 10_000, 1));
    node.ask(quick, 0, &ApiVersionsRequest::default());
    assert!(node.try_receive::<FetchRequest>(slow, 11).is_none());
}

#[test]
fn what_changes_topics_is_done_before_the_next_request_begins() {
    let mut node = node();
    let conn = node.connect();
    node.send(conn, 7, &create("t", 1, &[]));
    let second = node.send(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    node.settle();
    node.receive::<CreateTopicsRequest>(conn, 7);
    let (correlation, response) = node.try_receive::<ProduceRequest>(conn, 9).unwrap();
    assert_eq!((correlation, produced(&response).error_code), (second, 0));
}

#[test]
fn too_many_requests_in_flight_pause_the_connection() {
    let limits = Limits { requests_per_connection: 4, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().hold = true;
    for n in 0..6 {
        node.send(conn, 9, &produce("t", -1, &[(0, batch(&["x"]))]));
        assert_eq!(node.seen[&conn].paused, n >= 3, "after {n}");
    }
    node.store().hold = false;
    node.settle();
    assert!(!node.seen[&conn].paused);
    for n in 0..6 {
        let response = node.receive::<ProduceRequest>(conn, 9);
        assert_eq!(produced(&response).base_offset, n, "those that came while it was paused are served too");
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let limits = Limits { response_bytes_per_connection: 3000, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.produce(conn, "t", batch(&[&"x".repeat(2000)]));
    node.ack_sends = false;
    for _ in 0..5 {
        node.send(conn, 11, &fetch("t", 0));
    }
    node.turn();
    assert!(node.seen[&conn].paused);
    assert_eq!(node.seen[&conn].frames.len(), 2, "beyond the bound nothing is produced for it");
    let unsent: usize = node.seen[&conn].frames.iter().map(|f| f.len() + 4).sum();
    node.ack_sends = true;
    node.core.sent(conn, unsent);
    node.take_effects();
    node.settle();
    assert_eq!(node.seen[&conn].frames.len(), 5);
    assert!(!node.seen[&conn].paused);
}

#[test]
fn requests_of_all_connections_together_are_bounded() {
    let limits = Limits { request_bytes: 64 << 10, request_bytes_in_flight: 64 << 10, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conns: Vec<ConnId> = (0..4).map(|_| node.connect()).collect();
    node.create_topic(conns[0], "t", 1, &[]);
    node.store().hold = true;
    let big = "x".repeat(30 << 10);
    for conn in &conns {
        node.send(*conn, 9, &produce("t", -1, &[(0, batch(&[&big]))]));
    }
    let paused: Vec<bool> = conns.iter().map(|c| node.seen[c].paused).collect();
    assert_eq!(paused, [false, false, true, true], "who sends beyond the bound is not read");
    node.store().hold = false;
    node.settle();
    for conn in &conns {
        assert!(!node.seen[conn].paused);
        assert_eq!(produced(&node.receive::<ProduceRequest>(*conn, 9)).error_code, 0);
    }
    assert_eq!(node.core.stats().request_bytes_in_flight.get(), 0);
}

#[test]
fn waiting_fetches_of_one_connection_are_bounded() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for _ in 0..MAX_FETCHES_PER_CONNECTION + 3 {
        node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    }
    node.turn();
    assert!(node.seen[&conn].paused);
    assert_eq!(node.core.stats().fetches_waiting.get(), MAX_FETCHES_PER_CONNECTION as u64);
    let producer = node.connect();
    node.produce(producer, "t", batch(&["a"]));
    node.settle();
    for _ in 0..MAX_FETCHES_PER_CONNECTION + 3 {
        assert_eq!(values(&first(&node.receive::<FetchRequest>(conn, 11)).records).len(), 1);
    }
}

#[test]
fn a_produce_that_the_disk_holds_up_goes_on_in_order() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 2, &[]);
    node.store().busy = true;
    let two = produce("t", -1, &[(0, batch(&["a"])), (1, batch(&["b"]))]);
    let first = node.send(conn, 9, &two);
    let second = node.send(conn, 9, &produce("t", -1, &[(0, batch(&["c"]))]));
    node.settle();
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none());
    assert!(node.seen[&conn].paused);
    let other = node.connect();
    node.ask(other, 0, &ApiVersionsRequest::default());
    node.store().make_room();
    node.settle();
    let (correlation, response) = node.try_receive::<ProduceRequest>(conn, 9).unwrap();
    assert_eq!(correlation, first);
    assert!(response.responses[0].partition_responses.iter().all(|p| p.error_code == 0 && p.base_offset == 0));
    let (correlation, response) = node.try_receive::<ProduceRequest>(conn, 9).unwrap();
    assert_eq!((correlation, produced(&response).base_offset), (second, 1));
    assert!(!node.seen[&conn].paused);
    assert_eq!(node.core.stats().produce_stalls.get(), 1);
}

#[test]
fn a_connection_that_goes_while_the_disk_holds_it_up_leaves_nothing_behind() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().busy = true;
    node.send(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    node.core.disconnected(conn);
    node.store().make_room();
    node.settle();
    assert!(node.core.is_quiet());
    assert_eq!(node.core.stats().request_bytes_in_flight.get(), 0);
    assert_eq!(node.core.stats().connections.get(), 0);
}

#[test]
fn list_offsets_that_need_the_disk_do_not_block_others() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.produce(conn, "t", batch(&["a"]));
    node.store().cold_reads = true;
    let request = topics::list_offsets("t", WALL_MS);
    node.send(conn, 7, &request);
    node.turn();
    assert!(node.try_receive::<ListOffsetsRequest>(conn, 7).is_none());
    assert!(!node.core.is_quiet());
    let other = node.connect();
    node.ask(other, 0, &ApiVersionsRequest::default());
    node.store().finish_reads();
    node.settle();
    let response = node.receive::<ListOffsetsRequest>(conn, 7);
    assert_eq!(response.topics[0].partitions[0].offset, 0);
    assert!(node.core.is_quiet());
}

#[test]
fn a_failed_journal_stops_the_node_and_acknowledges_nothing() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().hold = true;
    node.send(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    node.store().fail();
    node.settle();
    assert!(node.stopped.as_ref().unwrap().contains("the disk is gone"));
    assert!(node.try_receive::<ProduceRequest>(conn, 9).is_none());
    assert!(node.core.connected(node.now, "1.2.3.4:5".parse().unwrap()).is_err());
}
