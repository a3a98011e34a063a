//! Several nodes of one cluster as processes, each in a network namespace of its own where that can be had.
//! It must not know what is tested; it knows command lines, addresses, directories and signals.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::clients::{KAFKA, java, kcat};
use crate::net::Network;
use crate::process::Program;
use crate::server::{PREFIX, bound_command, free_port, last_lines, spawn_bound, wherry};
use crate::{Target, until};

/// The port of every node that has an address of its own.
const PORT: u16 = 9092;
/// The id of the clusters.
const ID: &str = "e2e";

/// Running nodes. They are killed when this is dropped, or when the test process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    voters: String,
    // Dropped after the nodes.
    network: Option<Network>,
    dir: TempDir,
}

#[derive(Debug)]
struct Node {
    id: usize,
    host: String,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    /// How it finds its cluster.
    finds: Vec<String>,
    namespace: Option<String>,
    child: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.end(Signal::KILL);
    }
}

impl Node {
    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn pid(&self) -> Result<Pid> {
        self.child.as_ref().map(Pid::from_child).with_context(|| format!("node {} is not running", self.id))
    }

    fn launch(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = match &self.namespace {
            None => bound_command(&wherry()?),
            Some(namespace) => {
                let mut command = bound_command(Path::new("ip"));
                command.args(["netns", "exec", namespace]).arg(wherry()?);
                command
            }
        };
        command.args(["node", "--group-initial-rebalance-delay", "0s", "--journal-size", "64MiB"]);
        command.args(["--cluster-id", ID, "--node-id", &self.id.to_string()]).args(&self.finds);
        command.args(["--listen", &self.address(), "--data"]).arg(&self.data);
        command.env("WHERRY_LOG", "info");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(spawn_bound(command).context("cannot start a node")?);
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<Option<i32>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        kill_process(Pid::from_child(child), signal)?;
        let mut code = None;
        until("the node to end", || {
            let ended = child.try_wait()?;
            code = ended.and_then(|s| s.code());
            Ok(ended.is_some())
        })?;
        self.child = None;
        Ok(code)
    }
}

impl Target for Cluster {
    fn brokers(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(Node::address).collect();
        addresses.join(",")
    }

    fn place(&self, program: Program) -> Program {
        program.in_namespace(self.network.as_ref().map(Network::of_clients).as_deref())
    }

    fn last_words(&self) -> String {
        let words = |node: &Node| format!("--- node {}\n{}", node.id, last_lines(&node.log));
        self.nodes.iter().map(words).collect::<Vec<_>>().join("\n")
    }
}

impl Cluster {
    /// Starts `count` voters and waits until each sees all of them.
    pub fn start(count: usize, network: Option<Network>) -> Result<Cluster> {
        let mut dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        dir.disable_cleanup(std::env::var_os("WHERRY_KEEP").is_some());
        let mut cluster = Cluster { nodes: Vec::new(), voters: String::new(), network, dir };
        for id in 0..count {
            cluster.add(id, id)?;
        }
        let voter = |node: &Node| format!("{}@{}", node.id, node.address());
        cluster.voters = cluster.nodes.iter().map(voter).collect::<Vec<_>>().join(",");
        for at in 0..count {
            cluster.nodes[at].finds = vec!["--voters".into(), cluster.voters.clone()];
            cluster.launch(at)?;
        }
        cluster.await_nodes()?;
        Ok(cluster)
    }

    /// A node at a place of the network; it does not run yet.
    fn add(&mut self, place: usize, id: usize) -> Result<()> {
        let (host, port) = match &self.network {
            Some(network) => (network.address(place), PORT),
            None => ("127.0.0.1".into(), free_port()?),
        };
        self.nodes.push(Node {
            id,
            host,
            port,
            data: self.dir.path().join(format!("node-{id}")),
            log: self.dir.path().join(format!("node-{id}.log")),
            finds: Vec::new(),
            namespace: self.network.as_ref().map(|network| network.of_node(place)),
            child: None,
        });
        Ok(())
    }

    /// Puts a node with a new id and an empty directory where node `at` was, to find the others by their addresses.
    pub fn replace(&mut self, at: usize, id: usize) -> Result<()> {
        let seeds: Vec<_> = self.nodes.iter().filter(|n| n.child.is_some()).map(Node::address).collect();
        self.add(at, id)?;
        let mut node = self.nodes.pop().context("no node")?;
        node.finds = vec!["--seeds".into(), seeds.join(",")];
        self.nodes[at] = node;
        self.launch(at)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The network, where it can be cut.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// Where a node's data is.
    pub fn data(&self, at: usize) -> &Path {
        &self.nodes[at].data
    }

    /// What a node wrote last.
    pub fn words_of(&self, at: usize) -> String {
        last_lines(&self.nodes[at].log)
    }

    /// Starts a node on whatever data it has; it may not answer yet.
    pub fn launch(&mut self, at: usize) -> Result<()> {
        self.nodes[at].launch()
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        self.nodes[at].end(Signal::KILL).map(drop)
    }

    /// Asks a node to stop (SIGTERM), and returns its exit code.
    pub fn stop(&mut self, at: usize) -> Result<Option<i32>> {
        self.nodes[at].end(Signal::TERM)
    }

    /// Waits until a node has ended by itself, and returns its exit code.
    pub fn await_end(&mut self, at: usize) -> Result<Option<i32>> {
        let node = &mut self.nodes[at];
        let child = node.child.as_mut().context("it does not run")?;
        let mut code = None;
        until("the node to end by itself", || {
            let ended = child.try_wait()?;
            code = ended.and_then(|s| s.code());
            Ok(ended.is_some())
        })?;
        node.child = None;
        Ok(code)
    }

    /// Asks all nodes to stop at once.
    pub fn stop_all(&mut self) -> Result<()> {
        for node in &self.nodes {
            if let Ok(pid) = node.pid() {
                kill_process(pid, Signal::TERM)?;
            }
        }
        self.nodes.iter_mut().try_for_each(|node| node.end(Signal::TERM).map(drop))
    }

    /// Holds a node's process (SIGSTOP), or lets it go on (SIGCONT).
    pub fn hold(&self, at: usize, held: bool) -> Result<()> {
        Ok(kill_process(self.nodes[at].pid()?, if held { Signal::STOP } else { Signal::CONT })?)
    }

    fn check_running(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("node {} ended with {status}:\n{}", node.id, last_lines(&node.log));
            }
        }
        Ok(())
    }

    /// What a node says of the cluster; null where it does not answer.
    fn view(&self, at: usize) -> Result<Value> {
        let asked = kcat(&self.nodes[at].address()).typed("-L -J -m 3").deadline(Duration::from_secs(20));
        let said = self.place(asked).finish()?;
        Ok(serde_json::from_str(&said.lines.concat()).unwrap_or_default())
    }

    /// Waits until each running node sees all of those.
    pub fn await_nodes(&mut self) -> Result<()> {
        self.await_view("every node to see all", |view, running| {
            view["brokers"].as_array().map_or(0, Vec::len) == running
        })
    }

    /// Waits until each running node says that every partition has a leader and all its replicas in sync.
    pub fn await_in_sync(&mut self) -> Result<()> {
        self.await_view("all replicas to be in sync", |view, running| {
            view["brokers"].as_array().map_or(0, Vec::len) == running && partitions(view).all(is_whole)
        })
    }

    fn await_view(&mut self, what: &str, good: impl Fn(&Value, usize) -> bool) -> Result<()> {
        let running: Vec<usize> = (0..self.len()).filter(|at| self.nodes[*at].child.is_some()).collect();
        let mut last = Value::Null;
        let outcome = until(what, || {
            self.check_running()?;
            for at in &running {
                last = self.view(*at)?;
                if !good(&last, running.len()) {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        outcome.with_context(|| format!("last seen: {last}\n{}", self.last_words()))
    }

    /// The node that leads the metadata quorum, as place among the nodes.
    pub fn controller(&self) -> Result<usize> {
        let running = (0..self.len()).find(|at| self.nodes[*at].child.is_some()).context("no node runs")?;
        let view = self.view(running)?;
        self.place_of(&view["controllerid"]).context("nobody leads the quorum")
    }

    /// The node that leads a partition, as place among the nodes.
    pub fn leader(&self, topic: &str, partition: usize) -> Result<usize> {
        self.place_of(&self.partition(topic, partition)?["leader"]).context("nobody leads it")
    }

    fn place_of(&self, id: &Value) -> Option<usize> {
        self.nodes.iter().position(|node| *id == node.id)
    }

    /// Makes a topic with three replicas, two of them for each acknowledgement.
    pub fn create(&self, topic: &str, partitions: usize) -> Result<()> {
        let set = format!(
            "--bootstrap-server {} --create --topic {topic} --partitions {partitions} --replication-factor 3 \
             --config min.insync.replicas=2",
            self.brokers()
        );
        self.place(java(KAFKA, "org.apache.kafka.tools.TopicCommand").typed(&set)).run().map(drop)
    }

    /// What the files of a node that is stopped hold, by topic id and partition: bounds and checksum; all must be sound.
    pub fn inspect(&self, at: usize) -> Result<Vec<Value>> {
        ensure!(self.nodes[at].child.is_none(), "node {at} still runs");
        let read = Program::new(wherry()?).typed("log inspect --verify --output json").arg(&self.nodes[at].data);
        let said = read.run()?.join("\n");
        let report: Value = serde_json::from_str(&said)?;
        ensure!(report["problems"] == serde_json::json!([]), "node {at}: {}", report["problems"]);
        Ok(report["logs"].as_array().cloned().unwrap_or_default())
    }

    /// Of those, the logs of the topic with so many partitions: names are not in the files, so no other may have as many.
    pub fn logs_of(&self, at: usize, partitions: usize) -> Result<Vec<Value>> {
        let all = self.inspect(at)?;
        let is_of = |log: &Value| all.iter().filter(|l| l["topic_id"] == log["topic_id"]).count() == partitions;
        Ok(all.iter().filter(|log| is_of(log)).cloned().collect())
    }

    /// The nodes that have a partition, as places among the nodes, the preferred leader first.
    pub fn replicas(&self, topic: &str, partition: usize) -> Result<Vec<usize>> {
        let found = self.partition(topic, partition)?;
        // What kcat lists is in the order of the metadata.
        let ids = found["replicas"].as_array().into_iter().flatten();
        ids.map(|replica| self.place_of(&replica["id"]).context("a replica nowhere")).collect()
    }

    fn partition(&self, topic: &str, partition: usize) -> Result<Value> {
        let running = (0..self.len()).find(|at| self.nodes[*at].child.is_some()).context("no node runs")?;
        let view = self.view(running)?;
        let found = topics(&view).find(|t| t["topic"] == topic).context("no such topic")?;
        let found = found["partitions"].as_array().into_iter().flatten().find(|p| p["partition"] == partition);
        found.cloned().context("no such partition")
    }

    /// Waits until a node leads a partition.
    pub fn await_leader(&self, topic: &str, partition: usize, at: usize) -> Result<()> {
        until("a node to lead", || Ok(self.leader(topic, partition).is_ok_and(|leader| leader == at)))
    }

    /// Stops all nodes and compares what they hold of the topic's partitions: the same, to the byte.
    pub fn check_equal(&mut self, topic: &str) -> Result<()> {
        let at = (0..self.len()).find(|at| self.nodes[*at].child.is_some()).context("no node runs")?;
        let view = self.view(at)?;
        let known = topics(&view).find(|t| t["topic"] == topic).context("no such topic")?;
        let count = known["partitions"].as_array().map_or(0, Vec::len);
        self.stop_all()?;
        let logs: Vec<Vec<Value>> = (0..self.len()).map(|at| self.logs_of(at, count)).collect::<Result<_>>()?;
        let of = |log: &Value| (log["topic_id"].to_string(), log["partition"].to_string());
        let mut compared = 0;
        for log in &logs[0] {
            for (at, other) in logs.iter().enumerate().skip(1) {
                let other =
                    other.iter().find(|l| of(l) == of(log)).with_context(|| format!("node {at} lacks {log}"))?;
                ensure!(log["digest"].is_number(), "no checksum in {log}");
                for field in ["log_start", "log_end", "stable_end", "digest", "epochs"] {
                    let (a, b) = (&log[field], &other[field]);
                    ensure!(a == b, "{:?}: {field} is {a} on node 0, {b} on node {at}", of(log));
                }
            }
            compared += 1;
        }
        ensure!(compared == count, "compared {compared} of {count} partitions");
        Ok(())
    }
}

fn topics(view: &Value) -> impl Iterator<Item = &Value> {
    view["topics"].as_array().into_iter().flatten()
}

fn partitions(view: &Value) -> impl Iterator<Item = &Value> {
    topics(view).flat_map(|topic| topic["partitions"].as_array().into_iter().flatten())
}

fn is_whole(partition: &Value) -> bool {
    let count = |field: &str| partition[field].as_array().map_or(0, Vec::len);
    partition["leader"].as_i64().is_some_and(|leader| leader >= 0) && count("isrs") == count("replicas")
}
