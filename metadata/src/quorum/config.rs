//! Settings and limits.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::QuorumError;

/// Named bounds.
pub mod limits {
    /// The largest payload of a proposal.
    pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
    /// Proposals and membership changes that may wait for their answer.
    pub const MAX_OUTSTANDING: usize = 1_024;
    /// Payload bytes that may wait for their answer.
    pub const MAX_OUTSTANDING_BYTES: usize = 16 << 20;
    /// Entries are sent together up to this size; one of them is always sent.
    pub const MAX_APPEND_BYTES: usize = 1 << 20;
    /// The largest encoded message, framing of the links excluded.
    pub const MAX_MESSAGE_BYTES: usize = MAX_APPEND_BYTES + MAX_PAYLOAD_BYTES;
    /// The largest encoded record of the quorum log.
    pub const MAX_RECORD_BYTES: usize = MAX_MESSAGE_BYTES;
    /// Snapshots are sent in parts of this size.
    pub const PART_BYTES: usize = 512 << 10;
    /// Entries go together into one record of the quorum log, and snapshots are cut into records, up to this size; an
    /// entry is never cut. Small, as each record becomes a batch, and no journal takes a batch larger than itself.
    pub const RECORD_BYTES: usize = 32 << 10;
    /// The largest snapshot.
    pub const MAX_SNAPSHOT_BYTES: usize = 256 << 20;
    /// Voters and learners together.
    pub const MAX_MEMBERS: usize = 256;
    /// The longest address of a member.
    pub const MAX_ADDR_BYTES: usize = 300;
    /// Requests of one peer that may be in work; more are dropped, as if lost.
    pub const MAX_REQUESTS_PER_PEER: usize = 64;
    /// Entries in one message.
    pub(crate) const MAX_APPEND_ENTRIES: u64 = 300;
    /// Polls after one input before it counts as a loop without end.
    pub(crate) const MAX_POLLS: usize = 4_000_000;
    /// How often a node asked to take over tries to be elected.
    pub(crate) const ELECT_TRIES: usize = 10;
}

/// Settings of one node's part in the quorum.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// This node.
    pub node_id: i32,
    /// Of all random numbers. It must differ at each start of a node: it keeps answers to the requests of an earlier
    /// start from being taken for answers to this one's.
    pub seed: u64,
    /// How often a leader shows itself, ms.
    pub heartbeat_ms: u64,
    /// A follower stands for election after a random time from this, ms, plus `election_max_ms` during which it
    /// refuses to vote for another one than the leader that it last heard.
    pub election_min_ms: u64,
    /// ... to this, ms, exclusive.
    pub election_max_ms: u64,
    /// How long a message's answer is waited for, ms: the peer's disk write is in it.
    pub rpc_timeout_ms: u64,
    /// The same for the last part of a snapshot, which is answered after all of it was written.
    pub install_timeout_ms: u64,
    /// How long a proposal waits before its answer is `Unknown`, ms.
    pub proposal_timeout_ms: u64,
    /// Entries that a snapshot covers but that are kept in memory for followers that are a little behind.
    pub keep_entries: u64,
}

impl QuorumConfig {
    /// The defaults.
    pub fn new(node_id: i32, seed: u64) -> Self {
        Self {
            node_id,
            seed,
            heartbeat_ms: 100,
            election_min_ms: 500,
            election_max_ms: 1_000,
            rpc_timeout_ms: 500,
            install_timeout_ms: 30_000,
            proposal_timeout_ms: 10_000,
            keep_entries: 1_000,
        }
    }

    pub(super) fn rpc_timeout(&self) -> Duration {
        Duration::from_millis(self.rpc_timeout_ms)
    }

    pub(super) fn openraft(&self) -> Result<Arc<Config>, QuorumError> {
        let config = Config {
            cluster_name: "wherry".to_owned(),
            // openraft looks at its timers every 3/2 of this, and that is when it sends a heartbeat.
            heartbeat_interval: (self.heartbeat_ms * 2 / 3).max(1),
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: self.install_timeout_ms,
            max_payload_entries: limits::MAX_APPEND_ENTRIES,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            ..Config::default()
        };
        let config = config.validate().map_err(|error| QuorumError::Refused(format!("settings: {error}")))?;
        Ok(Arc::new(config))
    }
}
