//! Where new ids come from: the operating system, or a seed, so that a simulated node is the same each time.

use std::cell::Cell;

use uuid::Uuid;

/// A source of ids that do not repeat.
#[derive(Debug)]
pub struct Entropy(Source);

#[derive(Debug)]
enum Source {
    System,
    Seeded(Cell<u64>),
}

impl Entropy {
    /// Truly random: for every node that is not simulated.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same ids for the same seed. Two starts over the same data MUST have different seeds.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Cell::new(seed)))
    }

    /// An id that nobody has.
    pub(crate) fn uuid(&self) -> Uuid {
        match &self.0 {
            Source::System => Uuid::new_v4(),
            Source::Seeded(state) => {
                let bits = (u128::from(next(state)) << 64) | u128::from(next(state));
                uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
            }
        }
    }

    /// Another source of the same kind.
    pub(crate) fn another(&self) -> Self {
        match &self.0 {
            Source::System => Self::system(),
            Source::Seeded(_) => Self::seeded(self.seed()),
        }
    }

    /// 64 random bits.
    pub(crate) fn seed(&self) -> u64 {
        self.uuid().as_u64_pair().0
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut z = state.get();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        let ids = |entropy: &Entropy| [entropy.uuid(), entropy.uuid(), entropy.uuid()];
        assert_eq!(ids(&Entropy::seeded(7)), ids(&Entropy::seeded(7)));
        assert_ne!(ids(&Entropy::seeded(7)), ids(&Entropy::seeded(8)));
        let [a, b, _] = ids(&Entropy::seeded(7));
        assert_ne!(a, b);
        assert_ne!(Entropy::system().uuid(), Entropy::system().uuid());
    }
}
