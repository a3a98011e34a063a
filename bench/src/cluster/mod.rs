//! Three brokers of one kind on loopback, as processes, and the clients that follow leaders among them.
//! It must not know what is measured.

pub mod pipeline;
pub mod steady;
pub mod view;
pub mod watch;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::broker::{Broker, Kind, Place, Usage};
use crate::measure::say;
use crate::setup::Setup;
use view::Guide;

/// Brokers of a cluster, and replicas of each partition.
pub const BROKERS: usize = 3;
/// How long a cluster may take until every broker sees all of them.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// A cluster under test; killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// What it is.
    pub kind: Kind,
    nodes: Vec<Broker>,
}

impl Cluster {
    /// Starts brokers with empty data directories, and waits until each knows of all.
    pub fn start(setup: &Setup, kind: Kind) -> Result<Cluster> {
        say(&format!("starting {BROKERS} brokers of {}", kind.name()));
        let nodes: Result<Vec<Broker>> =
            Place::of(BROKERS)?.into_iter().map(|place| Broker::member(setup, kind, place)).collect();
        let mut cluster = Cluster { kind, nodes: nodes? };
        cluster.nodes.iter_mut().try_for_each(|n| n.launch(setup))?;
        cluster.await_together()?;
        Ok(cluster)
    }

    /// Waits until every broker that runs sees all of them.
    pub fn await_together(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.await_port()?;
            let (begin, mut guide) = (Instant::now(), Guide::new(vec![node.addr]));
            while !guide.view(&[]).is_ok_and(|v| v.brokers.len() == BROKERS) {
                ensure!(
                    begin.elapsed() < PATIENCE,
                    "{} at {} is alone: {}",
                    node.kind.name(),
                    node.addr,
                    node.last_words()
                );
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Where its brokers listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|n| n.addr).collect()
    }

    /// The same, as clients are told it.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|n| n.addr.to_string()).collect();
        addresses.join(",")
    }

    /// What all of them have used so far.
    pub fn usage(&self) -> Result<Usage> {
        let add = |sum: Usage, one: Usage| Usage {
            cpu_s: sum.cpu_s + one.cpu_s,
            rss_kib: sum.rss_kib + one.rss_kib,
            fds: sum.fds + one.fds,
        };
        self.usages()?.into_iter().reduce(add).map_or_else(|| Ok(Usage::default()), Ok)
    }

    /// What each of them has used so far.
    pub fn usages(&self) -> Result<Vec<Usage>> {
        self.nodes.iter().map(Broker::usage).collect()
    }

    /// The broker with this id.
    pub fn node(&mut self, id: usize) -> &mut Broker {
        &mut self.nodes[id]
    }

    /// Ends all of them at once and removes what they wrote. (Asked politely, the last ones would wait for a quorum.)
    pub fn discard(self) -> Result<()> {
        self.nodes.into_iter().try_for_each(Broker::discard)
    }
}
