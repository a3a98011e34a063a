//! ConsumerGroup: a durable subscription.

use serde::{Deserialize, Serialize};

use super::problem::Checker;
use super::value::topic_name_problem;
use super::{DeletionPolicy, GROUP_ID_BYTES_MAX, Metadata, Problems, Reference, Unbuilt};

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumerGroup {
    /// Always [`super::API_VERSION`].
    pub api_version: String,
    /// Always `ConsumerGroup`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ConsumerGroupSpec,
}

/// What is wanted of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumerGroupSpec {
    /// The cluster it is in.
    pub cluster_ref: Reference,
    /// Its name on the wire; absent: `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    /// How messages are handed out.
    #[serde(default)]
    pub mode: GroupMode,
    /// The topics it reads.
    pub subscriptions: Vec<Subscription>,
    /// Where it begins in a partition in which it has never acknowledged anything.
    #[serde(default)]
    pub initial_offset: InitialOffset,
    /// Hand out nothing.
    #[serde(default)]
    pub paused: bool,
    /// Acknowledgement, redelivery, dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Unbuilt>,
    /// Move its position, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Unbuilt>,
    /// Scale its consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Unbuilt>,
    /// What becomes of its position when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// How messages are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupMode {
    /// In order per partition, each partition to one member.
    #[default]
    Stream,
    /// Message by message, to any member. Not built yet.
    Queue,
    /// Everything to every member. Not built yet.
    Broadcast,
}

/// A topic that a group reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subscription {
    /// The topic's name on the wire.
    pub topic: String,
    /// Only some of its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Unbuilt>,
}

/// Where a group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InitialOffset {
    /// With the oldest message that there is.
    #[default]
    Earliest,
    /// With what is published from now on.
    Latest,
}

impl ConsumerGroup {
    /// As it is written under `kind`.
    pub const KIND: &'static str = "ConsumerGroup";

    /// Its name on the wire.
    #[must_use]
    pub fn group_id(&self) -> &str {
        self.spec.group_id.as_deref().unwrap_or(&self.metadata.name)
    }

    /// Refuses what can't be, and what is not built yet.
    ///
    /// # Errors
    /// Every problem with its path.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut check = Checker::default();
        check.name("metadata.name", &self.metadata.name);
        self.spec.check(&mut check);
        check.done()
    }
}

impl ConsumerGroupSpec {
    fn check(&self, check: &mut Checker) {
        check.reference("spec.clusterRef", &self.cluster_ref);
        self.check_group_id(check);
        self.check_subscriptions(check);
        self.check_unbuilt(check);
    }

    fn check_group_id(&self, check: &mut Checker) {
        let Some(id) = &self.group_id else { return };
        check.refuse_if(id.is_empty(), "spec.groupId", || {
            "is empty; write a name, or leave it out for metadata.name".into()
        });
        check.refuse_if(id.len() > GROUP_ID_BYTES_MAX, "spec.groupId", || {
            format!("has {} bytes; write at most {GROUP_ID_BYTES_MAX}", id.len())
        });
        check.refuse_if(id.chars().any(char::is_control), "spec.groupId", || {
            "contains control characters; write visible ones".into()
        });
    }

    fn check_subscriptions(&self, check: &mut Checker) {
        check.refuse_if(self.subscriptions.is_empty(), "spec.subscriptions", || {
            "is empty; name at least one topic, for example [{topic: orders}]".into()
        });
        for (n, subscription) in self.subscriptions.iter().enumerate() {
            let path = format!("spec.subscriptions[{n}]");
            if let Some(says) = topic_name_problem(&subscription.topic) {
                check.refuse(format!("{path}.topic"), says);
            }
            let again = self.subscriptions.iter().take(n).any(|other| other.topic == subscription.topic);
            check.refuse_if(again, &format!("{path}.topic"), || {
                format!("{:?} is subscribed to already; remove one of the two", subscription.topic)
            });
            check.unbuilt(
                subscription.filter.as_ref(),
                &format!("{path}.filter"),
                "The group gets every message of the topic.",
            );
        }
    }

    fn check_unbuilt(&self, check: &mut Checker) {
        check.refuse_if(self.mode != GroupMode::Stream, "spec.mode", || {
            "only Stream is built; write Stream or leave it out".into()
        });
        check.refuse_if(self.paused, "spec.paused", || {
            "not built yet; leave it out, and stop the consumers instead".into()
        });
        check.unbuilt(
            self.delivery.as_ref(),
            "spec.delivery",
            "An application gives its ack timeout when it subscribes.",
        );
        check.unbuilt(self.reset.as_ref(), "spec.reset", "Use `wherry group reset`.");
        check.unbuilt(
            self.autoscale.as_ref(),
            "spec.autoscale",
            "Scale the consumers by hand; `wherry group describe` shows the lag.",
        );
        check.refuse_if(self.deletion_policy != DeletionPolicy::Retain, "spec.deletionPolicy", || {
            "only Retain is built; write Retain or leave it out, and use `wherry group delete`".into()
        });
    }
}
