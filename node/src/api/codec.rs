//! TEMPORARY shim.
use bytes::{Buf, Bytes, BytesMut};
pub(crate) use kafka_protocol::error::ResponseError;
pub(crate) use kafka_protocol::messages::{self, ApiKey};
pub(crate) use kafka_protocol::protocol::StrBytes;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

pub(crate) struct Header {
    pub(crate) api_key: i16,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
}

macro_rules! body {
    ($($name:ident($t:ident) $min:literal $max:literal),* $(,)?) => {
        pub(crate) enum Body { $($name(messages::$t)),* , UnknownApiVersions }
        pub(crate) fn served() -> &'static [(i16, i16, i16)] {
            &[$((ApiKey::$name as i16, $min, $max)),*]
        }
        fn body(key: i16, version: i16, frame: &mut Bytes) -> Result<Body, String> {
            $(if key == ApiKey::$name as i16 {
                if version < $min || version > $max { return Err("version".into()); }
                return messages::$t::decode(frame, version).map(Body::$name).map_err(|e| e.to_string());
            })*
            Err(format!("api {key}"))
        }
        fn request_header_version(key: i16, version: i16) -> i16 {
            $(if key == ApiKey::$name as i16 { return messages::$t::header_version(version); })*
            1
        }
    };
}
body!(
    Produce(ProduceRequest) 3 12,
    Fetch(FetchRequest) 4 17,
    ListOffsets(ListOffsetsRequest) 1 10,
    Metadata(MetadataRequest) 0 13,
    FindCoordinator(FindCoordinatorRequest) 0 6,
    ApiVersions(ApiVersionsRequest) 0 4,
    CreateTopics(CreateTopicsRequest) 2 7,
    DeleteTopics(DeleteTopicsRequest) 1 6,
    DeleteRecords(DeleteRecordsRequest) 0 2,
    InitProducerId(InitProducerIdRequest) 0 5,
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest) 2 4,
    DescribeConfigs(DescribeConfigsRequest) 1 4,
    AlterConfigs(AlterConfigsRequest) 0 2,
    DescribeLogDirs(DescribeLogDirsRequest) 1 4,
    CreatePartitions(CreatePartitionsRequest) 0 3,
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest) 0 1,
    DescribeCluster(DescribeClusterRequest) 0 2,
    DescribeTopicPartitions(DescribeTopicPartitionsRequest) 0 0,
);

pub(crate) fn decode(mut frame: Bytes) -> Result<(Header, Body), String> {
    if frame.len() < 8 {
        return Err("a request shorter than its header".into());
    }
    let key = i16::from_be_bytes([frame[0], frame[1]]);
    let version = i16::from_be_bytes([frame[2], frame[3]]);
    let correlation_id = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    if key == 18 && !(0..=4).contains(&version) {
        return Ok((Header { api_key: key, version: 0, correlation_id, client_id: None }, Body::UnknownApiVersions));
    }
    let header =
        messages::RequestHeader::decode(&mut frame, request_header_version(key, version)).map_err(|e| e.to_string())?;
    let body = body(key, version, &mut frame)?;
    if frame.has_remaining() {
        return Err("trailing bytes".into());
    }
    Ok((Header { api_key: key, version, correlation_id, client_id: header.client_id }, body))
}

pub(crate) fn encode<M: Encodable + HeaderVersion>(
    api_key: i16,
    version: i16,
    correlation_id: i32,
    message: &M,
) -> Result<Vec<Bytes>, String> {
    let _ = api_key;
    let mut buf = BytesMut::new();
    buf.extend_from_slice(&[0; 4]);
    let header = messages::ResponseHeader::default().with_correlation_id(correlation_id);
    header.encode(&mut buf, M::header_version(version)).map_err(|e| e.to_string())?;
    message.encode(&mut buf, version).map_err(|e| e.to_string())?;
    let len = (buf.len() - 4) as u32;
    buf[..4].copy_from_slice(&len.to_be_bytes());
    Ok(vec![buf.freeze()])
}
