//! What a share group is asked and answers.

use std::sync::Arc;

use crate::groups::consumer::types::{AssignedTopic, TopicPartitions};
use crate::groups::types::{GroupError, Response, StateName};

/// ShareGroupHeartbeat v1. What is absent is as before.
#[derive(Debug, Clone)]
pub struct ShareHeartbeatRequest {
    /// The group.
    pub group_id: Arc<str>,
    /// The member; it makes its id itself.
    pub member_id: Arc<str>,
    /// 0 to join, -1 to leave.
    pub member_epoch: i32,
    /// Its rack.
    pub rack_id: Option<Arc<str>>,
    /// What it wants, by name.
    pub topics: Option<Vec<Arc<str>>>,
    /// From the request header.
    pub client_id: Arc<str>,
    /// Where it connects from, e.g. `/10.0.0.7`.
    pub client_host: Arc<str>,
}

/// Answer to [`ShareHeartbeatRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareHeartbeatResponse {
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
    /// What it reads from now on; absent if that is as before.
    pub assignment: Option<TopicPartitions>,
}

impl ShareHeartbeatResponse {
    pub(in crate::groups) fn refused(error: GroupError, message: impl Into<String>) -> Response {
        let message = Some(message.into()).filter(|message| !message.is_empty());
        Response::ShareHeartbeat(Self {
            error,
            message,
            member_id: None,
            member_epoch: 0,
            heartbeat_interval_ms: 0,
            assignment: None,
        })
    }
}

/// ShareGroupDescribe v1.
#[derive(Debug, Clone)]
pub struct ShareDescribeRequest {
    /// Which groups.
    pub groups: Vec<Arc<str>>,
}

/// Answer to [`ShareDescribeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareDescribeResponse {
    /// In the order asked.
    pub groups: Vec<DescribedShareGroup>,
}

/// One group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedShareGroup {
    /// The verdict.
    pub error: GroupError,
    /// A sentence with an error.
    pub message: Option<String>,
    /// The group.
    pub group_id: Arc<str>,
    /// Its state; none with an error.
    pub state: Option<StateName>,
    /// Its epoch, which is that of the assignment as well.
    pub epoch: i32,
    /// By member id.
    pub members: Vec<DescribedSharer>,
}

/// One member in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedSharer {
    /// The member.
    pub member_id: Arc<str>,
    /// Its rack.
    pub rack_id: Option<Arc<str>>,
    /// Its epoch.
    pub epoch: i32,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// What it wants.
    pub topics: Vec<Arc<str>>,
    /// What it reads.
    pub assignment: Vec<AssignedTopic>,
}
