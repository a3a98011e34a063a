//! What goes in and what must come out: generated records, and the judgement over what was received.
//! It must not know who sent or received them.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// A record to send. Every value of a set is different, so a value identifies its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Text without white space.
    pub key: String,
    /// Text without tabs or line ends.
    pub value: String,
}

/// A record as a consumer saw it.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// The partition it came from; 0 where the client does not say.
    #[serde(default)]
    pub partition: i32,
    /// Its offset; -1 where the client does not say.
    #[serde(default = "unknown")]
    pub offset: i64,
    /// Its key.
    #[serde(default)]
    pub key: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
    /// Which member of a group of two received it.
    #[serde(default)]
    pub member: u8,
}

const fn unknown() -> i64 {
    -1
}

/// Where a producer was told that a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Ack {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// A small generator of pseudo-random numbers (xorshift64*): the same seed gives the same records everywhere.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; any seed will do.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

/// `count` records over a few dozen keys: mostly small, some of 20 KB, so that they make more than one batch.
pub fn records(count: usize, tag: &str) -> Vec<Record> {
    let mut random = Random::new(tag.bytes().fold(count as u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(b))));
    (0..count).map(|i| record(i, tag, &mut random)).collect()
}

fn record(i: usize, tag: &str, random: &mut Random) -> Record {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz      0123456789{}:,.";
    let size = if random.below(100) == 0 { 20_000 } else { random.below(400) };
    let word = random.number();
    // Half of it repeats, so that every codec has something to do.
    let filler = (0..size).map(|j| {
        let pick = if j % 2 == 0 { random.number() } else { word.rotate_left(u32::try_from(j % 61).unwrap_or(0)) };
        char::from(LETTERS[usize::try_from(pick % LETTERS.len() as u64).unwrap_or(0)])
    });
    let mut value = format!("{tag}/{i:07}/");
    value.extend(filler);
    value.push('.'); // a value does not end in white space, which some tools trim
    Record { key: format!("key-{}", random.below(40)), value }
}

/// `key<TAB>value` lines.
pub fn lines(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(|r| format!("{}\t{}\n", r.key, r.value).into_bytes()).collect()
}

/// Parses the JSON lines of `clients/README.md`.
pub fn parse<T: serde::de::DeserializeOwned>(lines: &[String]) -> Result<Vec<T>> {
    lines.iter().map(|l| serde_json::from_str(l).with_context(|| format!("not a record: {l:.200}"))).collect()
}

/// Everything sent was received exactly once, with its key, nothing else was, and each key's order was kept.
pub fn check_content(sent: &[Record], received: &[Received]) -> Result<()> {
    ensure!(received.len() == sent.len(), "sent {} records, received {}", sent.len(), received.len());
    let mut by_key: HashMap<&str, Vec<&str>> = HashMap::new();
    for r in received {
        by_key.entry(&r.key).or_default().push(&r.value);
    }
    let mut sent_by_key: HashMap<&str, Vec<&str>> = HashMap::new();
    for r in sent {
        sent_by_key.entry(&r.key).or_default().push(&r.value);
    }
    ensure!(by_key.len() == sent_by_key.len(), "sent {} keys, received {}", sent_by_key.len(), by_key.len());
    for (key, values) in &sent_by_key {
        let got = by_key.get(key).with_context(|| format!("no record of key {key}"))?;
        ensure!(got.len() == values.len(), "key {key}: sent {}, received {}", values.len(), got.len());
        for (i, (want, have)) in values.iter().zip(got).enumerate() {
            ensure!(want == have, "key {key}, record {i}: sent {want:.60}, received {have:.60}");
        }
    }
    Ok(())
}

/// Each partition's offsets came in order and without gaps, beginning at `from`.
pub fn check_offsets(received: &[Received], from: i64) -> Result<()> {
    let mut next: BTreeMap<i32, i64> = BTreeMap::new();
    for r in received {
        let want = next.entry(r.partition).or_insert(from);
        ensure!(r.offset == *want, "partition {}: offset {} where {want} was due", r.partition, r.offset);
        *want += 1;
    }
    Ok(())
}

/// Each record is where its acknowledgement said.
pub fn check_acks(sent: &[Record], acks: &[Ack], received: &[Received]) -> Result<()> {
    ensure!(sent.len() == acks.len(), "sent {} records, acknowledged {}", sent.len(), acks.len());
    let at: HashMap<(i32, i64), &str> = received.iter().map(|r| ((r.partition, r.offset), r.value.as_str())).collect();
    for (record, ack) in sent.iter().zip(acks) {
        let have = at.get(&(ack.partition, ack.offset)).with_context(|| format!("nothing at {ack:?}"))?;
        ensure!(*have == record.value, "at {ack:?}: sent {:.60}, received {have:.60}", record.value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(sent: &[Record]) -> Vec<Received> {
        let place = |(i, r): (usize, &Record)| Received {
            partition: 0,
            offset: i64::try_from(i).unwrap(),
            key: r.key.clone(),
            value: r.value.clone(),
            member: 0,
        };
        sent.iter().enumerate().map(place).collect()
    }

    #[test]
    fn the_judge_accepts_what_is_whole() {
        let sent = records(300, "whole");
        let received = deliver(&sent);
        check_content(&sent, &received).unwrap();
        check_offsets(&received, 0).unwrap();
    }

    #[test]
    fn the_judge_sees_a_lost_a_doubled_a_swapped_and_a_changed_record() {
        let sent = records(300, "broken");
        let mut lost = deliver(&sent);
        lost.remove(7);
        assert!(check_content(&sent, &lost).is_err());
        assert!(check_offsets(&lost, 0).is_err());
        let mut doubled = deliver(&sent);
        doubled[9] = doubled[8].clone();
        assert!(check_content(&sent, &doubled).is_err());
        assert!(check_offsets(&doubled, 0).is_err());
        let mut swapped = deliver(&sent);
        let other = (1..300).find(|i| sent[*i].key == sent[0].key).unwrap();
        swapped.swap(0, other);
        assert!(check_content(&sent, &swapped).is_err());
        let mut changed = deliver(&sent);
        changed[3].value.push('x');
        assert!(check_content(&sent, &changed).is_err());
    }

    #[test]
    fn the_judge_sees_an_acknowledgement_that_points_elsewhere() {
        let sent = records(50, "acks");
        let mut acks: Vec<Ack> = (0..50).map(|offset| Ack { partition: 0, offset }).collect();
        check_acks(&sent, &acks, &deliver(&sent)).unwrap();
        acks.swap(3, 4);
        assert!(check_acks(&sent, &acks, &deliver(&sent)).is_err());
    }
}
