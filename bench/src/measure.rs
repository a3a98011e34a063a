//! One measured run: a client process against a broker, with the CPU of both sides, and where samples are kept.
//! It must not know which figure a sample belongs to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::broker::{Broker, Usage, children_cpu_s, machine_cpu_s};
use crate::setup::Setup;

/// Named measurements of one run; names end in their unit.
pub type Numbers = BTreeMap<String, f64>;

/// One run of one case against one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// The figure, such as `produce`.
    pub figure: String,
    /// The case within it, such as `1 KiB, 12 partitions`.
    pub case: String,
    /// Who was measured.
    pub contender: String,
    /// Which of the interleaved runs.
    pub run: usize,
    /// What came out.
    pub numbers: Numbers,
}

/// Samples so far; each is also appended to `results.jsonl` as it comes.
#[derive(Debug)]
pub struct Samples {
    file: File,
    /// All of this process.
    pub all: Vec<Sample>,
}

impl Samples {
    /// Opens `results.jsonl` in the output folder.
    pub fn open(setup: &Setup) -> Result<Samples> {
        let path = setup.out.join("results.jsonl");
        Ok(Samples { file: File::options().create(true).append(true).open(path)?, all: Vec::new() })
    }

    /// Keeps a sample and says it.
    pub fn add(&mut self, sample: Sample) -> Result<()> {
        let mut line = serde_json::to_string(&sample)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        let numbers: Vec<String> = sample.numbers.iter().map(|(k, v)| format!("{k} {}", short(*v))).collect();
        let (figure, case, who) = (&sample.figure, &sample.case, &sample.contender);
        say(&format!("{figure} | {case} | {who} | run {} | {}", sample.run, numbers.join(", ")));
        self.all.push(sample);
        Ok(())
    }
}

/// Progress, for the person who waits.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A number with about three digits.
pub fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 10_000.0 => format!("{:.0}k", v / 1000.0),
        a if a >= 100.0 => format!("{v:.0}"),
        a if a >= 10.0 => format!("{v:.1}"),
        _ => format!("{v:.2}"),
    }
}

/// Writes out what earlier runs left in the page cache, and waits a moment.
pub fn settle(setup: &Setup) {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_secs_f64(setup.settle));
}

/// Runs a client to its end; it must succeed.
pub fn client(command: &mut Command) -> Result<Output> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| name.clone())?;
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name}: {}\n{}", output.status, said());
    Ok(output)
}

/// Runs the load client and returns the line of JSON that it prints.
pub fn load(command: &mut Command) -> Result<Value> {
    let output = client(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().rev().find(|l| l.starts_with('{')).context("the load client printed no result")?;
    Ok(serde_json::from_str(line)?)
}

/// Runs `work` (which runs one client process) against a broker, and charges CPU to both sides.
/// `work` returns the number of messages and its own numbers.
pub fn charged(broker: &Broker, work: impl FnOnce() -> Result<(f64, Numbers)>) -> Result<Numbers> {
    charged_to(|| broker.usage(), work)
}

/// The same against anything that can be asked for what it used.
pub fn charged_to(usage: impl Fn() -> Result<Usage>, work: impl FnOnce() -> Result<(f64, Numbers)>) -> Result<Numbers> {
    let (before, client_before, machine_before) = (usage()?, children_cpu_s()?, machine_cpu_s()?);
    let begin = Instant::now();
    let (messages, mut numbers) = work()?;
    let wall = begin.elapsed().as_secs_f64();
    let (after, client_after, machine_after) = (usage()?, children_cpu_s()?, machine_cpu_s()?);
    let (broker_s, client_s) = (after.cpu_s - before.cpu_s, client_after - client_before);
    let others = (machine_after - machine_before - broker_s - client_s).max(0.0);
    let mut put = |name: &str, value: f64| numbers.insert(name.into(), value);
    put("broker_us", broker_s * 1e6 / messages.max(1.0));
    put("client_us", client_s * 1e6 / messages.max(1.0));
    put("broker_cores", broker_s / wall);
    put("client_cores", client_s / wall);
    put("other_cores", others / wall); // kernel threads and strangers: much of it makes the run worthless
    put("rss_mib", after.rss_kib as f64 / 1024.0);
    put("fds", after.fds as f64);
    Ok(numbers)
}

/// The numbers that the load client reports, by the names used here.
pub fn of_load(result: &Value) -> Result<(f64, Numbers)> {
    let mut numbers = Numbers::new();
    let messages = result["msgs"].as_f64().context("no count")?;
    for (name, from) in [("rate", "rate"), ("mb_s", "mb_s")] {
        if let Some(v) = result[from].as_f64() {
            numbers.insert(name.into(), v);
        }
    }
    for (name, from) in [("ack", "ack_us"), ("e2e", "e2e_us")] {
        for q in ["p50", "p99", "p999"] {
            if let Some(v) = result[from][q].as_f64() {
                numbers.insert(format!("{name}_{q}_us"), v);
            }
        }
    }
    Ok((messages, numbers))
}

/// Quantiles of a histogram of nanoseconds, in microseconds.
pub fn of_histogram(prefix: &str, histogram: &Histogram<u64>) -> Numbers {
    let at = |name: &str, q: f64| (format!("{prefix}_{name}_us"), histogram.value_at_quantile(q) as f64 / 1000.0);
    [at("p50", 0.5), at("p99", 0.99), at("p999", 0.999)].into()
}

/// Drops the page cache. Needs root.
pub fn drop_page_cache() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")
}
