//! The broker under test as a process: Wherry's node, or Apache Kafka as the oracle.
//! It must not know what is tested; it knows command lines, ports, directories and signals.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::clients::{KAFKA, cache, java, kcat};
use crate::process::Program;
use crate::{PATIENCE, Target, until};

/// How Wherry's node does its input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Io {
    /// One io_uring for connections and journal.
    IoUring,
    /// Threads with `pwritev2`.
    Threads,
}

/// What kind of broker a test runs against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `wherry node`.
    Wherry(Io),
    /// Apache Kafka, one KRaft broker.
    Kafka,
}

impl Kind {
    /// The kinds chosen by the environment: by default Wherry with each driver.
    pub fn chosen() -> Vec<Kind> {
        let only = std::env::var("WHERRY_E2E_IO").ok();
        if std::env::var("WHERRY_E2E_TARGET").is_ok_and(|t| t == "kafka") {
            return vec![Kind::Kafka];
        }
        match only.as_deref() {
            Some("threads") => vec![Kind::Wherry(Io::Threads)],
            Some("io-uring") => vec![Kind::Wherry(Io::IoUring)],
            _ => vec![Kind::Wherry(Io::IoUring), Kind::Wherry(Io::Threads)],
        }
    }

    /// True for Apache Kafka.
    pub fn is_kafka(self) -> bool {
        match self {
            Kind::Kafka => true,
            Kind::Wherry(_) => false,
        }
    }
}

/// How a server is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where its data goes; a temporary directory by default.
    pub data: Option<PathBuf>,
    /// Where it listens; a free port by default.
    pub port: Option<u16>,
    /// More arguments of `wherry node`; Kafka gets none of them.
    pub wherry_args: Vec<String>,
}

/// A running broker. It is killed when this is dropped, or when the test process ends in any way.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    options: Options,
    child: Mutex<Option<Child>>,
    _dir: TempDir,
}

/// The `wherry` binary: `WHERRY_BIN`, or built here once.
pub fn wherry() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build_wherry().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

fn build_wherry() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WHERRY_BIN") {
        return Ok(path.into());
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "wherry-cli", "--message-format=json"])
        .current_dir(&repository)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(built.status.success(), "cargo build -p wherry-cli failed");
    // Cargo says where it put the binary: the last artifact with an executable.
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    let executable = |line: &str| {
        let artifact: serde_json::Value = serde_json::from_str(line).ok()?;
        artifact["executable"].as_str().map(PathBuf::from)
    };
    said.lines().filter_map(executable).next_back().context("cargo named no executable")
}

/// A port that was free a moment ago, below those that the kernel gives to outgoing connections: a client that keeps
/// trying to reach a broker which is down would in the end be given the broker's own port, and hold it.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 20_000)?;
    for _ in 0..20_000 {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 10000 and 30000")
}

pub(crate) const PREFIX: &str = "wherry-e2e-";

/// Removes the directories of test processes that are gone: shared servers live until their process ends, so nobody
/// is left to remove theirs.
fn sweep() -> Result<()> {
    for entry in std::fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            let _ = std::fs::remove_dir_all(entry.path()); // another test process may be sweeping as well
        }
    }
    Ok(())
}

/// One broker of each chosen kind, shared by all tests of this process.
pub fn shared() -> Result<Vec<&'static Server>> {
    type Servers = BTreeMap<Kind, &'static Server>;
    static SERVERS: Mutex<Servers> = Mutex::new(BTreeMap::new());
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    if servers.is_empty() {
        sweep()?;
    }
    let mut get = |kind| match servers.get(&kind) {
        Some(server) => Ok(*server),
        None => {
            let server: &'static Server = Box::leak(Box::new(Server::start(kind, Options::default())?));
            servers.insert(kind, server);
            Ok(server)
        }
    };
    Kind::chosen().into_iter().map(&mut get).collect()
}

impl Server {
    /// Starts a broker and waits until it answers.
    pub fn start(kind: Kind, options: Options) -> Result<Server> {
        let server = Server::prepare(kind, options)?;
        server.start_again()?;
        Ok(server)
    }

    /// A broker that is still to be launched: one of several that answer only together.
    pub fn prepare(kind: Kind, options: Options) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        let data = options.data.clone().unwrap_or_else(|| dir.path().join("data"));
        let server = Server {
            kind,
            port: options.port.map_or_else(free_port, Ok)?,
            data,
            log: dir.path().join("log"),
            options,
            child: Mutex::new(None),
            _dir: dir,
        };
        if kind.is_kafka() {
            server.format_kafka()?;
        }
        Ok(server)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `127.0.0.1:PORT`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its data is.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process.
    pub fn pid(&self) -> Result<Pid> {
        self.child().as_ref().map(Pid::from_child).context("the server is not running")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of what it wrote to its output, for messages.
    pub fn last_words(&self) -> String {
        last_lines(&self.log)
    }

    /// Starts it on the data it left, and waits until it answers.
    pub fn start_again(&self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts it on the data it left; it may not answer yet.
    pub fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match self.kind {
            Kind::Kafka => self.kafka_command(),
            Kind::Wherry(io) => self.wherry_command(io)?,
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_bound(command).context("cannot start the server")?;
        *self.child() = Some(child);
        Ok(())
    }

    /// Waits until it answers a metadata request.
    pub fn await_ready(&self) -> Result<()> {
        until("the server to answer", || {
            if let Some(status) = self.child().as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the server ended with {status}:\n{}", self.last_words());
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_err() {
                return Ok(false);
            }
            let asked = kcat(&self.addr()).typed("-L -J -m 5").deadline(Duration::from_secs(20)).finish()?;
            let said: serde_json::Value = serde_json::from_str(&asked.lines.concat()).unwrap_or_default();
            Ok(said["brokers"].as_array().is_some_and(|b| !b.is_empty()))
        })
        .with_context(|| self.last_words())
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Asks it to stop (SIGTERM), and returns its exit code.
    pub fn stop(&self) -> Result<Option<i32>> {
        self.end(Signal::TERM)
    }

    fn end(&self, signal: Signal) -> Result<Option<i32>> {
        let mut held = self.child();
        let Some(child) = held.as_mut() else { return Ok(None) };
        rustix::process::kill_process(Pid::from_child(child), signal)?;
        let mut code = None;
        until("the server to end", || {
            let ended = child.try_wait()?;
            code = ended.and_then(|s| s.code());
            Ok(ended.is_some())
        })?;
        *held = None;
        Ok(code)
    }

    /// The process's resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?.as_raw_nonzero()))?;
        let field = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(field.trim().trim_end_matches(" kB").parse()?)
    }

    // The command line of `wherry node`. Everything that these tests assume of it is here.
    fn wherry_command(&self, io: Io) -> Result<Command> {
        let mut command = bound_command(&wherry()?);
        command.args(["node", "--auto-create-topics", "--group-initial-rebalance-delay", "0s"]);
        command.args(["--group-consumer-heartbeat-interval", "1s"]);
        command.args(["--listen", &self.addr(), "--data"]).arg(&self.data);
        command.args([
            "--io",
            match io {
                Io::IoUring => "io-uring",
                Io::Threads => "threads",
            },
        ]);
        command.args(&self.options.wherry_args);
        Ok(command)
    }

    fn kafka_command(&self) -> Command {
        let mut command = bound_command(Path::new("java"));
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
        command.arg(cache().join(format!("kafka-{KAFKA}/*"))).arg("kafka.Kafka").arg(self.kafka_properties());
        command
    }

    fn kafka_properties(&self) -> PathBuf {
        self.log.with_file_name("server.properties")
    }

    fn format_kafka(&self) -> Result<()> {
        let controller = free_port()?;
        let (port, data) = (self.port, self.data.display());
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\nlog.dirs={data}\nnum.partitions=1\nauto.create.topics.enable=true\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\ngroup.initial.rebalance.delay.ms=0\n\
             group.consumer.min.heartbeat.interval.ms=1000\ngroup.consumer.heartbeat.interval.ms=1000\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
             log.segment.delete.delay.ms=100\n"
        );
        std::fs::write(self.kafka_properties(), text)?;
        java(KAFKA, "kafka.tools.StorageTool")
            .typed("format -t MkU3OEVBNTcwNTJENDM2Qg -c")
            .arg(self.kafka_properties())
            .deadline(PATIENCE)
            .run()
            .map(drop)
    }
}

impl Target for Server {
    fn brokers(&self) -> String {
        self.addr()
    }

    fn place(&self, program: Program) -> Program {
        program
    }

    fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

/// The end of a log, for messages.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

// The kernel kills the server when the thread that started it ends; so one thread that lives as long as the test
// process starts them all, and no server outlives its tests, however those end.
pub(crate) fn bound_command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

pub(crate) fn spawn_bound(command: Command) -> Result<Child> {
    type Order = (Command, SyncSender<std::io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (send, orders) = sync_channel::<Order>(1);
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(send)
    });
    let (send, answer) = sync_channel(1);
    keeper.lock().unwrap_or_else(PoisonError::into_inner).send((command, send))?;
    Ok(answer.recv()??)
}
