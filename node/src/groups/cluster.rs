//! What the group coordinator needs to know of the cluster: its topics, and settings of single groups. Handed in with
//! each step, so that the coordinator keeps no copy that could be stale.

use std::sync::Arc;

use uuid::Uuid;

/// A topic as assignments see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicView {
    /// Its id.
    pub id: Uuid,
    /// Its partitions are 0 to this, exclusive.
    pub partitions: i32,
}

/// Settings of one group that differ from the coordinator's ([`super::GroupsConfig`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupOverrides {
    /// `consumer.session.timeout.ms`.
    pub session_timeout_ms: Option<u32>,
    /// `consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: Option<u32>,
}

/// The cluster as it is now, for whoever asks in this step. MUST answer the same within one step.
pub trait Cluster {
    /// The topic of that name.
    fn topic(&self, name: &str) -> Option<TopicView>;
    /// The name of the topic with that id.
    fn topic_name(&self, id: Uuid) -> Option<Arc<str>>;
    /// All names, in order.
    fn topic_names(&self) -> Box<dyn Iterator<Item = Arc<str>> + '_>;
    /// Whether who asks may know of the topic of that name (`Describe`).
    fn may_describe(&self, name: &str) -> bool;
    /// Another number after each change of what anybody may do.
    fn rules_version(&self) -> u64;
    /// What is set for this group.
    fn overrides(&self, group: &str) -> GroupOverrides;
    /// The same for a share group: `share.session.timeout.ms` and `share.heartbeat.interval.ms`.
    fn share_overrides(&self, group: &str) -> GroupOverrides;
    /// `share.version` is at least 1: share groups may be used.
    fn share_protocol(&self) -> bool;
    /// `group.version` is at least 1: the protocol of KIP-848 may be used.
    fn consumer_protocol(&self) -> bool;
}
