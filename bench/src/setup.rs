//! Where things are and how often to measure: the settings that every figure shares.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::broker::Kind;

/// The version of Apache Kafka that tests/e2e/setup.sh fetches.
pub const KAFKA: &str = "4.3.1";

/// Settings of a run of benchmarks.
#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// Runs of each case and broker, interleaved; the median counts.
    #[arg(long, default_value_t = 5, global = true)]
    pub runs: usize,
    /// Seconds of load in each run.
    #[arg(long, default_value_t = 10.0, global = true)]
    pub secs: f64,
    /// What to measure.
    #[arg(long, value_delimiter = ',', default_value = "kafka,wherry,null", global = true)]
    pub targets: Vec<Kind>,
    /// Brokers keep their data here. It must be a real disk; what is in it is removed.
    #[arg(long, default_value = "target/bench-data", global = true)]
    pub data: PathBuf,
    /// Results are written here.
    #[arg(long, default_value = "target/bench-results", global = true)]
    pub out: PathBuf,
    /// A release build of `wherry`; without it, it is built.
    #[arg(long, env = "WHERRY_BIN", global = true)]
    pub wherry_bin: Option<PathBuf>,
    /// One more argument for `wherry node` (repeat it for more).
    #[arg(long = "wherry-arg", allow_hyphen_values = true, global = true)]
    pub wherry_args: Vec<String>,
    /// Kafka's heap.
    #[arg(long, default_value = "1g", global = true)]
    pub kafka_heap: String,
    /// Where tests/e2e/setup.sh keeps Kafka and the load client.
    #[arg(long, env = "WHERRY_CACHE", global = true)]
    pub cache: Option<PathBuf>,
    /// Seconds to let the machine settle (after a sync) before each run.
    #[arg(long, default_value_t = 1.0, global = true)]
    pub settle: f64,
    /// How often a node of a cluster is killed (Kafka: see below); it is paused and stopped a fifth as often.
    #[arg(long, default_value_t = 50, global = true)]
    pub kills: usize,
    /// How often a broker of Kafka's cluster is killed, paused, stopped.
    #[arg(long, default_value_t = 3, global = true)]
    pub kafka_kills: usize,
    /// Partitions of the topic that is produced to while a node is killed.
    #[arg(long, default_value_t = 1000, global = true)]
    pub failover_partitions: usize,
    /// Milliseconds between two messages to each of them: gaps are no finer than that.
    #[arg(long, default_value_t = 100, global = true)]
    pub steady_ms: u64,
    /// Partitions of the cases with many of them.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000", global = true)]
    pub many: Vec<usize>,
}

impl Setup {
    fn cache(&self) -> PathBuf {
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/wherry");
        self.cache.clone().unwrap_or_else(home)
    }

    /// Fetches what is missing, makes paths absolute, builds what is measured.
    pub fn prepare(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.data)?;
        std::fs::create_dir_all(&self.out)?;
        self.data = self.data.canonicalize()?;
        self.out = self.out.canonicalize()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/setup.sh");
        let done = Command::new(script).args(["packages", "kafka", "bench"]).status()?;
        ensure!(done.success(), "tests/e2e/setup.sh failed");
        if self.targets.contains(&Kind::Wherry) && self.wherry_bin.is_none() {
            self.wherry_bin = Some(build_wherry()?);
        }
        Ok(())
    }

    /// Kafka's class path.
    pub fn kafka_jars(&self) -> PathBuf {
        self.cache().join(format!("kafka-{KAFKA}/*"))
    }

    /// The binary under test.
    pub fn wherry(&self) -> Result<&Path> {
        self.wherry_bin.as_deref().context("no wherry binary: pass --wherry-bin")
    }

    /// The librdkafka load client in one of its modes.
    pub fn load(&self, mode: &str) -> Command {
        let mut command = Command::new(self.cache().join("bin/wherry-load"));
        command.arg(mode);
        command
    }

    /// One of Kafka's own tools.
    pub fn java(&self, class: &str) -> Command {
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"]);
        command.arg(self.kafka_jars()).arg(class);
        command
    }

    /// The kinds that this run measures, in the order of the interleaving.
    pub fn kinds(&self, among: &[Kind]) -> Vec<Kind> {
        among.iter().copied().filter(|k| self.targets.contains(k)).collect()
    }
}

fn build_wherry() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "wherry-cli", "--message-format=json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(built.status.success(), "cargo build --release -p wherry-cli failed");
    let said = String::from_utf8_lossy(&built.stdout).into_owned();
    let executable = |line: &str| {
        let artifact: serde_json::Value = serde_json::from_str(line).ok()?;
        artifact["executable"].as_str().map(PathBuf::from)
    };
    said.lines().filter_map(executable).next_back().context("cargo named no executable")
}
