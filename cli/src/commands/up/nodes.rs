//! The nodes of `wherry up`: one, or several in this process that find each other on localhost.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wherry_node::NodeConfig;
use wherry_node::config::{ClusterConfig, EngineOptions, IoDriver, Voter};
use wherry_operator::crd::{Cluster, IoEngine};

use super::UpArgs;
use crate::exit;
use crate::roles::node::RunningNode;
use crate::roles::{free_ports, ports_from};

/// Port of the first node when nobody says.
const NODE_PORT: u16 = 9092;
/// How often the nodes are asked whether they still run.
const LOOK: Duration = Duration::from_millis(200);
/// Where the ports of several nodes are written.
const PORTS_FILE: &str = "ports";
/// Its lock tells that a directory is that of a node.
const LOCK_FILE: &str = "LOCK";

/// The nodes, by id.
#[derive(Debug)]
pub(super) struct Nodes(Vec<RunningNode>);

impl Nodes {
    /// Starts as many as the Cluster wants; returns when they listen.
    pub(super) async fn start(args: &UpArgs, cluster: &Cluster) -> Result<Self> {
        let count = usize::try_from(cluster.spec.replicas)?;
        check_directory(&args.data, count)?;
        let ports = lasting_ports(&args.data, args.port.or(cluster.port()).unwrap_or(NODE_PORT), count)?;
        let probes = ports_of_probes(args.probes, count)?;
        let mut nodes = Vec::new();
        for (config, probes) in configs(args, cluster, &ports)?.into_iter().zip(probes) {
            let id = config.node_id;
            let started = RunningNode::start(config, Some(probes)).await;
            nodes.push(started.with_context(|| format!("node {id}"))?);
        }
        Ok(Self(nodes))
    }

    pub(super) fn all(&self) -> &[RunningNode] {
        &self.0
    }

    /// Where clients connect, as `host:port`.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.0.iter().map(|node| node.address().to_string()).collect()
    }

    /// Returns when one of them has ended by itself.
    pub(super) async fn ended(&self) {
        while !self.0.iter().any(RunningNode::is_finished) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops all at once: none has another to hand over to in the end.
    pub(super) async fn stop(self) -> Result<()> {
        self.0.iter().for_each(RunningNode::ask_to_stop);
        for node in self.0 {
            node.stop().await.context("a node")?;
        }
        Ok(())
    }
}

/// The ports of several nodes stay what they were at their first start: each node knows the others by them, and none can tell
/// the others of a change when all of them change.
fn lasting_ports(data: &Path, first: u16, count: usize) -> Result<Vec<u16>> {
    if count == 1 {
        return ports(first, count);
    }
    let file = data.join(PORTS_FILE);
    if let Ok(text) = std::fs::read_to_string(&file) {
        let known: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        ensure!(known.len() == count, "{} does not name {count} ports", file.display());
        ensure!(
            first == 0 || known.first() == Some(&first),
            exit::usage(format!(
                "the nodes of {} are at ports {}, and know each other by them; use --port {}",
                data.display(),
                known.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
                known.first().copied().unwrap_or_default()
            ))
        );
        return Ok(known);
    }
    let ports = ports(first, count)?;
    let text = ports.iter().map(u16::to_string).collect::<Vec<_>>().join("\n");
    std::fs::create_dir_all(data)
        .and_then(|()| std::fs::write(&file, text))
        .with_context(|| file.display().to_string())?;
    Ok(ports)
}

/// The first is the one that was asked for; without one, any.
fn ports(first: u16, count: usize) -> Result<Vec<u16>> {
    match (first, count) {
        (first, 1) => Ok(vec![first]),
        (0, count) => free_ports(count),
        (first, count) => ports_from(first, count),
    }
}

fn ports_of_probes(first: SocketAddr, count: usize) -> Result<Vec<SocketAddr>> {
    let ports = if first.port() == 0 { vec![0; count] } else { ports_from(first.port(), count)? };
    Ok(ports.into_iter().map(|port| SocketAddr::new(first.ip(), port)).collect())
}

/// A node's data must not be overlooked because the number of nodes is another one now.
fn check_directory(data: &Path, count: usize) -> Result<()> {
    let alone = data.join(LOCK_FILE).exists();
    let several = (0..).take_while(|id| directory_of(data, *id).exists()).count();
    let found = if alone { 1 } else { several };
    let fits = found == 0 || found == count;
    ensure!(
        fits,
        exit::usage(format!(
            "{} holds the data of {found} node{}, but the Cluster's spec.replicas is {count}; the number of nodes can't be changed yet: \
             write {found}, or choose another --data",
            data.display(),
            if found == 1 { "" } else { "s" }
        ))
    );
    Ok(())
}

fn directory_of(data: &Path, id: usize) -> PathBuf {
    data.join(format!("node-{id}"))
}

fn configs(args: &UpArgs, cluster: &Cluster, ports: &[u16]) -> Result<Vec<NodeConfig>> {
    let usual = one_config(args, cluster)?;
    if let [port] = ports {
        return Ok(vec![NodeConfig { listen: super::localhost(*port), ..usual }]);
    }
    let voter = |(node_id, port): (i32, &u16)| Voter { node_id, host: "127.0.0.1".into(), port: *port };
    let voters: Vec<Voter> = (0..).zip(ports).map(voter).collect();
    let config = |(id, port): (usize, &u16)| {
        Ok(NodeConfig {
            listen: super::localhost(*port),
            data_dir: directory_of(&args.data, id),
            node_id: i32::try_from(id)?,
            cluster_id: Some(cluster.metadata.name.clone()),
            cluster: Some(ClusterConfig { voters: voters.clone(), ..ClusterConfig::default() }),
            engine: share(&usual.engine, ports.len()),
            ..usual.clone()
        })
    };
    ports.iter().enumerate().map(config).collect()
}

/// Several nodes take together what one would.
fn share(whole: &EngineOptions, nodes: usize) -> EngineOptions {
    EngineOptions {
        journal_bytes: whole.journal_bytes / nodes as u64,
        tail_bytes: whole.tail_bytes / nodes,
        read_cache_bytes: whole.read_cache_bytes / nodes,
        scrub_bytes_per_s: whole.scrub_bytes_per_s / nodes as u64,
        erase_bytes_per_s: whole.erase_bytes_per_s / nodes as u64,
        ..whole.clone()
    }
}

fn one_config(args: &UpArgs, cluster: &Cluster) -> Result<NodeConfig> {
    let spec = &cluster.spec;
    Ok(NodeConfig {
        data_dir: args.data.clone(),
        auto_create_topics: !args.no_auto_create,
        default_partitions: i32::try_from(spec.defaults.partitions)?,
        default_replication_factor: i16::try_from(spec.default_replicas())?,
        io: match spec.io.engine {
            IoEngine::Auto => IoDriver::Auto,
            IoEngine::IoUring => IoDriver::IoUring,
            IoEngine::Threads => IoDriver::Threads,
        },
        ..NodeConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_number_of_nodes_is_not_overlooked() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        assert!(check_directory(data, 1).is_ok() && check_directory(data, 3).is_ok());
        for id in 0..3 {
            std::fs::create_dir(directory_of(data, id)).unwrap();
        }
        assert!(check_directory(data, 3).is_ok());
        let sentence = check_directory(data, 1).unwrap_err().to_string();
        assert!(sentence.contains("of 3 nodes") && check_directory(data, 5).is_err(), "{sentence}");
        let alone = tempfile::tempdir().unwrap();
        std::fs::write(alone.path().join(LOCK_FILE), "").unwrap();
        assert!(check_directory(alone.path(), 1).is_ok() && check_directory(alone.path(), 3).is_err());
    }

    #[test]
    fn the_ports_of_several_nodes_stay() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let first = lasting_ports(&data, 0, 3).unwrap();
        assert_eq!(lasting_ports(&data, 0, 3).unwrap(), first);
        assert_eq!(lasting_ports(&data, first[0], 3).unwrap(), first);
        let sentence = lasting_ports(&data, first[0] - 1, 3).unwrap_err().to_string();
        assert!(sentence.contains(&format!("--port {}", first[0])), "{sentence}");
    }

    #[test]
    fn a_share_is_enough_for_a_node() {
        for nodes in [3, 5] {
            let engine = share(&EngineOptions::default(), nodes);
            assert!(engine.journal_bytes >= wherry_node::config::MIN_JOURNAL_BYTES);
            assert_eq!(engine.engine_config().validate(), Ok(()));
        }
    }
}
