//! `wherry up`: nodes and a sidecar in one process, as the resources in YAML files want them.

mod apply;
mod nodes;
mod resources;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use wherry_client::{Client, ClientConfig};
use wherry_sidecar::SidecarConfig;
use wherry_sidecar::config::DEFAULT_PORT;

use crate::connect;
use crate::output::{self, Output};
use crate::roles::asked_to_stop;
use nodes::Nodes;
use resources::Resources;

use super::sidecar;

/// Run everything in one process: nodes and a sidecar, from the same YAML that Kubernetes takes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry up                                        a cluster with defaults
  wherry up -f examples/quickstart.yaml            with these topics and groups
  wherry up -f cluster.yaml -f topics/ --data ./data

Then, in another terminal:
  echo hello | wherry produce greetings
  curl -d '{\"payload\":\"hello\"}' localhost:7070/v1/topics/greetings/messages

A Cluster with `replicas: 3` runs three nodes, each with a directory in --data and a port of its own: the first one's, then
the next free ones. Data stays in --data and survives restarts. Topics that are not in a file are made when somebody asks for them.
Everything listens on localhost. Ctrl-C stops it in good order.")]
pub(crate) struct UpArgs {
    /// Files or directories with Cluster, Topic and ConsumerGroup; may be given more than once
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Directory of everything that lasts
    #[arg(long, value_name = "DIR", default_value = "wherry-data")]
    data: PathBuf,
    /// Port of the first node, on localhost; that of the Cluster's listener, if absent
    #[arg(long)]
    port: Option<u16>,
    /// Port of the sidecar, on localhost
    #[arg(long, default_value_t = DEFAULT_PORT)]
    sidecar_port: u16,
    /// Serve /metrics, /livez and /readyz of the first node here, of others on the next free ports; port 0 takes free ones
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9644")]
    probes: SocketAddr,
    /// Do not make topics that nobody declared
    #[arg(long)]
    no_auto_create: bool,
}

pub(crate) async fn run(args: UpArgs, output: Output) -> Result<()> {
    let resources = Resources::load(&args.files)?;
    let nodes = Nodes::start(&args, &resources.cluster).await?;
    let addresses = nodes.addresses();
    let client =
        Client::connect(ClientConfig { client_id: "wherry-up".into(), ..ClientConfig::new(addresses.clone()) }).await;
    let client = client.context("can't reach the node that was just started")?;
    connect::await_nodes(&client.admin(), addresses.len()).await?;
    apply::apply(&client.admin(), &resources).await?;
    let sidecar = sidecar::start(SidecarConfig {
        listen: localhost(args.sidecar_port),
        bootstrap: addresses,
        ..SidecarConfig::default()
    })
    .await?;
    for node in nodes.all() {
        node.listening().say(output)?;
    }
    sidecar::listening(&sidecar).say(output)?;
    if output == Output::Table {
        output::line(format!("Data is in {}. Ctrl-C stops.", args.data.display()))?;
    }
    let ended = tokio::select! {
        stop = asked_to_stop() => { stop?; false }
        () = nodes.ended() => true,
    };
    sidecar.stop().await;
    nodes.stop().await?;
    if ended {
        bail!("a node ended although nobody asked it to; its log says why");
    }
    Ok(())
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
