//! Whether a topic's batches are worth compressing: decided by what compression saved. Pure.
//!
//! ```text
//!       so many in a row saved next to nothing
//!  On ─────────────────────────────────────────> Off ─ so many batches later ─> one is tried
//!   ▲                                             ▲                                  │ saved little: wait longer
//!   │                                             └──────────────────────────────────┤
//!   └─────────────────────────── saved enough ───────────────────────────────────────┘
//! ```
//! The two bounds differ, so that a topic at the edge does not go back and forth. Small batches say nothing: what little they
//! save comes of their frame.

/// Batches below this size decide nothing, in bytes.
const TELLING_BYTES: usize = 512;
/// Saving less than this, in percent, is next to nothing.
const POOR_PERCENT: usize = 5;
/// Saving as much, in percent, is enough to go back.
const GOOD_PERCENT: usize = 12;
/// So many poor batches in a row turn compression off.
const POOR_BATCHES: u32 = 8;
/// Batches until it is tried again, at first and at the most.
const PAUSE: (u32, u32) = (64, 4096);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compressible {
    On { poor: u32 },
    Off { left: u32, pause: u32 },
}

impl Default for Compressible {
    fn default() -> Self {
        Self::On { poor: 0 }
    }
}

impl Compressible {
    /// Whether the next batch is to be compressed.
    pub(super) fn next(&mut self) -> bool {
        match self {
            Self::On { .. } | Self::Off { left: 0, .. } => true,
            Self::Off { left, .. } => {
                *left -= 1;
                false
            }
        }
    }

    /// What compressing a batch of `raw` bytes made of it.
    pub(super) fn learn(&mut self, raw: usize, compressed: usize) {
        if raw < TELLING_BYTES {
            return;
        }
        let saved = raw.saturating_sub(compressed) * 100 / raw;
        *self = match *self {
            Self::On { poor } if saved < POOR_PERCENT && poor + 1 >= POOR_BATCHES => {
                Self::Off { left: PAUSE.0, pause: PAUSE.0 }
            }
            Self::On { poor } if saved < POOR_PERCENT => Self::On { poor: poor + 1 },
            Self::Off { pause, .. } if saved < GOOD_PERCENT => {
                let pause = (pause * 2).min(PAUSE.1);
                Self::Off { left: pause, pause }
            }
            Self::On { .. } | Self::Off { .. } => Self::default(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(known: &mut Compressible, batches: u32, raw: usize, compressed: usize) -> u32 {
        let mut tried = 0;
        for _ in 0..batches {
            if known.next() {
                tried += 1;
                known.learn(raw, compressed);
            }
        }
        tried
    }

    #[test]
    fn what_does_not_compress_is_left_alone_and_tried_from_time_to_time() {
        let mut known = Compressible::default();
        assert_eq!(feed(&mut known, POOR_BATCHES, 1000, 990), POOR_BATCHES);
        assert_eq!(feed(&mut known, PAUSE.0, 1000, 990), 0);
        assert_eq!(feed(&mut known, 1, 1000, 990), 1, "tried once");
        assert_eq!(feed(&mut known, 2 * PAUSE.0, 1000, 990), 0, "then not for longer");
        assert!(feed(&mut known, 1_000_000, 1000, 990) < 1_000_000 / PAUSE.1 + 20, "never for ever");
    }

    #[test]
    fn what_compresses_again_is_compressed_again() {
        let mut known = Compressible::default();
        feed(&mut known, POOR_BATCHES + PAUSE.0, 1000, 1003);
        assert_eq!(feed(&mut known, 100, 1000, 300), 100);
        assert_eq!(known, Compressible::default());
    }

    #[test]
    fn at_the_edge_it_stays_as_it_is() {
        // Between the bounds: not poor enough to turn it off, not good enough to turn it on.
        let mut known = Compressible::default();
        assert_eq!(feed(&mut known, 1000, 1000, 920), 1000);
        let mut known = Compressible::Off { left: 0, pause: PAUSE.0 };
        feed(&mut known, 1, 1000, 920);
        assert!(matches!(known, Compressible::Off { .. }));
    }

    #[test]
    fn one_poor_batch_and_small_ones_decide_nothing() {
        let mut known = Compressible::default();
        for _ in 0..100 {
            feed(&mut known, POOR_BATCHES - 1, 1000, 1000);
            feed(&mut known, 1, 1000, 100);
            feed(&mut known, POOR_BATCHES, TELLING_BYTES - 1, 600);
        }
        assert_eq!(known, Compressible::default());
    }
}
