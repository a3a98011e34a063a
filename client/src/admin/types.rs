//! What admin calls take and give.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::record::TopicPartition;

/// One outcome per item asked for, in the order asked.
pub type Each<K, T> = Vec<(K, Result<T>)>;

/// A topic to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Number of partitions; `None` is the broker's default.
    pub partitions: Option<i32>,
    /// Replicas of each; `None` is the broker's default.
    pub replication: Option<i16>,
    /// The nodes of each partition, preferred leader first, instead of the two numbers above; empty: the cluster chooses.
    pub assignment: Vec<Vec<i32>>,
    /// Topic configuration, by Kafka's names.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with this many partitions and the broker's defaults for the rest.
    pub fn new(name: impl Into<Arc<str>>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions: Some(partitions),
            replication: None,
            assignment: Vec::new(),
            configs: Vec::new(),
        }
    }

    /// A topic whose partitions have these nodes, the preferred leader of each first.
    pub fn placed(name: impl Into<Arc<str>>, assignment: Vec<Vec<i32>>) -> Self {
        Self { partitions: None, assignment, ..Self::new(name, 1) }
    }

    /// With this configuration besides.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }
}

/// A topic as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; nil where the broker is too old to say.
    pub id: Uuid,
    /// Belongs to the brokers themselves.
    pub internal: bool,
    /// Number of partitions.
    pub partitions: usize,
}

/// A topic in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; nil where the broker is too old to say.
    pub id: Uuid,
    /// Belongs to the brokers themselves.
    pub internal: bool,
    /// Ordered by index.
    pub partitions: Vec<PartitionDescription>,
}

/// A partition and where its replicas are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// From 0.
    pub partition: i32,
    /// Broker that leads; `None` at the moment nobody does.
    pub leader: Option<i32>,
    /// Epoch of the leadership; -1 unknown.
    pub leader_epoch: i32,
    /// Brokers that hold a replica.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
    /// Those that can't be reached.
    pub offline: Vec<i32>,
}

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerDescription {
    /// Its id.
    pub id: i32,
    /// Advertised host.
    pub host: Arc<str>,
    /// Advertised port.
    pub port: u16,
    /// Its rack, if configured.
    pub rack: Option<Arc<str>>,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id, if the broker says.
    pub cluster_id: Option<Arc<str>>,
    /// The broker to send controller calls to, if there is one.
    pub controller: Option<i32>,
    /// Live brokers.
    pub brokers: Vec<BrokerDescription>,
}

/// What a configuration belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigResource {
    /// A topic.
    Topic(Arc<str>),
    /// A broker; `None` is the default of all.
    Broker(Option<i32>),
    /// A consumer group (KIP-848 settings).
    Group(Arc<str>),
}

/// One setting as described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` where it is sensitive or has none.
    pub value: Option<String>,
    /// Nobody has set it.
    pub is_default: bool,
    /// Can't be altered.
    pub read_only: bool,
    /// Its value is never shown.
    pub sensitive: bool,
}

/// One change of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Give it this value.
    Set(String, String),
    /// Back to the default.
    Reset(String),
    /// Add to a list.
    Append(String, String),
    /// Take from a list.
    Subtract(String, String),
}

/// Which offset `list_offsets` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first there is.
    Earliest,
    /// The one after the last (the high watermark; with `ReadCommitted` the last stable offset).
    Latest,
    /// The record with the largest time.
    MaxTimestamp,
    /// The first record at or after this time in milliseconds since the epoch.
    Timestamp(i64),
}

/// An offset that was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAt {
    /// The offset; -1 where no record matches a time.
    pub offset: i64,
    /// Time of the record there; -1 where the question was not about time.
    pub timestamp_ms: i64,
    /// Epoch of its leader; -1 unknown.
    pub leader_epoch: i32,
}

/// A group as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its name.
    pub group: Arc<str>,
    /// `consumer`, or what else its members are; empty for a group that only commits.
    pub protocol_type: Arc<str>,
    /// `Stable`, `Empty`, ...; `None` where the broker is too old to say.
    pub state: Option<Arc<str>>,
}

/// A group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group: Arc<str>,
    /// `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead`.
    pub state: Arc<str>,
    /// `consumer`, or what else its members are.
    pub protocol_type: Arc<str>,
    /// The assignor in use.
    pub protocol: Arc<str>,
    /// Broker that coordinates it.
    pub coordinator: i32,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Given by the coordinator.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Its client id.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// What it has.
    pub assignment: Vec<TopicPartition>,
}

/// An offset that a group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Where.
    pub at: TopicPartition,
    /// Next offset to consume.
    pub offset: i64,
    /// Epoch of the leader of the record before it; -1 unknown.
    pub leader_epoch: i32,
    /// What the committer wrote beside it.
    pub metadata: Option<Arc<str>>,
}

/// A node that the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDescription {
    /// Its id.
    pub id: i32,
    /// Advertised host.
    pub host: Arc<str>,
    /// Advertised port.
    pub port: u16,
    /// Its rack, if configured.
    pub rack: Option<Arc<str>>,
    /// It does not run, as far as the cluster knows.
    pub fenced: bool,
}

/// The quorum that decides on metadata. Offsets are those of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumDescription {
    /// Who leads it.
    pub leader: i32,
    /// Rises with each leader.
    pub term: i32,
    /// Everything before it is decided.
    pub committed: i64,
    /// Who votes.
    pub voters: Vec<QuorumMember>,
    /// Who only follows.
    pub observers: Vec<QuorumMember>,
}

/// A member of the metadata quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumMember {
    /// Its node id.
    pub id: i32,
    /// Its data directory; nil where the broker is too old to say.
    pub directory: Uuid,
    /// The end of its log, as far as the leader knows.
    pub log_end: Option<i64>,
}

/// Which kind of leader is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    /// The first of the replicas, if it is in sync.
    Preferred,
    /// Any replica that runs, where none that has everything is left: messages that were acknowledged may be lost.
    Unclean,
}

/// A reassignment that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// The partition.
    pub at: TopicPartition,
    /// All replicas at this moment.
    pub replicas: Vec<i32>,
    /// Those that it brings.
    pub adding: Vec<i32>,
    /// Those that it takes away at its end.
    pub removing: Vec<i32>,
}
