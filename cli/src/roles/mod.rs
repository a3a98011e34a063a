//! What the long-running roles (`node`, `sidecar`, `up`) share: saying where they listen, and knowing when to stop.

pub(crate) mod metrics;
pub(crate) mod node;
mod ports;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use wherry_node::config::IoDriver;

pub(crate) use ports::{free_ports, ports_from};

use crate::output::{self, Output};

/// How a node does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum IoArg {
    /// io_uring where it is permitted, threads elsewhere
    #[default]
    Auto,
    /// io_uring, or no start
    IoUring,
    /// Threads and plain system calls
    Threads,
}

impl IoArg {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io-uring",
            Self::Threads => "threads",
        }
    }
}

impl From<IoArg> for IoDriver {
    fn from(io: IoArg) -> Self {
        match io {
            IoArg::Auto => Self::Auto,
            IoArg::IoUring => Self::IoUring,
            IoArg::Threads => Self::Threads,
        }
    }
}

/// What a role says on standard output once it serves: one line, so that whoever started it knows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listening {
    /// `node` or `sidecar`.
    pub(crate) role: String,
    /// Where clients or applications connect.
    pub(crate) address: SocketAddr,
    /// `io_uring` or `threads`, of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) driver: Option<String>,
    /// Where /metrics, /livez and /readyz are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) probes: Option<SocketAddr>,
}

impl Listening {
    pub(crate) fn say(&self, output: Output) -> Result<()> {
        if output == Output::Json {
            return output::line(serde_json::to_string(self)?);
        }
        let driver = self.driver.as_ref().map(|driver| format!(", by {driver}")).unwrap_or_default();
        output::line(format!("The {} serves at {}{driver}.", self.role, self.address))?;
        match self.probes {
            Some(probes) => {
                output::line(format!("Its metrics and probes are at http://{probes}/metrics, /livez and /readyz."))
            }
            None => Ok(()),
        }
    }
}

/// Asks the kernel to kill this process when its parent dies.
pub(crate) fn die_with_parent() -> Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("can't tie this process to its parent")?;
    // It may have died before the kernel was asked.
    ensure!(rustix::process::getppid() == parent, "the parent process is gone");
    Ok(())
}

/// Waits for SIGTERM or SIGINT (Ctrl-C).
pub(crate) async fn asked_to_stop() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
