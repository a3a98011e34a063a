//! The two steady producers seen from the one who breaks brokers: processes that are asked, over their standard input, how
//! long a partition has waited (`age`) and what the longest gaps were since the last question (`take`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Between two questions for the age.
const POLL: Duration = Duration::from_millis(20);

/// What a producer saw since it was asked last.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Seen {
    /// The longest time without an acknowledgement of each partition that it produces to, in milliseconds.
    pub gaps_ms: Vec<(i32, f64)>,
    /// Messages acknowledged.
    pub acked: u64,
    /// Batches sent again, where the producer knows.
    #[serde(default)]
    pub retried: u64,
    /// Errors that an application would see.
    pub errors: u64,
    /// Error codes of answers, where the producer knows.
    #[serde(default)]
    pub codes: BTreeMap<i16, u64>,
}

impl Seen {
    /// The longest gap of those partitions.
    pub fn longest(&self, of: impl Fn(i32) -> bool) -> f64 {
        self.gaps_ms.iter().filter(|(i, _)| of(*i)).map(|(_, gap)| *gap).fold(0.0, f64::max)
    }
}

#[derive(Deserialize)]
struct Age {
    age_ms: f64,
}

/// A running producer; killed when dropped.
#[derive(Debug)]
pub struct Producer {
    /// How it is called in tables.
    pub name: &'static str,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Producer {
    /// Starts one.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Producer> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(name)?;
        let (commands, answers) = (child.stdin.take(), child.stdout.take());
        let (commands, answers) = (commands.context("no input")?, BufReader::new(answers.context("no output")?));
        Ok(Producer { name, child, commands, answers })
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended: {}", self.name, self.child.wait()?);
        }
        Ok(line)
    }

    /// What it saw since this was asked last.
    pub fn take(&mut self) -> Result<Seen> {
        let line = self.ask("take")?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line}", self.name))
    }

    /// The longest time for which a partition has waited until now.
    pub fn age(&mut self) -> Result<Duration> {
        let line = self.ask("age")?;
        let age: Age = serde_json::from_str(&line).with_context(|| format!("{} said {line}", self.name))?;
        Ok(Duration::from_secs_f64(age.age_ms / 1000.0))
    }

    /// Waits until each partition was acknowledged in the last `calm`. False when that takes longer than `patience`.
    pub fn await_calm(&mut self, calm: Duration, patience: Duration) -> Result<bool> {
        let begin = Instant::now();
        while self.age()? > calm {
            if begin.elapsed() > patience {
                return Ok(false);
            }
            std::thread::sleep(POLL);
        }
        Ok(true)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
