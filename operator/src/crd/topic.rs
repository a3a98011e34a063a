//! Topic: a named log of some partitions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::problem::Checker;
use super::value::topic_name_problem;
use super::{
    Age, ClusterSpec, DeletionPolicy, Durability, Metadata, PARTITIONS_MAX, Problems, Reference, Size, SizeLimit,
};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topic {
    /// Always [`super::API_VERSION`].
    pub api_version: String,
    /// Always `Topic`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: TopicSpec,
}

/// What is wanted of a topic. An absent setting is not managed: it is never reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopicSpec {
    /// The cluster it is in.
    pub cluster_ref: Reference,
    /// Its name on the wire; absent: `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Number of partitions; absent: the cluster's default. Grows, never shrinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i64>,
    /// Copies of each partition; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// Copies that an acknowledgement speaks of; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_in_sync: Option<i64>,
    /// How long and how much is kept.
    #[serde(default)]
    pub retention: Retention,
    /// What happens to old data; absent: not managed (a new topic deletes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup: Option<Cleanup>,
    /// When an append counts as acknowledged.
    #[serde(default)]
    pub durability: Durability,
    /// Compression of stored batches.
    #[serde(default)]
    pub compression: Compression,
    /// Largest batch of records that is accepted, as it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<Size>,
    /// Deduplication by message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Dedupe>,
    /// Further settings by their names on the wire, as `segment.bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// What becomes of the data when the resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What to do about a topic that exists already.
    #[serde(default)]
    pub adoption: Adoption,
    /// Whether the topic is changed or only looked at.
    #[serde(default)]
    pub management: Management,
}

/// How long and how much is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Age at which data may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Age>,
    /// Size of a partition above which its oldest data may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<SizeLimit>,
}

/// Deduplication by message id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dedupe {
    /// For how long a message id is remembered at least.
    pub window: Age,
    /// Message ids that a partition remembers at the most; absent: not managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ids: Option<i64>,
}

/// What happens to old data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cleanup {
    /// It goes, by age and size.
    Delete,
    /// The last message of each key stays.
    Compact,
}

/// Compression of stored batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Compression {
    /// As the producer made them (INV-3).
    #[default]
    Producer,
    /// Not built.
    None,
    /// Not built.
    Gzip,
    /// Not built.
    Snappy,
    /// Not built.
    Lz4,
    /// Not built.
    Zstd,
}

/// What to do about a topic that exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Adoption {
    /// Take it on if it can be made what is wanted without loss.
    #[default]
    IfCompatible,
    /// Not built yet.
    Never,
    /// Not built yet.
    Force,
}

/// Whether a topic is changed or only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Management {
    /// Made and changed as wanted.
    #[default]
    Full,
    /// Not built yet.
    Observe,
}

/// Settings that have their own field: writing them under `config` as well would leave two answers.
const OWN_FIELD: [(&str, &str); 8] = [
    ("retention.ms", "spec.retention.time"),
    ("retention.bytes", "spec.retention.bytes"),
    ("cleanup.policy", "spec.cleanup"),
    ("max.message.bytes", "spec.maxMessageBytes"),
    ("compression.type", "spec.compression"),
    ("min.insync.replicas", "spec.minInSync"),
    ("wherry.dedupe.window.ms", "spec.dedupe.window"),
    ("wherry.dedupe.max.ids", "spec.dedupe.maxIds"),
];

/// Largest `maxMessageBytes`: what a length on the wire can say.
const MESSAGE_BYTES_MAX: u64 = i32::MAX as u64;

impl Topic {
    /// As it is written under `kind`.
    pub const KIND: &'static str = "Topic";

    /// Its name on the wire.
    #[must_use]
    pub fn topic_name(&self) -> &str {
        self.spec.topic_name.as_deref().unwrap_or(&self.metadata.name)
    }

    /// Refuses what can't be, and what is not built yet.
    ///
    /// # Errors
    /// Every problem with its path.
    pub fn validate(&self) -> Result<(), Problems> {
        let mut check = Checker::default();
        check.name("metadata.name", &self.metadata.name);
        self.check_topic_name(&mut check);
        self.spec.check(&mut check);
        check.done()
    }

    fn check_topic_name(&self, check: &mut Checker) {
        let path = if self.spec.topic_name.is_some() { "spec.topicName" } else { "metadata.name" };
        // A bad metadata.name has been refused as such; its rules are the stricter ones, but for the length.
        if let Some(says) = topic_name_problem(self.topic_name()) {
            check.refuse_if(
                self.spec.topic_name.is_some() || self.metadata.name.len() > super::TOPIC_NAME_BYTES_MAX,
                path,
                || says,
            );
        }
    }

    /// Copies of each partition, in a cluster with these defaults.
    #[must_use]
    pub fn replicas_in(&self, cluster: &ClusterSpec) -> i64 {
        self.spec.replicas.unwrap_or_else(|| cluster.default_replicas())
    }

    /// Copies that an acknowledgement speaks of, in a cluster with these defaults; never more than there are.
    #[must_use]
    pub fn min_in_sync_in(&self, cluster: &ClusterSpec) -> i64 {
        let usual = || cluster.default_min_in_sync().min(self.replicas_in(cluster));
        self.spec.min_in_sync.unwrap_or_else(usual)
    }

    /// The settings that this resource manages, by their names on the wire.
    #[must_use]
    pub fn wire_config(&self) -> Vec<(String, String)> {
        let spec = &self.spec;
        let own = [
            ("retention.ms", spec.retention.time.map(|age| age.wire_ms().to_string())),
            ("retention.bytes", spec.retention.bytes.map(|bytes| bytes.wire_bytes().to_string())),
            ("cleanup.policy", spec.cleanup.map(|cleanup| cleanup.wire_name().to_owned())),
            ("max.message.bytes", spec.max_message_bytes.map(|size| size.0.to_string())),
            ("wherry.dedupe.window.ms", spec.dedupe.as_ref().map(|dedupe| dedupe.window.wire_ms().to_string())),
            ("wherry.dedupe.max.ids", spec.dedupe.as_ref().and_then(|dedupe| Some(dedupe.max_ids?.to_string()))),
            ("min.insync.replicas", spec.min_in_sync.map(|minimum| minimum.to_string())),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        own.chain(spec.config.clone()).collect()
    }
}

impl Cleanup {
    fn wire_name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
        }
    }
}

/// What nodes take.
const DEDUPE_WINDOW_MAX: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3_600);
const DEDUPE_IDS_MAX: i64 = 10_000_000;
/// Most nodes of a cluster.
const REPLICAS_MAX: i64 = 5;

impl TopicSpec {
    fn check(&self, check: &mut Checker) {
        check.reference("spec.clusterRef", &self.cluster_ref);
        if let Some(partitions) = self.partitions {
            check.range("spec.partitions", partitions, 1, PARTITIONS_MAX);
        }
        check.at_most("spec.replicas", self.replicas, REPLICAS_MAX, "nodes that a cluster can have");
        let copies = self.replicas.unwrap_or(REPLICAS_MAX).clamp(1, REPLICAS_MAX);
        check.at_most("spec.minInSync", self.min_in_sync, copies, "copies of a partition");
        self.check_sizes(check);
        self.check_dedupe(check);
        self.check_config(check);
        self.check_unbuilt(check);
    }

    fn check_sizes(&self, check: &mut Checker) {
        if let Some(size) = self.max_message_bytes {
            let range = 1..=MESSAGE_BYTES_MAX;
            check.refuse_if(!range.contains(&size.0), "spec.maxMessageBytes", || {
                format!("is {size}; write a size from 1 to {MESSAGE_BYTES_MAX} bytes")
            });
        }
        let nothing = self.retention.time == Some(Age::At(std::time::Duration::ZERO));
        check.refuse_if(nothing, "spec.retention.time", || {
            "is 0, which would delete everything at once; write for example 7d, or Forever".into()
        });
        let nothing = self.retention.bytes == Some(SizeLimit::At(Size(0)));
        check.refuse_if(nothing, "spec.retention.bytes", || {
            "is 0, which would delete everything at once; write for example 10Gi, or Unlimited".into()
        });
    }

    fn check_dedupe(&self, check: &mut Checker) {
        let Some(dedupe) = &self.dedupe else { return };
        let fits = match dedupe.window {
            Age::At(window) => !window.is_zero() && window <= DEDUPE_WINDOW_MAX,
            Age::Forever => false,
        };
        check.refuse_if(!fits, "spec.dedupe.window", || {
            "is not a time from 1s to 30d; write for example 10m, or leave dedupe out".into()
        });
        if let Some(ids) = dedupe.max_ids {
            check.range("spec.dedupe.maxIds", ids, 1, DEDUPE_IDS_MAX);
        }
    }

    fn check_config(&self, check: &mut Checker) {
        for key in self.config.keys() {
            let path = format!("spec.config[{key:?}]");
            if let Some((_, field)) = OWN_FIELD.iter().find(|(name, _)| name == key) {
                check.refuse(path, format!("has its own field; remove it and write {field}"));
            } else if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '.') {
                check.refuse(path, "is not the name of a setting; write for example segment.bytes");
            }
        }
    }

    fn check_unbuilt(&self, check: &mut Checker) {
        check.refuse_if(self.durability != Durability::Disk, "spec.durability", || {
            "only Disk is built: an append is on stable storage before it is acknowledged; write Disk or leave it out".into()
        });
        check.refuse_if(self.compression != Compression::Producer, "spec.compression", || {
            "only Producer is built: batches are kept as the producer made them; write Producer or leave it out, and set the codec where you produce".into()
        });
        check.refuse_if(self.deletion_policy != DeletionPolicy::Retain, "spec.deletionPolicy", || {
            "only Retain is built; write Retain or leave it out, and use `wherry topic delete`".into()
        });
        check.refuse_if(self.adoption != Adoption::IfCompatible, "spec.adoption", || {
            "only IfCompatible is built; write IfCompatible or leave it out".into()
        });
        check.refuse_if(self.management != Management::Full, "spec.management", || {
            "only Full is built; write Full or leave it out".into()
        });
    }
}
