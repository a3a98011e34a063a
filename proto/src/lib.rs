//! The app-facing gRPC API and its generated types.
//!
//! The contract is in `proto/wherry/v1/*.proto`; this crate only has what is generated from it, for the
//! sidecar and for programs in Rust. `bytes` fields are [`prost::bytes::Bytes`], so that payloads are not copied.
//! It must not know how the sidecar does its work.

/// The first version of the API: package `wherry.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    reason = "generated; its documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("wherry.v1");
}

/// The encoded `FileDescriptorSet` of package `wherry.v1` and its imports, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wherry.v1.bin"));
