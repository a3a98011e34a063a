//! The one thing the coordinator reads in members' metadata: the topics in a `consumer` subscription.
//!
//! Source: the ConsumerProtocolSubscription schema (v0-3): version:i16, then an array of topic names.

/// The protocol type whose metadata is a subscription.
pub(super) const PROTOCOL_TYPE: &str = "consumer";

/// The topic names; `None` if these bytes are not a subscription.
pub(super) fn topics(metadata: &[u8]) -> Option<Vec<String>> {
    let (version, rest) = metadata.split_first_chunk::<2>()?;
    if i16::from_be_bytes(*version) < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = i32::from_be_bytes(*count);
    let mut topics = Vec::new();
    // The declared count is not trusted with an allocation: each name must be there.
    for _ in 0..count {
        let (len, tail) = rest.split_first_chunk::<2>()?;
        let (name, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        topics.push(String::from_utf8(name.to_vec()).ok()?);
        rest = tail;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_ignores_what_follows() {
        let bytes = b"\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x02bcuser data";
        assert_eq!(topics(bytes), Some(vec!["a".to_owned(), "bc".to_owned()]));
    }

    #[test]
    fn refuses_what_is_no_subscription() {
        for bytes in [&b""[..], b"\x00", b"\xff\xff\x00\x00\x00\x00", b"\x00\x00\x7f\xff\xff\xff\x00\x01a"] {
            assert_eq!(topics(bytes), None, "{bytes:?}");
        }
    }
}
