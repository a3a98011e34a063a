//! Requests to frames and frames to answers. The seam over the message types; it knows no sockets.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::NetError;

/// A whole request frame, length prefix included.
pub(crate) fn encode<R: Request>(
    correlation: i32,
    client_id: &StrBytes,
    version: i16,
    request: &R,
) -> Result<Bytes, NetError> {
    let mut frame = BytesMut::with_capacity(64 + request.compute_size(version).map_err(NetError::malformed)?);
    frame.put_u32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(client_id.clone()));
    header.encode(&mut frame, R::header_version(version)).map_err(NetError::malformed)?;
    request.encode(&mut frame, version).map_err(NetError::malformed)?;
    let length = u32::try_from(frame.len() - 4).map_err(NetError::malformed)?;
    if let Some(prefix) = frame.first_chunk_mut::<4>() {
        *prefix = length.to_be_bytes();
    }
    Ok(frame.freeze())
}

/// The correlation id at the start of an answer.
pub(crate) fn correlation(frame: &[u8]) -> Option<i32> {
    frame.first_chunk::<4>().map(|b| i32::from_be_bytes(*b))
}

/// An answer from its frame, length prefix stripped.
pub(crate) fn decode<R: Request>(mut frame: Bytes, version: i16) -> Result<R::Response, NetError> {
    let header_version = <R::Response as HeaderVersion>::header_version(version);
    ResponseHeader::decode(&mut frame, header_version).map_err(NetError::malformed)?;
    let answer = R::Response::decode(&mut frame, version).map_err(NetError::malformed)?;
    if frame.has_remaining() {
        return Err(NetError::malformed(format_args!("{} bytes left over after the answer", frame.remaining())));
    }
    Ok(answer)
}
