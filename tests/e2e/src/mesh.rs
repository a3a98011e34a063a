//! A sidecar and the cluster behind it, as processes: `wherry up`, or a node and a sidecar for themselves. It must not know what
//! applications do with them.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::process::Program;
use crate::server::{Kind, Options, PREFIX, Server, bound_command, free_port, last_lines, spawn_bound, wherry};
use crate::until;

/// So many times the sidecar must have tried to reach a node that is away, before it comes back.
const KNOCKS: usize = 12;

/// A sidecar that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Mesh {
    port: u16,
    log: PathBuf,
    child: Child,
    /// Where it is a process of its own.
    node: Option<Server>,
    _dir: TempDir,
}

impl Mesh {
    /// `wherry up` with the resources of a file.
    pub fn up(resources: &Path) -> Result<Mesh> {
        let dir = directory()?;
        let mut command = bound_command(&wherry()?);
        command.arg("up").arg("-f").arg(resources).arg("--data").arg(dir.path().join("data"));
        command.args(["--port", &free_port()?.to_string(), "--probes", "127.0.0.1:0", "--no-auto-create"]);
        let port = free_port()?;
        command.args(["--sidecar-port", &port.to_string()]);
        Mesh::launch(command, port, None, dir)
    }

    /// A node and a sidecar, with these topics, each with so many partitions.
    pub fn apart(kind: Kind, topics: &[(&str, u32)]) -> Result<Mesh> {
        let node = Server::start(kind, Options::default())?;
        for (topic, partitions) in topics {
            let create = format!("topic create {topic} --partitions {partitions} --bootstrap {}", node.addr());
            Program::new(wherry()?).typed(&create).run()?;
        }
        let port = free_port()?;
        let mut command = bound_command(&wherry()?);
        command.args(["sidecar", "--listen", &format!("127.0.0.1:{port}"), "--bootstrap", &node.addr()]);
        Mesh::launch(command, port, Some(node), directory()?)
    }

    fn launch(mut command: Command, port: u16, node: Option<Server>, dir: TempDir) -> Result<Mesh> {
        let log = dir.path().join("log");
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn_bound(command).context("cannot start the sidecar")?;
        let mut mesh = Mesh { port, log, child, node, _dir: dir };
        mesh.await_ready()?;
        Ok(mesh)
    }

    fn await_ready(&mut self) -> Result<()> {
        let (child, port, log) = (&mut self.child, self.port, &self.log);
        until("the sidecar to listen", || {
            if let Some(status) = child.try_wait()? {
                bail!("the sidecar ended with {status}:\n{}", last_lines(log));
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })
    }

    /// What applications are told in `WHERRY_ADDRESS`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `kill -9` of the node; it comes back when the sidecar has noticed. Meanwhile somebody else has its port, and hangs up.
    ///
    /// # Errors
    /// The node is not a process of its own, or does not come back; or nobody tries to reach it.
    pub fn outage(&self) -> Result<()> {
        let node = self.node.as_ref().context("the node is in the sidecar's process")?;
        node.kill()?;
        // The kernel takes an io_uring apart, and gives its sockets back, a moment after the process is gone.
        let mut bound = None;
        until("the node's port to be free", || {
            bound = TcpListener::bind(node.addr()).ok();
            Ok(bound.is_some())
        })?;
        let other = bound.context("somebody else has the node's port")?;
        other.set_nonblocking(true)?;
        let mut knocks = 0;
        until("the sidecar to try and reach its node", || {
            knocks += usize::from(other.accept().is_ok());
            Ok(knocks == KNOCKS)
        })?;
        drop(other);
        node.start_again()
    }

    /// The end of what sidecar and node said, for messages.
    pub fn last_words(&self) -> String {
        let node = self.node.as_ref().map(Server::last_words).unwrap_or_default();
        format!("{}\n{node}", last_lines(&self.log))
    }

    /// Asks the sidecar to stop (SIGTERM); an exit code other than 0 is an error.
    pub fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let child = &mut self.child;
        let mut ended = None;
        until("the sidecar to end", || {
            ended = child.try_wait()?;
            Ok(ended.is_some())
        })?;
        match ended {
            Some(status) if status.success() => Ok(()),
            _ => bail!("asked to stop, the sidecar ended with {ended:?}:\n{}", last_lines(&self.log)),
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?)
}
