//! Clients that mean harm, or are broken: a reason and a closed connection, never a panic, never the others' trouble.

use proptest::prelude::*;
use wherry_wire::codec::messages::{ApiVersionsRequest, FetchRequest};

use super::*;
use crate::error::Refused;
use crate::limits::Limits;

#[track_caller]
fn closes(frame: &[u8]) {
    let mut node = node();
    let (bad, good) = (node.connect(), node.connect());
    node.send_frame(bad, Bytes::copy_from_slice(frame));
    assert!(node.closed(bad).is_some_and(|reason| !reason.is_empty()), "{frame:?}");
    assert_eq!(node.core.stats().connections_closed.get(), 1);
    node.send_frame(bad, Bytes::copy_from_slice(frame));
    node.ask(good, 0, &ApiVersionsRequest::default());
}

#[test]
fn frames_that_are_no_requests() {
    closes(&[]);
    closes(&[0; 3]);
    closes(&[0; 9]);
    closes(b"GET / HTTP/1.1\r\n\r\n");
    closes(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]);
    // An API that is not served, and a version that is not.
    closes(&[0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
    closes(&[0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0, 0]);
    // Metadata with an array of two thousand million topics.
    closes(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    // A client id that is longer than the frame.
    closes(&[0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0, 0, 0, 0]);
}

#[test]
fn a_closed_connection_takes_no_more_and_gives_no_more() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    node.send_frame(conn, Bytes::from_static(b"rubbish!!!"));
    assert!(node.closed(conn).is_some());
    let producer = node.connect();
    node.produce(producer, "t", batch(&["a"]));
    node.settle();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none());
    assert!(node.core.is_quiet());
    node.core.disconnected(conn);
    node.core.sent(conn, 1 << 40);
    node.settle();
}

#[test]
fn connections_are_bounded() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let mut node = node_with(NodeConfig { limits, ..config() });
    let conns: Vec<ConnId> = (0..3).map(|_| node.connect()).collect();
    let peer = "1.2.3.4:5".parse().unwrap();
    assert_eq!(node.core.connected(node.now, peer), Err(Refused::TooMany { limit: 3 }));
    assert_eq!(node.core.stats().connections_refused.get(), 1);
    node.core.disconnected(conns[0]);
    let next = node.connect();
    assert!(!conns.contains(&next), "an id is never used again");
    node.core.disconnected(conns[0]);
    node.ask(next, 0, &ApiVersionsRequest::default());
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    let mut node = node();
    for _ in 0..10_000 {
        node.connect();
    }
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(node.produce(conn, "t", batch(&["a"])).error_code, 0);
    assert_eq!(node.core.stats().connections.get(), 10_001);
}

/// Real requests to start from.
fn seeds() -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut add = |mut frame: Bytes| {
        frame.advance(4);
        frames.push(frame);
    };
    add(encode_request(1, None, 9, &produce("t", -1, &[(0, batch(&["a", "b"]))])).unwrap());
    add(encode_request(1, None, 3, &produce("t", 0, &[(0, batch(&["a"])), (1, batch(&["b"]))])).unwrap());
    add(encode_request(1, None, 12, &fetch_waiting("t", 0, 100, 1)).unwrap());
    add(encode_request(1, None, 11, &fetch_waiting("t", 0, i32::MAX, i32::MAX)).unwrap());
    add(encode_request(1, None, 7, &create("made", 2, &[("retention.ms", "5")])).unwrap());
    add(encode_request(1, None, 7, &topics::list_offsets("t", 5)).unwrap());
    let metadata = wherry_wire::codec::messages::MetadataRequest::default().with_topics(None);
    add(encode_request(1, None, 9, &metadata).unwrap());
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Broken requests of every kind, many on each connection: whatever comes, the node serves the next client.
    #[test]
    fn mangled_requests(damage in prop::collection::vec((0..7usize, prop::collection::vec((any::<u16>(), any::<u8>()), 0..4), any::<u16>()), 1..20)) {
        let mut node = node_with(NodeConfig { auto_create_topics: true, ..config() });
        let good = node.connect();
        node.create_topic(good, "t", 2, &[]);
        let mut conn = node.connect();
        let seeds = seeds();
        for (seed, flips, cut) in damage {
            let mut frame = seeds[seed].to_vec();
            for (at, with) in flips {
                let at = usize::from(at) % frame.len();
                frame[at] ^= with;
            }
            if cut % 4 == 0 {
                frame.truncate(usize::from(cut) % (frame.len() + 1));
            }
            node.send_frame(conn, frame.into());
            node.advance_ms(50);
            node.settle();
            if node.closed(conn).is_some() {
                conn = node.connect();
            }
        }
        prop_assert!(node.stopped.is_none());
        node.ask(good, 0, &ApiVersionsRequest::default());
        let found = node.fetch(good, "t", 0);
        prop_assert_eq!(found.error_code, 0);
    }
}

/// A request of a few kilobytes that names one large thing over and over.
#[test]
fn small_requests_make_no_huge_responses() {
    use wherry_wire::codec::messages::describe_configs_request::DescribeConfigsResource;
    use wherry_wire::codec::messages::metadata_request::MetadataRequestTopic;
    use wherry_wire::codec::messages::{DescribeConfigsRequest, FindCoordinatorRequest, MetadataRequest};
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1000, &[]);
    let asked = MetadataRequestTopic::default().with_name(Some(name("t")));
    let request = MetadataRequest::default().with_topics(Some(vec![asked; 50_000]));
    assert_eq!(node.ask(conn, 9, &request).topics.len(), 1);
    let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource.with_configuration_keys(None); 50_000])
        .with_include_documentation(true);
    assert_eq!(node.ask(conn, 4, &request).results.len(), 1);
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"); 100_000]);
    node.send(conn, 4, &request);
    assert!(node.closed(conn).is_some());
}

/// Requests that are answered at once, tens of thousands of them behind one that is not: each must not cost a stack frame.
#[test]
fn a_long_pipeline_does_not_grow_the_stack() {
    use wherry_wire::codec::messages::{GroupId, HeartbeatRequest};
    let mut node = node();
    let conn = node.connect();
    node.send(conn, 7, &create("t", 1, &[]));
    let beat = HeartbeatRequest::default().with_group_id(GroupId(text("g"))).with_member_id(text("m"));
    for _ in 0..50_000 {
        node.send(conn, 0, &beat);
    }
    node.settle();
    assert_eq!(node.seen[&conn].frames.len(), 50_001);
}

#[test]
fn fetches_that_wait_are_bounded_by_their_partitions() {
    use crate::limits::{MAX_PARTITIONS_PER_REQUEST, MAX_WAITING_FETCH_PARTITIONS};
    let mut node = node();
    let admin = node.connect();
    node.create_topic(admin, "t", 1, &[]);
    let mut request = fetch_waiting("t", 0, 60_000, 1);
    request.topics[0].partitions = vec![request.topics[0].partitions[0].clone(); MAX_PARTITIONS_PER_REQUEST];
    let conns: Vec<ConnId> =
        (0..MAX_WAITING_FETCH_PARTITIONS / MAX_PARTITIONS_PER_REQUEST + 1).map(|_| node.connect()).collect();
    for conn in &conns {
        node.send(*conn, 11, &request);
    }
    let closed = conns.iter().filter(|c| node.closed(**c).is_some()).count();
    assert_eq!(closed, 1, "what is beyond the bound is refused");
    for conn in conns {
        node.core.disconnected(conn);
    }
    assert!(node.core.is_quiet());
    let conn = node.connect();
    node.send(conn, 11, &fetch_waiting("t", 0, 60_000, 1));
    assert!(node.closed(conn).is_none(), "and room comes back");
}
