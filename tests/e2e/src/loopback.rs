//! Three nodes of Wherry as processes on loopback that are one cluster: [`crate::cluster`] without networks of their own,
//! for tests of tools. It must not know what is tested.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::clients::kcat;
use crate::server::{Io, Kind, Options, Server, free_port};
use crate::until;

/// How many nodes there are: all of them vote on the metadata.
pub const NODES: usize = 3;

/// A running cluster; its nodes are killed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts a new one and waits until every node is in it. `args`: more arguments of each node.
    pub fn start(io: Io, args: &[&str]) -> Result<Cluster> {
        let ports = (0..NODES).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
        let voters: Vec<String> =
            (0..).zip(&ports).map(|(id, port): (i32, _)| format!("{id}@127.0.0.1:{port}")).collect();
        let node = |(id, port): (usize, u16)| {
            let mut wherry_args = vec!["--journal-size".to_owned(), "128MiB".to_owned()];
            wherry_args.extend(["--cluster-id".to_owned(), "e2e".to_owned(), "--node-id".to_owned(), id.to_string()]);
            wherry_args.extend(["--voters".to_owned(), voters.join(","), "--rack".to_owned(), format!("rack-{id}")]);
            wherry_args.extend(args.iter().map(|arg| (*arg).to_owned()));
            Server::prepare(Kind::Wherry(io), Options { port: Some(port), wherry_args, ..Options::default() })
        };
        let nodes = ports.into_iter().enumerate().map(node).collect::<Result<Vec<Server>>>()?;
        let cluster = Cluster { nodes };
        cluster.nodes.iter().try_for_each(Server::launch)?;
        cluster.await_nodes(NODES)?;
        Ok(cluster)
    }

    /// The node with this id.
    pub fn node(&self, id: usize) -> Result<&Server> {
        self.nodes.get(id).with_context(|| format!("there is no node {id}"))
    }

    /// All addresses, to bootstrap from.
    pub fn addrs(&self) -> String {
        let addrs: Vec<String> = self.nodes.iter().map(Server::addr).collect();
        addrs.join(",")
    }

    /// Waits until so many nodes run, as the cluster itself says.
    pub fn await_nodes(&self, count: usize) -> Result<()> {
        until("the nodes to find each other", || {
            let asked = kcat(&self.addrs()).typed("-L -J -m 5").deadline(Duration::from_secs(20)).finish()?;
            let said: serde_json::Value = serde_json::from_str(&asked.lines.concat()).unwrap_or_default();
            Ok(said["brokers"].as_array().is_some_and(|brokers| brokers.len() == count))
        })
        .with_context(|| self.last_words())
    }

    /// The end of what each node wrote, for messages.
    pub fn last_words(&self) -> String {
        let words = self.nodes.iter().enumerate().map(|(id, node)| format!("node {id}:\n{}\n", node.last_words()));
        words.collect()
    }
}
