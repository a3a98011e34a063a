//! The coordinator's settings and every bound on what clients can make it hold (INV-7).

use thiserror::Error;

/// Settings; the defaults are Kafka's where Kafka has the setting.
#[derive(Debug, Clone)]
pub struct GroupsConfig {
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members before its first generation.
    pub initial_rebalance_delay_ms: u32,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: u32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: u32,
    /// A member that waits in its first join is let go after this long, session timeout or not.
    pub new_member_join_timeout_ms: u32,
    /// `group.max.size`: members of one group, those who were only given an id included.
    pub max_group_size: usize,
    /// `offset.metadata.max.bytes`.
    pub max_offset_metadata_bytes: usize,
    /// `offsets.retention.minutes`: offsets of a group that has been empty this long are removed.
    pub offsets_retention_ms: u64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_check_interval_ms: u64,
    /// Groups that this coordinator holds.
    pub max_groups: usize,
    /// Partitions with a committed offset, per group.
    pub max_offsets_per_group: usize,
    /// Group, member and instance ids, protocol names and types.
    pub max_id_bytes: usize,
    /// Protocols that one member offers.
    pub max_protocols: usize,
    /// Metadata of all members of a group for all their protocols; also the assignments that a leader sends.
    pub max_group_metadata_bytes: usize,
    /// Groups or members that one request names.
    pub max_names_per_request: usize,
    /// Persists that are not durable yet; beyond, requests that need one are refused with a retriable error.
    pub max_pending_persists: usize,
    /// Groups looked at in one step of the search for expired offsets, so that the shard is not held up.
    pub expiry_groups_per_step: usize,
    /// Tombstones in one persist of expired offsets or of a deleted topic.
    pub max_tombstones_per_persist: usize,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: u32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: u32,
    /// `group.consumer.max.size`: members of one consumer group.
    pub max_consumer_group_size: usize,
    /// `group.share.session.timeout.ms`.
    pub share_session_timeout_ms: u32,
    /// `group.share.heartbeat.interval.ms`.
    pub share_heartbeat_interval_ms: u32,
    /// `group.share.max.size`: members of one share group.
    pub max_share_group_size: usize,
    /// Topics that a member of a consumer or share group names.
    pub max_subscribed_topics: usize,
    /// Different patterns of the members of a consumer group.
    pub max_patterns_per_group: usize,
    /// Patterns are looked up again no sooner than this after topics have come.
    pub pattern_refresh_interval_ms: u64,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            new_member_join_timeout_ms: 300_000,
            max_group_size: 10_000,
            max_offset_metadata_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_check_interval_ms: 600_000,
            max_groups: 100_000,
            max_offsets_per_group: 200_000,
            max_id_bytes: 1_024,
            max_protocols: 64,
            max_group_metadata_bytes: 16 << 20,
            max_names_per_request: 10_000,
            max_pending_persists: 65_536,
            expiry_groups_per_step: 64,
            max_tombstones_per_persist: 1_024,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            max_consumer_group_size: 10_000,
            share_session_timeout_ms: 45_000,
            share_heartbeat_interval_ms: 5_000,
            max_share_group_size: 200,
            max_subscribed_topics: 10_000,
            max_patterns_per_group: 100,
            pattern_refresh_interval_ms: 10_000,
        }
    }
}

/// Settings that can't work.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The smallest session timeout is larger than the largest.
    #[error("groups: min_session_timeout_ms {min} is larger than max_session_timeout_ms {max}; swap them")]
    SessionTimeouts {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// Members would be out before they could be heard of.
    #[error(
        "groups: consumer_heartbeat_interval_ms {interval} must be above 0 and below consumer_session_timeout_ms {session}"
    )]
    HeartbeatInterval {
        /// The interval.
        interval: u32,
        /// The session timeout.
        session: u32,
    },
    /// A string would not fit its two-byte length in a record.
    #[error("groups: {name} is {value}, at most {limit} fit in a record")]
    TooLarge {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: usize,
        /// What fits.
        limit: usize,
    },
}

impl GroupsConfig {
    /// Refuses settings that can't work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (min, max) = (self.min_session_timeout_ms, self.max_session_timeout_ms);
        if min > max {
            return Err(ConfigError::SessionTimeouts { min, max });
        }
        let (interval, session) = (self.consumer_heartbeat_interval_ms, self.consumer_session_timeout_ms);
        if interval == 0 || interval >= session {
            return Err(ConfigError::HeartbeatInterval { interval, session });
        }
        let limit = super::record::MAX_STRING_BYTES;
        for (name, value) in [
            ("max_offset_metadata_bytes", self.max_offset_metadata_bytes),
            ("max_id_bytes", self.max_id_bytes + super::MEMBER_ID_SUFFIX_BYTES),
        ] {
            if value > limit {
                return Err(ConfigError::TooLarge { name, value, limit });
            }
        }
        Ok(())
    }
}
