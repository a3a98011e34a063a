//! Admin calls: topics, configuration, offsets, groups. One call is one operation with its own deadline and retries.

mod types;

pub use types::{
    BrokerDescription, ClusterDescription, CommittedOffset, ConfigChange, ConfigEntry, ConfigResource, Each,
    GroupDescription, GroupListing, MemberDescription, NewTopic, OffsetAt, OffsetSpec, PartitionDescription,
    TopicDescription, TopicListing,
};

use std::sync::Arc;

use crate::error::{ClientError, Result};
use crate::record::TopicPartition;

/// Admin calls of a client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {}

fn pending<T>() -> Result<T> {
    Err(ClientError::Closed { what: "the client" })
}

/// Each call's outer error is about the whole call (no broker, no permission); each item has its own outcome inside.
impl Admin {
    /// The brokers, and who controls.
    pub async fn cluster(&self) -> Result<ClusterDescription> {
        pending()
    }

    /// Creates topics; `validate_only` just says what would happen.
    pub async fn create_topics(&self, topics: &[NewTopic], validate_only: bool) -> Result<Each<Arc<str>, ()>> {
        let _ = (topics, validate_only);
        pending()
    }

    /// Deletes topics and their data.
    pub async fn delete_topics(&self, topics: &[&str]) -> Result<Each<Arc<str>, ()>> {
        let _ = topics;
        pending()
    }

    /// Raises the number of partitions to a new total.
    pub async fn create_partitions(&self, totals: &[(&str, i32)]) -> Result<Each<Arc<str>, ()>> {
        let _ = totals;
        pending()
    }

    /// All topics, by name.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>> {
        pending()
    }

    /// Topics in full; never creates one.
    pub async fn describe_topics(&self, topics: &[&str]) -> Result<Each<Arc<str>, TopicDescription>> {
        let _ = topics;
        pending()
    }

    /// Settings of topics, brokers, groups.
    pub async fn describe_configs(&self, of: &[ConfigResource]) -> Result<Each<ConfigResource, Vec<ConfigEntry>>> {
        let _ = of;
        pending()
    }

    /// Changes settings one by one (KIP-339); those not named stay.
    pub async fn alter_configs(
        &self,
        changes: &[(ConfigResource, Vec<ConfigChange>)],
        validate_only: bool,
    ) -> Result<Each<ConfigResource, ()>> {
        let _ = (changes, validate_only);
        pending()
    }

    /// Deletes records before an offset (-1: all there are); answers with the new first offset.
    pub async fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<Each<TopicPartition, i64>> {
        let _ = before;
        pending()
    }

    /// Looks offsets up, by end or by time.
    pub async fn list_offsets(&self, of: &[(TopicPartition, OffsetSpec)]) -> Result<Each<TopicPartition, OffsetAt>> {
        let _ = of;
        pending()
    }

    /// Groups on all brokers, by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        pending()
    }

    /// Groups in full.
    pub async fn describe_groups(&self, groups: &[&str]) -> Result<Each<Arc<str>, GroupDescription>> {
        let _ = groups;
        pending()
    }

    /// What a group has committed; of these partitions, or of all. Partitions without a commit are left out.
    pub async fn group_offsets(&self, group: &str, of: Option<&[TopicPartition]>) -> Result<Vec<CommittedOffset>> {
        let _ = (group, of);
        pending()
    }

    /// Commits offsets for a group without members.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Each<TopicPartition, ()>> {
        let _ = (group, offsets);
        pending()
    }

    /// Deletes groups without members, and their offsets.
    pub async fn delete_groups(&self, groups: &[&str]) -> Result<Each<Arc<str>, ()>> {
        let _ = groups;
        pending()
    }

    /// Deletes committed offsets of partitions that no member subscribes to.
    pub async fn delete_group_offsets(&self, group: &str, of: &[TopicPartition]) -> Result<Each<TopicPartition, ()>> {
        let _ = (group, of);
        pending()
    }
}
