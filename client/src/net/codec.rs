//! Requests to frames and frames to answers, through the wire's codec: what an answer declares is checked there first (INV-8).

use bytes::Bytes;
use kafka_protocol::protocol::{Request, StrBytes};
use wherry_wire::codec;

use super::NetError;

/// A whole request frame, length prefix included.
pub(crate) fn encode<R: Request>(
    correlation: i32,
    client_id: &StrBytes,
    version: i16,
    request: &R,
) -> Result<Bytes, NetError> {
    codec::encode_request(correlation, Some(client_id), version, request).map_err(NetError::not_sent)
}

/// The correlation id at the start of an answer.
pub(crate) fn correlation(frame: &[u8]) -> Option<i32> {
    codec::correlation_id(frame)
}

/// An answer from its frame, length prefix stripped.
pub(crate) fn decode<R: Request>(frame: Bytes, version: i16) -> Result<R::Response, NetError> {
    codec::decode_response::<R>(frame, version).map(|(_, answer)| answer).map_err(NetError::malformed)
}

/// Whether answers of this API and version can be read.
pub(crate) fn reads(api_key: i16, version: i16) -> bool {
    codec::messages::ApiKey::try_from(api_key).is_ok_and(|api| codec::can_decode_response(api, version))
}
