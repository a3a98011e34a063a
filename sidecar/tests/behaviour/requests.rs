//! Requests and replies, through one sidecar and through two.

use std::time::Duration;

use serde_json::json;
use tonic::Code;
use wherry_proto::v1::{self, AckOutcome};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{Rig, eventually, http, message, rig, rig_with, soon, text, until};

const LONG: Duration = Duration::from_secs(15);

fn ask(text: &str, timeout: Duration) -> v1::RequestRequest {
    v1::RequestRequest { message: Some(message("work", text)), timeout: timeout.try_into().ok() }
}

fn answer(ack_id: bytes::Bytes, text: &str) -> v1::ReplyRequest {
    v1::ReplyRequest { ack_id, message: Some(v1::Message { topic: String::new(), ..message("", text) }), keep: false }
}

/// Takes the next request and replies with its text, doubled.
async fn respond(rig: &Rig) -> v1::ReplyResponse {
    let requests = rig.pull("responders", "work", 1, LONG).await;
    let request = requests.first().expect("a request");
    let reply = answer(request.ack_id.clone(), &text(request).repeat(2));
    soon(rig.requests().reply(reply)).await.expect("replied").into_inner()
}

#[tokio::test]
async fn a_reply_arrives_on_the_call_of_its_request() {
    let requester = rig(MemoryCluster::new().with_topic("work", 2)).await;
    let responder = rig(requester.cluster.clone()).await;
    let mut client = requester.requests();
    let mut open = Vec::new();
    for number in 0..10 {
        let mut client = client.clone();
        let asked = ask(&format!("{number}."), LONG);
        open.push(tokio::spawn(async move { client.request(asked).await }));
    }
    for _ in 0..10 {
        let replied = respond(&responder).await;
        assert_eq!(replied.ack.expect("acknowledged").outcome(), AckOutcome::Acknowledged);
        assert_eq!(replied.result.expect("where").topic, "wherry.replies");
    }
    for (number, call) in open.into_iter().enumerate() {
        let replied = soon(call).await.expect("ends").expect("replied").into_inner();
        let reply = replied.reply.expect("a reply");
        assert_eq!(reply.payload, format!("{number}.{number}."));
        assert!(reply.headers.is_empty() && reply.topic.is_empty() && reply.partition.is_none(), "{reply:?}");
        assert_eq!(replied.request.expect("where").topic, "work");
    }
    assert_eq!(requester.sidecar.stats.replies.get(), 10);
    assert_eq!(requester.sidecar.stats.requests.get(), 0);
    // Everything was acknowledged with its reply.
    assert!(responder.pull("responders", "work", 1, Duration::ZERO).await.is_empty());
    // A message that is no request: what is replied to it goes nowhere.
    requester.publish("work", ["plain".to_owned()]).await;
    let plain = responder.pull("responders", "work", 1, LONG).await.remove(0);
    let refused = soon(responder.requests().reply(answer(plain.ack_id, "x"))).await.expect_err("refused");
    assert_eq!(refused.metadata().get("wherry-reason").expect("reason"), "NOT_A_REQUEST");
    let refused = soon(client.request(v1::RequestRequest::default())).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn who_waits_in_vain_is_told_and_late_replies_are_dropped_and_counted() {
    let rig = rig(MemoryCluster::new().with_topic("work", 1)).await;
    let refused = soon(rig.requests().request(ask("x", Duration::from_millis(50)))).await.expect_err("nobody replies");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert_eq!(refused.metadata().get("wherry-reason").expect("reason"), "NO_REPLY");
    respond(&rig).await;
    eventually("the reply is late", || rig.sidecar.stats.late_replies.get() == 1).await;
    assert_eq!((rig.sidecar.stats.replies.get(), rig.sidecar.stats.requests.get()), (0, 0));
    let mut call = tonic::Request::new(ask("y", LONG));
    call.set_timeout(Duration::from_millis(50));
    let refused = soon(rig.requests().request(call)).await.expect_err("the call's own deadline");
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused}");
    let unknown = v1::RequestRequest { message: Some(message("nowhere", "x")), ..ask("", LONG) };
    assert_eq!(soon(rig.requests().request(unknown)).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test]
async fn requests_that_wait_are_bounded_and_go_with_their_callers() {
    let limits = Limits { requests: 2, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("work", 1), limits).await;
    let wait = || {
        let mut client = rig.requests();
        tokio::spawn(async move { client.request(ask("x", LONG)).await })
    };
    let open = [wait(), wait()];
    eventually("two wait", || rig.sidecar.stats.requests.get() == 2).await;
    let refused = soon(rig.requests().request(ask("x", LONG))).await.expect_err("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("limits.requests"), "{refused}");
    for call in &open {
        call.abort();
    }
    eventually("none waits", || rig.sidecar.stats.requests.get() == 0).await;
}

#[tokio::test]
async fn a_reply_can_keep_its_request_and_lost_requests_can_not_be_replied_to() {
    let rig = rig(MemoryCluster::new().with_topic("work", 1)).await;
    let mut client = rig.requests();
    let call = tokio::spawn(async move { client.request(ask("x", LONG)).await });
    let request = rig.pull("responders", "work", 1, LONG).await.remove(0);
    let reply = v1::ReplyRequest { keep: true, ..answer(request.ack_id.clone(), "first") };
    assert_eq!(soon(rig.requests().reply(reply)).await.expect("replied").into_inner().ack, None);
    let replied = soon(call).await.expect("ends").expect("replied").into_inner();
    assert_eq!(replied.reply.expect("a reply").payload, "first");
    // It is still the responder's; of two replies the requester saw the first.
    let again = soon(rig.requests().reply(answer(request.ack_id.clone(), "second"))).await.expect("replied");
    assert_eq!(again.into_inner().ack.expect("acknowledged").outcome(), AckOutcome::Acknowledged);
    eventually("the second is late", || rig.sidecar.stats.late_replies.get() == 1).await;
    let lost = soon(rig.requests().reply(answer(request.ack_id, "third"))).await.expect_err("lost");
    assert_eq!(lost.metadata().get("wherry-reason").expect("reason"), "ACK_LOST");
    let garbage = soon(rig.requests().reply(answer("?".into(), "x"))).await.expect_err("garbage");
    assert_eq!(garbage.code(), Code::InvalidArgument);
    // Where a reply goes is not the responder's to say.
    let mut elsewhere = answer(rig_request(&rig).await, "x");
    elsewhere.message = Some(message("work", "x"));
    assert_eq!(soon(rig.requests().reply(elsewhere)).await.expect_err("refused").code(), Code::InvalidArgument);
}

/// The ack id of a request that nobody waits for any more.
async fn rig_request(rig: &Rig) -> bytes::Bytes {
    let mut client = rig.requests();
    let call = tokio::spawn(async move { client.request(ask("x", LONG)).await });
    let request = rig.pull("responders", "work", 1, LONG).await.remove(0);
    call.abort();
    request.ack_id
}

#[tokio::test]
async fn the_same_over_http() {
    let rig = rig(MemoryCluster::new().with_topic("work", 1)).await;
    let cluster = rig.cluster.clone();
    let respond = async {
        let path = "/v1/topics/work/messages?group=g&wait=10s";
        let (_, pulled) = http(&rig, "GET", path, "").await;
        let request = &pulled["messages"][0];
        assert_eq!(request["payload"], "question");
        let names: Vec<&str> =
            request["headers"].as_array().expect("headers").iter().filter_map(|h| h["name"].as_str()).collect();
        assert_eq!(names, ["wherry-reply-topic", "wherry-reply-partition", "wherry-correlation-id"]);
        let reply = json!({"ack_id": request["ack_id"], "message": {"json": {"answer": 42}}});
        http(&rig, "POST", "/v1/reply", &reply.to_string()).await
    };
    let (asked, replied) =
        tokio::join!(http(&rig, "POST", "/v1/topics/work/requests?timeout=10s", "question"), respond);
    assert_eq!((asked.0, &asked.1["reply"]["json"]), (200, &json!({"answer": 42})), "{asked:?}");
    assert_eq!(asked.1["request"]["topic"], "work");
    assert!(asked.1["reply"].get("ack_id").is_none() && asked.1["reply"].get("headers").is_none(), "{asked:?}");
    assert_eq!((replied.0, &replied.1["ack"]["outcome"]), (200, &json!("acknowledged")), "{replied:?}");
    until(&cluster, |cluster| cluster.committed("g", "work", 0) == Some(1)).await;
    let (status, refused) = http(&rig, "POST", "/v1/topics/work/requests?timeout=20ms", "question").await;
    assert_eq!((status, refused["reason"].as_str()), (504, Some("NO_REPLY")), "{refused}");
}

#[tokio::test]
async fn a_forged_request_can_not_make_a_responder_publish_elsewhere() {
    let rig = rig(MemoryCluster::new().with_topic("work", 1).with_topic("payments", 1)).await;
    let forged = wherry_client::ProduceRecord::new("work", "x")
        .header("wherry-reply-topic", "payments")
        .header("wherry-reply-partition", "0")
        .header("wherry-correlation-id", "0000000000000000-1");
    let receipt = wherry_sidecar::backend::Backend::send(&rig.cluster, forged).await.expect("sent");
    receipt.await.expect("there");
    let request = rig.pull("responders", "work", 1, LONG).await.remove(0);
    let refused = soon(rig.requests().reply(answer(request.ack_id, "x"))).await.expect_err("refused");
    assert_eq!(refused.metadata().get("wherry-reason").expect("reason"), "NOT_A_REPLY_TOPIC");
    assert!(rig.cluster.records("payments", 0).is_empty());
}
