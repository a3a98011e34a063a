//! Subscriptions without a group.

use bytes::Bytes;
use tonic::Code;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::{self, AckOutcome, SubscribeMode};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{eventually, outcomes, rig, rig_with, start, texts};

fn broadcast(credits: u32) -> v1::SubscribeStart {
    v1::SubscribeStart { credits, mode: SubscribeMode::Broadcast.into(), ..start("", "orders") }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn everyone_gets_everything_from_where_they_say() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..5)).await;
    let mut all = rig.subscribe_with(broadcast(100)).await;
    let mut new = rig
        .subscribe_with(v1::SubscribeStart { initial_position: v1::InitialPosition::Latest.into(), ..broadcast(100) })
        .await;
    let offset = |offset| v1::PartitionOffset { topic: String::new(), partition: 0, offset };
    let mut some = rig.subscribe_with(v1::SubscribeStart { offsets: vec![offset(3)], ..broadcast(100) }).await;
    let mut beyond = rig.subscribe_with(v1::SubscribeStart { offsets: vec![offset(99)], ..broadcast(100) }).await;
    let received = all.take(5).await;
    assert_eq!(texts(&received), numbers(0..5));
    assert!(received.iter().all(|message| message.ack_id.is_empty() && message.attempt == 1));
    assert_eq!(texts(&some.take(2).await), ["3", "4"]);
    assert_eq!(texts(&beyond.take(5).await), numbers(0..5), "an offset that is not there begins as asked");
    new.silent().await;
    rig.publish("orders", numbers(5..6)).await;
    for subscription in [&mut all, &mut new, &mut some, &mut beyond] {
        assert_eq!(texts(&subscription.take(1).await), ["5"]);
    }
    assert_eq!(rig.sidecar.stats.broadcasts.get(), 4);
    drop((all, new, some, beyond));
    eventually("all are gone", || rig.sidecar.stats.broadcasts.get() == 0).await;
}

#[tokio::test]
async fn no_more_comes_than_there_are_credits() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..10)).await;
    let mut subscription = rig.subscribe_with(broadcast(0)).await;
    subscription.silent().await;
    subscription.credit(3).await;
    assert_eq!(texts(&subscription.take(3).await), numbers(0..3));
    subscription.silent().await;
    subscription.credit(4).await;
    assert_eq!(texts(&subscription.take(4).await), numbers(3..7));
}

#[tokio::test]
async fn there_is_nothing_to_acknowledge() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut subscription = rig.subscribe_with(broadcast(1)).await;
    subscription.say(Frame::Ack(v1::Acknowledge { ack_ids: vec![Bytes::new(), Bytes::from_static(b"x")] })).await;
    let results = subscription.settled(2).await;
    assert_eq!(outcomes(&results), [AckOutcome::Failed; 2]);
    assert_eq!(results[0].error.as_ref().expect("why").reason, "NOTHING_TO_ACKNOWLEDGE");
    subscription.say = tokio::sync::mpsc::channel(1).0;
    assert_eq!(subscription.frame().await.expect_err("ends").code(), Code::Ok);
}

#[tokio::test]
async fn draining_ends_deliveries_and_stopping_the_subscription() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut subscription = rig.subscribe_with(broadcast(10)).await;
    rig.sidecar.drain();
    rig.publish("orders", numbers(0..1)).await;
    subscription.silent().await;
    let refused = rig.try_subscribe(broadcast(1)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unavailable);
    rig.sidecar.stop().await;
    assert_eq!(subscription.frame().await.expect_err("ends").code(), Code::Unavailable);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let rig =
        rig_with(MemoryCluster::new().with_topic("orders", 1), Limits { broadcasts: 1, ..Limits::default() }).await;
    let refused = async |start: v1::SubscribeStart, code: Code, reason: &str| {
        let status = rig.try_subscribe(start).await.err().expect("refused");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.metadata().get("wherry-reason").expect("a reason"), reason);
    };
    refused(v1::SubscribeStart { group: "g".into(), ..broadcast(1) }, Code::InvalidArgument, "INVALID_GROUP").await;
    let offsets = vec![v1::PartitionOffset { topic: "other".into(), partition: 0, offset: 0 }];
    refused(v1::SubscribeStart { offsets: offsets.clone(), ..broadcast(1) }, Code::InvalidArgument, "INVALID").await;
    refused(v1::SubscribeStart { offsets, ..start("g", "orders") }, Code::InvalidArgument, "INVALID").await;
    let queue = v1::SubscribeStart { mode: SubscribeMode::Queue.into(), ..start("g", "orders") };
    refused(queue, Code::Unimplemented, "NOT_OFFERED").await;
    refused(v1::SubscribeStart { mode: 9, ..start("g", "orders") }, Code::InvalidArgument, "INVALID").await;
    let _one = rig.subscribe_with(broadcast(1)).await;
    refused(broadcast(1), Code::ResourceExhausted, "TOO_MANY_SUBSCRIBERS").await;
    // A group that is read with less can't be promised more.
    let _plain = rig.subscribe("g", "orders", 1).await;
    let delivery = v1::DeliveryLevel::EffectivelyOnce.into();
    refused(v1::SubscribeStart { delivery, ..start("g", "orders") }, Code::FailedPrecondition, "OTHER_DELIVERY").await;
}

#[tokio::test]
async fn a_topic_that_is_not_there_ends_the_subscription() {
    let rig = rig(MemoryCluster::new()).await;
    let mut subscription = rig.subscribe_with(broadcast(1)).await;
    assert_eq!(subscription.frame().await.expect_err("ends").code(), Code::NotFound);
}
