//! What operators ask of a cluster, and where clients are sent, on a node that leads the metadata and is told of others.

use wherry_metadata::{Command, PartitionId};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use wherry_wire::codec::messages::create_topics_request::CreatableReplicaAssignment;
use wherry_wire::codec::messages::describe_quorum_request::{PartitionData as AskedPartition, TopicData as AskedTopic};
use wherry_wire::codec::messages::elect_leaders_request::TopicPartitions;
use wherry_wire::codec::messages::elect_leaders_response::ReplicaElectionResult;
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use wherry_wire::codec::messages::{
    AddRaftVoterRequest, AlterPartitionReassignmentsRequest, BrokerId, DescribeQuorumRequest, ElectLeadersRequest,
    ElectLeadersResponse, IncrementalAlterConfigsRequest, ListPartitionReassignmentsRequest, RemoveRaftVoterRequest,
    UnregisterBrokerRequest,
};

use super::*;
use crate::core::AfterCommit;

const UNKNOWN: i16 = 3;

fn incarnation(node_id: i32) -> Uuid {
    Uuid::from_u128(1_000 + u128::try_from(node_id).unwrap())
}

fn decide(node: &mut Node, command: Command) {
    node.core.propose(vec![command], AfterCommit::Nothing).unwrap();
    node.settle();
}

/// Another node, as far as the metadata know.
fn other(node: &mut Node, node_id: i32, rack: Option<&str>) {
    let register = Command::RegisterBroker {
        node_id,
        incarnation: incarnation(node_id),
        directory: Uuid::from_u128(7),
        host: format!("node-{node_id}"),
        port: 9092,
        rack: rack.map(str::to_owned),
        endpoints: std::collections::BTreeMap::new(),
    };
    decide(node, register);
    decide(node, Command::Unfence { node_id, incarnation: incarnation(node_id) });
}

/// This node (0) in rack "a", others in the racks given, and a topic "t" whose partitions have these replicas.
fn among(racks: &[Option<&str>], replicas: &[&[i32]]) -> (Node, ConnId, Uuid) {
    let mut node = node_with(NodeConfig { rack: Some("a".into()), ..config() });
    for (node_id, rack) in (1..).zip(racks) {
        other(&mut node, node_id, *rack);
    }
    let conn = node.connect();
    let assign = |(index, nodes): (i32, &&[i32])| {
        let ids = nodes.iter().map(|n| BrokerId(*n)).collect();
        CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(ids)
    };
    let mut request = create("t", -1, &[]);
    request.topics[0].replication_factor = -1;
    request.topics[0].assignments = (0..).zip(replicas).map(assign).collect();
    let made = node.ask(conn, 7, &request).topics.remove(0);
    assert_eq!(made.error_code, 0, "{:?}", made.error_message);
    (node, conn, made.topic_id)
}

fn leader(node: &Node, topic: Uuid, partition: i32) -> (Option<i32>, i32) {
    let found = node.core.meta.partition(PartitionId { topic, partition }).unwrap();
    (found.leader, found.leader_epoch)
}

fn elect(kind: i8, partitions: Option<&[(&str, &[i32])]>) -> ElectLeadersRequest {
    let asked = |(topic, partitions): &(&str, &[i32])| {
        TopicPartitions::default().with_topic(name(topic)).with_partitions(partitions.to_vec())
    };
    ElectLeadersRequest::default()
        .with_election_type(kind)
        .with_topic_partitions(partitions.map(|list| list.iter().map(asked).collect()))
}

#[test]
fn preferred_replicas_lead_again() {
    let (mut node, conn, topic) = among(&[None], &[&[0, 1], &[0, 1], &[0, 1]]);
    let turned = |partition| (PartitionId { topic, partition }, Some(vec![1, 0]));
    decide(&mut node, Command::Reassign { partitions: vec![turned(0), turned(2)] });
    assert_eq!((leader(&node, topic, 0), leader(&node, topic, 2)), ((Some(0), 0), (Some(0), 0)));
    let codes = |response: &ElectLeadersResponse| -> Vec<Vec<i16>> {
        let of = |t: &ReplicaElectionResult| t.partition_result.iter().map(|p| p.error_code).collect();
        response.replica_election_results.iter().map(of).collect()
    };
    let response = node.ask(conn, 2, &elect(0, Some(&[("t", &[0, 0, 1, 9]), ("u", &[0])])));
    let (twice, needless) = (ResponseError::InvalidRequest.code(), ResponseError::ElectionNotNeeded.code());
    assert_eq!(codes(&response), [vec![0, twice, needless, UNKNOWN], vec![UNKNOWN]]);
    assert!(response.replica_election_results[0].partition_result[2].error_message.is_some());
    assert_eq!((leader(&node, topic, 0), leader(&node, topic, 2)), ((Some(1), 1), (Some(0), 0)));
    // All that need it: one is left.
    let all = node.ask(conn, 2, &elect(0, None));
    assert_eq!(all.replica_election_results[0].partition_result[0].partition_id, 2);
    assert_eq!((codes(&all), leader(&node, topic, 2).0), (vec![vec![0]], Some(1)));
    assert!(node.ask(conn, 0, &elect(0, None)).replica_election_results.is_empty());
    assert_eq!(node.ask(conn, 1, &elect(7, None)).error_code, ResponseError::InvalidRequest.code());
    decide(&mut node, Command::Fence { node_id: 1, incarnation: incarnation(1) });
    let fenced = node.ask(conn, 2, &elect(0, Some(&[("t", &[0])])));
    assert_eq!(codes(&fenced), [[ResponseError::PreferredLeaderNotAvailable.code()]]);
}

#[test]
fn replicas_that_are_away_are_missed() {
    let (mut node, conn, _) = among(&[None], &[&[0, 1]]);
    // Three are required, of two that there are.
    alter_topic(&mut node, conn, ("min.insync.replicas", "3"));
    decide(&mut node, Command::Fence { node_id: 1, incarnation: incarnation(1) });
    node.advance_ms(1_000);
    node.settle();
    assert_eq!(node.core.stats().under_min_insync.get(), 1);
    let refused = node.ask(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
    assert_eq!(produced(&refused).error_code, ResponseError::NotEnoughReplicas.code());
    let leader_alone = node.ask(conn, 9, &produce("t", 1, &[(0, batch(&["a"]))]));
    assert_eq!(produced(&leader_alone).error_code, 0, "acks=1 asks for the leader alone");
}

fn alter_topic(node: &mut Node, conn: ConnId, (key, value): (&str, &str)) {
    let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
    let resource =
        AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("t")).with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    assert_eq!(node.ask(conn, 1, &request).responses[0].error_code, 0);
    node.settle();
}

#[test]
fn an_unclean_election_needs_to_be_asked_for() {
    let (mut node, conn, topic) = among(&[None], &[&[1]]);
    decide(&mut node, Command::Reassign { partitions: vec![(PartitionId { topic, partition: 0 }, Some(vec![1, 0]))] });
    decide(&mut node, Command::Fence { node_id: 1, incarnation: incarnation(1) });
    assert_eq!(leader(&node, topic, 0).0, None);
    let clean = node.ask(conn, 2, &elect(0, Some(&[("t", &[0])])));
    assert_ne!(clean.replica_election_results[0].partition_result[0].error_code, 0);
    assert_eq!(leader(&node, topic, 0).0, None);
    let unclean = node.ask(conn, 2, &elect(1, Some(&[("t", &[0])])));
    assert_eq!(unclean.replica_election_results[0].partition_result[0].error_code, 0);
    assert_eq!(leader(&node, topic, 0).0, Some(0));
}

fn reassign(moves: &[(&str, i32, Option<&[i32]>)]) -> AlterPartitionReassignmentsRequest {
    let topic = |(topic, partition, replicas): &(&str, i32, Option<&[i32]>)| {
        let replicas = replicas.map(|nodes| nodes.iter().map(|n| BrokerId(*n)).collect());
        let one = ReassignablePartition::default().with_partition_index(*partition).with_replicas(replicas);
        ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![one])
    };
    AlterPartitionReassignmentsRequest::default().with_topics(moves.iter().map(topic).collect())
}

#[test]
fn partitions_move_and_stay() {
    let (mut node, conn, topic) = among(&[None, None], &[&[0], &[0], &[0]]);
    let request = reassign(&[
        ("t", 0, Some(&[1])),
        ("t", 1, Some(&[0, 7])),
        ("t", 2, None),
        ("t", 3, Some(&[1])),
        ("u", 0, Some(&[1])),
        ("t", 0, Some(&[2])),
    ]);
    let response = node.ask(conn, 0, &request);
    let codes: Vec<i16> = response.responses.iter().map(|t| t.partitions[0].error_code).collect();
    let (bad, none) = (ResponseError::InvalidReplicaAssignment, ResponseError::NoReassignmentInProgress);
    assert_eq!(codes, [0, bad.code(), none.code(), UNKNOWN, UNKNOWN, ResponseError::InvalidRequest.code()]);
    assert!(response.responses[1].partitions[0].error_message.as_ref().unwrap().contains("node 7"));
    let every = ListPartitionReassignmentsRequest::default().with_topics(None);
    let listed = node.ask(conn, 0, &every).topics;
    assert_eq!((listed.len(), listed[0].partitions.len()), (1, 1));
    let moving = &listed[0].partitions[0];
    let ids = |nodes: &[BrokerId]| nodes.iter().map(|n| n.0).collect::<Vec<i32>>();
    assert_eq!((ids(&moving.replicas), moving.partition_index), (vec![1, 0], 0));
    assert_eq!((ids(&moving.adding_replicas), ids(&moving.removing_replicas)), (vec![1], vec![0]));
    for (topic, partitions, count) in [("t", vec![0], 1), ("t", vec![1, 2], 0), ("u", vec![0], 0)] {
        let one = ListPartitionReassignmentsTopics::default().with_name(name(topic)).with_partition_indexes(partitions);
        let asked = ListPartitionReassignmentsRequest::default().with_topics(Some(vec![one]));
        assert_eq!(node.ask(conn, 0, &asked).topics.len(), count);
    }
    assert_eq!(node.ask(conn, 0, &reassign(&[("t", 0, None)])).responses[0].partitions[0].error_code, 0);
    assert!(node.ask(conn, 0, &every).topics.is_empty());
    let found = node.core.meta.partition(PartitionId { topic, partition: 0 }).unwrap();
    assert_eq!(found.replicas.as_slice(), [0]);
}

#[test]
fn a_request_may_forbid_another_number_of_replicas() {
    let (mut node, conn, _) = among(&[None], &[&[0]]);
    let more = reassign(&[("t", 0, Some(&[0, 1]))]).with_allow_replication_factor_change(false);
    let response = node.ask(conn, 1, &more);
    assert!(!response.allow_replication_factor_change);
    assert_eq!(response.responses[0].partitions[0].error_code, ResponseError::InvalidReplicationFactor.code());
    let same = reassign(&[("t", 0, Some(&[1]))]).with_allow_replication_factor_change(false);
    assert_eq!(node.ask(conn, 1, &same).responses[0].partitions[0].error_code, 0);
}

#[test]
fn the_quorum_is_described() {
    let mut node = node();
    let conn = node.connect();
    let asked = |topic: &str| {
        let topic = AskedTopic::default().with_topic_name(name(topic)).with_partitions(vec![AskedPartition::default()]);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    };
    for version in 0..=2 {
        let response = node.ask(conn, version, &asked("__cluster_metadata"));
        assert_eq!(response.error_code, 0);
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.error_code, found.leader_id.0, found.observers.len()), (0, 0, 0));
        assert!(found.leader_epoch > 0 && found.high_watermark > 0, "{found:?}");
        let voter = &found.current_voters[0];
        assert_eq!((voter.replica_id.0, voter.log_end_offset), (0, found.high_watermark));
        assert_eq!(response.nodes.len(), usize::from(version >= 2));
        if version >= 2 {
            assert_eq!(voter.replica_directory_id, node.core.store.directory());
            assert_eq!(response.nodes[0].listeners[0].port, 9092);
        }
    }
    let strange = node.ask(conn, 2, &asked("t"));
    assert_eq!(strange.topics[0].partitions[0].error_code, UNKNOWN);
}

#[test]
fn votes_are_not_given_and_taken_lightly() {
    let (mut node, conn, _) = among(&[None], &[&[0]]);
    let own = node.core.store.directory();
    let mut add = |node_id, directory, cluster: Option<&str>| {
        let request = AddRaftVoterRequest::default().with_voter_id(node_id).with_voter_directory_id(directory);
        node.ask(conn, 0, &request.with_cluster_id(cluster.map(text)).with_timeout_ms(1_000))
    };
    assert_eq!(add(0, own, None).error_code, ResponseError::DuplicateVoter.code());
    let stranger = add(1, Uuid::from_u128(7), None);
    assert_eq!(stranger.error_code, ResponseError::InvalidRequest.code());
    assert!(stranger.error_message.unwrap().contains("not in this cluster"));
    assert_eq!(add(1, own, Some("ships")).error_code, ResponseError::InconsistentClusterId.code());
    let mut remove = |node_id, directory| {
        let request = RemoveRaftVoterRequest::default()
            .with_cluster_id(None)
            .with_voter_id(node_id)
            .with_voter_directory_id(directory);
        node.ask(conn, 0, &request)
    };
    assert_eq!(remove(1, own).error_code, ResponseError::VoterNotFound.code());
    assert_eq!(remove(0, Uuid::from_u128(9)).error_code, ResponseError::InvalidVoterKey.code());
    let last = remove(0, own);
    assert_eq!(last.error_code, ResponseError::InvalidRequest.code(), "{last:?}");
}

#[test]
fn a_node_is_forgotten_when_it_is_gone_and_empty() {
    let (mut node, conn, _) = among(&[None, None], &[&[0, 1]]);
    let forget = |node: &mut Node, id| {
        node.ask(conn, 0, &UnregisterBrokerRequest::default().with_broker_id(BrokerId(id))).error_code
    };
    let invalid = ResponseError::InvalidRequest.code();
    assert_eq!(forget(&mut node, 0), invalid, "it votes");
    assert_eq!(forget(&mut node, 2), invalid, "it runs");
    assert_eq!(forget(&mut node, 9), ResponseError::BrokerIdNotRegistered.code());
    for node_id in [1, 2] {
        decide(&mut node, Command::Fence { node_id, incarnation: incarnation(node_id) });
    }
    assert_eq!(forget(&mut node, 1), invalid, "it has a replica");
    assert_eq!(forget(&mut node, 2), 0);
    assert!(node.core.meta.broker(2).is_none());
}

fn from_rack(rack: &str, partition: i32) -> FetchRequest {
    let mut request = fetch("t", 0).with_rack_id(text(rack));
    request.topics[0].partitions[0].partition = partition;
    request
}

#[test]
fn consumers_are_sent_to_the_replica_in_their_rack() {
    let racks = [Some("b"), Some("b"), None, Some("c")];
    let (mut node, conn, _) = among(&racks, &[&[0, 1, 2], &[0, 1, 2], &[0, 3, 4]]);
    let preferred = |node: &mut Node, rack: &str, partition| {
        let response = node.ask(conn, 11, &from_rack(rack, partition));
        let found = &response.responses[0].partitions[0];
        // No follower has reported here, so the leader does not know what is committed; whom to ask, it knows.
        let unknown = ResponseError::OffsetNotAvailable.code();
        assert!([0, unknown].contains(&found.error_code));
        found.preferred_read_replica.0
    };
    assert_eq!(preferred(&mut node, "b", 0), 1);
    assert_eq!(preferred(&mut node, "b", 1), 2, "partitions take turns");
    for (rack, partition) in [("a", 0), ("c", 0), ("", 0), ("b", 2)] {
        assert_eq!(preferred(&mut node, rack, partition), -1, "{rack} {partition}");
    }
    decide(&mut node, Command::Fence { node_id: 1, incarnation: incarnation(1) });
    assert_eq!(preferred(&mut node, "b", 0), 2);
    decide(&mut node, Command::Fence { node_id: 2, incarnation: incarnation(2) });
    assert_eq!(preferred(&mut node, "b", 0), -1);
}

#[test]
fn they_are_told_at_once_and_only_where_it_is_wanted() {
    let (mut node, conn, _) = among(&[Some("b")], &[&[0, 1]]);
    let patient = from_rack("b", 0).with_max_wait_ms(60_000);
    node.send(conn, 11, &patient);
    let response = node.receive::<FetchRequest>(conn, 11);
    assert_eq!(first(&response).preferred_read_replica.0, 1);
    node.core.config.follower_reads = false;
    node.send(conn, 11, &patient);
    assert!(node.try_receive::<FetchRequest>(conn, 11).is_none(), "it waits here");
}

#[test]
fn who_asks_the_wrong_node_is_told_the_right_one() {
    let (mut node, conn, topic) = among(&[Some("b")], &[&[1]]);
    let wrong = ResponseError::NotLeaderOrFollower.code();
    for version in [15, 16, 17] {
        let mut request = fetch("", 0);
        request.topics[0].topic_id = topic;
        let response = node.ask(conn, version, &request);
        let found = first(&response);
        let hint = (found.current_leader.leader_id.0, found.current_leader.leader_epoch);
        assert_eq!(found.error_code, wrong);
        assert_eq!(hint, if version >= 16 { (1, 0) } else { (-1, -1) });
        let named: Vec<_> = response.node_endpoints.iter().map(|n| (n.node_id.0, n.host.as_str(), n.port)).collect();
        assert_eq!(named, if version >= 16 { vec![(1, "node-1", 9092)] } else { vec![] });
    }
    for version in [9, 10, 12, 13] {
        let mut request = produce("t", -1, &[(0, batch(&["a"]))]);
        if version >= 13 {
            request.topic_data[0].name = TopicName::default();
            request.topic_data[0].topic_id = topic;
        }
        let response = node.ask(conn, version, &request);
        let found = produced(&response);
        assert_eq!(found.error_code, wrong);
        assert_eq!(found.current_leader.leader_id.0, if version >= 10 { 1 } else { -1 });
        assert_eq!(response.node_endpoints.len(), usize::from(version >= 10));
    }
}
