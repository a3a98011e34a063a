//! Topic configuration: the keys that exist, what they accept, and their meaning as typed values.
//!
//! Every key of Kafka 4 is known by its name, so that tools can describe it. A key whose behaviour is not built here
//! accepts its default only: a setting is honoured or refused, never silently ignored.

use std::collections::BTreeMap;

use crate::group_config::ShareReset;
use crate::{MetadataError, check_name};

/// How values of a key are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKind {
    /// `true` or `false`.
    Boolean,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    Long,
    /// Decimal number.
    Double,
    /// Comma-separated words.
    List,
    /// Text.
    String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// An integer in these bounds.
    Range(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A non-empty comma-separated list of these words.
    ListOf(&'static [&'static str]),
    /// A decimal number from 0 to 1.
    Ratio,
    /// Where a share group begins ([`crate::ShareReset`]).
    Reset,
    /// The name of a topic, or nothing.
    TopicOrNothing,
    /// Known, but only its default is implemented.
    DefaultOnly,
}

/// One key of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfigKey {
    /// Kafka's name.
    pub name: &'static str,
    /// How values are written.
    pub kind: ConfigKind,
    /// Value where nothing is set.
    pub default: &'static str,
    /// Kafka's name of the same setting on a broker.
    pub broker_name: &'static str,
    /// One sentence for `describe`.
    pub doc: &'static str,
    rule: Rule,
}

/// Default of `max.message.bytes`: 1 MiB and the overhead of a batch, as Kafka's.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

const MAX_INT: i64 = i32::MAX as i64;
/// 30 days.
const MAX_DEDUPE_WINDOW_MS: i64 = 30 * 24 * 3_600_000;

pub(crate) const fn key(
    name: &'static str,
    kind: ConfigKind,
    default: &'static str,
    broker_name: &'static str,
    rule: Rule,
    doc: &'static str,
) -> ConfigKey {
    ConfigKey { name, kind, default, broker_name, doc, rule }
}

use ConfigKind::{Boolean, Double, Int, List, Long, String as Text};
use Rule::{DefaultOnly, ListOf, OneOf, Range, Ratio, Reset, TopicOrNothing};

/// Sorted by name: looked up by binary search.
static KEYS: &[ConfigKey] = &[
    key(
        "cleanup.policy",
        List,
        "delete",
        "log.cleanup.policy",
        ListOf(&["delete", "compact"]),
        "What happens to old data: 'delete' drops it by age and size, 'compact' keeps the last record of each key.",
    ),
    key(
        "compression.gzip.level",
        Int,
        "-1",
        "compression.gzip.level",
        DefaultOnly,
        "Batches stay as the producer compressed them, so no level applies.",
    ),
    key(
        "compression.lz4.level",
        Int,
        "9",
        "compression.lz4.level",
        DefaultOnly,
        "Batches stay as the producer compressed them, so no level applies.",
    ),
    key(
        "compression.type",
        Text,
        "producer",
        "compression.type",
        DefaultOnly,
        "Batches stay as the producer compressed them; no other setting is implemented.",
    ),
    key(
        "compression.zstd.level",
        Int,
        "3",
        "compression.zstd.level",
        DefaultOnly,
        "Batches stay as the producer compressed them, so no level applies.",
    ),
    key(
        "delete.retention.ms",
        Long,
        "86400000",
        "log.cleaner.delete.retention.ms",
        Range(0, i64::MAX),
        "How long a compacted topic keeps tombstones, in milliseconds.",
    ),
    key(
        "file.delete.delay.ms",
        Long,
        "60000",
        "log.segment.delete.delay.ms",
        DefaultOnly,
        "Files are removed as soon as no read uses them.",
    ),
    key(
        "flush.messages",
        Long,
        "9223372036854775807",
        "log.flush.interval.messages",
        Range(1, i64::MAX),
        "At most this many messages unflushed. Every append is on disk before it is acknowledged, so any value holds.",
    ),
    key(
        "flush.ms",
        Long,
        "9223372036854775807",
        "log.flush.interval.ms",
        Range(0, i64::MAX),
        "At most this long unflushed. Every append is on disk before it is acknowledged, so any value holds.",
    ),
    key(
        "follower.replication.throttled.replicas",
        List,
        "",
        "follower.replication.throttled.replicas",
        DefaultOnly,
        "Not implemented.",
    ),
    key(
        "index.interval.bytes",
        Int,
        "4096",
        "log.index.interval.bytes",
        DefaultOnly,
        "The engine chooses the density of its indexes.",
    ),
    key(
        "leader.replication.throttled.replicas",
        List,
        "",
        "leader.replication.throttled.replicas",
        DefaultOnly,
        "Not implemented.",
    ),
    key(
        "local.retention.bytes",
        Long,
        "-2",
        "log.local.retention.bytes",
        DefaultOnly,
        "There is no tiered storage; all data is local.",
    ),
    key(
        "local.retention.ms",
        Long,
        "-2",
        "log.local.retention.ms",
        DefaultOnly,
        "There is no tiered storage; all data is local.",
    ),
    key(
        "max.compaction.lag.ms",
        Long,
        "9223372036854775807",
        "log.cleaner.max.compaction.lag.ms",
        DefaultOnly,
        "Not implemented.",
    ),
    key(
        "max.message.bytes",
        Int,
        "1048588",
        "message.max.bytes",
        Range(0, MAX_INT),
        "Largest record batch accepted, in bytes, as it is sent (after compression).",
    ),
    key(
        "message.timestamp.after.max.ms",
        Long,
        "3600000",
        "log.message.timestamp.after.max.ms",
        Range(0, i64::MAX),
        "How far ahead of the node's clock a record's timestamp may be, in milliseconds.",
    ),
    key(
        "message.timestamp.before.max.ms",
        Long,
        "9223372036854775807",
        "log.message.timestamp.before.max.ms",
        Range(0, i64::MAX),
        "How far behind the node's clock a record's timestamp may be, in milliseconds.",
    ),
    key(
        "message.timestamp.type",
        Text,
        "CreateTime",
        "log.message.timestamp.type",
        OneOf(&["CreateTime", "LogAppendTime"]),
        "Whose clock stamps records: the producer's, or the node's at append.",
    ),
    key(
        "min.cleanable.dirty.ratio",
        Double,
        "0.5",
        "log.cleaner.min.cleanable.ratio",
        Ratio,
        "Share of a log that must be new before it is compacted again.",
    ),
    key(
        "min.compaction.lag.ms",
        Long,
        "0",
        "log.cleaner.min.compaction.lag.ms",
        Range(0, i64::MAX),
        "Records younger than this are not compacted, in milliseconds.",
    ),
    key(
        "min.insync.replicas",
        Int,
        "1",
        "min.insync.replicas",
        Range(1, MAX_INT),
        "In-sync replicas that an acks=all append needs; all of them, where there are fewer replicas than that.",
    ),
    key(
        "preallocate",
        Boolean,
        "false",
        "log.preallocate",
        DefaultOnly,
        "The journal is always preallocated; segments never are.",
    ),
    key(
        "remote.log.copy.disable",
        Boolean,
        "false",
        "remote.log.copy.disable",
        DefaultOnly,
        "There is no tiered storage.",
    ),
    key(
        "remote.log.delete.on.disable",
        Boolean,
        "false",
        "remote.log.delete.on.disable",
        DefaultOnly,
        "There is no tiered storage.",
    ),
    key(
        "remote.storage.enable",
        Boolean,
        "false",
        "remote.log.storage.system.enable",
        DefaultOnly,
        "There is no tiered storage.",
    ),
    key(
        "retention.bytes",
        Long,
        "-1",
        "log.retention.bytes",
        Range(-1, i64::MAX),
        "Largest size of a partition in bytes before its oldest segments are dropped; -1 for no bound.",
    ),
    key(
        "retention.ms",
        Long,
        "604800000",
        "log.retention.ms",
        Range(-1, i64::MAX),
        "Age in milliseconds at which segments are dropped; -1 for never.",
    ),
    key(
        "segment.bytes",
        Int,
        "1073741824",
        "log.segment.bytes",
        Range(1_048_576, MAX_INT),
        "Size at which a segment is closed, in bytes.",
    ),
    key(
        "segment.index.bytes",
        Int,
        "10485760",
        "log.index.size.max.bytes",
        DefaultOnly,
        "Indexes grow with their segment.",
    ),
    key("segment.jitter.ms", Long, "0", "log.roll.jitter.ms", DefaultOnly, "Not implemented."),
    key(
        "segment.ms",
        Long,
        "604800000",
        "log.roll.ms",
        Range(1, i64::MAX),
        "Age at which a segment is closed, in milliseconds.",
    ),
    key(
        "unclean.leader.election.enable",
        Boolean,
        "false",
        "unclean.leader.election.enable",
        DefaultOnly,
        "Always off: an out-of-sync replica never leads.",
    ),
    key(
        "wherry.dedupe.max.ids",
        Int,
        "250000",
        "wherry.dedupe.max.ids",
        Range(1, 10_000_000),
        "Message ids that a partition remembers at the most; where more come within the window, the oldest are forgotten.",
    ),
    key(
        "wherry.dedupe.window.ms",
        Long,
        "0",
        "wherry.dedupe.window.ms",
        Range(0, MAX_DEDUPE_WINDOW_MS),
        "For how long a message id is remembered at least, in milliseconds: a message with an id that is known is not \
         appended again. 0: ids mean nothing.",
    ),
];

/// All keys, sorted by name.
#[must_use]
pub fn config_keys() -> &'static [ConfigKey] {
    KEYS
}

/// The key of that name.
#[must_use]
pub fn config_key(name: &str) -> Option<&'static ConfigKey> {
    KEYS.binary_search_by(|k| k.name.cmp(name)).ok().and_then(|i| KEYS.get(i))
}

impl ConfigKey {
    /// Checks a value and gives it in its canonical form (trimmed, lists without spaces).
    ///
    /// # Errors
    /// [`MetadataError::InvalidConfig`].
    pub fn check(&self, value: &str) -> Result<String, MetadataError> {
        let value = value.trim();
        let wrong = |what: &str| {
            Err(MetadataError::InvalidConfig(format!(
                "invalid value '{}' for configuration {}: {what}",
                shown(value),
                self.name
            )))
        };
        match self.rule {
            Range(low, high) => match value.parse::<i64>() {
                Ok(n) if (low..=high).contains(&n) => Ok(n.to_string()),
                Ok(_) => wrong(&format!("it must be from {low} to {high}")),
                Err(_) => wrong("it must be a whole number"),
            },
            OneOf(words) if words.contains(&value) => Ok(value.to_owned()),
            OneOf(words) => wrong(&format!("it must be one of {}", words.join(", "))),
            ListOf(words) => check_list(value, words)
                .map_or_else(|| wrong(&format!("it must be a comma-separated list of {}", words.join(", "))), Ok),
            Ratio => match value.parse::<f64>() {
                Ok(n) if (0.0..=1.0).contains(&n) => Ok(value.to_owned()),
                Ok(_) | Err(_) => wrong("it must be a number from 0 to 1"),
            },
            Reset => match ShareReset::parse(value) {
                Some(_) => Ok(value.to_owned()),
                None => wrong("it must be earliest, latest, or by_duration: and a duration such as PT1H"),
            },
            TopicOrNothing if value.is_empty() || check_name(value).is_ok() => Ok(value.to_owned()),
            TopicOrNothing => wrong("it must be the name of a topic"),
            DefaultOnly if self.is_default(value) => Ok(self.default.to_owned()),
            DefaultOnly => wrong(&format!("only the default '{}' is implemented here. {}", self.default, self.doc)),
        }
    }

    fn is_default(&self, value: &str) -> bool {
        match self.kind {
            Boolean => value.eq_ignore_ascii_case(self.default),
            Int | Long => value.parse::<i64>().ok() == self.default.parse().ok(),
            Double => value.parse::<f64>().ok() == self.default.parse().ok(),
            List | Text => value == self.default,
        }
    }
}

/// Values come from outside: error messages carry a bounded piece of them.
fn shown(value: &str) -> String {
    const SHOWN: usize = 100;
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", value.get(..at).unwrap_or_default()),
        None => value.to_owned(),
    }
}

fn check_list(value: &str, words: &[&str]) -> Option<String> {
    let mut seen: Vec<&str> = Vec::new();
    for word in value.split(',').map(str::trim) {
        if !words.contains(&word) {
            return None;
        }
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    Some(seen.join(","))
}

/// What happens to old data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Dropped by age and size.
    Delete,
    /// The last record of each key stays.
    Compact,
    /// Both.
    CompactAndDelete,
}

/// Whose clock stamps records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The node's, at append.
    LogAppendTime,
}

/// The typed values of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// What happens to old data.
    pub cleanup: Cleanup,
    /// Age in milliseconds at which data is dropped; `None` for never.
    pub retention_ms: Option<u64>,
    /// Size in bytes of a partition above which data is dropped; `None` for no bound.
    pub retention_bytes: Option<u64>,
    /// Size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// Age at which a segment is closed, in milliseconds.
    pub segment_ms: u64,
    /// Largest batch, in bytes.
    pub max_message_bytes: usize,
    /// In-sync replicas that an acks=all append needs.
    pub min_insync_replicas: u32,
    /// Whose clock stamps records.
    pub timestamp_type: TimestampType,
    /// How far behind the node's clock a timestamp may be, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// How far ahead of the node's clock a timestamp may be, in milliseconds.
    pub timestamp_after_max_ms: i64,
    /// How long tombstones stay, in milliseconds.
    pub delete_retention_ms: u64,
    /// Younger records are not compacted, in milliseconds.
    pub min_compaction_lag_ms: u64,
    /// Share of a log that must be new before it is compacted again, in per mille.
    pub min_cleanable_permille: u32,
    /// For how long message ids are remembered, in milliseconds; `None` where they mean nothing.
    pub dedupe_window_ms: Option<u64>,
    /// Message ids that a partition remembers at the most.
    pub dedupe_max_ids: usize,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self::from_overrides(&BTreeMap::new())
    }
}

impl TopicConfig {
    /// The values where these (checked) entries differ from the defaults.
    #[must_use]
    pub fn from_overrides(overrides: &BTreeMap<&'static str, String>) -> Self {
        let values = Values(overrides);
        Self {
            cleanup: values.cleanup(),
            retention_ms: u64::try_from(values.int("retention.ms")).ok(),
            retention_bytes: u64::try_from(values.int("retention.bytes")).ok(),
            segment_bytes: values.unsigned("segment.bytes"),
            segment_ms: values.unsigned("segment.ms"),
            max_message_bytes: usize::try_from(values.int("max.message.bytes")).unwrap_or(DEFAULT_MAX_MESSAGE_BYTES),
            min_insync_replicas: u32::try_from(values.int("min.insync.replicas")).unwrap_or(1),
            timestamp_type: match values.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: values.int("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: values.int("message.timestamp.after.max.ms"),
            delete_retention_ms: values.unsigned("delete.retention.ms"),
            min_compaction_lag_ms: values.unsigned("min.compaction.lag.ms"),
            min_cleanable_permille: values.permille("min.cleanable.dirty.ratio"),
            dedupe_window_ms: Some(values.unsigned("wherry.dedupe.window.ms")).filter(|window_ms| *window_ms > 0),
            dedupe_max_ids: usize::try_from(values.int("wherry.dedupe.max.ids")).unwrap_or(1),
        }
    }

    /// Whether keys are needed: a compacted topic can't hold a record without one.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        matches!(self.cleanup, Cleanup::Compact | Cleanup::CompactAndDelete)
    }
}

struct Values<'a>(&'a BTreeMap<&'static str, String>);

impl<'a> Values<'a> {
    fn text(&self, name: &'static str) -> &'a str {
        match self.0.get(name) {
            Some(value) => value,
            None => config_key(name).map_or("", |k| k.default),
        }
    }

    /// Values are checked before they are stored, so a number is a number.
    fn int(&self, name: &'static str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    fn unsigned(&self, name: &'static str) -> u64 {
        u64::try_from(self.int(name)).unwrap_or(0)
    }

    fn permille(&self, name: &'static str) -> u32 {
        let ratio = self.text(name).parse::<f64>().unwrap_or(0.5).clamp(0.0, 1.0);
        // From 0 to 1000: the cast can neither truncate nor wrap.
        (ratio * 1000.0) as u32
    }

    fn cleanup(&self) -> Cleanup {
        let words = self.text("cleanup.policy");
        let has = |word| words.split(',').any(|w| w == word);
        match (has("compact"), has("delete")) {
            (true, true) => Cleanup::CompactAndDelete,
            (true, false) => Cleanup::Compact,
            (false, _) => Cleanup::Delete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_defaults_are_valid() {
        assert!(KEYS.windows(2).all(|w| w[0].name < w[1].name));
        for key in KEYS {
            assert_eq!(key.check(key.default).unwrap(), key.default, "{}", key.name);
            assert!(!key.doc.is_empty());
        }
    }

    #[test]
    fn values() {
        let check = |name, value| config_key(name).unwrap().check(value);
        assert_eq!(check("cleanup.policy", " compact , delete ").unwrap(), "compact,delete");
        assert_eq!(check("retention.ms", "-1").unwrap(), "-1");
        for (name, bad) in [
            ("cleanup.policy", ""),
            ("cleanup.policy", "shred"),
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("retention.ms", "99999999999999999999"),
            ("segment.bytes", "10"),
            ("min.insync.replicas", "0"),
            ("message.timestamp.type", "createtime"),
            ("compression.type", "zstd"),
            ("unclean.leader.election.enable", "true"),
            ("remote.storage.enable", "true"),
        ] {
            assert!(matches!(check(name, bad), Err(MetadataError::InvalidConfig(_))), "{name}={bad}");
        }
        assert!(config_key("retention.minutes").is_none());
    }

    #[test]
    fn error_messages_are_bounded() {
        let long = "x".repeat(1 << 20);
        let Err(MetadataError::InvalidConfig(message)) = config_key("retention.ms").unwrap().check(&long) else {
            panic!()
        };
        assert!(message.len() < 300);
    }

    #[test]
    fn typed() {
        let config = TopicConfig::default();
        assert_eq!(config.retention_ms, Some(604_800_000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.max_message_bytes, DEFAULT_MAX_MESSAGE_BYTES);
        assert!(!config.is_compacted());
        let overrides =
            BTreeMap::from([("cleanup.policy", "compact,delete".to_owned()), ("retention.ms", "-1".to_owned())]);
        let config = TopicConfig::from_overrides(&overrides);
        assert_eq!(config.cleanup, Cleanup::CompactAndDelete);
        assert_eq!(config.retention_ms, None);
    }
}
