//! A sidecar to talk to, and short words for what tests do all the time. Every wait is bounded by [`soon`].

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use wherry_proto::v1::group_service_client::GroupServiceClient;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::request_service_client::RequestServiceClient;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;
use wherry_proto::v1::topic_service_client::TopicServiceClient;
use wherry_proto::v1::transaction_service_client::TransactionServiceClient;
use wherry_proto::v1::{self, AckOutcome, AckResult, ReceivedMessage, subscribe_response};
use wherry_sidecar::backend::memory::MemoryCluster;
use wherry_sidecar::{Limits, SidecarConfig, SidecarHandle};

/// Longest that anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(SOON, what).await.expect("took too long")
}

/// Waits until the cluster looks like this.
pub(crate) async fn until(cluster: &MemoryCluster, holds: impl Fn(&MemoryCluster) -> bool) {
    soon(cluster.until(holds)).await;
}

/// Waits until this holds, looking again and again.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let look = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, look).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) struct Rig {
    pub(crate) cluster: MemoryCluster,
    pub(crate) sidecar: SidecarHandle,
    pub(crate) channel: Channel,
}

pub(crate) async fn rig(cluster: MemoryCluster) -> Rig {
    rig_with(cluster, Limits::default()).await
}

pub(crate) async fn rig_with(cluster: MemoryCluster, limits: Limits) -> Rig {
    let config = SidecarConfig { limits, ..config() };
    let sidecar = wherry_sidecar::spawn_on(config, cluster.clone()).await.expect("starts");
    let channel = connect(&sidecar).await;
    Rig { cluster, sidecar, channel }
}

pub(crate) fn config() -> SidecarConfig {
    SidecarConfig {
        listen: "127.0.0.1:0".parse().expect("address"),
        drain_timeout: Duration::from_secs(5),
        ..SidecarConfig::default()
    }
}

pub(crate) async fn connect(sidecar: &SidecarHandle) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", sidecar.addr)).expect("address");
    soon(endpoint.connect()).await.expect("connects")
}

impl Rig {
    pub(crate) fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel.clone())
    }

    pub(crate) fn transactions(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel.clone())
    }

    pub(crate) fn groups(&self) -> GroupServiceClient<Channel> {
        GroupServiceClient::new(self.channel.clone())
    }

    pub(crate) fn topics(&self) -> TopicServiceClient<Channel> {
        TopicServiceClient::new(self.channel.clone())
    }

    pub(crate) fn requests(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(self.channel.clone())
    }

    pub(crate) fn subscriber(&self) -> SubscriberServiceClient<Channel> {
        SubscriberServiceClient::new(self.channel.clone())
    }

    /// Publishes texts without a key, and waits until they are there.
    pub(crate) async fn publish(&self, topic: &str, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            let request = v1::PublishRequest { message: Some(message(topic, &text)), delivery: 0 };
            soon(self.publisher().publish(request)).await.expect("published");
        }
    }

    pub(crate) async fn subscribe(&self, group: &str, topic: &str, credits: u32) -> Subscription {
        self.subscribe_with(v1::SubscribeStart { credits, ..start(group, topic) }).await
    }

    pub(crate) async fn subscribe_with(&self, start: v1::SubscribeStart) -> Subscription {
        self.try_subscribe(start).await.expect("subscribes")
    }

    pub(crate) async fn try_subscribe(&self, start: v1::SubscribeStart) -> Result<Subscription, tonic::Status> {
        let (say, said) = mpsc::channel(64);
        say.send(request(Frame::Start(start))).await.expect("open");
        let heard = soon(self.subscriber().subscribe(ReceiverStream::new(said))).await?.into_inner();
        let mut subscription = Subscription { say, heard, messages: Vec::new(), results: Vec::new() };
        match subscription.frame().await? {
            subscribe_response::Frame::Started(_) => Ok(subscription),
            other => panic!("{other:?} before started"),
        }
    }

    pub(crate) async fn pull(&self, group: &str, topic: &str, max: u32, wait: Duration) -> Vec<ReceivedMessage> {
        let request = v1::PullRequest {
            group: group.into(),
            topics: vec![topic.into()],
            max_messages: max,
            max_wait: Some(wait.try_into().expect("short")),
            ..v1::PullRequest::default()
        };
        soon(self.subscriber().pull(request)).await.expect("pulls").into_inner().messages
    }

    pub(crate) async fn ack(&self, ids: &[&Bytes]) -> Vec<AckOutcome> {
        let request = v1::AckRequest { ack_ids: ids.iter().map(|id| (*id).clone()).collect() };
        outcomes(&soon(self.subscriber().ack(request)).await.expect("acks").into_inner().results)
    }
}

pub(crate) fn outcomes(results: &[AckResult]) -> Vec<AckOutcome> {
    results.iter().map(AckResult::outcome).collect()
}

pub(crate) fn message(topic: &str, text: &str) -> v1::Message {
    v1::Message { topic: topic.into(), payload: Bytes::copy_from_slice(text.as_bytes()), ..v1::Message::default() }
}

pub(crate) fn start(group: &str, topic: &str) -> v1::SubscribeStart {
    v1::SubscribeStart { group: group.into(), topics: vec![topic.into()], ..v1::SubscribeStart::default() }
}

pub(crate) fn request(frame: Frame) -> v1::SubscribeRequest {
    v1::SubscribeRequest { frame: Some(frame) }
}

pub(crate) fn text(message: &ReceivedMessage) -> String {
    let payload = &message.message.as_ref().expect("a message").payload;
    String::from_utf8(payload.to_vec()).expect("text")
}

pub(crate) fn texts(messages: &[ReceivedMessage]) -> Vec<String> {
    messages.iter().map(text).collect()
}

pub(crate) struct Subscription {
    pub(crate) say: mpsc::Sender<v1::SubscribeRequest>,
    pub(crate) heard: Streaming<v1::SubscribeResponse>,
    pub(crate) messages: Vec<ReceivedMessage>,
    pub(crate) results: Vec<AckResult>,
}

impl Subscription {
    pub(crate) async fn frame(&mut self) -> Result<subscribe_response::Frame, tonic::Status> {
        let next = soon(self.heard.message()).await?;
        next.and_then(|response| response.frame).ok_or_else(|| tonic::Status::ok("the stream ended"))
    }

    async fn hear(&mut self) {
        match self.frame().await.expect("a frame") {
            subscribe_response::Frame::Started(_) => panic!("started twice"),
            subscribe_response::Frame::Delivery(delivery) => self.messages.extend(delivery.messages),
            subscribe_response::Frame::Settled(settled) => self.results.extend(settled.results),
        }
    }

    /// The next messages, exactly this many.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<ReceivedMessage> {
        while self.messages.len() < count {
            self.hear().await;
        }
        self.messages.drain(..count).collect()
    }

    /// The next results, exactly this many.
    pub(crate) async fn settled(&mut self, count: usize) -> Vec<AckResult> {
        while self.results.len() < count {
            self.hear().await;
        }
        self.results.drain(..count).collect()
    }

    /// Nothing comes for a while; for what must never come, where no event could end the wait earlier.
    pub(crate) async fn silent(&mut self) {
        assert!(self.messages.is_empty() && self.results.is_empty());
        let heard = tokio::time::timeout(Duration::from_millis(150), self.heard.message()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    pub(crate) async fn say(&self, frame: Frame) {
        soon(self.say.send(request(frame))).await.expect("open");
    }

    pub(crate) async fn ack(&self, messages: &[ReceivedMessage]) {
        self.say(Frame::Ack(v1::Acknowledge { ack_ids: ids(messages) })).await;
    }

    pub(crate) async fn nack(&self, messages: &[ReceivedMessage], delay: Duration) {
        let delay = Some(delay.try_into().expect("short"));
        self.say(Frame::Nack(v1::NegativeAcknowledge { ack_ids: ids(messages), delay })).await;
    }

    pub(crate) async fn credit(&self, messages: u32) {
        self.say(Frame::Credits(v1::Credits { messages })).await;
    }
}

pub(crate) fn ids(messages: &[ReceivedMessage]) -> Vec<Bytes> {
    messages.iter().map(|message| message.ack_id.clone()).collect()
}

/// A raw HTTP/1 exchange: status and body.
pub(crate) async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String) {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    soon(stream.write_all(head.as_bytes())).await.expect("writes");
    soon(stream.write_all(body)).await.expect("writes");
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.expect("reads");
    parse(&String::from_utf8(answer).expect("text"))
}

fn parse(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "answers have a length: {head}");
    (status, body.to_owned())
}

pub(crate) async fn http(rig: &Rig, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
    let (status, body) = exchange(stream, method, path, &[], body.as_bytes()).await;
    (status, serde_json::from_str(&body).unwrap_or(serde_json::Value::String(body)))
}
