//! A node with real sockets and a real disk, in both drivers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::protocol::Request as ApiRequest;
use wherry_wire::codec::messages::create_topics_request::CreatableTopic;
use wherry_wire::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::{ApiVersionsRequest, CreateTopicsRequest, FetchRequest, ProduceRequest, TopicName};
use wherry_wire::codec::{StrBytes, decode_response, encode_request};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::*;
use crate::config::{ClusterConfig, Voter};
use crate::security::config::{ClientAuth, LinkAuth, ListenerConfig, Protocol};
use crate::security::test_certificates::Authority;

struct Client {
    socket: TcpStream,
    next: i32,
}

impl Client {
    fn connect(node: &NodeHandle) -> Self {
        let socket = TcpStream::connect(node.addr()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, next: 0 }
    }

    fn ask<R: ApiRequest>(&mut self, version: i16, request: &R) -> R::Response {
        self.next += 1;
        let frame = encode_request(self.next, None, version, request).unwrap();
        self.socket.write_all(&frame).unwrap();
        let mut prefix = [0; 4];
        self.socket.read_exact(&mut prefix).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
        self.socket.read_exact(&mut frame).unwrap();
        let (correlation, response) = decode_response::<R>(frame.into(), version).unwrap();
        assert_eq!(correlation, self.next);
        response
    }

    fn create(&mut self, topic: &str) -> i16 {
        let topic = CreatableTopic::default().with_name(name(topic)).with_num_partitions(1).with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        self.ask(5, &request).topics[0].error_code
    }

    fn produce(&mut self, topic: &str, value: &[u8]) -> i64 {
        let now_ms = now().wall_ms;
        let mut builder = BatchBuilder::new(Codec::None, None);
        let none: [(&[u8], &[u8]); 0] = [];
        builder.append(now_ms, None, Some(value), &none).unwrap();
        let records = builder.build(Stamp::NONE).unwrap();
        let data = PartitionProduceData::default().with_records(Some(records));
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(10_000).with_topic_data(vec![topic]);
        let response = self.ask(9, &request);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.error_code, 0);
        partition.base_offset
    }

    fn fetch(&mut self, topic: &str, offset: i64) -> Bytes {
        let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(20_000)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = self.ask(11, &request);
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        partition.records.clone().unwrap_or_default()
    }
}

fn name(s: &str) -> TopicName {
    TopicName(StrBytes::from_string(s.to_owned()))
}

fn config(dir: &std::path::Path, io: IoDriver) -> NodeConfig {
    let mut config = NodeConfig { data_dir: dir.to_owned(), io, ..NodeConfig::default() };
    config.listen.set_port(0);
    config.engine.journal_bytes = 32 << 20;
    config.engine.reserve_bytes = 1 << 20;
    config.engine.tail_bytes = 16 << 20;
    config
}

/// The drivers that this machine permits.
fn drivers() -> Vec<IoDriver> {
    let uring = probe_uring().is_ok().then_some(IoDriver::IoUring);
    uring.into_iter().chain([IoDriver::Threads]).collect()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Two nodes whose certificates have these names; whether they link.
fn link_over_tls(io: IoDriver, uris: [&str; 2]) -> [NodeHandle; 2] {
    let authority = Authority::new();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ports = [free_port(), free_port(), free_port()];
    let voter = |node_id: usize| Voter {
        node_id: i32::try_from(node_id).unwrap(),
        host: "localhost".into(),
        port: ports[node_id],
    };
    [0, 1].map(|node: usize| {
        let name = format!("node-{node}");
        authority.issue(&name, Some(uris[node]));
        let mut config = config(dirs[node].path(), io);
        config.node_id = i32::try_from(node).unwrap();
        config.cluster_id = Some("boats".into());
        config.tls = Some(authority.tls(&name, ClientAuth::Required));
        config.listeners = vec![ListenerConfig {
            name: "inside".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], ports[node])),
            advertised: None,
            protocol: Protocol::Tls,
            tls: None,
        }];
        let authentication = Some(LinkAuth::Certificates { principals: Vec::new() });
        // The third one never comes.
        config.cluster = Some(ClusterConfig { voters: (0..3).map(voter).collect(), authentication, seeds: Vec::new() });
        spawn(config).unwrap()
    })
}

#[test]
fn nodes_link_over_tls_by_their_certificates() {
    for io in drivers() {
        let nodes = link_over_tls(io, ["wherry://boats/node/0", "wherry://boats/node/1"]);
        until("both directions are linked", || nodes.iter().all(|n| n.stats().links.get() == 2));
        let strangers = link_over_tls(io, ["wherry://boats/node/0", "wherry://ships/node/1"]);
        let refused = |node: &NodeHandle| node.stats().connections_closed.get() >= 3;
        until("the stranger is refused again and again", || refused(&strangers[0]));
        assert_eq!(strangers.each_ref().map(|node| node.stats().may_acknowledge.get()), [0, 0]);
        for node in nodes.into_iter().chain(strangers) {
            node.stop();
            node.join().unwrap();
        }
    }
}

#[test]
fn nodes_link_with_each_other_and_again_after_one_was_away() {
    for io in drivers() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ports = [free_port(), free_port(), free_port()];
        let voter = |node_id: usize| Voter {
            node_id: i32::try_from(node_id).unwrap(),
            host: "localhost".into(),
            port: ports[node_id],
        };
        let start = |node: usize| {
            let mut config = config(dirs[node].path(), io);
            config.node_id = i32::try_from(node).unwrap();
            config.cluster_id = Some("boats".into());
            config.listen.set_port(ports[node]);
            // The third one never comes.
            config.cluster = Some(ClusterConfig { voters: (0..3).map(voter).collect(), ..ClusterConfig::default() });
            spawn(config).unwrap()
        };
        let [first, mut second] = [start(0), start(1)];
        for _ in 0..3 {
            until("both directions are linked", || [&first, &second].iter().all(|n| n.stats().links.get() == 2));
            assert_eq!(first.stats().connections.get(), 0, "links are no clients");
            second.stop();
            second.join().unwrap();
            until("the other one is missed", || first.stats().links.get() == 0);
            second = start(1);
        }
        for node in [first, second] {
            node.stop();
            node.join().unwrap();
        }
    }
}

#[test]
fn serves_and_keeps_everything_over_a_restart() {
    for io in drivers() {
        let dir = tempfile::tempdir().unwrap();
        let node = spawn(config(dir.path(), io)).unwrap();
        let mut client = Client::connect(&node);
        assert_eq!(client.ask(3, &software()).error_code, 0);
        assert_eq!(client.create("orders"), 0);
        for n in 0..20 {
            assert_eq!(client.produce("orders", format!("order {n}").as_bytes()), n);
        }
        let before = client.fetch("orders", 0);
        assert!(!before.is_empty());
        node.stop();
        node.join().unwrap();

        let node = spawn(config(dir.path(), io)).unwrap();
        let mut client = Client::connect(&node);
        assert_eq!(client.fetch("orders", 0), before, "{io:?}");
        assert_eq!(client.produce("orders", b"after the restart"), 20);
        assert!(node.stats().batches_appended.get() > 0);
        node.stop();
        node.join().unwrap();
    }
}

fn software() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("test"))
        .with_client_software_version(StrBytes::from_static_str("1"))
}

#[test]
fn a_waiting_fetch_is_answered_by_a_produce_of_another_connection() {
    for io in drivers() {
        let dir = tempfile::tempdir().unwrap();
        let node = spawn(config(dir.path(), io)).unwrap();
        let mut producer = Client::connect(&node);
        assert_eq!(producer.create("t"), 0);
        let mut consumer = Client::connect(&node);
        let waiting = std::thread::spawn(move || consumer.fetch("t", 0));
        // Whether the fetch is there first or not, it must see the record.
        producer.produce("t", b"hello");
        assert!(!waiting.join().unwrap().is_empty(), "{io:?}");
        node.stop();
        node.join().unwrap();
    }
}

#[test]
fn one_node_per_directory() {
    let dir = tempfile::tempdir().unwrap();
    let node = spawn(config(dir.path(), IoDriver::Threads)).unwrap();
    let error = spawn(config(dir.path(), IoDriver::Threads)).unwrap_err();
    assert!(matches!(error, NodeError::Open(OpenError::Locked { .. })), "{error}");
    node.stop();
    node.join().unwrap();
    let again = spawn(config(dir.path(), IoDriver::Threads)).unwrap();
    again.stop();
    again.join().unwrap();
}

#[test]
fn what_can_not_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = config(dir.path(), IoDriver::Auto);
    bad.node_id = -5;
    assert!(matches!(spawn(bad), Err(NodeError::Config(_))));
    let node = spawn(config(dir.path(), IoDriver::Auto)).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut taken = config(other.path(), IoDriver::Auto);
    taken.listen = node.addr();
    let error = spawn(taken).unwrap_err();
    assert!(error.to_string().contains("listen on"), "{error}");
    node.stop();
    node.join().unwrap();
}
