//! The log node: sans-I/O core, request handlers, coordinators, drivers.
//!
//! ```text
//!  sockets ── driver ── frames ──> Core ── LogStore ──> log engine ── Disk ── driver ── files
//!                 <── effects ───
//! ```
//! [`core`] is a state machine without I/O; [`api`] holds one file per kind of request; [`driver`] owns sockets, the
//! ring and the clock; [`groups`] is the coordinator of consumer groups, [`transactions`] that of transactions, `share`
//! the queues of share groups; [`cluster`] joins the nodes; [`security`] says who is at the other end.

pub mod api;
pub mod cluster;
pub mod config;
pub mod core;
pub(crate) mod dedupe;
pub mod driver;
pub mod entropy;
pub mod error;
pub mod groups;
pub mod limits;
#[doc(hidden)]
pub mod mutation;
pub mod net;
pub mod replication;
mod run;
pub mod security;
mod share;
pub mod stats;
pub mod transactions;

pub use config::NodeConfig;
pub use error::NodeError;
pub use run::{NodeHandle, Serving, new_stop, run, spawn};
