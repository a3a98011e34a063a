//! Why a node can't start or must stop. Variants are decisions.

use wherry_metadata::MetadataError;

use crate::core::store::OpenError;

/// An error of the node as a whole; errors of requests are answered on the wire.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Settings that can't work; the sentence says what to set.
    #[error("{0}")]
    Config(String),
    /// The data directory can't be opened or recovered.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The node's own state can't be read.
    #[error("can't load the node's own state: {0}")]
    State(String),
    /// The metadata log holds something that this version can't take.
    #[error("can't load the metadata: {0}")]
    Metadata(#[from] MetadataError),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// Operation and its subject.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The node stopped because it could no longer keep its promises.
    #[error("the node stopped: {0}")]
    Stopped(String),
}

/// A connection that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bound is reached.
    #[error("{limit} connections are open already")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// Its address opens more connections than it may.
    #[error("its address opens connections faster than its quota lets it")]
    TooFast,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why an outgoing connection did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Every address of the peer refused at once: its machine is there, its process is not.
    #[error("the peer refuses connections")]
    Refused,
    /// No answer, no route, or no such name: nothing is known of the peer.
    #[error("{0}")]
    Unreachable(String),
}
