//! The core driven as a driver would: encoded requests in, encoded responses out, a clock that the test moves.

mod access;
mod admin;
mod configs;
mod consumer_groups;
mod coordinators;
mod engine;
mod fetch;
mod gate;
mod groups;
mod hostile;
mod links;
mod memory;
mod message_ids;
mod ordering;
mod partition_transactions;
mod produce;
mod quotas;
mod restart;
mod share_groups;
mod topics;
mod transactions;
mod versions;

use std::collections::{HashMap, VecDeque};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::protocol::Request as ApiRequest;
use uuid::Uuid;
use wherry_wire::codec::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use wherry_wire::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use wherry_wire::codec::messages::fetch_response::PartitionData;
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::produce_response::PartitionProduceResponse;
use wherry_wire::codec::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, ProduceRequest, ProduceResponse, TopicName,
};
use wherry_wire::codec::{StrBytes, decode_response, encode_request};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::store::{LogStore, Now};
use super::{ConnId, Core, Effect};
use crate::config::{Advertised, NodeConfig};
use memory::MemStore;

/// What the test's clock says at the start, in milliseconds.
const WALL_MS: i64 = 1_700_000_000_000;

/// What came out for one connection.
#[derive(Debug, Default)]
struct Seen {
    frames: VecDeque<Bytes>,
    partial: BytesMut,
    closed: Option<String>,
    paused: bool,
}

/// A node with its driver.
struct Node<S: LogStore = MemStore> {
    core: Core<S>,
    now: Now,
    seen: HashMap<ConnId, Seen>,
    stopped: Option<String>,
    dialled: Vec<(ConnId, String, u16)>,
    promoted: Vec<ConnId>,
    authenticated: Vec<ConnId>,
    next_correlation: i32,
    /// Sent bytes are acknowledged at once unless a test looks at backpressure.
    ack_sends: bool,
}

fn config() -> NodeConfig {
    NodeConfig { group_initial_rebalance_delay_ms: 0, ..NodeConfig::default() }
}

fn advertised() -> Advertised {
    Advertised { host: "wherry.test".into(), port: 9092 }
}

fn start_time() -> Now {
    Now { monotonic_ns: 1_000_000_000, wall_ms: WALL_MS }
}

fn node() -> Node {
    node_with(config())
}

fn node_with(config: NodeConfig) -> Node {
    Node::new(config, MemStore::default())
}

impl<S: LogStore> Node<S> {
    fn new(config: NodeConfig, store: S) -> Self {
        let core = Core::with_store(config, advertised(), store, start_time()).unwrap();
        Self::from_core(core, start_time())
    }

    fn from_core(core: Core<S>, now: Now) -> Self {
        Self {
            core,
            now,
            seen: HashMap::new(),
            stopped: None,
            dialled: Vec::new(),
            promoted: Vec::new(),
            authenticated: Vec::new(),
            next_correlation: 100,
            ack_sends: true,
        }
    }

    fn connect(&mut self) -> ConnId {
        let id = self.core.connected(self.now, "10.1.2.3:4567".parse().unwrap()).unwrap();
        self.seen.insert(id, Seen::default());
        id
    }

    fn advance_ms(&mut self, ms: u64) {
        self.now.monotonic_ns += ms * 1_000_000;
        self.now.wall_ms += i64::try_from(ms).unwrap();
    }

    fn turn(&mut self) {
        self.core.turn(self.now);
        self.take_effects();
    }

    /// Turns until the disk has had its say some times: what was appended because of what became durable is durable too, and
    /// so on (the end of a transaction takes three appends, one after the other).
    fn settle(&mut self) {
        for _ in 0..9 {
            self.turn();
        }
    }

    fn take_effects(&mut self) {
        let effects: Vec<Effect> = self.core.effects().collect();
        for effect in effects {
            match effect {
                Effect::Send { conn, chunks } => self.take_chunks(conn, &chunks),
                Effect::Close { conn, reason } => self.seen.entry(conn).or_default().closed = Some(reason),
                Effect::PauseReads { conn } => self.seen.get_mut(&conn).unwrap().paused = true,
                Effect::ResumeReads { conn } => self.seen.get_mut(&conn).unwrap().paused = false,
                Effect::Connect { conn, host, port } => self.dialled.push((conn, host, port)),
                Effect::Promote { conn } => self.promoted.push(conn),
                Effect::Authenticated { conn } => self.authenticated.push(conn),
                Effect::Stop { reason } => self.stopped = Some(reason),
            }
        }
        if self.core.has_effects() {
            self.take_effects();
        }
    }

    fn take_chunks(&mut self, conn: ConnId, chunks: &[Bytes]) {
        let seen = self.seen.entry(conn).or_default();
        chunks.iter().for_each(|chunk| seen.partial.extend_from_slice(chunk));
        while seen.partial.len() >= 4 {
            let len = u32::from_be_bytes(seen.partial[..4].try_into().unwrap()) as usize;
            if seen.partial.len() < 4 + len {
                break;
            }
            seen.partial.advance(4);
            seen.frames.push_back(seen.partial.split_to(len).freeze());
        }
        if self.ack_sends {
            self.core.sent(conn, chunks.iter().map(Bytes::len).sum());
        }
    }

    fn send_frame(&mut self, conn: ConnId, frame: Bytes) {
        self.core.received(self.now, conn, frame);
        self.take_effects();
    }

    /// Sends a request, gives its correlation id.
    fn send<R: ApiRequest>(&mut self, conn: ConnId, version: i16, request: &R) -> i32 {
        self.next_correlation += 1;
        let client = StrBytes::from_static_str("test");
        let mut frame = encode_request(self.next_correlation, Some(&client), version, request).unwrap();
        frame.advance(4);
        self.send_frame(conn, frame);
        self.next_correlation
    }

    /// The next response of a connection, if it is there.
    fn try_receive<R: ApiRequest>(&mut self, conn: ConnId, version: i16) -> Option<(i32, R::Response)> {
        let frame = self.seen.get_mut(&conn)?.frames.pop_front()?;
        Some(decode_response::<R>(frame, version).unwrap())
    }

    #[track_caller]
    fn receive<R: ApiRequest>(&mut self, conn: ConnId, version: i16) -> R::Response {
        self.try_receive::<R>(conn, version).expect("a response").1
    }

    /// A request and its response; the disk does its work meanwhile.
    #[track_caller]
    fn ask<R: ApiRequest>(&mut self, conn: ConnId, version: i16, request: &R) -> R::Response {
        let sent = self.send(conn, version, request);
        self.settle();
        let (correlation, response) = self.try_receive::<R>(conn, version).expect("a response");
        assert_eq!(correlation, sent);
        response
    }

    fn closed(&self, conn: ConnId) -> Option<&str> {
        self.seen[&conn].closed.as_deref()
    }

    #[track_caller]
    fn create_topic(&mut self, conn: ConnId, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
        let response = self.ask(conn, 7, &create(name, partitions, configs));
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
        response.topics[0].topic_id
    }

    #[track_caller]
    fn produce(&mut self, conn: ConnId, topic: &str, records: Bytes) -> PartitionProduceResponse {
        let response = self.ask(conn, 9, &produce(topic, -1, &[(0, records)]));
        response.responses[0].partition_responses[0].clone()
    }

    #[track_caller]
    fn fetch(&mut self, conn: ConnId, topic: &str, offset: i64) -> PartitionData {
        let response = self.ask(conn, 11, &fetch(topic, offset));
        response.responses[0].partitions[0].clone()
    }
}

impl Node<MemStore> {
    fn store(&mut self) -> &mut MemStore {
        self.core.store_mut()
    }

    /// Kills the process; what was not durable is gone.
    fn restart(mut self, config: NodeConfig) -> Self {
        let mut store = std::mem::take(self.core.store_mut());
        store.crash();
        let mut node = Node::new(config, store);
        // Groups are read back in its first turns.
        node.settle();
        node
    }
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn name(s: &str) -> TopicName {
    TopicName(text(s))
}

fn create(topic: &str, partitions: i32, configs: &[(&str, &str)]) -> CreateTopicsRequest {
    let entries = configs
        .iter()
        .map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    let topic = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(entries.collect());
    CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000)
}

fn produce(topic: &str, acks: i16, partitions: &[(i32, Bytes)]) -> ProduceRequest {
    let data = partitions
        .iter()
        .map(|(index, records)| PartitionProduceData::default().with_index(*index).with_records(Some(records.clone())));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(data.collect());
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(vec![topic])
}

/// A fetch of partition 0 that does not wait.
fn fetch(topic: &str, offset: i64) -> FetchRequest {
    fetch_waiting(topic, offset, 0, 1)
}

fn fetch_waiting(topic: &str, offset: i64, max_wait_ms: i32, min_bytes: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// A batch of records with these values, no keys, the test's time.
fn batch(values: &[&str]) -> Bytes {
    batch_of(Codec::None, Stamp::NONE, WALL_MS, &values.iter().map(|v| (None, *v)).collect::<Vec<_>>())
}

fn stamped(producer_id: i64, producer_epoch: i16, base_sequence: i32, values: &[&str]) -> Bytes {
    let stamp = Stamp { producer_id, producer_epoch, base_sequence };
    batch_of(Codec::None, stamp, WALL_MS, &values.iter().map(|v| (None, *v)).collect::<Vec<_>>())
}

fn batch_of(codec: Codec, stamp: Stamp, timestamp_ms: i64, records: &[(Option<&str>, &str)]) -> Bytes {
    let mut builder = BatchBuilder::new(codec, None);
    let no_headers: [(&[u8], &[u8]); 0] = [];
    for (key, value) in records {
        builder.append(timestamp_ms, key.map(str::as_bytes), Some(value.as_bytes()), &no_headers).unwrap();
    }
    builder.build(stamp).unwrap()
}

/// Values of the records in fetched bytes, with their offsets.
fn values(records: &Option<Bytes>) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for raw in wherry_wire::batch::split(records.clone().unwrap_or_default()) {
        let checked = raw.unwrap().check().unwrap();
        let set = wherry_wire::records::records(checked.header(), checked.bytes(), 1 << 20).unwrap();
        for record in &set {
            let record = record.unwrap();
            let offset = checked.header().base_offset.0 + i64::from(record.offset_delta);
            found.push((offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    found
}

fn first(response: &FetchResponse) -> &PartitionData {
    &response.responses[0].partitions[0]
}

fn produced(response: &ProduceResponse) -> &PartitionProduceResponse {
    &response.responses[0].partition_responses[0]
}
