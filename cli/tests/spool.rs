//! The spool with real processes: the node and the sidecar are killed at bad times, and nothing is lost or out of order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they expect by failing")]

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{binary, http};

/// Longest that anything here may take.
const SOON: Duration = Duration::from_secs(60);

/// A role in a process of its own, in a network of its own ports; killed when dropped.
struct Role {
    child: Child,
    address: String,
}

impl Role {
    fn start(arguments: &[&str]) -> Self {
        let mut command = binary();
        command.args(arguments).args(["--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let line = BufReader::new(child.stdout.take().unwrap()).lines().next().expect("it starts").unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        Self { child, address: said["address"].as_str().unwrap().to_owned() }
    }

    fn node(data: &Path, address: &str) -> Self {
        Self::start(&["node", "--data", data.to_str().unwrap(), "--listen", address])
    }

    fn sidecar(node: &str, spool: &Path) -> Self {
        let spool = spool.to_str().unwrap();
        let own = ["--spool-dir", spool, "--spool-bytes", "64MiB", "--spool-after", "300ms"];
        Self::start(&[&["sidecar", "--listen", "127.0.0.1:0", "--bootstrap", node][..], &own].concat())
    }

    /// `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and a good end.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = http(&self.address, &request);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 200 ") || head.contains(" 201 "), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
    }

    /// How far each of these messages got.
    fn publish(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        numbers
            .map(|number| {
                let answer = self.ask("POST", "/v1/topics/orders/messages?key=k", &number.to_string());
                answer["status"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn waiting(&self) -> i64 {
        self.ask("GET", "/v1/status", "")["spool"]["messages"].as_i64().unwrap()
    }

    /// The cluster is gone, and the sidecar has noticed. What is published before that may be written to a connection at whose other
    /// end nobody is: nobody knows what became of it, so it waits for the cluster and is not spooled.
    fn until_alone(&self) {
        let since = Instant::now();
        while self.ask("GET", "/v1/status", "")["cluster"]["reachable"] != false {
            assert!(since.elapsed() < SOON, "it never noticed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn until_forwarded(&self) {
        let since = Instant::now();
        while self.waiting() > 0 {
            assert!(since.elapsed() < SOON, "{}", self.ask("GET", "/v1/status", ""));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn everything(node: &str) -> Vec<usize> {
    let mut command = binary();
    command.args(["consume", "orders", "--from", "earliest", "--until-end", "--bootstrap", node]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

fn all(statuses: &[String], status: &str) -> bool {
    statuses.iter().all(|known| known == status)
}

#[test]
fn a_killed_cluster_and_a_killed_sidecar_lose_and_repeat_nothing() {
    let (data, spool, address) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), free_address());
    let node = Role::node(data.path(), &address);
    let sidecar = Role::sidecar(&address, spool.path());
    sidecar.ask("PUT", "/v1/topics/orders", "{\"partitions\": 2}");
    assert!(all(&sidecar.publish(0..20), "committed"));
    node.kill();
    sidecar.until_alone();
    assert!(all(&sidecar.publish(20..60), "spooled"));
    assert_eq!(sidecar.waiting(), 40);
    sidecar.kill();
    // It starts, and takes messages, without a cluster.
    let sidecar = Role::sidecar(&address, spool.path());
    assert!(all(&sidecar.publish(60..80), "spooled"));
    let status = sidecar.ask("GET", "/v1/status", "");
    assert_eq!(status["cluster"]["reachable"], false, "{status}");
    let node = Role::node(data.path(), &address);
    sidecar.until_forwarded();
    assert_eq!(everything(&node.address), (0..80).collect::<Vec<_>>());
    let since = Instant::now();
    while !all(&sidecar.publish(80..81), "committed") {
        assert!(since.elapsed() < SOON, "messages go to the cluster again");
    }
    sidecar.stop();
}

#[test]
fn a_sidecar_killed_while_it_forwards_loses_nothing() {
    const MESSAGES: usize = 5_000;
    let (data, spool, address) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), free_address());
    let node = Role::node(data.path(), &address);
    let mut sidecar = Role::sidecar(&address, spool.path());
    sidecar.ask("PUT", "/v1/topics/orders", "");
    node.kill();
    sidecar.until_alone();
    let messages: Vec<Value> =
        (0..MESSAGES).map(|n| serde_json::json!({"key": "k", "payload": n.to_string()})).collect();
    for part in messages.chunks(1000) {
        let answer = sidecar.ask("POST", "/v1/topics/orders/messages?batch=true", &serde_json::json!(part).to_string());
        let results = answer["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["status"] == "spooled"), "{answer}");
    }
    let node = Role::node(data.path(), &address);
    let mut kills = 0;
    loop {
        let before = sidecar.waiting();
        if before == 0 {
            break;
        }
        if kills < 3 && before < i64::try_from(MESSAGES).unwrap() {
            kills += 1;
            sidecar.kill();
            sidecar = Role::sidecar(&address, spool.path());
        }
    }
    let mut found = everything(&node.address);
    // What was forwarded and not noted before a kill is there again, behind: so each begins in order.
    let mut first = Vec::new();
    for number in &found {
        if first.last().is_none_or(|last| number > last) {
            first.push(*number);
        }
    }
    assert_eq!(first, (0..MESSAGES).collect::<Vec<_>>());
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), MESSAGES);
}

#[test]
fn what_the_cluster_refuses_is_told_by_status() {
    let (data, spool, address) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), free_address());
    let sidecar = Role::sidecar(&address, spool.path());
    // Nobody can say yet that there is no such topic.
    assert!(all(&sidecar.publish(0..3), "spooled"));
    let _node = Role::node(data.path(), &address);
    sidecar.until_forwarded();
    let mut command = binary();
    command.args(["sidecar", "status", "--address", &sidecar.address]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("3 messages; the last for orders:"), "{text}");
    assert!(text.contains("does not exist") && text.contains("reachable"), "{text}");
}

#[test]
fn a_drained_sidecar_says_so() {
    let (data, spool, address) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), free_address());
    let _node = Role::node(data.path(), &address);
    let sidecar = Role::sidecar(&address, spool.path());
    sidecar.ask("PUT", "/v1/topics/orders", "");
    let mut command = binary();
    // As it is in a pod, where the environment speaks to the sidecar's own command.
    command.env("WHERRY_BOOTSTRAP", &address).env("WHERRY_SPOOL_DIR", "/nowhere");
    command.args(["sidecar", "drain", "--timeout", "5s", "--address", &sidecar.address]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("drained in"));
    assert_eq!(sidecar.ask("GET", "/v1/status", "")["phase"], "draining");
    assert!(!sidecar.publish(0..1).is_empty(), "publishing goes on");
}
