//! What the configuration requests share: resource types, sources, value types.

use wherry_metadata::ConfigKind;

/// Resource type of a topic.
pub(crate) const TOPIC: i8 = 2;
/// Resource type of a node.
pub(crate) const BROKER: i8 = 4;

/// Resource type of a node's log levels.
pub(crate) const BROKER_LOGGER: i8 = 8;
/// Resource type of subscriptions to clients' metrics.
pub(crate) const CLIENT_METRICS: i8 = 16;
/// Resource type of a group.
pub(crate) const GROUP: i8 = 32;

/// Set on the topic.
pub(crate) const SOURCE_TOPIC: i8 = 1;
/// Set in the node's own configuration.
pub(crate) const SOURCE_STATIC_BROKER: i8 = 4;
/// Set on the group.
pub(crate) const SOURCE_GROUP: i8 = 8;
/// Set nowhere.
pub(crate) const SOURCE_DEFAULT: i8 = 5;

/// The protocol's number of a value type.
pub(crate) fn type_number(kind: ConfigKind) -> i8 {
    match kind {
        ConfigKind::Boolean => 1,
        ConfigKind::String => 2,
        ConfigKind::Int => 3,
        ConfigKind::Long => 5,
        ConfigKind::Double => 6,
        ConfigKind::List => 7,
    }
}
