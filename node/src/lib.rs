//! The log node: sans-I/O core, request handlers, coordinators, drivers.
//!
//! ```text
//!  sockets ── driver ── frames ──> Core ── LogStore ──> log engine ── Disk ── driver ── files
//!                 <── effects ───
//! ```
//! [`core`] is a state machine without I/O; [`api`] holds one file per kind of request; [`driver`] owns sockets, the
//! ring and the clock; [`groups`] is the coordinator of consumer groups.

pub mod api;
pub mod config;
pub mod core;
pub mod driver;
pub mod entropy;
pub mod error;
pub mod groups;
pub mod limits;
pub mod net;
mod run;
pub mod stats;

pub use config::NodeConfig;
pub use error::NodeError;
pub use run::{NodeHandle, Serving, new_stop, run, spawn};
