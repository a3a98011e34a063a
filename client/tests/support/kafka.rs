//! Apache Kafka as the oracle: one KRaft broker as a child process, in a temporary directory, on free ports.
//!
//! The broker's life hangs on a pipe that this process holds: when the process ends, however it ends, the pipe closes and
//! the broker is killed. Without Java or Kafka's jars every test fails, unless `WHERRY_SKIP_KAFKA=1` says that this is known.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const VERSION: &str = "4.3.1";

/// A broker of its own, for tests that kill it.
pub struct Kafka {
    jars: PathBuf,
    dir: TempDir,
    port: u16,
    /// A second listener; its advertised address is that of a proxy which the test may put in front of it.
    behind_proxy: u16,
    proxy: u16,
    running: Mutex<Option<(Child, ChildStdin)>>,
}

/// Whether the tests are to be skipped, said aloud.
pub fn skip() -> bool {
    let skip = std::env::var("WHERRY_SKIP_KAFKA").is_ok_and(|v| v == "1");
    if skip {
        eprintln!("SKIPPED: WHERRY_SKIP_KAFKA=1, so nothing here was tested against Apache Kafka");
    }
    skip
}

/// The address of the broker that all tests of this binary share: `WHERRY_CLIENT_TARGET` if that names one, else Kafka.
pub fn shared() -> Option<String> {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    if let Ok(address) = std::env::var("WHERRY_CLIENT_TARGET") {
        return Some(address);
    }
    (!skip()).then(|| SHARED.get_or_init(Kafka::start).address())
}

fn jars() -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    let ours = std::env::var("WHERRY_CACHE").unwrap_or_else(|_| format!("{cache}/wherry"));
    let candidates = [format!("{ours}/kafka-{VERSION}"), format!("{cache}/wherry-peers/lib/kafka")];
    if let Some(found) = candidates.iter().find(|dir| has_jars(Path::new(dir))) {
        return found.into();
    }
    fetch(Path::new(&candidates[0]));
    candidates[0].clone().into()
}

fn has_jars(dir: &Path) -> bool {
    let named = |name: &str| {
        let Ok(files) = std::fs::read_dir(dir) else { return false };
        files.flatten().any(|f| f.file_name().to_string_lossy().starts_with(name))
    };
    named("kafka_2.13-") && named("kafka-clients-") && named("kafka-server-")
}

/// From Maven, into the cache, whole or not at all.
fn fetch(to: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>wherry</groupId><artifactId>kafka</artifactId><version>1</version><dependencies>\
         <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>\
         <version>{VERSION}</version></dependency></dependencies></project>"
    );
    std::fs::write(dir.path().join("pom.xml"), pom).unwrap();
    let parent = to.parent().unwrap();
    std::fs::create_dir_all(parent).unwrap();
    let partial = tempfile::tempdir_in(parent).unwrap();
    let output = format!("-DoutputDirectory={}", partial.path().display());
    let status = Command::new("mvn")
        .args(["-B", "-q", "dependency:copy-dependencies", "-DincludeScope=runtime", &output])
        .current_dir(dir.path())
        .status();
    let fetched = status.is_ok_and(|s| s.success()) && has_jars(partial.path());
    assert!(
        fetched,
        "Apache Kafka {VERSION} is neither in {} nor to be had from Maven (is `mvn` there?). These tests need it as their \
         oracle; WHERRY_SKIP_KAFKA=1 skips them knowingly.",
        to.display()
    );
    // Another test binary may have been faster; then its copy is as good.
    if std::fs::rename(partial.path(), to).is_ok() {
        let _ = partial.keep();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Kafka {
    /// Formats a data directory and starts a broker on it.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With these lines in its properties besides.
    pub fn start_with(extra: &str) -> Self {
        let kafka = Self {
            jars: jars(),
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            behind_proxy: free_port(),
            proxy: free_port(),
            running: Mutex::default(),
        };
        kafka.write_properties(extra);
        kafka.format();
        kafka.restart();
        kafka
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where a proxy must listen, and where it forwards to.
    pub fn proxied(&self) -> (u16, u16) {
        (self.proxy, self.behind_proxy)
    }

    fn properties(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn write_properties(&self, extra: &str) {
        let (port, controller, behind, proxy) = (self.port, free_port(), self.behind_proxy, self.proxy);
        let data = self.dir.path().join("data");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\nlog.dirs={}\nnum.network.threads=2\nnum.io.threads=4\n\
             num.partitions=1\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=2\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ntransaction.state.log.num.partitions=2\n\
             group.initial.rebalance.delay.ms=100\ngroup.min.session.timeout.ms=1000\nlog.cleaner.enable=false\n{extra}\n",
            data.display()
        );
        std::fs::write(self.properties(), text).unwrap();
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"]);
        java.arg("-cp").arg(format!("{}/*", self.jars.display()));
        java
    }

    fn format(&self) {
        let id = uuid_like();
        let mut java = self.java();
        java.args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"]).arg(self.properties());
        let output = java.output().expect("java must be installed: Apache Kafka is the oracle of these tests");
        assert!(output.status.success(), "format failed: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts it again on the data it has, after [`Kafka::kill`]; waits until it accepts connections.
    pub fn restart(&self) {
        let java = self.java();
        let log = self.dir.path().join("log");
        // The shell kills the broker when its own input, a pipe held by this process, is closed.
        let script = format!(
            "java {} kafka.Kafka '{}' >>'{}' 2>&1 </dev/null & p=$!; echo $p; cat >/dev/null; kill -9 $p; wait $p",
            java.get_args().map(|a| format!("'{}'", a.to_string_lossy())).collect::<Vec<_>>().join(" "),
            self.properties().display(),
            log.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut pid = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pipe = child.stdin.take().unwrap();
        *self.running.lock().unwrap() = Some((child, pipe));
        self.await_port();
    }

    fn await_port(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Kafka did not start:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&self) {
        if let Some((mut child, pipe)) = self.running.lock().unwrap().take() {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A cluster id: 16 bytes in URL-safe base64, here of plain letters.
fn uuid_like() -> String {
    format!("wherry{:016}", std::process::id()).chars().take(22).collect()
}
