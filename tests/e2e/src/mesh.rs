//! Sidecars and the cluster behind them, as processes: `wherry up`, or a node and sidecars for themselves. It must not know what
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

/// So many times sidecars must have tried to reach a node that is away, before it comes back.
const KNOCKS: usize = 12;

/// Two sidecars of one cluster, which may be the same one.
#[derive(Debug)]
pub struct Mesh {
    sidecars: Vec<Sidecar>,
    /// Where it is a process of its own.
    node: Option<Server>,
}

/// A process that serves applications. It is killed when this is dropped.
#[derive(Debug)]
struct Sidecar {
    port: u16,
    log: PathBuf,
    child: Child,
    _dir: TempDir,
}

impl Mesh {
    /// `wherry up` with the resources of a file: all in one process.
    ///
    /// # Errors
    /// It does not start.
    pub fn up(resources: &Path) -> Result<Mesh> {
        let (node, port) = (free_port()?.to_string(), free_port()?);
        let sidecar = Sidecar::start(port, |command, dir| {
            command.arg("up").arg("-f").arg(resources).arg("--data").arg(dir.join("data"));
            command.args(["--port", &node, "--sidecar-port", &port.to_string()]);
            command.args(["--probes", "127.0.0.1:0", "--no-auto-create"]);
        })?;
        Ok(Mesh { sidecars: vec![sidecar], node: None })
    }

    /// A node and two sidecars, with these topics, each with so many partitions.
    ///
    /// # Errors
    /// One does not start.
    pub fn apart(kind: Kind, topics: &[(&str, u32)]) -> Result<Mesh> {
        let topics: Vec<String> = topics.iter().map(|(name, count)| format!("{name} --partitions {count}")).collect();
        Self::with(kind, &topics)
    }

    /// A node and two sidecars, with topics as `wherry topic create` is told to make them.
    ///
    /// # Errors
    /// One does not start.
    pub fn with(kind: Kind, topics: &[String]) -> Result<Mesh> {
        let node = Server::start(kind, Options::default())?;
        for topic in topics {
            let create = format!("topic create {topic} --bootstrap {}", node.addr());
            Program::new(wherry()?).typed(&create).run()?;
        }
        let sidecars = vec![Sidecar::of(&node, free_port()?)?, Sidecar::of(&node, free_port()?)?];
        Ok(Mesh { sidecars, node: Some(node) })
    }

    /// The node that is a process of its own.
    ///
    /// # Errors
    /// It is in the sidecar's process.
    pub fn node(&self) -> Result<&Server> {
        self.node.as_ref().context("the node is in the sidecar's process")
    }

    /// `kill -9` of a sidecar, and another one in its place.
    ///
    /// # Errors
    /// It does not come back.
    pub fn replace(&mut self, place: usize) -> Result<()> {
        let port = self.sidecars[place].port;
        self.sidecars[place].child.kill()?;
        self.sidecars[place].child.wait()?;
        self.sidecars[place] = Sidecar::of(self.node()?, port)?;
        Ok(())
    }

    /// What applications are told in `WHERRY_ADDRESS`: some of them the one, the others the other.
    pub fn addresses(&self) -> [String; 2] {
        let address = |place: usize| format!("127.0.0.1:{}", self.sidecars[place % self.sidecars.len()].port);
        [address(0), address(1)]
    }

    /// `kill -9` of the node; it comes back when the sidecars have noticed. Meanwhile somebody else has its port, and hangs up.
    ///
    /// # Errors
    /// The node is not a process of its own, or does not come back; or nobody tries to reach it.
    pub fn outage(&self) -> Result<()> {
        let node = self.node()?;
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
        until("the sidecars to try and reach their node", || {
            knocks += usize::from(other.accept().is_ok());
            Ok(knocks == KNOCKS)
        })?;
        drop(other);
        node.start_again()
    }

    /// The end of what sidecars and node said, for messages.
    pub fn last_words(&self) -> String {
        let said = self.sidecars.iter().map(|sidecar| last_lines(&sidecar.log));
        said.chain(self.node.as_ref().map(Server::last_words)).collect::<Vec<_>>().join("\n")
    }

    /// Asks the sidecars to stop (SIGTERM).
    ///
    /// # Errors
    /// One does not, or its exit code is not 0.
    pub fn stop(self) -> Result<()> {
        self.sidecars.into_iter().try_for_each(Sidecar::stop)
    }
}

impl Sidecar {
    /// One of a node that is a process of its own.
    fn of(node: &Server, port: u16) -> Result<Sidecar> {
        Self::start(port, |command, _| {
            command.args(["sidecar", "--listen", &format!("127.0.0.1:{port}"), "--bootstrap", &node.addr()]);
        })
    }

    /// Starts `wherry` with what is added to its command, and waits until it listens.
    fn start(port: u16, arguments: impl FnOnce(&mut Command, &Path)) -> Result<Sidecar> {
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        let log = dir.path().join("log");
        let file = File::create(&log)?;
        let mut command = bound_command(&wherry()?);
        arguments(&mut command, dir.path());
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn_bound(command).context("cannot start the sidecar")?;
        let mut sidecar = Sidecar { port, log, child, _dir: dir };
        until("the sidecar to listen", || {
            if let Some(status) = sidecar.child.try_wait()? {
                bail!("the sidecar ended with {status}:\n{}", last_lines(&sidecar.log));
            }
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(sidecar)
    }

    fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let mut ended = None;
        until("the sidecar to end", || {
            ended = self.child.try_wait()?;
            Ok(ended.is_some())
        })?;
        match ended {
            Some(status) if status.success() => Ok(()),
            _ => bail!("asked to stop, the sidecar ended with {ended:?}:\n{}", last_lines(&self.log)),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
