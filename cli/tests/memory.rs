//! What applications can make a sidecar hold, measured on a real process: however many streams, however slow, however rude.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they expect by failing")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Up, binary, http};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;
use wherry_proto::v1::{self, PublishStreamRequest};

/// The budget that the sidecar is started with.
const BUDGET: u64 = 32 << 20;
/// What code, stacks and the allocator's own habits may add to it: this is a debug build.
const SLACK: u64 = 24 << 20;
const SOON: Duration = Duration::from_secs(30);

struct Sidecar {
    child: Child,
    address: String,
    idle: u64,
    _up: Up,
    _data: tempfile::TempDir,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sidecar {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let up = Up::start(data.path(), false);
        let mut command = binary();
        command.args([
            "sidecar",
            "--listen",
            "127.0.0.1:0",
            "--memory",
            "32MiB",
            "--output",
            "json",
            "--bootstrap",
            &up.node,
        ]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let mut sidecar =
            Self { child, address: said["address"].as_str().unwrap().to_owned(), idle: 0, _up: up, _data: data };
        assert!(sidecar.publish("first").starts_with("HTTP/1.1 200"));
        sidecar.idle = sidecar.resident();
        sidecar
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn publish(&self, text: &str) -> String {
        let head = format!(
            "POST /v1/topics/seen/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        http(&self.address, &head)
    }

    fn check(&self, what: &str) {
        let grown = self.resident().saturating_sub(self.idle);
        assert!(grown < BUDGET + SLACK, "{what}: {} MiB more than the {} when idle", grown >> 20, self.idle >> 20);
    }

    /// Others are served, and the process says that it lives.
    fn serves(&self, what: &str) {
        let published = self.publish("still there");
        assert!(published.starts_with("HTTP/1.1 200"), "{what}: {published}");
        let live = http(&self.address, "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert!(live.starts_with("HTTP/1.1 200"), "{what}: {live}");
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn frame(bytes: usize) -> PublishStreamRequest {
    let payload = vec![b'x'; bytes].into();
    let message = Some(v1::Message { topic: "seen".into(), payload, ..v1::Message::default() });
    PublishStreamRequest { correlation_id: 0, message, options: None }
}

/// Publishes without ever reading a result, until nothing more is taken.
async fn flood(channel: Channel, bytes: usize) -> impl Sized {
    let (say, said) = mpsc::channel(4);
    let acks = PublisherServiceClient::new(channel).publish_stream(ReceiverStream::new(said)).await;
    for _ in 0..200 {
        if tokio::time::timeout(Duration::from_millis(300), say.send(frame(bytes))).await.is_err() {
            break;
        }
    }
    (say, acks)
}

#[test]
fn ten_thousand_streams_and_those_who_never_read() {
    let sidecar = Sidecar::start();
    let runtime = runtime();
    let open = runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..10 {
            let channel = sidecar.endpoint().connect().await.unwrap();
            let mut client = PublisherServiceClient::new(channel.clone());
            for _ in 0..1000 {
                let (say, said) = mpsc::channel::<PublishStreamRequest>(1);
                // Beyond the bound it is refused.
                let opened = tokio::time::timeout(SOON, client.publish_stream(ReceiverStream::new(said))).await;
                open.push((say, opened.expect("answered").ok()));
            }
        }
        open
    });
    assert!(open.iter().any(|(_, stream)| stream.is_none()), "there is a bound");
    sidecar.check("10,000 streams");
    drop(open);
    let since = Instant::now();
    while !sidecar.publish("x").starts_with("HTTP/1.1 200") {
        assert!(since.elapsed() < SOON, "there is room again");
    }
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..20 {
            let channel = sidecar.endpoint().connect().await.unwrap();
            held.push(flood(channel, 100_000).await);
        }
        held
    });
    sidecar.check("publishers who never read");
    sidecar.serves("publishers who never read");
    drop(held);
}

#[test]
fn subscribers_without_credit_and_half_sent_requests() {
    let sidecar = Sidecar::start();
    let text = "y".repeat(500_000);
    for _ in 0..60 {
        assert!(sidecar.publish(&text).starts_with("HTTP/1.1 200"));
    }
    let runtime = runtime();
    let subscribed = runtime.block_on(async {
        let mut open = Vec::new();
        let channels: Vec<Channel> = (0..8).map(|_| sidecar.endpoint().connect_lazy()).collect();
        for number in 0..200usize {
            let mut client = SubscriberServiceClient::new(channels[number % channels.len()].clone());
            let (say, said) = mpsc::channel(4);
            // Half of them take everything and read nothing, half never give a credit.
            let credits = if number % 2 == 0 { 1000 } else { 0 };
            let start = v1::SubscribeStart {
                group: format!("g{}", number % 8),
                topics: vec!["seen".into()],
                credits,
                ..v1::SubscribeStart::default()
            };
            say.send(v1::SubscribeRequest { frame: Some(Frame::Start(start)) }).await.unwrap();
            let subscribed =
                tokio::time::timeout(SOON, client.subscribe(ReceiverStream::new(said))).await.expect("answered");
            open.push((say, subscribed));
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        open
    });
    sidecar.check("subscribers who never read, or never give credit");
    let mut half_sent = Vec::new();
    for _ in 0..40 {
        let Ok(mut stream) = TcpStream::connect(&sidecar.address) else { continue };
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let head = "POST /v1/topics/seen/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        // Blocks once it is not read from.
        let _ = stream.write_all(&vec![b'z'; 800_000]);
        half_sent.push(stream);
    }
    sidecar.check("half-sent requests");
    drop(subscribed);
    runtime.shutdown_background();
    sidecar.serves("half-sent requests");
    drop(half_sent);
}

#[test]
fn streams_that_are_reset_as_soon_as_they_are_open() {
    let sidecar = Sidecar::start();
    // HTTP/2 by hand: HEADERS and RST_STREAM, again and again.
    let mut stream = TcpStream::connect(&sidecar.address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    // :method POST, :scheme http, :path /, :authority x
    let block = [0x83, 0x86, 0x84, 0x01, 0x01, b'x'];
    let mut ended = false;
    for id in (1u32..400_000).step_by(2) {
        let mut bytes = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4];
        bytes.extend(id.to_be_bytes());
        bytes.extend(block);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(id.to_be_bytes());
        bytes.extend(8u32.to_be_bytes());
        if stream.write_all(&bytes).is_err() {
            ended = true;
            break;
        }
    }
    // Whatever it answered last, it was not kept going.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(ended || !answer.is_empty());
    sidecar.check("a flood of resets");
    sidecar.serves("a flood of resets");
}
