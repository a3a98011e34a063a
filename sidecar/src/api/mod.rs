//! What applications call: gRPC and HTTP with JSON, over the same inner calls. Handlers translate; they decide nothing else.

pub(crate) mod ask;
pub(crate) mod groups;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod topics;
