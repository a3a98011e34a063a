//! Programs run with a deadline, their output kept. It must not know what the programs are.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// Lines of output held for a test that is not reading; beyond it the program waits on its pipe.
const LINES_HELD: usize = 4096;

/// A program about to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Vec<u8>,
    deadline: Duration,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, by line.
    pub lines: Vec<String>,
    /// Its standard error.
    pub errors: String,
}

impl Program {
    /// A program by name or path.
    pub fn new(program: impl AsRef<std::ffi::OsStr>) -> Program {
        Program { command: Command::new(program), input: Vec::new(), deadline: PATIENCE }
    }

    /// Adds arguments, split at white space: a line as one would type it.
    pub fn typed(mut self, line: &str) -> Program {
        self.command.args(line.split_whitespace());
        self
    }

    /// Adds one argument as it is.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Program {
        self.command.arg(arg);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Program {
        self.command.env(key, value);
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.input = bytes.into();
        self
    }

    /// Runs it in this network namespace; call it last.
    pub fn in_namespace(mut self, namespace: Option<&str>) -> Program {
        let Some(namespace) = namespace else { return self };
        let mut outer = Command::new("ip");
        outer.args(["netns", "exec", namespace]).arg(self.command.get_program()).args(self.command.get_args());
        outer.envs(self.command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        self.command = outer;
        self
    }

    /// How long it may run, instead of [`PATIENCE`].
    pub fn deadline(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    /// Starts it, to be read while it runs.
    pub fn start(mut self) -> Result<Running> {
        let name = format!("{:?}", self.command);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}; has tests/e2e/setup.sh been run?"))?;
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{name} has no pipes");
        };
        let input = self.input;
        std::thread::spawn(move || stdin.write_all(&input)); // a program that does not read its input is no fault
        let (send, lines) = sync_channel(LINES_HELD);
        std::thread::spawn(move || forward(stdout, &send));
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Running { name, child, lines, errors: Some(errors), end: Instant::now() + self.deadline })
    }

    /// Runs it to its end, however it ends, within its deadline.
    pub fn finish(self) -> Result<Finished> {
        self.start()?.finish()
    }

    /// Runs it to its end; an exit status other than 0 is an error that shows its output.
    pub fn run(self) -> Result<Vec<String>> {
        self.start()?.rest()
    }
}

fn forward(stdout: impl Read, send: &SyncSender<String>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        while line.last().is_some_and(|b| *b == b'\n') {
            line.pop();
        }
        if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    end: Instant,
}

impl Running {
    /// The next line of standard output; `None` at its end.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(self.end.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let errors = self.end_now();
                bail!("{} did not finish in time; its last words: {errors}", self.name)
            }
        }
    }

    /// The next line, which must exist.
    pub fn line(&mut self) -> Result<String> {
        match self.next_line()? {
            Some(line) => Ok(line),
            None => {
                let errors = self.end_now();
                bail!("{} ended early: {errors}", self.name)
            }
        }
    }

    /// All lines to come, and how it ended.
    pub fn finish(mut self) -> Result<Finished> {
        let mut lines = Vec::new();
        while let Some(line) = self.next_line()? {
            lines.push(line);
        }
        while self.child.try_wait()?.is_none() {
            if Instant::now() > self.end {
                let errors = self.end_now();
                bail!("{} closed its output but did not end: {errors}", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let errors = self.errors.take().and_then(|t| t.join().ok()).unwrap_or_default();
        Ok(Finished { status: self.child.wait()?, lines, errors })
    }

    /// All lines to come; it must end with status 0.
    pub fn rest(self) -> Result<Vec<String>> {
        let name = self.name.clone();
        let done = self.finish()?;
        if !done.status.success() {
            let tail = done.lines.len().saturating_sub(10);
            bail!("{name}: {}\n{}\n{}", done.status, done.errors, done.lines[tail..].join("\n"));
        }
        Ok(done.lines)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    fn end_now(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.errors.take().and_then(|t| t.join().ok()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.errors.is_some() {
            self.end_now();
        }
    }
}
