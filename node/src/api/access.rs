//! Who may send which request: the table of Kafka's rules, one entry per API. What is about the whole request is refused
//! here, before its handler sees it; what is about topics, groups or other resources in it, by its handler.

use wherry_metadata::acl::{Operation as Op, ResourceType as Type};

use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_wire::codec::messages::{
    AddRaftVoterResponse, AlterClientQuotasResponse, AlterPartitionReassignmentsResponse,
    AlterUserScramCredentialsResponse, CreateAclsResponse, DeleteAclsResponse, DescribeAclsResponse,
    DescribeClientQuotasResponse, DescribeLogDirsResponse, DescribeQuorumResponse,
    DescribeUserScramCredentialsResponse, ElectLeadersResponse, ListConfigResourcesResponse,
    ListPartitionReassignmentsResponse, RemoveRaftVoterResponse, UnregisterBrokerResponse, UpdateFeaturesResponse,
    alter_client_quotas_response, alter_user_scram_credentials_response, create_acls_response, delete_acls_response,
};
use wherry_wire::codec::{RequestBody, ResponseError, StrBytes};

/// What a caller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing: it leads to authentication, or tells nothing.
    Anybody,
    /// This on the cluster; refused here.
    Cluster(Op),
    /// One of these on each resource that the request is about; refused by the handler.
    Each(&'static [(Type, Op)]),
}

/// The rule of an API. There is one for every API: the match is exhaustive.
pub(crate) fn rule(body: &RequestBody) -> Rule {
    use RequestBody as Body;
    use Rule::{Anybody, Cluster, Each};
    match body {
        Body::ApiVersions(_) | Body::SaslHandshake(_) | Body::SaslAuthenticate(_) | Body::DescribeCluster(_) => Anybody,
        Body::Produce(_) => Each(&[(Type::Topic, Op::Write), (Type::TransactionalId, Op::Write)]),
        Body::Fetch(_) => Each(&[(Type::Topic, Op::Read)]),
        Body::ListOffsets(_) | Body::Metadata(_) | Body::OffsetForLeaderEpoch(_) | Body::DescribeTopicPartitions(_) => {
            Each(&[(Type::Topic, Op::Describe)])
        }
        Body::AddPartitionsToTxn(_) => {
            Each(&[(Type::TransactionalId, Op::Write), (Type::Topic, Op::Write), (Type::Cluster, Op::ClusterAction)])
        }
        Body::AddOffsetsToTxn(_) => Each(&[(Type::TransactionalId, Op::Write), (Type::Group, Op::Read)]),
        Body::EndTxn(_) => Each(&[(Type::TransactionalId, Op::Write)]),
        Body::TxnOffsetCommit(_) => {
            Each(&[(Type::TransactionalId, Op::Write), (Type::Group, Op::Read), (Type::Topic, Op::Read)])
        }
        Body::WriteTxnMarkers(_) => Each(&[(Type::Cluster, Op::Alter), (Type::Cluster, Op::ClusterAction)]),
        Body::DescribeProducers(_) => Each(&[(Type::Topic, Op::Read)]),
        Body::DescribeTransactions(_) => Each(&[(Type::TransactionalId, Op::Describe), (Type::Topic, Op::Describe)]),
        Body::ListTransactions(_) => Each(&[(Type::TransactionalId, Op::Describe)]),
        Body::OffsetCommit(_) => Each(&[(Type::Group, Op::Read), (Type::Topic, Op::Read)]),
        Body::OffsetFetch(_) => Each(&[(Type::Group, Op::Describe), (Type::Topic, Op::Describe)]),
        Body::FindCoordinator(_) => Each(&[(Type::Group, Op::Describe), (Type::TransactionalId, Op::Describe)]),
        Body::JoinGroup(_) | Body::Heartbeat(_) | Body::LeaveGroup(_) | Body::SyncGroup(_) => {
            Each(&[(Type::Group, Op::Read)])
        }
        Body::ConsumerGroupHeartbeat(_) => Each(&[(Type::Group, Op::Read), (Type::Topic, Op::Describe)]),
        Body::ConsumerGroupDescribe(_) => Each(&[(Type::Group, Op::Describe), (Type::Topic, Op::Describe)]),
        Body::ShareGroupHeartbeat(_) => Each(&[(Type::Group, Op::Read), (Type::Topic, Op::Describe)]),
        Body::ShareFetch(_) | Body::ShareAcknowledge(_) => Each(&[(Type::Group, Op::Read), (Type::Topic, Op::Read)]),
        Body::ShareGroupDescribe(_) | Body::DescribeShareGroupOffsets(_) => {
            Each(&[(Type::Group, Op::Describe), (Type::Topic, Op::Describe)])
        }
        Body::AlterShareGroupOffsets(_) => Each(&[(Type::Group, Op::Read), (Type::Topic, Op::Read)]),
        Body::DeleteShareGroupOffsets(_) => Each(&[(Type::Group, Op::Delete), (Type::Topic, Op::Read)]),
        Body::DescribeGroups(_) => Each(&[(Type::Group, Op::Describe)]),
        Body::ListGroups(_) => Each(&[(Type::Cluster, Op::Describe), (Type::Group, Op::Describe)]),
        Body::DeleteGroups(_) => Each(&[(Type::Group, Op::Delete)]),
        Body::OffsetDelete(_) => Each(&[(Type::Group, Op::Delete), (Type::Topic, Op::Read)]),
        Body::CreateTopics(_) => Each(&[(Type::Cluster, Op::Create), (Type::Topic, Op::Create)]),
        Body::DeleteTopics(_) | Body::DeleteRecords(_) => Each(&[(Type::Topic, Op::Delete)]),
        Body::CreatePartitions(_) => Each(&[(Type::Topic, Op::Alter)]),
        Body::InitProducerId(_) => {
            Each(&[(Type::TransactionalId, Op::Write), (Type::Cluster, Op::IdempotentWrite), (Type::Topic, Op::Write)])
        }
        Body::DescribeConfigs(_) => Each(&[
            (Type::Topic, Op::DescribeConfigs),
            (Type::Group, Op::DescribeConfigs),
            (Type::Cluster, Op::DescribeConfigs),
        ]),
        Body::AlterConfigs(_) | Body::IncrementalAlterConfigs(_) => {
            Each(&[(Type::Topic, Op::AlterConfigs), (Type::Group, Op::AlterConfigs), (Type::Cluster, Op::AlterConfigs)])
        }
        Body::DescribeLogDirs(_)
        | Body::ListPartitionReassignments(_)
        | Body::DescribeQuorum(_)
        | Body::DescribeAcls(_)
        | Body::DescribeUserScramCredentials(_) => Cluster(Op::Describe),
        Body::ElectLeaders(_)
        | Body::AlterPartitionReassignments(_)
        | Body::UnregisterBroker(_)
        | Body::AddRaftVoter(_)
        | Body::RemoveRaftVoter(_)
        | Body::CreateAcls(_)
        | Body::DeleteAcls(_)
        | Body::UpdateFeatures(_)
        | Body::AlterUserScramCredentials(_) => Cluster(Op::Alter),
        Body::DescribeClientQuotas(_) | Body::ListConfigResources(_) => Cluster(Op::DescribeConfigs),
        Body::AlterClientQuotas(_) => Cluster(Op::AlterConfigs),
    }
}

/// The answer to a request that its caller may not make as a whole.
pub(super) fn refused<S: LogStore>(core: &Core<S>, ctx: &Ctx, body: &RequestBody) -> Option<Outcome> {
    match rule(body) {
        Rule::Cluster(operation) if !core.allows_cluster(ctx, operation) => Some(refusal(ctx, body)),
        Rule::Cluster(_) | Rule::Anybody | Rule::Each(_) => None,
    }
}

/// CLUSTER_AUTHORIZATION_FAILED, where the response of that API has a place for it.
fn refusal(ctx: &Ctx, body: &RequestBody) -> Outcome {
    use RequestBody as Body;
    let code = ResponseError::ClusterAuthorizationFailed.code();
    let text = || Some(StrBytes::from_static_str("Cluster authorization failed."));
    match body {
        Body::DescribeLogDirs(_) => {
            let response = DescribeLogDirsResponse::default();
            // Before there was a place, an empty list said it.
            ctx.reply(&if ctx.version >= 3 { response.with_error_code(code) } else { response })
        }
        Body::ListPartitionReassignments(_) => {
            ctx.reply(&ListPartitionReassignmentsResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::AlterPartitionReassignments(_) => {
            ctx.reply(&AlterPartitionReassignmentsResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::DescribeQuorum(_) => {
            let response = DescribeQuorumResponse::default().with_error_code(code);
            ctx.reply(&if ctx.version >= 2 { response.with_error_message(text()) } else { response })
        }
        Body::ElectLeaders(_) => {
            let response = ElectLeadersResponse::default();
            ctx.reply(&if ctx.version >= 1 { response.with_error_code(code) } else { response })
        }
        Body::UnregisterBroker(_) => {
            ctx.reply(&UnregisterBrokerResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::UpdateFeatures(_) => {
            ctx.reply(&UpdateFeaturesResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::ListConfigResources(_) => ctx.reply(&ListConfigResourcesResponse::default().with_error_code(code)),
        Body::AddRaftVoter(_) => {
            ctx.reply(&AddRaftVoterResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::RemoveRaftVoter(_) => {
            ctx.reply(&RemoveRaftVoterResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::DescribeAcls(_) => {
            ctx.reply(&DescribeAclsResponse::default().with_error_code(code).with_error_message(text()))
        }
        Body::CreateAcls(request) => {
            let one =
                create_acls_response::AclCreationResult::default().with_error_code(code).with_error_message(text());
            ctx.reply(&CreateAclsResponse::default().with_results(vec![one; request.creations.len()]))
        }
        Body::DeleteAcls(request) => {
            let one = delete_acls_response::DeleteAclsFilterResult::default()
                .with_error_code(code)
                .with_error_message(text());
            ctx.reply(&DeleteAclsResponse::default().with_filter_results(vec![one; request.filters.len()]))
        }
        Body::DescribeUserScramCredentials(_) => {
            let response = DescribeUserScramCredentialsResponse::default().with_error_code(code);
            ctx.reply(&response.with_error_message(text()))
        }
        Body::AlterUserScramCredentials(request) => {
            let named = request.deletions.iter().map(|d| &d.name).chain(request.upsertions.iter().map(|u| &u.name));
            let result = |user: &StrBytes| {
                alter_user_scram_credentials_response::AlterUserScramCredentialsResult::default()
                    .with_user(user.clone())
                    .with_error_code(code)
                    .with_error_message(text())
            };
            ctx.reply(&AlterUserScramCredentialsResponse::default().with_results(named.map(result).collect()))
        }
        Body::DescribeClientQuotas(_) => {
            let response = DescribeClientQuotasResponse::default().with_error_code(code).with_entries(None);
            ctx.reply(&response.with_error_message(text()))
        }
        Body::AlterClientQuotas(request) => {
            use alter_client_quotas_response::{EntityData, EntryData};
            let entries = request.entries.iter().map(|entry| {
                let part = |part: &wherry_wire::codec::messages::alter_client_quotas_request::EntityData| {
                    EntityData::default()
                        .with_entity_type(part.entity_type.clone())
                        .with_entity_name(part.entity_name.clone())
                };
                EntryData::default()
                    .with_error_code(code)
                    .with_error_message(text())
                    .with_entity(entry.entity.iter().map(part).collect())
            });
            ctx.reply(&AlterClientQuotasResponse::default().with_entries(entries.collect()))
        }
        // Their rules are not on the cluster: nobody comes here with one of these.
        Body::ApiVersions(_)
        | Body::SaslHandshake(_)
        | Body::SaslAuthenticate(_)
        | Body::DescribeCluster(_)
        | Body::Produce(_)
        | Body::Fetch(_)
        | Body::ListOffsets(_)
        | Body::Metadata(_)
        | Body::OffsetForLeaderEpoch(_)
        | Body::DescribeTopicPartitions(_)
        | Body::AddPartitionsToTxn(_)
        | Body::AddOffsetsToTxn(_)
        | Body::EndTxn(_)
        | Body::TxnOffsetCommit(_)
        | Body::WriteTxnMarkers(_)
        | Body::DescribeProducers(_)
        | Body::DescribeTransactions(_)
        | Body::ListTransactions(_)
        | Body::OffsetCommit(_)
        | Body::OffsetFetch(_)
        | Body::FindCoordinator(_)
        | Body::JoinGroup(_)
        | Body::Heartbeat(_)
        | Body::LeaveGroup(_)
        | Body::SyncGroup(_)
        | Body::ConsumerGroupHeartbeat(_)
        | Body::ConsumerGroupDescribe(_)
        | Body::ShareGroupHeartbeat(_)
        | Body::ShareGroupDescribe(_)
        | Body::ShareFetch(_)
        | Body::ShareAcknowledge(_)
        | Body::DescribeShareGroupOffsets(_)
        | Body::AlterShareGroupOffsets(_)
        | Body::DeleteShareGroupOffsets(_)
        | Body::DescribeGroups(_)
        | Body::ListGroups(_)
        | Body::DeleteGroups(_)
        | Body::OffsetDelete(_)
        | Body::CreateTopics(_)
        | Body::DeleteTopics(_)
        | Body::DeleteRecords(_)
        | Body::CreatePartitions(_)
        | Body::InitProducerId(_)
        | Body::DescribeConfigs(_)
        | Body::AlterConfigs(_)
        | Body::IncrementalAlterConfigs(_) => Outcome::Close("a request that its caller may not make".into()),
    }
}
