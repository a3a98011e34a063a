//! How far a group is in a partition, as it is committed: the next offset, and beside it what is acknowledged above that.
//!
//! The latter travels in the metadata string of the offset commit, which every broker keeps and hands back:
//!
//! ```text
//!   w1:  base64 ( gap length  gap length ... )      gap, length: LEB128, each from the end of the run before
//! ```
//! Other clients write other strings there, or none: those say nothing to us. Ours say nothing to them: they go on from the next
//! offset, and read again what was acknowledged above it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Begins our strings; another version would begin otherwise.
const PREFIX: &str = "w1:";
/// Longest LEB128 of a 63-bit number.
const VARINT_BYTES: usize = 9;

/// Acknowledged offsets: from, and up to but not including. Ascending, neither touching nor overlapping.
pub type Runs = Vec<(i64, i64)>;

/// Puts runs in order and joins those that touch or overlap.
#[must_use]
pub fn joined(mut runs: Runs) -> Runs {
    runs.sort_unstable();
    let mut joined: Runs = Vec::with_capacity(runs.len());
    for (from, to) in runs {
        match joined.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// The string for runs above `next`, of at most `most` bytes, and how many of the lowest runs are in it.
#[must_use]
pub fn encode(next: i64, runs: &[(i64, i64)], most: usize) -> (String, usize) {
    let room = most.saturating_sub(PREFIX.len()) / 4 * 3;
    let mut bytes = Vec::new();
    let (mut end, mut count) = (next, 0);
    for (from, to) in runs {
        let before = bytes.len();
        write(&mut bytes, from.saturating_sub(end));
        write(&mut bytes, to.saturating_sub(*from));
        if bytes.len() > room {
            bytes.truncate(before);
            break;
        }
        (end, count) = (*to, count + 1);
    }
    if count == 0 {
        return (String::new(), 0);
    }
    (format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes)), count)
}

/// The runs that a string beside `next` tells of; none where it is not one of ours, or is damaged.
#[must_use]
pub fn decode(next: i64, text: &str) -> Runs {
    let bytes = text.strip_prefix(PREFIX).and_then(|coded| STANDARD_NO_PAD.decode(coded).ok());
    bytes.and_then(|bytes| read_all(next, &bytes)).unwrap_or_default()
}

fn read_all(next: i64, mut bytes: &[u8]) -> Option<Runs> {
    let (mut end, mut runs) = (next, Vec::new());
    while !bytes.is_empty() {
        let (gap, length) = (read(&mut bytes)?, read(&mut bytes)?);
        let from = end.checked_add(gap)?;
        let to = from.checked_add(length)?;
        if length == 0 || from < next {
            return None;
        }
        runs.push((from, to));
        end = to;
    }
    Some(joined(runs))
}

fn write(to: &mut Vec<u8>, number: i64) {
    let mut rest = number.max(0).unsigned_abs();
    while rest >= 0x80 {
        to.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    to.push((rest & 0x7f) as u8);
}

fn read(from: &mut &[u8]) -> Option<i64> {
    let mut number: u64 = 0;
    for at in 0..VARINT_BYTES {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return i64::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comes_back_as_it_went(next in 0..i64::MAX / 2, steps in prop::collection::vec((1..1_000_000i64, 1..1_000_000i64), 0..50)) {
            let mut end = next;
            let runs: Runs = steps.into_iter().map(|(gap, length)| {
                let from = end + gap;
                end = from + length;
                (from, end)
            }).collect();
            let (text, count) = encode(next, &runs, 4096);
            prop_assert_eq!(count, runs.len());
            prop_assert_eq!(decode(next, &text), runs.clone());
            for most in 0..40 {
                let (text, count) = encode(next, &runs, most);
                prop_assert!(text.len() <= most && count <= runs.len());
                prop_assert_eq!(decode(next, &text), runs[..count].to_vec());
            }
        }

        #[test]
        fn whatever_others_write_is_read_without_harm(text in "(w1:)?[ -~]{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let ours = format!("{PREFIX}{}", STANDARD_NO_PAD.encode(bytes));
            for text in [&text, &ours] {
                for next in [0, 7, i64::MAX] {
                    prop_assert!(decode(next, text).iter().all(|(from, to)| *from >= next && from < to));
                }
            }
        }
    }

    #[test]
    fn strings_of_others_tell_nothing() {
        for text in ["", "w1:", "w2:AQE", "consumer-1 at 12:00", "w1:?", "w1:AQ", "w1:AQA", "w1:////////////////"] {
            assert_eq!(decode(5, text), [], "{text}");
        }
        assert_eq!(decode(5, "w1:AQE"), [(6, 7)]);
    }

    #[test]
    fn runs_that_touch_are_one() {
        assert_eq!(joined(vec![(9, 12), (1, 3), (3, 5), (10, 11)]), [(1, 5), (9, 12)]);
    }
}
