//! Quotas: set, told, and held to.

use wherry_metadata::quota::QUOTA_KEYS;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use wherry_wire::codec::messages::describe_client_quotas_request::ComponentData;
use wherry_wire::codec::messages::{
    AlterClientQuotasRequest, DescribeClientQuotasRequest, DescribeClientQuotasResponse, MetadataRequest,
};

use super::*;
use crate::error::Refused;

/// `user=alice client-id=` and so on; an empty name is the default one.
fn entity(text: &str) -> Vec<EntityData> {
    let part = |word: &str| {
        let (kind, name) = word.split_once('=').unwrap();
        let name = (!name.is_empty()).then(|| super::text(name));
        EntityData::default().with_entity_type(super::text(kind)).with_entity_name(name)
    };
    text.split(' ').filter(|word| !word.is_empty()).map(part).collect()
}

fn entry(of: &str, key: &str, value: Option<f64>) -> EntryData {
    let op = OpData::default().with_key(text(key)).with_value(value.unwrap_or(0.0)).with_remove(value.is_none());
    EntryData::default().with_entity(entity(of)).with_ops(vec![op])
}

impl Node {
    fn quota(&mut self, of: &str, key: &str, value: Option<f64>) -> i16 {
        let conn = self.connect();
        let request = AlterClientQuotasRequest::default().with_entries(vec![entry(of, key, value)]);
        self.ask(conn, 1, &request).entries[0].error_code
    }

    fn quotas(&mut self, components: Vec<ComponentData>, strict: bool) -> DescribeClientQuotasResponse {
        let conn = self.connect();
        self.ask(conn, 1, &DescribeClientQuotasRequest::default().with_components(components).with_strict(strict))
    }
}

fn is(kind: &str, match_type: i8, name: Option<&str>) -> ComponentData {
    ComponentData::default().with_entity_type(text(kind)).with_match_type(match_type).with_match(name.map(text))
}

#[test]
fn quotas_are_set_told_kept_and_removed() {
    let mut node = node();
    for (of, key, value) in [
        ("user=alice", "producer_byte_rate", 1_000.0),
        ("user=alice client-id=app", "producer_byte_rate", 10.5),
        ("user=", "consumer_byte_rate", 2_000.0),
        ("client-id=app", "request_percentage", 50.0),
        ("ip=10.0.0.1", "connection_creation_rate", 3.0),
    ] {
        assert_eq!(node.quota(of, key, Some(value)), 0, "{of}");
    }
    let config = node.core.config.clone();
    let mut node = node.restart(config);
    let count = |node: &mut Node, components, strict| node.quotas(components, strict).entries.unwrap().len();
    assert_eq!(count(&mut node, vec![], false), 5);
    assert_eq!(count(&mut node, vec![is("user", 0, Some("alice"))], false), 2);
    assert_eq!(count(&mut node, vec![is("user", 0, Some("alice"))], true), 1);
    assert_eq!(count(&mut node, vec![is("user", 1, None)], false), 1);
    assert_eq!(count(&mut node, vec![is("user", 2, None)], false), 3);
    assert_eq!(count(&mut node, vec![is("user", 0, Some("alice")), is("client-id", 0, Some("app"))], true), 1);
    let told = node.quotas(vec![is("ip", 2, None)], true).entries.unwrap();
    assert_eq!((told[0].values[0].key.as_str(), told[0].values[0].value), ("connection_creation_rate", 3.0));
    assert_eq!(node.quota("user=alice", "producer_byte_rate", None), 0);
    assert_eq!(count(&mut node, vec![], false), 4);
    for bad in [vec![is("group", 2, None)], vec![is("user", 0, None)], vec![is("user", 7, None)]] {
        assert_eq!(node.quotas(bad, false).error_code, ResponseError::InvalidRequest.code());
    }
    for (of, key, value) in [
        ("", "producer_byte_rate", Some(1.0)),
        ("group=g", "producer_byte_rate", Some(1.0)),
        ("user=a user=b", "producer_byte_rate", Some(1.0)),
        ("user=a ip=10.0.0.1", "producer_byte_rate", Some(1.0)),
        ("ip=here", "connection_creation_rate", Some(1.0)),
        ("ip=10.0.0.1", "producer_byte_rate", Some(1.0)),
        ("user=a", "connection_creation_rate", Some(1.0)),
        ("user=a", "bytes", Some(1.0)),
        ("user=a", "producer_byte_rate", Some(-1.0)),
    ] {
        assert_eq!(node.quota(of, key, value), ResponseError::InvalidRequest.code(), "{of} {key}");
    }
    assert_eq!(QUOTA_KEYS.len(), 5);
}

#[test]
fn who_writes_too_much_is_told_and_not_read_until_the_time_is_over() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let records = batch(&["x".repeat(20_000).as_str()]);
    assert_eq!(node.quota("user=", "producer_byte_rate", Some(1_000.0)), 0);
    let response = node.ask(conn, 9, &produce("t", -1, &[(0, records)]));
    assert_eq!(produced(&response).error_code, 0, "what came is taken");
    assert!((10_000..12_000).contains(&response.throttle_time_ms), "{}", response.throttle_time_ms);
    assert!(node.seen[&conn].paused);
    node.send(conn, 9, &MetadataRequest::default());
    node.settle();
    assert!(node.try_receive::<MetadataRequest>(conn, 9).is_none(), "nothing is begun meanwhile");
    let wait_ms = u64::try_from(response.throttle_time_ms).unwrap();
    node.advance_ms(wait_ms - 5);
    node.settle();
    assert!(node.try_receive::<MetadataRequest>(conn, 9).is_none());
    let due = node.core.next_deadline().unwrap();
    assert!(due <= node.now.monotonic_ns + 5_000_000, "it is called in time");
    node.advance_ms(5);
    node.settle();
    assert!(node.try_receive::<MetadataRequest>(conn, 9).is_some());
    assert!(!node.seen[&conn].paused);
    node.advance_ms(5_000);
    let free = node.connect();
    assert_eq!(node.ask(free, 9, &produce("t", -1, &[(0, batch(&["x"]))])).throttle_time_ms, 0);
    // One that goes away while it is muted leaves nothing behind.
    let records = batch(&["x".repeat(20_000).as_str()]);
    assert!(node.ask(free, 9, &produce("t", -1, &[(0, records)])).throttle_time_ms > 0);
    node.core.disconnected(free);
    node.advance_ms(60_000);
    node.settle();
    assert_eq!(node.core.stats().throttled.get(), 2);
}

#[test]
fn who_reads_too_much_gets_it_in_portions() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for _ in 0..10 {
        node.produce(conn, "t", batch(&["x".repeat(10_000).as_str()]));
    }
    assert_eq!(node.quota("client-id=test", "consumer_byte_rate", Some(1_500.0)), 0);
    let first = node.ask(conn, 11, &fetch("t", 0));
    let bytes = super::first(&first).records.as_ref().unwrap().len();
    assert!((10_000..21_000).contains(&bytes), "a burst of ten seconds, and not all: {bytes}");
    let rest = node.ask(conn, 11, &fetch("t", 2));
    assert!(rest.throttle_time_ms > 0);
    node.send(conn, 11, &fetch("t", 4));
    node.settle();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none());
    node.advance_ms(u64::try_from(rest.throttle_time_ms).unwrap());
    node.settle();
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_some());
}

#[test]
fn addresses_that_connect_too_fast_are_refused_for_a_while() {
    let mut node = node();
    assert_eq!(node.quota("ip=", "connection_creation_rate", Some(0.3)), 0);
    let mut connect = |host: &str, now| node.core.connected(now, (host.parse::<std::net::IpAddr>().unwrap(), 1).into());
    let now = start_time();
    let taken = (0..10).filter(|_| connect("10.9.9.9", now).is_ok()).count();
    assert_eq!(taken, 3, "ten seconds' worth");
    assert_eq!(connect("10.9.9.9", now), Err(Refused::TooFast));
    assert_eq!(connect("::ffff:10.9.9.9", now), Err(Refused::TooFast));
    assert!(connect("10.9.9.8", now).is_ok());
    let later = Now { monotonic_ns: now.monotonic_ns + 4_000_000_000, ..now };
    assert!(connect("10.9.9.9", later).is_ok());
}

#[test]
fn requests_that_take_too_long_mute_their_connection() {
    let mut node = node();
    let conn = node.connect();
    fn clock() -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NOW: AtomicU64 = AtomicU64::new(0);
        // Every look costs a second: each request takes one.
        NOW.fetch_add(1_000_000_000, Ordering::SeqCst)
    }
    node.core.use_cost_clock(clock);
    assert_eq!(node.quota("user=", "request_percentage", Some(20.0)), 0);
    for _ in 0..2 {
        node.ask(conn, 9, &MetadataRequest::default());
    }
    node.ask(conn, 9, &MetadataRequest::default());
    assert!(node.seen[&conn].paused, "more than a fifth of ten seconds");
    node.advance_ms(1_000);
    node.settle();
    assert!(!node.seen[&conn].paused, "for a second at the most");
}
