mod fetch;
mod fuzz;
mod hostile;
mod requests;
pub(crate) mod samples;

use bytes::Bytes;
use kafka_protocol::protocol::Request as _;

use super::schema::{Direction, Message};
use super::schema_table::{requests::REQUESTS, responses::RESPONSES};
use super::*;
use samples::{Random, Sample, sample};

pub(crate) fn each_version(table: &'static [Message]) -> impl Iterator<Item = (&'static Message, i16)> {
    table.iter().flat_map(|message| (message.min_version..=message.max_version).map(move |version| (message, version)))
}

/// A request frame around a body.
pub(crate) fn request_frame(message: &Message, version: i16, body: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    frame.extend_from_slice(&message.api_key.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&7_i32.to_be_bytes());
    frame.extend_from_slice(b"\0\x02me");
    if message.is_flexible(version) {
        frame.push(0);
    }
    frame.extend_from_slice(body);
    Bytes::from(frame)
}

pub(crate) fn response_frame(message: &Message, version: i16, body: &[u8]) -> Bytes {
    let mut frame = 7_i32.to_be_bytes().to_vec();
    if message.is_flexible(version) && message.api_key != ApiKey::ApiVersions as i16 {
        frame.push(0);
    }
    frame.extend_from_slice(body);
    Bytes::from(frame)
}

macro_rules! each_api {
    ($($api:ident => $request:ident),* $(,)?) => {
        /// Decodes a response of any API; `Ok` holds it encoded again.
        pub(crate) fn decode_any_response(api_key: i16, version: i16, frame: Bytes) -> Result<Bytes, DecodeError> {
            $(if api_key == messages::$request::KEY {
                let (id, response) = decode_response::<messages::$request>(frame, version)?;
                return Ok(encode_response(version, id, &response).expect("encodes what it decoded"));
            })*
            unreachable!("API {api_key} is not in the list")
        }

        /// Encodes a request again.
        pub(crate) fn encode_any_request(request: &Request) -> Bytes {
            let header = &request.header;
            let frame = match &request.body {
                $(RequestBody::$api(body) => {
                    encode_request(header.correlation_id, header.client_id.as_ref(), header.api_version, body)
                })*
            };
            frame.expect("encodes what it decoded")
        }
    };
}

each_api! {
    Produce => ProduceRequest,
    Fetch => FetchRequest,
    ListOffsets => ListOffsetsRequest,
    Metadata => MetadataRequest,
    OffsetCommit => OffsetCommitRequest,
    OffsetFetch => OffsetFetchRequest,
    FindCoordinator => FindCoordinatorRequest,
    JoinGroup => JoinGroupRequest,
    Heartbeat => HeartbeatRequest,
    LeaveGroup => LeaveGroupRequest,
    SyncGroup => SyncGroupRequest,
    DescribeGroups => DescribeGroupsRequest,
    ListGroups => ListGroupsRequest,
    ApiVersions => ApiVersionsRequest,
    CreateTopics => CreateTopicsRequest,
    DeleteTopics => DeleteTopicsRequest,
    DeleteRecords => DeleteRecordsRequest,
    InitProducerId => InitProducerIdRequest,
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
    AddPartitionsToTxn => AddPartitionsToTxnRequest,
    AddOffsetsToTxn => AddOffsetsToTxnRequest,
    EndTxn => EndTxnRequest,
    WriteTxnMarkers => WriteTxnMarkersRequest,
    TxnOffsetCommit => TxnOffsetCommitRequest,
    DescribeConfigs => DescribeConfigsRequest,
    AlterConfigs => AlterConfigsRequest,
    DescribeLogDirs => DescribeLogDirsRequest,
    CreatePartitions => CreatePartitionsRequest,
    DeleteGroups => DeleteGroupsRequest,
    ElectLeaders => ElectLeadersRequest,
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
    AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
    ListPartitionReassignments => ListPartitionReassignmentsRequest,
    OffsetDelete => OffsetDeleteRequest,
    DescribeQuorum => DescribeQuorumRequest,
    UpdateFeatures => UpdateFeaturesRequest,
    DescribeCluster => DescribeClusterRequest,
    UnregisterBroker => UnregisterBrokerRequest,
    ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribe => ConsumerGroupDescribeRequest,
    ListConfigResources => ListConfigResourcesRequest,
    DescribeProducers => DescribeProducersRequest,
    DescribeTransactions => DescribeTransactionsRequest,
    ListTransactions => ListTransactionsRequest,
    DescribeTopicPartitions => DescribeTopicPartitionsRequest,
    SaslHandshake => SaslHandshakeRequest,
    SaslAuthenticate => SaslAuthenticateRequest,
    DescribeAcls => DescribeAclsRequest,
    CreateAcls => CreateAclsRequest,
    DeleteAcls => DeleteAclsRequest,
    DescribeClientQuotas => DescribeClientQuotasRequest,
    AlterClientQuotas => AlterClientQuotasRequest,
    DescribeUserScramCredentials => DescribeUserScramCredentialsRequest,
    AlterUserScramCredentials => AlterUserScramCredentialsRequest,
    AddRaftVoter => AddRaftVoterRequest,
    RemoveRaftVoter => RemoveRaftVoterRequest,
    ShareGroupHeartbeat => ShareGroupHeartbeatRequest,
    ShareGroupDescribe => ShareGroupDescribeRequest,
    ShareFetch => ShareFetchRequest,
    ShareAcknowledge => ShareAcknowledgeRequest,
    DescribeShareGroupOffsets => DescribeShareGroupOffsetsRequest,
    AlterShareGroupOffsets => AlterShareGroupOffsetsRequest,
    DeleteShareGroupOffsets => DeleteShareGroupOffsetsRequest,
}

/// Some samples of every message in every version.
pub(crate) fn each_sample(direction: Direction, rounds: u64, mut test: impl FnMut(&'static Message, i16, &Sample)) {
    let table = match direction {
        Direction::Request => REQUESTS,
        Direction::Response => RESPONSES,
    };
    for (message, version) in each_version(table) {
        for round in 0..rounds {
            let mut random = Random(round ^ ((message.api_key as u64) << 32) ^ ((version as u64) << 48));
            test(message, version, &sample(message, version, &mut random));
        }
    }
}

/// Whether a node decodes this request.
pub(crate) fn is_served(message: &Message, version: i16) -> bool {
    served_api(message.api_key).is_some_and(|served| served.has(version))
}
