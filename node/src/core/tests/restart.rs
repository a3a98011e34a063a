//! What a restart keeps: topics, logs, ids, the cluster; and that metadata and logs agree afterwards.

use std::collections::BTreeSet;

use uuid::Uuid;
use wherry_wire::codec::messages::{DeleteTopicsRequest, MetadataRequest};
use wherry_wire::types::LogId;

use super::*;
use crate::core::store::{Cleanup, LogConfig};
use crate::error::NodeError;
use crate::limits::SNAPSHOT_AFTER_COMMANDS;

fn topic_names(node: &mut Node) -> Vec<String> {
    let conn = node.connect();
    let response = node.ask(conn, 9, &MetadataRequest::default().with_topics(None));
    response.topics.iter().map(|t| t.name.as_ref().unwrap().to_string()).collect()
}

fn user_logs(node: &mut Node) -> BTreeSet<LogId> {
    let own: BTreeSet<Uuid> = node.core.meta.topics_from("").map(|t| t.id).collect();
    node.store().logs().into_iter().filter(|log| own.contains(&log.topic)).collect()
}

#[test]
fn topics_records_and_configurations_stay() {
    let mut node = node();
    let conn = node.connect();
    let id = node.create_topic(conn, "t", 2, &[("cleanup.policy", "compact")]);
    node.create_topic(conn, "gone", 1, &[]);
    let keyed = batch_of(Codec::None, Stamp::NONE, WALL_MS, &[(Some("k"), "v")]);
    node.produce(conn, "t", keyed);
    node.ask(conn, 4, &DeleteTopicsRequest::default().with_topic_names(vec![name("gone")]));
    let cluster = node.core.meta.cluster_id().unwrap().to_owned();
    let mut node = node.restart(config());
    assert_eq!(topic_names(&mut node), ["t"]);
    assert_eq!(node.core.meta.topic("t").unwrap().id, id);
    assert_eq!(node.core.meta.cluster_id(), Some(cluster.as_str()));
    let conn = node.connect();
    assert_eq!(values(&node.fetch(conn, "t", 0).records), [(0, "v".to_owned())]);
    let log = LogId { topic: id, partition: 1 };
    assert_eq!(node.store().config(log).cleanup, Cleanup::Compact, "the store does not remember configurations");
}

#[test]
fn a_start_is_a_new_leader_epoch() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let epoch = |node: &mut Node| {
        let conn = node.connect();
        let request = MetadataRequest::default().with_topics(None);
        node.ask(conn, 9, &request).topics[0].partitions[0].leader_epoch
    };
    assert_eq!(epoch(&mut node), 0);
    // One for the end of the old leadership, one for the new one.
    let mut node = node.restart(config());
    assert_eq!(epoch(&mut node), 2);
    let mut node = node.restart(config());
    assert_eq!(epoch(&mut node), 4);
    let conn = node.connect();
    node.produce(conn, "t", batch(&["a"]));
    let topic = node.core.meta.topic("t").unwrap().id;
    assert_eq!(node.store().batches(LogId { topic, partition: 0 })[0].0.leader_epoch.0, 4);
}

#[test]
fn metadata_and_logs_agree_after_a_crash_between_them() {
    let mut node = node();
    let conn = node.connect();
    let id = node.create_topic(conn, "t", 3, &[]);
    // A crash lost one log of the topic, and left one that no topic has.
    node.store().delete_log(LogId { topic: id, partition: 1 }).unwrap();
    let orphan = LogId { topic: Uuid::from_u128(77), partition: 0 };
    node.store().create_log(orphan, LogConfig::default()).unwrap();
    let mut node = node.restart(config());
    assert!(node.store().info(orphan).is_none());
    assert_eq!(user_logs(&mut node).len(), 3);
    let conn = node.connect();
    let response = node.ask(conn, 9, &produce("t", -1, &[(1, batch(&["a"]))]));
    assert_eq!(produced(&response).error_code, 0);
}

#[test]
fn a_change_that_was_not_acknowledged_may_be_gone_but_never_half_there() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "kept", 1, &[]);
    node.store().hold = true;
    node.send(conn, 7, &create("lost", 3, &[]));
    node.turn();
    let mut node = node.restart(config());
    assert_eq!(topic_names(&mut node), ["kept"]);
    assert_eq!(user_logs(&mut node).len(), 1);
}

#[test]
fn another_cluster_is_refused() {
    let node = node_with(NodeConfig { cluster_id: Some("one".into()), ..config() });
    let mut node = node.restart(NodeConfig { cluster_id: Some("one".into()), ..config() });
    let store = std::mem::take(node.store());
    let other = NodeConfig { cluster_id: Some("two".into()), ..config() };
    let error = Core::with_store(other, advertised(), store, start_time()).unwrap_err();
    assert!(matches!(&error, NodeError::Stopped(why) if why.contains("'one'") && why.contains("'two'")), "{error}");
}

#[test]
fn the_metadata_log_is_cut_behind_a_snapshot() {
    let mut node = node();
    let conn = node.connect();
    let many: Vec<CreatableTopic> = (0..1000)
        .map(|n| {
            CreatableTopic::default()
                .with_name(name(&format!("t{n:04}")))
                .with_num_partitions(1)
                .with_replication_factor(1)
        })
        .collect();
    let mut rounds = 0;
    let metadata = super::super::consensus::QUORUM_LOG;
    while node.store().info(metadata).unwrap().log_start.0 == 0 {
        let response = node.ask(conn, 7, &CreateTopicsRequest::default().with_topics(many.clone()));
        assert!(response.topics.iter().all(|t| t.error_code == 0));
        let names = many.iter().map(|t| t.name.clone()).collect();
        node.ask(conn, 4, &DeleteTopicsRequest::default().with_topic_names(names));
        rounds += 1;
        assert!(rounds * 2000 <= SNAPSHOT_AFTER_COMMANDS * 2, "no snapshot");
    }
    node.create_topic(conn, "after", 1, &[]);
    let before = node.core.meta.clone();
    let mut node = node.restart(config());
    assert_eq!(topic_names(&mut node), ["after"]);
    let ids = [&before, &node.core.meta].map(|meta| meta.topic("after").unwrap().id);
    assert_eq!(ids[0], ids[1]);
    let info = node.store().info(metadata).unwrap();
    assert!(info.log_end.0 - info.log_start.0 < 100, "replay is short again");
}

#[test]
fn a_log_that_this_version_can_not_read_is_refused() {
    let mut node = node();
    let newer = super::super::records::batch(&[(None, Some(Bytes::from_static(&[99, 0, 0])))], 0).unwrap();
    let metadata = super::super::consensus::QUORUM_LOG;
    let epoch = wherry_wire::types::LeaderEpoch(0);
    node.store().append(metadata, &[newer], epoch, 0).unwrap();
    node.store().turn(start_time());
    let store = std::mem::take(node.store());
    let error = Core::with_store(config(), advertised(), store, start_time()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}
