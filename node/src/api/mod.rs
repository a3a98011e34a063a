//! What requests mean: one file per kind of request. A handler takes the core and a decoded request and says what becomes
//! of the response; it never blocks and never panics, whatever the client sent.

pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod codec;
pub(crate) mod configs;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_log_dirs;
pub(crate) mod describe_topic_partitions;
pub(crate) mod errors;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod init_producer_id;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod topics;

use bytes::Bytes;

use crate::core::store::LogStore;
use crate::core::{Core, RequestId};
use codec::{Body, Header, StrBytes};

/// Who asked, in which version.
#[derive(Debug, Clone)]
pub(crate) struct Ctx {
    pub(crate) id: RequestId,
    pub(crate) api_key: i16,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
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
    /// The connection can't go on.
    Close(String),
}

impl Header {
    pub(crate) fn into_context(self, id: RequestId) -> Ctx {
        Ctx {
            id,
            api_key: self.api_key,
            version: self.version,
            correlation_id: self.correlation_id,
            client_id: self.client_id,
        }
    }
}

/// A response body that can be encoded.
pub(crate) trait ResponseBody:
    kafka_protocol::protocol::Encodable + kafka_protocol::protocol::HeaderVersion
{
}

impl<T: kafka_protocol::protocol::Encodable + kafka_protocol::protocol::HeaderVersion> ResponseBody for T {}

impl Ctx {
    /// Encodes a response for this request's version.
    pub(crate) fn encode<M: ResponseBody>(&self, body: &M) -> Result<Vec<Bytes>, String> {
        codec::encode(self.api_key, self.version, self.correlation_id, body)
            .map_err(|error| format!("can't answer api {} version {}: {error}", self.api_key, self.version))
    }

    /// The response as an outcome.
    pub(crate) fn reply<M: ResponseBody>(&self, body: &M) -> Outcome {
        match self.encode(body) {
            Ok(chunks) => Outcome::Reply(chunks),
            Err(reason) => Outcome::Close(reason),
        }
    }
}

/// A whole frame as a request, or why its connection must be closed.
pub(crate) fn decode(frame: Bytes) -> Result<(Header, Body), String> {
    codec::decode(frame)
}

/// Hands a request to its handler.
pub(crate) fn dispatch<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: Body) -> Outcome {
    match body {
        Body::Produce(request) => produce::handle(core, ctx, request),
        Body::Fetch(request) => fetch::handle(core, ctx, request),
        Body::ListOffsets(request) => list_offsets::handle(core, ctx, &request),
        Body::Metadata(request) => metadata::handle(core, ctx, &request),
        Body::FindCoordinator(request) => find_coordinator::handle(core, ctx, &request),
        Body::ApiVersions(request) => api_versions::handle(core, ctx, &request),
        Body::UnknownApiVersions => api_versions::unsupported(ctx),
        Body::CreateTopics(request) => create_topics::handle(core, ctx, request),
        Body::DeleteTopics(request) => delete_topics::handle(core, ctx, request),
        Body::DeleteRecords(request) => delete_records::handle(core, ctx, &request),
        Body::InitProducerId(request) => init_producer_id::handle(core, ctx, &request),
        Body::OffsetForLeaderEpoch(request) => offset_for_leader_epoch::handle(core, ctx, &request),
        Body::DescribeConfigs(request) => describe_configs::handle(core, ctx, &request),
        Body::AlterConfigs(request) => alter_configs::handle_legacy(core, ctx, request),
        Body::IncrementalAlterConfigs(request) => alter_configs::handle(core, ctx, request),
        Body::DescribeLogDirs(request) => describe_log_dirs::handle(core, ctx, &request),
        Body::CreatePartitions(request) => create_partitions::handle(core, ctx, request),
        Body::DescribeCluster(request) => describe_cluster::handle(core, ctx, &request),
        Body::DescribeTopicPartitions(request) => describe_topic_partitions::handle(core, ctx, &request),
    }
}
