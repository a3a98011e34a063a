//! What can be wrong with frames.

use std::fmt;

use super::schema::Malformed;

/// Why a frame is not decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// ApiVersions in a version that is not served: to be answered in version 0 with error 35 (`UNSUPPORTED_VERSION`) and
    /// the list of APIs; the client asks again (KIP-511).
    #[error("ApiVersions v{api_version} is not served")]
    ApiVersionsVersion {
        /// What was asked for.
        api_version: i16,
        /// Of the request.
        correlation_id: i32,
    },
    /// An API or version that is not served.
    #[error("API {api_key} v{api_version} is not served")]
    UnsupportedVersion {
        /// Which API.
        api_key: i16,
        /// In which version.
        api_version: i16,
        /// Of the request.
        correlation_id: i32,
    },
    /// The header does not parse.
    #[error("header at byte {at}: {what}")]
    Header {
        /// Position in the frame.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Larger than a frame of this API may be.
    #[error("a frame of {len} bytes for API {api_key}, more than the limit of {limit}")]
    TooLarge {
        /// Which API.
        api_key: i16,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The body declares what it can't hold.
    #[error(transparent)]
    Malformed(#[from] Box<Malformed>),
    /// The body is well framed, but a value is not (text that is not UTF-8).
    #[error("{message} v{version}: {why}")]
    Body {
        /// Which message.
        message: &'static str,
        /// Its version.
        version: i16,
        /// The decoder's words.
        why: String,
    },
}

/// Why a message is not encoded: a mistake of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message can't be written in this version.
    #[error("API {api_key} v{version} can't be encoded: {why}")]
    Refused {
        /// Which API; -1 where it is not known.
        api_key: i16,
        /// In which version.
        version: i16,
        /// The encoder's words.
        why: String,
    },
    /// Larger than a frame may be.
    #[error("a frame of {len} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not as many topics or partitions as were announced.
    #[error("{what}: {announced} announced, {written} written")]
    Count {
        /// Of what.
        what: &'static str,
        /// In advance.
        announced: usize,
        /// In fact.
        written: usize,
    },
}

impl EncodeError {
    pub(super) fn refused(api_key: i16, version: i16, why: &dyn fmt::Display) -> Self {
        Self::Refused { api_key, version, why: why.to_string() }
    }
}
