//! What requests mean: one file per kind of request. A handler takes the core and a decoded request and says what becomes
//! of the response; it never blocks and never panics, whatever the client sent.

pub(crate) mod access;
pub(crate) mod acls;
pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod client_quotas;
pub(crate) mod configs;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_producers;
pub(crate) mod describe_topic_partitions;
pub(crate) mod elect_leaders;
pub(crate) mod errors;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod groups;
pub(crate) mod init_producer_id;
pub(crate) mod leaders;
pub(crate) mod list_config_resources;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod quorum;
pub(crate) mod reassignments;
pub(crate) mod sasl;
pub(crate) mod scram;
pub(crate) mod share;
pub(crate) mod topics;
pub(crate) mod transactions;
pub(crate) mod unregister_broker;
pub(crate) mod update_features;
pub(crate) mod write_txn_markers;

use std::rc::Rc;

use bytes::Bytes;
use wherry_wire::codec::{
    ApiKey, DecodeError, Encodable, HeaderVersion, Request, RequestBody, StrBytes, decode_request, encode_response,
};

use crate::core::store::LogStore;
use crate::core::{Core, RequestId};
use crate::security::Caller;

/// Who asked, in which version.
#[derive(Debug, Clone)]
pub(crate) struct Ctx {
    pub(crate) id: RequestId,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
    pub(crate) caller: Rc<Caller>,
    /// The answer says what the caller may do with each group (KIP-430).
    pub(crate) wants_operations: bool,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// This response, encoded.
    Reply(Vec<Bytes>),
    /// No response: the client wants none.
    Silent,
    /// Answered later; the connection goes on meanwhile.
    Later,
    /// Answered later; the connection's next request is begun after that, since it may build on this one.
    LaterAlone,
    /// This response, encoded, and then the connection is closed.
    Last(Vec<Bytes>, String),
    /// The connection can't go on.
    Close(String),
}

impl Ctx {
    /// Encodes a response for this request's version.
    pub(crate) fn encode<M: Encodable + HeaderVersion>(&self, body: &M) -> Result<Vec<Bytes>, String> {
        match encode_response(self.version, self.correlation_id, body) {
            Ok(frame) => Ok(vec![frame]),
            Err(error) => Err(format!("can't answer in version {}: {error}", self.version)),
        }
    }

    /// The response as an outcome.
    pub(crate) fn reply<M: Encodable + HeaderVersion>(&self, body: &M) -> Outcome {
        match self.encode(body) {
            Ok(chunks) => Outcome::Reply(chunks),
            Err(reason) => Outcome::Close(reason),
        }
    }

    /// The response as the last one of its connection.
    pub(crate) fn reply_and_close<M: Encodable + HeaderVersion>(&self, body: &M, reason: &str) -> Outcome {
        match self.encode(body) {
            Ok(chunks) => Outcome::Last(chunks, reason.to_owned()),
            Err(reason) => Outcome::Close(reason),
        }
    }
}

/// A frame that can be answered.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "lives briefly, one at a time; a box costs more")]
pub(crate) enum Decoded {
    /// A request.
    Request(Request),
    /// ApiVersions in a version that is not known: the answer is in version 0 (KIP-511).
    NewerApiVersions {
        /// Of the request.
        correlation_id: i32,
    },
}

impl Decoded {
    pub(crate) fn api_key(&self) -> i16 {
        match self {
            Self::Request(request) => request.header.api_key as i16,
            Self::NewerApiVersions { .. } => ApiKey::ApiVersions as i16,
        }
    }
}

/// A whole frame as a request, or why its connection must be closed.
pub(crate) fn decode(frame: Bytes) -> Result<Decoded, String> {
    match decode_request(frame) {
        Ok(request) => Ok(Decoded::Request(request)),
        Err(DecodeError::ApiVersionsVersion { correlation_id, .. }) => Ok(Decoded::NewerApiVersions { correlation_id }),
        Err(error) => Err(error.to_string()),
    }
}

/// Hands a request to its handler.
pub(crate) fn dispatch<S: LogStore>(
    core: &mut Core<S>,
    id: RequestId,
    caller: Rc<Caller>,
    decoded: Decoded,
) -> Outcome {
    let Request { header, body } = match decoded {
        Decoded::Request(request) => request,
        Decoded::NewerApiVersions { correlation_id } => {
            return api_versions::unsupported(&Ctx {
                id,
                version: 0,
                correlation_id,
                client_id: None,
                caller,
                wants_operations: false,
            });
        }
    };
    let ctx = &Ctx {
        id,
        version: header.api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id,
        caller,
        wants_operations: false,
    };
    let began = core.cost_begins();
    let outcome = match access::refused(core, ctx, &body) {
        Some(refusal) => refusal,
        None => handle(core, ctx, body),
    };
    core.charge_time(ctx, began);
    outcome
}

fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: RequestBody) -> Outcome {
    match body {
        RequestBody::Produce(request) => produce::handle(core, ctx, request),
        RequestBody::Fetch(request) => fetch::handle(core, ctx, request),
        RequestBody::ListOffsets(request) => list_offsets::handle(core, ctx, &request),
        RequestBody::Metadata(request) => metadata::handle(core, ctx, &request),
        RequestBody::OffsetCommit(request) => groups::offset_commit::handle(core, ctx, &request),
        RequestBody::OffsetFetch(request) => groups::offset_fetch::handle(core, ctx, &request),
        RequestBody::FindCoordinator(request) => find_coordinator::handle(core, ctx, &request),
        RequestBody::JoinGroup(request) => groups::join::handle(core, ctx, &request),
        RequestBody::Heartbeat(request) => groups::heartbeat::handle(core, ctx, &request),
        RequestBody::LeaveGroup(request) => groups::leave::handle(core, ctx, &request),
        RequestBody::SyncGroup(request) => groups::sync::handle(core, ctx, request),
        RequestBody::DescribeGroups(request) => groups::describe::handle(core, ctx, &request),
        RequestBody::ListGroups(request) => groups::list::handle(core, ctx, &request),
        RequestBody::ApiVersions(request) => api_versions::handle(core, ctx, &request),
        RequestBody::CreateTopics(request) => create_topics::handle(core, ctx, &request),
        RequestBody::DeleteTopics(request) => delete_topics::handle(core, ctx, request),
        RequestBody::DeleteRecords(request) => delete_records::handle(core, ctx, &request),
        RequestBody::InitProducerId(request) => init_producer_id::handle(core, ctx, &request),
        RequestBody::AddPartitionsToTxn(request) => transactions::add_partitions::handle(core, ctx, &request),
        RequestBody::AddOffsetsToTxn(request) => transactions::add_offsets::handle(core, ctx, &request),
        RequestBody::EndTxn(request) => transactions::end::handle(core, ctx, &request),
        RequestBody::TxnOffsetCommit(request) => groups::txn_offset_commit::handle(core, ctx, &request),
        RequestBody::DescribeTransactions(request) => transactions::describe::handle(core, ctx, &request),
        RequestBody::ListTransactions(request) => transactions::list::handle(core, ctx, &request),
        RequestBody::OffsetForLeaderEpoch(request) => offset_for_leader_epoch::handle(core, ctx, &request),
        RequestBody::DescribeConfigs(request) => describe_configs::handle(core, ctx, &request),
        RequestBody::AlterConfigs(request) => alter_configs::handle_legacy(core, ctx, &request),
        RequestBody::DescribeLogDirs(request) => describe_log_dirs::handle(core, ctx, &request),
        RequestBody::CreatePartitions(request) => create_partitions::handle(core, ctx, &request),
        RequestBody::DeleteGroups(request) => groups::delete::handle(core, ctx, &request),
        RequestBody::ElectLeaders(request) => elect_leaders::handle(core, ctx, &request),
        RequestBody::IncrementalAlterConfigs(request) => alter_configs::handle(core, ctx, &request),
        RequestBody::AlterPartitionReassignments(request) => reassignments::alter(core, ctx, &request),
        RequestBody::ListPartitionReassignments(request) => reassignments::list(core, ctx, &request),
        RequestBody::OffsetDelete(request) => groups::offset_delete::handle(core, ctx, &request),
        RequestBody::DescribeQuorum(request) => quorum::describe(core, ctx, &request),
        RequestBody::UpdateFeatures(request) => update_features::handle(core, ctx, &request),
        RequestBody::DescribeCluster(request) => describe_cluster::handle(core, ctx, &request),
        RequestBody::UnregisterBroker(request) => unregister_broker::handle(core, ctx, &request),
        RequestBody::ConsumerGroupHeartbeat(request) => groups::consumer_heartbeat::handle(core, ctx, &request),
        RequestBody::ConsumerGroupDescribe(request) => groups::consumer_describe::handle(core, ctx, &request),
        RequestBody::ShareGroupHeartbeat(request) => groups::share_heartbeat::handle(core, ctx, &request),
        RequestBody::ShareGroupDescribe(request) => groups::share_describe::handle(core, ctx, &request),
        RequestBody::ShareFetch(request) => share::fetch::handle(core, ctx, &request),
        RequestBody::ShareAcknowledge(request) => share::acknowledge::handle(core, ctx, &request),
        RequestBody::DescribeShareGroupOffsets(request) => share::describe_offsets::handle(core, ctx, &request),
        RequestBody::AlterShareGroupOffsets(request) => share::alter_offsets::handle(core, ctx, &request),
        RequestBody::DeleteShareGroupOffsets(request) => share::delete_offsets::handle(core, ctx, &request),
        RequestBody::ListConfigResources(request) => list_config_resources::handle(core, ctx, &request),
        RequestBody::DescribeTopicPartitions(request) => describe_topic_partitions::handle(core, ctx, &request),
        RequestBody::AddRaftVoter(request) => quorum::add_voter(core, ctx, &request),
        RequestBody::WriteTxnMarkers(request) => write_txn_markers::handle(core, ctx, &request),
        RequestBody::DescribeProducers(request) => describe_producers::handle(core, ctx, &request),
        RequestBody::RemoveRaftVoter(request) => quorum::remove_voter(core, ctx, &request),
        RequestBody::SaslHandshake(request) => sasl::handshake(core, ctx, &request),
        RequestBody::SaslAuthenticate(request) => sasl::authenticate(core, ctx, &request),
        RequestBody::DescribeAcls(request) => acls::describe(core, ctx, &request),
        RequestBody::CreateAcls(request) => acls::create(core, ctx, &request),
        RequestBody::DeleteAcls(request) => acls::delete(core, ctx, &request),
        RequestBody::DescribeClientQuotas(request) => client_quotas::describe(core, ctx, &request),
        RequestBody::AlterClientQuotas(request) => client_quotas::alter(core, ctx, &request),
        RequestBody::DescribeUserScramCredentials(request) => scram::describe(core, ctx, &request),
        RequestBody::AlterUserScramCredentials(request) => scram::alter(core, ctx, &request),
    }
}
