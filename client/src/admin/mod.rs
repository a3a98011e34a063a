//! Admin calls: topics, configuration, offsets, groups. One call is one operation with its own deadline and retries.

mod cluster;
mod configs;
mod each;
mod groups;
pub(crate) mod offsets;
mod topics;
mod types;

pub use types::{
    BrokerDescription, ClusterDescription, CommittedOffset, ConfigChange, ConfigEntry, ConfigResource, Each, Election,
    GroupDescription, GroupListing, MemberDescription, NewTopic, NodeDescription, OffsetAt, OffsetSpec,
    PartitionDescription, QuorumDescription, QuorumMember, Reassignment, TopicDescription, TopicListing,
};

use std::sync::Arc;

use crate::cluster::Cluster;

/// Admin calls of a client. Cheap to clone.
///
/// The outer error of a call is about the whole of it (no broker, no permission); each item has its own outcome inside.
#[derive(Debug, Clone)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl Admin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }
}
