//! Named bounds of the cluster. They are part of the state machine: every node must decide alike.

/// Topics of a cluster.
pub const MAX_TOPICS: usize = 100_000;
/// Partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: i32 = 10_000;
/// Partitions of a cluster.
pub const MAX_PARTITIONS: usize = 200_000;
/// Replicas of a partition. While a reassignment runs there may be twice as many.
pub const MAX_REPLICAS: usize = 16;
/// Replicas where nothing else is asked for, if there are as many nodes.
pub const DEFAULT_REPLICAS: usize = 3;
/// Producer ids taken at once.
pub const MAX_PRODUCER_ID_BLOCK: i64 = 1_000_000;
/// Groups with a configuration of their own.
pub const MAX_CONFIGURED_GROUPS: usize = 100_000;
/// Bytes of a group id.
pub const MAX_GROUP_ID: usize = 1_024;
/// Registered nodes.
pub const MAX_BROKERS: usize = 1_000;
/// Nodes whose last sequence is remembered: the registered ones, and some that were.
pub const MAX_ORIGINS: usize = 2 * MAX_BROKERS;
/// Earlier processes of a node that are remembered, so that what they proposed late is not taken for a new one's.
pub const MAX_PAST_INCARNATIONS: usize = 4;
/// Bytes of a cluster id.
pub const MAX_CLUSTER_ID: usize = 128;
/// Bytes of a node's host name, or of its rack.
pub const MAX_HOST: usize = 255;
/// Rules of a cluster.
pub const MAX_ACLS: usize = 100_000;
/// Bytes of a name, a principal or a host in a rule.
pub const MAX_ACL_TEXT: usize = 1_024;
/// Users with SCRAM credentials.
pub const MAX_SCRAM_USERS: usize = 100_000;
/// Bytes of a user's name, a client id.
pub const MAX_USER_NAME: usize = 1_024;
/// Bytes of a salt.
pub const MAX_SALT: usize = 256;
/// Entities with quotas.
pub const MAX_QUOTAS: usize = 100_000;
/// Listeners of a node.
pub const MAX_ENDPOINTS: usize = 16;
