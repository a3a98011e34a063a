//! Why a command is refused. Variants are decisions: each maps to one protocol error.

use uuid::Uuid;

use crate::PartitionId;

/// A refused command or snapshot. The state is as it was before.
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
    /// More replicas than nodes that run, or fewer than one.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// Replicas that can't be as they are asked for: repeated, unknown, none that runs.
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// No topic has that partition.
    #[error("there is no {0}")]
    UnknownPartition(PartitionId),
    /// No such node is registered.
    #[error("no node with the id {0} is registered")]
    UnknownBroker(i32),
    /// The command speaks of a process of the node that is not the registered one.
    #[error(
        "node {node_id} is registered with the incarnation {registered}, not {asked}: that process has been replaced"
    )]
    StaleIncarnation {
        /// The node.
        node_id: i32,
        /// The process that counts.
        registered: Uuid,
        /// The one in the command.
        asked: Uuid,
    },
    /// The node still has replicas or still runs.
    #[error("{0}")]
    BrokerInUse(String),
    /// Only the leader may ask for that.
    #[error("node {node_id} does not lead {id}")]
    NotLeader {
        /// The partition.
        id: PartitionId,
        /// Who asked.
        node_id: i32,
    },
    /// The asker knows an older (or newer) state of the partition.
    #[error(
        "{id} is at leader epoch {leader_epoch} and partition epoch {partition_epoch}: ask again with its current state"
    )]
    StaleEpoch {
        /// The partition.
        id: PartitionId,
        /// Its leader epoch.
        leader_epoch: i32,
        /// Its partition epoch.
        partition_epoch: i32,
    },
    /// A node that can't be an in-sync replica now: fenced, shutting down, or another process than the one seen.
    #[error("node {node_id} can't be an in-sync replica of {id}: {why}")]
    IneligibleReplica {
        /// The partition.
        id: PartitionId,
        /// The node.
        node_id: i32,
        /// Why not.
        why: &'static str,
    },
    /// The partition has the leader that the election would choose.
    #[error("{0} has the leader it should have")]
    ElectionNotNeeded(PartitionId),
    /// The preferred replica is not in sync or does not run.
    #[error("the preferred replica of {0} is not in sync or does not run")]
    PreferredLeaderNotAvailable(PartitionId),
    /// No replica runs, or those that do are damaged.
    #[error("no undamaged replica of {0} runs, so none can lead")]
    EligibleLeadersNotAvailable(PartitionId),
    /// Nothing to cancel.
    #[error("no reassignment of {0} is under way")]
    NoReassignment(PartitionId),
    /// The user has no such credential.
    #[error("user '{0}' has no credential for that mechanism")]
    UnknownCredential(String),
    /// A configuration key or value that is unknown, malformed, or not implemented.
    #[error("{0}")]
    InvalidConfig(String),
    /// A level of a feature that can't be.
    #[error("{0}")]
    InvalidFeature(String),
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
    /// The command was decided, and this node was told no more than the state after it.
    #[error("what came of it is not known: this node was behind and took over the whole state; look, and ask again")]
    OutcomeUnknown,
    /// The data belongs to another cluster.
    #[error("this data belongs to cluster '{found}', not to '{asked}'")]
    ClusterIdMismatch {
        /// The id recorded.
        found: String,
        /// The id asked for.
        asked: String,
    },
    /// Bytes that are no payload and no snapshot of ours.
    #[error("not metadata of ours: {0}")]
    Malformed(String),
    /// Written by another version.
    #[error("metadata of version {found}, but this binary reads version {supported}; start the version that wrote it")]
    UnknownVersion {
        /// In the bytes.
        found: u32,
        /// Known here.
        supported: u32,
    },
}
