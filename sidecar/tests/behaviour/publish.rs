//! Publishing over gRPC.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};
use wherry_client::ClientError;
use wherry_proto::v1::publish_ack::Outcome;
use wherry_proto::v1::{
    self, DeliveryLevel, PublishAck, PublishOptions, PublishStatus, PublishStreamRequest, PublishStreamResponse,
};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{Rig, eventually, message, rig, rig_with, soon, until};

struct Stream {
    say: mpsc::Sender<PublishStreamRequest>,
    heard: Streaming<PublishStreamResponse>,
    acks: Vec<PublishAck>,
}

async fn stream(rig: &Rig) -> Stream {
    let (say, said) = mpsc::channel(1024);
    let heard = soon(rig.publisher().publish_stream(ReceiverStream::new(said))).await.expect("opens").into_inner();
    Stream { say, heard, acks: Vec::new() }
}

fn numbered(correlation_id: u64, message: v1::Message) -> PublishStreamRequest {
    PublishStreamRequest { correlation_id, message: Some(message), options: None }
}

impl Stream {
    async fn send(&self, request: PublishStreamRequest) {
        soon(self.say.send(request)).await.expect("open");
    }

    async fn acks(&mut self, count: usize) -> Vec<PublishAck> {
        while self.acks.len() < count {
            let response = soon(self.heard.message()).await.expect("no error").expect("not the end");
            self.acks.extend(response.acks);
        }
        self.acks.drain(..count).collect()
    }
}

fn result(ack: &PublishAck) -> &v1::PublishResult {
    match &ack.outcome {
        Some(Outcome::Result(result)) => result,
        other => panic!("{other:?}"),
    }
}

fn error(ack: &PublishAck) -> &v1::Error {
    match &ack.outcome {
        Some(Outcome::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_message_is_answered_with_its_place() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 3)).await;
    let traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(v1::PublishRequest {
        message: Some(v1::Message {
            key: Some(Bytes::from_static(b"k")),
            partition: Some(2),
            headers: vec![v1::Header { name: "a".into(), value: Bytes::from_static(b"1") }],
            content_type: "text/plain".into(),
            message_id: "id-1".into(),
            ..message("orders", "hello")
        }),
        delivery: 0,
    });
    request.metadata_mut().insert("traceparent", traced.parse().expect("value"));
    let result = soon(rig.publisher().publish(request)).await.expect("published").into_inner().result.expect("result");
    assert_eq!((result.topic.as_str(), result.partition, result.offset), ("orders", 2, 0));
    assert_eq!(result.status(), PublishStatus::Committed);
    let records = rig.cluster.records("orders", 2);
    assert_eq!(records[0].value.as_deref(), Some(b"hello".as_slice()));
    let names: Vec<&str> = records[0].headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["a", "content-type", "wherry-message-id", "traceparent"]);
    assert_eq!(records[0].headers[3].1.as_deref(), Some(traced.as_bytes()));
}

#[tokio::test]
async fn refusals_have_codes_reasons_and_sentences() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let refused = async |message: Option<v1::Message>, delivery: i32, code: Code, reason: &str| {
        let status =
            soon(rig.publisher().publish(v1::PublishRequest { message, delivery })).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.metadata().get("wherry-reason").expect("a reason"), reason);
        assert!(status.message().len() > 20, "{status}");
    };
    refused(None, 0, Code::InvalidArgument, "INVALID_MESSAGE").await;
    refused(Some(message("nowhere", "x")), 0, Code::NotFound, "UNKNOWN_TOPIC").await;
    refused(Some(message("no/topic", "x")), 0, Code::InvalidArgument, "INVALID_TOPIC").await;
    refused(Some(message("", "x")), 0, Code::InvalidArgument, "INVALID_TOPIC").await;
    let effectively_once = DeliveryLevel::EffectivelyOnce.into();
    refused(Some(message("orders", "x")), effectively_once, Code::InvalidArgument, "NO_MESSAGE_ID").await;
    let named = v1::Message { message_id: "m-1".into(), ..message("orders", "x") };
    refused(Some(named), effectively_once, Code::FailedPrecondition, "NO_DEDUPE_WINDOW").await;
    refused(Some(message("orders", "x")), 77, Code::InvalidArgument, "INVALID").await;
    let large = "x".repeat(Limits::default().message_bytes + 1);
    refused(Some(message("orders", &large)), 0, Code::ResourceExhausted, "MESSAGE_TOO_LARGE").await;
    rig.cluster.fail_next(ClientError::Unknown {
        what: "publish to orders-0".into(),
        cause: "connection lost".into(),
        waited: Duration::from_secs(1),
    });
    refused(Some(message("orders", "x")), 0, Code::DeadlineExceeded, "OUTCOME_UNKNOWN").await;
}

#[tokio::test]
async fn a_stream_answers_every_message_by_its_number_and_keeps_order() {
    const MESSAGES: u64 = 20_000;
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut stream = stream(&rig).await;
    let options = PublishOptions { default_topic: "orders".into(), delivery: 0 };
    stream.send(PublishStreamRequest { options: Some(options), ..PublishStreamRequest::default() }).await;
    let say = stream.say.clone();
    let sender = tokio::spawn(async move {
        for number in 0..MESSAGES {
            say.send(numbered(number * 7, message("", &number.to_string()))).await.expect("open");
        }
    });
    let acks = stream.acks(usize::try_from(MESSAGES).expect("small")).await;
    sender.await.expect("sent");
    for (number, ack) in (0..).zip(&acks) {
        assert_eq!((ack.correlation_id, result(ack).offset), (number * 7, i64::try_from(number).expect("small")));
    }
    let records = rig.cluster.records("orders", 0);
    assert!((0..).zip(&records).all(|(n, r): (u64, _)| r.value.as_deref() == Some(n.to_string().as_bytes())));
    drop(stream.say);
    assert!(soon(stream.heard.message()).await.expect("ends well").is_none());
    eventually("the stream is closed", || rig.sidecar.stats.publish_streams.get() == 0).await;
    assert_eq!(rig.sidecar.stats.published.get(), MESSAGES);
    assert_eq!(rig.sidecar.stats.publish_in_flight.get(), 0);
}

#[tokio::test]
async fn one_bad_message_does_not_end_the_stream() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut stream = stream(&rig).await;
    stream.send(numbered(1, message("orders", "a"))).await;
    stream.send(numbered(2, message("nowhere", "b"))).await;
    stream.send(numbered(3, message("", "c"))).await;
    stream.send(numbered(4, message("orders", &"x".repeat(Limits::default().message_bytes + 1)))).await;
    stream.send(numbered(5, message("orders", "d"))).await;
    let mut acks = stream.acks(5).await;
    acks.sort_by_key(|ack| ack.correlation_id);
    assert_eq!(result(&acks[0]).offset, 0);
    assert_eq!(error(&acks[1]).reason, "UNKNOWN_TOPIC");
    assert_eq!(error(&acks[2]).reason, "INVALID_TOPIC");
    assert_eq!(error(&acks[3]).reason, "MESSAGE_TOO_LARGE");
    assert_eq!(result(&acks[4]).offset, 1);
}

#[tokio::test]
async fn results_still_come_after_the_application_has_said_everything() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.cluster.hold(true);
    let mut stream = stream(&rig).await;
    for number in 0..10 {
        stream.send(numbered(number, message("orders", "x"))).await;
    }
    stream.say = mpsc::channel(1).0;
    eventually("all are taken", || rig.sidecar.stats.publish_in_flight.get() == 10).await;
    rig.cluster.hold(false);
    assert_eq!(stream.acks(10).await.len(), 10);
    assert!(soon(stream.heard.message()).await.expect("ends well").is_none());
}

#[tokio::test]
async fn at_most_once_does_not_wait_for_the_cluster() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.cluster.hold(true);
    let delivery = DeliveryLevel::AtMostOnce.into();
    let request = v1::PublishRequest { message: Some(message("orders", "x")), delivery };
    let one = soon(rig.publisher().publish(request)).await.expect("accepted").into_inner().result.expect("result");
    assert_eq!((one.status(), one.offset), (PublishStatus::Accepted, -1));
    let mut stream = stream(&rig).await;
    let options = PublishOptions { default_topic: "orders".into(), delivery };
    stream
        .send(PublishStreamRequest { correlation_id: 9, message: Some(message("", "y")), options: Some(options) })
        .await;
    assert_eq!(result(&stream.acks(1).await[0]).status(), PublishStatus::Accepted);
    rig.cluster.hold(false);
    until(&rig.cluster, |cluster| cluster.records("orders", 0).len() == 2).await;
}

#[tokio::test]
async fn a_message_with_a_known_id_is_there_once_and_told_where() {
    let rig = rig(MemoryCluster::new().with_ids("payments", 3)).await;
    let named = |id: &str| v1::Message { message_id: id.into(), ..message("payments", id) };
    let delivery = DeliveryLevel::EffectivelyOnce.into();
    let publish = async |id: &str| {
        let request = v1::PublishRequest { message: Some(named(id)), delivery };
        soon(rig.publisher().publish(request)).await.expect("published").into_inner().result.expect("result")
    };
    let (first, again) = (publish("m-1").await, publish("m-1").await);
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!((first.partition, first.offset), (again.partition, again.offset));

    let mut stream = stream(&rig).await;
    let options = Some(PublishOptions { default_topic: String::new(), delivery });
    stream.send(PublishStreamRequest { options, ..PublishStreamRequest::default() }).await;
    for (number, id) in (0..).zip(["m-2", "m-1", "m-2"]) {
        stream.send(numbered(number, named(id))).await;
    }
    stream.send(numbered(3, message("payments", "without an id"))).await;
    let acks = stream.acks(4).await;
    let told = |number: u64| acks.iter().find(|ack| ack.correlation_id == number).expect("answered");
    let duplicates: Vec<bool> = (0..3).map(|number| result(told(number)).duplicate).collect();
    assert_eq!(duplicates, [false, true, true]);
    assert_eq!(error(told(3)).reason, "NO_MESSAGE_ID");
    let there: usize = (0..3).map(|partition| rig.cluster.records("payments", partition).len()).sum();
    assert_eq!(there, 2);
}

#[tokio::test]
async fn a_stream_with_options_that_make_no_sense_ends_with_a_sentence() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut stream = stream(&rig).await;
    let options = PublishOptions { default_topic: String::new(), delivery: 77 };
    stream
        .send(PublishStreamRequest { correlation_id: 1, message: Some(message("orders", "x")), options: Some(options) })
        .await;
    let status = soon(stream.heard.message()).await.expect_err("ends");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(rig.cluster.records("orders", 0).is_empty(), "nothing was published at another level than asked for");
}

#[tokio::test]
async fn a_full_cluster_slows_the_application_instead_of_filling_memory() {
    let cluster = MemoryCluster::with_buffer(100).with_topic("orders", 1);
    let rig = rig(cluster).await;
    rig.cluster.hold(true);
    let mut stream = stream(&rig).await;
    let say = stream.say.clone();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = sent.clone();
    let sender = tokio::spawn(async move {
        for number in 0..5000 {
            say.send(numbered(number, message("orders", &"x".repeat(1000)))).await.expect("open");
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    eventually("the buffer is full", || rig.sidecar.stats.publish_in_flight.get() == 101).await;
    // What the application can still hand over is what flow control windows and its own queue hold: far less than all.
    assert!(sent.load(std::sync::atomic::Ordering::Relaxed) < 4000);
    assert_eq!(rig.sidecar.stats.publish_in_flight.get(), 101);
    rig.cluster.hold(false);
    assert_eq!(stream.acks(5000).await.len(), 5000);
    sender.await.expect("sent");
}

#[tokio::test]
async fn a_stream_holds_no_more_messages_than_it_may() {
    let limits = Limits { stream_messages: 50, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    rig.cluster.hold(true);
    let mut stream = stream(&rig).await;
    for number in 0..500 {
        stream.send(numbered(number, message("orders", "x"))).await;
    }
    eventually("the bound is reached", || rig.sidecar.stats.publish_in_flight.get() == 50).await;
    let mut other = self::stream(&rig).await;
    other.send(numbered(1, message("orders", "y"))).await;
    eventually("others are served", || rig.sidecar.stats.publish_in_flight.get() == 51).await;
    rig.cluster.hold(false);
    assert_eq!(stream.acks(500).await.len(), 500);
    assert_eq!(other.acks(1).await.len(), 1);
}

#[tokio::test]
async fn an_application_that_dies_loses_no_message_that_was_taken() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.cluster.hold(true);
    let stream = stream(&rig).await;
    for number in 0..100 {
        stream.send(numbered(number, message("orders", "x"))).await;
    }
    eventually("all are taken", || rig.sidecar.stats.publish_in_flight.get() == 100).await;
    drop(stream);
    eventually("the stream is gone", || rig.sidecar.stats.publish_streams.get() == 0).await;
    assert_eq!(rig.sidecar.stats.publish_in_flight.get(), 0);
    rig.cluster.hold(false);
    assert_eq!(rig.cluster.records("orders", 0).len(), 100);
}
