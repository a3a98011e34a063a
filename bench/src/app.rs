//! An application at a sidecar: single messages over a gRPC stream, and a subscription that acknowledges them.
//! It runs as a process of its own, so that its CPU is not the sidecar's. It knows only the app-facing API.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;
use wherry_proto::v1::subscribe_request::Frame as Ask;
use wherry_proto::v1::subscribe_response::Frame as Told;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;
use wherry_proto::v1::{
    Acknowledge, Credits, Message, PublishOptions, PublishStreamRequest, SubscribeRequest, SubscribeResponse,
    SubscribeStart, publish_ack,
};

/// Messages on their way to the application.
const CREDITS: u32 = 8192;
/// Frames to the sidecar that are not sent yet.
const FRAMES: usize = 1024;
/// Longest that nothing may come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the application does.
#[derive(Clone, Debug, Args)]
pub struct AppArgs {
    /// The sidecar, as `http://HOST:PORT`.
    #[arg(long)]
    pub sidecar: String,
    /// The topic.
    #[arg(long)]
    pub topic: String,
    /// How many messages.
    #[arg(long)]
    pub messages: u64,
    /// Size of each.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Receive and acknowledge them as this group; the time ends with the last acknowledgement.
    #[arg(long)]
    pub group: Option<String>,
}

/// Does it, and returns what a load client reports.
pub fn run(args: &AppArgs) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(args))
}

async fn work(args: &AppArgs) -> Result<Value> {
    let channel = Channel::from_shared(args.sidecar.clone())?.connect().await.context("the sidecar")?;
    let subscription = match &args.group {
        Some(group) => {
            let mut subscription = Subscription::open(channel.clone(), group, &args.topic).await?;
            // One message through all of it first: joining a group is not what is measured.
            publish(channel.clone(), args, 1).await?;
            subscription.receive(1).await?;
            Some(subscription)
        }
        None => None,
    };
    let begin = Instant::now();
    let sending = publish(channel, args, args.messages);
    match subscription {
        Some(mut subscription) => {
            tokio::try_join!(sending, subscription.receive(args.messages))?;
        }
        None => sending.await?,
    }
    let secs = begin.elapsed().as_secs_f64();
    let rate = args.messages as f64 / secs;
    Ok(json!({"mode": "app", "msgs": args.messages, "size": args.size, "secs": secs, "rate": rate}))
}

/// Sends messages one by one on one stream, as fast as flow control lets it, and awaits every result.
async fn publish(channel: Channel, args: &AppArgs, count: u64) -> Result<()> {
    let payload = Bytes::from(vec![b'x'; args.size]);
    let topic = args.topic.clone();
    let requests = (0..count).map(move |i| PublishStreamRequest {
        correlation_id: i,
        message: Some(Message { payload: payload.clone(), ..Message::default() }),
        options: (i == 0).then(|| PublishOptions { default_topic: topic.clone(), ..PublishOptions::default() }),
    });
    let mut client = PublisherServiceClient::new(channel);
    let mut answers = client.publish_stream(tokio_stream::iter(requests)).await?.into_inner();
    let mut settled = 0;
    while let Some(answer) = tokio::time::timeout(PATIENCE, answers.message()).await.context("no results")?? {
        for ack in &answer.acks {
            match &ack.outcome {
                Some(publish_ack::Outcome::Result(_)) => settled += 1,
                Some(publish_ack::Outcome::Error(e)) => bail!("message {}: {}", ack.correlation_id, e.message),
                None => bail!("message {}: an answer without an outcome", ack.correlation_id),
            }
        }
    }
    ensure!(settled == count, "sent {count}, settled {settled}");
    Ok(())
}

struct Subscription {
    frames: mpsc::Sender<SubscribeRequest>,
    answers: Streaming<SubscribeResponse>,
}

fn frame(ask: Ask) -> SubscribeRequest {
    SubscribeRequest { frame: Some(ask) }
}

impl Subscription {
    async fn open(channel: Channel, group: &str, topic: &str) -> Result<Subscription> {
        let (frames, rest) = mpsc::channel(FRAMES);
        let topics = vec![topic.to_owned()];
        let start = SubscribeStart { group: group.into(), topics, credits: CREDITS, ..SubscribeStart::default() };
        frames.send(frame(Ask::Start(start))).await?;
        let mut client = SubscriberServiceClient::new(channel);
        let answers = client.subscribe(ReceiverStream::new(rest)).await?.into_inner();
        Ok(Subscription { frames, answers })
    }

    /// Receives `count` messages, acknowledges each, and awaits the answers to all acknowledgements.
    async fn receive(&mut self, count: u64) -> Result<()> {
        let (mut received, mut settled) = (0, 0);
        while settled < count {
            let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
            let answer = answer.with_context(|| format!("received {received}, settled {settled} of {count}"))??;
            match answer.context("the subscription ended")?.frame {
                Some(Told::Delivery(delivery)) => {
                    let n = delivery.messages.len();
                    let ack_ids = delivery.messages.into_iter().map(|m| m.ack_id).collect();
                    self.frames.send(frame(Ask::Ack(Acknowledge { ack_ids }))).await?;
                    self.frames.send(frame(Ask::Credits(Credits { messages: u32::try_from(n)? }))).await?;
                    received += n as u64;
                }
                Some(Told::Settled(results)) => settled += results.results.len() as u64,
                Some(Told::Started(_)) | None => {}
            }
        }
        ensure!(received == count, "received {received} of {count}: some came twice");
        Ok(())
    }
}
