//! What applying did.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use super::Topic;
use crate::acl::Acl;
use crate::{MetadataError, Origin, PartitionId};

/// A block of producer ids that nobody else will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdBlock {
    /// First id.
    pub first: i64,
    /// How many.
    pub count: i64,
}

/// What a command did for one of several partitions.
pub type Outcome<T> = (PartitionId, Result<T, MetadataError>);

/// What applying a payload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Who proposed it.
    pub origin: Option<Origin>,
    /// One per command; none if it was skipped.
    pub results: Vec<Result<Change, MetadataError>>,
    /// Partitions that were made, changed or deleted, sorted. One that is not to be found any more is deleted.
    pub touched: Vec<PartitionId>,
    /// It was applied before, or comes from a process that has been replaced.
    pub skipped: bool,
}

/// What an applied command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A topic was made.
    TopicCreated {
        /// Its id.
        id: Uuid,
    },
    /// A topic is gone; here is what it was.
    TopicDeleted {
        /// The topic as it was.
        topic: Arc<Topic>,
    },
    /// A topic has more partitions.
    TopicGrown {
        /// Its id.
        id: Uuid,
        /// Partitions before.
        from: i32,
        /// Partitions now.
        to: i32,
    },
    /// A topic's configuration is another.
    ConfigsAltered {
        /// Its id.
        id: Uuid,
    },
    /// A group's configuration is another.
    GroupConfigsAltered {
        /// The group.
        group: String,
    },
    /// Features have other levels.
    FeaturesUpdated,
    /// Producer ids were taken.
    ProducerIds(ProducerIdBlock),
    /// The cluster has this id.
    ClusterNamed,
    /// A node registered.
    BrokerRegistered {
        /// The node.
        node_id: i32,
        /// Whether this process start is new: then the node is fenced.
        new_incarnation: bool,
        /// Whether its data directory is another than before: then it is in sync with nothing.
        new_directory: bool,
    },
    /// A node is fenced.
    BrokerFenced {
        /// The node.
        node_id: i32,
    },
    /// A node may lead.
    BrokerUnfenced {
        /// The node.
        node_id: i32,
    },
    /// A node stops soon.
    BrokerShuttingDown {
        /// The node.
        node_id: i32,
    },
    /// A node is forgotten.
    BrokerUnregistered {
        /// The node.
        node_id: i32,
    },
    /// Leaders asked for other in-sync replicas, in the order asked.
    PartitionsAltered(Vec<Outcome<()>>),
    /// Leaders were elected: in the order asked, or, if all were meant, only those with a new leader, by id.
    LeadersElected(Vec<Outcome<Elected>>),
    /// Reassignments began, were cancelled, or were done at once, in the order asked.
    Reassigned(Vec<Outcome<()>>),
    /// Copies are in sync no more, in the order asked.
    ReplicasLost(Vec<Outcome<()>>),
    /// Rules are there.
    AclsCreated,
    /// Rules are gone, per filter.
    AclsDeleted(Vec<Vec<Acl>>),
    /// A user's credential is another, or gone.
    ScramAltered,
    /// Quotas are others.
    QuotasAltered,
}

/// A leader that an election gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elected {
    /// Who leads.
    pub leader: i32,
    /// Since this epoch.
    pub leader_epoch: i32,
    /// Present if it was not in sync: say it loudly.
    pub data_loss: Option<DataLoss>,
}

/// What an unclean election may have lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLoss {
    /// The partition.
    pub id: PartitionId,
    /// The replica that leads without being in sync.
    pub leader: i32,
    /// The epoch that it leads from; what was acknowledged in earlier ones is not known to be there.
    pub leader_epoch: i32,
    /// The replicas that had everything, and do not count any more.
    pub passed_over: Vec<i32>,
}

impl fmt::Display for DataLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, leader, leader_epoch, passed_over } = self;
        write!(f, "unclean election: node {leader} leads {id} from epoch {leader_epoch} on and was not in sync. ")?;
        write!(f, "Acknowledged messages may be lost: every offset from the log end of node {leader} on that an ")?;
        write!(f, "earlier epoch acknowledged is gone, and which ones those are can't be known here. ")?;
        match passed_over.as_slice() {
            [] => write!(f, "No replica was left that had everything."),
            nodes => write!(f, "Replicas that had everything and will be truncated: {nodes:?}."),
        }
    }
}
