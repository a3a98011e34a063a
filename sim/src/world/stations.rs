//! Clients and their connections: a line to each node, opened when something is to be said there.

use bytes::Bytes;

use super::network::{End, Item, Side, Site, WireId};
use super::{MS, World};
use crate::client::{Client, Io};

/// The first client makes the topics.
const ADMIN: usize = 0;
/// A client that waits this long for an answer hangs up.
const REQUEST_TIMEOUT_NS: u64 = 10_000 * MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    Opening(WireId),
    Up(WireId),
}

/// A client's connection to one node.
#[derive(Debug)]
struct Line {
    state: State,
    /// To be sent once it is open.
    waiting: Vec<Bytes>,
    /// Requests without an answer, and since when nothing has come.
    open: usize,
    since_ns: u64,
}

/// One client and its lines.
pub(crate) struct Station {
    pub(super) client: Box<dyn Client>,
    lines: Vec<Line>,
}

impl Station {
    pub(super) fn new(client: Box<dyn Client>, nodes: usize) -> Self {
        let line = || Line { state: State::Down, waiting: Vec::new(), open: 0, since_ns: 0 };
        Self { client, lines: std::iter::repeat_with(line).take(nodes).collect() }
    }

    /// For who wonders.
    pub(super) fn lines(&self) -> String {
        self.lines.iter().map(|line| format!("{:?}/{}", line.state, line.open)).collect::<Vec<_>>().join(" ")
    }
}

impl World {
    pub(super) fn tick(&mut self, station: usize) -> Result<(), String> {
        for node in 0..self.machines.len() {
            let line = &self.stations[station].lines[node];
            if line.open > 0 && self.now_ns.saturating_sub(line.since_ns) > REQUEST_TIMEOUT_NS {
                self.outcome.befell("request timeout");
                self.hang_up(station, node)?;
            }
        }
        // A client that uses topics looks for them first; nobody but the administrator is here before they are.
        if station > ADMIN && !self.has_topics() {
            return Ok(());
        }
        self.client(station, |client, io| {
            client.tick(io);
            Ok(())
        })
    }

    fn has_topics(&self) -> bool {
        self.plan.topics().0.iter().all(|(topic, _)| self.oracle.topics.is_there(topic))
    }

    /// Lets a client act, and carries out what it wants.
    fn client(
        &mut self,
        station: usize,
        act: impl FnOnce(&mut dyn Client, &mut Io<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let wall_ms = self.wall_ms();
        let mut io = Io {
            now_ms: self.now_ns / MS,
            wall_ms,
            rng: &mut self.rng,
            oracle: &mut self.oracle,
            calm: self.calm,
            nodes: self.machines.len(),
            out: Vec::new(),
            hang_up: false,
        };
        act(self.stations[station].client.as_mut(), &mut io)?;
        let (out, hang_up) = (io.out, io.hang_up);
        for (node, frame) in out {
            self.line_send(station, node, frame);
        }
        if hang_up {
            for node in 0..self.machines.len() {
                self.hang_up(station, node)?;
            }
        }
        Ok(())
    }

    fn line_send(&mut self, station: usize, node: usize, frame: Bytes) {
        self.trace.event(self.now_ns, format_args!("client {station} sends to node {node}"), &frame);
        let now_ns = self.now_ns;
        let line = &mut self.stations[station].lines[node];
        if line.open == 0 {
            line.since_ns = now_ns;
        }
        line.open += 1;
        match line.state {
            State::Up(id) => self.send(id, Side::Acceptor, Item::Bytes(frame)),
            State::Opening(_) => line.waiting.push(frame),
            State::Down => {
                line.waiting.push(frame);
                let id = self.dial(Site::Client(station), End::Client { station, node }, node);
                self.stations[station].lines[node].state = State::Opening(id);
            }
        }
    }

    pub(super) fn line_opened(&mut self, station: usize, node: usize) -> Result<(), String> {
        let line = &mut self.stations[station].lines[node];
        let State::Opening(id) = line.state else { return Ok(()) };
        line.state = State::Up(id);
        for frame in std::mem::take(&mut line.waiting) {
            self.send(id, Side::Acceptor, Item::Bytes(frame));
        }
        self.client(station, |client, io| {
            client.connected(io);
            Ok(())
        })
    }

    pub(super) fn line_frame(&mut self, station: usize, node: usize, frame: Bytes) -> Result<(), String> {
        let line = &mut self.stations[station].lines[node];
        line.open = line.open.saturating_sub(1);
        line.since_ns = self.now_ns;
        self.client(station, |client, io| client.frame(io, node, frame))
    }

    /// The connection is gone, or did not come about.
    pub(super) fn line_closed(&mut self, station: usize, node: usize) -> Result<(), String> {
        let line = &mut self.stations[station].lines[node];
        line.state = State::Down;
        line.open = 0;
        line.waiting.clear();
        self.client(station, |client, io| {
            client.closed(io, node);
            Ok(())
        })
    }

    /// The client wants no more of this connection.
    fn hang_up(&mut self, station: usize, node: usize) -> Result<(), String> {
        let (State::Opening(id) | State::Up(id)) = self.stations[station].lines[node].state else { return Ok(()) };
        self.trace.event(self.now_ns, format_args!("client {station} hangs up on node {node}"), &[]);
        self.network.lose(id, Side::Dialler);
        // What nobody waits for may still arrive, except where that would confuse the oracles.
        if !self.stations[station].client.may_haunt() || self.rng.chance(50) {
            self.network.lose(id, Side::Acceptor);
        }
        self.send(id, Side::Acceptor, Item::Closed);
        self.network.set_end(id, Side::Dialler, End::Gone);
        self.line_closed(station, node)
    }
}
