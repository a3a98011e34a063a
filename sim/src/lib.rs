//! Deterministic simulation of a whole node: seed in, trace hash out.
//!
//! Real pieces: the node's core, its handlers and coordinators, the log engine, the wire codec. Simulated: time,
//! connections, clients, the machine and its disk. The node is killed and loses power at random points; oracles judge it
//! by its answers alone. A seed that fails is replayed with `cargo run -p wherry-sim -- --seed S --trace`.

mod client;
mod host;
mod oracle;
mod rng;
mod small;
mod trace;
mod world;

pub use world::{Options, Outcome, Sabotage, Violation, run};

#[cfg(test)]
mod tests;
