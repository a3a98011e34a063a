//! Who may do what: every API that is served, asked by somebody who may not, who may, and who lacks one of the rules.

use std::rc::Rc;

use wherry_metadata::acl::{Acl, Operation, PatternType, Permission, ResourceType};
use wherry_wire::codec::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use wherry_wire::codec::messages::alter_user_scram_credentials_request::ScramCredentialDeletion;
use wherry_wire::codec::messages::create_acls_request::AclCreation;
use wherry_wire::codec::messages::create_partitions_request::CreatePartitionsTopic;
use wherry_wire::codec::messages::delete_acls_request::DeleteAclsFilter;
use wherry_wire::codec::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use wherry_wire::codec::messages::delete_topics_request::DeleteTopicState;
use wherry_wire::codec::messages::describe_configs_request::DescribeConfigsResource;
use wherry_wire::codec::messages::describe_producers_request::TopicRequest as ProducersOf;
use wherry_wire::codec::messages::describe_topic_partitions_request::TopicRequest;
use wherry_wire::codec::messages::metadata_request::MetadataRequestTopic;
use wherry_wire::codec::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use wherry_wire::codec::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use wherry_wire::codec::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use wherry_wire::codec::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wherry_wire::codec::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use wherry_wire::codec::messages::*;
use wherry_wire::codec::{ApiKey, ResponseError, api_versions};

use super::groups::{commit, group, heartbeat, join, sync};
use super::*;
use crate::security::authorizer::AuthorizationConfig;
use crate::security::{Caller, Principal};

const TOPIC: i16 = 29;
const GROUP: i16 = 30;
const CLUSTER: i16 = 31;
const TRANSACTIONAL_ID: i16 = 53;

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

fn guarded() -> Node {
    let authorization = AuthorizationConfig { super_users: vec!["User:root".into()], ..Default::default() };
    let config = NodeConfig { authorization: Some(authorization), auto_create_topics: true, ..config() };
    let mut node = node_with(config);
    let root = node.connect_as("root");
    node.create_topic(root, "t", 1, &[]);
    let found = node.ask(root, 2, &FindCoordinatorRequest::default().with_key(text("g")));
    assert_eq!(found.error_code, 0);
    let transactions = FindCoordinatorRequest::default().with_key(text("x")).with_key_type(1);
    assert_eq!(node.ask(root, 2, &transactions).error_code, 0);
    node.settle();
    node.produce(root, "t", batch(&["a"]));
    node
}

fn acl(text: &str) -> Acl {
    let words: Vec<&str> = text.split(' ').collect();
    let [resource, name, operation] = words[..] else { panic!("{text}") };
    let (name, pattern) = match name.strip_suffix('*') {
        Some(prefix) if !prefix.is_empty() => (prefix, PatternType::Prefixed),
        Some(_) | None => (name, PatternType::Literal),
    };
    let quoted = |word: &str| format!("\"{word}\"");
    Acl {
        resource: serde_json::from_str::<ResourceType>(&quoted(resource)).unwrap(),
        pattern,
        name: name.into(),
        principal: "User:alice".into(),
        host: "*".into(),
        operation: serde_json::from_str::<Operation>(&quoted(operation)).unwrap(),
        permission: Permission::Allow,
    }
}

impl Node {
    fn connect_as(&mut self, user: &str) -> ConnId {
        let conn = self.connect();
        let connection = self.core.connection(conn).unwrap();
        let caller = Caller { principal: Principal::user(user), ..connection.caller.as_ref().clone() };
        connection.caller = Rc::new(caller);
        conn
    }

    fn rule(&mut self, permission: Permission, rule: &str) {
        let acls = vec![Acl { permission, ..acl(rule) }];
        let command = wherry_metadata::Command::CreateAcls { acls };
        self.core.propose(vec![command], crate::core::AfterCommit::Nothing).unwrap();
        self.settle();
    }

    fn allow(&mut self, rules: &[&str]) {
        rules.iter().for_each(|rule| self.rule(Permission::Allow, rule));
    }
}

type Ask = fn(&mut Node, ConnId) -> Vec<i16>;

/// An API, the rules that its request needs, and the request; the answer's error codes come back.
struct Probe {
    api: ApiKey,
    rules: &'static [&'static str],
    refusal: i16,
    ask: Ask,
}

fn probe(api: ApiKey) -> Option<Probe> {
    let of = |rules: &'static [&'static str], refusal: i16, ask: Ask| Some(Probe { api, rules, refusal, ask });
    let describe_cluster = &["cluster kafka-cluster describe"][..];
    let alter_cluster = &["cluster kafka-cluster alter"][..];
    match api {
        ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate | ApiKey::DescribeCluster => None,
        ApiKey::Produce => of(&["topic t write"], TOPIC, |node, conn| {
            let response = node.ask(conn, 9, &produce("t", -1, &[(0, batch(&["a"]))]));
            vec![produced(&response).error_code]
        }),
        ApiKey::Fetch => of(&["topic t read"], TOPIC, |node, conn| {
            let answer = node.fetch(conn, "t", 0);
            assert_eq!(answer.error_code == 0, !values(&answer.records).is_empty());
            vec![answer.error_code]
        }),
        ApiKey::ListOffsets => of(&["topic t describe"], TOPIC, |node, conn| {
            vec![node.ask(conn, 7, &topics::list_offsets("t", -1)).topics[0].partitions[0].error_code]
        }),
        ApiKey::Metadata => of(&["topic t describe"], TOPIC, |node, conn| {
            let topic = MetadataRequestTopic::default().with_name(Some(name("t")));
            let response = node.ask(conn, 9, &MetadataRequest::default().with_topics(Some(vec![topic])));
            assert_eq!(response.topics[0].error_code == 0, !response.topics[0].partitions.is_empty());
            vec![response.topics[0].error_code]
        }),
        ApiKey::OffsetCommit => of(&["group g read", "topic t read"], 0, |node, conn| {
            vec![node.ask(conn, 7, &commit("g", "", -1, "t", 1)).topics[0].partitions[0].error_code]
        }),
        ApiKey::OffsetFetch => of(&["group g describe", "topic t describe"], 0, |node, conn| {
            let topics = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![0]);
            let groups = ["g", "g2"].map(|id| {
                OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(Some(vec![topics.clone()]))
            });
            let new = node.ask(conn, 8, &OffsetFetchRequest::default().with_groups(groups.to_vec()));
            assert_eq!(new.groups[1].error_code, GROUP, "that one nobody may see");
            let topics = OffsetFetchRequestTopic::default().with_name(name("t")).with_partition_indexes(vec![0]);
            let old = OffsetFetchRequest::default().with_group_id(group("g")).with_topics(Some(vec![topics]));
            let old = node.ask(conn, 7, &old);
            let new = &new.groups[0];
            assert_eq!((new.error_code, new.topics.len()), (old.error_code, old.topics.len()));
            let of_topics = old.topics.iter().map(|topic| topic.partitions[0].error_code);
            of_topics.chain([old.error_code]).collect()
        }),
        ApiKey::FindCoordinator => of(&["group g describe"], GROUP, |node, conn| {
            vec![node.ask(conn, 2, &FindCoordinatorRequest::default().with_key(text("g"))).error_code]
        }),
        ApiKey::JoinGroup => of(&["group g read"], GROUP, |node, conn| vec![node.ask(conn, 4, &join("")).error_code]),
        ApiKey::Heartbeat => {
            of(&["group g read"], GROUP, |node, conn| vec![node.ask(conn, 3, &heartbeat("m", 1)).error_code])
        }
        ApiKey::LeaveGroup => of(&["group g read"], GROUP, |node, conn| {
            vec![node.ask(conn, 1, &LeaveGroupRequest::default().with_group_id(group("g"))).error_code]
        }),
        ApiKey::SyncGroup => {
            of(&["group g read"], GROUP, |node, conn| vec![node.ask(conn, 3, &sync("m", 1, None)).error_code])
        }
        ApiKey::DescribeGroups => of(&["group g describe"], GROUP, |node, conn| {
            let request = DescribeGroupsRequest::default().with_groups(vec![group("secret"), group("g")]);
            let response = node.ask(conn, 5, &request.with_include_authorized_operations(true));
            assert_eq!(response.groups[0].error_code, GROUP, "that one nobody may see");
            vec![response.groups[1].error_code]
        }),
        ApiKey::ListGroups => of(&["group g describe"], GROUP, |node, conn| {
            let root = node.connect_as("root");
            assert_eq!(node.ask(root, 7, &commit("g", "", -1, "t", 1)).topics[0].partitions[0].error_code, 0);
            let listed = node.ask(conn, 4, &ListGroupsRequest::default());
            vec![if listed.groups.is_empty() { GROUP } else { listed.error_code }]
        }),
        ApiKey::DeleteGroups => of(&["group g delete"], GROUP, |node, conn| {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![group("g"), group("secret")]);
            let response = node.ask(conn, 2, &request);
            assert_eq!(response.results[1].error_code, GROUP, "that one nobody may delete");
            vec![response.results[0].error_code]
        }),
        ApiKey::OffsetDelete => of(&["group g delete", "topic t read"], 0, |node, conn| {
            let partition = OffsetDeleteRequestPartition::default();
            let topic = OffsetDeleteRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let root = node.connect_as("root");
            node.ask(root, 7, &commit("g", "", -1, "t", 1));
            let request = OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(vec![topic]);
            let response = node.ask(conn, 0, &request);
            let of_topics = response.topics.iter().map(|topic| topic.partitions[0].error_code);
            of_topics.chain([response.error_code]).collect()
        }),
        ApiKey::CreateTopics => of(&["topic new create"], TOPIC, |node, conn| {
            vec![node.ask(conn, 5, &create("new", 1, &[])).topics[0].error_code]
        }),
        ApiKey::DeleteTopics => of(&["topic t delete"], TOPIC, |node, conn| {
            let topic = DeleteTopicState::default().with_name(Some(name("t")));
            vec![node.ask(conn, 6, &DeleteTopicsRequest::default().with_topics(vec![topic])).responses[0].error_code]
        }),
        ApiKey::DeleteRecords => of(&["topic t delete"], TOPIC, |node, conn| {
            let partition = DeleteRecordsPartition::default().with_offset(-1);
            let topic = DeleteRecordsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let response = node.ask(conn, 2, &DeleteRecordsRequest::default().with_topics(vec![topic]));
            vec![response.topics[0].partitions[0].error_code]
        }),
        ApiKey::CreatePartitions => of(&["topic t alter"], TOPIC, |node, conn| {
            let topic = CreatePartitionsTopic::default().with_name(name("t")).with_count(2).with_assignments(None);
            vec![node.ask(conn, 3, &CreatePartitionsRequest::default().with_topics(vec![topic])).results[0].error_code]
        }),
        ApiKey::InitProducerId => of(&["topic t write"], CLUSTER, |node, conn| {
            vec![node.ask(conn, 4, &InitProducerIdRequest::default().with_transactional_id(None)).error_code]
        }),
        ApiKey::OffsetForLeaderEpoch => of(&["topic t describe"], TOPIC, |node, conn| {
            let partition = OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
            let topic = OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            vec![node.ask(conn, 3, &request.with_replica_id((-1).into())).topics[0].partitions[0].error_code]
        }),
        ApiKey::DescribeConfigs => {
            of(&["topic t describe_configs", "cluster kafka-cluster describe_configs"], 0, |node, conn| {
                let of = |kind, name: &str| {
                    DescribeConfigsResource::default()
                        .with_resource_type(kind)
                        .with_resource_name(text(name))
                        .with_configuration_keys(None)
                };
                let request = DescribeConfigsRequest::default().with_resources(vec![of(2, "t"), of(4, "0")]);
                let response = node.ask(conn, 4, &request);
                response.results.iter().map(|result| result.error_code).collect()
            })
        }
        ApiKey::AlterConfigs => of(&["topic t alter_configs"], TOPIC, |node, conn| {
            let resource = alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"));
            vec![
                node.ask(conn, 2, &AlterConfigsRequest::default().with_resources(vec![resource])).responses[0]
                    .error_code,
            ]
        }),
        ApiKey::IncrementalAlterConfigs => {
            of(&["topic t alter_configs", "cluster kafka-cluster alter_configs"], 0, |node, conn| {
                let of = |kind, name: &str| {
                    incremental_alter_configs_request::AlterConfigsResource::default()
                        .with_resource_type(kind)
                        .with_resource_name(text(name))
                };
                let request = IncrementalAlterConfigsRequest::default().with_resources(vec![of(2, "t"), of(4, "0")]);
                node.ask(conn, 1, &request).responses.iter().map(|r| r.error_code).collect()
            })
        }
        ApiKey::ConsumerGroupHeartbeat => of(&["group g read", "topic t describe"], 0, |node, conn| {
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group("g"))
                .with_member_id(text("m"))
                .with_rebalance_timeout_ms(10_000)
                .with_subscribed_topic_names(Some(vec![name("t")]))
                .with_topic_partitions(Some(Vec::new()));
            vec![node.ask(conn, 1, &request).error_code]
        }),
        ApiKey::ConsumerGroupDescribe => of(&["group g describe"], GROUP, |node, conn| {
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("secret"), group("g")]);
            let response = node.ask(conn, 1, &request);
            assert_eq!(response.groups[0].error_code, GROUP, "that one nobody may see");
            vec![response.groups[1].error_code]
        }),
        ApiKey::UpdateFeatures => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 1, &UpdateFeaturesRequest::default()).error_code]
        }),
        ApiKey::ListConfigResources => of(&["cluster kafka-cluster describe_configs"], CLUSTER, |node, conn| {
            vec![node.ask(conn, 1, &ListConfigResourcesRequest::default()).error_code]
        }),
        ApiKey::AddPartitionsToTxn => of(&["transactional_id x write", "topic t write"], 0, |node, conn| {
            let topic = AddPartitionsToTxnTopic::default().with_name(name("t")).with_partitions(vec![0]);
            let old = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(transactional("x"))
                .with_v3_and_below_topics(vec![topic]);
            let many = node.ask(conn, 5, &AddPartitionsToTxnRequest::default());
            assert_eq!(many.error_code, CLUSTER, "only nodes may ask for many");
            let old = node.ask(conn, 3, &old);
            vec![old.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code]
        }),
        ApiKey::AddOffsetsToTxn => of(&["transactional_id x write", "group g read"], 0, |node, conn| {
            let request =
                AddOffsetsToTxnRequest::default().with_transactional_id(transactional("x")).with_group_id(group("g"));
            vec![node.ask(conn, 3, &request).error_code]
        }),
        ApiKey::EndTxn => of(&["transactional_id x write"], TRANSACTIONAL_ID, |node, conn| {
            vec![node.ask(conn, 3, &EndTxnRequest::default().with_transactional_id(transactional("x"))).error_code]
        }),
        ApiKey::TxnOffsetCommit => {
            of(&["transactional_id x write", "group g read", "topic t read"], 0, |node, conn| {
                let partition = TxnOffsetCommitRequestPartition::default();
                let topic =
                    TxnOffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
                let request = TxnOffsetCommitRequest::default()
                    .with_transactional_id(transactional("x"))
                    .with_group_id(group("g"))
                    .with_producer_id(ProducerId(1))
                    .with_topics(vec![topic]);
                vec![node.ask(conn, 3, &request).topics[0].partitions[0].error_code]
            })
        }
        ApiKey::WriteTxnMarkers => of(alter_cluster, CLUSTER, |node, conn| {
            let topic = WritableTxnMarkerTopic::default().with_name(name("t")).with_partition_indexes(vec![0]);
            let marker = WritableTxnMarker::default().with_topics(vec![topic]);
            let response = node.ask(conn, 1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]));
            vec![response.markers[0].topics[0].partitions[0].error_code]
        }),
        ApiKey::DescribeProducers => of(&["topic t read"], TOPIC, |node, conn| {
            let topic = ProducersOf::default().with_name(name("t")).with_partition_indexes(vec![0]);
            let response = node.ask(conn, 0, &DescribeProducersRequest::default().with_topics(vec![topic]));
            vec![response.topics[0].partitions[0].error_code]
        }),
        ApiKey::DescribeTransactions => of(&["transactional_id x describe"], TRANSACTIONAL_ID, |node, conn| {
            let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional("x")]);
            vec![node.ask(conn, 0, &request).transaction_states[0].error_code]
        }),
        ApiKey::ListTransactions => of(&["transactional_id x describe"], TRANSACTIONAL_ID, |node, conn| {
            let root = node.connect_as("root");
            let init = InitProducerIdRequest::default()
                .with_transactional_id(Some(transactional("x")))
                .with_transaction_timeout_ms(1_000);
            assert_eq!(node.ask(root, 2, &init).error_code, 0);
            let listed = node.ask(conn, 0, &ListTransactionsRequest::default());
            vec![if listed.transaction_states.is_empty() { TRANSACTIONAL_ID } else { listed.error_code }]
        }),
        ApiKey::DescribeTopicPartitions => of(&["topic t describe"], TOPIC, |node, conn| {
            let topic = TopicRequest::default().with_name(name("t"));
            let request = DescribeTopicPartitionsRequest::default().with_topics(vec![topic]);
            let response = node.ask(conn, 0, &request.with_response_partition_limit(10));
            vec![response.topics[0].error_code]
        }),
        ApiKey::DescribeLogDirs => of(describe_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 4, &DescribeLogDirsRequest::default().with_topics(None)).error_code]
        }),
        ApiKey::ListPartitionReassignments => of(describe_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &ListPartitionReassignmentsRequest::default().with_topics(None)).error_code]
        }),
        ApiKey::DescribeQuorum => of(describe_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 2, &DescribeQuorumRequest::default()).error_code]
        }),
        ApiKey::DescribeAcls => of(describe_cluster, CLUSTER, |node, conn| {
            let any = DescribeAclsRequest::default().with_resource_type_filter(1).with_pattern_type_filter(1);
            let any = any.with_resource_name_filter(None).with_principal_filter(None).with_host_filter(None);
            let response = node.ask(conn, 3, &any.with_operation(1).with_permission_type(1));
            assert_eq!(response.error_code == 0, !response.resources.is_empty());
            vec![response.error_code]
        }),
        ApiKey::DescribeUserScramCredentials => of(describe_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &DescribeUserScramCredentialsRequest::default().with_users(None)).error_code]
        }),
        ApiKey::DescribeClientQuotas => of(&["cluster kafka-cluster describe_configs"], CLUSTER, |node, conn| {
            vec![node.ask(conn, 1, &DescribeClientQuotasRequest::default()).error_code]
        }),
        ApiKey::AlterClientQuotas => of(&["cluster kafka-cluster alter_configs"], CLUSTER, |node, conn| {
            let entry = alter_client_quotas_request::EntryData::default();
            let response = node.ask(conn, 1, &AlterClientQuotasRequest::default().with_entries(vec![entry]));
            vec![response.entries[0].error_code]
        }),
        ApiKey::ElectLeaders => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 2, &ElectLeadersRequest::default().with_topic_partitions(None)).error_code]
        }),
        ApiKey::AlterPartitionReassignments => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &AlterPartitionReassignmentsRequest::default()).error_code]
        }),
        ApiKey::UnregisterBroker => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &UnregisterBrokerRequest::default().with_broker_id(BrokerId(7))).error_code]
        }),
        ApiKey::AddRaftVoter => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &AddRaftVoterRequest::default().with_voter_id(7)).error_code]
        }),
        ApiKey::RemoveRaftVoter => of(alter_cluster, CLUSTER, |node, conn| {
            vec![node.ask(conn, 0, &RemoveRaftVoterRequest::default().with_voter_id(7)).error_code]
        }),
        ApiKey::CreateAcls => of(alter_cluster, CLUSTER, |node, conn| {
            let acl = AclCreation::default()
                .with_resource_type(2)
                .with_resource_name(text("x"))
                .with_resource_pattern_type(3)
                .with_principal(text("User:bob"))
                .with_host(text("*"))
                .with_operation(3)
                .with_permission_type(3);
            vec![node.ask(conn, 3, &CreateAclsRequest::default().with_creations(vec![acl])).results[0].error_code]
        }),
        ApiKey::DeleteAcls => of(alter_cluster, CLUSTER, |node, conn| {
            let filter = DeleteAclsFilter::default()
                .with_resource_type_filter(1)
                .with_resource_name_filter(Some(text("x")))
                .with_pattern_type_filter(1)
                .with_principal_filter(None)
                .with_host_filter(None)
                .with_operation(1)
                .with_permission_type(1);
            let response = node.ask(conn, 3, &DeleteAclsRequest::default().with_filters(vec![filter]));
            vec![response.filter_results[0].error_code]
        }),
        ApiKey::AlterUserScramCredentials => of(alter_cluster, CLUSTER, |node, conn| {
            let deletion = ScramCredentialDeletion::default().with_name(text("x")).with_mechanism(1);
            let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
            vec![node.ask(conn, 0, &request).results[0].error_code]
        }),
        ApiKey::ShareGroupHeartbeat => of(&["group g read", "topic t describe"], 0, |node, conn| {
            vec![share_groups::beat(node, conn, "a", 0, &["t"]).error_code]
        }),
        ApiKey::ShareGroupDescribe => of(&["group g describe"], GROUP, |node, conn| {
            let request = ShareGroupDescribeRequest::default().with_group_ids(vec![group("secret"), group("g")]);
            let root = node.connect_as("root");
            share_groups::empty_group(node, root);
            let response = node.ask(conn, 1, &request);
            assert_eq!(response.groups[0].error_code, GROUP, "that one nobody may see");
            vec![response.groups[1].error_code]
        }),
        ApiKey::ShareFetch => of(&["group g read", "topic t read"], GROUP, |node, conn| {
            let response = share_groups::first_fetch(node, conn, "t");
            let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).chain([response.error_code]).filter(|c| *c != 0).collect()
        }),
        ApiKey::ShareAcknowledge => of(&["group g read", "topic t read"], GROUP, |node, conn| {
            share_groups::first_fetch(node, conn, "t");
            let response = share_groups::acknowledge_nothing(node, conn, "t");
            let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
            partitions.map(|partition| partition.error_code).chain([response.error_code]).filter(|c| *c != 0).collect()
        }),
        ApiKey::DescribeShareGroupOffsets => of(&["group g describe", "topic t describe"], GROUP, |node, conn| {
            let root = node.connect_as("root");
            share_groups::empty_group(node, root);
            share_groups::describe_offsets(node, conn, "t").into_iter().filter(|code| *code != 0).collect()
        }),
        ApiKey::AlterShareGroupOffsets => of(&["group g read", "topic t read"], GROUP, |node, conn| {
            let root = node.connect_as("root");
            share_groups::empty_group(node, root);
            share_groups::alter(node, conn, 1).into_iter().filter(|code| *code != 0).collect()
        }),
        ApiKey::DeleteShareGroupOffsets => of(&["group g delete", "topic t read"], GROUP, |node, conn| {
            let root = node.connect_as("root");
            share_groups::empty_group(node, root);
            share_groups::delete(node, conn).into_iter().filter(|code| *code != 0).collect()
        }),
        other => panic!("{other:?} is served, but nobody has tried it without permission: add it here"),
    }
}

fn is_refusal(code: i16) -> bool {
    [TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID].contains(&code)
}

#[test]
fn every_api_asks_for_its_rules() {
    for served in api_versions() {
        let Some(Probe { api, rules, refusal, ask }) = probe(served.api) else { continue };
        let mut node = guarded();
        let conn = node.connect_as("alice");
        let codes = ask(&mut node, conn);
        assert!(codes.iter().any(|code| is_refusal(*code)), "{api:?} without rules: {codes:?}");
        if refusal != 0 {
            assert_eq!(codes, [refusal], "{api:?}");
        }
        for missing in rules {
            let mut node = guarded();
            let others: Vec<&str> = rules.iter().copied().filter(|rule| rule != missing).collect();
            node.allow(&others);
            let conn = node.connect_as("alice");
            let codes = ask(&mut node, conn);
            assert!(codes.iter().any(|code| is_refusal(*code)), "{api:?} without {missing}: {codes:?}");
        }
        let mut node = guarded();
        node.allow(rules);
        let conn = node.connect_as("alice");
        let codes = ask(&mut node, conn);
        assert!(!codes.iter().any(|code| is_refusal(*code)), "{api:?} with {rules:?}: {codes:?}");
        assert!(node.core.stats().unauthorized.get() < 100);
    }
}

fn seen(node: &mut Node, conn: ConnId) -> Vec<String> {
    let all = node.ask(conn, 12, &MetadataRequest::default().with_topics(None));
    all.topics.iter().map(|topic| topic.name.as_ref().unwrap().to_string()).collect()
}

#[test]
fn names_of_what_may_not_be_seen_are_not_told() {
    let mut node = guarded();
    let root = node.connect_as("root");
    let secret = node.create_topic(root, "secret", 1, &[]);
    node.create_topic(root, "public-1", 1, &[]);
    let conn = node.connect_as("alice");
    assert_eq!(seen(&mut node, conn), Vec::<String>::new());
    node.allow(&["topic public* describe"]);
    assert_eq!(seen(&mut node, conn), ["public-1"]);
    let ask = |node: &mut Node, topic: MetadataRequestTopic| {
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
        node.ask(conn, 12, &request).topics[0].clone()
    };
    let named = |n: &str| MetadataRequestTopic::default().with_name(Some(name(n)));
    let there = ask(&mut node, named("secret"));
    let not_there = ask(&mut node, named("no-such"));
    assert_eq!((there.error_code, there.topic_id, there.partitions.len()), (TOPIC, Uuid::nil(), 0));
    assert_eq!(
        (not_there.error_code, not_there.topic_id),
        (TOPIC, Uuid::nil()),
        "the same answer, and nothing is made"
    );
    let by_id = ask(&mut node, MetadataRequestTopic::default().with_name(None).with_topic_id(secret));
    assert_eq!((by_id.error_code, by_id.name), (ResponseError::UnknownTopicId.code(), None));
    let listed = node.ask(conn, 0, &DescribeTopicPartitionsRequest::default().with_response_partition_limit(100));
    assert_eq!(listed.topics.len(), 1);
    // Offsets of all topics of a group: those that may not be seen are not there.
    node.allow(&["group g read", "group g describe"]);
    for topic in ["secret", "public-1"] {
        assert_eq!(node.ask(root, 7, &commit("g", "", -1, topic, 1)).topics[0].partitions[0].error_code, 0);
    }
    let all = OffsetFetchRequestGroup::default().with_group_id(group("g")).with_topics(None);
    let fetched = node.ask(conn, 8, &OffsetFetchRequest::default().with_groups(vec![all]));
    let names: Vec<_> = fetched.groups[0].topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["public-1"]);
}

#[test]
fn patterns_of_consumer_groups_match_only_what_may_be_seen() {
    let mut node = guarded();
    let root = node.connect_as("root");
    for topic in ["public-1", "public-2", "secret"] {
        node.create_topic(root, topic, 1, &[]);
    }
    node.allow(&["group g read", "topic public-* describe"]);
    let alice = node.connect_as("alice");
    let beat = ConsumerGroupHeartbeatRequest::default().with_group_id(group("g")).with_member_id(text("a"));
    let join = beat
        .clone()
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_regex(Some(text("p.*|s.*")))
        .with_topic_partitions(Some(Vec::new()));
    let topics = |response: &ConsumerGroupHeartbeatResponse| {
        response.assignment.as_ref().map_or(0, |assignment| assignment.topic_partitions.len())
    };
    let unauthorized = node.core.stats().unauthorized.get();
    let joined = node.ask(alice, 1, &join);
    assert_eq!((joined.error_code, topics(&joined)), (0, 2));
    assert_eq!(node.core.stats().unauthorized.get(), unauthorized, "nobody tried anything");
    // A rule that comes counts without a topic that does.
    node.allow(&["topic secret describe"]);
    node.advance_ms(10_001);
    let told = node.ask(alice, 1, &beat.with_member_epoch(joined.member_epoch));
    assert_eq!((told.error_code, topics(&told)), (0, 3));
}

#[test]
fn operations_that_may_be_done_are_told() {
    let mut node = guarded();
    node.allow(&["topic t read", "group g all", "cluster kafka-cluster describe"]);
    node.rule(Permission::Deny, "group g delete");
    let conn = node.connect_as("alice");
    let bit = |operation: Operation| 1 << operation.code();
    let topic = MetadataRequestTopic::default().with_name(Some(name("t")));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_include_topic_authorized_operations(true)
        .with_include_cluster_authorized_operations(true);
    let told = node.ask(conn, 9, &request);
    assert_eq!(told.topics[0].topic_authorized_operations, bit(Operation::Read) | bit(Operation::Describe));
    assert_eq!(told.cluster_authorized_operations, bit(Operation::Describe));
    let cluster = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    assert_eq!(node.ask(conn, 0, &cluster).cluster_authorized_operations, bit(Operation::Describe));
    let groups = DescribeGroupsRequest::default().with_groups(vec![group("g")]);
    assert_eq!(node.ask(conn, 5, &groups).groups[0].authorized_operations, i32::MIN, "nobody asked");
    let root = node.connect_as("root");
    assert_eq!(node.ask(root, 7, &commit("g", "", -1, "t", 1)).topics[0].partitions[0].error_code, 0);
    let told = node.ask(conn, 5, &groups.with_include_authorized_operations(true)).groups[0].authorized_operations;
    assert_eq!(told & bit(Operation::Delete), 0);
    assert_ne!(told & bit(Operation::Read), 0);
}

#[test]
fn topics_are_made_on_the_way_only_for_those_who_may() {
    let mut node = guarded();
    let conn = node.connect_as("alice");
    let ask = |node: &mut Node| {
        let topic = MetadataRequestTopic::default().with_name(Some(name("fresh")));
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
        node.ask(conn, 9, &request).topics[0].error_code
    };
    node.allow(&["topic fresh describe"]);
    assert_eq!(ask(&mut node), ResponseError::UnknownTopicOrPartition.code());
    node.allow(&["topic fresh create"]);
    assert_eq!(ask(&mut node), 0);
}

#[test]
fn without_an_authorizer_rules_can_t_be_made() {
    let mut node = node();
    let conn = node.connect();
    let any = DescribeAclsRequest::default().with_resource_type_filter(1).with_pattern_type_filter(1);
    let response = node.ask(conn, 3, &any.with_operation(1).with_permission_type(1));
    assert_eq!(response.error_code, ResponseError::SecurityDisabled.code());
    let acl = AclCreation::default().with_resource_type(2).with_resource_pattern_type(3);
    let made = node.ask(conn, 3, &CreateAclsRequest::default().with_creations(vec![acl]));
    assert_eq!(made.results[0].error_code, ResponseError::SecurityDisabled.code());
}

#[test]
fn rules_are_made_found_and_deleted() {
    let mut node = guarded();
    let root = node.connect_as("root");
    let good = AclCreation::default()
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_resource_pattern_type(3)
        .with_principal(text("User:alice"))
        .with_host(text("*"))
        .with_operation(4)
        .with_permission_type(3);
    let bad = |spoil: fn(AclCreation) -> AclCreation| spoil(good.clone());
    let creations = vec![
        good.clone(),
        bad(|acl| acl.with_resource_type(1)),
        bad(|acl| acl.with_resource_pattern_type(2)),
        bad(|acl| acl.with_operation(0)),
        bad(|acl| acl.with_permission_type(1)),
        bad(|acl| acl.with_principal(text("alice"))),
        bad(|acl| acl.with_resource_type(4)),
    ];
    let made = node.ask(root, 3, &CreateAclsRequest::default().with_creations(creations));
    let invalid = ResponseError::InvalidRequest.code();
    let codes: Vec<i16> = made.results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, invalid, invalid, invalid, invalid, invalid, invalid]);
    let alice = node.connect_as("alice");
    assert_eq!(node.produce(alice, "t", batch(&["b"])).error_code, 0);
    let filter = DescribeAclsRequest::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(Some(text("t")))
        .with_pattern_type_filter(2)
        .with_principal_filter(Some(text("User:alice")))
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let found = node.ask(root, 3, &filter);
    assert_eq!((found.resources.len(), found.resources[0].acls[0].operation), (1, 4));
    let unknown = node.ask(root, 3, &filter.with_operation(0));
    assert_eq!(unknown.error_code, invalid);
    let filter = DeleteAclsFilter::default()
        .with_resource_type_filter(2)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(1)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let deleted = node.ask(root, 3, &DeleteAclsRequest::default().with_filters(vec![filter]));
    let gone = &deleted.filter_results[0].matching_acls;
    assert_eq!((gone.len(), gone[0].principal.as_str()), (1, "User:alice"));
    assert_eq!(node.produce(alice, "t", batch(&["c"])).error_code, TOPIC);
}
