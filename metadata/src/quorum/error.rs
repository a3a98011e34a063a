//! What can go wrong, by what the owner does about it.

use thiserror::Error;

/// Why an input was refused, or a proposal failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuorumError {
    /// Not done, and never will be: ask the leader.
    #[error("node is not the leader of the metadata quorum (leader: {leader:?}); send it there")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<i32>,
    },
    /// It may have been done or may still be: find out before it is asked again.
    #[error("no majority of the metadata quorum answered in time; it may or may not have been done")]
    Unknown,
    /// Too much is under way: come back when some of it was answered.
    #[error("{outstanding} proposals of {bytes} bytes wait for the metadata quorum; try again later")]
    Busy {
        /// How many.
        outstanding: usize,
        /// Their payloads together.
        bytes: usize,
    },
    /// More than the named bound.
    #[error("{what} is over the limit of {max}")]
    TooLarge {
        /// What is.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Not done: the change does not fit the state.
    #[error("refused by the metadata quorum: {0}")]
    Refused(String),
    /// Bytes that this code did not write, or that were damaged.
    #[error("malformed record or message of the metadata quorum: {0}")]
    Malformed(String),
    /// Written by another version of this code.
    #[error("record or message of the metadata quorum has encoding version {version}; this build reads {known}")]
    UnknownVersion {
        /// The version found.
        version: u8,
        /// The version known.
        known: u8,
    },
    /// Records of another node.
    #[error("the quorum log belongs to node {found}, this is node {expected}; check the node id and the volume")]
    OtherNode {
        /// Whose it is.
        found: i32,
        /// Who reads it.
        expected: i32,
    },
    /// It gave up; see the `Fatal` output. The process must be restarted.
    #[error("the metadata quorum of this node has stopped: {0}")]
    Stopped(String),
}
