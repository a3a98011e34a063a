//! Which partition keeps a group: every node and every Kafka tool must come to the same answer.

/// The partition of a group among so many: Java's hash of the id as UTF-16, made positive, as Kafka does it.
#[must_use]
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // The one number that has no positive counterpart counts as zero.
    hash.checked_abs().unwrap_or(0).checked_rem(partitions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes as `java.lang.String.hashCode` documents them: s[0]*31^(n-1) + ... + s[n-1].
    #[test]
    fn as_java_does_it() {
        for (group, hash) in [("", 0), ("a", 97), ("ab", 97 * 31 + 98), ("hello", 99_162_322), ("\u{e9}", 0xe9)] {
            assert_eq!(partition_of(group, i32::MAX), hash, "{group}");
        }
        // Two UTF-16 units, not one character and not four bytes.
        assert_eq!(partition_of("\u{1f600}", i32::MAX), 0xd83d * 31 + 0xde00);
        // Known: its hash is the smallest number there is.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        for group in ["group", "readers", "a much longer group id, whose hash wraps around many times"] {
            assert!((0..50).contains(&partition_of(group, 50)));
        }
        assert_eq!(partition_of("group", 0), 0, "no partitions: nobody is asked");
    }
}
