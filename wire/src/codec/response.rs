//! Responses: from a typed body to a frame (node), and from a frame to a typed body (client).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request as ApiRequest};

use super::error::{DecodeError, EncodeError};
use super::request::Cursor;
use super::schema::{self, Direction};
use crate::frame;
use crate::limits::MAX_FRAME_BYTES;

/// `UNSUPPORTED_VERSION`.
const UNSUPPORTED_VERSION: i16 = 35;

/// Encodes a response to a request of `version`, length prefix included. Fetch responses with records are better written
/// with [`FetchResponseWriter`](super::FetchResponseWriter), which does not copy them.
///
/// # Errors
/// [`EncodeError`]: a field that is set does not exist in this version, or the frame is too large.
pub fn encode_response<M: Encodable + HeaderVersion>(
    version: i16,
    correlation_id: i32,
    response: &M,
) -> Result<Bytes, EncodeError> {
    let failed = |error: &dyn std::fmt::Display| EncodeError::refused(-1, version, error);
    let size = response.compute_size(version).map_err(|error| failed(&error))?;
    if size > MAX_FRAME_BYTES {
        return Err(EncodeError::TooLarge { len: size, limit: MAX_FRAME_BYTES });
    }
    let mut out = BytesMut::with_capacity(4 + 4 + 1 + size);
    out.put_u32(0);
    put_header(&mut out, M::header_version(version), correlation_id);
    response.encode(&mut out, version).map_err(|error| failed(&error))?;
    frame::finish(out)
}

/// From header version 1 on there are tagged fields; none are defined.
pub(super) fn put_header(out: &mut BytesMut, header_version: i16, correlation_id: i32) {
    out.put_i32(correlation_id);
    if header_version >= 1 {
        out.put_u8(0);
    }
}

/// The correlation id at the start of a response frame, its length prefix stripped.
#[must_use]
pub fn correlation_id(frame: &[u8]) -> Option<i32> {
    frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes))
}

/// Decodes the response to a request of type `R` and `version`, its length prefix stripped; returns its correlation id as
/// well. Checked as [`decode_request`](super::decode_request) does.
///
/// An ApiVersions response that says that the version is not supported is read in version 0, whatever was asked (KIP-511).
///
/// # Errors
/// [`DecodeError`].
pub fn decode_response<R: ApiRequest>(mut frame: Bytes, version: i16) -> Result<(i32, R::Response), DecodeError> {
    let mut cursor = Cursor { bytes: &frame, at: 0 };
    let correlation_id = i32::from_be_bytes(cursor.array()?);
    if <R::Response as HeaderVersion>::header_version(version) >= 1 {
        cursor.skip_tagged_fields()?;
    }
    let header = cursor.at;
    frame.advance(header);
    let version = match frame.first_chunk::<2>() {
        Some(code) if R::KEY == ApiVersionsRequest::KEY && i16::from_be_bytes(*code) == UNSUPPORTED_VERSION => 0,
        _ => version,
    };
    let unknown = || DecodeError::UnsupportedVersion { api_key: R::KEY, api_version: version, correlation_id };
    let shape = schema::find(Direction::Response, R::KEY, version).ok_or_else(unknown)?;
    schema::walk(Direction::Response, shape, version, &frame)?;
    let response = R::Response::decode(&mut frame, version).map_err(|error| DecodeError::Body {
        message: shape.name,
        version,
        why: error.to_string(),
    })?;
    Ok((correlation_id, response))
}

/// Whether the client can read responses of this API and version: their shape is known.
#[must_use]
pub fn can_decode_response(api: ApiKey, version: i16) -> bool {
    schema::find(Direction::Response, api as i16, version).is_some()
}
