//! The brokers that are compared, as processes: Apache Kafka, Wherry's node and the null node.
//! It knows their command lines, directories and /proc; it must not know what is measured.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::kafka;
use crate::setup::Setup;

/// How long a broker may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(180);
/// How a cluster of Wherry's nodes is called.
const CLUSTER_ID: &str = "bench";

/// What is measured side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Apache Kafka, one KRaft broker, its own defaults: no sync before an acknowledgement.
    Kafka,
    /// `wherry node`: on disk before each acknowledgement.
    Wherry,
    /// The null node of this crate: the client's ceiling.
    Null,
}

impl Kind {
    /// A short name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kafka => "kafka",
            Kind::Wherry => "wherry",
            Kind::Null => "null",
        }
    }
}

/// What the kernel counts about a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time so far, in seconds; resolution 10 ms.
    pub cpu_s: f64,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Open files.
    pub fds: u64,
}

/// A broker's place among those of its cluster.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its id: where it is in the lists below.
    pub id: usize,
    /// Where each listens.
    pub listen: Vec<SocketAddr>,
    /// Where each takes part in Kafka's quorum; Wherry's nodes do that where they listen.
    pub quorum: Vec<SocketAddr>,
}

impl Place {
    /// The places of a cluster of so many.
    pub fn of(brokers: usize) -> Result<Vec<Place>> {
        let addresses = || (0..brokers).map(|_| free_address()).collect::<Result<Vec<_>>>();
        let (listen, quorum) = (addresses()?, addresses()?);
        Ok((0..brokers).map(|id| Place { id, listen: listen.clone(), quorum: quorum.clone() }).collect())
    }

    fn alone(&self) -> bool {
        self.listen.len() == 1
    }

    fn voters(&self) -> String {
        let voters: Vec<String> = self.listen.iter().enumerate().map(|(i, a)| format!("{i}@{a}")).collect();
        voters.join(",")
    }
}

/// A broker under test; killed when dropped, or when this process ends in any way.
#[derive(Debug)]
pub struct Broker {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub addr: SocketAddr,
    place: Place,
    data: PathBuf,
    log: PathBuf,
    record_bytes: usize,
    child: Option<Child>,
}

impl Broker {
    /// A broker of its own with an empty data directory, not started. `record_bytes`: what the null node's records carry.
    pub fn new(setup: &Setup, kind: Kind, record_bytes: usize) -> Result<Broker> {
        let place = Place::of(1)?.pop().context("no place")?;
        let mut broker = Broker::member(setup, kind, place)?;
        broker.record_bytes = record_bytes;
        Ok(broker)
    }

    /// A broker of a cluster with an empty data directory, not started.
    pub fn member(setup: &Setup, kind: Kind, place: Place) -> Result<Broker> {
        let name = if place.alone() { kind.name().to_owned() } else { format!("{}-{}", kind.name(), place.id) };
        let root = setup.data.join(name);
        remove(&root)?;
        std::fs::create_dir_all(&root)?;
        let (addr, data, log) = (place.listen[place.id], root.join("data"), root.join("log"));
        let broker = Broker { kind, addr, place, data, log, record_bytes: 1024, child: None };
        if kind == Kind::Kafka {
            let place = &broker.place;
            let text = kafka::properties(place.id, &place.listen, &place.quorum, &broker.data);
            std::fs::write(broker.properties(), text)?;
            kafka::format(setup, &broker.properties())?;
        }
        Ok(broker)
    }

    /// Ends it at once and removes what it wrote.
    pub fn discard(mut self) -> Result<()> {
        self.end(Signal::KILL)?;
        self.data.parent().map_or(Ok(()), remove)
    }

    /// Starts it and waits until it answers.
    pub fn start(&mut self, setup: &Setup) -> Result<()> {
        self.launch(setup)?;
        self.await_ready(setup)
    }

    /// Starts it; it does not answer yet.
    pub fn launch(&mut self, setup: &Setup) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.kind.name());
        let log = File::options().create(true).append(true).open(&self.log)?;
        // The kernel ends the broker when this process ends (brokers are started from the main thread).
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        self.arguments(setup, &mut command)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start the broker (is util-linux installed?)")?);
        Ok(())
    }

    fn arguments(&self, setup: &Setup, command: &mut Command) -> Result<()> {
        match self.kind {
            Kind::Kafka => kafka::server(setup, &self.properties(), command),
            Kind::Wherry => {
                command.arg(setup.wherry()?).args(["node", "--listen", &self.addr.to_string(), "--data"]);
                command.arg(&self.data).args(&setup.wherry_args);
                if !self.place.alone() {
                    command.args(["--node-id", &self.place.id.to_string(), "--cluster-id", CLUSTER_ID]);
                    command.args(["--voters", &self.place.voters()]);
                }
            }
            Kind::Null => {
                command.arg(std::env::current_exe()?).args(["null-node", "--listen", &self.addr.to_string()]);
                command.args(["--record-bytes", &self.record_bytes.to_string()]);
            }
        }
        Ok(())
    }

    fn properties(&self) -> PathBuf {
        self.log.with_file_name("server.properties")
    }

    /// Waits until something listens.
    pub fn await_port(&mut self) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).is_err() {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("{} ended with {status}: {}", self.kind.name(), self.last_words());
            }
            ensure!(begin.elapsed() < PATIENCE, "{} does not listen: {}", self.kind.name(), self.last_words());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn await_ready(&mut self, setup: &Setup) -> Result<()> {
        self.await_port()?;
        if self.kind == Kind::Null {
            return Ok(()); // it creates no topics
        }
        let begin = Instant::now();
        loop {
            let probe = setup.load("topics").args(["-b", &self.addr.to_string(), "-t", "ready"]).output()?;
            if probe.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&probe.stderr).into_owned();
            ensure!(begin.elapsed() < PATIENCE, "{} is not ready: {said}\n{}", self.kind.name(), self.last_words());
        }
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        self.child.as_ref().map(Pid::from_child).context("the broker is not running")
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        usage_of(self.pid()?)
    }

    /// Sends it a signal, and waits for nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Whether it was started and has not been ended by this process.
    pub fn started(&self) -> bool {
        self.child.is_some()
    }

    /// Ends it with `signal`, and waits until it is gone.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill_process(Pid::from_child(&child), signal)?;
        let begin = Instant::now();
        while child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                child.kill()?;
                bail!("{} did not stop", self.kind.name());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The end of its output.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.end(Signal::KILL);
    }
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(dir.display().to_string()),
        _ => Ok(()),
    }
}

/// An address that was free a moment ago, below the ports that the kernel gives to outgoing connections: a client that
/// retries while a broker is down could otherwise be given the broker's own port.
pub fn free_address() -> Result<SocketAddr> {
    let start = u16::try_from(std::process::id() % 10_000)?;
    let ports = (0..10_000).map(|i| 10_000 + (start + i) % 10_000);
    let free = ports.map(|p| SocketAddr::from(([127, 0, 0, 1], p))).filter(|a| TcpListener::bind(a).is_ok());
    // Two brokers that are made one after the other, the first not yet started, must not get the same one.
    static GIVEN: std::sync::Mutex<Vec<SocketAddr>> = std::sync::Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut fresh = free.filter(|a| !given.contains(a));
    let address = fresh.next().context("no free port")?;
    drop(fresh);
    given.push(address);
    Ok(address)
}

/// CPU, memory and files of a process, from /proc.
pub fn usage_of(pid: Pid) -> Result<Usage> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let status = std::fs::read_to_string(proc.join("status"))?;
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(Usage {
        cpu_s: cpu_of(&proc.join("stat"), 13)?,
        rss_kib: rss.trim().trim_end_matches(" kB").parse()?,
        fds: std::fs::read_dir(proc.join("fd"))?.count() as u64,
    })
}

/// CPU seconds of the children of this process that have ended.
pub fn children_cpu_s() -> Result<f64> {
    cpu_of(Path::new("/proc/self/stat"), 15)
}

/// Seconds in two neighbouring fields of a `stat` file (proc(5)), counted from 0.
fn cpu_of(stat: &Path, field: usize) -> Result<f64> {
    let text = std::fs::read_to_string(stat)?;
    let after = text.rsplit_once(") ").context("no command name")?.1; // a command name may hold anything
    let fields: Vec<&str> = after.split(' ').collect();
    let at = |i: usize| -> Result<f64> { Ok(fields.get(i - 2).context("too few fields")?.parse::<u64>()? as f64) };
    Ok((at(field)? + at(field + 1)?) / rustix::param::clock_ticks_per_second() as f64)
}

/// Busy CPU seconds of the whole machine since it started.
pub fn machine_cpu_s() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("no cpu line")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    ensure!(ticks.len() >= 8, "too few fields: {line}");
    // user nice system irq softirq: not idle, not waiting for a disk, not stolen by another guest
    Ok([0, 1, 2, 5, 6].iter().map(|i| ticks[*i]).sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
}
