//! Groups of the protocol of KIP-848 over the wire: every version, restarts, topics that come, settings, features.

use std::collections::BTreeSet;

use wherry_wire::codec::messages::consumer_group_describe_response::DescribedGroup;
use wherry_wire::codec::messages::describe_configs_request::DescribeConfigsResource;
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::offset_fetch_request::OffsetFetchRequestGroup;
use wherry_wire::codec::messages::update_features_request::FeatureUpdateKey;
use wherry_wire::codec::messages::{
    ApiVersionsRequest, ApiVersionsResponse, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, DeleteGroupsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest, ListGroupsRequest, OffsetFetchRequest,
    UpdateFeaturesRequest, consumer_group_heartbeat_request,
};
use wherry_wire::codec::{ApiKey, ResponseError};

use super::groups::{commit, commit_code, group, ready, stable};
use super::*;
use crate::stats::Gauge;

const GROUP_RESOURCE: i8 = 32;

fn beat(member: &str, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
}

/// Joins, wanting these topics.
fn join(member: &str, topics: &[&str]) -> ConsumerGroupHeartbeatRequest {
    beat(member, 0)
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_names(Some(topics.iter().map(|topic| name(topic)).collect()))
        .with_topic_partitions(Some(Vec::new()))
}

fn owning(request: ConsumerGroupHeartbeatRequest, topic: Uuid, partitions: &[i32]) -> ConsumerGroupHeartbeatRequest {
    let of = consumer_group_heartbeat_request::TopicPartitions::default()
        .with_topic_id(topic)
        .with_partitions(partitions.to_vec());
    request.with_topic_partitions(Some(vec![of]))
}

fn given(response: &ConsumerGroupHeartbeatResponse) -> BTreeSet<i32> {
    let topics = response.assignment.iter().flat_map(|assignment| &assignment.topic_partitions);
    topics.flat_map(|topic| topic.partitions.iter().copied()).collect()
}

fn describe(node: &mut Node, conn: ConnId, version: i16, id: &str) -> DescribedGroup {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(id)]);
    node.ask(conn, version, &request).groups[0].clone()
}

#[test]
fn two_members_share_a_topic_in_both_versions() {
    for version in 0..=1 {
        let mut node = ready(node());
        let conn = node.connect();
        let topic = node.create_topic(conn, "t", 4, &[]);
        let a = node.ask(conn, version, &join("a", &["t"]));
        assert_eq!((a.error_code, a.member_epoch, a.heartbeat_interval_ms), (0, 1, 5_000));
        assert_eq!((a.member_id.as_deref(), given(&a).len()), (Some("a"), 4));
        let b = node.ask(conn, version, &join("b", &["t"]));
        assert_eq!((b.member_epoch, given(&b).len()), (2, 0));
        let a = node.ask(conn, version, &owning(beat("a", 1), topic, &[0, 1, 2, 3]));
        assert_eq!(a.member_epoch, 1);
        let kept: Vec<i32> = given(&a).into_iter().collect();
        let described = describe(&mut node, conn, version, "g");
        assert_eq!((described.group_state.as_str(), described.group_epoch), ("Reconciling", 2));
        assert_eq!(described.members[0].client_host.as_str(), "/10.1.2.3");
        assert_eq!(described.members[0].member_type, if version == 0 { -1 } else { 1 });
        assert_eq!(described.members[0].target_assignment.topic_partitions[0].topic_name.as_str(), "t");
        assert_eq!(node.ask(conn, version, &owning(beat("a", 1), topic, &kept)).member_epoch, 2);
        let b = node.ask(conn, version, &beat("b", 2));
        assert_eq!(given(&b).len(), 2);
        assert!(given(&b).is_disjoint(&kept.iter().copied().collect()));
        assert_eq!(describe(&mut node, conn, version, "g").group_state.as_str(), "Stable");
        let gone = node.ask(conn, version, &beat("b", -1));
        assert_eq!((gone.error_code, gone.member_epoch), (0, -1));
        assert_eq!(node.ask(conn, version, &beat("b", 2)).error_code, ResponseError::UnknownMemberId.code());
        assert_eq!(given(&node.ask(conn, version, &beat("a", 2))).len(), 4);
    }
}

#[test]
fn only_version_0_gives_ids() {
    let mut node = ready(node());
    let conn = node.connect();
    let response = node.ask(conn, 0, &join("", &[]));
    assert!(response.error_code == 0 && response.member_id.is_some_and(|id| !id.is_empty()));
    let response = node.ask(conn, 1, &join("", &[]));
    assert_eq!(response.error_code, ResponseError::InvalidRequest.code());
    assert!(response.error_message.is_some());
    let pattern = join("p", &[]).with_subscribed_topic_regex(Some(text("(")));
    assert_eq!(node.ask(conn, 1, &pattern).error_code, ResponseError::InvalidRegularExpression.code());
}

fn fetch_code(node: &mut Node, conn: ConnId, member: Option<(&str, i32)>) -> i16 {
    let mut asked = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(None);
    if let Some((id, epoch)) = member {
        asked = asked.with_member_id(Some(text(id))).with_member_epoch(epoch);
    }
    node.ask(conn, 9, &OffsetFetchRequest::default().with_groups(vec![asked])).groups[0].error_code
}

#[test]
fn offsets_are_committed_and_fetched_with_epochs() {
    let mut node = ready(node());
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let missing = commit_code(&mut node, conn, 9, &commit("g", "a", 1, "t", 5));
    assert_eq!(missing, ResponseError::GroupIdNotFound.code());
    assert_eq!(commit_code(&mut node, conn, 8, &commit("g", "a", 1, "t", 5)), ResponseError::IllegalGeneration.code());
    node.ask(conn, 1, &join("a", &["t"]));
    assert_eq!(commit_code(&mut node, conn, 9, &commit("g", "a", 1, "t", 5)), 0);
    let stale = ResponseError::StaleMemberEpoch.code();
    assert_eq!(commit_code(&mut node, conn, 9, &commit("g", "a", 7, "t", 6)), stale);
    let old = commit_code(&mut node, conn, 8, &commit("g", "a", 1, "t", 6));
    assert_eq!(old, ResponseError::UnsupportedVersion.code());
    assert_eq!(fetch_code(&mut node, conn, None), 0);
    assert_eq!(fetch_code(&mut node, conn, Some(("a", 1))), 0);
    assert_eq!(fetch_code(&mut node, conn, Some(("a", 2))), stale);
    assert_eq!(fetch_code(&mut node, conn, Some(("x", 1))), ResponseError::UnknownMemberId.code());
}

#[test]
fn groups_of_both_kinds_are_listed_described_and_deleted() {
    let mut node = ready(node());
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let mut other = join("a", &["t"]);
    other.group_id = group("new");
    node.ask(conn, 1, &other);
    stable(&mut node, conn);
    let list = |node: &mut Node, types: &[&str]| -> Vec<(String, String)> {
        let request = ListGroupsRequest::default().with_types_filter(types.iter().map(|t| text(t)).collect());
        let listed = node.ask(conn, 5, &request);
        listed.groups.iter().map(|g| (g.group_id.to_string(), g.group_type.to_string())).collect()
    };
    let pair = |id: &str, kind: &str| (id.to_owned(), kind.to_owned());
    assert_eq!(list(&mut node, &[]), [pair("g", "classic"), pair("new", "consumer")]);
    assert_eq!(list(&mut node, &["Consumer"]), [pair("new", "consumer")]);
    let request = DescribeGroupsRequest::default().with_groups(vec![group("new")]);
    assert_eq!(node.ask(conn, 5, &request).groups[0].group_state.as_str(), "Dead");
    let classic = describe(&mut node, conn, 1, "g");
    assert_eq!(classic.error_code, ResponseError::GroupIdNotFound.code());
    assert_eq!(classic.error_message.as_deref(), Some("Group g is not a consumer group."));
    // Joined by the wrong protocol.
    assert_eq!(node.ask(conn, 1, &join("a", &["t"])).error_code, ResponseError::GroupIdNotFound.code());
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("new")]);
    assert_eq!(node.ask(conn, 2, &delete).results[0].error_code, ResponseError::NonEmptyGroup.code());
    let mut leave = beat("a", -1);
    leave.group_id = group("new");
    assert_eq!(node.ask(conn, 1, &leave).error_code, 0);
    assert_eq!(node.ask(conn, 2, &delete).results[0].error_code, 0);
    assert_eq!(describe(&mut node, conn, 0, "new").error_code, ResponseError::GroupIdNotFound.code());
}

#[test]
fn a_restart_changes_nothing_for_members() {
    let mut node = ready(node());
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", 2, &[]);
    node.ask(conn, 1, &join("a", &["t"]));
    node.ask(conn, 1, &join("b", &["t"]));
    node.ask(conn, 1, &owning(beat("a", 1), topic, &[0, 1]));
    let before = describe(&mut node, conn, 1, "g");
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(describe(&mut node, conn, 1, "g"), before);
    let kept = &before.members[0].assignment.topic_partitions[0].partitions;
    assert_eq!(node.ask(conn, 1, &owning(beat("a", 1), topic, kept)).member_epoch, 2);
    assert_eq!(given(&node.ask(conn, 1, &beat("b", 2))).len(), 1);
}

#[test]
fn topics_that_come_are_assigned() {
    let mut node = ready(node());
    let conn = node.connect();
    let a = node.ask(conn, 1, &join("a", &["later"]).with_subscribed_topic_regex(Some(text("l.*"))));
    assert_eq!((a.error_code, given(&a).len()), (0, 0));
    node.create_topic(conn, "later", 3, &[]);
    let a = node.ask(conn, 1, &beat("a", 1));
    assert_eq!((a.member_epoch, given(&a).len()), (2, 3));
    node.advance_ms(10_001);
    node.create_topic(conn, "lately", 2, &[]);
    let a = node.ask(conn, 1, &beat("a", 2));
    let sizes: Vec<usize> = a.assignment.iter().flat_map(|a| &a.topic_partitions).map(|t| t.partitions.len()).collect();
    assert_eq!((a.member_epoch, sizes.iter().sum::<usize>(), sizes.len()), (3, 5, 2));
}

#[test]
fn a_log_that_takes_nothing_refuses_members_and_forgets_them() {
    let mut node = ready(node());
    let conn = node.connect();
    node.create_topic(conn, "t", 2, &[]);
    node.ask(conn, 1, &join("a", &["t"]));
    node.store().busy = true;
    let refused = node.ask(conn, 1, &join("b", &["t"]));
    assert_eq!(refused.error_code, ResponseError::CoordinatorNotAvailable.code());
    assert_eq!(node.ask(conn, 1, &beat("a", 1)).error_code, 0, "who asks for nothing is served");
    assert_eq!(describe(&mut node, conn, 1, "g").members.len(), 1);
    node.store().make_room();
    assert_eq!(node.ask(conn, 1, &join("b", &["t"])).member_epoch, 2);
}

#[test]
fn groups_are_counted() {
    let mut node = ready(node());
    let conn = node.connect();
    node.create_topic(conn, "t", 2, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("old", "", -1, "t", 5)), 0);
    for member in ["a", "b"] {
        let mut request = join(member, &["t"]);
        request.group_id = group("new");
        node.ask(conn, 1, &request);
    }
    node.advance_ms(10_000);
    node.settle();
    let stats = node.core.stats();
    let counts = [&stats.groups, &stats.consumer_groups, &stats.groups_rebalancing, &stats.group_members];
    assert_eq!(counts.map(Gauge::get), [2, 1, 1, 2]);
}

fn alter_group(id: &str, operation: i8, entries: &[(&str, &str)]) -> IncrementalAlterConfigsRequest {
    let entry = |(key, value): &(&str, &str)| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(operation).with_value(Some(text(value)))
    };
    let resource = AlterConfigsResource::default()
        .with_resource_type(GROUP_RESOURCE)
        .with_resource_name(text(id))
        .with_configs(entries.iter().map(entry).collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

const INTERVAL: &str = "consumer.heartbeat.interval.ms";

#[test]
fn groups_have_settings_of_their_own() {
    let mut node = ready(node());
    let conn = node.connect();
    let set = |node: &mut Node, operation, id: &str, entries: &[(&str, &str)]| {
        node.ask(conn, 1, &alter_group(id, operation, entries)).responses[0].error_code
    };
    let described = |node: &mut Node, id: &str| {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(GROUP_RESOURCE)
            .with_resource_name(text(id))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
        node.ask(conn, 4, &request).results[0].clone()
    };
    assert_eq!(set(&mut node, 0, "g", &[(INTERVAL, "9000")]), 0);
    assert_eq!(node.ask(conn, 1, &join("a", &[])).heartbeat_interval_ms, 9_000);
    let result = described(&mut node, "g");
    let all = result.configs.iter().map(|c| (c.name.as_str(), c.value.as_deref().unwrap(), c.config_source));
    let shown: Vec<_> = all.filter(|(name, ..)| name.starts_with("consumer.")).collect();
    assert_eq!(shown, [(INTERVAL, "9000", 8), ("consumer.session.timeout.ms", "45000", 5)]);
    assert_eq!(result.configs[0].synonyms.len(), 2);
    let invalid = ResponseError::InvalidConfig.code();
    for wrong in [[(INTERVAL, "1")], [("consumer.session.timeout.ms", "long")], [("retention.ms", "1")]] {
        assert_eq!(set(&mut node, 0, "g", &wrong), invalid);
    }
    assert_eq!(set(&mut node, 2, "g", &[(INTERVAL, "9000")]), invalid, "it is no list");
    assert_eq!(set(&mut node, 0, "", &[(INTERVAL, "9000")]), ResponseError::InvalidRequest.code());
    assert_eq!(described(&mut node, "").error_code, ResponseError::InvalidRequest.code());
    let resources = |node: &mut Node, version, types: &[i8]| -> Vec<(String, i8)> {
        let request = ListConfigResourcesRequest::default().with_resource_types(types.to_vec());
        let response = node.ask(conn, version, &request);
        response.config_resources.iter().map(|r| (r.resource_name.to_string(), r.resource_type)).collect()
    };
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(resources(&mut node, 0, &[]), [], "version 0 is about clients' metrics");
    assert_eq!(resources(&mut node, 1, &[GROUP_RESOURCE]), [("g".to_owned(), GROUP_RESOURCE)]);
    let all = resources(&mut node, 1, &[]);
    assert!(all.contains(&("t".to_owned(), 2)) && all.contains(&("0".to_owned(), 4)), "{all:?}");
    let unknown = ListConfigResourcesRequest::default().with_resource_types(vec![99]);
    assert_eq!(node.ask(conn, 1, &unknown).error_code, ResponseError::UnsupportedVersion.code());
    // They outlive a restart, and go when they are taken back.
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(node.ask(conn, 1, &beat("a", 1)).heartbeat_interval_ms, 9_000);
    assert_eq!(node.ask(conn, 1, &alter_group("g", 1, &[(INTERVAL, "")])).responses[0].error_code, 0);
    assert_eq!(node.ask(conn, 1, &beat("a", 1)).heartbeat_interval_ms, 5_000);
}

fn features(node: &mut Node, conn: ConnId, version: i16) -> ApiVersionsResponse {
    let request =
        ApiVersionsRequest::default().with_client_software_name(text("test")).with_client_software_version(text("1"));
    node.ask(conn, version, &request)
}

fn level(response: &ApiVersionsResponse, feature: &str) -> Option<i16> {
    response.finalized_features.iter().find(|f| f.name.as_str() == feature).map(|f| f.max_version_level)
}

#[test]
fn features_are_told_and_changed() {
    let mut node = ready(node());
    let conn = node.connect();
    let told = features(&mut node, conn, 4);
    assert_eq!((level(&told, "group.version"), level(&told, "transaction.version")), (Some(1), Some(2)));
    assert!(level(&told, "metadata.version").is_some() && told.finalized_features_epoch == 0);
    assert!(told.supported_features.iter().any(|f| f.name.as_str() == "group.version" && f.min_version == 0));
    let old = features(&mut node, conn, 3);
    assert!(old.supported_features.iter().all(|f| f.min_version > 0), "older clients take 0 for malformed");
    assert_eq!(level(&old, "group.version"), Some(1));
    let served = wherry_wire::codec::api_versions().iter().find(|s| s.api == ApiKey::UpdateFeatures).unwrap();
    for version in served.min_version..=served.max_version {
        let update = |node: &mut Node, feature: &str, level: i16, lower: bool, dry: bool| -> i16 {
            let mut key = FeatureUpdateKey::default().with_feature(text(feature)).with_max_version_level(level);
            if version == 0 {
                key.allow_downgrade = lower;
            } else {
                key.upgrade_type = if lower { 2 } else { 1 };
            }
            let mut request = UpdateFeaturesRequest::default().with_feature_updates(vec![key]);
            if version > 0 {
                request.validate_only = dry;
            }
            let response = node.ask(conn, version, &request);
            assert_eq!(response.error_code != 0, response.error_message.is_some());
            response.error_code
        };
        let invalid = ResponseError::InvalidUpdateVersion.code();
        assert_eq!(update(&mut node, "group.version", 1, false, false), 0, "it is so already");
        assert_eq!(update(&mut node, "group.version", 0, false, false), invalid, "not by mistake");
        assert_eq!(update(&mut node, "group.version", 2, false, false), invalid);
        assert_eq!(update(&mut node, "no.version", 1, false, false), invalid);
        assert_eq!(update(&mut node, "metadata.version", 7, true, false), invalid);
        if version > 0 {
            assert_eq!(update(&mut node, "group.version", 0, true, true), 0);
            assert_eq!(level(&features(&mut node, conn, 4), "group.version"), Some(1), "only asked");
        }
        assert_eq!(update(&mut node, "group.version", 0, true, false), 0);
        let told = features(&mut node, conn, 4);
        assert_eq!(level(&told, "group.version"), None);
        assert_eq!(told.finalized_features_epoch, i64::from(version) * 2 + 1);
        assert_eq!(node.ask(conn, 1, &join("a", &[])).error_code, ResponseError::UnsupportedVersion.code());
        assert_eq!(update(&mut node, "group.version", 1, false, false), 0);
    }
    let empty = UpdateFeaturesRequest::default();
    assert_eq!(node.ask(conn, 2, &empty).error_code, ResponseError::InvalidRequest.code());
}
