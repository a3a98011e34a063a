//! The sidecar on a real node: what the cluster in memory only imitates.

#![allow(clippy::expect_used, clippy::panic, reason = "tests say what they expect by failing")]

mod support;

use std::collections::BTreeSet;

use wherry_proto::v1::seek_request::Target;
use wherry_proto::v1::{self, DeliveryLevel, SeekPosition, SubscribeMode};

use support::{LONG, Rig, message, node, soon, text};

/// Handles a message by publishing what comes of it, acknowledges both in one transaction, some out of order, with the sidecar replaced
/// half way: each message has its effect once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_handled_in_transactions_has_its_effect_once() {
    const MESSAGES: usize = 40;
    let node = node();
    let first = Rig::start(&node).await;
    let (from, to) = (first.topic("from", 2).await, first.topic("to", 2).await);
    first.publish(&from, (0..MESSAGES).map(|number| number.to_string())).await;
    handle(&first, &from, &to, MESSAGES / 2).await;
    // Acknowledged above messages that are not.
    let mut ahead = BTreeSet::new();
    for _ in 0..3 {
        for pulled in first.pull(&from, 4, DeliveryLevel::EffectivelyOnce).await.iter().skip(1) {
            first.commit(&to, &text(pulled), pulled).await.expect("committed");
            ahead.insert(text(pulled));
        }
    }
    assert!(!ahead.is_empty());
    first.sidecar.stop().await;
    let second = Rig::start(&node).await;
    handle(&second, &from, &to, MESSAGES / 2 - ahead.len()).await;
    assert!(second.pull_now(&from).await.is_empty(), "everything is handled");
    // A batch that fails leaves nothing.
    let batch = v1::PublishBatchRequest { messages: vec![message(&to, "void"), message("no-such-topic", "x")] };
    assert!(soon(second.publisher().publish_batch(batch)).await.is_err());
    let batch = v1::PublishBatchRequest { messages: vec![message(&to, "whole"), message(&to, "batch")] };
    soon(second.publisher().publish_batch(batch)).await.expect("published");
    let mut outputs = second.broadcast(&to, MESSAGES + 2).await;
    outputs.sort();
    let mut expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    expected.extend(["whole".to_owned(), "batch".to_owned()]);
    expected.sort();
    assert_eq!(outputs, expected);
    let group = second.group().await;
    assert!(group.positions.iter().filter(|of| of.topic == from).all(|of| of.lag == 0), "{group:?}");
}

async fn handle(rig: &Rig, from: &str, to: &str, count: usize) {
    let mut handled = 0;
    while handled < count {
        let most = u32::try_from((count - handled).min(5)).expect("small");
        for pulled in rig.pull(from, most, DeliveryLevel::EffectivelyOnce).await {
            let done = rig.commit(to, &text(&pulled), &pulled).await.expect("committed");
            assert_eq!((done.acknowledged, done.results.len()), (1, 1));
            handled += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_find_their_replies_through_another_sidecar() {
    let node = node();
    let (requester, responder) = (Rig::start(&node).await, Rig::start(&node).await);
    let work = requester.topic("work", 1).await;
    let mut client = requester.requests();
    let asked = v1::RequestRequest { message: Some(message(&work, "ping")), timeout: LONG.try_into().ok() };
    let call = tokio::spawn(async move { client.request(asked).await });
    let request = responder.pull(&work, 1, DeliveryLevel::AtLeastOnce).await.remove(0);
    let reply = v1::ReplyRequest { ack_id: request.ack_id, message: Some(message("", "pong")), keep: false };
    soon(responder.requests().reply(reply)).await.expect("replied");
    let replied = soon(call).await.expect("ends").expect("replied").into_inner();
    assert_eq!(replied.reply.expect("a reply").payload, "pong");
    let described = v1::GetTopicRequest { name: "wherry.replies".into() };
    let described = soon(requester.topics().get_topic(described)).await.expect("described").into_inner();
    assert_eq!(
        (described.topic.expect("a topic").partitions, described.settings["retention.ms"].as_str()),
        (16, "600000")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_moved_while_they_are_read_and_while_they_are_not() {
    let node = node();
    let rig = Rig::start(&node).await;
    let topic = rig.topic("moved", 1).await;
    rig.publish(&topic, (0..10).map(|number| number.to_string())).await;
    assert_eq!(rig.seek(&topic, Target::Position(SeekPosition::Latest.into())).await, [10]);
    rig.publish(&topic, ["10".to_owned()]).await;
    let pulled = rig.pull(&topic, 1, DeliveryLevel::AtLeastOnce).await;
    assert_eq!(text(&pulled[0]), "10");
    // It is a member now.
    let place = v1::PartitionOffset { topic: String::new(), partition: 0, offset: 7 };
    assert_eq!(rig.seek(&topic, Target::Offsets(v1::SeekOffsets { offsets: vec![place.clone()] })).await, [7]);
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.extend(rig.pull(&topic, 4, DeliveryLevel::AtLeastOnce).await.iter().map(text));
    }
    assert_eq!(seen, ["7", "8", "9", "10"]);
    let start = v1::SubscribeStart {
        topics: vec![topic.clone()],
        credits: 2,
        mode: SubscribeMode::Broadcast.into(),
        offsets: vec![place],
        ..v1::SubscribeStart::default()
    };
    assert_eq!(rig.read(start, 2).await, ["7", "8"]);
}
