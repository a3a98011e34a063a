//! Configurations: described, changed, refused.

use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::describe_configs_request::DescribeConfigsResource;
use wherry_wire::codec::messages::describe_configs_response::DescribeConfigsResult;
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, alter_configs_request,
};
use wherry_wire::types::LogId;

use super::*;
use crate::core::store::Cleanup;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn describe(node: &mut Node, conn: ConnId, kind: i8, resource: &str, keys: Option<&[&str]>) -> DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|k| text(k)).collect()));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    node.ask(conn, 4, &request).results[0].clone()
}

fn value(result: &DescribeConfigsResult, key: &str) -> (String, i8) {
    let entry = result.configs.iter().find(|c| c.name.as_str() == key).unwrap();
    (entry.value.as_ref().unwrap().to_string(), entry.config_source)
}

fn alter(kind: i8, resource: &str, changes: &[(&str, i8, Option<&str>)]) -> IncrementalAlterConfigsRequest {
    let configs = changes.iter().map(|(key, operation, value)| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(*operation).with_value(value.map(text))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

#[test]
fn every_key_of_a_topic_with_its_default_type_and_meaning() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[("retention.ms", "1000")]);
    let result = describe(&mut node, conn, TOPIC, "t", None);
    assert_eq!(result.error_code, 0);
    assert_eq!(value(&result, "retention.ms"), ("1000".to_owned(), 1));
    assert_eq!(value(&result, "cleanup.policy"), ("delete".to_owned(), 5));
    let retention = result.configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
    let synonyms: Vec<&str> = retention.synonyms.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(synonyms, ["retention.ms", "log.retention.ms"]);
    assert!(result.configs.iter().all(|c| c.config_type != 0 && c.documentation.is_some() && !c.read_only));
    let some = describe(&mut node, conn, TOPIC, "t", Some(&["segment.bytes", "no.such.key"]));
    assert_eq!(some.configs.len(), 1);
    let unknown = describe(&mut node, conn, TOPIC, "nope", None);
    assert_eq!(unknown.error_code, ResponseError::UnknownTopicOrPartition.code());
    for version in 1..=4 {
        let resource = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text("t"));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource.with_configuration_keys(None)]);
        assert!(node.ask(conn, version, &request).results[0].configs.len() > 20);
    }
}

#[test]
fn the_node_describes_itself() {
    let mut node = node();
    let conn = node.connect();
    let result = describe(&mut node, conn, BROKER, "0", None);
    assert_eq!(value(&result, "node.id").0, "0");
    assert_eq!(value(&result, "auto.create.topics.enable").0, "false");
    assert_eq!(value(&result, "log.retention.ms").0, "604800000");
    assert!(result.configs.iter().all(|c| c.read_only));
    assert_eq!(describe(&mut node, conn, BROKER, "7", None).error_code, ResponseError::InvalidRequest.code());
    assert_eq!(describe(&mut node, conn, 99, "x", None).error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn changes_reach_the_log_and_the_next_produce() {
    let mut node = node();
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", 2, &[]);
    let request = alter(
        TOPIC,
        "t",
        &[
            ("cleanup.policy", 2, Some("compact")),
            ("max.message.bytes", 0, Some("500")),
            ("retention.ms", 0, Some("-1")),
        ],
    );
    assert_eq!(node.ask(conn, 1, &request).responses[0].error_code, 0);
    for partition in [0, 1] {
        let config = node.store().config(LogId { topic, partition }).clone();
        assert_eq!((config.cleanup, config.retention_ms), (Cleanup::CompactAndDelete, -1));
    }
    let large = batch_of(Codec::None, Stamp::NONE, WALL_MS, &[(Some("k"), &"x".repeat(600))]);
    assert_eq!(node.produce(conn, "t", large).error_code, ResponseError::MessageTooLarge.code());
    let request = alter(TOPIC, "t", &[("cleanup.policy", 3, Some("delete")), ("max.message.bytes", 1, None)]);
    assert_eq!(node.ask(conn, 1, &request).responses[0].error_code, 0);
    let result = describe(&mut node, conn, TOPIC, "t", None);
    assert_eq!(value(&result, "cleanup.policy"), ("compact".to_owned(), 1));
    assert_eq!(value(&result, "max.message.bytes"), ("1048588".to_owned(), 5));
}

#[test]
fn refused_changes_change_nothing() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let before = describe(&mut node, conn, TOPIC, "t", None);
    for (request, error) in [
        (alter(TOPIC, "t", &[("no.such.key", 0, Some("1"))]), ResponseError::InvalidConfig),
        (
            alter(TOPIC, "t", &[("retention.ms", 0, Some("1")), ("segment.ms", 0, Some("x"))]),
            ResponseError::InvalidConfig,
        ),
        (alter(TOPIC, "t", &[("retention.ms", 0, None)]), ResponseError::InvalidConfig),
        (alter(TOPIC, "t", &[("retention.ms", 2, Some("1"))]), ResponseError::InvalidConfig),
        (alter(TOPIC, "t", &[("unclean.leader.election.enable", 0, Some("true"))]), ResponseError::InvalidConfig),
        (alter(TOPIC, "t", &[("cleanup.policy", 3, Some("delete"))]), ResponseError::InvalidConfig),
        (alter(TOPIC, "t", &[("retention.ms", 9, Some("1"))]), ResponseError::InvalidRequest),
        (
            alter(TOPIC, "t", &[("retention.ms", 0, Some("1")), ("retention.ms", 1, None)]),
            ResponseError::InvalidRequest,
        ),
        (alter(TOPIC, "nope", &[("retention.ms", 0, Some("1"))]), ResponseError::UnknownTopicOrPartition),
        (alter(BROKER, "0", &[("log.retention.ms", 0, Some("1"))]), ResponseError::InvalidConfig),
        (alter(8, "0", &[("root", 0, Some("DEBUG"))]), ResponseError::InvalidRequest),
    ] {
        let response = node.ask(conn, 1, &request);
        assert_eq!(response.responses[0].error_code, error.code(), "{request:?}");
        assert!(response.responses[0].error_message.is_some() || error == ResponseError::UnknownTopicOrPartition);
    }
    let dry = alter(TOPIC, "t", &[("retention.ms", 0, Some("1"))]).with_validate_only(true);
    assert_eq!(node.ask(conn, 1, &dry).responses[0].error_code, 0);
    assert_eq!(describe(&mut node, conn, TOPIC, "t", None), before);
}

/// Tools clean up after themselves without looking whether there is anything (kafka-reassign-partitions --verify).
#[test]
fn what_nobody_set_can_be_reset() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for request in [
        alter(BROKER, "0", &[("leader.replication.throttled.rate", 1, None)]),
        alter(TOPIC, "t", &[("leader.replication.throttled.replicas", 1, None)]),
    ] {
        assert_eq!(node.ask(conn, 1, &request).responses[0].error_code, 0, "{request:?}");
    }
    let both = [("leader.replication.throttled.rate", 1, None), ("log.retention.ms", 0, Some("1"))];
    let error = node.ask(conn, 1, &alter(BROKER, "0", &both)).responses[0].error_code;
    assert_eq!(error, ResponseError::InvalidConfig.code());
}

#[test]
fn the_old_request_replaces_everything() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[("retention.ms", "1000"), ("segment.ms", "2000")]);
    let entry =
        alter_configs_request::AlterableConfig::default().with_name(text("segment.ms")).with_value(Some(text("3000")));
    let resource = alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text("t"))
        .with_configs(vec![entry]);
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(node.ask(conn, 1, &request).responses[0].error_code, 0);
    let result = describe(&mut node, conn, TOPIC, "t", None);
    assert_eq!(value(&result, "segment.ms"), ("3000".to_owned(), 1));
    assert_eq!(value(&result, "retention.ms"), ("604800000".to_owned(), 5));
}
