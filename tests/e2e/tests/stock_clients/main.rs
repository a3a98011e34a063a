//! Stock Kafka clients, unmodified, against the real node as a process: what goes in is what comes out.
//!
//! Every test also runs against Apache Kafka (`WHERRY_E2E_TARGET=kafka`), which is how it was proven right.

mod consumer_protocol;
mod java;
mod kcat;
mod libraries;
mod security;
mod share;
mod transactions;

use anyhow::Result;
use wherry_e2e::server::{Server, shared};

/// Runs a test against each chosen broker; the topic prefix differs, so that an answer can't come from another one.
fn each(test: impl Fn(&Server) -> Result<()>) -> Result<()> {
    wherry_e2e::clients::ensure("all")?;
    for server in shared()? {
        test(server).map_err(|e| {
            e.context(format!("against {:?}; the server said:\n{}", server.kind(), server.last_words()))
        })?;
    }
    Ok(())
}

/// The same, but only against the first chosen broker: for tests that are about the protocol, and slow.
fn one(test: impl Fn(&Server) -> Result<()>) -> Result<()> {
    wherry_e2e::clients::ensure("all")?;
    let server = shared()?[0];
    test(server)
        .map_err(|e| e.context(format!("against {:?}; the server said:\n{}", server.kind(), server.last_words())))
}
