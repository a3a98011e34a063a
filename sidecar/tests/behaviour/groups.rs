//! Seeing how far groups are, moving them, and what topics there are.

use std::time::Duration;

use serde_json::json;
use tonic::{Code, Status};
use wherry_proto::v1::seek_request::Target;
use wherry_proto::v1::{self, AckOutcome, SeekPosition};
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{Rig, http, ids, outcomes, rig, soon, texts, until};

const LONG: Duration = Duration::from_secs(15);

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn seek(rig: &Rig, target: Target) -> Result<Vec<i64>, Status> {
    let request = v1::SeekRequest { group: "g".into(), topic: "orders".into(), target: Some(target) };
    let moved = soon(rig.groups().seek(request)).await?.into_inner();
    Ok(moved.offsets.iter().map(|place| place.offset).collect())
}

fn to(position: SeekPosition) -> Target {
    Target::Position(position.into())
}

#[tokio::test]
async fn a_group_without_members_is_moved() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 2)).await;
    rig.publish("orders", numbers(0..10)).await;
    assert_eq!(seek(&rig, to(SeekPosition::Latest)).await.expect("moved"), [5, 5]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(5));
    let offset = |partition, offset| v1::PartitionOffset { topic: String::new(), partition, offset };
    let offsets = v1::SeekOffsets { offsets: vec![offset(1, 2)] };
    assert_eq!(seek(&rig, Target::Offsets(offsets)).await.expect("moved"), [2]);
    let beyond = v1::SeekOffsets { offsets: vec![offset(0, 99)] };
    assert_eq!(seek(&rig, Target::Offsets(beyond)).await.expect("moved"), [5], "brought to the nearest bound");
    let long_ago = prost_types::Timestamp { seconds: 1, nanos: 0 };
    assert_eq!(seek(&rig, Target::Timestamp(long_ago)).await.expect("moved"), [0, 0]);
    let never = prost_types::Timestamp { seconds: 1 << 40, nanos: 0 };
    assert_eq!(seek(&rig, Target::Timestamp(never)).await.expect("moved"), [5, 5]);
    let unknown = v1::SeekOffsets { offsets: vec![offset(7, 0)] };
    assert_eq!(seek(&rig, Target::Offsets(unknown)).await.expect_err("unknown").code(), Code::NotFound);
    let request = v1::SeekRequest { group: "g".into(), topic: "orders".into(), target: None };
    assert_eq!(soon(rig.groups().seek(request)).await.expect_err("nowhere").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn members_here_go_on_from_the_new_place() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..6)).await;
    let mut subscription = rig.subscribe("g", "orders", 100).await;
    let messages = subscription.take(6).await;
    subscription.ack(&messages[..2]).await;
    subscription.ack(&messages[4..5]).await;
    assert_eq!(subscription.settled(3).await.len(), 3);
    // What is acknowledged above the new place is forgotten with it.
    let offsets =
        v1::SeekOffsets { offsets: vec![v1::PartitionOffset { topic: "orders".into(), partition: 0, offset: 1 }] };
    assert_eq!(seek(&rig, Target::Offsets(offsets)).await.expect("moved"), [1]);
    let again = subscription.take(5).await;
    assert_eq!(texts(&again), numbers(1..6));
    subscription.ack(&messages[5..]).await;
    assert_eq!(outcomes(&subscription.settled(1).await), [AckOutcome::Lost], "what was out is void");
    subscription.ack(&again).await;
    assert_eq!(outcomes(&subscription.settled(5).await), [AckOutcome::Acknowledged; 5]);
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(6));
    assert_eq!(seek(&rig, to(SeekPosition::Earliest)).await.expect("moved"), [0]);
    assert_eq!(texts(&subscription.take(6).await), numbers(0..6));
    assert_eq!(seek(&rig, to(SeekPosition::Latest)).await.expect("moved"), [6]);
    rig.publish("orders", numbers(6..7)).await;
    assert_eq!(texts(&subscription.take(1).await), ["6"]);
}

#[tokio::test]
async fn members_elsewhere_are_not_moved_under_their_feet() {
    let cluster = MemoryCluster::new().with_topic("orders", 2);
    let (here, there) = (rig(cluster.clone()).await, rig(cluster.clone()).await);
    let _theirs = there.subscribe("g", "orders", 10).await;
    until(&cluster, |cluster| cluster.members("g") == 1).await;
    let refused = seek(&here, to(SeekPosition::Earliest)).await.expect_err("in use");
    assert_eq!(
        (refused.code(), refused.metadata().get("wherry-reason").expect("why")),
        (Code::FailedPrecondition, &"GROUP_IN_USE".parse().expect("value"))
    );
    assert_eq!(seek(&there, to(SeekPosition::Latest)).await.expect("its own"), [0, 0]);
}

#[tokio::test]
async fn a_group_is_described_with_its_lag() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let get = async || {
        let request = v1::GetGroupRequest { group: "g".into() };
        soon(rig.groups().get_group(request)).await.expect("described").into_inner()
    };
    let dead = get().await;
    assert_eq!((dead.state.as_str(), dead.members.len(), dead.positions.len()), ("Dead", 0, 0));
    rig.publish("orders", numbers(0..5)).await;
    let messages = rig.pull("g", "orders", 5, LONG).await;
    let before = get().await;
    assert_eq!((before.state.as_str(), before.members.len()), ("Stable", 1));
    assert!(before.members[0].here && before.members[0].assignment[0].partitions == [0], "{before:?}");
    let expected =
        v1::GroupPosition { topic: "orders".into(), partition: 0, committed_offset: None, end_offset: 5, lag: 5 };
    assert_eq!(before.positions, std::slice::from_ref(&expected));
    let acked: Vec<_> = ids(&messages[..3]);
    rig.ack(&acked.iter().collect::<Vec<_>>()).await;
    assert_eq!(get().await.positions, [v1::GroupPosition { committed_offset: Some(3), lag: 2, ..expected }]);
    let request = v1::GetGroupRequest { group: String::new() };
    assert_eq!(soon(rig.groups().get_group(request)).await.expect_err("no name").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn topics_are_listed_page_by_page_and_described() {
    let rig = rig(MemoryCluster::new().with_topic("a", 1).with_topic("b1", 2).with_topic("b2", 3)).await;
    let list = async |prefix: &str, page_size: i32, page_token: &str| {
        let (prefix, page_token) = (prefix.to_owned(), page_token.to_owned());
        let request = v1::ListTopicsRequest { prefix, page_size, page_token };
        let listed = soon(rig.topics().list_topics(request)).await.expect("listed").into_inner();
        let names: Vec<String> = listed.topics.into_iter().map(|topic| topic.name).collect();
        (names.join(" "), listed.next_page_token)
    };
    assert_eq!(list("", 0, "").await, ("a b1 b2".into(), String::new()));
    assert_eq!(list("b", 0, "").await, ("b1 b2".into(), String::new()));
    assert_eq!(list("", 2, "").await, ("a b1".into(), "b1".into()));
    assert_eq!(list("", 2, "b1").await, ("b2".into(), String::new()));
    rig.publish("b1", numbers(0..3)).await;
    let request = v1::GetTopicRequest { name: "b1".into() };
    let described = soon(rig.topics().get_topic(request)).await.expect("described").into_inner();
    assert_eq!(described.topic.expect("a topic").partitions, 2);
    assert_eq!(described.partitions.iter().map(|of| of.end_offset).sum::<i64>(), 3);
}

#[tokio::test]
async fn the_same_over_http() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", numbers(0..3)).await;
    let (status, moved) = http(&rig, "POST", "/v1/groups/g/seek", r#"{"topic": "orders", "position": "latest"}"#).await;
    assert_eq!(
        (status, &moved["offsets"]),
        (200, &json!([{"topic": "orders", "partition": 0, "offset": 3}])),
        "{moved}"
    );
    let body = r#"{"topic": "orders", "offsets": [{"partition": 0, "offset": 1}]}"#;
    assert_eq!(http(&rig, "POST", "/v1/groups/g/seek", body).await.0, 200);
    let (status, group) = http(&rig, "GET", "/v1/groups/g", "").await;
    let position = json!({"topic": "orders", "partition": 0, "committed_offset": 1, "end_offset": 3, "lag": 2});
    assert_eq!((status, &group["state"], &group["positions"][0]), (200, &json!("Empty"), &position), "{group}");
    for wrong in [r#"{"topic": "orders"}"#, r#"{"topic": "orders", "position": "latest", "offsets": []}"#] {
        assert_eq!(http(&rig, "POST", "/v1/groups/g/seek", wrong).await.0, 400);
    }
    let (status, listed) = http(&rig, "GET", "/v1/topics?prefix=or", "").await;
    assert_eq!((status, &listed["topics"]), (200, &json!([{"name": "orders", "partitions": 1}])), "{listed}");
}
