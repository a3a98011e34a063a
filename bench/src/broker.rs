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

use crate::setup::Setup;

/// How long a broker may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(180);

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

/// A broker under test; killed when dropped, or when this process ends in any way.
#[derive(Debug)]
pub struct Broker {
    /// What it is.
    pub kind: Kind,
    /// Where it listens.
    pub addr: SocketAddr,
    data: PathBuf,
    log: PathBuf,
    record_bytes: usize,
    child: Option<Child>,
}

impl Broker {
    /// A broker with an empty data directory, not started. `record_bytes`: what the null node's records carry.
    pub fn new(setup: &Setup, kind: Kind, record_bytes: usize) -> Result<Broker> {
        let root = setup.data.join(kind.name());
        match std::fs::remove_dir_all(&root) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(root.display().to_string()),
            _ => std::fs::create_dir_all(&root)?,
        }
        let addr = free_address()?;
        let broker = Broker { kind, addr, data: root.join("data"), log: root.join("log"), record_bytes, child: None };
        if kind == Kind::Kafka {
            broker.format_kafka(setup)?;
        }
        Ok(broker)
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
            Kind::Kafka => {
                let heap = &setup.kafka_heap;
                command.args(["java", "-server", &format!("-Xmx{heap}"), &format!("-Xms{heap}")]);
                // What kafka-server-start.sh passes.
                command.args("-XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35".split(' '));
                command.args("-XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15".split(' '));
                command.args(["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
                command.arg(setup.kafka_jars()).arg("kafka.Kafka").arg(self.properties());
            }
            Kind::Wherry => {
                command.arg(setup.wherry()?).args(["node", "--listen", &self.addr.to_string(), "--data"]);
                command.arg(&self.data).args(&setup.wherry_args);
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

    /// Kafka's shipped defaults, but for what a single broker needs, and no waiting when a group begins.
    fn format_kafka(&self, setup: &Setup) -> Result<()> {
        let controller = free_address()?;
        let (addr, data) = (self.addr, self.data.display());
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
             listeners=PLAINTEXT://{addr},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{addr}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={data}\n\
             num.partitions=1\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nlog.segment.delete.delay.ms=1000\n"
        );
        std::fs::write(self.properties(), text)?;
        let format = Command::new("java")
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
            .arg(setup.kafka_jars())
            .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"])
            .arg(self.properties())
            .output()?;
        ensure!(format.status.success(), "StorageTool: {}", String::from_utf8_lossy(&format.stderr));
        Ok(())
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
