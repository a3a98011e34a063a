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
    key(
        "share.auto.offset.reset",
        ConfigKind::String,
        "latest",
        "share.auto.offset.reset",
        Rule::Reset,
        "Where a share group begins in a partition that it has not read yet: 'earliest', 'latest', or 'by_duration:' and an ISO 8601 duration before now.",
    ),
    key(
        "share.delivery.count.limit",
        ConfigKind::Int,
        "5",
        "group.share.delivery.count.limit",
        Rule::Range(2, 10),
        "Deliveries of one record, after which it is given up.",
    ),
    key(
        "share.heartbeat.interval.ms",
        ConfigKind::Int,
        "5000",
        "group.share.heartbeat.interval.ms",
        Rule::Range(5_000, 15_000),
        "How often members of the share group are to send a heartbeat.",
    ),
    key(
        "share.isolation.level",
        ConfigKind::String,
        "read_uncommitted",
        "share.isolation.level",
        Rule::OneOf(&["read_committed", "read_uncommitted"]),
        "Whether records of transactions are delivered before these have committed.",
    ),
    key(
        "share.partition.max.record.locks",
        ConfigKind::Int,
        "2000",
        "group.share.partition.max.record.locks",
        Rule::Range(100, 10_000),
        "Records of one partition that may be under way at once.",
    ),
    key(
        "share.record.lock.duration.ms",
        ConfigKind::Int,
        "30000",
        "group.share.record.lock.duration.ms",
        Rule::Range(15_000, 60_000),
        "How long a member may keep a record before another one gets it.",
    ),
    key(
        "share.session.timeout.ms",
        ConfigKind::Int,
        "45000",
        "group.share.session.timeout.ms",
        Rule::Range(45_000, 60_000),
        "Silence after which a member of the share group is out.",
    ),
    key(
        "wherry.dead.letter.topic",
        ConfigKind::String,
        "",
        "wherry.dead.letter.topic",
        Rule::TopicOrNothing,
        "Topic that gets a copy of each record that the share group gives up; nothing for none.",
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

/// Where a share group begins in a partition that it has not read yet (`share.auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareReset {
    /// With the first record that there is.
    Earliest,
    /// With the first record that is still to come.
    Latest,
    /// With the first record that is no older than so many milliseconds.
    ByDuration(u64),
}

impl ShareReset {
    /// What a value says, if it says something.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            other => duration_ms(other.strip_prefix("by_duration:")?).map(Self::ByDuration),
        }
    }
}

/// A duration as ISO 8601 writes it, in days to seconds: `P1DT2H3M4.5S`.
fn duration_ms(text: &str) -> Option<u64> {
    let text = text.strip_prefix('P')?;
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let mut total_ms = 0u64;
    let mut any = false;
    for (mut rest, units) in [(date, &[('D', 86_400_000u64)][..]), (time.unwrap_or(""), TIME_UNITS)] {
        for (unit, unit_ms) in units {
            let Some((number, after)) = rest.split_once(*unit) else { continue };
            total_ms = total_ms.checked_add(amount_ms(number, *unit == 'S', *unit_ms)?)?;
            (rest, any) = (after, true);
        }
        if !rest.is_empty() {
            return None;
        }
    }
    (any && time != Some("")).then_some(total_ms)
}

const TIME_UNITS: &[(char, u64)] = &[('H', 3_600_000), ('M', 60_000), ('S', 1_000)];

fn amount_ms(number: &str, may_have_fraction: bool, unit_ms: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').filter(|_| may_have_fraction).unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<u64>().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit_ms)?.checked_add(thousandths * unit_ms / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_defaults_are_valid() {
        assert!(KEYS.windows(2).all(|w| w[0].name < w[1].name));
        for key in KEYS {
            assert_eq!(key.check(key.default).unwrap(), key.default, "{}", key.name);
        }
    }

    #[test]
    fn resets() {
        let by = |ms| Some(ShareReset::ByDuration(ms));
        for (value, meaning) in [
            ("earliest", Some(ShareReset::Earliest)),
            ("latest", Some(ShareReset::Latest)),
            ("by_duration:PT1H", by(3_600_000)),
            ("by_duration:P1DT2M3.5S", by(86_400_000 + 120_000 + 3_500)),
            ("by_duration:P2D", by(172_800_000)),
            ("by_duration:PT0S", by(0)),
        ] {
            assert_eq!(ShareReset::parse(value), meaning, "{value}");
        }
        for wrong in [
            "",
            "none",
            "by_duration:",
            "by_duration:P",
            "by_duration:PT",
            "by_duration:1H",
            "by_duration:PT1",
            "by_duration:PT-1S",
            "by_duration:PT1.5H",
            "by_duration:PT1S2M",
            "by_duration:PTS",
            "by_duration:P1Y",
            "by_duration:PT99999999999999999999S",
        ] {
            assert_eq!(ShareReset::parse(wrong), None, "{wrong}");
        }
        let check = |name, value| group_config_key(name).unwrap().check(value);
        assert!(
            check("wherry.dead.letter.topic", "letters").is_ok() && check("wherry.dead.letter.topic", "a b").is_err()
        );
        assert!(check("share.auto.offset.reset", "sometimes").is_err());
    }
}
