//! A machine's clocks: they begin when it boots, run a little fast or slow, and tell another time of day than the next one's.

use wherry_log::Now;

use crate::rng::Rng;

const MS: u64 = 1_000_000;
const MILLION: i128 = 1_000_000;
/// What the wall clock of the world says at the start.
const WALL_MS: i64 = 1_700_000_000_000;
/// How far rates are off, in parts per million: ten times what quartz does.
const MAX_DRIFT_PPM: u64 = 1_000;
/// How far wall clocks are off, in milliseconds.
const MAX_WALL_OFFSET_MS: u64 = 5_000;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    booted_ns: u64,
    drift_ppm: i128,
    wall_offset_ms: i64,
}

/// What the wall clock says where it is right.
pub(crate) fn wall_ms(world_ns: u64) -> i64 {
    WALL_MS + i64::try_from(world_ns / MS).unwrap_or(0)
}

impl Clock {
    /// One that is right.
    pub(crate) fn exact() -> Self {
        Self { booted_ns: 0, drift_ppm: 0, wall_offset_ms: 0 }
    }

    pub(crate) fn drifting(rng: &mut Rng) -> Self {
        let drift_ppm = i128::from(rng.between(0, 2 * MAX_DRIFT_PPM)) - i128::from(MAX_DRIFT_PPM);
        Self { booted_ns: 0, drift_ppm, wall_offset_ms: wall_offset(rng) }
    }

    /// The machine was off: its monotonic clock begins anew, its wall clock may be off by something else.
    pub(crate) fn reboot(&mut self, world_ns: u64, rng: &mut Rng) {
        if self.drift_ppm != 0 {
            self.booted_ns = world_ns;
            self.wall_offset_ms = wall_offset(rng);
        }
    }

    pub(crate) fn now(&self, world_ns: u64) -> Now {
        let elapsed = i128::from(world_ns.saturating_sub(self.booted_ns));
        let monotonic = elapsed + elapsed * self.drift_ppm / MILLION;
        let monotonic_ns = MS + u64::try_from(monotonic).unwrap_or(0);
        Now { monotonic_ns, wall_ms: wall_ms(world_ns) + self.wall_offset_ms }
    }

    /// When the world gets to a time of this clock.
    pub(crate) fn in_world(&self, monotonic_ns: u64) -> u64 {
        let local = i128::from(monotonic_ns.saturating_sub(MS));
        let elapsed = local * MILLION / (MILLION + self.drift_ppm) + i128::from(self.drift_ppm != 0);
        self.booted_ns.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

fn wall_offset(rng: &mut Rng) -> i64 {
    let span = rng.between(0, 2 * MAX_WALL_OFFSET_MS);
    i64::try_from(span).unwrap_or(0) - i64::try_from(MAX_WALL_OFFSET_MS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_it_is_said_to_be() {
        let mut rng = Rng::new(7);
        for _ in 0..1_000 {
            let mut clock = Clock::drifting(&mut rng);
            clock.reboot(rng.between(0, 1 << 40), &mut rng);
            let deadline = MS + rng.between(0, 1 << 40);
            let at = clock.in_world(deadline);
            let reached = clock.now(at).monotonic_ns;
            assert!(reached + 1 >= deadline && reached <= deadline + 2, "{clock:?}: {deadline} at {at} is {reached}");
        }
    }
}
