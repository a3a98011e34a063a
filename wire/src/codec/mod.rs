//! The seam over the kafka-protocol crate, whose messages are used as they are ([`messages`]).
//!
//! Nothing reaches its decoders that was not walked first (see `schema`): they allocate whatever a frame declares.
//! Frames are without their length prefix when they are decoded, and with it when they are encoded.

mod api;
pub mod dedupe;
mod error;
mod fetch;
mod request;
mod response;
mod schema;
mod schema_table;
mod share;
#[cfg(test)]
mod tests;

pub use api::{Served, api_versions, served_api};
pub use error::{DecodeError, EncodeError};
pub use fetch::{AbortedTransaction, FetchPartition, FetchResponseHead, FetchResponseWriter, LeaderHint, NodeEndpoint};
pub use kafka_protocol::error::ResponseError;
pub use kafka_protocol::messages::ApiKey;
pub use kafka_protocol::protocol::{Encodable, HeaderVersion, Request as ApiRequest, StrBytes};
pub use request::{Request, RequestBody, RequestHeader, decode_request, encode_request};
pub use response::{can_decode_response, correlation_id, decode_response, encode_response};
pub use schema::{Direction, Malformed, Problem};

/// The messages of the kafka-protocol crate, and in place of some of them those that are served in versions that it does not
/// know.
pub mod messages {
    pub use super::share::{ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse};
    pub use kafka_protocol::messages::*;
}
