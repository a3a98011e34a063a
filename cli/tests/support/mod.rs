//! Runs the binary: short commands to their end, `up` in the background on free ports.

#![allow(dead_code, reason = "each test binary uses what it needs")]
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failed test")]
#![allow(unreachable_pub, reason = "a module of several test binaries")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub ok: bool,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A running `wherry up`; killed when dropped.
#[derive(Debug)]
pub struct Up {
    child: Child,
    pub node: String,
    pub sidecar: String,
    /// Metrics and probes of the node.
    pub probes: String,
}

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");

/// The binary, without what the environment may say.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wherry"));
    command.env_remove("WHERRY_BOOTSTRAP").env_remove("WHERRY_LOG").env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command
}

impl Up {
    pub fn start(data: &Path, quickstart: bool) -> Self {
        Self::spawn(data, quickstart.then_some(Path::new(QUICKSTART)), &[])
    }

    pub fn with_file(data: &Path, file: &Path) -> Self {
        Self::spawn(data, Some(file), &[])
    }

    pub fn with_environment(data: &Path, environment: &[(&str, &str)]) -> Self {
        Self::spawn(data, None, environment)
    }

    fn spawn(data: &Path, file: Option<&Path>, environment: &[(&str, &str)]) -> Self {
        let mut command = binary();
        command.envs(environment.iter().copied());
        command.args(["up", "--output", "json", "--port", "0", "--sidecar-port", "0", "--probes", "127.0.0.1:0"]);
        command.arg("--data").arg(data);
        if let Some(file) = file {
            command.arg("-f").arg(file);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        let (node, sidecar) = (said(), said());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self { child, node: text(&node["address"]), sidecar: text(&sidecar["address"]), probes: text(&node["probes"]) }
    }

    /// SIGTERM, and a good end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command against a running cluster.
pub fn wherry(up: &Up, arguments: &[&str], input: &str) -> Done {
    let mut command = binary();
    command.args(arguments);
    let asks_a_cluster = arguments.first().is_none_or(|first| *first != "log");
    if asks_a_cluster && !arguments.contains(&"--bootstrap") {
        command.args(["--bootstrap", &up.node]);
    }
    finish(command, input)
}

/// Runs a command that needs no cluster.
pub fn alone(arguments: &[&str]) -> Done {
    let mut command = binary();
    command.args(arguments);
    finish(command, "")
}

fn finish(mut command: Command, input: &str) -> Done {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads no input may be gone before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Done {
        ok: output.status.success(),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a command answered.
pub fn json(done: &Done) -> Value {
    assert!(done.ok, "{done:?}");
    serde_json::from_str(&done.stdout).unwrap()
}

/// Sends a request that closes its connection; the whole answer.
pub fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
