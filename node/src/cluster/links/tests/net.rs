//! A network in memory between a few nodes, whose clock the tests move.

use bytes::{Buf, Bytes, BytesMut};
use uuid::Uuid;

use super::super::*;
use crate::entropy::Entropy;
use crate::error::ConnectError;

pub(super) const MS: u64 = 1_000_000;
pub(super) const QUEUE: usize = 10_000;

/// Where a dial to a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Refuses,
    Silent,
}

pub(super) struct Node {
    pub(super) links: Links,
    pub(super) door: Door,
    pub(super) events: Vec<LinkEvent>,
    pub(super) dials: Vec<u64>,
    pub(super) closes: Vec<String>,
    pub(super) next_incarnation: u128,
}

/// A connection: who dialled, who accepted, and whether its bytes arrive.
pub(super) struct Conn {
    pub(super) ends: [(usize, Option<LinkId>); 2],
    pub(super) partial: [BytesMut; 2],
    pub(super) stalled: bool,
    pub(super) challenged: Option<Box<Challenged>>,
}

pub(super) struct Net {
    pub(super) now_ns: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) conns: Vec<Conn>,
}

pub(crate) fn identity(node: i32, incarnation: u128) -> Identity {
    Identity {
        node,
        incarnation: Uuid::from_u128(incarnation),
        directory: Uuid::from_u128(1000 + incarnation),
        cluster_id: Some("boats".into()),
        initialised: true,
    }
}

pub(super) fn links(me: Identity) -> Links {
    trusting(me, Trust::Anybody)
}

pub(super) fn trusting(me: Identity, trust: Trust) -> Links {
    let seed = me.incarnation.as_u64_pair().1;
    let config = LinksConfig { me, seed, max_message_bytes: 20 << 20, queue_bytes: QUEUE, trust };
    Links::new(config, Entropy::seeded(seed))
}

pub(super) fn target(node: usize, class: Class) -> Target {
    Target { node: i32::try_from(node).ok(), class, host: node.to_string(), port: 1 }
}

pub(super) fn seed(node: usize) -> Target {
    Target { node: None, ..target(node, Class::Control) }
}

pub(super) fn body(text: &str) -> Vec<Bytes> {
    vec![Bytes::copy_from_slice(text.as_bytes())]
}

impl Net {
    pub(super) fn new(count: usize) -> Self {
        let node = |n: usize| Self::node(identity(i32::try_from(n).unwrap(), n as u128 + 1));
        Self { now_ns: 1_000 * MS, nodes: (0..count).map(node).collect(), conns: Vec::new() }
    }

    pub(super) fn node(me: Identity) -> Node {
        let next_incarnation = me.incarnation.as_u128() + 100;
        let (events, dials, closes) = (Vec::new(), Vec::new(), Vec::new());
        Node { links: links(me), door: Door::Open, events, dials, closes, next_incarnation }
    }

    /// Another process of the node; the old one's connections say nothing any more, as after a power cut.
    pub(super) fn restart(&mut self, node: usize) {
        let mut me = self.nodes[node].links.me().clone();
        me.incarnation = Uuid::from_u128(self.nodes[node].next_incarnation);
        self.conns.iter_mut().flat_map(|conn| &mut conn.ends).filter(|(n, _)| *n == node).for_each(|end| end.1 = None);
        self.nodes[node] = Self::node(me);
    }

    pub(super) fn targets(&mut self, node: usize, targets: &[Target]) {
        self.nodes[node].links.set_targets(self.now_ns, targets.iter().cloned());
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        while let Some((node, action)) = self.next_action() {
            match action {
                Action::Connect { link, host, .. } => self.connect(node, link, host.parse().unwrap()),
                Action::Send { link, chunks } => self.send(node, link, &chunks),
                Action::Close { link, reason } => {
                    self.nodes[node].closes.push(reason);
                    self.hang_up(node, link);
                }
            }
        }
        for node in &mut self.nodes {
            node.events.extend(std::iter::from_fn(|| node.links.next_event()));
        }
    }

    pub(super) fn next_action(&mut self) -> Option<(usize, Action)> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let mut actions = node.links.take_actions();
            if !actions.is_empty() {
                let rest = actions.split_off(1);
                node.links.put_back(rest);
                return actions.pop().map(|action| (at, action));
            }
        }
        None
    }

    pub(super) fn connect(&mut self, node: usize, link: LinkId, to: usize) {
        self.nodes[node].dials.push(self.now_ns);
        let result = match self.nodes[to].door {
            Door::Open => Ok(()),
            Door::Refuses => Err(ConnectError::Refused),
            Door::Silent => return,
        };
        if result.is_ok() {
            let ends = [(node, Some(link)), (to, None)];
            self.conns.push(Conn { ends, partial: Default::default(), stalled: false, challenged: None });
        }
        self.nodes[node].links.connect_done(self.now_ns, link, result);
    }

    pub(super) fn conn(&self, node: usize, link: LinkId) -> Option<(usize, usize)> {
        let side = |conn: &Conn| conn.ends.iter().position(|end| *end == (node, Some(link)));
        self.conns.iter().enumerate().find_map(|(at, conn)| Some((at, side(conn)?)))
    }

    pub(super) fn send(&mut self, node: usize, link: LinkId, chunks: &[Bytes]) {
        let Some((at, side)) = self.conn(node, link) else { return };
        if self.conns[at].stalled {
            return;
        }
        let bytes = chunks.concat();
        self.nodes[node].links.sent(self.now_ns, link, bytes.len());
        self.conns[at].partial[side].extend_from_slice(&bytes);
        while let Some(frame) = next_frame(&mut self.conns[at].partial[side]) {
            self.deliver(at, 1 - side, frame);
        }
    }

    pub(super) fn deliver(&mut self, at: usize, side: usize, frame: Bytes) {
        match self.conns[at].ends[side] {
            (node, Some(link)) => self.nodes[node].links.received(self.now_ns, link, frame),
            (_, None) if side == 0 => {}
            (node, None) => {
                let (links, now_ns) = (&mut self.nodes[node].links, self.now_ns);
                let greeted = match self.conns[at].challenged.take() {
                    Some(challenged) => links.proven(now_ns, *challenged, frame).map(Greeted::Linked),
                    None => links.accept(now_ns, frame, None),
                };
                match greeted {
                    Ok(Greeted::Linked(link)) => self.conns[at].ends[side].1 = Some(link),
                    Ok(Greeted::Challenged(chunks, challenged)) => {
                        self.conns[at].challenged = Some(challenged);
                        self.deliver(at, 1 - side, Bytes::from(chunks.concat()).slice(4..));
                    }
                    Err(refusal) => self.refuse(at, &refusal),
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, at: usize, refusal: &Refusal) {
        let (node, Some(link)) = self.conns[at].ends[0] else { return };
        self.conns[at].ends = [(usize::MAX, None); 2];
        let frame = Bytes::from(refusal.chunks.concat()).slice(4..);
        self.nodes[node].links.received(self.now_ns, link, frame);
        self.nodes[node].links.disconnected(self.now_ns, link);
    }

    pub(super) fn hang_up(&mut self, node: usize, link: LinkId) {
        let Some((at, side)) = self.conn(node, link) else { return };
        let other = self.conns[at].ends[1 - side];
        self.conns[at].ends = [(usize::MAX, None); 2];
        if let ((other, Some(link)), false) = (other, self.conns[at].stalled) {
            self.nodes[other].links.disconnected(self.now_ns, link);
        }
    }

    /// Time passes, turn by turn, as deadlines ask for.
    pub(super) fn pass_ms(&mut self, ms: u64) {
        let end = self.now_ns + ms * MS;
        loop {
            self.settle();
            let next = self.nodes.iter().filter_map(|node| node.links.next_deadline()).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now_ns = self.now_ns.max(at);
            for node in &mut self.nodes {
                node.links.turn(self.now_ns);
            }
        }
        self.now_ns = end;
        self.settle();
    }

    pub(super) fn take_events(&mut self, node: usize) -> Vec<LinkEvent> {
        std::mem::take(&mut self.nodes[node].events)
    }

    pub(super) fn messages(&mut self, node: usize) -> Vec<(i32, Class, String)> {
        let text = |body: &Bytes| String::from_utf8(body.to_vec()).unwrap();
        let message = |event: &LinkEvent| match event {
            LinkEvent::Message { node, class, body, .. } => Some((*node, *class, text(body))),
            LinkEvent::Up { .. } | LinkEvent::Down { .. } => None,
        };
        self.take_events(node).iter().filter_map(message).collect()
    }

    /// Ups and downs of a node in short: `+1c>` is an outgoing control link to node 1, `!` a refused dial.
    pub(super) fn story(&mut self, node: usize) -> String {
        let short = |sign: &str, node: i32, class: Class, outgoing: bool| {
            let class = if class == Class::Control { 'c' } else { 'd' };
            format!("{sign}{node}{class}{}", if outgoing { '>' } else { '<' })
        };
        let tell = |event: LinkEvent| match event {
            LinkEvent::Up { class, outgoing, peer, .. } => Some(short("+", peer.node, class, outgoing)),
            LinkEvent::Down { node, class, outgoing, refused, .. } => {
                Some(short(if refused { "!" } else { "-" }, node, class, outgoing))
            }
            LinkEvent::Message { .. } => None,
        };
        self.take_events(node).into_iter().filter_map(tell).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn say(&mut self, node: usize, to: i32, class: Class, text: &str) -> Result<(), SendError> {
        let outcome = self.nodes[node].links.send(to, class, body(text));
        self.settle();
        outcome
    }
}

pub(super) fn next_frame(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).unwrap();
    if bytes.len() < 4 + length {
        return None;
    }
    bytes.advance(4);
    Some(bytes.split_to(length).freeze())
}
