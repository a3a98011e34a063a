//! Configuration of single groups: the keys that exist and what they accept. The groups themselves live elsewhere, and need
//! not exist to be configured.

use crate::config::{ConfigKey, ConfigKind, Rule, key};

/// Sorted by name.
static KEYS: &[ConfigKey] = &[
    key(
        "consumer.heartbeat.interval.ms",
        ConfigKind::Int,
        "5000",
        "group.consumer.heartbeat.interval.ms",
        Rule::Range(5_000, 15_000),
        "How often members of the consumer group are to send a heartbeat.",
    ),
    key(
        "consumer.session.timeout.ms",
        ConfigKind::Int,
        "45000",
        "group.consumer.session.timeout.ms",
        Rule::Range(45_000, 60_000),
        "Silence after which a member of the consumer group is out.",
    ),
];

/// All keys of groups, sorted by name. Their defaults are those of a node that is not configured otherwise.
#[must_use]
pub fn group_config_keys() -> &'static [ConfigKey] {
    KEYS
}

/// The key of that name, if groups have it.
#[must_use]
pub fn group_config_key(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}
