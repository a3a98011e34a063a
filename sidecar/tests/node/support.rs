//! A node, sidecars on it, and short words for what the tests do.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wherry_node::config::NodeConfig;
use wherry_node::{NodeHandle, spawn};
use wherry_proto::v1::group_service_client::GroupServiceClient;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::request_service_client::RequestServiceClient;
use wherry_proto::v1::seek_request::Target;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;
use wherry_proto::v1::topic_service_client::TopicServiceClient;
use wherry_proto::v1::transaction_service_client::TransactionServiceClient;
use wherry_proto::v1::{self, DeliveryLevel, ReceivedMessage, SubscribeMode, subscribe_response};
use wherry_sidecar::{SidecarConfig, SidecarHandle};

/// How long anything may take on a machine that is busy with other things.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// The group of all tests; each has topics of its own.
const GROUP: &str = "g";

pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(LONG, what).await.expect("took too long")
}

pub(crate) struct Node {
    handle: Option<NodeHandle>,
    _directory: tempfile::TempDir,
}

pub(crate) fn node() -> Arc<Node> {
    let directory = tempfile::tempdir().expect("directory");
    let config = NodeConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: directory.path().to_owned(),
        group_initial_rebalance_delay_ms: 50,
        ..NodeConfig::default()
    };
    Arc::new(Node { handle: Some(spawn(config).expect("starts")), _directory: directory })
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.stop();
            handle.join().expect("stops");
        }
    }
}

pub(crate) fn message(topic: &str, text: &str) -> v1::Message {
    v1::Message { topic: topic.into(), payload: text.to_owned().into(), ..v1::Message::default() }
}

pub(crate) fn text(message: &ReceivedMessage) -> String {
    let payload = &message.message.as_ref().expect("a message").payload;
    String::from_utf8(payload.to_vec()).expect("text")
}

pub(crate) struct Rig {
    pub(crate) sidecar: SidecarHandle,
    channel: Channel,
}

impl Rig {
    pub(crate) async fn start(node: &Node) -> Self {
        let address = node.handle.as_ref().expect("runs").addr();
        let config = SidecarConfig {
            listen: "127.0.0.1:0".parse().expect("address"),
            bootstrap: vec![address.to_string()],
            cluster_wait: LONG,
            ..SidecarConfig::default()
        };
        let sidecar = wherry_sidecar::spawn(config).await.expect("starts");
        let endpoint = Endpoint::from_shared(format!("http://{}", sidecar.addr)).expect("address");
        let channel = soon(endpoint.connect()).await.expect("connects");
        Self { sidecar, channel }
    }

    pub(crate) fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel.clone())
    }

    pub(crate) fn requests(&self) -> RequestServiceClient<Channel> {
        RequestServiceClient::new(self.channel.clone())
    }

    pub(crate) fn topics(&self) -> TopicServiceClient<Channel> {
        TopicServiceClient::new(self.channel.clone())
    }

    /// A new topic.
    pub(crate) async fn topic(&self, prefix: &str, partitions: i32) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let request = v1::EnsureTopicRequest { name: name.clone(), partitions };
        soon(self.topics().ensure_topic(request)).await.expect("made");
        name
    }

    pub(crate) async fn publish(&self, topic: &str, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            let request = v1::PublishRequest { message: Some(message(topic, &text)), delivery: 0 };
            soon(self.publisher().publish(request)).await.expect("published");
        }
    }

    async fn try_pull(&self, topic: &str, max: u32, level: DeliveryLevel, wait: Duration) -> Vec<ReceivedMessage> {
        let request = v1::PullRequest {
            group: GROUP.into(),
            topics: vec![topic.into()],
            max_messages: max,
            max_wait: wait.try_into().ok(),
            ack_timeout: LONG.try_into().ok(),
            delivery: level.into(),
            ..v1::PullRequest::default()
        };
        let mut client = SubscriberServiceClient::new(self.channel.clone());
        soon(client.pull(request)).await.expect("pulls").into_inner().messages
    }

    /// At least one message.
    pub(crate) async fn pull(&self, topic: &str, max: u32, level: DeliveryLevel) -> Vec<ReceivedMessage> {
        let messages = self.try_pull(topic, max, level, LONG).await;
        assert!(!messages.is_empty(), "nothing came");
        messages
    }

    /// What there still is.
    pub(crate) async fn pull_now(&self, topic: &str) -> Vec<ReceivedMessage> {
        self.try_pull(topic, 10, DeliveryLevel::EffectivelyOnce, Duration::from_millis(300)).await
    }

    pub(crate) async fn commit(
        &self,
        topic: &str,
        text: &str,
        handled: &ReceivedMessage,
    ) -> Result<v1::CommitResponse, Status> {
        let request = v1::CommitRequest { messages: vec![message(topic, text)], ack_ids: vec![handled.ack_id.clone()] };
        let mut client = TransactionServiceClient::new(self.channel.clone());
        soon(client.commit(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn group(&self) -> v1::GetGroupResponse {
        let mut client = GroupServiceClient::new(self.channel.clone());
        soon(client.get_group(v1::GetGroupRequest { group: GROUP.into() })).await.expect("described").into_inner()
    }

    pub(crate) async fn seek(&self, topic: &str, target: Target) -> Vec<i64> {
        let request = v1::SeekRequest { group: GROUP.into(), topic: topic.into(), target: Some(target) };
        let mut client = GroupServiceClient::new(self.channel.clone());
        let moved = soon(client.seek(request)).await.expect("moved").into_inner();
        moved.offsets.iter().map(|place| place.offset).collect()
    }

    /// Everything of a topic that is committed, so many messages.
    pub(crate) async fn broadcast(&self, topic: &str, count: usize) -> Vec<String> {
        let start = v1::SubscribeStart {
            topics: vec![topic.into()],
            credits: 1000,
            mode: SubscribeMode::Broadcast.into(),
            delivery: DeliveryLevel::EffectivelyOnce.into(),
            ..v1::SubscribeStart::default()
        };
        self.read(start, count).await
    }

    /// The first messages of a subscription.
    pub(crate) async fn read(&self, start: v1::SubscribeStart, count: usize) -> Vec<String> {
        let (say, said) = mpsc::channel(4);
        say.send(v1::SubscribeRequest { frame: Some(Frame::Start(start)) }).await.expect("open");
        let mut client = SubscriberServiceClient::new(self.channel.clone());
        let mut heard = soon(client.subscribe(ReceiverStream::new(said))).await.expect("opens").into_inner();
        let mut texts = Vec::new();
        while texts.len() < count {
            let frame = soon(heard.message()).await.expect("goes on").expect("a frame").frame;
            if let Some(subscribe_response::Frame::Delivery(delivery)) = frame {
                texts.extend(delivery.messages.iter().map(text));
            }
        }
        texts
    }
}
