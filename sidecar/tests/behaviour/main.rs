//! What applications see, over real sockets: real tonic clients and raw HTTP against a sidecar whose cluster is in memory.

#![allow(clippy::expect_used, clippy::panic, reason = "tests say what they expect by failing")]

mod broadcast;
mod events;
mod groups;
mod hostile;
mod http;
mod lifecycle;
mod publish;
mod pull;
mod requests;
mod subscribe;
mod support;
mod transactions;
