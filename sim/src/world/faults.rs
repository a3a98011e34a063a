//! What befalls a cluster: processes, machines, disks and the network between them.
//!
//! At most a minority of the nodes is in lasting trouble at a time, so that a majority could always go on; short trouble
//! may hit all of them at once. On one node there are crashes and broken connections, nothing else.

use std::collections::BTreeSet;

use super::network::{Item, SIDES, Side, Site, WireId};
use super::{Event, MS, World};
use crate::host::End;

/// Trouble that is over sooner counts as short, in milliseconds.
const SHORT_MS: u64 = 400;

impl World {
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        if self.calm {
            return Ok(());
        }
        if self.machines.len() == 1 {
            self.trouble_of_one();
        } else {
            self.trouble_of_many();
        }
        let longest = if self.machines.len() == 1 { 700 } else { 1_500 };
        let delay = self.rng.between(20 * MS, longest * MS);
        self.at(delay, Event::Trouble);
        Ok(())
    }

    /// All trouble ends.
    pub(super) fn begin_calm(&mut self) {
        self.trace.event(self.now_ns, format_args!("calm"), &[]);
        self.calm = true;
        self.network.heal_all();
        self.look_again(self.network.all_sides());
        for node in 0..self.machines.len() {
            self.machines[node].host.repair();
            self.machines[node].paused_until = self.machines[node].paused_until.min(self.now_ns);
            self.at(0, Event::Resume(node));
            self.at(0, Event::Start(node));
        }
    }

    pub(super) fn heal(&mut self, cut: u64) {
        self.trace.event(self.now_ns, format_args!("cut {cut} heals"), &[]);
        self.network.heal(cut);
        self.look_again(self.network.all_sides());
    }

    fn trouble_of_one(&mut self) {
        let down = self.rng.between(MS, 200 * MS);
        match self.rng.below(10) {
            0..3 => self.end_node(0, End::Kill, down),
            3..6 => self.end_node(0, End::PowerCut, down),
            _ => self.reset_one(),
        }
    }

    fn trouble_of_many(&mut self) {
        let node = self.rng.below(self.machines.len());
        match self.rng.below(100) {
            0..14 => self.crash(node, End::Kill),
            14..24 => self.crash(node, End::PowerCut),
            24..36 => self.pause(node),
            36..50 => self.isolate(node),
            50..60 => self.cut_one_way(node),
            60..66 => self.split(),
            66..76 => self.stall_one(),
            76..88 => self.reset_one(),
            88..93 => self.slow_disk(node),
            93..95 => self.failing_disk(node),
            95..97 => self.full_disk(node),
            _ => self.crash_all(),
        }
        if self.plan.extra.rot && self.rng.chance(10) {
            self.rot(node);
        }
    }

    /// How long this trouble may last: long only if a majority is left whole.
    fn duration(&mut self, nodes: &[usize], longest_ms: u64) -> u64 {
        let now = self.now_ns;
        let troubled = |(node, m): &(usize, &super::Machine)| m.troubled_until > now || nodes.contains(node);
        let count = self.machines.iter().enumerate().filter(troubled).count();
        let may_last = count <= (self.machines.len() - 1) / 2;
        let longest = if may_last { longest_ms } else { SHORT_MS };
        let ns = self.rng.between(10, longest) * MS;
        for node in nodes {
            let until = &mut self.machines[*node].troubled_until;
            *until = (*until).max(now + ns);
        }
        ns
    }

    fn crash(&mut self, node: usize, how: End) {
        let longest = if self.rng.chance(40) { 7_000 } else { 200 };
        let down = self.duration(&[node], longest);
        self.end_node(node, how, down);
    }

    /// Most or all of them at once, and soon back.
    fn crash_all(&mut self) {
        self.outcome.befell("outage");
        let spared = self.rng.chance(50).then(|| self.rng.below(self.machines.len()));
        let how = if self.rng.chance(50) { End::Kill } else { End::PowerCut };
        for node in (0..self.machines.len()).filter(|node| Some(*node) != spared) {
            let down = self.rng.between(MS, SHORT_MS * MS);
            self.end_node(node, how, down);
        }
    }

    fn pause(&mut self, node: usize) {
        if self.machines[node].core.is_none() || self.machines[node].is_paused() {
            return;
        }
        let longest = [300, 2_500, 10_000][self.rng.below(3)];
        let ns = self.duration(&[node], longest);
        self.outcome.befell("pause");
        self.trace.event(self.now_ns, format_args!("node {node} pauses"), &[]);
        self.machines[node].paused_until = self.now_ns + ns;
        self.at(ns, Event::Resume(node));
    }

    fn nodes_but(&self, node: usize) -> BTreeSet<Site> {
        (0..self.machines.len()).filter(|other| *other != node).map(Site::Node).collect()
    }

    fn clients(&self) -> BTreeSet<Site> {
        (0..self.stations.len()).map(Site::Client).collect()
    }

    /// Cuts one direction for a time; both ends of some of its wires notice.
    fn cut(&mut self, from: BTreeSet<Site>, to: BTreeSet<Site>, ns: u64) {
        self.trace.event(self.now_ns, format_args!("cut from {from:?} to {to:?}"), &[]);
        let cut = self.network.cut(from, to);
        self.at(ns, Event::Heal(cut));
    }

    fn isolate(&mut self, node: usize) {
        self.outcome.befell("isolation");
        let longest = if self.rng.chance(60) { 8_000 } else { 1_500 };
        let ns = self.duration(&[node], longest);
        let mut others = self.nodes_but(node);
        match self.rng.below(4) {
            // From the other nodes alone: clients still believe in it.
            0 | 1 => {}
            2 => others.extend(self.clients()),
            _ => others = self.clients(),
        }
        let node = BTreeSet::from([Site::Node(node)]);
        let directions = self.rng.below(4);
        if directions != 0 {
            self.cut(node.clone(), others.clone(), ns);
        }
        if directions != 1 {
            self.cut(others, node, ns);
        }
    }

    fn cut_one_way(&mut self, node: usize) {
        self.outcome.befell("one-way cut");
        let other = (node + 1 + self.rng.below(self.machines.len() - 1)) % self.machines.len();
        let ns = self.duration(&[node], 8_000);
        self.cut(BTreeSet::from([Site::Node(node)]), BTreeSet::from([Site::Node(other)]), ns);
    }

    /// A majority and a minority, each with some of the clients.
    fn split(&mut self) {
        self.outcome.befell("split");
        let nodes = self.machines.len();
        let first = self.rng.below(nodes);
        let minority: Vec<usize> = (0..nodes / 2).map(|n| (first + n) % nodes).collect();
        let ns = self.duration(&minority, 7_000);
        let sites = (0..nodes).map(Site::Node).chain(self.clients()).collect::<Vec<_>>();
        let (mut few, mut many) = (BTreeSet::new(), BTreeSet::new());
        for site in sites {
            let is_few = match site {
                Site::Node(node) => minority.contains(&node),
                Site::Client(_) => self.rng.chance(40),
            };
            if is_few {
                few.insert(site)
            } else {
                many.insert(site)
            };
        }
        self.cut(few.clone(), many.clone(), ns);
        self.cut(many, few, ns);
    }

    fn one_wire(&mut self) -> Option<WireId> {
        let wires: Vec<WireId> = self.network.wires().map(|(id, _)| id).collect();
        wires.get(self.rng.below(wires.len())).copied()
    }

    fn stall_one(&mut self) {
        let Some(id) = self.one_wire() else { return };
        self.outcome.befell("stall");
        let side = SIDES[self.rng.below(2)];
        let ns = self.rng.between(50, 6_000) * MS;
        self.network.stall(id, side, self.now_ns + ns);
        self.at(ns, Event::Flow(id, side));
    }

    /// Both ends learn of it, a little later; what was on its way is lost.
    fn reset_one(&mut self) {
        let Some(id) = self.one_wire() else { return };
        self.outcome.befell("reset");
        self.trace.event(self.now_ns, format_args!("{id:?} is reset"), &[]);
        for side in [Side::Dialler, Side::Acceptor] {
            self.network.lose(id, side);
            self.send(id, side, Item::Closed);
        }
    }

    fn slow_disk(&mut self, node: usize) {
        self.outcome.befell("slow disk");
        self.trace.event(self.now_ns, format_args!("disk of node {node} is slow"), &[]);
        let steps = self.rng.between(20, 3_000);
        let ns = self.duration(&[node], 4_000);
        self.machines[node].host.slow(steps);
        self.at(ns, Event::Repair(node));
    }

    fn failing_disk(&mut self, node: usize) {
        self.outcome.befell("failing disk");
        self.trace.event(self.now_ns, format_args!("disk of node {node} fails"), &[]);
        self.machines[node].host.fail();
        let ns = self.duration(&[node], 4_000);
        // Whether it noticed or not, somebody restarts it in the end.
        self.at(ns, Event::Repair(node));
    }

    fn full_disk(&mut self, node: usize) {
        self.outcome.befell("full disk");
        self.trace.event(self.now_ns, format_args!("disk of node {node} is full"), &[]);
        self.machines[node].host.fill();
        let ns = self.duration(&[node], 4_000);
        self.at(ns, Event::Repair(node));
    }

    fn rot(&mut self, node: usize) {
        if node < self.machines.len().div_ceil(2) {
            // A majority keeps what it has.
            return;
        }
        if self.machines[node].host.rot() {
            self.outcome.befell("rot");
            self.trace.event(self.now_ns, format_args!("disk of node {node} rots"), &[]);
        }
    }
}
