//! Topics: made, described, grown, deleted; offsets and epochs of their partitions.

use uuid::Uuid;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use wherry_wire::codec::messages::create_topics_request::CreatableReplicaAssignment;
use wherry_wire::codec::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use wherry_wire::codec::messages::delete_topics_request::DeleteTopicState;
use wherry_wire::codec::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use wherry_wire::codec::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use wherry_wire::codec::messages::metadata_request::MetadataRequestTopic;
use wherry_wire::codec::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use wherry_wire::codec::messages::{
    ApiVersionsRequest, BrokerId, CreatePartitionsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeLogDirsRequest, DescribeTopicPartitionsRequest, FindCoordinatorRequest,
    ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
};

use super::*;

pub(super) fn list_offsets(topic: &str, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

fn ask_for(names: &[&str]) -> MetadataRequest {
    let topics = names.iter().map(|n| MetadataRequestTopic::default().with_name(Some(name(n))));
    MetadataRequest::default().with_topics(Some(topics.collect())).with_allow_auto_topic_creation(true)
}

#[test]
fn api_versions_in_every_version() {
    let mut node = node();
    let conn = node.connect();
    for version in 0..=4 {
        let request = if version >= 3 {
            ApiVersionsRequest::default()
                .with_client_software_name(text("a-client"))
                .with_client_software_version(text("1.2"))
        } else {
            ApiVersionsRequest::default()
        };
        let response = node.ask(conn, version, &request);
        assert_eq!(response.error_code, 0);
        let range = |key| response.api_keys.iter().find(|k| k.api_key == key).map(|k| (k.min_version, k.max_version));
        assert_eq!(range(0).unwrap().0, 0, "produce is advertised from 0");
        assert!(range(1).unwrap().1 >= 12);
    }
    let nameless = node.ask(conn, 3, &ApiVersionsRequest::default().with_client_software_name(text("bad name")));
    assert_eq!(nameless.error_code, ResponseError::InvalidRequest.code());
}

#[test]
fn an_api_versions_version_of_the_future_is_answered_in_version_0() {
    let mut node = node();
    let conn = node.connect();
    node.send_frame(conn, Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 1, 2, 3]));
    let (correlation, response) = node.try_receive::<ApiVersionsRequest>(conn, 0).unwrap();
    assert_eq!((correlation, response.error_code), (7, ResponseError::UnsupportedVersion.code()));
    assert!(!response.api_keys.is_empty());
}

#[test]
fn metadata_in_every_version() {
    let mut node = node();
    let conn = node.connect();
    let id = node.create_topic(conn, "t", 3, &[]);
    for version in 0..=13 {
        let response = node.ask(conn, version, &ask_for(&["t"]).with_allow_auto_topic_creation(true));
        assert_eq!(response.brokers[0].host.as_str(), "wherry.test");
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 3), "version {version}");
        assert_eq!(topic.partitions[2].leader_id, BrokerId(0));
        if version >= 10 {
            assert_eq!(topic.topic_id, id);
        }
        let unknown = node.ask(conn, version, &ask_for(&["nope"]));
        assert_eq!(unknown.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    }
    let none = node.ask(conn, 1, &MetadataRequest::default().with_topics(Some(Vec::new())));
    assert!(none.topics.is_empty());
    let all_old = node.ask(conn, 0, &MetadataRequest::default().with_topics(Some(Vec::new())));
    let all = node.ask(conn, 9, &MetadataRequest::default().with_topics(None));
    assert_eq!((all_old.topics.len(), all.topics.len()), (1, 1));
    assert!(all.cluster_id.is_some_and(|id| !id.is_empty()));
    let by_id = MetadataRequestTopic::default().with_topic_id(id).with_name(None);
    let response = node.ask(conn, 12, &MetadataRequest::default().with_topics(Some(vec![by_id])));
    assert_eq!(response.topics[0].name.as_ref().unwrap().as_str(), "t");
    let by_id = MetadataRequestTopic::default().with_topic_id(Uuid::from_u128(3)).with_name(None);
    let response = node.ask(conn, 12, &MetadataRequest::default().with_topics(Some(vec![by_id])));
    assert_eq!(response.topics[0].error_code, ResponseError::UnknownTopicId.code());
}

#[test]
fn topics_are_made_on_the_way_only_where_that_is_on() {
    let mut node = node_with(NodeConfig { auto_create_topics: true, default_partitions: 4, ..config() });
    let conn = node.connect();
    let response = node.ask(conn, 9, &ask_for(&["fresh", "fresh", "bad name", "__consumer_offsets"]));
    let codes: Vec<i16> = response.topics.iter().map(|t| t.error_code).collect();
    let invalid = ResponseError::InvalidTopicException.code();
    assert_eq!(codes, [0, invalid, ResponseError::UnknownTopicOrPartition.code()]);
    assert_eq!(response.topics[0].partitions.len(), 4);
    let unwilling = ask_for(&["other"]).with_allow_auto_topic_creation(false);
    assert_eq!(node.ask(conn, 9, &unwilling).topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn create_and_what_is_refused() {
    let mut node = node();
    let conn = node.connect();
    let created = node.ask(conn, 7, &create("t", -1, &[("retention.ms", "1234")]).with_validate_only(false));
    let topic = &created.topics[0];
    assert_eq!((topic.error_code, topic.num_partitions, topic.replication_factor), (0, 1, 1));
    let configs = topic.configs.as_ref().unwrap();
    let of = |key: &str| configs.iter().find(|c| c.name.as_str() == key).unwrap();
    assert_eq!((of("retention.ms").value.as_ref().unwrap().as_str(), of("retention.ms").config_source), ("1234", 1));
    assert_eq!(of("cleanup.policy").config_source, 5);
    let code = |node: &mut Node, request: &CreateTopicsRequest| node.ask(conn, 7, request).topics[0].error_code;
    for (request, error) in [
        (create("t", 1, &[]), ResponseError::TopicAlreadyExists),
        (create("", 1, &[]), ResponseError::InvalidTopicException),
        (create("a b", 1, &[]), ResponseError::InvalidTopicException),
        (create("__consumer_offsets", 1, &[]), ResponseError::InvalidTopicException),
        (create("a", 0, &[]), ResponseError::InvalidPartitions),
        (create("a", -2, &[]), ResponseError::InvalidPartitions),
        (create("a", i32::MAX, &[]), ResponseError::InvalidPartitions),
        (create("a", 1, &[("no.such.key", "1")]), ResponseError::InvalidConfig),
        (create("a", 1, &[("retention.ms", "soon")]), ResponseError::InvalidConfig),
        (create("a", 1, &[("compression.type", "gzip")]), ResponseError::InvalidConfig),
    ] {
        assert_eq!(code(&mut node, &request), error.code(), "{request:?}");
    }
    let mut three = create("a", 1, &[]);
    three.topics[0].replication_factor = 3;
    assert_eq!(code(&mut node, &three), ResponseError::InvalidReplicationFactor.code());
    assert_eq!(code(&mut node, &create("a", 2, &[]).with_validate_only(true)), 0);
    assert_eq!(node.ask(conn, 9, &ask_for(&["a"])).topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    let mut twice = create("a", 1, &[]);
    twice.topics.push(twice.topics[0].clone());
    let response = node.ask(conn, 7, &twice);
    assert!(response.topics.iter().all(|t| t.error_code == ResponseError::InvalidRequest.code()));
}

#[test]
fn assignments_must_be_to_this_node() {
    let mut node = node();
    let conn = node.connect();
    let assigned = |list: &[(i32, i32)]| {
        let mut request = create("t", -1, &[]);
        request.topics[0].replication_factor = -1;
        request.topics[0].assignments = list
            .iter()
            .map(|(partition, broker)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(*partition)
                    .with_broker_ids(vec![BrokerId(*broker)])
            })
            .collect();
        request
    };
    for wrong in [&[(0, 9)][..], &[(1, 0)], &[(0, 0), (0, 0)], &[(0, 0), (2, 0)]] {
        let response = node.ask(conn, 5, &assigned(wrong));
        assert_eq!(response.topics[0].error_code, ResponseError::InvalidReplicaAssignment.code());
    }
    let response = node.ask(conn, 5, &assigned(&[(1, 0), (0, 0)]));
    assert_eq!((response.topics[0].error_code, response.topics[0].num_partitions), (0, 2));
}

#[test]
fn two_clients_make_the_same_topic_at_once_and_one_wins() {
    let mut node = node();
    let (a, b) = (node.connect(), node.connect());
    node.store().hold = true;
    node.send(a, 5, &create("t", 1, &[]));
    node.send(b, 5, &create("t", 2, &[]));
    node.turn();
    node.store().hold = false;
    node.settle();
    assert_eq!(node.receive::<CreateTopicsRequest>(a, 5).topics[0].error_code, 0);
    let second = node.receive::<CreateTopicsRequest>(b, 5);
    assert_eq!(second.topics[0].error_code, ResponseError::TopicAlreadyExists.code());
    assert_eq!(node.ask(a, 9, &ask_for(&["t"])).topics[0].partitions.len(), 1);
}

#[test]
fn nobody_sees_a_topic_before_it_is_durable() {
    let mut node = node();
    let (a, b) = (node.connect(), node.connect());
    node.store().hold = true;
    node.send(a, 5, &create("t", 1, &[]));
    node.turn();
    let response = node.ask(b, 9, &ask_for(&["t"]));
    assert_eq!(response.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    assert!(node.try_receive::<CreateTopicsRequest>(a, 5).is_none());
}

#[test]
fn grow() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 2, &[]);
    let grow = |count, assigned: Option<Vec<i32>>| {
        let assignments = assigned.map(|nodes| {
            nodes
                .into_iter()
                .map(|n| CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(n)]))
                .collect()
        });
        let topic =
            CreatePartitionsTopic::default().with_name(name("t")).with_count(count).with_assignments(assignments);
        CreatePartitionsRequest::default().with_topics(vec![topic])
    };
    let code = |node: &mut Node, request: CreatePartitionsRequest| node.ask(conn, 3, &request).results[0].error_code;
    assert_eq!(code(&mut node, grow(2, None)), ResponseError::InvalidPartitions.code());
    assert_eq!(code(&mut node, grow(1, None)), ResponseError::InvalidPartitions.code());
    assert_eq!(code(&mut node, grow(3, Some(vec![4]))), ResponseError::InvalidReplicaAssignment.code());
    assert_eq!(code(&mut node, grow(3, Some(vec![0, 0]))), ResponseError::InvalidReplicaAssignment.code());
    assert_eq!(code(&mut node, grow(5, None).with_validate_only(true)), 0);
    assert_eq!(code(&mut node, grow(3, Some(vec![0]))), 0);
    assert_eq!(node.ask(conn, 9, &ask_for(&["t"])).topics[0].partitions.len(), 3);
    let response = node.ask(conn, 9, &produce("t", -1, &[(2, batch(&["a"]))]));
    assert_eq!(produced(&response).error_code, 0);
}

#[test]
fn delete_by_name_and_by_id() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "a", 1, &[]);
    let id = node.create_topic(conn, "b", 2, &[]);
    let response = node.ask(conn, 5, &DeleteTopicsRequest::default().with_topic_names(vec![name("a"), name("nope")]));
    assert_eq!(response.responses[0].error_code, 0);
    assert_eq!(response.responses[1].error_code, ResponseError::UnknownTopicOrPartition.code());
    let by_id = |id| {
        DeleteTopicsRequest::default().with_topics(vec![DeleteTopicState::default().with_topic_id(id).with_name(None)])
    };
    let response = node.ask(conn, 6, &by_id(id));
    assert_eq!((response.responses[0].error_code, response.responses[0].name.clone()), (0, Some(name("b"))));
    assert_eq!(node.ask(conn, 6, &by_id(id)).responses[0].error_code, ResponseError::UnknownTopicId.code());
    let left = node.store().logs();
    assert_eq!(left.len(), 1, "only the metadata log is left: {left:?}");
    let response = node.ask(conn, 9, &produce("b", -1, &[(0, batch(&["x"]))]));
    assert_eq!(produced(&response).error_code, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn describe_cluster_and_coordinators() {
    let mut node = node();
    let conn = node.connect();
    for version in 0..=2 {
        let response = node.ask(conn, version, &DescribeClusterRequest::default().with_endpoint_type(1));
        assert_eq!((response.error_code, response.brokers.len(), response.brokers[0].port), (0, 1, 9092));
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    let response = node.ask(conn, 1, &controllers);
    assert_eq!(response.error_code, ResponseError::UnsupportedEndpointType.code());
    for version in 0..=3 {
        let response = node.ask(conn, version, &FindCoordinatorRequest::default().with_key(text("group")));
        assert_eq!((response.error_code, response.port, response.host.as_str()), (0, 9092, "wherry.test"));
    }
    let keys = vec![text("a"), text("b")];
    let response = node.ask(conn, 4, &FindCoordinatorRequest::default().with_coordinator_keys(keys.clone()));
    assert_eq!(response.coordinators.len(), 2);
    assert!(response.coordinators.iter().all(|c| c.error_code == 0 && c.node_id == BrokerId(0)));
    let transactions = FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(keys);
    let response = node.ask(conn, 4, &transactions);
    assert!(response.coordinators.iter().all(|c| c.error_code == 0 && c.node_id == BrokerId(0)));
}

#[test]
fn describe_topic_partitions_pages_with_a_cursor() {
    let mut node = node();
    let conn = node.connect();
    for (topic, partitions) in [("a", 3), ("b", 2), ("c", 1)] {
        node.create_topic(conn, topic, partitions, &[]);
    }
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    for _ in 0..10 {
        let request =
            DescribeTopicPartitionsRequest::default().with_response_partition_limit(2).with_cursor(cursor.clone());
        let response = node.ask(conn, 0, &request);
        let mut count = 0;
        for topic in &response.topics {
            for partition in &topic.partitions {
                seen.push((topic.name.as_ref().unwrap().to_string(), partition.partition_index));
                count += 1;
            }
        }
        assert!(count <= 2);
        let Some(next) = response.next_cursor else { break };
        cursor = Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index));
    }
    let all = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 0)].map(|(t, p)| (t.to_owned(), p));
    assert_eq!(seen, all);
    let asked = ["zzz", "b", "b"].map(|t| TopicRequest::default().with_name(name(t)));
    let request =
        DescribeTopicPartitionsRequest::default().with_topics(asked.to_vec()).with_response_partition_limit(100);
    let response = node.ask(conn, 0, &request);
    let found: Vec<_> = response.topics.iter().map(|t| (t.name.clone().unwrap().to_string(), t.error_code)).collect();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(found, [("b".to_owned(), 0), ("zzz".to_owned(), unknown)]);
}

#[test]
fn log_dirs() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 2, &[]);
    node.produce(conn, "t", batch(&["a"]));
    for version in 1..=4 {
        let response = node.ask(conn, version, &DescribeLogDirsRequest::default().with_topics(None));
        let directory = &response.results[0];
        let space = if version >= 4 { (1000, 400) } else { (-1, -1) };
        assert_eq!((directory.total_bytes, directory.usable_bytes), space, "version {version}");
        let partitions = &directory.topics[0].partitions;
        assert_eq!(partitions.len(), 2);
        assert_eq!(partitions[0].partition_size, i64::try_from(batch(&["a"]).len()).unwrap());
    }
}

#[test]
fn offsets_at_the_ends_and_by_time() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for n in 0..3 {
        let at = batch_of(Codec::None, Stamp::NONE, WALL_MS + n * 10, &[(None, "x")]);
        node.produce(conn, "t", at);
    }
    let at = |node: &mut Node, timestamp, version| {
        let response = node.ask(conn, version, &list_offsets("t", timestamp));
        let partition = &response.topics[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        (partition.offset, partition.timestamp)
    };
    for version in 1..=10 {
        assert_eq!(at(&mut node, -1, version), (3, -1));
        assert_eq!(at(&mut node, -2, version), (0, -1));
        assert_eq!(at(&mut node, WALL_MS + 5, version), (1, WALL_MS + 10));
        assert_eq!(at(&mut node, WALL_MS + 21, version), (-1, -1));
        assert_eq!(at(&mut node, 0, version), (0, WALL_MS));
    }
    assert_eq!(at(&mut node, -3, 7), (2, WALL_MS + 20));
    let epoch = |node: &mut Node, timestamp, version| {
        node.ask(conn, version, &list_offsets("t", timestamp)).topics[0].partitions[0].leader_epoch
    };
    for timestamp in [-1, -2, WALL_MS + 5, -3] {
        assert_eq!(epoch(&mut node, timestamp, 7), 0, "{timestamp}");
    }
    assert_eq!(epoch(&mut node, WALL_MS + 21, 7), -1, "nothing found");
    assert_eq!(at(&mut node, -4, 8), (0, -1));
    assert_eq!(at(&mut node, -5, 9), (-1, -1));
    let wrong = node.ask(conn, 7, &list_offsets("t", -77));
    assert_eq!(wrong.topics[0].partitions[0].error_code, ResponseError::InvalidRequest.code());
    let unknown = node.ask(conn, 7, &list_offsets("nope", -1));
    assert_eq!(unknown.topics[0].partitions[0].error_code, ResponseError::UnknownTopicOrPartition.code());
}

#[test]
fn delete_records_moves_the_start() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.create_topic(conn, "compacted", 1, &[("cleanup.policy", "compact")]);
    for _ in 0..5 {
        node.produce(conn, "t", batch(&["x"]));
    }
    let delete = |topic: &str, offset| {
        let partition = DeleteRecordsPartition::default().with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        DeleteRecordsRequest::default().with_topics(vec![topic])
    };
    let result = |node: &mut Node, request: DeleteRecordsRequest| {
        let response = node.ask(conn, 2, &request);
        (response.topics[0].partitions[0].error_code, response.topics[0].partitions[0].low_watermark)
    };
    assert_eq!(result(&mut node, delete("t", 3)), (0, 3));
    assert_eq!(result(&mut node, delete("t", 1)), (0, 3), "what is gone stays gone");
    assert_eq!(result(&mut node, delete("t", 6)), (ResponseError::OffsetOutOfRange.code(), -1));
    assert_eq!(result(&mut node, delete("t", -2)), (ResponseError::OffsetOutOfRange.code(), -1));
    assert_eq!(result(&mut node, delete("compacted", 0)), (ResponseError::PolicyViolation.code(), -1));
    assert_eq!(result(&mut node, delete("nope", 0)), (ResponseError::UnknownTopicOrPartition.code(), -1));
    assert_eq!(node.fetch(conn, "t", 2).error_code, ResponseError::OffsetOutOfRange.code());
    assert_eq!(node.fetch(conn, "t", 3).log_start_offset, 3);
    assert_eq!(result(&mut node, delete("t", -1)), (0, 5), "-1 is the high watermark");
}

#[test]
fn where_an_epoch_ended() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.create_topic(conn, "empty", 1, &[]);
    node.produce(conn, "t", batch(&["a", "b"]));
    let mut node = node.restart(config());
    let conn = node.connect();
    node.produce(conn, "t", batch(&["c"]));
    let ask = |node: &mut Node, topic: &str, known, epoch| {
        let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(known).with_leader_epoch(epoch);
        let topic = OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
        let request = OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response = node.ask(conn, 4, &request);
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.leader_epoch, found.end_offset)
    };
    assert_eq!(ask(&mut node, "t", -1, 0), (0, 0, 2));
    assert_eq!(ask(&mut node, "empty", -1, 0), (0, 0, 0), "no records, so the epoch ended where the log begins");
    assert_eq!(ask(&mut node, "t", 2, 2), (0, 2, 3), "a start of the node is a new epoch");
    assert_eq!(ask(&mut node, "t", 2, 1), (0, 0, 2), "nobody led in between");
    assert_eq!(ask(&mut node, "t", 2, 3), (0, -1, -1));
    assert_eq!(ask(&mut node, "t", 0, 0), (ResponseError::FencedLeaderEpoch.code(), -1, -1));
    assert_eq!(ask(&mut node, "t", 5, 0), (ResponseError::UnknownLeaderEpoch.code(), -1, -1));
}

#[test]
fn what_was_decided_on_the_way_to_a_snapshot_is_answered_and_holds_nothing_up() {
    let mut node = node();
    let conn = node.connect();
    node.store().hold = true;
    node.send(conn, 7, &create("t", 1, &[]));
    node.turn();
    let (node_id, incarnation) = (node.core.config.node_id, node.core.incarnation);
    // The others decided it, and this node fell so far behind that it got their whole state.
    let mut others = node.core.meta.clone();
    let sequence = others.last_sequence(node_id, incarnation) + 1;
    let origin = Some(wherry_metadata::Origin { node_id, incarnation, sequence });
    others.apply(wherry_metadata::Payload { origin, commands: Vec::new() });
    node.core.install(&others.snapshot());
    node.turn();
    let (_, response) = node.try_receive::<CreateTopicsRequest>(conn, 7).unwrap();
    assert_eq!(response.topics[0].error_code, ResponseError::RequestTimedOut.code());
    assert!(!node.core.consensus.has_pending());
    node.store().hold = false;
    node.settle();
    node.create_topic(conn, "u", 1, &[]);
}
