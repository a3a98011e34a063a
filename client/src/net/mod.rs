//! Sockets and frames: how a connection is made, its pipeline of requests, its negotiated versions.
//!
//! It knows one broker at a time and nothing of topics, leaders or retries.

mod authenticate;
pub(crate) mod codec;
mod connection;
mod connector;
mod link;
mod versions;

pub(crate) use connection::{Connection, Reply};
pub(crate) use link::{Address, Link};
pub(crate) use versions::Versions;

use std::sync::Arc;

/// Why a request got no answer, as far as the caller's decision goes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetError {
    /// Never left this process: doing it again is safe.
    #[error("{0}")]
    NotSent(Arc<str>),
    /// Left, or may have left: the outcome is not known.
    #[error("{0}")]
    Lost(Arc<str>),
    /// Broker and client share no version of the call.
    #[error("{what}: no version in common with broker {broker}")]
    Unsupported {
        /// The call.
        what: &'static str,
        /// Its address.
        broker: Arc<str>,
    },
    /// The request can't be expressed, or the answer can't be read.
    #[error("{0}")]
    Malformed(Arc<str>),
}

impl NetError {
    pub(crate) fn not_sent(cause: impl std::fmt::Display) -> Self {
        Self::NotSent(cause.to_string().into())
    }

    pub(crate) fn lost(cause: impl std::fmt::Display) -> Self {
        Self::Lost(cause.to_string().into())
    }

    pub(crate) fn malformed(cause: impl std::fmt::Display) -> Self {
        Self::Malformed(cause.to_string().into())
    }
}
