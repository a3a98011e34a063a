//! Pulling and acknowledging over gRPC.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;
use wherry_proto::v1::{self, AckOutcome};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{eventually, ids, outcomes, rig, rig_with, soon, texts, until};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn pulls_take_what_there_is_and_acks_are_durable() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", (0..5).map(|number| number.to_string())).await;
    let first = rig.pull("g", "orders", 2, LONG).await;
    assert_eq!(texts(&first), ["0", "1"]);
    // What is out is not pulled again while it may still be settled; what follows is.
    let second = rig.pull("g", "orders", 2, LONG).await;
    assert_eq!(texts(&second), ["2", "3"]);
    assert_eq!(rig.ack(&[&first[0].ack_id, &first[1].ack_id]).await, [AckOutcome::Acknowledged; 2]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(2));
    let nack = v1::NackRequest { ack_ids: ids(&second), delay: None };
    let released = soon(rig.subscriber().nack(nack)).await.expect("nacks").into_inner();
    assert_eq!(outcomes(&released.results), [AckOutcome::Released; 2]);
    assert_eq!(texts(&rig.pull("g", "orders", 10, LONG).await), ["2", "3"]);
    assert_eq!(texts(&rig.pull("g", "orders", 10, LONG).await), ["4"]);
}

#[tokio::test]
async fn a_pull_waits_for_the_first_message_and_no_longer_than_it_may() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    assert!(rig.pull("g", "orders", 1, Duration::ZERO).await.is_empty());
    let started = Instant::now();
    assert!(rig.pull("g", "orders", 1, Duration::from_millis(80)).await.is_empty());
    assert!(started.elapsed() >= Duration::from_millis(80));
    let mut client = rig.subscriber();
    let waiting = tokio::spawn(async move {
        let request = v1::PullRequest {
            group: "g".into(),
            topics: vec!["orders".into()],
            max_wait: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            ..v1::PullRequest::default()
        };
        client.pull(request).await.expect("pulls").into_inner().messages
    });
    rig.publish("orders", ["late".to_owned()]).await;
    assert_eq!(texts(&soon(waiting).await.expect("ends")), ["late"]);
}

#[tokio::test]
async fn waiting_pulls_are_served_in_turn() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let pulls: Vec<_> = (0..5).map(|_| rig.pull("g", "orders", 1, LONG)).collect();
    let publish = rig.publish("orders", (0..5).map(|number| number.to_string()));
    let (mut pulled, ()) = tokio::join!(futures::future::join_all(pulls), publish);
    pulled.sort_by_key(|messages| messages[0].offset);
    let all: Vec<String> = pulled.iter().flat_map(|messages| texts(messages)).collect();
    assert_eq!(all, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn an_ack_out_of_order_is_durable_and_can_be_repeated() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", (0..2).map(|number| number.to_string())).await;
    let messages = rig.pull("g", "orders", 2, LONG).await;
    let (first, second) = (&messages[0].ack_id, &messages[1].ack_id);
    assert_eq!(rig.ack(&[second]).await, [AckOutcome::Acknowledged]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(0));
    assert_eq!(rig.ack(&[first]).await, [AckOutcome::Acknowledged]);
    assert_eq!(rig.ack(&[second, first]).await, [AckOutcome::Acknowledged; 2]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(2));
}

#[tokio::test]
async fn ack_ids_that_mean_nothing_are_told_apart() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", ["x".to_owned()]).await;
    let messages = rig.pull("g", "orders", 1, LONG).await;
    let mut forged = messages[0].ack_id.to_vec();
    forged[0] ^= 1;
    let (garbage, forged) = (Bytes::from_static(b"?"), Bytes::from(forged));
    let outcomes = rig.ack(&[&garbage, &messages[0].ack_id, &forged]).await;
    assert_eq!(outcomes, [AckOutcome::Failed, AckOutcome::Acknowledged, AckOutcome::Lost]);
    assert!(rig.ack(&[]).await.is_empty());
    let request = v1::AckRequest { ack_ids: vec![Bytes::new(); 10_001] };
    let status = soon(rig.subscriber().ack(request)).await.expect_err("too many");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_pull_that_was_given_up_takes_nothing() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut client = rig.subscriber();
    let given_up = tokio::spawn(async move {
        let request = v1::PullRequest {
            group: "g".into(),
            topics: vec!["orders".into()],
            max_wait: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            ..v1::PullRequest::default()
        };
        client.pull(request).await
    });
    until(&rig.cluster, |cluster| cluster.members("g") == 1).await;
    given_up.abort();
    assert!(given_up.await.expect_err("aborted").is_cancelled());
    eventually("the call has ended", || rig.sidecar.stats.calls.get() == 0).await;
    rig.publish("orders", ["x".to_owned()]).await;
    assert_eq!(texts(&rig.pull("g", "orders", 1, LONG).await), ["x"]);
}

#[tokio::test]
async fn a_consumer_that_never_acks_stops_its_own_partition_only() {
    let limits = Limits { window_messages: 20, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1).with_topic("other", 1), limits).await;
    rig.publish("orders", (0..100).map(|number| number.to_string())).await;
    let mut pulled = 0;
    while pulled < 20 {
        pulled += rig.pull("g", "orders", 10, LONG).await.len();
    }
    // A poll may bring a little more than the window; then it is over.
    loop {
        let more = rig.pull("g", "orders", 100, Duration::from_millis(100)).await.len();
        if more == 0 {
            break;
        }
        pulled += more;
    }
    assert!(pulled < 100, "{pulled}");
    rig.publish("other", ["x".to_owned()]).await;
    assert_eq!(texts(&rig.pull("g", "other", 1, LONG).await), ["x"]);
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let refused = async |request: v1::PullRequest| {
        let status = soon(rig.subscriber().pull(request)).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    };
    let valid = v1::PullRequest { group: "g".into(), topics: vec!["orders".into()], ..v1::PullRequest::default() };
    refused(v1::PullRequest { group: String::new(), ..valid.clone() }).await;
    refused(v1::PullRequest { topics: Vec::new(), ..valid.clone() }).await;
    refused(v1::PullRequest { initial_position: 9, ..valid.clone() }).await;
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    refused(v1::PullRequest { max_wait: negative, ..valid.clone() }).await;
    refused(v1::PullRequest { ack_timeout: negative, ..valid }).await;
}
