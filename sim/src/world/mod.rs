//! One simulated life: clients, connections, the nodes, their machines, and what befalls them, in virtual time.
//!
//! ```text
//!  stations ── wires ──> machines: Core over a simulated disk ── wires ──> machines
//!      |                    ^ killed, cut, paused, cut off, started again
//!      v told               | faults
//!   oracles <───────────────┴── world: one agenda, one source of chance
//! ```
//! Time moves from event to event; two runs of one seed are the same in every byte.

mod faults;
mod flow;
mod machines;
mod network;
mod plan;
mod replicas;
mod stations;

use std::collections::BTreeMap;

use wherry_node::error::ConnectError;

use crate::clock::wall_ms;
use crate::host::End as HowItEnds;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::{Options, Outcome, Violation};
use machines::Machine;
use network::{Network, Side, WireId};
use plan::Plan;
use stations::Station;

/// The topics under test, with their partitions.
pub(crate) const TOPICS: [(&str, i32); 2] = [("orders", 3), ("events", 2)];

/// Written to in transactions, and by them alone: what clients begin with, and copies of that.
pub(crate) const LEDGER: (&str, i32) = ("ledger", 3);
pub(crate) const COPIES: (&str, i32) = ("copies", 2);
pub(crate) const TRANSACTIONAL: [(&str, i32); 2] = [LEDGER, COPIES];

/// Written to by publishers of messages with ids, within one window.
pub(crate) const NAMED: (&str, i32) = ("payments", 2);
pub(crate) const NAMED_WINDOW_MS: &str = "3600000";

const MS: u64 = 1_000_000;
/// After trouble, everything must be done within this time.
const PATIENCE_MS: u64 = 120_000;

#[derive(Debug)]
enum Event {
    /// A client's tick.
    Tick(usize),
    /// A dial gets to where it goes.
    Dial(WireId),
    /// The dialler learns that it came to nothing.
    DialFailed(WireId, ConnectError),
    /// Something may have arrived at this end.
    Flow(WireId, Side),
    /// A node looks at its disk and its clock.
    Turn(usize),
    /// The process of a node begins.
    Start(usize),
    /// A paused process goes on.
    Resume(usize),
    /// A cut of the network ends.
    Heal(u64),
    /// The faults of a node's disk end.
    Repair(usize),
    Trouble,
}

struct World {
    rng: Rng,
    now_ns: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    order: u64,
    network: Network,
    machines: Vec<Machine>,
    stations: Vec<Station>,
    oracle: Oracle,
    trace: Trace,
    plan: Plan,
    calm: bool,
    outcome: Outcome,
}

/// Runs one seed to its end.
///
/// # Errors
/// The first broken promise.
pub fn run(seed: u64, options: Options) -> Result<Outcome, Violation> {
    #[cfg(feature = "mutations")]
    let _mutant = options.mutation.map(wherry_node::mutation::enable);
    let mut world = World::new(seed, options);
    match world.live() {
        Ok(()) => Ok(world.conclude()),
        Err(what) => {
            let nodes = world.machines.len();
            Err(Violation { seed, nodes, what, trace_hash: world.trace.hash() })
        }
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng, options);
        let mut oracle = Oracle::new(plan.nodes);
        plan.topics().places().iter().for_each(|place| oracle.logs.expect(*place));
        plan.copied().into_iter().for_each(|topic| oracle.transactions.expect_copies(topic));
        let machines = (0..plan.nodes).map(|node| Machine::new(&mut rng, &plan, node)).collect();
        let stations = plan.clients(&mut rng).into_iter().map(|c| Station::new(c, plan.nodes)).collect();
        let outcome = Outcome { nodes: plan.nodes as u64, ..Outcome::default() };
        Self {
            rng,
            now_ns: MS,
            agenda: BTreeMap::new(),
            order: 0,
            network: Network::default(),
            machines,
            stations,
            oracle,
            trace: Trace::new(options.print_trace),
            plan,
            calm: false,
            outcome,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        for node in 0..self.machines.len() {
            let delay = if node == 0 { 0 } else { self.rng.between(0, 300 * MS) };
            self.at(delay, Event::Start(node));
        }
        for station in 0..self.stations.len() {
            self.at(MS, Event::Tick(station));
        }
        self.at(self.plan.peace_ms * MS, Event::Trouble);
        self.run_until(self.plan.trouble_ms * MS, false)?;
        self.begin_calm();
        self.finish()?;
        self.oracle.judge_whole()?;
        self.await_scrub()?;
        // Once more from what is on the disks, and nothing else.
        self.judge_replicas(HowItEnds::PowerCut)?;
        self.oracle.transactions.look_again();
        self.stations.iter_mut().for_each(|station| station.client.look_again());
        self.finish()?;
        self.oracle.judge_whole()?;
        self.judge_replicas(HowItEnds::Kill)
    }

    /// Damage that nobody reads is found by the next scrub, and repaired from a peer.
    fn await_scrub(&mut self) -> Result<(), String> {
        if !self.plan.extra.rot {
            return Ok(());
        }
        let passes = |machine: &Machine| machine.core.as_ref().map_or(0, |core| core.stats().log.scrub_passes.get());
        // The one that is under way may have been past the place.
        let wanted: Vec<_> = self.machines.iter().map(|machine| passes(machine) + 2).collect();
        let until_ns = self.now_ns + PATIENCE_MS * MS;
        while self.machines.iter().zip(&wanted).any(|(machine, wanted)| passes(machine) < *wanted) || !self.is_whole() {
            if self.now_ns >= until_ns {
                let reached: Vec<_> = self.machines.iter().map(passes).collect();
                let whole = if self.is_whole() { "and all is whole" } else { "and not all is whole" };
                return Err(format!("scrubs {PATIENCE_MS} ms after all trouble: {reached:?} of {wanted:?}, {whole}"));
            }
            self.run_until(self.now_ns + 500 * MS, false)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.run_until(self.now_ns + PATIENCE_MS * MS, true)?;
        if self.is_done() {
            return Ok(());
        }
        let undone = self.stations.iter().filter(|s| !s.client.is_done(&self.oracle));
        let undone: Vec<String> = undone.map(|s| format!("{} ({})", s.client.state(), s.lines())).collect();
        let ends = self.oracle.logs.ends();
        let undone = undone.join("; ");
        Err(format!("not done {PATIENCE_MS} ms after all trouble ended: {undone}; logs end at {ends:?}"))
    }

    fn is_done(&self) -> bool {
        self.stations.iter().all(|station| station.client.is_done(&self.oracle))
    }

    fn run_until(&mut self, end_ns: u64, or_done: bool) -> Result<(), String> {
        let mut steps = 0_u64;
        while !(or_done && steps.is_multiple_of(16) && self.is_done()) {
            steps += 1;
            let Some(((at, order), event)) = self.agenda.pop_first() else { return Ok(()) };
            if at > end_ns {
                self.agenda.insert((at, order), event);
                self.now_ns = end_ns;
                return Ok(());
            }
            self.now_ns = self.now_ns.max(at);
            self.step(event)?;
            if let Some(broken) = self.oracle.broken() {
                return Err(broken.to_owned());
            }
        }
        Ok(())
    }

    fn conclude(mut self) -> Outcome {
        let (acknowledged, records) = self.oracle.logs.totals();
        let (generations, commits) = self.oracle.groups.totals();
        self.outcome.trace_hash = self.trace.hash();
        self.outcome.events = self.trace.events();
        self.outcome.epochs = self.oracle.logs.epochs();
        (self.outcome.acknowledged, self.outcome.records) = (acknowledged, records);
        (self.outcome.generations, self.outcome.commits) = (generations, commits);
        (self.outcome.transactions, self.outcome.aborted) = self.oracle.transactions.totals();
        self.outcome.duplicates = self.oracle.duplicates;
        self.outcome.virtual_ms = self.now_ns / MS;
        self.outcome
    }

    fn at(&mut self, delay_ns: u64, event: Event) {
        self.order += 1;
        self.agenda.insert((self.now_ns + delay_ns, self.order), event);
    }

    fn wall_ms(&self) -> i64 {
        wall_ms(self.now_ns)
    }

    /// Mostly quick, now and then not.
    fn delay(&mut self) -> u64 {
        if self.rng.chance(3) { self.rng.between(MS, 60 * MS) } else { self.rng.between(20_000, 400_000) }
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick(station) => {
                let delay = self.rng.between(MS, 40 * MS);
                self.at(delay, Event::Tick(station));
                self.tick(station)
            }
            Event::Dial(wire) => {
                self.dial_arrives(wire);
                Ok(())
            }
            Event::DialFailed(wire, error) => self.dial_failed(wire, error),
            Event::Flow(wire, side) => self.flow(wire, side),
            Event::Turn(node) => self.turn_if_due(node),
            Event::Start(node) => self.start(node),
            Event::Resume(node) => self.resume(node),
            Event::Heal(cut) => {
                self.heal(cut);
                Ok(())
            }
            Event::Repair(node) => {
                self.machines[node].host.repair();
                Ok(())
            }
            Event::Trouble => self.trouble(),
        }
    }
}
