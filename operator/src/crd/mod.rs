//! The types of `wherry.dev/v1alpha1`, their defaults and their rules.
//!
//! ```text
//!  YAML text ── load() ──> Document { resource, where it stands } ── check_set() ──> resources that fit together
//!                 └── Problem: file, line, path, what to write instead
//! ```
//! What is not built yet has its place in the types, so that it is known by name, and is refused with a sentence: nothing is
//! accepted and ignored. This module must not know files, Kubernetes or nodes.

mod cluster;
mod group;
mod index;
mod load;
mod problem;
mod set;
#[cfg(test)]
mod tests;
mod topic;
mod unbuilt;
mod value;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use cluster::{Cluster, ClusterSpec, Defaults, Io, IoEngine, Listener, ListenerType};
pub use group::{ConsumerGroup, ConsumerGroupSpec, GroupMode, InitialOffset, Subscription};
pub use load::{Document, LoadErrors, load};
pub use problem::{Located, Problem, Problems};
pub use set::check_set;
pub use topic::{Adoption, Cleanup, Compression, Management, Retention, Topic, TopicSpec};
pub use unbuilt::Unbuilt;
pub use value::{Age, Size, SizeLimit};

/// Group and version of the resources.
pub const API_VERSION: &str = "wherry.dev/v1alpha1";

/// Most partitions of one topic; the nodes refuse more.
pub const PARTITIONS_MAX: i64 = 10_000;
/// Longest `metadata.name`, as Kubernetes has it.
pub const NAME_BYTES_MAX: usize = 253;
/// Longest topic name, as Kafka has it.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;
/// Longest group id that is accepted, in bytes.
pub const GROUP_ID_BYTES_MAX: usize = 255;
/// Largest text that [`load()`] takes, in bytes.
pub const YAML_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most documents in one text.
pub const DOCUMENTS_MAX: usize = 10_000;

/// What Kubernetes keeps about any resource, as far as it is written by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name, unique per kind and namespace.
    pub name: String,
    /// Namespace; absent in files for `wherry up`, which has one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels: kept, and not looked at here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations: kept, and not looked at here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Names another resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// Its `metadata.name`.
    pub name: String,
    /// Its namespace, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Unbuilt>,
}

/// What becomes of the data when the resource is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes. Not built yet.
    Delete,
    /// It goes if there is none. Not built yet.
    DeleteIfEmpty,
}

/// When an append counts as acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Durability {
    /// On stable storage (INV-1).
    #[default]
    Disk,
    /// In memory of the in-sync replicas. Not built yet.
    Replicated,
}

/// One resource of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Resource {
    /// A cluster of nodes.
    Cluster(Cluster),
    /// A topic in it.
    Topic(Topic),
    /// A durable subscription.
    ConsumerGroup(ConsumerGroup),
}

impl Resource {
    /// Its kind, as it is written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => Cluster::KIND,
            Self::Topic(_) => Topic::KIND,
            Self::ConsumerGroup(_) => ConsumerGroup::KIND,
        }
    }

    /// Its `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(cluster) => &cluster.metadata.name,
            Self::Topic(topic) => &topic.metadata.name,
            Self::ConsumerGroup(group) => &group.metadata.name,
        }
    }

    /// Refuses what can't be, and what is not built yet.
    ///
    /// # Errors
    /// Every problem, each with its path and a sentence that says what to write instead.
    pub fn validate(&self) -> Result<(), Problems> {
        match self {
            Self::Cluster(cluster) => cluster.validate(),
            Self::Topic(topic) => topic.validate(),
            Self::ConsumerGroup(group) => group.validate(),
        }
    }
}
