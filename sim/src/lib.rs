//! Deterministic simulation: seed in, trace out.
