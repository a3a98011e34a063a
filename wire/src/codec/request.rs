//! Requests: from a frame to a typed body (node), and from a typed body to a frame (client).

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Request as ApiRequest, StrBytes};

use super::api::served_api;
use super::error::{DecodeError, EncodeError};
use super::messages;
use super::schema::{self, Direction};
use crate::frame;
use crate::limits::{MAX_FRAME_BYTES, MAX_TAGGED_FIELDS, MIN_REQUEST_BYTES};

/// What stands before a request's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API.
    pub api_key: ApiKey,
    /// In which version.
    pub api_version: i16,
    /// The client's number of this request; the response carries it.
    pub correlation_id: i32,
    /// What the client calls itself. A slice of the frame: copy it to keep it longer than the request.
    pub client_id: Option<StrBytes>,
}

/// A request. Strings and records are slices of the frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Its header.
    pub header: RequestHeader,
    /// Its body.
    pub body: RequestBody,
}

macro_rules! bodies {
    ($($api:ident => $request:ident),* $(,)?) => {
        /// The body of a request that is served.
        #[derive(Debug, Clone, PartialEq)]
        pub enum RequestBody {
            $(#[doc = concat!("`", stringify!($request), "`")] $api(messages::$request),)*
        }

        impl RequestBody {
            /// Which API it belongs to.
            #[must_use]
            pub fn api_key(&self) -> ApiKey {
                match self {
                    $(Self::$api(_) => ApiKey::$api,)*
                }
            }
        }

        /// Decodes a body that was walked. `None`: an API that is not served.
        fn decode_body(api: ApiKey, version: i16, body: &mut Bytes) -> Option<Result<RequestBody, String>> {
            match api {
                $(ApiKey::$api => {
                    let decoded = messages::$request::decode(body, version);
                    Some(decoded.map(RequestBody::$api).map_err(|error| error.to_string()))
                })*
                _ => None,
            }
        }
    };
}

bodies! {
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
    DescribeTransactions => DescribeTransactionsRequest,
    ListTransactions => ListTransactionsRequest,
    DescribeTopicPartitions => DescribeTopicPartitionsRequest,
    AddRaftVoter => AddRaftVoterRequest,
    RemoveRaftVoter => RemoveRaftVoterRequest,
    WriteTxnMarkers => WriteTxnMarkersRequest,
    DescribeProducers => DescribeProducersRequest,
    SaslHandshake => SaslHandshakeRequest,
    SaslAuthenticate => SaslAuthenticateRequest,
    DescribeAcls => DescribeAclsRequest,
    CreateAcls => CreateAclsRequest,
    DeleteAcls => DeleteAclsRequest,
    DescribeClientQuotas => DescribeClientQuotasRequest,
    AlterClientQuotas => AlterClientQuotasRequest,
    DescribeUserScramCredentials => DescribeUserScramCredentialsRequest,
    AlterUserScramCredentials => AlterUserScramCredentialsRequest,
    ShareGroupHeartbeat => ShareGroupHeartbeatRequest,
    ShareGroupDescribe => ShareGroupDescribeRequest,
    ShareFetch => ShareFetchRequest,
    ShareAcknowledge => ShareAcknowledgeRequest,
    DescribeShareGroupOffsets => DescribeShareGroupOffsetsRequest,
    AlterShareGroupOffsets => AlterShareGroupOffsetsRequest,
    DeleteShareGroupOffsets => DeleteShareGroupOffsetsRequest,
}

/// Takes a request header off the start of `frame`.
fn take_header(frame: &mut Bytes, flexible: impl FnOnce(i16, i16) -> bool) -> Result<RawHeader, DecodeError> {
    let header = RawHeader::peek(frame)?;
    let mut cursor = Cursor { bytes: frame, at: RawHeader::FIXED };
    let length = i16::from_be_bytes(cursor.array()?);
    let client_id = match usize::try_from(length) {
        Ok(length) => {
            let start = cursor.at;
            cursor.skip(length)?;
            Some(start..start + length)
        }
        Err(_) if length == -1 => None,
        Err(_) => return Err(DecodeError::Header { at: cursor.at - 2, what: "a negative client id length" }),
    };
    if flexible(header.api_key, header.api_version) {
        cursor.skip_tagged_fields()?;
    }
    let end = cursor.at;
    let client_id = client_id.map(|range| StrBytes::from_utf8(frame.slice(range))).transpose();
    let client_id =
        client_id.map_err(|_| DecodeError::Header { at: RawHeader::FIXED, what: "a client id not in UTF-8" })?;
    bytes::Buf::advance(frame, end);
    Ok(RawHeader { client_id, ..header })
}

struct RawHeader {
    api_key: i16,
    api_version: i16,
    correlation_id: i32,
    client_id: Option<StrBytes>,
}

impl RawHeader {
    /// Bytes of the part that every version has.
    const FIXED: usize = 8;

    fn peek(frame: &[u8]) -> Result<Self, DecodeError> {
        if frame.len() < MIN_REQUEST_BYTES {
            return Err(DecodeError::Header { at: frame.len(), what: "the frame ends inside it" });
        }
        let mut cursor = Cursor { bytes: frame, at: 0 };
        let (api_key, api_version) = (cursor.array()?, cursor.array()?);
        Ok(Self {
            api_key: i16::from_be_bytes(api_key),
            api_version: i16::from_be_bytes(api_version),
            correlation_id: i32::from_be_bytes(cursor.array()?),
            client_id: None,
        })
    }
}

/// Reads a header, held to its bytes.
pub(super) struct Cursor<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Cursor<'_> {
    fn short(&self) -> DecodeError {
        DecodeError::Header { at: self.at, what: "the frame ends inside it" }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let value = rest.first_chunk::<N>().ok_or_else(|| self.short())?;
        self.at += N;
        Ok(*value)
    }

    fn skip(&mut self, len: usize) -> Result<(), DecodeError> {
        if len > self.bytes.len().saturating_sub(self.at) {
            return Err(self.short());
        }
        self.at += len;
        Ok(())
    }

    fn uvarint(&mut self) -> Result<usize, DecodeError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(usize::try_from(value).unwrap_or(usize::MAX));
            }
        }
        Err(DecodeError::Header { at: self.at, what: "a varint of more than 32 bits" })
    }

    /// Headers have no tagged fields that we know.
    pub(super) fn skip_tagged_fields(&mut self) -> Result<(), DecodeError> {
        let count = self.uvarint()?;
        if count > MAX_TAGGED_FIELDS {
            return Err(DecodeError::Header { at: self.at, what: "too many tagged fields" });
        }
        for _ in 0..count {
            self.uvarint()?;
            let length = self.uvarint()?;
            self.skip(length)?;
        }
        Ok(())
    }
}

/// Decodes a request frame, its length prefix stripped. Everything that it declares is checked before memory is allocated
/// for it; records are slices of the frame. Bytes after the body are ignored, as Kafka does.
///
/// # Errors
/// [`DecodeError`]. [`DecodeError::ApiVersionsVersion`] wants an answer in version 0 (error 35 and the list); any other
/// closes the connection, as there is no telling what the client would make of an answer.
pub fn decode_request(mut frame: Bytes) -> Result<Request, DecodeError> {
    let RawHeader { api_key, api_version, correlation_id, .. } = RawHeader::peek(&frame)?;
    let unsupported = DecodeError::UnsupportedVersion { api_key, api_version, correlation_id };
    let Some(served) = served_api(api_key) else { return Err(unsupported) };
    if !served.has(api_version) {
        return Err(match served.api {
            ApiKey::ApiVersions => DecodeError::ApiVersionsVersion { api_version, correlation_id },
            _ => unsupported,
        });
    }
    if frame.len() > frame::request_limit(api_key) {
        return Err(DecodeError::TooLarge { api_key, len: frame.len(), limit: frame::request_limit(api_key) });
    }
    let shape = schema::find(Direction::Request, api_key, api_version).ok_or(unsupported)?;
    let header = take_header(&mut frame, |_, version| shape.is_flexible(version))?;
    schema::walk(Direction::Request, shape, api_version, &frame)?;
    let body = decode_body(served.api, api_version, &mut frame)
        .unwrap_or_else(|| Err("no decoder".to_owned()))
        .map_err(|why| DecodeError::Body { message: shape.name, version: api_version, why })?;
    let header = RequestHeader { api_key: served.api, api_version, correlation_id, client_id: header.client_id };
    Ok(Request { header, body })
}

/// Encodes a request as a frame, length prefix included.
///
/// # Errors
/// [`EncodeError`]: a field that is set does not exist in this version, or the frame is too large.
pub fn encode_request<R: ApiRequest>(
    correlation_id: i32,
    client_id: Option<&StrBytes>,
    version: i16,
    request: &R,
) -> Result<Bytes, EncodeError> {
    let failed = |error: &dyn std::fmt::Display| EncodeError::refused(R::KEY, version, error);
    let size = request.compute_size(version).map_err(|error| failed(&error))?;
    if size > MAX_FRAME_BYTES {
        return Err(EncodeError::TooLarge { len: size, limit: MAX_FRAME_BYTES });
    }
    let mut out = BytesMut::with_capacity(64 + client_id.map_or(0, |id| id.len()) + size);
    out.put_u32(0);
    let header = messages::RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(client_id.cloned());
    kafka_protocol::protocol::Encodable::encode(&header, &mut out, R::header_version(version))
        .map_err(|error| failed(&error))?;
    request.encode(&mut out, version).map_err(|error| failed(&error))?;
    frame::finish(out)
}
