//! How to run a life, and what it came to.

use std::collections::BTreeMap;

/// How to run a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Print everything that happens, on standard error.
    pub print_trace: bool,
    /// What no node could survive unnoticed.
    pub sabotage: Sabotage,
    /// Nodes of the cluster; the seed decides if there is no number.
    pub nodes: Option<usize>,
    /// Faults beyond those of every life.
    pub extra: Extra,
    /// A protocol bug to live with.
    #[cfg(feature = "mutations")]
    pub mutation: Option<wherry_node::mutation::Mutation>,
}

/// Faults and clients that are asked for by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extra {
    /// Bits of segment files rot, on a minority of the nodes.
    pub rot: bool,
    /// Disks are lost for good, one at a time.
    pub lost_disks: bool,
    /// There are transactional clients, whatever the seed says.
    pub transactions: bool,
    /// There are publishers of messages with ids, whatever the seed says.
    pub ids: bool,
}

/// Breaks a piece on purpose: a run that ends well nevertheless shows that nobody was looking.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// All pieces are whole.
    #[default]
    #[value(skip)]
    None,
    /// It loses what it said was durable.
    #[value(name = "disk")]
    LyingDisk,
    /// It tells as durable what has only begun.
    #[value(name = "store")]
    HastyStore,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened.
    pub trace_hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Records that the nodes acknowledged.
    pub acknowledged: u64,
    /// Records that are in the logs.
    pub records: u64,
    /// Leader epochs that clients were told of.
    pub epochs: u64,
    /// Group generations that members lived in.
    pub generations: u64,
    /// Offset commits that the nodes acknowledged.
    pub commits: u64,
    /// Transactions that are known to have committed.
    pub transactions: u64,
    /// Transactions that are known to have aborted.
    pub aborted: u64,
    /// Messages that were told to be there already.
    pub duplicates: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// What befell the cluster, by name.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Counts one more of these.
    pub(crate) fn befell(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// How often this happened.
    #[must_use]
    pub fn count(&self, fault: &str) -> u64 {
        self.faults.get(fault).copied().unwrap_or(0)
    }

    /// Adds another life's numbers, all but its hash.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.nodes += other.nodes;
        self.acknowledged += other.acknowledged;
        self.records += other.records;
        self.epochs += other.epochs;
        self.generations += other.generations;
        self.commits += other.commits;
        self.transactions += other.transactions;
        self.aborted += other.aborted;
        self.duplicates += other.duplicates;
        self.virtual_ms += other.virtual_ms;
        for (fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Replays the run.
    pub seed: u64,
    /// Of the cluster.
    pub nodes: usize,
    /// What happened.
    pub what: String,
    /// Of what led there.
    pub trace_hash: u64,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} on {} nodes (trace {:016x}): {}", self.seed, self.nodes, self.trace_hash, self.what)
    }
}

impl std::error::Error for Violation {}
