//! Values that are written as text: durations, sizes, names.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{NAME_BYTES_MAX, TOPIC_NAME_BYTES_MAX};

/// How old data may get: a duration such as `7d` or `1h 30m`, or `Forever`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// No bound.
    Forever,
    /// This old.
    At(Duration),
}

impl Age {
    /// Milliseconds as the wire has them: -1 is no bound.
    #[must_use]
    pub fn wire_ms(self) -> i64 {
        match self {
            Self::Forever => -1,
            Self::At(age) => i64::try_from(age.as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "Forever" {
            return Ok(Self::Forever);
        }
        humantime::parse_duration(text)
            .map(Self::At)
            .map_err(|e| format!("{text:?} is not a duration ({e}); write for example 7d, 36h, 90s, or Forever"))
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("Forever"),
            Self::At(age) => write!(f, "{}", humantime::format_duration(*age)),
        }
    }
}

/// A number of bytes: `1048576`, `512Ki`, `10Gi`, `1G`, as Kubernetes writes quantities of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units, longest first: `Ki` must not be read as `K`.
const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

impl Size {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a size; write whole bytes or a number with Ki, Mi, Gi, Ti, k, M, G or T, for example 10Gi"
            )
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(Self).ok_or_else(|| format!("{text:?} is more than any disk holds; write less"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().rev().filter(|(name, _)| name.len() == 2);
        let best =
            fits.filter(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor)).max_by_key(|(_, factor)| *factor);
        match best {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// How much data may be kept: a [`Size`], or `Unlimited`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    /// No bound.
    Unlimited,
    /// This much.
    At(Size),
}

impl SizeLimit {
    /// Bytes as the wire has them: -1 is no bound.
    #[must_use]
    pub fn wire_bytes(self) -> i64 {
        match self {
            Self::Unlimited => -1,
            Self::At(size) => i64::try_from(size.0).unwrap_or(i64::MAX),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "Unlimited" {
            return Ok(Self::Unlimited);
        }
        Size::parse(text).map(Self::At).map_err(|says| format!("{says}, or Unlimited"))
    }
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("Unlimited"),
            Self::At(size) => size.fmt(f),
        }
    }
}

/// Reads a scalar as text, whether YAML took it for a number or a string.
struct Scalar<T> {
    expecting: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

macro_rules! text {
    ($name:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Scalar { expecting: $expecting, parse: $name::parse })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

text!(Age, "a duration such as 7d, or Forever");
text!(Size, "a size such as 10Gi");
text!(SizeLimit, "a size such as 10Gi, or Unlimited");

/// What is wrong with a resource name; `None` if nothing is.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty; write a name, for example orders".into());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!("has {} characters; write at most {NAME_BYTES_MAX}", name.len()));
    }
    let label_ok = |label: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(label.chars().next())
            && edge(label.chars().last())
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let good = name.split('.').all(label_ok);
    (!good).then(|| {
        format!("{name:?} is not a resource name; write lower case letters, digits, '-' and '.', beginning and ending with a letter or digit")
    })
}

/// What is wrong with a topic name on the wire; `None` if nothing is.
pub(super) fn topic_name_problem(name: &str) -> Option<String> {
    if name.is_empty() || name == "." || name == ".." {
        return Some(format!("{name:?} can't be a topic's name; write for example orders"));
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Some(format!("has {} characters; write at most {TOPIC_NAME_BYTES_MAX}", name.len()));
    }
    if name.starts_with("__") {
        return Some(format!("{name:?} begins with \"__\", which is kept for internal topics; write another name"));
    }
    let bad = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))?;
    Some(format!("{name:?} contains {bad:?}; write ASCII letters, digits, '.', '_' and '-' only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1Ki", 1024), ("10Gi", 10 << 30), ("1k", 1000), ("3T", 3_000_000_000_000)]
        {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for bad in
            ["", "Gi", "10 Gi", "-1", "1.5Gi", "10GiB", "10K", "1e3", "500m", "99999999999999999999", "99999999Pi"]
        {
            assert!(Size::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["0", "17", "1Ki", "10Gi", "1500", "3Ti"] {
            assert_eq!(Size::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn ages() {
        assert_eq!(Age::parse("7d").unwrap().wire_ms(), 604_800_000);
        assert_eq!(Age::parse("1h 30m").unwrap().wire_ms(), 5_400_000);
        assert_eq!(Age::parse("Forever").unwrap().wire_ms(), -1);
        for bad in ["", "7", "seven days", "-1d", "forever", "7 fortnights"] {
            assert!(Age::parse(bad).is_err(), "{bad:?}");
        }
    }
}
