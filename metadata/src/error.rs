//! Why a command is refused. Variants are decisions: each maps to one protocol error.

use uuid::Uuid;

/// A refused command or record. The state is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// A topic of that name exists.
    #[error("topic '{0}' already exists")]
    TopicExists(String),
    /// A topic id that is taken; ids are chosen at random, so the caller picks another.
    #[error("topic id {0} is already in use")]
    TopicIdExists(Uuid),
    /// No topic has that id.
    #[error("no topic has the id {0}")]
    UnknownTopic(Uuid),
    /// A name that breaks the rules, or that differs from another only in '.' and '_'.
    #[error("{0}")]
    InvalidTopicName(String),
    /// A partition count that can't be.
    #[error("{0}")]
    InvalidPartitions(String),
    /// More replicas than nodes, or fewer than one.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A configuration key or value that is unknown, malformed, or not implemented.
    #[error("{0}")]
    InvalidConfig(String),
    /// A named bound of the cluster is reached.
    #[error("{0}")]
    LimitReached(String),
    /// A command that makes no sense in this state.
    #[error("{0}")]
    InvalidRequest(String),
    /// The producer id block was given away meanwhile: ask again.
    #[error("producer ids from {expected} on are next, the command asked for {asked}")]
    StaleProducerIds {
        /// What is next.
        expected: i64,
        /// What the command said.
        asked: i64,
    },
    /// The data belongs to another cluster.
    #[error("this data belongs to cluster '{found}', not to '{asked}'")]
    ClusterIdMismatch {
        /// The id recorded.
        found: String,
        /// The id asked for.
        asked: String,
    },
    /// Bytes that are no record of ours.
    #[error("not a metadata record: {0}")]
    Malformed(String),
    /// Written by a newer version.
    #[error(
        "metadata record of version {found}, but this binary reads up to {supported}; start the newer version that wrote it"
    )]
    UnknownVersion {
        /// In the record.
        found: u32,
        /// Newest known here.
        supported: u32,
    },
}
