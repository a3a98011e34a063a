//! What the sidecar costs: publishes single messages over one stream, to a cluster that acknowledges at once and keeps nothing, or to a
//! real one.
//!
//! The sidecar, its client of the cluster included, runs on one thread of its own, so that the CPU time of that thread is its cost.
//! Arguments: messages, bytes per message, messages in flight, and the address of a node for a real cluster. Prints messages per CPU
//! second of the sidecar, and per second of time.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a measurement, not a service")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use wherry_proto::v1::publish_ack::Outcome;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::topic_service_client::TopicServiceClient;
use wherry_proto::v1::{EnsureTopicRequest, Message, PublishOptions, PublishStreamRequest};
use wherry_sidecar::SidecarConfig;
use wherry_sidecar::backend::memory::MemoryCluster;

fn main() {
    let mut numbers = std::env::args().skip(1).take(3).map(|text| text.parse::<usize>().expect("a number"));
    let node = std::env::args().nth(4);
    let messages = numbers.next().unwrap_or(1_000_000);
    let bytes = numbers.next().unwrap_or(1024);
    let in_flight = numbers.next().unwrap_or(4096);

    let (address, started) = channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let sidecar =
        thread::Builder::new().name("sidecar".into()).spawn(move || serve(node, &address, stopped)).expect("thread");
    let address = started.recv().expect("starts");
    let took = runtime().block_on(publish(address, messages, bytes, in_flight));
    stop.send(()).expect("runs");
    let cpu = sidecar.join().expect("stops");
    let rate = |time: Duration| messages as f64 / time.as_secs_f64();
    println!(
        "{messages} messages of {bytes} bytes: {:.0}/s; sidecar {:.3} us of CPU each, {:.0} per CPU second",
        rate(took),
        cpu.as_secs_f64() * 1e6 / messages as f64,
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

fn serve(
    node: Option<String>,
    address: &std::sync::mpsc::Sender<SocketAddr>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> Duration {
    runtime().block_on(async {
        let config = SidecarConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..SidecarConfig::default() };
        let sidecar = match node {
            Some(node) => wherry_sidecar::spawn(SidecarConfig { bootstrap: vec![node], ..config }).await,
            None => wherry_sidecar::spawn_on(config, MemoryCluster::null()).await,
        };
        let sidecar = sidecar.expect("starts");
        let before = thread_cpu();
        address.send(sidecar.addr).expect("waits");
        stopped.await.expect("told");
        thread_cpu() - before
    })
}

async fn publish(address: SocketAddr, messages: usize, bytes: usize, in_flight: usize) -> Duration {
    let mut topics = TopicServiceClient::connect(format!("http://{address}")).await.expect("connects");
    topics.ensure_topic(EnsureTopicRequest { name: "orders".into(), partitions: 1 }).await.expect("a topic");
    let mut client = PublisherServiceClient::connect(format!("http://{address}")).await.expect("connects");
    let (say, said) = mpsc::channel(1024);
    let options = PublishOptions { default_topic: "orders".into(), ..PublishOptions::default() };
    let first = PublishStreamRequest { options: Some(options), ..PublishStreamRequest::default() };
    say.send(first).await.expect("open");
    let started = Instant::now();
    let mut acks = client.publish_stream(ReceiverStream::new(said)).await.expect("opens").into_inner();
    let room = Arc::new(Semaphore::new(in_flight));
    let sender_room = room.clone();
    let payload = Bytes::from(vec![7; bytes]);
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
