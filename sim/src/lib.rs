//! Deterministic simulation of a whole cluster: seed in, trace hash out.
//!
//! Real pieces: the nodes' cores, their handlers and coordinators, the log engine, the wire codec. Simulated: time,
//! connections, clients, the machines and their disks. Nodes are killed, paused, cut off and lose power at random points;
//! oracles judge the cluster by its answers alone, and in the end by what its disks hold. A seed that fails is replayed
//! with `cargo run -p wherry-sim --release -- --seed S --trace`.

mod client;
mod clock;
mod host;
#[cfg(feature = "mutations")]
mod mutants;
mod options;
mod oracle;
mod rng;
mod small;
mod trace;
mod world;

#[cfg(feature = "mutations")]
pub use mutants::{Caught, hunt};
pub use options::{Extra, Options, Outcome, Sabotage, Violation};
pub use world::run;

#[cfg(test)]
mod tests;
