//! The metadata as group coordinators see them, for the caller whose request they look at.

use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::acl::{Operation, ResourceType};
use wherry_metadata::{Metadata, Topic};

use crate::groups::{Cluster, GroupOverrides, TopicView};
use crate::security::Caller;
use crate::security::authorizer::AuthorizationConfig;

/// See the module.
pub(super) struct Seen<'a> {
    pub(super) meta: &'a Metadata,
    /// None: everybody may do everything.
    pub(super) authorization: Option<&'a AuthorizationConfig>,
    /// Whose request it is; none for what happens by itself.
    pub(super) caller: Option<&'a Caller>,
}

impl Cluster for Seen<'_> {
    fn topic(&self, name: &str) -> Option<TopicView> {
        let view = |topic: &Arc<Topic>| TopicView { id: topic.id, partitions: topic.partition_count() };
        self.meta.topic(name).map(view)
    }

    fn topic_name(&self, id: Uuid) -> Option<Arc<str>> {
        self.meta.topic_by_id(id).map(|topic| Arc::clone(&topic.name))
    }

    fn topic_names(&self) -> Box<dyn Iterator<Item = Arc<str>> + '_> {
        Box::new(self.meta.topics_from("").map(|topic| Arc::clone(&topic.name)))
    }

    /// A filter, not an attempt: it is neither logged nor counted.
    fn may_describe(&self, name: &str) -> bool {
        self.authorization.is_none_or(|authorization| {
            let may =
                |caller| authorization.allows(self.meta.acls(), caller, Operation::Describe, ResourceType::Topic, name);
            self.caller.is_some_and(may)
        })
    }

    fn rules_version(&self) -> u64 {
        self.meta.security_generation()
    }

    fn overrides(&self, group: &str) -> GroupOverrides {
        let number = |name| self.meta.group_config(group, name)?.parse().ok();
        GroupOverrides {
            session_timeout_ms: number("consumer.session.timeout.ms"),
            heartbeat_interval_ms: number("consumer.heartbeat.interval.ms"),
        }
    }

    fn share_overrides(&self, group: &str) -> GroupOverrides {
        let number = |name| self.meta.group_config(group, name)?.parse().ok();
        GroupOverrides {
            session_timeout_ms: number("share.session.timeout.ms"),
            heartbeat_interval_ms: number("share.heartbeat.interval.ms"),
        }
    }

    fn share_protocol(&self) -> bool {
        self.meta.feature_level("share.version").is_some_and(|level| level > 0)
    }

    fn consumer_protocol(&self) -> bool {
        self.meta.feature_level("group.version").is_some_and(|level| level > 0)
    }
}
