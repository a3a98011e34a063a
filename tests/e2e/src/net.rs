//! A small network of its own for each node and one for the clients, joined by a bridge: it can be cut, and lose or hold up
//! packets. It needs root. It must not know who uses it.
//!
//! ```text
//!   [hub]  bridge ─┬─ port0 ── eth0 [node 0]   10.77.0.1
//!                  ├─ port1 ── eth0 [node 1]   10.77.0.2
//!                  └─ port9 ── eth0 [clients]  10.77.0.10
//! ```
//! Everything lies in network namespaces of its own; the machine's own network does not change.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::notice;
use crate::process::Program;

/// The clients' place on the bridge.
const CLIENTS: usize = 9;

/// Namespaces that live until this is dropped.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    nodes: usize,
    /// The kernel and `nft` can drop packets by rule.
    rules: bool,
}

/// What is wrong with the network of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing reaches it, and nothing comes from it.
    Cut,
    /// The other nodes neither hear it nor are heard by it; clients do and are.
    CutFromNodes,
    /// It hears nobody, but all hear it.
    Deaf,
    /// So many packets of a hundred are lost, in each direction.
    Loss(u32),
    /// So many kilobits a second, in its direction.
    Slow(u32),
}

impl Network {
    /// Joins so many nodes; `None`, with a notice that names the test, where that is not permitted.
    pub fn new(nodes: usize, test: &str) -> Result<Option<Network>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(nodes < CLIENTS, "at most {CLIENTS} nodes");
        if !rustix::process::geteuid().is_root() {
            notice(&format!("{test} runs WITHOUT cutting the network: it needs root, for network namespaces"));
            return Ok(None);
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut network = Network { prefix: format!("wherry-{}-{number}", std::process::id()), nodes, rules: false };
        if let Err(e) = network.build() {
            notice(&format!("{test} runs WITHOUT cutting the network: this machine makes no namespaces ({e:#})"));
            return Ok(None);
        }
        network.rules = network.prepare_rules().is_ok();
        if !network.rules {
            notice(&format!("{test} runs WITHOUT losing packets: nft or the kernel's packet rules are not there"));
        }
        Ok(Some(network))
    }

    fn build(&self) -> Result<()> {
        let hub = self.hub();
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        for place in (0..self.nodes).chain([CLIENTS]) {
            let there = self.namespace(place);
            ip(&format!("netns add {there}"))?;
            ip(&format!("-n {hub} link add port{place} type veth peer name eth0 netns {there}"))?;
            ip(&format!("-n {hub} link set port{place} master bridge up"))?;
            ip(&format!("-n {there} addr add {}/24 dev eth0", address(place)))?;
            ip(&format!("-n {there} link set eth0 up"))?;
            ip(&format!("-n {there} link set lo up"))?;
        }
        Ok(())
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn namespace(&self, place: usize) -> String {
        format!("{}-{place}", self.prefix)
    }

    /// The namespace of a node.
    pub fn of_node(&self, node: usize) -> String {
        self.namespace(node)
    }

    /// The namespace of the clients.
    pub fn of_clients(&self) -> String {
        self.namespace(CLIENTS)
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> String {
        address(node)
    }

    /// What can be made wrong here.
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = vec![Trouble::Cut, Trouble::Slow(2_000)];
        if self.rules {
            troubles.extend([Trouble::CutFromNodes, Trouble::Deaf, Trouble::Loss(10), Trouble::Loss(30)]);
        }
        troubles
    }

    fn prepare_rules(&self) -> Result<()> {
        self.nft("add table bridge wherry")?;
        self.nft("add chain bridge wherry forward { type filter hook forward priority 0 ; }")?;
        // Whether random numbers can be drawn is known only by trying.
        self.nft("add rule bridge wherry forward iifname nobody numgen random mod 100 < 5 drop")?;
        self.nft("flush chain bridge wherry forward")
    }

    fn nft(&self, rule: &str) -> Result<()> {
        let done = Program::new("nft").arg(rule).in_namespace(Some(&self.hub())).finish().context("nft")?;
        ensure!(done.status.success(), "nft {rule}: {}", done.errors);
        Ok(())
    }

    /// Makes something wrong with the network of a node.
    pub fn spoil(&self, node: usize, trouble: Trouble) -> Result<()> {
        ensure!(node < self.nodes, "no node {node}");
        let rule = |rule: String| self.nft(&format!("add rule bridge wherry forward {rule} drop"));
        let port = format!("port{node}");
        match trouble {
            Trouble::Cut => ip(&format!("-n {} link set {port} down", self.hub())),
            Trouble::CutFromNodes => {
                rule(format!("iifname {port} oifname != port{CLIENTS}"))?;
                rule(format!("oifname {port} iifname != port{CLIENTS}"))
            }
            Trouble::Deaf => rule(format!("oifname {port}")),
            Trouble::Loss(percent) => {
                rule(format!("iifname {port} numgen random mod 100 < {percent}"))?;
                rule(format!("oifname {port} numgen random mod 100 < {percent}"))
            }
            Trouble::Slow(kilobits) => Program::new("tc")
                .typed(&format!("qdisc replace dev {port} root tbf rate {kilobits}kbit burst 16kb latency 300ms"))
                .in_namespace(Some(&self.hub()))
                .run()
                .map(drop),
        }
    }

    /// Everything is well again.
    pub fn heal(&self) -> Result<()> {
        if self.rules {
            self.nft("flush chain bridge wherry forward")?;
        }
        for node in 0..self.nodes {
            ip(&format!("-n {} link set port{node} up", self.hub()))?;
            // Fails where nothing was slowed.
            let line = format!("qdisc del dev port{node} root");
            Program::new("tc").typed(&line).in_namespace(Some(&self.hub())).finish()?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in (0..self.nodes).chain([CLIENTS]) {
            let _ = ip(&format!("netns del {}", self.namespace(place)));
        }
        let _ = ip(&format!("netns del {}", self.hub()));
    }
}

fn address(place: usize) -> String {
    format!("10.77.0.{}", place + 1)
}

fn ip(line: &str) -> Result<()> {
    let done = Program::new("ip").typed(line).finish()?;
    if !done.status.success() {
        bail!("ip {line}: {}", done.errors);
    }
    Ok(())
}
