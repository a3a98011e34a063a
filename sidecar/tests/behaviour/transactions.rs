//! Messages and acknowledgements that count together.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use wherry_client::ClientError;
use wherry_proto::v1::transact_request::Frame;
use wherry_proto::v1::{self, AckOutcome, transact_response};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{Rig, eventually, http, ids, message, rig, rig_with, soon, texts};

const LONG: Duration = Duration::from_secs(15);

fn reason(status: &Status) -> String {
    status.metadata().get("wherry-reason").expect("a reason").to_str().expect("text").to_owned()
}

async fn commit(rig: &Rig, texts: &[&str], ack_ids: Vec<Bytes>) -> Result<v1::CommitResponse, Status> {
    let messages = texts.iter().map(|text| message("out", text)).collect();
    soon(rig.transactions().commit(v1::CommitRequest { messages, ack_ids })).await.map(tonic::Response::into_inner)
}

fn cluster() -> MemoryCluster {
    MemoryCluster::new().with_topic("in", 1).with_topic("out", 1)
}

fn out(rig: &Rig) -> Vec<String> {
    let text = |record: wherry_client::ConsumedRecord| String::from_utf8(record.value.expect("a value").into());
    rig.cluster.records("out", 0).into_iter().map(|record| text(record).expect("text")).collect()
}

#[tokio::test]
async fn outputs_and_acknowledgements_count_together() {
    let rig = rig(cluster()).await;
    rig.publish("in", (0..4).map(|number| number.to_string())).await;
    let messages = rig.pull("g", "in", 4, LONG).await;
    let done = commit(&rig, &["a", "b"], ids(&messages[..2])).await.expect("committed");
    assert_eq!((done.acknowledged, done.results.len()), (2, 2));
    assert_eq!((done.results[1].offset, done.results[1].topic.as_str()), (1, "out"));
    assert_eq!((rig.cluster.committed("g", "in", 0), out(&rig)), (Some(2), vec!["a".to_owned(), "b".to_owned()]));
    // They are used up, for transactions and for acks.
    let refused = commit(&rig, &["c"], ids(&messages[..1])).await.expect_err("used up");
    assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, "ACK_LOST".into()));
    assert_eq!(rig.ack(&[&messages[0].ack_id]).await, [AckOutcome::Acknowledged]);
    // Out of order as well; and the plain ack of what lies before then says no less.
    commit(&rig, &[], ids(&messages[3..])).await.expect("committed");
    assert_eq!((rig.cluster.committed("g", "in", 0), rig.cluster.beside("g", "in", 0).is_empty()), (Some(2), false));
    assert_eq!(rig.ack(&[&messages[2].ack_id]).await, [AckOutcome::Acknowledged]);
    assert_eq!(rig.cluster.committed("g", "in", 0), Some(4));
    assert_eq!(out(&rig).len(), 2);
    assert_eq!(rig.sidecar.stats.transactions.get(), 2);
}

#[tokio::test]
async fn of_what_fails_nothing_counts_and_deliveries_stay_the_applications() {
    let rig = rig(cluster()).await;
    rig.publish("in", (0..3).map(|number| number.to_string())).await;
    let messages = rig.pull("g", "in", 3, LONG).await;
    let forged = Bytes::from(vec![7; 24]);
    let mut with_forged = ids(&messages);
    with_forged.push(forged);
    assert_eq!(reason(&commit(&rig, &["a"], with_forged).await.expect_err("one is lost")), "ACK_LOST");
    let garbage = commit(&rig, &["a"], vec!["?".into()]).await.expect_err("garbage");
    assert_eq!(garbage.code(), Code::InvalidArgument);
    let error = ClientError::Rejected { what: "x".into(), code: 29, name: "DENIED".into(), message: "".into() };
    rig.cluster.fail_next(error);
    assert_eq!(commit(&rig, &["a"], ids(&messages)).await.expect_err("denied").code(), Code::PermissionDenied);
    rig.cluster.fence_transactions();
    let fenced = commit(&rig, &["a"], ids(&messages)).await.expect_err("fenced");
    assert_eq!((fenced.code(), reason(&fenced)), (Code::Aborted, "TRANSACTION_FAILED".into()));
    assert_eq!((rig.cluster.committed("g", "in", 0), out(&rig).len()), (None, 0));
    // They can still be handed back, and committed.
    let nack = v1::NackRequest { ack_ids: ids(&messages[2..]), delay: None };
    let released = soon(rig.subscriber().nack(nack)).await.expect("nacked").into_inner();
    assert_eq!(released.results[0].outcome(), AckOutcome::Released);
    assert_eq!(commit(&rig, &["a"], ids(&messages[..2])).await.expect("committed").acknowledged, 2);
    assert_eq!(texts(&rig.pull("g", "in", 1, LONG).await), ["2"]);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let rig = rig(cluster()).await;
    rig.publish("in", ["x".to_owned()]).await;
    let messages = rig.pull("g", "in", 1, LONG).await;
    rig.cluster.lose_commits(3);
    assert_eq!(commit(&rig, &["a"], ids(&messages)).await.expect("committed").acknowledged, 1);
    assert_eq!((rig.cluster.committed("g", "in", 0), out(&rig)), (Some(1), vec!["a".to_owned()]));
}

#[tokio::test]
async fn acks_and_transactions_of_one_partition_do_not_pass_each_other() {
    let rig = rig(cluster()).await;
    const MESSAGES: usize = 60;
    rig.publish("in", (0..MESSAGES).map(|number| number.to_string())).await;
    let mut messages = Vec::new();
    while messages.len() < MESSAGES {
        messages.extend(rig.pull("g", "in", 100, LONG).await);
    }
    let commits = messages.chunks(2).enumerate().map(|(number, pair)| {
        let rig = &rig;
        async move {
            if number % 3 == 0 {
                let acked = rig.ack(&[&pair[0].ack_id, &pair[1].ack_id]).await;
                assert_eq!(acked, [AckOutcome::Acknowledged; 2]);
                0
            } else {
                commit(rig, &[&number.to_string()], ids(pair)).await.expect("committed").acknowledged
            }
        }
    });
    let acknowledged: u32 = futures::future::join_all(commits).await.into_iter().sum();
    assert_eq!((acknowledged, out(&rig).len()), (40, 20));
    assert_eq!((rig.cluster.committed("g", "in", 0), rig.cluster.beside("g", "in", 0)), (Some(60), String::new()));
}

#[tokio::test]
async fn a_transaction_is_void_when_the_group_has_moved_on() {
    let rig = rig(cluster()).await;
    rig.publish("in", ["x".to_owned()]).await;
    let messages = rig.pull("g", "in", 1, LONG).await;
    rig.cluster.expire("g");
    let again = rig.pull("g", "in", 1, LONG).await;
    assert_eq!(reason(&commit(&rig, &["a"], ids(&messages)).await.expect_err("void")), "ACK_LOST");
    commit(&rig, &["a"], ids(&again)).await.expect("committed");
    assert_eq!(out(&rig), ["a"]);
}

#[tokio::test]
async fn no_transaction_follows_a_commit_that_may_still_be_on_its_way() {
    let rig = rig(cluster()).await;
    rig.publish("in", (0..2).map(|number| number.to_string())).await;
    let messages = rig.pull("g", "in", 2, LONG).await;
    rig.cluster.lose_offset_commits(1);
    assert_eq!(rig.ack(&[&messages[0].ack_id]).await, [AckOutcome::Acknowledged], "it is tried again");
    assert_eq!(reason(&commit(&rig, &["a"], ids(&messages[1..])).await.expect_err("not now")), "ACK_LOST");
    let again = rig.pull("g", "in", 1, LONG).await;
    assert_eq!(texts(&again), ["1"]);
    commit(&rig, &["a"], ids(&again)).await.expect("committed");
    assert_eq!((rig.cluster.committed("g", "in", 0), out(&rig)), (Some(2), vec!["a".to_owned()]));
}

#[tokio::test]
async fn a_batch_is_there_as_a_whole_or_not_at_all() {
    let limits = Limits { transaction_messages: 3, ..Limits::default() };
    let rig = rig_with(cluster(), limits).await;
    let batch = async |topics: &[&str]| {
        let messages = topics.iter().map(|topic| message(topic, "x")).collect();
        soon(rig.publisher().publish_batch(v1::PublishBatchRequest { messages })).await
    };
    let done = batch(&["out", "in", "out"]).await.expect("published").into_inner();
    assert_eq!(done.results.iter().map(|result| result.offset).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(batch(&["out", "nowhere"]).await.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(batch(&["out", "a b"]).await.expect_err("invalid").code(), Code::InvalidArgument);
    let large = batch(&["out"; 4]).await.expect_err("too large");
    assert_eq!((large.code(), reason(&large)), (Code::ResourceExhausted, "TRANSACTION_TOO_LARGE".into()));
    assert!(batch(&[]).await.expect("nothing").into_inner().results.is_empty());
    assert_eq!(out(&rig).len(), 2);
}

#[tokio::test]
async fn a_batch_may_be_larger_than_a_message() {
    let rig = rig(cluster()).await;
    let messages = (0..4).map(|_| message("out", &"x".repeat(900_000))).collect();
    let done = soon(rig.publisher().publish_batch(v1::PublishBatchRequest { messages })).await.expect("published");
    assert_eq!(done.into_inner().results.len(), 4);
}

struct Stream {
    say: mpsc::Sender<v1::TransactRequest>,
    heard: Streaming<v1::TransactResponse>,
}

impl Stream {
    async fn open(rig: &Rig) -> Self {
        let (say, said) = mpsc::channel(64);
        let heard = soon(rig.transactions().transact(ReceiverStream::new(said))).await.expect("opens").into_inner();
        Self { say, heard }
    }

    async fn say(&self, frame: Frame) {
        soon(self.say.send(v1::TransactRequest { frame: Some(frame) })).await.expect("open");
    }

    async fn begin(&self, transaction_id: u64) {
        self.say(Frame::Begin(v1::TransactBegin { transaction_id, timeout: None })).await;
    }

    async fn publish(&self, topic: &str, text: &str) {
        self.say(Frame::Publish(v1::TransactPublish { messages: vec![message(topic, text)] })).await;
    }

    async fn commit(&self) {
        self.say(Frame::Commit(v1::TransactCommit {})).await;
    }

    /// The next answer: id, and what it says.
    async fn answer(&mut self) -> (u64, Result<v1::TransactCommitted, Option<v1::Error>>) {
        match soon(self.heard.message()).await.expect("goes on").expect("an answer").frame.expect("a frame") {
            transact_response::Frame::Committed(done) => (done.transaction_id, Ok(done)),
            transact_response::Frame::Aborted(aborted) => (aborted.transaction_id, Err(aborted.error)),
        }
    }
}

#[tokio::test]
async fn many_transactions_on_one_stream() {
    let rig = rig(cluster()).await;
    rig.publish("in", (0..2).map(|number| number.to_string())).await;
    let messages = rig.pull("g", "in", 2, LONG).await;
    let mut stream = Stream::open(&rig).await;
    stream.begin(1).await;
    stream.publish("out", "a").await;
    stream.say(Frame::Acknowledge(v1::Acknowledge { ack_ids: ids(&messages) })).await;
    stream.commit().await;
    // Sent ahead; this one fails.
    stream.begin(2).await;
    stream.publish("nowhere", "b").await;
    stream.commit().await;
    stream.begin(3).await;
    stream.publish("out", "c").await;
    stream.say(Frame::Abort(v1::TransactAbort {})).await;
    stream.begin(4).await;
    stream.publish("out", "d").await;
    stream.commit().await;
    let (id, first) = stream.answer().await;
    let first = first.expect("committed");
    assert_eq!((id, first.acknowledged, first.results[0].offset), (1, 2, 0));
    let (id, second) = stream.answer().await;
    assert_eq!((id, second.expect_err("unknown").expect("a reason").reason), (2, "UNKNOWN_TOPIC".to_owned()));
    assert_eq!(stream.answer().await, (3, Err(None)));
    assert_eq!(stream.answer().await.0, 4);
    // What is open when the stream ends does not count.
    stream.begin(5).await;
    stream.publish("out", "e").await;
    drop(stream.say);
    assert!(soon(stream.heard.message()).await.expect("ends well").is_none());
    assert_eq!(out(&rig), ["a", "d"]);
    assert_eq!(rig.cluster.committed("g", "in", 0), Some(2));
}

#[tokio::test]
async fn streams_that_make_no_sense_end_and_slow_ones_lose_their_transaction() {
    let rig = rig(cluster()).await;
    let mut stream = Stream::open(&rig).await;
    stream.publish("out", "a").await;
    assert_eq!(reason(&soon(stream.heard.message()).await.expect_err("ends")), "NOT_BEGUN");
    let mut slow = Stream::open(&rig).await;
    let timeout = prost_types::Duration { seconds: 0, nanos: 50_000_000 };
    slow.say(Frame::Begin(v1::TransactBegin { transaction_id: 7, timeout: Some(timeout) })).await;
    slow.publish("out", "b").await;
    let (id, late) = slow.answer().await;
    assert_eq!((id, late.expect_err("late").expect("a reason").reason), (7, "TRANSACTION_TOO_OLD".to_owned()));
    slow.commit().await;
    slow.begin(8).await;
    slow.commit().await;
    assert_eq!(slow.answer().await.0, 8);
    assert!(out(&rig).is_empty());
}

#[tokio::test]
async fn what_waits_to_be_committed_is_bounded() {
    let limits = Limits { transactions: 1, transaction_bytes: 1000, message_bytes: 700, ..Limits::default() };
    let rig = rig_with(cluster(), limits).await;
    let mut hoard = Stream::open(&rig).await;
    hoard.begin(1).await;
    hoard.publish("out", &"x".repeat(700)).await;
    let mut refused = Stream::open(&rig).await;
    let full = async {
        let mut id = 0;
        loop {
            id += 1;
            refused.begin(id).await;
            refused.publish("out", &"x".repeat(600)).await;
            refused.say(Frame::Abort(v1::TransactAbort {})).await;
            // Until the other one's frame has been read.
            if let (_, Err(Some(error))) = refused.answer().await {
                break error;
            }
        }
    };
    assert_eq!(soon(full).await.reason, "TOO_MANY_TRANSACTIONS");
    hoard.commit().await;
    assert_eq!(hoard.answer().await.0, 1);
    eventually("there is room again", || rig.sidecar.stats.transactions.get() == 1).await;
    commit(&rig, &["y"], Vec::new()).await.expect("committed");
}

#[tokio::test]
async fn many_messages_have_one_answer() {
    let rig = rig(cluster()).await;
    let options = Some(v1::PublishOptions { default_topic: "out".into(), delivery: 0 });
    let mut frames = vec![v1::PublishManyRequest { messages: Vec::new(), options }];
    for number in 0..500 {
        let topic = if number % 100 == 7 { "nowhere" } else { "" };
        let messages = vec![message(topic, &number.to_string()), message("out", "also")];
        frames.push(v1::PublishManyRequest { messages, options: None });
    }
    let counts = soon(rig.publisher().publish_many(tokio_stream::iter(frames))).await.expect("answers").into_inner();
    assert_eq!((counts.received, counts.published, counts.failed), (1000, 995, 5));
    assert_eq!(counts.errors.iter().map(|error| error.index).collect::<Vec<_>>(), [14, 214, 414, 614, 814]);
    assert_eq!(counts.errors[0].error.as_ref().expect("why").reason, "UNKNOWN_TOPIC");
    assert_eq!(out(&rig).len(), 995);
}

#[tokio::test]
async fn the_same_over_http() {
    let rig = rig(cluster()).await;
    rig.publish("in", ["x".to_owned()]).await;
    let (_, pulled) = http(&rig, "GET", "/v1/topics/in/messages?group=g&wait=10s", "").await;
    let ack_id = &pulled["messages"][0]["ack_id"];
    let body = json!({"messages": [{"topic": "out", "json": {"n": 1}}], "ack_ids": [ack_id]}).to_string();
    let (status, done) = http(&rig, "POST", "/v1/transactions", &body).await;
    assert_eq!((status, &done["acknowledged"], &done["results"][0]["offset"]), (200, &json!(1), &json!(0)), "{done}");
    assert_eq!(rig.cluster.committed("g", "in", 0), Some(1));
    let (status, again) = http(&rig, "POST", "/v1/transactions", &body).await;
    assert_eq!((status, again["reason"].as_str()), (409, Some("ACK_LOST")), "{again}");

    let lines = "{\"payload\": \"a\"}\n\n{\"topic\": \"nowhere\", \"payload\": \"b\"}\n{\"payload\": \"c\"}";
    let (status, counts) = http(&rig, "POST", "/v1/publish-many?topic=out", lines).await;
    assert_eq!(
        (status, &counts["published"], &counts["failed"], &counts["errors"][0]["index"]),
        (200, &json!(2), &json!(1), &json!(1)),
        "{counts}"
    );
    let (status, refused) = http(&rig, "POST", "/v1/publish-many?topic=out", "{}\nnonsense\n").await;
    assert_eq!((status, refused["reason"].as_str()), (400, Some("INVALID_JSON")), "{refused}");
}
