//! Values of flags that are written as text: sizes, times, bytes for people.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Parses a duration such as `5s` or `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write for example 500ms, 30s or 1h 30m"))
}

/// Parses a size such as `64MiB` or `1GB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>().map(|size| size.0).map_err(|e| format!("{e}; write for example 64MiB"))
}

/// Parses a moment: `2026-01-31T12:00:00Z`, milliseconds since the epoch, or an age such as `15m` (ago).
pub(crate) fn moment(text: &str) -> Result<i64, String> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return Ok(milliseconds);
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment.as_millisecond());
    }
    let age = humantime::parse_duration(text).map_err(|_| {
        format!(
            "{text:?} is not a time; write for example 2026-01-31T12:00:00Z, 15m (ago), or milliseconds since the epoch"
        )
    })?;
    Ok(Timestamp::now().as_millisecond().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}

/// A moment for people, in UTC; `-` where there is none.
pub(crate) fn shown_moment(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(moment) if milliseconds >= 0 => {
            moment.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
        }
        Ok(_) | Err(_) => "-".into(),
    }
}

/// A size for people.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// Bytes for people: text as it is, anything else escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// A number with separators: 1,234,567.
pub(crate) fn shown_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(moment("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        let before = Timestamp::now().as_millisecond();
        let ago = moment("1h").unwrap();
        assert!((before - 3_600_000..=Timestamp::now().as_millisecond() - 3_600_000).contains(&ago));
        assert!(moment("yesterday").unwrap_err().contains("write for example"));
        assert_eq!(shown_moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(shown_moment(-1), "-");
    }

    #[test]
    fn counts() {
        for (count, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(shown_count(count), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert!(bytes("much").is_err());
    }
}
