//! Connections as streams, and what stands in their way. It knows nothing of what they carry, nor of time but its order.
//!
//! ```text
//!  dialler ── pipe ──> acceptor      a pipe: Opened, Bytes, Bytes, ..., Closed, each with the time that it may arrive at
//!          <── pipe ──               held up by a cut between the two sites, a stall, a reader that reads no more
//! ```
//! What is held up is not lost, as TCP would send it again; a reset loses it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, Bytes, BytesMut};
use wherry_node::core::ConnId;

/// What a kernel keeps for a peer that does not read, in bytes.
const SOCKET_BYTES: usize = 64 << 10;

/// A place that connections go from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    Node(usize),
    /// By its station.
    Client(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WireId(u64);

/// One of the two ends of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Dialler,
    Acceptor,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Dialler => 0,
            Self::Acceptor => 1,
        }
    }
}

pub(crate) const SIDES: [Side; 2] = [Side::Dialler, Side::Acceptor];

/// Who holds an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// A station's line to a node.
    Client { station: usize, node: usize },
    /// `None` until it is accepted.
    Node { node: usize, conn: Option<ConnId> },
    /// Nobody any more.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Opened,
    Bytes(Bytes),
    Closed,
}

/// What a pipe has for its end now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Item(Item),
    /// Nothing, or something is in the way; who removes it looks again.
    Nothing,
}

#[derive(Debug, Default)]
struct Pipe {
    items: VecDeque<(u64, Item)>,
    last_at: u64,
    stalled_until: u64,
    /// Its reader reads no more for now.
    held: bool,
    bytes: usize,
    partial: BytesMut,
    /// Sizes of what was written and not yet taken by the kernel.
    owed: VecDeque<usize>,
}

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) sites: [Site; 2],
    ends: [End; 2],
    pipes: [Pipe; 2],
}

/// A direction that nothing gets through.
#[derive(Debug)]
struct Cut {
    from: BTreeSet<Site>,
    to: BTreeSet<Site>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Network {
    wires: BTreeMap<WireId, Wire>,
    conns: BTreeMap<(usize, ConnId), (WireId, Side)>,
    cuts: BTreeMap<u64, Cut>,
    next: u64,
}

impl Network {
    pub(crate) fn dial(&mut self, from: Site, end: End, to: Site) -> WireId {
        self.next += 1;
        let id = WireId(self.next);
        if let End::Node { node, conn: Some(conn) } = end {
            self.conns.insert((node, conn), (id, Side::Dialler));
        }
        let wire = Wire { sites: [from, to], ends: [end, End::Gone], pipes: Default::default() };
        self.wires.insert(id, wire);
        id
    }

    pub(crate) fn wire(&self, id: WireId) -> Option<&Wire> {
        self.wires.get(&id)
    }

    pub(crate) fn wires(&self) -> impl Iterator<Item = (WireId, &Wire)> {
        self.wires.iter().map(|(id, wire)| (*id, wire))
    }

    pub(crate) fn end(&self, id: WireId, side: Side) -> End {
        self.wires.get(&id).map_or(End::Gone, |wire| wire.ends[side.index()])
    }

    pub(crate) fn of_conn(&self, node: usize, conn: ConnId) -> Option<(WireId, Side)> {
        self.conns.get(&(node, conn)).copied()
    }

    /// Somebody holds this end from now on, or nobody.
    pub(crate) fn set_end(&mut self, id: WireId, side: Side, end: End) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if let End::Node { node, conn: Some(conn) } = wire.ends[side.index()] {
            self.conns.remove(&(node, conn));
        }
        wire.ends[side.index()] = end;
        match end {
            End::Node { node, conn: Some(conn) } => {
                self.conns.insert((node, conn), (id, side));
            }
            End::Gone if wire.ends == [End::Gone; 2] => {
                self.wires.remove(&id);
            }
            End::Gone | End::Client { .. } | End::Node { conn: None, .. } => {}
        }
    }

    /// Sends towards a side; gives when it may arrive.
    pub(crate) fn push(&mut self, id: WireId, towards: Side, at: u64, item: Item) -> Option<u64> {
        let pipe = &mut self.wires.get_mut(&id)?.pipes[towards.index()];
        let at = at.max(pipe.last_at + 1);
        pipe.last_at = at;
        if let Item::Bytes(bytes) = &item {
            pipe.bytes += bytes.len();
        }
        pipe.items.push_back((at, item));
        Some(at)
    }

    /// What a side gets next.
    pub(crate) fn take(&mut self, id: WireId, side: Side, now: u64) -> Ready {
        let Some(wire) = self.wires.get(&id) else { return Ready::Nothing };
        let (from, to) = (wire.sites[side.other().index()], wire.sites[side.index()]);
        let cut = self.is_cut(from, to);
        let Some(wire) = self.wires.get_mut(&id) else { return Ready::Nothing };
        let pipe = &mut wire.pipes[side.index()];
        if cut || pipe.held || pipe.stalled_until > now || pipe.items.front().is_none_or(|(at, _)| *at > now) {
            return Ready::Nothing;
        }
        let Some((_, item)) = pipe.items.pop_front() else { return Ready::Nothing };
        if let Item::Bytes(bytes) = &item {
            pipe.bytes = pipe.bytes.saturating_sub(bytes.len());
        }
        Ready::Item(item)
    }

    /// Puts bytes behind what a side has of an unfinished frame; gives whole frames, without their lengths.
    pub(crate) fn frames(&mut self, id: WireId, side: Side, bytes: &[u8]) -> Vec<Bytes> {
        let Some(wire) = self.wires.get_mut(&id) else { return Vec::new() };
        let partial = &mut wire.pipes[side.index()].partial;
        partial.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(prefix) = partial.first_chunk::<4>() {
            let len = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            if partial.len().saturating_sub(4) < len {
                break;
            }
            partial.advance(4);
            out.push(partial.split_to(len).freeze());
        }
        out
    }

    /// What a side sent is lost, if it has not arrived.
    pub(crate) fn lose(&mut self, id: WireId, towards: Side) {
        if let Some(wire) = self.wires.get_mut(&id) {
            let pipe = &mut wire.pipes[towards.index()];
            pipe.items.clear();
            pipe.owed.clear();
            pipe.bytes = 0;
        }
    }

    /// A writer wrote this many bytes; they count as taken when [`Network::taken`] says so.
    pub(crate) fn owe(&mut self, id: WireId, towards: Side, bytes: usize) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.pipes[towards.index()].owed.push_back(bytes);
        }
    }

    /// What the kernel takes of what was written towards a side.
    pub(crate) fn taken(&mut self, id: WireId, towards: Side) -> usize {
        let Some(wire) = self.wires.get_mut(&id) else { return 0 };
        let pipe = &mut wire.pipes[towards.index()];
        let mut taken = 0;
        let mut waiting: usize = pipe.owed.iter().sum();
        while pipe.bytes.saturating_sub(waiting) < SOCKET_BYTES {
            let Some(bytes) = pipe.owed.pop_front() else { break };
            waiting -= bytes;
            taken += bytes;
        }
        taken
    }

    pub(crate) fn hold(&mut self, id: WireId, side: Side, held: bool) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.pipes[side.index()].held = held;
        }
    }

    pub(crate) fn stall(&mut self, id: WireId, side: Side, until: u64) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.pipes[side.index()].stalled_until = until;
        }
    }

    pub(crate) fn is_cut(&self, from: Site, to: Site) -> bool {
        self.cuts.values().any(|cut| cut.from.contains(&from) && cut.to.contains(&to))
    }

    /// Nothing gets from these to those until it heals.
    pub(crate) fn cut(&mut self, from: BTreeSet<Site>, to: BTreeSet<Site>) -> u64 {
        self.next += 1;
        self.cuts.insert(self.next, Cut { from, to });
        self.next
    }

    pub(crate) fn heal(&mut self, cut: u64) {
        self.cuts.remove(&cut);
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
        for pipe in self.wires.values_mut().flat_map(|wire| &mut wire.pipes) {
            pipe.stalled_until = 0;
        }
    }

    /// Both sides of every wire.
    pub(crate) fn all_sides(&self) -> Vec<(WireId, Side)> {
        self.wires.keys().flat_map(|id| SIDES.map(|side| (*id, side))).collect()
    }

    /// The ends that a node holds.
    pub(crate) fn held_by_node(&self, node: usize) -> Vec<(WireId, Side)> {
        let is_held =
            |(id, side): &(WireId, Side)| matches!(self.end(*id, *side), End::Node { node: n, .. } if n == node);
        self.all_sides().into_iter().filter(is_held).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Site = Site::Client(0);
    const TO: Site = Site::Node(0);

    fn wire(network: &mut Network) -> WireId {
        let id = network.dial(FROM, End::Client { station: 0, node: 0 }, TO);
        network.set_end(id, Side::Acceptor, End::Node { node: 0, conn: None });
        id
    }

    fn bytes(text: &'static str) -> Item {
        Item::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn order_is_kept_and_time_is_waited_for() {
        let mut network = Network::default();
        let id = wire(&mut network);
        assert_eq!(network.push(id, Side::Acceptor, 10, bytes("a")), Some(10));
        assert_eq!(network.push(id, Side::Acceptor, 5, bytes("b")), Some(11), "not before what was sent before");
        assert_eq!(network.take(id, Side::Acceptor, 9), Ready::Nothing);
        assert_eq!(network.take(id, Side::Acceptor, 11), Ready::Item(bytes("a")));
        assert_eq!(network.take(id, Side::Acceptor, 11), Ready::Item(bytes("b")));
        assert_eq!(network.take(id, Side::Acceptor, 11), Ready::Nothing);
    }

    #[test]
    fn a_cut_holds_one_direction_until_it_heals() {
        let mut network = Network::default();
        let id = wire(&mut network);
        network.push(id, Side::Acceptor, 1, bytes("request"));
        network.push(id, Side::Dialler, 1, bytes("response"));
        let cut = network.cut(BTreeSet::from([FROM]), BTreeSet::from([TO]));
        assert_eq!(network.take(id, Side::Acceptor, 5), Ready::Nothing);
        assert_eq!(network.take(id, Side::Dialler, 5), Ready::Item(bytes("response")));
        network.heal(cut);
        assert_eq!(network.take(id, Side::Acceptor, 5), Ready::Item(bytes("request")));
    }

    #[test]
    fn a_kernel_takes_no_more_than_its_buffer() {
        let mut network = Network::default();
        let id = wire(&mut network);
        let big = Bytes::from(vec![0; SOCKET_BYTES]);
        for _ in 0..3 {
            network.owe(id, Side::Dialler, big.len());
            network.push(id, Side::Dialler, 1, Item::Bytes(big.clone()));
        }
        assert_eq!(network.taken(id, Side::Dialler), SOCKET_BYTES);
        assert_eq!(network.taken(id, Side::Dialler), 0);
        assert_ne!(network.take(id, Side::Dialler, 9), Ready::Nothing);
        assert_eq!(network.taken(id, Side::Dialler), SOCKET_BYTES);
    }

    #[test]
    fn frames_are_whole() {
        let mut network = Network::default();
        let id = wire(&mut network);
        assert_eq!(network.frames(id, Side::Acceptor, &[0, 0, 0]), Vec::<Bytes>::new());
        let frames = network.frames(id, Side::Acceptor, &[2, 7, 8, 0, 0, 0, 0, 0]);
        assert_eq!(frames, [Bytes::from_static(&[7, 8]), Bytes::new()]);
    }

    #[test]
    fn a_wire_that_nobody_holds_is_gone() {
        let mut network = Network::default();
        let id = wire(&mut network);
        network.set_end(id, Side::Dialler, End::Gone);
        assert!(network.wire(id).is_some());
        network.set_end(id, Side::Acceptor, End::Gone);
        assert!(network.wire(id).is_none());
    }
}
