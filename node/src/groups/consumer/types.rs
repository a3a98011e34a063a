//! What a consumer group is asked and answers.

use std::sync::Arc;

use uuid::Uuid;

use crate::groups::types::{GroupError, Response, StateName};

/// Partitions by topic, as requests and responses have them.
pub type TopicPartitions = Vec<(Uuid, Vec<i32>)>;

/// ConsumerGroupHeartbeat v0-1. What is absent is as before.
#[derive(Debug, Clone)]
pub struct ConsumerHeartbeatRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// The member; empty (v0 only) for one that is to be given an id.
    pub member_id: Arc<str>,
    /// 0 to join, -1 to leave, -2 for a static member that leaves to come back.
    pub member_epoch: i32,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// Its rack.
    pub rack_id: Option<Arc<str>>,
    /// Time to give up partitions.
    pub rebalance_timeout_ms: Option<i32>,
    /// What it wants, by name.
    pub topics: Option<Vec<Arc<str>>>,
    /// v1+: what it wants, by pattern; empty for none.
    pub regex: Option<Arc<str>>,
    /// The assignor that it would like.
    pub assignor: Option<Arc<str>>,
    /// What it has.
    pub owned: Option<TopicPartitions>,
    /// From the request header.
    pub client_id: Arc<str>,
    /// Where it connects from, e.g. `/10.0.0.7`.
    pub client_host: Arc<str>,
    /// v1+: members make their own ids (KIP-1082).
    pub makes_own_id: bool,
}

/// Answer to [`ConsumerHeartbeatRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatResponse {
    /// The verdict.
    pub error: GroupError,
    /// A sentence with an error.
    pub message: Option<String>,
    /// The member.
    pub member_id: Option<Arc<str>>,
    /// Its epoch from now on.
    pub member_epoch: i32,
    /// How often it is to come.
    pub heartbeat_interval_ms: i32,
    /// What it has from now on; absent if that is as before.
    pub assignment: Option<TopicPartitions>,
}

impl ConsumerHeartbeatResponse {
    pub(in crate::groups) fn refused(error: GroupError, message: impl Into<String>) -> Response {
        let message = Some(message.into()).filter(|message| !message.is_empty());
        Response::ConsumerHeartbeat(Self {
            error,
            message,
            member_id: None,
            member_epoch: 0,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }
}

/// ConsumerGroupDescribe v0-1.
#[derive(Debug, Clone)]
pub struct ConsumerDescribeRequest {
    /// Which groups.
    pub groups: Vec<Arc<str>>,
}

/// Answer to [`ConsumerDescribeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerDescribeResponse {
    /// In the order asked.
    pub groups: Vec<DescribedConsumerGroup>,
}

/// One group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumerGroup {
    /// The verdict.
    pub error: GroupError,
    /// A sentence with an error.
    pub message: Option<String>,
    /// The group.
    pub group_id: Arc<str>,
    /// Its state; none with an error.
    pub state: Option<StateName>,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of the target.
    pub assignment_epoch: i32,
    /// The assignor in use.
    pub assignor: Arc<str>,
    /// By member id.
    pub members: Vec<DescribedConsumer>,
}

/// One member in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumer {
    /// The member.
    pub member_id: Arc<str>,
    /// If it is static.
    pub instance_id: Option<Arc<str>>,
    /// Its rack.
    pub rack_id: Option<Arc<str>>,
    /// Its epoch.
    pub epoch: i32,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// What it wants, by name.
    pub topics: Vec<Arc<str>>,
    /// What it wants, by pattern.
    pub regex: Option<Arc<str>>,
    /// What it has.
    pub assignment: Vec<AssignedTopic>,
    /// What it is to have.
    pub target: Vec<AssignedTopic>,
}

/// Partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedTopic {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Its partitions.
    pub partitions: Vec<i32>,
}
