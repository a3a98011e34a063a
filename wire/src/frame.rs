//! Frames: a 4-byte length, big endian, and so many bytes. Held to their limits before anything is allocated.

use bytes::{Bytes, BytesMut};

use crate::codec::EncodeError;
use crate::limits::{MAX_CONTROL_FRAME_BYTES, MAX_FRAME_BYTES, MIN_REQUEST_BYTES};

/// Bytes of a length prefix.
pub const PREFIX: usize = 4;
const PRODUCE: i16 = 0;
/// A response has at least a correlation id.
const MIN_RESPONSE_BYTES: usize = 4;

/// A length prefix that no frame of ours has: the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short for a header, or negative. Bytes of another protocol end up here as well.
    #[error("a frame of {declared} bytes, fewer than the {least} of a header")]
    TooShort {
        /// What the prefix says.
        declared: i32,
        /// What a header takes.
        least: usize,
    },
    /// Too long: bytes of another protocol (TLS, HTTP) usually end up here.
    #[error("a frame of {declared} bytes, more than the limit of {limit} (is this the Kafka protocol?)")]
    TooLong {
        /// What the prefix says.
        declared: i32,
        /// The limit.
        limit: usize,
    },
}

fn check(prefix: [u8; PREFIX], least: usize) -> Result<usize, FrameError> {
    let declared = i32::from_be_bytes(prefix);
    match usize::try_from(declared) {
        Ok(len) if len > MAX_FRAME_BYTES => Err(FrameError::TooLong { declared, limit: MAX_FRAME_BYTES }),
        Ok(len) if len >= least => Ok(len),
        _ => Err(FrameError::TooShort { declared, least }),
    }
}

/// The length of a request frame.
///
/// # Errors
/// [`FrameError`].
pub fn request_length(prefix: [u8; PREFIX]) -> Result<usize, FrameError> {
    check(prefix, MIN_REQUEST_BYTES)
}

/// The length of a response frame.
///
/// # Errors
/// [`FrameError`].
pub fn response_length(prefix: [u8; PREFIX]) -> Result<usize, FrameError> {
    check(prefix, MIN_RESPONSE_BYTES)
}

/// The longest request frame of an API: a node that has read the first two bytes (the key) need not buffer more.
#[must_use]
pub fn request_limit(api_key: i16) -> usize {
    if api_key == PRODUCE { MAX_FRAME_BYTES } else { MAX_CONTROL_FRAME_BYTES }
}

/// Writes the length prefix of a frame whose first four bytes were kept for it.
pub(crate) fn finish(mut frame: BytesMut) -> Result<Bytes, EncodeError> {
    let len = frame.len().saturating_sub(PREFIX);
    put_length(&mut frame, len)?;
    Ok(frame.freeze())
}

/// Writes `len` as the length prefix.
pub(crate) fn put_length(frame: &mut [u8], len: usize) -> Result<(), EncodeError> {
    match (frame.first_chunk_mut::<PREFIX>(), i32::try_from(len)) {
        (Some(prefix), Ok(length)) if len <= MAX_FRAME_BYTES => {
            *prefix = length.to_be_bytes();
            Ok(())
        }
        _ => Err(EncodeError::TooLarge { len, limit: MAX_FRAME_BYTES }),
    }
}
