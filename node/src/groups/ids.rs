//! Member ids: the client's id, for people, and 128 random bits, so that no id is ever given twice.

use std::sync::Arc;

/// What is added to the client id: a dash and a UUID.
pub(super) const SUFFIX_BYTES: usize = 37;

/// Gives out ids from a seed: random in production, fixed in simulation.
#[derive(Debug)]
pub(super) struct MemberIds {
    state: u64,
}

impl MemberIds {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self, client_id: &str) -> Arc<str> {
        let bits = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
        format!("{client_id}-{uuid}").into()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): one addition and a mix of the bits.
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
