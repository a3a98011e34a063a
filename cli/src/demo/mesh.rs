//! The mesh of a run, as processes of this same binary: one node and some sidecars on free loopback ports.
//!
//! The node can be killed with SIGKILL and started again on its port and data. Nothing outlives the run: children are killed when
//! this is dropped, and ask the kernel to be killed when this process dies in any other way.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::roles::Listening;

/// How long a process may take until it serves: a node replays its journal first.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a process may take to stop in good order.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Running processes.
#[derive(Debug)]
pub(crate) struct Mesh {
    directory: PathBuf,
    io: String,
    node: Role,
    sidecars: Vec<Role>,
}

/// One child and where it listens.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    /// As `host:port`.
    pub(crate) address: String,
}

impl Mesh {
    pub(crate) async fn start(directory: &Path, sidecars: usize, io: &str) -> Result<Self> {
        let node = start_node(directory, io, "127.0.0.1:0").await?;
        let mut mesh = Self { directory: directory.into(), io: io.into(), node, sidecars: Vec::new() };
        for n in 0..sidecars {
            let bootstrap = mesh.node.address.clone();
            let arguments = ["sidecar", "--listen", "127.0.0.1:0", "--bootstrap", &bootstrap];
            let name = format!("sidecar-{n}");
            mesh.sidecars.push(start(directory, &name, &arguments.map(String::from)).await?);
        }
        Ok(mesh)
    }

    pub(crate) fn node_address(&self) -> String {
        self.node.address.clone()
    }

    /// Addresses of the sidecars.
    pub(crate) fn sidecar_addresses(&self) -> Vec<String> {
        self.sidecars.iter().map(|sidecar| sidecar.address.clone()).collect()
    }

    /// SIGKILL to the node; returns when it is dead.
    pub(crate) async fn kill_node(&mut self) -> Result<()> {
        if let Some(status) = self.node.child.try_wait()? {
            bail!(
                "the node ended by itself before it was killed ({status}); its log is {}",
                self.log("node").display()
            );
        }
        self.node.child.kill().await.context("can't kill the node")
    }

    /// Starts the node again on its port and its data; returns when it serves.
    pub(crate) async fn restart_node(&mut self) -> Result<()> {
        let address = self.node.address.clone();
        self.node = start_node(&self.directory, &self.io, &address).await?;
        Ok(())
    }

    /// Names a process that ended although nobody asked it to.
    pub(crate) fn dead(&mut self) -> Result<Option<String>> {
        let named = std::iter::once(("node".to_owned(), &mut self.node))
            .chain(self.sidecars.iter_mut().enumerate().map(|(n, sidecar)| (format!("sidecar-{n}"), sidecar)));
        for (name, role) in named {
            if let Some(status) = role.child.try_wait()? {
                let log = self.directory.join(format!("{name}.log"));
                return Ok(Some(format!("{name} ended by itself ({status}); its log is {}", log.display())));
            }
        }
        Ok(None)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Stops everything in good order, sidecars first.
    pub(crate) async fn stop(self) {
        for role in self.sidecars.into_iter().chain([self.node]) {
            role.stop().await;
        }
    }
}

impl Role {
    async fn stop(mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Fails only if it is gone already.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if timeout(STOP_MAX, self.child.wait()).await.is_err() {
            // Dropping the child kills it.
            tracing::warn!(address = self.address, "a process did not stop in time");
        }
    }
}

async fn start_node(directory: &Path, io: &str, listen: &str) -> Result<Role> {
    let data = directory.join("node");
    let data = data.to_str().ok_or_else(|| anyhow!("{} is not UTF-8; choose another --directory", data.display()))?;
    let arguments = ["node", "--listen", listen, "--data", data, "--io", io, "--journal-size", "256MiB"];
    start(directory, "node", &arguments.map(String::from)).await
}

/// Starts a role of this binary and waits until it says where it listens.
async fn start(directory: &Path, name: &str, arguments: &[String]) -> Result<Role> {
    let log = directory.join(format!("{name}.log"));
    let mut child = Command::new(std::env::current_exe().context("can't find this program")?)
        .args(arguments)
        .args(["--output", "json", "--die-with-parent"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(append(&log)?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't start {name}"))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut line = String::new();
    let read = timeout(START_MAX, BufReader::new(stdout).read_line(&mut line)).await;
    let failed = || format!("{name} did not start; its log is {}", log.display());
    read.with_context(failed)?.with_context(failed)?;
    let listening: Listening = serde_json::from_str(&line).with_context(failed)?;
    Ok(Role { child, address: listening.address.to_string() })
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("can't write {}", path.display()))
}
