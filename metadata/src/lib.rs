//! The metadata state machine: topics, their configurations, producer id blocks, brokers, the cluster's identity.
//!
//! Pure: `Metadata::apply(Command) -> Result<Change, MetadataError>` is deterministic and does no I/O. Whoever owns the
//! command log (one node's internal log today, a quorum later) decides when a command is committed, applies it then, and
//! replays snapshot and log at start. A command that is refused changes nothing, so refusals replay as refusals.
//!
//! It must not know: sockets, disks, clocks, the wire protocol.

mod command;
mod config;
mod error;
mod name;
mod snapshot;
mod state;

pub use command::{Command, ENCODING_VERSION, Record, decode, encode};
pub use config::{
    Cleanup, ConfigKey, ConfigKind, DEFAULT_MAX_MESSAGE_BYTES, TimestampType, TopicConfig, config_key, config_keys,
};
pub use error::MetadataError;
pub use name::{MAX_TOPIC_NAME, check_name, collision_key};
pub use snapshot::SNAPSHOT_PART_TOPICS;
pub use state::{Broker, Change, Metadata, ProducerIdBlock, Topic, limits};
