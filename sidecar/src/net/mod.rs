//! Listening and serving: one port and one Unix socket, HTTP/1 and HTTP/2 by prior knowledge on each, gRPC and JSON alike.
//!
//! It knows bounds and stopping, and nothing of what calls do.

pub(crate) mod guard;
pub(crate) mod listen;
pub(crate) mod metered;
pub(crate) mod serve;
