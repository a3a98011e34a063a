//! What the sidecar costs: an application that publishes single messages over one stream, or one that receives and acknowledges them.
//!
//! The sidecar, its client of the cluster included, runs on one thread of its own, so that the CPU time of that thread is its cost.
//! Arguments: `publish` or `subscribe`, messages, bytes per message, messages in flight, and for publishing the address of a node;
//! without one the cluster is in memory and acknowledges at once. Prints messages per CPU second of the sidecar, and per second of
//! time.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measurement, not a service")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use wherry_client::ProduceRecord;
use wherry_proto::v1::publish_ack::Outcome;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;
use wherry_proto::v1::topic_service_client::TopicServiceClient;
use wherry_proto::v1::{
    Acknowledge, Credits, EnsureTopicRequest, Message, PublishOptions, PublishStreamRequest, SubscribeRequest,
    SubscribeStart, subscribe_request, subscribe_response,
};
use wherry_sidecar::SidecarConfig;
use wherry_sidecar::backend::Backend;
use wherry_sidecar::backend::memory::MemoryCluster;

const TOPIC: &str = "orders";

struct Load {
    messages: usize,
    bytes: usize,
    in_flight: usize,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let subscribes = arguments.next().is_some_and(|mode| mode == "subscribe");
    let mut number = |default: usize| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let load = Load { messages: number(1_000_000), bytes: number(1024), in_flight: number(4096) };
    let node = std::env::args().nth(5);
    let cluster = if subscribes { filled(&load) } else { MemoryCluster::null() };

    let (address, started) = channel();
    let (stop, stopped) = oneshot::channel();
    let sidecar = thread::Builder::new().name("sidecar".into());
    let sidecar = sidecar.spawn(move || serve(node, cluster, &address, stopped)).expect("thread");
    let address = started.recv().expect("starts");
    let took = runtime()
        .block_on(async { if subscribes { subscribe(address, &load).await } else { publish(address, &load).await } });
    stop.send(()).expect("runs");
    let cpu = sidecar.join().expect("stops");
    let rate = |time: Duration| load.messages as f64 / time.as_secs_f64();
    println!(
        "{} messages of {} bytes: {:.0}/s; sidecar {:.3} us of CPU each, {:.0} per CPU second",
        load.messages,
        load.bytes,
        rate(took),
        cpu.as_secs_f64() * 1e6 / load.messages as f64,
        rate(cpu),
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// A cluster that has the messages already.
fn filled(load: &Load) -> MemoryCluster {
    let cluster = MemoryCluster::new().with_topic(TOPIC, 1);
    let payload = Bytes::from(vec![7; load.bytes]);
    for _ in 0..load.messages {
        cluster.try_send(ProduceRecord::new(TOPIC, payload.clone())).expect("taken");
    }
    cluster
}

fn serve(
    node: Option<String>,
    cluster: MemoryCluster,
    address: &std::sync::mpsc::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) -> Duration {
    runtime().block_on(async {
        let config = SidecarConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..SidecarConfig::default() };
        let sidecar = match node {
            Some(node) => wherry_sidecar::spawn(SidecarConfig { bootstrap: vec![node], ..config }).await,
            None => wherry_sidecar::spawn_on(config, cluster).await,
        };
        let sidecar = sidecar.expect("starts");
        let before = thread_cpu();
        address.send(sidecar.addr).expect("waits");
        stopped.await.expect("told");
        thread_cpu() - before
    })
}

async fn publish(address: SocketAddr, load: &Load) -> Duration {
    let address = format!("http://{address}");
    let mut topics = TopicServiceClient::connect(address.clone()).await.expect("connects");
    topics.ensure_topic(EnsureTopicRequest { name: TOPIC.into(), partitions: 1 }).await.expect("a topic");
    let mut client = PublisherServiceClient::connect(address).await.expect("connects");
    let (say, said) = mpsc::channel(1024);
    let options = PublishOptions { default_topic: TOPIC.into(), ..PublishOptions::default() };
    let first = PublishStreamRequest { options: Some(options), ..PublishStreamRequest::default() };
    say.send(first).await.expect("open");
    let started = Instant::now();
    let mut acks = client.publish_stream(ReceiverStream::new(said)).await.expect("opens").into_inner();
    let room = Arc::new(Semaphore::new(load.in_flight));
    let sender_room = room.clone();
    let payload = Bytes::from(vec![7; load.bytes]);
    let messages = load.messages;
    let sender = tokio::spawn(async move {
        for correlation_id in 0..messages as u64 {
            sender_room.acquire().await.expect("open").forget();
            let message = Some(Message { payload: payload.clone(), ..Message::default() });
            let frame = PublishStreamRequest { correlation_id, message, options: None };
            say.send(frame).await.expect("open");
        }
    });
    let mut acknowledged = 0;
    while acknowledged < messages {
        let response = acks.message().await.expect("goes on").expect("goes on");
        acknowledged += response.acks.len();
        let failed = response.acks.iter().find(|ack| matches!(ack.outcome, Some(Outcome::Error(_))));
        assert!(failed.is_none(), "{failed:?}");
        room.add_permits(response.acks.len());
    }
    sender.await.expect("sent");
    started.elapsed()
}

async fn subscribe(address: SocketAddr, load: &Load) -> Duration {
    use subscribe_request::Frame;
    let mut client = SubscriberServiceClient::connect(format!("http://{address}")).await.expect("connects");
    let (say, said) = mpsc::channel(1024);
    let request = |frame| SubscribeRequest { frame: Some(frame) };
    let credits = u32::try_from(load.in_flight).expect("small");
    let start = SubscribeStart { group: "g".into(), topics: vec![TOPIC.into()], credits, ..SubscribeStart::default() };
    say.send(request(Frame::Start(start))).await.expect("open");
    let started = Instant::now();
    let mut heard = client.subscribe(ReceiverStream::new(said)).await.expect("opens").into_inner();
    let mut settled = 0;
    while settled < load.messages {
        match heard.message().await.expect("goes on").and_then(|response| response.frame).expect("goes on") {
            subscribe_response::Frame::Started(_) => {}
            subscribe_response::Frame::Delivery(delivery) => {
                let messages = u32::try_from(delivery.messages.len()).expect("small");
                let ack_ids = delivery.messages.into_iter().map(|message| message.ack_id).collect();
                say.send(request(Frame::Ack(Acknowledge { ack_ids }))).await.expect("open");
                say.send(request(Frame::Credits(Credits { messages }))).await.expect("open");
            }
            subscribe_response::Frame::Settled(results) => settled += results.results.len(),
        }
    }
    started.elapsed()
}
