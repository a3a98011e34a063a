//! Every API in every version that is served, with an answer that succeeds and one that fails: a field that a version does
//! not have must never make an answer impossible.

use wherry_wire::codec::messages::create_partitions_request::CreatePartitionsTopic;
use wherry_wire::codec::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use wherry_wire::codec::messages::delete_topics_request::DeleteTopicState;
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::join_group_request::JoinGroupRequestProtocol;
use wherry_wire::codec::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use wherry_wire::codec::messages::{
    AlterConfigsRequest, CreatePartitionsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    FindCoordinatorRequest, GroupId, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    JoinGroupRequest, LeaveGroupRequest, OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest,
    TransactionalId, alter_configs_request, leave_group_request,
};
use wherry_wire::codec::{ApiKey, api_versions};

use super::*;

fn served(api: ApiKey) -> std::ops::RangeInclusive<i16> {
    let served = api_versions().iter().find(|s| s.api == api).unwrap();
    served.min_version..=served.max_version
}

#[test]
fn produce_that_fails() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for version in served(ApiKey::Produce) {
        let keyed = |topic: &str, records: Bytes| -> ProduceRequest {
            let mut request = produce(topic, -1, &[(0, records)]);
            if version >= 13 {
                request.topic_data[0].name = TopicName::default();
                request.topic_data[0].topic_id = Uuid::from_u128(5);
            }
            request
        };
        for request in [keyed("nope", batch(&["a"])), keyed("t", Bytes::new())] {
            let response = node.ask(conn, version, &request);
            assert_ne!(produced(&response).error_code, 0, "version {version}");
        }
    }
}

#[test]
fn topics() {
    let mut node = node();
    let conn = node.connect();
    for version in served(ApiKey::CreateTopics) {
        let name = format!("t{version}");
        assert_eq!(node.ask(conn, version, &create(&name, 2, &[])).topics[0].error_code, 0, "version {version}");
        let again = node.ask(conn, version, &create(&name, 2, &[]));
        assert_ne!(again.topics[0].error_code, 0);
        let dry = create("dry", 2, &[]).with_validate_only(true);
        assert_eq!(node.ask(conn, version, &dry).topics[0].error_code, 0);
    }
    for version in served(ApiKey::CreatePartitions) {
        let grow = |topic: &str, count| {
            let topic =
                CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None);
            CreatePartitionsRequest::default().with_topics(vec![topic])
        };
        let count = 3 + i32::from(version);
        assert_eq!(node.ask(conn, version, &grow("t5", count)).results[0].error_code, 0, "version {version}");
        assert_ne!(node.ask(conn, version, &grow("t5", 1)).results[0].error_code, 0);
        assert_ne!(node.ask(conn, version, &grow("nope", 1)).results[0].error_code, 0);
    }
    for version in served(ApiKey::DeleteTopics) {
        let doomed = format!("doomed{version}");
        node.create_topic(conn, &doomed, 1, &[]);
        let delete = |topic: &str| {
            let mut request = DeleteTopicsRequest::default();
            if version >= 6 {
                request.topics = vec![DeleteTopicState::default().with_name(Some(name(topic)))];
            } else {
                request.topic_names = vec![name(topic)];
            }
            request
        };
        assert_eq!(node.ask(conn, version, &delete(&doomed)).responses[0].error_code, 0, "version {version}");
        assert_ne!(node.ask(conn, version, &delete(&doomed)).responses[0].error_code, 0);
    }
}

#[test]
fn records_and_epochs() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for version in served(ApiKey::DeleteRecords) {
        let delete = |topic: &str| {
            let partition = DeleteRecordsPartition::default().with_offset(-1);
            let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
            DeleteRecordsRequest::default().with_topics(vec![topic])
        };
        node.produce(conn, "t", batch(&["a"]));
        assert_eq!(node.ask(conn, version, &delete("t")).topics[0].partitions[0].error_code, 0);
        assert_ne!(node.ask(conn, version, &delete("nope")).topics[0].partitions[0].error_code, 0);
    }
    for version in served(ApiKey::OffsetForLeaderEpoch) {
        let ask = |topic: &str| {
            let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(0);
            let topic = OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            if version >= 3 { request.with_replica_id((-1).into()) } else { request }
        };
        assert_eq!(node.ask(conn, version, &ask("t")).topics[0].partitions[0].error_code, 0, "version {version}");
        assert_ne!(node.ask(conn, version, &ask("nope")).topics[0].partitions[0].error_code, 0);
    }
    for version in served(ApiKey::ListOffsets) {
        let request = topics::list_offsets("nope", -1);
        assert_ne!(node.ask(conn, version, &request).topics[0].partitions[0].error_code, 0, "version {version}");
    }
}

#[test]
fn configurations() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for (key, fine) in [("retention.ms", true), ("nope", false)] {
        for version in served(ApiKey::IncrementalAlterConfigs) {
            let entry = AlterableConfig::default().with_name(text(key)).with_value(Some(text("1")));
            let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
            let request =
                IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![entry])]);
            assert_eq!(node.ask(conn, version, &request).responses[0].error_code == 0, fine, "version {version}");
        }
        for version in served(ApiKey::AlterConfigs) {
            let entry =
                alter_configs_request::AlterableConfig::default().with_name(text(key)).with_value(Some(text("1")));
            let resource = alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"));
            let request = AlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![entry])]);
            assert_eq!(node.ask(conn, version, &request).responses[0].error_code == 0, fine, "version {version}");
        }
    }
}

#[test]
fn ids_and_coordinators() {
    let mut node = node();
    let conn = node.connect();
    assert_eq!(node.ask(conn, 1, &FindCoordinatorRequest::default().with_key_type(1)).error_code, 0);
    for version in served(ApiKey::InitProducerId) {
        for (transactional_id, fine) in [(None, true), (Some(TransactionalId(text("x"))), true)] {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(transactional_id)
                .with_transaction_timeout_ms(1000);
            assert_eq!(node.ask(conn, version, &request).error_code == 0, fine, "version {version}");
        }
    }
    for version in served(ApiKey::FindCoordinator).filter(|v| *v >= 1) {
        for kind in [0, 1, 7] {
            let request = FindCoordinatorRequest::default().with_key_type(kind);
            let error = if version >= 4 {
                let response = node.ask(conn, version, &request.with_coordinator_keys(vec![text("k")]));
                response.coordinators[0].error_code
            } else {
                node.ask(conn, version, &request.with_key(text("k"))).error_code
            };
            assert_eq!(error == 0, kind != 7, "version {version}");
        }
    }
}

#[test]
fn groups() {
    for version in served(ApiKey::JoinGroup) {
        let mut node = groups::node();
        let conn = node.connect();
        let join = |member: &str, protocol_type: &str| {
            let protocol =
                JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"m"));
            let request = JoinGroupRequest::default()
                .with_group_id(GroupId(text("g")))
                .with_session_timeout_ms(10_000)
                .with_member_id(text(member))
                .with_protocol_type(text(protocol_type))
                .with_protocols(vec![protocol]);
            let request = if version >= 1 { request.with_rebalance_timeout_ms(10_000) } else { request };
            if version >= 5 { request.with_group_instance_id(Some(text("static"))) } else { request }
        };
        let mut joined = node.ask(conn, version, &join("", "consumer"));
        if joined.error_code == 79 {
            joined = node.ask(conn, version, &join(&joined.member_id, "consumer"));
        }
        assert_eq!((joined.error_code, joined.members.len()), (0, 1), "version {version}");
        assert_ne!(node.ask(conn, version, &join("stranger", "other")).error_code, 0);
        for version in served(ApiKey::SyncGroup) {
            let sync = |generation| {
                SyncGroupRequest::default()
                    .with_group_id(GroupId(text("g")))
                    .with_generation_id(generation)
                    .with_member_id(joined.member_id.clone())
            };
            assert_eq!(node.ask(conn, version, &sync(joined.generation_id)).error_code, 0, "version {version}");
            assert_ne!(node.ask(conn, version, &sync(99)).error_code, 0);
        }
        for version in served(ApiKey::Heartbeat) {
            let beat = HeartbeatRequest::default().with_group_id(GroupId(text("nope"))).with_member_id(text("m"));
            assert_ne!(node.ask(conn, version, &beat).error_code, 0);
        }
        for version in served(ApiKey::LeaveGroup) {
            let leave = LeaveGroupRequest::default().with_group_id(GroupId(text("g")));
            let (error, members) = if version >= 3 {
                let stranger = leave_group_request::MemberIdentity::default().with_member_id(text("stranger"));
                let response = node.ask(conn, version, &leave.with_members(vec![stranger]));
                (response.error_code, response.members.iter().map(|m| m.error_code).collect())
            } else {
                (node.ask(conn, version, &leave.with_member_id(text("stranger"))).error_code, vec![])
            };
            assert!(error != 0 || members.iter().all(|code| *code != 0) && !members.is_empty(), "version {version}");
        }
        for version in served(ApiKey::DeleteGroups) {
            let delete = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text("g"))]);
            assert_ne!(node.ask(conn, version, &delete).results[0].error_code, 0);
        }
    }
}
