//! The metadata as group coordinators see them.

use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::{Metadata, Topic};

use crate::groups::{Cluster, GroupOverrides, TopicView};

impl Cluster for Metadata {
    fn topic(&self, name: &str) -> Option<TopicView> {
        let view = |topic: &Arc<Topic>| TopicView { id: topic.id, partitions: topic.partition_count() };
        Self::topic(self, name).map(view)
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        self.topic_by_id(id).map(|topic| Arc::clone(&topic.name))
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = Arc<str>> + '_> {
        Box::new(self.topics_from("").map(|topic| Arc::clone(&topic.name)))
    }

    fn overrides(&self, group: &str) -> GroupOverrides {
        let number = |name| self.group_config(group, name)?.parse().ok();
        GroupOverrides {
            session_timeout_ms: number("consumer.session.timeout.ms"),
            heartbeat_interval_ms: number("consumer.heartbeat.interval.ms"),
        }
    }

    fn consumer_protocol(&self) -> bool {
        self.feature_level("group.version").is_some_and(|level| level > 0)
    }
}
