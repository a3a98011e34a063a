//! One simulated run: clients, connections, the node, its machine, and what befalls them, in virtual time.
//!
//! ```text
//!  clients ── frames, delayed ──> Core (no driver: this is one) ── operations ──> simulated disk
//!          <── bytes, delayed ──       ^ killed, cut, started again               ^ outlives it
//! ```
//! Time moves from event to event; two runs of one seed are the same in every byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use wherry_log::Now;
use wherry_node::core::{ConnId, Effect};

use crate::client::{Admin, Client, Io, Member, Producer, Reader};
use crate::host::{End, Host, Node, Started};
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;

/// The topics under test, with their partitions.
pub(crate) const TOPICS: [(&str, i32); 2] = [("orders", 3), ("events", 2)];

/// The first client makes the topics.
const ADMIN: usize = 0;
const MS: u64 = 1_000_000;
/// Trouble lasts this long, in virtual milliseconds.
const TROUBLE_MS: u64 = 6_000;
/// After trouble, everything must be done within this time.
const PATIENCE_MS: u64 = 120_000;
/// What the wall clock says at the start.
const WALL_MS: i64 = 1_700_000_000_000;

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that happened.
    pub trace_hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Records that the node acknowledged.
    pub acknowledged: u64,
    /// Records that are in the logs.
    pub records: u64,
    /// `kill -9`s and power cuts.
    pub kills: u64,
    /// See `kills`.
    pub power_cuts: u64,
    /// Starts that the power did not last through.
    pub interrupted_starts: u64,
    /// Connections broken.
    pub broken_connections: u64,
    /// Group generations that members lived in.
    pub generations: u64,
    /// Offset commits that the node acknowledged.
    pub commits: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
}

/// A promise that the node broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Replays the run.
    pub seed: u64,
    /// What happened.
    pub what: String,
    /// Of what led there.
    pub trace_hash: u64,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} (trace {:016x}): {}", self.seed, self.trace_hash, self.what)
    }
}

impl std::error::Error for Violation {}

#[derive(Debug)]
enum Event {
    /// A client's tick.
    Tick(usize),
    /// The node accepts, or there is none.
    Accept(usize, u32),
    ToNode(usize, u32, Bytes),
    ToClient(usize, u32, Bytes),
    Closed(usize, u32),
    /// The node looks at its disk and its clock.
    Turn,
    Start,
    Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Opening,
    Up(ConnId),
}

/// One client and its connection.
struct Station {
    client: Box<dyn Client>,
    link: Link,
    /// Of connections: what belongs to an older one is dropped.
    epoch: u32,
    to_node_at: u64,
    to_client_at: u64,
    partial: BytesMut,
    paused: bool,
    held: Vec<Bytes>,
}

struct World {
    rng: Rng,
    now_ns: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    order: u64,
    stations: Vec<Station>,
    host: Host,
    node: Option<Box<Node>>,
    turn_at: u64,
    oracle: Oracle,
    trace: Trace,
    calm: bool,
    outcome: Outcome,
}

/// How to run a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Print everything that happens, on standard error.
    pub print_trace: bool,
    /// What no node could survive unnoticed.
    pub sabotage: Sabotage,
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

/// Runs one seed to its end.
///
/// # Errors
/// The first broken promise.
pub fn run(seed: u64, options: Options) -> Result<Outcome, Violation> {
    let mut world = World::new(seed, options);
    match world.live() {
        Ok(()) => Ok(world.conclude()),
        Err(what) => Err(Violation { seed, what, trace_hash: world.trace.hash() }),
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let host = Host::new(rng.fork(), options.sabotage);
        let mut oracle = Oracle::default();
        let places: Vec<(&'static str, i32)> =
            TOPICS.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition))).collect();
        places.iter().for_each(|place| oracle.logs.expect(*place));
        let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Admin::default())];
        for n in 0..rng.between(1, 3) {
            let batches = u32::try_from(rng.between(20, 120)).unwrap_or(20);
            clients.push(Box::new(Producer::new(u32::try_from(n).unwrap_or(0), &places, batches)));
        }
        clients.push(Box::new(Reader::new(&places)));
        for n in 0..rng.between(1, 3) {
            let instance = rng.chance(30).then(|| format!("instance-{n}"));
            clients.push(Box::new(Member::new(&places, instance)));
        }
        let station = |client| Station {
            client,
            link: Link::Down,
            epoch: 0,
            to_node_at: 0,
            to_client_at: 0,
            partial: BytesMut::new(),
            paused: false,
            held: Vec::new(),
        };
        Self {
            rng,
            now_ns: MS,
            agenda: BTreeMap::new(),
            order: 0,
            stations: clients.into_iter().map(station).collect(),
            host,
            node: None,
            turn_at: u64::MAX,
            oracle,
            trace: Trace::new(options.print_trace),
            calm: false,
            outcome: Outcome::default(),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.at(0, Event::Start);
        for station in 0..self.stations.len() {
            self.at(MS, Event::Tick(station));
        }
        self.at(300 * MS, Event::Trouble);
        self.run_until(TROUBLE_MS * MS, false)?;
        self.calm = true;
        self.finish()?;
        self.oracle.logs.judge_whole()?;
        // Once more from what is on the disk, and nothing else.
        self.end_node(End::PowerCut);
        self.stations.iter_mut().for_each(|station| station.client.look_again());
        self.finish()?;
        self.oracle.logs.judge_whole()
    }

    fn finish(&mut self) -> Result<(), String> {
        self.run_until(self.now_ns + PATIENCE_MS * MS, true)?;
        if self.is_done() {
            return Ok(());
        }
        let undone = self.stations.iter().filter(|s| !s.client.is_done(&self.oracle));
        let undone: Vec<String> = undone.map(|s| format!("{} ({:?})", s.client.state(), s.link)).collect();
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
            let Some(((at, _), event)) = self.agenda.pop_first() else { return Ok(()) };
            if at > end_ns {
                self.at(at.saturating_sub(self.now_ns), event);
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
        (self.outcome.acknowledged, self.outcome.records) = (acknowledged, records);
        (self.outcome.generations, self.outcome.commits) = (generations, commits);
        self.outcome.virtual_ms = self.now_ns / MS;
        self.outcome
    }

    fn at(&mut self, delay_ns: u64, event: Event) {
        self.order += 1;
        self.agenda.insert((self.now_ns + delay_ns, self.order), event);
    }

    fn now(&self) -> Now {
        let wall_ms = WALL_MS + i64::try_from(self.now_ns / MS).unwrap_or(0);
        Now { monotonic_ns: self.now_ns, wall_ms }
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick(station) => {
                let delay = self.rng.between(MS, 40 * MS);
                self.at(delay, Event::Tick(station));
                self.tick(station)
            }
            Event::Accept(station, epoch) => self.accept(station, epoch),
            Event::ToNode(station, epoch, frame) => {
                self.deliver(station, epoch, frame);
                self.node_effects()
            }
            Event::ToClient(station, epoch, bytes) if self.is_current(station, epoch) => {
                self.hand_over(station, &bytes)
            }
            Event::Closed(station, epoch) if self.stations[station].epoch == epoch => {
                self.close_link(station);
                self.client(station, |client, io| {
                    client.closed(io);
                    Ok(())
                })
            }
            Event::ToClient(..) | Event::Closed(..) => Ok(()),
            Event::Turn => {
                if self.turn_at <= self.now_ns {
                    self.turn_at = u64::MAX;
                    return self.turn();
                }
                Ok(())
            }
            Event::Start => self.start(),
            Event::Trouble => {
                self.trouble();
                Ok(())
            }
        }
    }

    fn is_current(&self, station: usize, epoch: u32) -> bool {
        self.stations[station].epoch == epoch && matches!(self.stations[station].link, Link::Up(_))
    }

    fn tick(&mut self, station: usize) -> Result<(), String> {
        match self.stations[station].link {
            Link::Down => {
                let state = &mut self.stations[station];
                state.epoch += 1;
                state.link = Link::Opening;
                let epoch = state.epoch;
                let delay = self.delay();
                self.at(delay, Event::Accept(station, epoch));
                Ok(())
            }
            Link::Opening => Ok(()),
            // A client that uses topics looks for them first; nobody but the administrator is here before they are.
            Link::Up(_) if station > ADMIN && !self.has_topics() => Ok(()),
            Link::Up(_) => self.client(station, |client, io| {
                client.tick(io);
                Ok(())
            }),
        }
    }

    fn has_topics(&self) -> bool {
        TOPICS.iter().all(|(topic, _)| self.oracle.topics.is_there(topic))
    }

    /// Lets a client act, and carries out what it wants.
    fn client(
        &mut self,
        station: usize,
        act: impl FnOnce(&mut dyn Client, &mut Io<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let now = self.now();
        let mut io = Io {
            now_ms: now.monotonic_ns / MS,
            wall_ms: now.wall_ms,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            calm: self.calm,
            out: Vec::new(),
            hang_up: false,
        };
        act(self.stations[station].client.as_mut(), &mut io)?;
        let (out, hang_up) = (io.out, io.hang_up);
        for frame in out {
            self.send_to_node(station, frame);
        }
        if hang_up {
            self.break_link(station);
        }
        Ok(())
    }

    fn send_to_node(&mut self, station: usize, mut frame: Bytes) {
        frame.advance(4.min(frame.len()));
        let at = (self.now_ns + self.delay()).max(self.stations[station].to_node_at + 1);
        self.stations[station].to_node_at = at;
        let epoch = self.stations[station].epoch;
        self.trace.event(self.now_ns, format_args!("client {station} sends"), &frame);
        self.at(at - self.now_ns, Event::ToNode(station, epoch, frame));
    }

    /// Mostly quick, now and then not.
    fn delay(&mut self) -> u64 {
        if self.rng.chance(3) { self.rng.between(MS, 60 * MS) } else { self.rng.between(20_000, 400_000) }
    }

    fn accept(&mut self, station: usize, epoch: u32) -> Result<(), String> {
        if self.stations[station].epoch != epoch {
            return Ok(());
        }
        let peer = SocketAddr::from(([10, 0, 0, 1], 1_000 + u16::try_from(station).unwrap_or(0)));
        let now = self.now();
        let accepted = self.node.as_mut().and_then(|node| node.connected(now, peer).ok());
        let Some(conn) = accepted else {
            let delay = self.delay();
            self.at(delay, Event::Closed(station, epoch));
            return Ok(());
        };
        let state = &mut self.stations[station];
        state.link = Link::Up(conn);
        state.partial.clear();
        state.held.clear();
        state.paused = false;
        self.client(station, |client, io| {
            client.connected(io);
            Ok(())
        })
    }

    fn deliver(&mut self, station: usize, epoch: u32, frame: Bytes) {
        if !self.is_current(station, epoch) {
            return;
        }
        let now = self.now();
        let state = &mut self.stations[station];
        let (Link::Up(conn), Some(node)) = (state.link, self.node.as_mut()) else { return };
        if state.paused {
            state.held.push(frame);
            return;
        }
        node.received(now, conn, frame);
        // Now and then the driver has more to hand in before it turns.
        if self.rng.chance(70) {
            node.turn(now);
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        let now = self.now();
        if let Some(node) = self.node.as_mut() {
            node.turn(now);
        }
        self.node_effects()
    }

    /// Carries out what the node wants, and sees to it that it is called again in time.
    fn node_effects(&mut self) -> Result<(), String> {
        while let Some(node) = self.node.as_mut().filter(|node| node.has_effects()) {
            let effects: Vec<Effect> = node.effects().collect();
            for effect in effects {
                self.node_effect(effect)?;
            }
        }
        let Some(node) = self.node.as_ref() else { return Ok(()) };
        let mut at = node.next_deadline().unwrap_or(u64::MAX).max(self.now_ns + 1_000);
        if self.host.disk_is_busy() {
            at = at.min(self.now_ns + self.rng.between(10_000, 200_000));
        }
        if at < self.turn_at {
            self.turn_at = at;
            self.at(at - self.now_ns, Event::Turn);
        }
        Ok(())
    }

    fn node_effect(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Send { conn, chunks } => self.node_sends(conn, &chunks),
            Effect::Close { conn, reason } => {
                let Some(station) = self.station_of(conn) else { return Ok(()) };
                return Err(format!("the node closed the connection of an honest client {station}: {reason}"));
            }
            Effect::PauseReads { conn } => {
                if let Some(station) = self.station_of(conn) {
                    self.stations[station].paused = true;
                }
            }
            Effect::ResumeReads { conn } => {
                let Some(station) = self.station_of(conn) else { return Ok(()) };
                self.stations[station].paused = false;
                let epoch = self.stations[station].epoch;
                for frame in std::mem::take(&mut self.stations[station].held) {
                    self.deliver(station, epoch, frame);
                }
            }
            Effect::Stop { reason } => return Err(format!("the node stopped on a disk that has no fault: {reason}")),
        }
        Ok(())
    }

    fn node_sends(&mut self, conn: ConnId, chunks: &[Bytes]) {
        let bytes: Bytes = chunks.concat().into();
        if let Some(node) = self.node.as_mut() {
            node.sent(conn, bytes.len());
        }
        let Some(station) = self.station_of(conn) else { return };
        let at = (self.now_ns + self.delay()).max(self.stations[station].to_client_at + 1);
        self.stations[station].to_client_at = at;
        let epoch = self.stations[station].epoch;
        self.trace.event(self.now_ns, format_args!("node answers client {station}"), &bytes);
        self.at(at - self.now_ns, Event::ToClient(station, epoch, bytes));
    }

    fn station_of(&self, conn: ConnId) -> Option<usize> {
        self.stations.iter().position(|station| station.link == Link::Up(conn))
    }

    fn hand_over(&mut self, station: usize, bytes: &[u8]) -> Result<(), String> {
        self.stations[station].partial.extend_from_slice(bytes);
        loop {
            let partial = &mut self.stations[station].partial;
            let Some(prefix) = partial.first_chunk::<4>() else { return Ok(()) };
            let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if partial.len().saturating_sub(4) < len {
                return Ok(());
            }
            partial.advance(4);
            let frame = partial.split_to(len).freeze();
            self.client(station, |client, io| client.frame(io, frame))?;
        }
    }

    /// Both sides learn of it, the client a little later.
    fn break_link(&mut self, station: usize) {
        if let (Link::Up(conn), Some(node)) = (self.stations[station].link, self.node.as_mut()) {
            node.disconnected(conn);
        }
        let epoch = self.stations[station].epoch;
        let delay = self.delay();
        // Bytes on their way are lost from now on.
        self.stations[station].link = Link::Opening;
        self.at(delay, Event::Closed(station, epoch));
    }

    fn close_link(&mut self, station: usize) {
        let state = &mut self.stations[station];
        state.link = Link::Down;
        state.partial.clear();
        state.held.clear();
    }

    fn trouble(&mut self) {
        if self.calm {
            return;
        }
        match self.rng.below(10) {
            0..3 => self.end_node(End::Kill),
            3..6 => self.end_node(End::PowerCut),
            _ => {
                let station = self.rng.below(self.stations.len());
                if matches!(self.stations[station].link, Link::Up(_)) {
                    self.outcome.broken_connections += 1;
                    self.trace.event(self.now_ns, format_args!("connection of client {station} breaks"), &[]);
                    self.break_link(station);
                }
            }
        }
        let delay = self.rng.between(20 * MS, 700 * MS);
        self.at(delay, Event::Trouble);
    }

    fn end_node(&mut self, how: End) {
        let Some(node) = self.node.take() else { return };
        drop(node);
        self.host.end(how);
        self.turn_at = u64::MAX;
        match how {
            End::Kill => self.outcome.kills += 1,
            End::PowerCut => self.outcome.power_cuts += 1,
        }
        self.trace.event(self.now_ns, format_args!("{how:?}"), &[]);
        for station in 0..self.stations.len() {
            if matches!(self.stations[station].link, Link::Up(_)) {
                self.break_link(station);
            }
        }
        let delay = self.rng.between(MS, 200 * MS);
        self.at(delay, Event::Start);
    }

    fn start(&mut self) -> Result<(), String> {
        if self.node.is_some() {
            return Ok(());
        }
        let interrupt = !self.calm && self.rng.chance(20);
        match self.host.start(self.now(), interrupt) {
            Started::Running(node) => {
                self.trace.event(self.now_ns, format_args!("node runs"), &[]);
                self.node = Some(node);
                self.node_effects()
            }
            Started::Interrupted => {
                self.outcome.interrupted_starts += 1;
                self.trace.event(self.now_ns, format_args!("node did not come up"), &[]);
                let how = if self.rng.chance(50) { End::Kill } else { End::PowerCut };
                self.host.end(how);
                let delay = self.rng.between(MS, 100 * MS);
                self.at(delay, Event::Start);
                Ok(())
            }
            Started::Refused(reason) => Err(format!(
                "after {} kills and {} power cuts the node refuses to start: {reason}",
                self.outcome.kills, self.outcome.power_cuts
            )),
        }
    }
}
