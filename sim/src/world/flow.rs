//! What arrives at the ends of wires: opened connections, bytes, closed connections.

use std::net::SocketAddr;

use wherry_node::core::ConnId;
use wherry_node::error::ConnectError;

use super::network::{End, Item, Ready, Side, Site, WireId};
use super::{Event, MS, World};

/// After this time a dialler gives up: what the real dialer does.
const CONNECT_TIMEOUT_NS: u64 = 1_000 * MS;

impl World {
    /// Begins to connect; what comes of it comes as an event.
    pub(super) fn dial(&mut self, from: Site, end: End, to: usize) -> WireId {
        let wire = self.network.dial(from, end, Site::Node(to));
        let delay = self.delay();
        self.at(delay, Event::Dial(wire));
        wire
    }

    /// The first packet of a dial arrives, or does not.
    pub(super) fn dial_arrives(&mut self, id: WireId) {
        let Some(wire) = self.network.wire(id) else { return };
        let [from, to] = wire.sites;
        let Site::Node(node) = to else { return };
        let machine = &self.machines[node];
        let silent = machine.is_off() || self.network.is_cut(from, to) || self.network.is_cut(to, from);
        if silent {
            let error = ConnectError::Unreachable(format!("node {node} does not answer"));
            self.at(CONNECT_TIMEOUT_NS, Event::DialFailed(id, error));
        } else if machine.core.is_none() {
            let delay = self.delay();
            self.at(delay, Event::DialFailed(id, ConnectError::Refused));
        } else {
            // The kernel of a paused process accepts for it.
            self.network.set_end(id, Side::Acceptor, End::Node { node, conn: None });
            self.send(id, Side::Acceptor, Item::Opened);
            self.send(id, Side::Dialler, Item::Opened);
        }
    }

    pub(super) fn dial_failed(&mut self, id: WireId, error: ConnectError) -> Result<(), String> {
        match self.network.end(id, Side::Dialler) {
            End::Gone => Ok(()),
            End::Client { station, node } => {
                self.network.set_end(id, Side::Dialler, End::Gone);
                self.line_closed(station, node)
            }
            End::Node { node, .. } if self.machines[node].is_paused() => {
                let until = self.machines[node].paused_until;
                self.at(until.saturating_sub(self.now_ns) + 1, Event::DialFailed(id, error));
                Ok(())
            }
            End::Node { node, conn } => {
                self.trace.event(self.now_ns, format_args!("node {node}: dial failed: {error}"), &[]);
                self.network.set_end(id, Side::Dialler, End::Gone);
                let now = self.now_of(node);
                if let (Some(core), Some(conn)) = (self.machines[node].core.as_mut(), conn) {
                    core.connect_done(now, conn, Err(error));
                }
                self.node_effects(node)
            }
        }
    }

    /// Puts something on its way; bytes that a process wrote may be lost, never overtaken.
    pub(super) fn send(&mut self, id: WireId, towards: Side, item: Item) {
        let at = self.now_ns + self.delay();
        if let Some(at) = self.network.push(id, towards, at, item) {
            self.at(at - self.now_ns, Event::Flow(id, towards));
        }
    }

    /// As [`World::send`], but it takes this much longer.
    pub(super) fn send_late(&mut self, id: WireId, towards: Side, delay_ns: u64, item: Item) {
        if let Some(at) = self.network.push(id, towards, self.now_ns + delay_ns, item) {
            self.at(at - self.now_ns, Event::Flow(id, towards));
        }
    }

    /// Hands an end what has arrived there.
    pub(super) fn flow(&mut self, id: WireId, side: Side) -> Result<(), String> {
        loop {
            let end = self.network.end(id, side);
            if matches!(end, End::Node { node, .. } if self.machines[node].is_paused()) {
                return Ok(());
            }
            let Ready::Item(item) = self.network.take(id, side, self.now_ns) else { return Ok(()) };
            match end {
                End::Gone => {}
                End::Client { station, node } => self.arrives_at_client(id, station, node, item)?,
                End::Node { node, conn } => self.arrives_at_node(id, side, (node, conn), item)?,
            }
            self.credit(id, side);
        }
    }

    /// The process that writes towards this side learns what its kernel took.
    pub(super) fn credit(&mut self, id: WireId, towards: Side) {
        let End::Node { node, conn: Some(conn) } = self.network.end(id, towards.other()) else { return };
        if self.machines[node].is_paused() {
            return;
        }
        let taken = self.network.taken(id, towards);
        if taken > 0
            && let Some(core) = self.machines[node].core.as_mut()
        {
            core.sent(conn, taken);
        }
    }

    /// Looks again at what was held up.
    pub(super) fn look_again(&mut self, sides: Vec<(WireId, Side)>) {
        for (id, side) in sides {
            self.at(0, Event::Flow(id, side));
        }
    }

    fn arrives_at_client(&mut self, id: WireId, station: usize, node: usize, item: Item) -> Result<(), String> {
        match item {
            Item::Opened => self.line_opened(station, node),
            Item::Bytes(bytes) => {
                let frames = self.network.frames(id, Side::Dialler, &bytes);
                for frame in frames {
                    // A client that hung up takes no more.
                    if self.network.end(id, Side::Dialler) != End::Gone {
                        self.line_frame(station, node, frame)?;
                    }
                }
                Ok(())
            }
            Item::Closed => {
                self.network.set_end(id, Side::Dialler, End::Gone);
                self.line_closed(station, node)
            }
        }
    }

    fn arrives_at_node(
        &mut self,
        id: WireId,
        side: Side,
        (node, conn): (usize, Option<ConnId>),
        item: Item,
    ) -> Result<(), String> {
        let _span = tracing::info_span!("on", node).entered();
        match (item, conn) {
            (Item::Opened, Some(conn)) => {
                let now = self.now_of(node);
                if let Some(core) = self.machines[node].core.as_mut() {
                    core.connect_done(now, conn, Ok(()));
                }
            }
            (Item::Opened, None) => self.accept(id, node),
            (Item::Bytes(bytes), Some(conn)) => {
                let frames = self.network.frames(id, side, &bytes);
                self.frames_arrive(node, conn, frames);
            }
            (Item::Bytes(_), None) => {}
            (Item::Closed, conn) => {
                self.network.set_end(id, side, End::Gone);
                if let (Some(core), Some(conn)) = (self.machines[node].core.as_mut(), conn) {
                    core.disconnected(conn);
                }
            }
        }
        self.node_effects(node)
    }

    fn frames_arrive(&mut self, node: usize, conn: ConnId, frames: Vec<bytes::Bytes>) {
        let now = self.now_of(node);
        let Some(core) = self.machines[node].core.as_mut() else { return };
        for frame in frames {
            core.received(now, conn, frame);
        }
        // Now and then the driver has more to hand in before it turns.
        if self.rng.chance(70) {
            core.turn(now);
        }
    }

    fn accept(&mut self, id: WireId, node: usize) {
        let Some([from, _]) = self.network.wire(id).map(|wire| wire.sites) else { return };
        let peer = match from {
            Site::Client(station) => SocketAddr::from(([10, 0, 0, 1], 1_000 + u16::try_from(station).unwrap_or(0))),
            Site::Node(other) => SocketAddr::from(([10, 0, 1, u8::try_from(other).unwrap_or(0)], 2_000)),
        };
        let now = self.now_of(node);
        let accepted = self.machines[node].core.as_mut().and_then(|core| core.connected(now, peer).ok());
        match accepted {
            Some(conn) => self.network.set_end(id, Side::Acceptor, End::Node { node, conn: Some(conn) }),
            None => {
                self.network.set_end(id, Side::Acceptor, End::Gone);
                self.send(id, Side::Dialler, Item::Closed);
            }
        }
    }
}
