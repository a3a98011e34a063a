//! `wherry node`: one log node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use wherry_node::NodeConfig;
use wherry_node::config::{Advertised, ClusterConfig, EngineOptions, Voter};

use super::security::SecurityArgs;
use crate::exit;
use crate::output::Output;
use crate::roles::node::RunningNode;
use crate::roles::{IoArg, asked_to_stop, die_with_parent};
use crate::text;

/// Run a log node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry node --data /var/lib/wherry
  wherry node --listen 0.0.0.0:9092 --advertise node-0.example.org:9092 --data /var/lib/wherry
  wherry node --listen 127.0.0.1:0 --output json          (takes a free port and says which)
  wherry node --node-id 1 --cluster-id boats --listen 127.0.0.1:9093 --data /var/lib/wherry-1 \\
      --voters 0@127.0.0.1:9092,1@127.0.0.1:9093,2@127.0.0.1:9094   (one of three)

  wherry node --listen in=127.0.0.1:9092 --listen out=sasl-tls://0.0.0.0:9093 --advertise out=node-0.example.org:9093 \\
      --tls-cert node.pem --tls-key node.key --authorize --super-user User:admin   (passwords, over TLS)

It serves the Kafka protocol. A plaintext listener neither encrypts nor asks who is there: only for networks that you trust.
SIGTERM or Ctrl-C stops it in good order; after kill -9 it recovers from its journal.")]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    security: SecurityArgs,
    /// Directory of everything that lasts
    #[arg(long, value_name = "DIR", default_value = "wherry-data")]
    data: PathBuf,
    /// Id of this node in its cluster
    #[arg(long, default_value_t = 0)]
    node_id: i32,
    /// Id of the cluster; a new data directory makes its own
    #[arg(long)]
    cluster_id: Option<String>,
    /// All first voters of the cluster, this node among them, as ID@HOST:PORT; 1, 3 or 5 of them
    #[arg(long, value_name = "ID@HOST:PORT", value_delimiter = ',', value_parser = voter, requires = "cluster_id")]
    voters: Vec<Voter>,
    /// Nodes of a cluster to join, without a vote at first
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "cluster_id")]
    seeds: Vec<String>,
    /// Failure domain: replicas are spread over racks, and told to clients
    #[arg(long)]
    rack: Option<String>,
    /// Make a topic when somebody asks for an unknown one
    #[arg(long)]
    auto_create_topics: bool,
    /// Partitions of a topic that does not say
    #[arg(long, default_value_t = 1)]
    default_partitions: i32,
    /// Replicas of a topic that does not say; -1 for three, or as many as there are nodes
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    default_replication_factor: i16,
    /// Don't move replicas by itself when nodes come or go
    #[arg(long)]
    no_rebalance: bool,
    /// Don't send consumers to the replica in their rack, but let them read from the leader
    #[arg(long)]
    no_follower_reads: bool,
    /// A replica that lacks something for so long counts as in sync no more
    #[arg(long, value_parser = text::duration, default_value = "10s", value_name = "DURATION")]
    replica_lag_time: Duration,
    /// At most so many bytes per second to each node whose replicas catch up
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    catch_up_rate: Option<u64>,
    /// How long an empty group waits for more members before its first assignment
    #[arg(long, value_parser = text::duration, default_value = "3s", value_name = "DURATION")]
    group_initial_rebalance_delay: Duration,
    /// Silence after which a member of a group of the new consumer protocol is out
    #[arg(long, value_parser = text::duration, default_value = "45s", value_name = "DURATION")]
    group_consumer_session_timeout: Duration,
    /// How often members of a group of the new consumer protocol are to send a heartbeat
    #[arg(long, value_parser = text::duration, default_value = "5s", value_name = "DURATION")]
    group_consumer_heartbeat_interval: Duration,
    /// How to do I/O
    #[arg(long, value_enum, default_value_t = IoArg::Auto)]
    io: IoArg,
    /// Disk space of the journal
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    journal_size: Option<u64>,
    /// Memory for recent messages
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    tail_size: Option<u64>,
    /// Memory for messages read from disk
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    read_cache_size: Option<u64>,
    /// Disk space kept free: below it appends are refused
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    reserve: Option<u64>,
    /// Rate, per second, at which messages that rest on disk are read again and verified; 0 for never
    #[arg(long, value_parser = text::bytes, value_name = "SIZE")]
    scrub_rate: Option<u64>,
    /// Serve /metrics, /livez and /readyz here
    #[arg(long, value_name = "ADDRESS")]
    probes: Option<SocketAddr>,
    /// Be killed when the parent process dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

pub(super) fn advertised(text: &str) -> Result<Advertised, String> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parsed {
        Some((host, port)) if !host.is_empty() => Ok(Advertised { host: host.into(), port }),
        Some(_) | None => Err("write HOST:PORT, for example node-0.example.org:9092".into()),
    }
}

fn voter(text: &str) -> Result<Voter, String> {
    let parsed = text.split_once('@').and_then(|(id, at)| Some((id.parse().ok()?, at)));
    let Some((node_id, at)) = parsed else {
        return Err("write ID@HOST:PORT, for example 0@node-0.example.org:9092".into());
    };
    advertised(at).map(|at| Voter { node_id, host: at.host, port: at.port })
}

impl NodeArgs {
    fn config(self) -> Result<NodeConfig> {
        let engine = EngineOptions::default();
        let memory = |size: Option<u64>, usual: usize| size.map_or(Ok(usual), usize::try_from);
        let mut config = NodeConfig {
            data_dir: self.data,
            node_id: self.node_id,
            cluster_id: self.cluster_id,
            cluster: (!self.voters.is_empty() || !self.seeds.is_empty()).then_some(ClusterConfig {
                voters: self.voters,
                seeds: self.seeds,
                authentication: None,
            }),
            rack: self.rack,
            auto_create_topics: self.auto_create_topics,
            default_partitions: self.default_partitions,
            default_replication_factor: self.default_replication_factor,
            auto_rebalance: !self.no_rebalance,
            catch_up_bytes_per_s: self.catch_up_rate,
            follower_reads: !self.no_follower_reads,
            replica_lag_time_ms: u64::try_from(self.replica_lag_time.as_millis())?,
            group_initial_rebalance_delay_ms: u32::try_from(self.group_initial_rebalance_delay.as_millis())?,
            group_consumer_session_timeout_ms: u32::try_from(self.group_consumer_session_timeout.as_millis())?,
            group_consumer_heartbeat_interval_ms: u32::try_from(self.group_consumer_heartbeat_interval.as_millis())?,
            io: self.io.into(),
            engine: EngineOptions {
                journal_bytes: self.journal_size.unwrap_or(engine.journal_bytes),
                tail_bytes: memory(self.tail_size, engine.tail_bytes)?,
                read_cache_bytes: memory(self.read_cache_size, engine.read_cache_bytes)?,
                reserve_bytes: self.reserve.unwrap_or(engine.reserve_bytes),
                scrub_bytes_per_s: self.scrub_rate.unwrap_or(engine.scrub_bytes_per_s),
                erase_bytes_per_s: engine.erase_bytes_per_s,
                open_files: engine.open_files,
            },
            ..NodeConfig::default()
        };
        self.security.apply(&mut config).map_err(|error| exit::usage(error.to_string()))?;
        Ok(config)
    }
}

pub(crate) async fn run(args: NodeArgs, output: Output) -> Result<()> {
    if args.die_with_parent {
        die_with_parent()?;
    }
    let probes = args.probes;
    let node = RunningNode::start(args.config()?, probes).await?;
    node.listening().say(output)?;
    let ended = tokio::select! {
        stop = asked_to_stop() => { stop?; false }
        () = node.ended() => true,
    };
    node.stop().await.context("the node")?;
    if ended {
        bail!("the node ended although nobody asked it to; its log says why");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_addresses() {
        assert_eq!(advertised("a.b:9"), Ok(Advertised { host: "a.b".into(), port: 9 }));
        for bad in ["", "a", ":9", "a:", "a:70000"] {
            assert!(advertised(bad).is_err(), "{bad}");
        }
    }
}
