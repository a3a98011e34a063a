//! The machine that the node runs on: its disk, which outlives the process, and ways to end the process.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use uuid::Uuid;
use wherry_log::io::{
    Completion, Disk, DiskError, Fault, FaultAction, FaultOn, Op, SimConfig, SimDisk, Survive, Token,
};
use wherry_log::{Engine, EngineConfig, Now};
use wherry_node::NodeConfig;
use wherry_node::config::{Advertised, ClusterConfig, Voter};
use wherry_node::core::{Core, QUORUM_LOG};
use wherry_node::entropy::Entropy;

use crate::Sabotage;
use crate::rng::Rng;
use crate::small::SmallSegments;

/// The disk as the node holds it: once its fuse has burned, every operation fails, as in a machine that loses power while
/// the node is starting.
#[derive(Debug)]
pub(crate) struct Fused {
    disk: Rc<RefCell<SimDisk>>,
    fuse: Rc<Cell<Option<u64>>>,
    refused: Vec<Token>,
}

impl Disk for Fused {
    fn submit(&mut self, token: Token, op: Op) {
        match self.fuse.get() {
            Some(0) => self.refused.push(token),
            left => {
                self.fuse.set(left.map(|n| n - 1));
                self.disk.submit(token, op);
            }
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        out.extend(self.refused.drain(..).map(no_power));
        self.disk.poll(out);
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        out.extend(self.refused.drain(..).map(no_power));
        if out.is_empty() {
            self.disk.wait(out);
        }
    }

    fn in_flight(&self) -> usize {
        self.refused.len() + self.disk.borrow().in_flight()
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

fn no_power(token: Token) -> Completion {
    let error = DiskError::Failed { what: "simulated machine".into(), message: "no power".into() };
    Completion { token, result: Err(error) }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// `kill -9`: what the disk completed stays, durable or not.
    Kill,
    /// The machine loses power: only what was made durable is sure to stay.
    PowerCut,
}

pub(crate) type Store = SmallSegments<Engine<Fused>>;
pub(crate) type Node = Core<Store>;

/// Where every node listens.
const PORT: u16 = 9092;
/// Size of a disk that is not full.
const CAPACITY: u64 = 1 << 30;

/// What the engine keeps free.
const RESERVE: u64 = 16 << 20;

/// The name of a node's machine.
pub(crate) fn host_name(node: usize) -> String {
    format!("node-{node}.sim")
}

/// The node at an address.
pub(crate) fn node_of(host: &str, port: u16) -> Option<usize> {
    let number = host.strip_prefix("node-")?.strip_suffix(".sim")?;
    if port == PORT { number.parse().ok() } else { None }
}

/// See the module.
pub(crate) struct Host {
    disk: Rc<RefCell<SimDisk>>,
    engine: EngineConfig,
    config: NodeConfig,
    node: usize,
    starts: u64,
    sabotage: Sabotage,
    /// Its disk was made to fail, once.
    failed: bool,
    rng: Rng,
}

/// What came of a start.
pub(crate) enum Started {
    Running(Box<Node>),
    /// The power went before it ran.
    Interrupted,
    /// It refused to start, though nothing had been done to it that it must not survive.
    Refused(String),
}

impl Host {
    pub(crate) fn new(mut rng: Rng, sabotage: Sabotage, node: usize, nodes: usize) -> Self {
        let max_delay = [0, 3, 10, 40][rng.below(4)];
        let disk = SimDisk::new(SimConfig { seed: rng.next(), capacity: CAPACITY, min_delay: 0, max_delay });
        let config = NodeConfig {
            node_id: i32::try_from(node).unwrap_or(0),
            cluster_id: Some("simulated".into()),
            group_initial_rebalance_delay_ms: [0, 0, 300][rng.below(3)],
            // As many as can matter to a handful of transactional ids.
            transactions_topic_partitions: 3,
            ..cluster_config(nodes)
        };
        Self {
            disk: Rc::new(RefCell::new(disk)),
            engine: engine_config(&mut rng),
            config,
            node,
            starts: 0,
            sabotage,
            failed: false,
            rng,
        }
    }

    /// Recovers what is on the disk.
    pub(crate) fn start(&mut self, now: Now, interrupt: bool) -> Started {
        self.starts += 1;
        self.lie();
        let fuse = Rc::new(Cell::new(interrupt.then(|| self.rng.between(0, 60))));
        let disk = Fused { disk: Rc::clone(&self.disk), fuse: Rc::clone(&fuse), refused: Vec::new() };
        let seed = self.rng.next();
        let outcome = self.open(disk, now, seed);
        match outcome {
            Ok(node) => {
                if fuse.get() == Some(0) {
                    return Started::Interrupted;
                }
                fuse.set(None);
                Started::Running(Box::new(node))
            }
            Err(_) if fuse.get() == Some(0) => Started::Interrupted,
            Err(reason) => Started::Refused(reason),
        }
    }

    fn open(&self, disk: Fused, now: Now, seed: u64) -> Result<Node, String> {
        let fresh = Uuid::from_u128(u128::from(seed));
        let (engine, _) = Engine::open(disk, self.engine.clone(), now, fresh).map_err(|e| e.to_string())?;
        let advertised = Advertised { host: host_name(self.node), port: PORT };
        let entropy = Entropy::seeded(seed ^ self.starts);
        Core::with_entropy(
            self.config.clone(),
            advertised,
            SmallSegments::new(engine, self.sabotage == Sabotage::HastyStore),
            now,
            entropy,
        )
        .map_err(|e| e.to_string())
    }

    /// What the disk holds after this end. The node is to be dropped first.
    pub(crate) fn end(&mut self, how: End) {
        let survive = Survive::Seeded(self.rng.next());
        let after = match how {
            End::Kill => self.disk.borrow().kill(survive),
            End::PowerCut => self.disk.borrow().crash(survive),
        };
        self.disk = Rc::new(RefCell::new(after));
        self.failed = false;
    }

    fn lie(&self) {
        if self.sabotage == Sabotage::LyingDisk {
            let lie = Fault::always(FaultOn::Write, "journal/", FaultAction::LoseAtPowerCut);
            self.disk.borrow_mut().inject(lie);
        }
    }

    /// Every write and sync takes this many more steps.
    pub(crate) fn slow(&mut self, steps: u64) {
        for on in [FaultOn::Write, FaultOn::Sync] {
            self.disk.borrow_mut().inject(Fault::always(on, "", FaultAction::Slow { steps }));
        }
    }

    /// A write or a sync fails, soon.
    pub(crate) fn fail(&mut self) {
        let on = if self.rng.chance(50) { FaultOn::Write } else { FaultOn::Sync };
        let action = [FaultAction::Fail, FaultAction::FailAfterCache, FaultAction::TornThenFail][self.rng.below(3)];
        let nth = self.rng.between(1, 20);
        self.disk.borrow_mut().inject(Fault::nth(on, "", nth, action));
        self.failed = true;
    }

    /// Others have filled the disk into the engine's reserve, which is there for what must go on nevertheless (rule 6).
    pub(crate) fn fill(&mut self) {
        let mut disk = self.disk.borrow_mut();
        let used = CAPACITY.saturating_sub(disk.free());
        disk.set_capacity(used + RESERVE / 2);
    }

    /// Inverts a bit of some segment file. False if there is none yet. The metadata quorum's own log is spared: its votes and
    /// entries are promises that no peer can repair, and a node that can't read them refuses to start.
    pub(crate) fn rot(&mut self) -> bool {
        let mut disk = self.disk.borrow_mut();
        let own = QUORUM_LOG.topic.to_string();
        let is_segment = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            name.ends_with(".seg") && !name.starts_with(&own)
        };
        let paths: Vec<_> = disk.paths().into_iter().filter(is_segment).collect();
        let Some(path) = paths.get(self.rng.below(paths.len())) else { return false };
        let len = disk.contents(path).map_or(0, |bytes| bytes.len());
        let (at, bit) = (self.rng.below(len), self.rng.below(8));
        disk.flip_bit(path, at as u64, u8::try_from(bit).unwrap_or(0)).unwrap_or(false)
    }

    /// The disk is whole again; what went wrong before stays wrong.
    pub(crate) fn repair(&mut self) {
        self.disk.borrow_mut().clear_faults();
        self.disk.borrow_mut().set_capacity(CAPACITY);
        self.lie();
    }

    /// Whether a failure of the disk may have stopped this process.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn disk_is_busy(&self) -> bool {
        self.disk.borrow().in_flight() > 0
    }
}

/// What all nodes of a cluster are told alike: each of them votes.
fn cluster_config(nodes: usize) -> NodeConfig {
    let voter = |node| Voter { node_id: i32::try_from(node).unwrap_or(0), host: host_name(node), port: PORT };
    let cluster = ClusterConfig { voters: (0..nodes).map(voter).collect(), ..ClusterConfig::default() };
    NodeConfig { cluster: (nodes > 1).then_some(cluster), ..NodeConfig::default() }
}

/// Everything small, so that journals wrap, tails fill and segments roll within seconds.
fn engine_config(rng: &mut Rng) -> EngineConfig {
    let group_bytes = [4 << 10, 16 << 10, 64 << 10][rng.below(3)];
    let chunk_bytes = [4 << 10, 8 << 10][rng.below(2)];
    EngineConfig {
        journal_file_bytes: [128 << 10, 256 << 10, 512 << 10][rng.below(3)],
        journal_files: [3, 4, 6][rng.below(3)],
        group_bytes,
        tail_bytes: group_bytes * [4, 8][rng.below(2)],
        flush_bytes: chunk_bytes * [1, 4][rng.below(2)],
        chunk_bytes,
        read_cache_bytes: 64 << 10,
        read_bytes: 16 << 10,
        open_files: 8,
        reserve_bytes: RESERVE,
        housekeeping_ms: 200,
        scrub_bytes_per_s: [128 << 10, 2 << 20][rng.below(2)],
        scrub_every_ms: [1_000, 5_000][rng.below(2)],
        erase_bytes_per_s: [256 << 10, 4 << 20][rng.below(2)],
        ..EngineConfig::default()
    }
}
