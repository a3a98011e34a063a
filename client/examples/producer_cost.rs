//! What the producer costs: CPU time per message of everything but the server, against a null server in this process that
//! parses produce requests, answers and drops them.
//!
//! `cargo run --release -p wherry-client --example producer_cost -- [SECONDS] [SIZE] [CODEC] [PARTITIONS]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, InitProducerIdResponse, MetadataResponse, ProduceRequest, ProduceResponse,
    ProducerId,
};
use kafka_protocol::protocol::StrBytes;
use wherry_client::{Client, ClientConfig, Codec, ProduceRecord, ProducerConfig};
use wherry_wire::codec::{RequestBody, decode_request, encode_response};

static SERVER_CPU_NS: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds on a CPU: of one thread, or of all of this process.
fn cpu_ns(task: Option<&str>) -> u64 {
    let read = |path: String| -> u64 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    match task {
        Some(task) => read(format!("/proc/self/task/{task}/schedstat")),
        None => {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            tasks.map(|t| read(format!("/proc/self/task/{}/schedstat", t.file_name().to_string_lossy()))).sum()
        }
    }
}

fn answer(frame: Bytes, port: u16, partitions: i32) -> Bytes {
    let request = decode_request(frame).unwrap();
    let (version, id) = (request.header.api_version, request.header.correlation_id);
    match request.body {
        RequestBody::ApiVersions(_) => {
            let one = |(key, min, max): (i16, i16, i16)| {
                ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max)
            };
            let keys = [(0, 3, 9), (3, 0, 9), (18, 0, 3), (22, 0, 4)];
            encode_response(
                version,
                id,
                &ApiVersionsResponse::default().with_api_keys(keys.into_iter().map(one).collect()),
            )
        }
        RequestBody::Metadata(request) => {
            let partition = |i| {
                MetadataResponsePartition::default()
                    .with_partition_index(i)
                    .with_leader_id(BrokerId(1))
                    .with_leader_epoch(0)
            };
            let topic = |name| {
                MetadataResponseTopic::default()
                    .with_name(name)
                    .with_partitions((0..partitions).map(partition).collect())
            };
            let topics = request.topics.unwrap_or_default().into_iter().map(|t| topic(t.name)).collect();
            let host = StrBytes::from_static_str("127.0.0.1");
            let broker =
                MetadataResponseBroker::default().with_node_id(BrokerId(1)).with_host(host).with_port(port.into());
            encode_response(version, id, &MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics))
        }
        RequestBody::InitProducerId(_) => {
            encode_response(version, id, &InitProducerIdResponse::default().with_producer_id(ProducerId(1)))
        }
        RequestBody::Produce(request) => encode_response(version, id, &produced(request)),
        other => panic!("the null server does not serve {:?}", other.api_key()),
    }
    .unwrap()
}

fn produced(request: ProduceRequest) -> ProduceResponse {
    let topics = request.topic_data.into_iter().map(|t| {
        let one = |i| PartitionProduceResponse::default().with_index(i).with_base_offset(0);
        let answers = t.partition_data.iter().map(|p| one(p.index)).collect();
        TopicProduceResponse::default().with_name(t.name).with_partition_responses(answers)
    });
    ProduceResponse::default().with_responses(topics.collect())
}

fn serve(mut socket: TcpStream, port: u16, partitions: i32) {
    socket.set_nodelay(true).unwrap();
    let task = std::fs::read_link("/proc/thread-self").unwrap();
    let task = task.file_name().unwrap().to_string_lossy().into_owned();
    let mut charged = 0;
    let mut prefix = [0; 4];
    while socket.read_exact(&mut prefix).is_ok() {
        let mut frame = BytesMut::zeroed(usize::try_from(u32::from_be_bytes(prefix)).unwrap());
        if socket.read_exact(&mut frame).is_err()
            || socket.write_all(&answer(frame.freeze(), port, partitions)).is_err()
        {
            return;
        }
        let now = cpu_ns(Some(&task));
        SERVER_CPU_NS.fetch_add(now - charged, Ordering::Relaxed);
        charged = now;
    }
}

fn null_server(partitions: i32) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket, port, partitions));
        }
    });
    port
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(5, |s| s.parse().unwrap());
    let size: usize = arguments.next().map_or(100, |s| s.parse().unwrap());
    let codec: Codec = arguments.next().map_or(Codec::None, |s| s.parse().unwrap());
    let partitions: i32 = arguments.next().map_or(1, |s| s.parse().unwrap());
    let port = null_server(partitions);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(ClientConfig::new([format!("127.0.0.1:{port}")])).await.unwrap();
        let producer = client.producer(ProducerConfig { codec, ..ProducerConfig::default() }).await.unwrap();
        let topic: Arc<str> = "cost".into();
        let text = b"{\"order\":12345,\"customer\":\"wherry\",\"state\":\"paid\",\"amount\":99.5}";
        let value: Bytes = text.iter().copied().cycle().take(size).collect::<Vec<_>>().into();
        let (started, cpu, server) = (Instant::now(), cpu_ns(None), SERVER_CPU_NS.load(Ordering::Relaxed));
        let mut count = 0u64;
        let mut last = None;
        while started.elapsed() < Duration::from_secs(seconds) {
            for _ in 0..1000 {
                last = Some(producer.send(ProduceRecord::new(topic.clone(), value.clone())).await.unwrap());
            }
            count += 1000;
        }
        last.unwrap().await.unwrap();
        producer.flush().await.unwrap();
        let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_ns(None) - cpu);
        let server = SERVER_CPU_NS.load(Ordering::Relaxed) - server;
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (ours, theirs, count) = ((cpu - server) as f64, server as f64, count as f64);
        println!(
            "{size} B, {codec}, {partitions} partitions: {:.0} msg/s; client {:.0} ns CPU per message, null server {:.0}",
            count / wall,
            ours / count,
            theirs / count
        );
    });
}
