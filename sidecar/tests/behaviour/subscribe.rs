//! Subscriptions over gRPC: credits, acknowledgements, redelivery, rebalances.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wherry_client::ClientError;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::{self, AckOutcome, DeliveryLevel, InitialPosition};
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{config, connect, eventually, ids, outcomes, rig, start, texts, until};

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn wanted(range: std::ops::Range<u32>) -> Vec<String> {
    numbers(range).collect()
}

#[tokio::test]
async fn messages_come_as_they_were_published_and_acks_are_durable() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let sent = v1::Message {
        topic: "orders".into(),
        key: Some(Bytes::from_static(b"k")),
        payload: Bytes::from_static(b"\x00\xff"),
        headers: vec![v1::Header { name: "a".into(), value: Bytes::from_static(b"1") }],
        content_type: "application/octet-stream".into(),
        message_id: "id".into(),
        event_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 }),
        ..v1::Message::default()
    };
    let request = v1::PublishRequest { message: Some(sent.clone()), delivery: 0 };
    rig.publisher().publish(request).await.expect("published");
    let messages = subscription.take(1).await;
    let received = messages[0].message.clone().expect("a message");
    assert_eq!(received, v1::Message { partition: Some(0), ..sent });
    assert_eq!((messages[0].offset, messages[0].attempt), (0, 1));
    assert_eq!(rig.cluster.committed("g", "orders", 0), None);
    subscription.ack(&messages).await;
    let results = subscription.settled(1).await;
    assert_eq!(outcomes(&results), [AckOutcome::Acknowledged]);
    assert_eq!(results[0].ack_id, messages[0].ack_id);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(1));
    // The same again is as good.
    subscription.ack(&messages).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Acknowledged]);
}

#[tokio::test]
async fn no_more_messages_come_than_there_are_credits() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..20)).await;
    let mut subscription = rig.subscribe("g", "orders", 0).await;
    subscription.silent().await;
    subscription.credit(3).await;
    assert_eq!(texts(&subscription.take(3).await), wanted(0..3));
    subscription.silent().await;
    subscription.credit(1).await;
    subscription.credit(1).await;
    assert_eq!(texts(&subscription.take(2).await), wanted(3..5));
    subscription.silent().await;
}

#[tokio::test]
async fn an_ack_out_of_order_is_confirmed_and_remembered_beside_the_offset() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..4)).await;
    let mut subscription = rig.subscribe("g", "orders", 4).await;
    let messages = subscription.take(4).await;
    subscription.ack(&messages[1..3]).await;
    assert_eq!(outcomes(&subscription.settled(2).await), [AckOutcome::Acknowledged; 2]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(0));
    assert!(rig.cluster.beside("g", "orders", 0).starts_with("w1:"));
    subscription.ack(&messages[..1]).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Acknowledged]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(3));
    assert_eq!(rig.cluster.beside("g", "orders", 0), "");
}

#[tokio::test]
async fn what_is_handed_back_comes_again_before_anything_later() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..6)).await;
    let mut subscription = rig.subscribe("g", "orders", 4).await;
    let messages = subscription.take(4).await;
    subscription.ack(&messages[..1]).await;
    subscription.ack(&messages[2..3]).await;
    subscription.nack(&messages[1..2], Duration::from_millis(50)).await;
    let mut results = outcomes(&subscription.settled(3).await);
    results.sort();
    assert_eq!(results, [AckOutcome::Acknowledged, AckOutcome::Acknowledged, AckOutcome::Released]);
    subscription.credit(10).await;
    // 2 was acknowledged meanwhile; 3 was held, and comes again after 1.
    let again = subscription.take(4).await;
    assert_eq!(texts(&again), ["1", "3", "4", "5"]);
    assert_eq!(again.iter().map(|message| message.attempt).collect::<Vec<_>>(), [2, 2, 1, 1]);
    // The first delivery of 3 is void.
    subscription.ack(&messages[3..]).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Lost]);
    subscription.ack(&again).await;
    assert_eq!(subscription.settled(4).await.len(), 4);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(6));
}

#[tokio::test]
async fn a_message_that_is_not_settled_in_time_comes_again() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..2)).await;
    let ack_timeout = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let mut subscription =
        rig.subscribe_with(v1::SubscribeStart { ack_timeout, credits: 10, ..start("g", "orders") }).await;
    let first = subscription.take(2).await;
    subscription
        .say(Frame::Extend(v1::ExtendAckTimeout {
            ack_ids: ids(&first[..1]),
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        }))
        .await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Extended]);
    let again = subscription.take(1).await;
    assert_eq!((texts(&again), again[0].attempt), (vec!["1".to_owned()], 2), "only the one that was not extended");
    subscription.ack(&first).await;
    // The late ack of 1 is void, unless the new delivery is acknowledged; 0 counts.
    assert_eq!(subscription.settled(2).await.len(), 2);
    eventually("0 is committed", || rig.cluster.committed("g", "orders", 0) == Some(1)).await;
    assert!(rig.sidecar.stats.ack_timeouts.get() >= 1);
}

#[tokio::test]
async fn nothing_is_lost_when_the_application_dies() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..10)).await;
    let mut dying = rig.subscribe("g", "orders", 6).await;
    let messages = dying.take(6).await;
    dying.ack(&messages[..2]).await;
    dying.settled(2).await;
    drop(dying);
    let mut next = rig.subscribe("g", "orders", 20).await;
    let rest = next.take(8).await;
    assert_eq!(texts(&rest), wanted(2..10));
    assert_eq!(rest[0].attempt, 2, "the membership was kept meanwhile");
    next.silent().await;
}

#[tokio::test]
async fn the_group_is_left_when_nobody_uses_it() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..3)).await;
    let mut subscription = rig.subscribe("g", "orders", 3).await;
    subscription.take(3).await;
    assert_eq!(rig.cluster.members("g"), 1);
    drop(subscription);
    until(&rig.cluster, |cluster| cluster.members("g") == 0).await;
    let mut next = rig.subscribe("g", "orders", 3).await;
    assert_eq!(texts(&next.take(3).await), wanted(0..3));
}

#[tokio::test]
async fn several_subscriptions_share_the_partitions_and_keep_their_order() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 4)).await;
    let mut one = rig.subscribe("g", "orders", 1000).await;
    let mut two = rig.subscribe("g", "orders", 1000).await;
    for number in 0..40 {
        let message =
            v1::Message { partition: Some(number % 4), ..crate::support::message("orders", &number.to_string()) };
        let request = v1::PublishRequest { message: Some(message), delivery: 0 };
        rig.publisher().publish(request).await.expect("published");
    }
    let (of_one, of_two) = (one.take(20).await, two.take(20).await);
    for messages in [&of_one, &of_two] {
        let mut partitions: Vec<i32> =
            messages.iter().filter_map(|m| m.message.as_ref().and_then(|m| m.partition)).collect();
        for partition in 0..4 {
            let offsets: Vec<i64> = messages
                .iter()
                .filter(|m| m.message.as_ref().and_then(|m| m.partition) == Some(partition))
                .map(|m| m.offset)
                .collect();
            assert!(offsets.is_sorted(), "{offsets:?}");
        }
        partitions.sort_unstable();
        partitions.dedup();
        assert_eq!(partitions.len(), 2, "each has half of the partitions");
    }
}

#[tokio::test]
async fn a_subscription_that_gives_no_credits_holds_nobody_up() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 2)).await;
    let mut lazy = rig.subscribe("g", "orders", 0).await;
    let mut busy = rig.subscribe("g", "orders", 100).await;
    rig.publish("orders", numbers(0..20)).await;
    assert_eq!(busy.take(20).await.len(), 20);
    lazy.silent().await;
}

#[tokio::test]
async fn two_groups_get_everything_each() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..5)).await;
    let mut one = rig.subscribe("g1", "orders", 10).await;
    let mut two = rig.subscribe("g2", "orders", 10).await;
    assert_eq!(texts(&one.take(5).await), wanted(0..5));
    assert_eq!(texts(&two.take(5).await), wanted(0..5));
}

#[tokio::test]
async fn a_new_group_starts_where_it_asks() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..5)).await;
    let initial_position = InitialPosition::Latest.into();
    let mut late =
        rig.subscribe_with(v1::SubscribeStart { initial_position, credits: 10, ..start("late", "orders") }).await;
    until(&rig.cluster, |cluster| cluster.members("late") == 1).await;
    late.silent().await;
    rig.publish("orders", numbers(5..6)).await;
    assert_eq!(texts(&late.take(1).await), ["5"]);
}

#[tokio::test]
async fn a_confirmed_ack_holds_across_sidecars_and_what_is_not_confirmed_comes_again() {
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let first = rig(cluster.clone()).await;
    first.publish("orders", numbers(0..10)).await;
    let mut subscription = first.subscribe("g", "orders", 10).await;
    let messages = subscription.take(10).await;
    subscription.ack(&messages[..4]).await;
    subscription.ack(&messages[6..8]).await;
    assert_eq!(outcomes(&subscription.settled(6).await), [AckOutcome::Acknowledged; 6]);
    first.sidecar.stop().await;
    let second = rig(cluster).await;
    let mut subscription = second.subscribe("g", "orders", 10).await;
    assert_eq!(texts(&subscription.take(4).await), ["4", "5", "8", "9"]);
    // Ack ids of another sidecar mean nothing here.
    subscription.ack(&messages[4..5]).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Lost]);
}

#[tokio::test]
async fn a_partition_moves_to_a_new_sidecar_and_its_open_messages_with_it() {
    let cluster = MemoryCluster::new().with_topic("orders", 2);
    let first = rig(cluster.clone()).await;
    for partition in 0..2 {
        for number in 0..3 {
            let message = v1::Message {
                partition: Some(partition),
                ..crate::support::message("orders", &format!("{partition}-{number}"))
            };
            let request = v1::PublishRequest { message: Some(message), delivery: 0 };
            first.publisher().publish(request).await.expect("published");
        }
    }
    let mut of_first = first.subscribe("g", "orders", 100).await;
    let messages = of_first.take(6).await;
    let moving: Vec<_> = messages.iter().filter(|m| crate::support::text(m).starts_with('1')).cloned().collect();
    let staying: Vec<_> = messages.iter().filter(|m| crate::support::text(m).starts_with('0')).cloned().collect();
    let second = rig(cluster.clone()).await;
    let mut of_second = second.subscribe("g", "orders", 100).await;
    until(&cluster, |cluster| cluster.members("g") == 2).await;
    // Settled during the revocation: durable, and not delivered again.
    of_first.ack(&moving[..1]).await;
    assert_eq!(outcomes(&of_first.settled(1).await), [AckOutcome::Acknowledged]);
    assert_eq!(texts(&of_second.take(2).await), ["1-1", "1-2"]);
    of_first.ack(&moving[1..]).await;
    assert_eq!(outcomes(&of_first.settled(2).await), [AckOutcome::Lost; 2]);
    // What stayed was never interrupted.
    of_first.ack(&staying).await;
    assert_eq!(outcomes(&of_first.settled(3).await), [AckOutcome::Acknowledged; 3]);
    of_second.silent().await;
}

#[tokio::test]
async fn a_lost_session_voids_what_was_out() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..3)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let messages = subscription.take(3).await;
    subscription.ack(&messages[1..2]).await;
    rig.cluster.expire("g");
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Lost], "it waited for the one before it");
    let again = subscription.take(3).await;
    assert_eq!(texts(&again), wanted(0..3));
    subscription.ack(&messages[..1]).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Lost]);
    subscription.ack(&again).await;
    assert_eq!(outcomes(&subscription.settled(3).await), [AckOutcome::Acknowledged; 3]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(3));
}

#[tokio::test]
async fn an_outage_of_the_cluster_delays_confirmations_and_loses_none() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..3)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let messages = subscription.take(3).await;
    rig.cluster.away(true);
    subscription.ack(&messages).await;
    eventually("a commit failed", || rig.sidecar.stats.commits_failed.get() > 0).await;
    rig.cluster.away(false);
    assert_eq!(outcomes(&subscription.settled(3).await), [AckOutcome::Acknowledged; 3]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(3));
}

#[tokio::test]
async fn a_subscription_may_open_before_the_cluster_is_there() {
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    cluster.away(true);
    let rig = rig(cluster).await;
    let mut subscription = rig.subscribe("g", "orders", 10).await;
    rig.cluster.away(false);
    rig.publish("orders", numbers(0..1)).await;
    assert_eq!(texts(&subscription.take(1).await), ["0"]);
}

#[tokio::test]
async fn half_closed_subscriptions_hear_their_last_results() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..3)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let messages = subscription.take(3).await;
    subscription.ack(&messages).await;
    subscription.say = tokio::sync::mpsc::channel(1).0;
    assert_eq!(outcomes(&subscription.settled(3).await), [AckOutcome::Acknowledged; 3]);
    let end = subscription.frame().await.expect_err("ends");
    assert_eq!(end.code(), Code::Ok);
    assert_eq!(rig.sidecar.stats.subscriptions.get(), 0);
}

#[tokio::test]
async fn wrong_frames_end_the_subscription_with_a_sentence() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let refused = async |start: v1::SubscribeStart, code: Code, reason: &str| {
        let status = rig.try_subscribe(start).await.err().expect("refused");
        assert_eq!(status.code(), code, "{status}");
        assert_eq!(status.metadata().get("wherry-reason").expect("a reason"), reason);
    };
    refused(start("", "orders"), Code::InvalidArgument, "INVALID_GROUP").await;
    refused(v1::SubscribeStart { topics: Vec::new(), ..start("g", "x") }, Code::InvalidArgument, "INVALID_TOPIC").await;
    let delivery = DeliveryLevel::AtMostOnce.into();
    refused(v1::SubscribeStart { delivery, ..start("g", "orders") }, Code::Unimplemented, "NOT_OFFERED").await;
    let ack_timeout = Some(prost_types::Duration { seconds: -3, nanos: 0 });
    refused(v1::SubscribeStart { ack_timeout, ..start("g", "orders") }, Code::InvalidArgument, "INVALID").await;

    let mut twice = rig.subscribe("g", "orders", 1).await;
    twice.say(Frame::Start(start("g", "orders"))).await;
    assert_eq!(twice.frame().await.expect_err("ends").code(), Code::InvalidArgument);
    let mut garbage = rig.subscribe("g", "orders", 1).await;
    garbage.say(Frame::Ack(v1::Acknowledge { ack_ids: vec![Bytes::from_static(b"garbage")] })).await;
    let results = garbage.settled(1).await;
    assert_eq!(outcomes(&results), [AckOutcome::Failed]);
    assert_eq!(results[0].error.as_ref().expect("an error").reason, "INVALID_ACK_ID");
}

#[tokio::test]
async fn a_group_that_can_not_be_read_says_why() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.cluster.fail_next_join(ClientError::Rejected {
        what: "join group g".into(),
        code: 30,
        name: "GROUP_AUTHORIZATION_FAILED".into(),
        message: "".into(),
    });
    let mut subscription = rig.subscribe("g", "orders", 1).await;
    let status = subscription.frame().await.expect_err("ends");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    // The next attempt is another one.
    rig.publish("orders", numbers(0..1)).await;
    let mut subscription = rig.subscribe("g", "orders", 1).await;
    assert_eq!(subscription.take(1).await.len(), 1);
}

#[tokio::test]
async fn draining_stops_deliveries_and_lets_acks_through() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..2)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let messages = subscription.take(2).await;
    rig.sidecar.drain();
    // Publishing goes on while the application still runs.
    rig.publish("orders", numbers(2..4)).await;
    subscription.silent().await;
    subscription.ack(&messages).await;
    assert_eq!(outcomes(&subscription.settled(2).await), [AckOutcome::Acknowledged; 2]);
    let refused = rig.try_subscribe(start("other", "orders")).await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unavailable);
    let cluster = rig.cluster.clone();
    rig.sidecar.stop().await;
    assert_eq!(subscription.frame().await.expect_err("ends").code(), Code::Unavailable);
    assert_eq!(cluster.members("g"), 0);
    let next = wherry_sidecar::spawn_on(config(), cluster.clone()).await.expect("starts");
    let channel = connect(&next).await;
    let next = crate::support::Rig { cluster, sidecar: next, channel };
    let mut subscription = next.subscribe("g", "orders", 100).await;
    assert_eq!(texts(&subscription.take(2).await), wanted(2..4));
}
