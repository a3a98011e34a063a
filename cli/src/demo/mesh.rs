//! The mesh of a run, as processes of this same binary: nodes and sidecars on free loopback ports.
//!
//! A node can be killed with SIGKILL and started again on its port and data. Nothing outlives the run: children are killed when
//! this is dropped, and ask the kernel to be killed when this process dies in any other way.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::roles::{Listening, free_ports};

/// How long a process may take until it serves: a node replays its journal first.
const START_MAX: Duration = Duration::from_secs(60);
/// How long a process may take to stop in good order.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Running processes.
#[derive(Debug)]
pub(crate) struct Mesh {
    directory: PathBuf,
    io: String,
    /// By node id.
    nodes: Vec<Node>,
    sidecars: Vec<Role>,
}

/// A node, up or killed.
#[derive(Debug)]
struct Node {
    /// As `host:port`.
    address: String,
    role: Option<Role>,
}

/// One child and where it listens.
#[derive(Debug)]
struct Role {
    child: Child,
    /// As `host:port`.
    address: String,
}

impl Mesh {
    pub(crate) async fn start(directory: &Path, nodes: usize, sidecars: usize, io: &str) -> Result<Self> {
        let node = |port: u16| Node { address: format!("127.0.0.1:{port}"), role: None };
        let nodes = free_ports(nodes)?.into_iter().map(node).collect();
        let mut mesh = Self { directory: directory.into(), io: io.into(), nodes, sidecars: Vec::new() };
        for id in 0..mesh.nodes.len() {
            mesh.start_node(id).await?;
        }
        let bootstrap = mesh.node_addresses().join(",");
        for n in 0..sidecars {
            let arguments = ["sidecar", "--listen", "127.0.0.1:0", "--bootstrap", &bootstrap];
            let name = format!("sidecar-{n}");
            mesh.sidecars.push(start(directory, &name, &arguments.map(String::from)).await?);
        }
        Ok(mesh)
    }

    /// Addresses of the nodes, by id.
    pub(crate) fn node_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Addresses of the sidecars.
    pub(crate) fn sidecar_addresses(&self) -> Vec<String> {
        self.sidecars.iter().map(|sidecar| sidecar.address.clone()).collect()
    }

    /// SIGKILL to a node; returns when it is dead.
    pub(crate) async fn kill_node(&mut self, id: usize) -> Result<()> {
        let log = self.log(&node_name(id));
        let node = self.nodes.get_mut(id).context("no such node")?;
        let mut role = node.role.take().context("the node is down already")?;
        if let Some(status) = role.child.try_wait()? {
            bail!("node {id} ended by itself before it was killed ({status}); its log is {}", log.display());
        }
        role.child.kill().await.context("can't kill the node")
    }

    /// Starts a node on its port and whatever data it has; returns when it listens.
    pub(crate) async fn start_node(&mut self, id: usize) -> Result<()> {
        let arguments = self.node_arguments(id)?;
        let role = start(&self.directory, &node_name(id), &arguments).await?;
        self.nodes.get_mut(id).context("no such node")?.role = Some(role);
        Ok(())
    }

    fn node_arguments(&self, id: usize) -> Result<Vec<String>> {
        let data = self.directory.join(node_name(id));
        let data =
            data.to_str().ok_or_else(|| anyhow!("{} is not UTF-8; choose another --directory", data.display()))?;
        let listen = &self.nodes.get(id).context("no such node")?.address;
        let line = ["node", "--listen", listen, "--data", data, "--io", &self.io, "--journal-size", JOURNAL];
        let mut arguments: Vec<String> = line.map(String::from).into();
        if self.nodes.len() > 1 {
            let voter = |(id, node): (usize, &Node)| format!("{id}@{}", node.address);
            let voters: Vec<_> = self.nodes.iter().enumerate().map(voter).collect();
            let id = id.to_string();
            let line = ["--cluster-id", "demo", "--node-id", &id, "--voters", &voters.join(",")];
            arguments.extend(line.map(String::from));
        }
        Ok(arguments)
    }

    /// Names a process that ended although nobody asked it to.
    pub(crate) fn dead(&mut self) -> Result<Option<String>> {
        let nodes = self.nodes.iter_mut().enumerate();
        let nodes = nodes.filter_map(|(id, node)| Some((node_name(id), node.role.as_mut()?)));
        let sidecars = self.sidecars.iter_mut().enumerate().map(|(n, sidecar)| (format!("sidecar-{n}"), sidecar));
        for (name, role) in nodes.chain(sidecars) {
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

    /// Stops everything in good order: sidecars first, then all nodes at once, as none has another to hand over to in the end.
    pub(crate) async fn stop(self) {
        stop_all(self.sidecars).await;
        stop_all(self.nodes.into_iter().filter_map(|node| node.role)).await;
    }
}

/// Disk space of each journal.
const JOURNAL: &str = "256MiB";

fn node_name(id: usize) -> String {
    format!("node-{id}")
}

async fn stop_all(roles: impl IntoIterator<Item = Role>) {
    let mut stopping: JoinSet<()> = roles.into_iter().map(Role::stop).collect();
    while stopping.join_next().await.is_some() {}
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
