//! What a quorum asks of its owner.

use super::{Message, Payload, QuorumError};

/// Names a write of records until it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(pub(super) u64);

/// Names a proposal or a change of membership until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub(super) u64);

/// What the quorum wants of its owner, in order.
#[derive(Debug)]
pub enum Output {
    /// Bring this message to that node, or lose it.
    Send {
        /// The node.
        to: i32,
        /// The message.
        message: Message,
    },
    /// Append these records, then say `write_done`. A write that `supersedes` makes all records before its first one
    /// deletable once it is durable.
    Write {
        /// What to say when it is durable.
        id: WriteId,
        /// The records, each at most [`super::limits::MAX_RECORD_BYTES`].
        records: Vec<Vec<u8>>,
        /// Nothing before the first of them is needed any more, once the last of them is durable.
        supersedes: bool,
    },
    /// This is decided: apply it. Indexes rise, with gaps.
    Committed {
        /// Its place in the log.
        index: u64,
        /// The term in which it was proposed.
        term: u64,
        /// What was proposed.
        payload: Payload,
    },
    /// Make a snapshot of the state as it is at this output, before later ones are applied, and bring it to
    /// [`super::Quorum::snapshot_built`].
    BuildSnapshot {
        /// The index that it covers.
        index: u64,
    },
    /// Replace the state by this snapshot. What is `Committed` after it lies above `index`.
    InstallSnapshot {
        /// The index that it covers.
        index: u64,
        /// What the owner of some node built.
        bytes: Payload,
    },
    /// How a proposal, or a change of membership, ended.
    Answered {
        /// Which.
        id: ProposalId,
        /// Its index, which was `Committed` before; 0 for `initialize`.
        result: Result<u64, QuorumError>,
    },
    /// Term or leader changed.
    Leader {
        /// The term.
        term: u64,
        /// The leader, if it is known.
        leader: Option<i32>,
    },
    /// It can't go on, and takes no more inputs: stop the process.
    Fatal(String),
}
