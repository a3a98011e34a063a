//! Logs, traces, metrics and probes, the same in every role.
//!
//! [`trace`] carries spans from process to process; [`logs::init`] sets up what a process says about itself; [`http::serve`] answers `/metrics`, `/livez` and `/readyz` for roles
//! that have no HTTP server of their own. This crate must not know what is logged, counted or probed.

pub mod http;
pub mod logs;
pub mod trace;

pub use http::{Probes, Server, serve};
pub use logs::{Format, InitError, LogConfig, Logs, init};
