//! `wherry up`: a node and a sidecar in one process, as the resources in YAML files want them.

mod apply;
mod resources;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use wherry_client::{Client, ClientConfig};
use wherry_node::NodeConfig;
use wherry_operator::crd::IoEngine;
use wherry_sidecar::SidecarConfig;
use wherry_sidecar::config::DEFAULT_PORT;

use crate::output::{self, Output};
use crate::roles::asked_to_stop;
use crate::roles::node::RunningNode;
use resources::Resources;

use super::sidecar;

/// Run everything in one process: a node and a sidecar, from the same YAML that Kubernetes takes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry up                                        a cluster with defaults
  wherry up -f examples/quickstart.yaml            with these topics and groups
  wherry up -f cluster.yaml -f topics/ --data ./data

Then, in another terminal:
  echo hello | wherry produce greetings
  curl -d '{\"payload\":\"hello\"}' localhost:7070/v1/topics/greetings/messages

Data stays in --data and survives restarts. Topics that are not in a file are made when somebody asks for them.
Everything listens on localhost. Ctrl-C stops it in good order.")]
pub(crate) struct UpArgs {
    /// Files or directories with Cluster, Topic and ConsumerGroup; may be given more than once
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Directory of everything that lasts
    #[arg(long, value_name = "DIR", default_value = "wherry-data")]
    data: PathBuf,
    /// Port of the node, on localhost; that of the Cluster's listener, if absent
    #[arg(long)]
    port: Option<u16>,
    /// Port of the sidecar, on localhost
    #[arg(long, default_value_t = DEFAULT_PORT)]
    sidecar_port: u16,
    /// Serve /metrics, /livez and /readyz of the node here; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9644")]
    probes: SocketAddr,
    /// Do not make topics that nobody declared
    #[arg(long)]
    no_auto_create: bool,
}

/// Port of the node when nobody says.
const NODE_PORT: u16 = 9092;

pub(crate) async fn run(args: UpArgs, output: Output) -> Result<()> {
    let resources = Resources::load(&args.files)?;
    let node = RunningNode::start(node_config(&args, &resources), Some(args.probes)).await?;
    let address = node.address().to_string();
    let client =
        Client::connect(ClientConfig { client_id: "wherry-up".into(), ..ClientConfig::new([address.clone()]) }).await;
    let client = client.context("can't reach the node that was just started")?;
    apply::apply(&client.admin(), &resources).await?;
    let sidecar = sidecar::start(SidecarConfig {
        listen: localhost(args.sidecar_port),
        bootstrap: vec![address],
        ..SidecarConfig::default()
    })
    .await?;
    node.listening().say(output)?;
    sidecar::listening(&sidecar).say(output)?;
    if output == Output::Table {
        output::line(format!("Data is in {}. Ctrl-C stops.", args.data.display()))?;
    }
    let ended = tokio::select! {
        stop = asked_to_stop() => { stop?; false }
        () = node.ended() => true,
    };
    sidecar.stop().await;
    node.stop().await.context("the node")?;
    if ended {
        bail!("the node ended although nobody asked it to; its log says why");
    }
    Ok(())
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn node_config(args: &UpArgs, resources: &Resources) -> NodeConfig {
    let spec = &resources.cluster.spec;
    NodeConfig {
        listen: localhost(args.port.or(resources.cluster.port()).unwrap_or(NODE_PORT)),
        data_dir: args.data.clone(),
        auto_create_topics: !args.no_auto_create,
        default_partitions: i32::try_from(spec.defaults.partitions).unwrap_or(i32::MAX),
        io: match spec.io.engine {
            IoEngine::Auto => wherry_node::config::IoDriver::Auto,
            IoEngine::IoUring => wherry_node::config::IoDriver::IoUring,
            IoEngine::Threads => wherry_node::config::IoDriver::Threads,
        },
        ..NodeConfig::default()
    }
}
