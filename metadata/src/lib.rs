//! The metadata state machine: nodes, topics, partitions and their leaders, configurations, producer id blocks, the
//! cluster's identity, and what users may do.
//!
//! Pure: `Metadata::apply(Payload) -> Applied` is deterministic and does no I/O. Whoever owns the replicated log decides
//! when a payload is committed and applies it then, on every node; placement and elections are decided here, so every
//! node decides alike. A command that is refused changes nothing, so refusals replay as refusals.
//!
//! It must not know: sockets, disks, clocks, the wire protocol, how payloads are replicated.

pub mod acl;
mod command;
mod config;
mod error;
mod features;
mod group_config;
mod name;
mod partition;
pub mod quorum;
pub mod quota;
mod scram;
mod snapshot;
mod state;

pub use command::{
    Command, ENCODING_VERSION, Endpoint, Origin, PartitionChange, Payload, decode_payload, encode_payload,
};
pub use config::{
    Cleanup, ConfigKey, ConfigKind, DEFAULT_MAX_MESSAGE_BYTES, TimestampType, TopicConfig, config_key, config_keys,
};
pub use error::MetadataError;
pub use features::{Feature, feature, features};
pub use group_config::{ShareReset, group_config_key, group_config_keys};
pub use name::{MAX_TOPIC_NAME, check_name, collision_key};
pub use partition::{Nodes, Partition, PartitionId};
pub use scram::{ScramCredential, ScramMechanism};
pub use state::{Applied, Broker, Change, DataLoss, Elected, Metadata, Outcome, ProducerIdBlock, Topic, limits};
