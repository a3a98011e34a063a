//! Which partition a record goes to: by key exactly as Kafka's own clients do it, sticky without one. Pure.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The 32-bit murmur2 hash with the seed that Kafka's clients use; every client must agree, or keys change partitions.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mix = |k: u32| {
        let k = k.wrapping_mul(M);
        (k ^ (k >> 24)).wrapping_mul(M)
    };
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    let mut h = words.iter().fold(SEED ^ length, |h, w| h.wrapping_mul(M) ^ mix(u32::from_le_bytes(*w)));
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0, |rest, byte| (rest << 8) | u32::from(*byte));
        h = (h ^ rest).wrapping_mul(M);
    }
    h = (h ^ (h >> 13)).wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a key among `partitions`.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Keyless records: stays with one partition for about a batch, then picks another at random (KIP-794).
#[derive(Debug)]
pub(super) struct Sticky {
    current: AtomicU32,
    bytes: AtomicUsize,
    random: AtomicU64,
}

impl Sticky {
    pub(super) fn new(seed: u64) -> Self {
        let sticky = Self { current: AtomicU32::new(0), bytes: AtomicUsize::new(0), random: AtomicU64::new(seed | 1) };
        sticky.current.store(sticky.draw(), Ordering::Relaxed);
        sticky
    }

    /// The partition for a record of `size` bytes; moves on after `run` bytes.
    pub(super) fn next(&self, partitions: u32, size: usize, run: usize) -> u32 {
        let current = self.current.load(Ordering::Relaxed);
        if self.bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size) >= run {
            self.bytes.store(0, Ordering::Relaxed);
            self.current.store(self.other_than(current, partitions), Ordering::Relaxed);
        }
        current % partitions.max(1)
    }

    fn other_than(&self, current: u32, partitions: u32) -> u32 {
        if partitions < 2 {
            return 0;
        }
        let step = 1 + self.draw() % (partitions - 1);
        (current % partitions + step) % partitions
    }

    /// xorshift64*; a lost update between threads only repeats a draw.
    fn draw(&self) -> u32 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.store(x, Ordering::Relaxed);
        u32::try_from(x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors that Kafka's own clients are tested with.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let check = |text: &str, hash: i32| assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        check("21", -973_932_308);
        check("foobar", -790_332_482);
        check("a-little-bit-long-string", -985_981_536);
        check("a-little-bit-longer-string", -1_486_304_829);
        check("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971);
        check("abc", 479_470_107);
    }

    #[test]
    fn keys_stay_in_range() {
        for i in 0..1000u32 {
            assert!(partition_of(&i.to_be_bytes(), 7) < 7);
        }
        assert_eq!(partition_of(b"x", 0), 0);
    }

    #[test]
    fn sticky_stays_for_a_run_and_then_moves() {
        let sticky = Sticky::new(42);
        let mut seen = std::collections::HashMap::new();
        let mut last = None;
        for run in 0..600 {
            let first = sticky.next(6, 10, 100);
            assert_ne!(Some(first), last, "run {run}");
            for _ in 1..10 {
                assert_eq!(sticky.next(6, 10, 100), first);
            }
            last = Some(first);
            *seen.entry(first).or_insert(0) += 1;
        }
        assert!((0..6).all(|p| seen.get(&p).is_some_and(|n| *n > 40)), "{seen:?}");
    }

    #[test]
    fn sticky_with_one_partition() {
        let sticky = Sticky::new(1);
        assert!((0..100).all(|_| sticky.next(1, 10, 10) == 0));
    }
}
