//! Three nodes, links that delay and break, disks that crash, and a metadata service that elects leaders and changes
//! in-sync sets under the rules of epochs. What must hold is looked at after each turn of each node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::super::store::Now;
use super::super::*;
use super::disk::{Done, Store, batch};
use crate::mutation::mutated;

pub(super) const NODES: i32 = 3;

pub(super) fn log(partition: i32) -> LogId {
    LogId { topic: Uuid::from_u128(7), partition }
}

pub(super) struct Node {
    pub(super) up: bool,
    pub(super) replicas: Replicas,
    pub(super) store: Store,
    pub(super) incarnation: u128,
    pub(super) lease: bool,
    wants: Vec<i32>,
}

/// What the metadata knows of a partition.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) replicas: Vec<i32>,
    pub(super) isr: Vec<i32>,
    pub(super) leader: Option<i32>,
    pub(super) leader_epoch: i32,
    pub(super) partition_epoch: i32,
    pub(super) min_insync: usize,
}

pub(super) struct Pipe {
    dialler: i32,
    acceptor: i32,
    to_dialler: VecDeque<Bytes>,
    to_acceptor: VecDeque<Bytes>,
    /// Whether each end knows of it still.
    dialler_up: bool,
    acceptor_up: bool,
}

struct Wait {
    node: i32,
    log: LogId,
    base: i64,
    payload: u64,
}

pub(super) struct World {
    pub(super) now_ms: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) meta: BTreeMap<LogId, Meta>,
    pub(super) fenced: BTreeSet<i32>,
    pub(super) pipes: BTreeMap<LinkId, Pipe>,
    /// Pairs of nodes that can't reach each other.
    pub(super) parted: BTreeSet<(i32, i32)>,
    pub(super) changes: VecDeque<(i32, u128, IsrChange)>,
    serial: u64,
    waits: BTreeMap<WaitId, Wait>,
    pub(super) released: usize,
    pub(super) lost: Vec<LogId>,
    pub(super) dropped: Vec<String>,
    /// Every record that was below a high watermark or acknowledged: base offset and number.
    pub(super) committed: BTreeMap<LogId, BTreeMap<i64, u64>>,
    watermarks: BTreeMap<(i32, u128, LogId, i32), i64>,
    pub(super) fault: Option<String>,
}

fn replicas(node: i32) -> Replicas {
    Replicas::new(ReplicationConfig { link_window_bytes: 2_000, ..ReplicationConfig::new(node) })
}

impl World {
    pub(super) fn new(partitions: i32, min_insync: usize) -> Self {
        let nodes = (0..NODES).map(|node| Node {
            up: true,
            replicas: replicas(node),
            store: Store::default(),
            incarnation: 1,
            lease: true,
            wants: Vec::new(),
        });
        let meta = (0..partitions).map(|p| {
            let order: Vec<i32> = (0..NODES).map(|n| (n + p) % NODES).collect();
            let leader = order.first().copied();
            let isr = order.clone();
            (log(p), Meta { replicas: order, isr, leader, leader_epoch: 0, partition_epoch: 0, min_insync })
        });
        let mut world = Self {
            now_ms: 1_000,
            nodes: nodes.collect(),
            meta: meta.collect(),
            fenced: BTreeSet::new(),
            pipes: BTreeMap::new(),
            parted: BTreeSet::new(),
            changes: VecDeque::new(),
            serial: 0,
            waits: BTreeMap::new(),
            released: 0,
            lost: Vec::new(),
            dropped: Vec::new(),
            committed: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            fault: None,
        };
        for node in 0..NODES {
            world.begin(node);
        }
        world
    }

    fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn fail(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    pub(super) fn node(&mut self, node: i32) -> &mut Node {
        &mut self.nodes[usize::try_from(node).unwrap()]
    }

    /// A process starts over what its disk holds.
    fn begin(&mut self, node: i32) {
        let logs: Vec<LogId> = self.meta.keys().copied().collect();
        let n = self.node(node);
        for id in logs {
            n.store.create(id);
        }
        n.replicas.set_lease(n.lease);
        self.view(node);
    }

    /// The node learns what the metadata says now; what came between it never sees.
    pub(super) fn view(&mut self, node: i32) {
        let all: Vec<(LogId, Meta)> = self.meta.iter().map(|(id, m)| (*id, m.clone())).collect();
        for (id, meta) in all {
            let epoch = LeaderEpoch(meta.leader_epoch);
            let role = if meta.leader == Some(node) {
                self.check_complete(node, id);
                Role::Leader(LeaderRole {
                    leader_epoch: epoch,
                    partition_epoch: meta.partition_epoch,
                    replicas: meta.replicas,
                    isr: meta.isr,
                    min_insync_replicas: meta.min_insync,
                })
            } else if meta.replicas.contains(&node) {
                Role::Follower(FollowerRole { leader_epoch: epoch, leader: meta.leader })
            } else {
                Role::None
            };
            let n = self.node(node);
            n.replicas.partition(&mut n.store, id, role);
        }
        self.turn(node);
    }

    /// A leader has everything that was ever committed.
    fn check_complete(&mut self, node: i32, id: LogId) {
        let committed = self.committed.get(&id).cloned().unwrap_or_default();
        let log = self.node(node).store.log(id).clone();
        let has: BTreeMap<i64, u64> = log.batches.iter().map(|b| (b.header.base_offset.0, b.payload())).collect();
        for (base, payload) in committed.range(log.start..) {
            if has.get(base) != Some(payload) {
                self.fail(format!("leader {node} of {id} has {:?} at {base}, committed is {payload}", has.get(base)));
            }
        }
    }

    /// What is shown agrees with whatever was ever shown, and nothing is missing.
    fn check_watermark(&mut self, node: i32, id: LogId) {
        let incarnation = self.node(node).incarnation;
        let Some(hw) = self.node(node).replicas.high_watermark(id) else { return };
        let log = self.node(node).store.log(id).clone();
        let committed = self.committed.entry(id).or_default();
        let mut fault = None;
        for b in log.batches.iter().filter(|b| b.header.next_offset() <= hw) {
            let known = *committed.entry(b.header.base_offset.0).or_insert(b.payload());
            if known != b.payload() {
                fault = Some(format!("node {node}, {id} at {}: {} for {known}", b.header.base_offset, b.payload()));
            }
        }
        let has = log.batches.iter().filter(|b| b.header.next_offset() <= hw).count();
        if has != committed.range(log.start..hw.0).count() {
            fault = Some(format!("node {node}, {id}: records below {hw} are missing"));
        }
        if let Some((epoch, enough)) = self.node(node).replicas.leads(id) {
            let last = self.watermarks.entry((node, incarnation, id, epoch.0)).or_insert(hw.0);
            if *last < hw.0 && !enough {
                fault = Some(format!("node {node}, {id}: {hw} is committed with too few in sync"));
            }
            if *last > hw.0 {
                fault = Some(format!("node {node}, {id}: the high watermark went from {last} back to {hw}"));
            }
            *last = hw.0;
        }
        if let Some(fault) = fault {
            self.fail(fault);
        }
    }

    pub(super) fn turn(&mut self, node: i32) {
        let now = Now { monotonic_ns: self.now_ms * 1_000_000, wall_ms: 0 };
        let n = self.node(node);
        if !n.up {
            return;
        }
        n.replicas.set_now(now);
        n.replicas.turn(&mut n.store);
        let outputs: Vec<Output> = n.replicas.outputs().collect();
        let incarnation = n.incarnation;
        for output in outputs {
            match output {
                Output::Send { link, chunks } => self.send(node, link, &chunks),
                Output::DropLink { link, reason } => {
                    self.dropped.push(reason);
                    self.close(node, link);
                }
                Output::Want(nodes) => self.node(node).wants = nodes,
                Output::Released(id) => self.release(node, id),
                Output::Failed(id, _) => {
                    self.waits.remove(&id);
                }
                Output::HighWatermark(id) => self.check_watermark(node, id),
                Output::ProposeIsr(list) => {
                    self.changes.extend(list.into_iter().map(|change| (node, incarnation, change)));
                }
                Output::LogLost(id) => self.lost.push(id),
            }
        }
    }

    fn release(&mut self, node: i32, id: WaitId) {
        let Some(wait) = self.waits.remove(&id) else { return };
        self.released += 1;
        assert_eq!(wait.node, node);
        if !self.node(node).lease {
            self.fail(format!("node {node} acknowledged without a lease"));
        }
        let known = *self.committed.entry(wait.log).or_default().entry(wait.base).or_insert(wait.payload);
        if known != wait.payload {
            self.fail(format!("{} acknowledged at {} of {}, where {known} is", wait.payload, wait.base, wait.log));
        }
    }

    fn send(&mut self, node: i32, link: LinkId, chunks: &[Bytes]) {
        let body = Bytes::from(chunks.concat());
        let Some(pipe) = self.pipes.get_mut(&link) else { return };
        let queue = if pipe.dialler == node { &mut pipe.to_acceptor } else { &mut pipe.to_dialler };
        queue.push_back(body);
    }

    /// Appends as a leader does that takes itself for one; `acks` waits for the high watermark.
    pub(super) fn produce(&mut self, node: i32, id: LogId, acks: bool) -> Option<WaitId> {
        let payload = self.serial();
        let n = self.node(node);
        let (epoch, enough) = n.replicas.leads(id).filter(|_| n.up)?;
        if acks && !enough {
            return None;
        }
        let records = i32::try_from(payload % 3).unwrap() + 1;
        let (base, end) = n.store.append(id, &batch(payload, records), epoch);
        let wait = WaitId(payload);
        if acks {
            n.replicas.wait_for(id, end, wait);
            self.waits.insert(wait, Wait { node, log: id, base: base.0, payload });
        }
        self.turn(node);
        acks.then_some(wait)
    }

    pub(super) fn is_waiting(&self, id: WaitId) -> bool {
        self.waits.contains_key(&id)
    }

    pub(super) fn seal(&mut self, node: i32) {
        let done = self.node(node).store.seal();
        self.tell(node, done);
    }

    pub(super) fn write(&mut self, node: i32, entries: usize) {
        let done = self.node(node).store.write(entries);
        self.tell(node, done);
    }

    fn tell(&mut self, node: i32, done: Done) {
        let n = self.node(node);
        if !n.up {
            return;
        }
        done.sealed.into_iter().for_each(|id| n.replicas.sealed(id));
        n.replicas.durable(done.ticket);
        done.advanced.into_iter().for_each(|id| n.replicas.advanced(&mut n.store, id));
        self.turn(node);
    }

    pub(super) fn finish_read(&mut self, node: i32) {
        let n = self.node(node);
        if let Some((token, result)) = n.store.next_read().filter(|_| n.up) {
            n.replicas.read_done(&mut n.store, token, result).unwrap();
        }
        self.turn(node);
    }

    pub(super) fn set_busy(&mut self, node: i32, busy: bool) {
        let n = self.node(node);
        n.store.busy = busy;
        if !busy {
            n.replicas.room();
        }
        self.turn(node);
    }

    fn reachable(&self, a: i32, b: i32) -> bool {
        let up = |n: i32| self.nodes[usize::try_from(n).unwrap()].up;
        up(a) && up(b) && !self.parted.contains(&(a.min(b), a.max(b)))
    }

    /// Dials what is wanted and missing.
    pub(super) fn connect(&mut self) {
        for node in 0..NODES {
            for to in self.node(node).wants.clone() {
                let there = self.pipes.values().any(|p| p.dialler == node && p.acceptor == to && p.dialler_up);
                if there || !self.reachable(node, to) {
                    continue;
                }
                let link = LinkId(self.serial());
                let incarnations = [node, to].map(|n| Uuid::from_u128(self.node(n).incarnation));
                self.node(to).replicas.link_up(link, node, incarnations[0], Side::Accepted);
                self.node(node).replicas.link_up(link, to, incarnations[1], Side::Dialled);
                let pipe = Pipe {
                    dialler: node,
                    acceptor: to,
                    to_dialler: VecDeque::new(),
                    to_acceptor: VecDeque::new(),
                    dialler_up: true,
                    acceptor_up: true,
                };
                self.pipes.insert(link, pipe);
                self.turn(node);
                self.turn(to);
            }
        }
    }

    /// A node closes a connection.
    fn close(&mut self, node: i32, link: LinkId) {
        let Some(pipe) = self.pipes.get_mut(&link) else { return };
        if pipe.acceptor == node {
            pipe.acceptor_up = false;
            pipe.to_acceptor.clear();
        }
        self.cut(link);
    }

    /// The connection breaks for the dialler; the acceptor learns of it later, and what was sent still arrives there.
    pub(super) fn cut(&mut self, link: LinkId) {
        let Some(pipe) = self.pipes.get_mut(&link).filter(|p| p.dialler_up) else { return };
        pipe.dialler_up = false;
        pipe.to_dialler.clear();
        let dialler = pipe.dialler;
        self.node(dialler).replicas.link_down(link);
    }

    /// The acceptor of a broken connection learns of it.
    pub(super) fn end(&mut self, link: LinkId) {
        let Some(pipe) = self.pipes.get(&link) else { return };
        if !pipe.dialler_up && (pipe.to_acceptor.is_empty() || !pipe.acceptor_up) {
            let acceptor = pipe.acceptor;
            self.pipes.remove(&link);
            self.node(acceptor).replicas.link_down(link);
        }
    }

    /// One message arrives. Returns whether there was one.
    pub(super) fn deliver(&mut self, link: LinkId, to_dialler: bool) -> bool {
        let Some(pipe) = self.pipes.get_mut(&link) else { return false };
        let (node, queue) = match to_dialler {
            true => (pipe.dialler, &mut pipe.to_dialler),
            false => (pipe.acceptor, &mut pipe.to_acceptor),
        };
        let Some(body) = queue.pop_front() else { return false };
        let n = self.node(node);
        if n.up {
            n.replicas.message(&mut n.store, link, body);
            self.turn(node);
        }
        true
    }

    fn elect(&mut self, id: LogId, bump: bool) {
        let fenced = self.fenced.clone();
        let meta = self.meta.get_mut(&id).unwrap();
        let leader = meta.replicas.iter().copied().find(|n| meta.isr.contains(n) && !fenced.contains(n));
        if leader != meta.leader || bump {
            meta.leader = leader;
            meta.leader_epoch += 1;
            meta.partition_epoch += 1;
        }
    }

    /// The metadata takes a node for dead. It has no lease any more by then.
    pub(super) fn fence(&mut self, node: i32) {
        if mutated!(ResumeEpoch) && !self.node(node).up {
            return;
        }
        self.fenced.insert(node);
        for id in self.meta.keys().copied().collect::<Vec<_>>() {
            let meta = self.meta.get_mut(&id).unwrap();
            if meta.isr.contains(&node) && meta.isr.len() > 1 {
                meta.isr.retain(|n| *n != node);
                meta.partition_epoch += 1;
            }
            self.elect(id, false);
        }
    }

    pub(super) fn unfence(&mut self, node: i32) {
        self.fenced.remove(&node);
        for id in self.meta.keys().copied().collect::<Vec<_>>() {
            if self.meta[&id].leader.is_none() {
                self.elect(id, false);
            }
        }
        let n = self.node(node);
        n.lease = true;
        n.replicas.set_lease(true);
    }

    pub(super) fn expire_lease(&mut self, node: i32) {
        let n = self.node(node);
        n.lease = false;
        n.replicas.set_lease(false);
    }

    /// Leadership moves to another in-sync replica.
    pub(super) fn move_leader(&mut self, id: LogId, to: i32) {
        let may = self.meta[&id].isr.contains(&to) && !self.fenced.contains(&to);
        let meta = self.meta.get_mut(&id).unwrap();
        if may && meta.leader.is_some() && meta.leader != Some(to) {
            meta.leader = Some(to);
            meta.leader_epoch += 1;
            meta.partition_epoch += 1;
        }
    }

    pub(super) fn crash(&mut self, node: i32, luck: usize) {
        let n = self.node(node);
        n.up = false;
        n.wants.clear();
        n.store.crash(luck);
        self.waits.retain(|_, wait| wait.node != node);
        let links: Vec<LinkId> =
            self.pipes.iter().filter(|(_, p)| p.dialler == node || p.acceptor == node).map(|(id, _)| *id).collect();
        for link in links {
            let pipe = self.pipes.remove(&link).unwrap();
            let other = if pipe.dialler == node { pipe.acceptor } else { pipe.dialler };
            self.node(other).replicas.link_down(link);
            self.turn(other);
        }
    }

    /// A new process registers (which fences the old one) and is let in.
    pub(super) fn restart(&mut self, node: i32) {
        self.fence(node);
        let n = self.node(node);
        n.up = true;
        n.incarnation += 1;
        n.replicas = replicas(node);
        self.unfence(node);
        self.begin(node);
    }

    /// The metadata decides on the oldest proposal.
    pub(super) fn decide(&mut self) {
        let Some((node, incarnation, change)) = self.changes.pop_front() else { return };
        let current = self.node(node).incarnation == incarnation && self.node(node).up;
        let members_ok = change.isr.iter().all(|m| {
            let fenced = self.fenced.contains(&m.node);
            !fenced && m.incarnation.is_none_or(|i| i.as_u128() == self.node(m.node).incarnation)
        });
        let meta = self.meta.get_mut(&change.log).unwrap();
        let epochs = meta.leader_epoch == change.leader_epoch.0 && meta.partition_epoch == change.partition_epoch;
        if current && members_ok && epochs && meta.leader == Some(node) {
            meta.isr = change.isr.iter().map(|m| m.node).collect();
            meta.partition_epoch += 1;
        } else if current {
            let n = self.node(node);
            n.replicas.alter_refused(change.log, change.leader_epoch, change.partition_epoch);
            self.turn(node);
        }
    }

    pub(super) fn pass_ms(&mut self, ms: u64) {
        self.now_ms += ms;
        for node in 0..NODES {
            self.turn(node);
        }
    }

    /// Everything that is on its way arrives, everything is written, everyone knows everything.
    pub(super) fn settle_once(&mut self) {
        self.connect();
        for link in self.pipes.keys().copied().collect::<Vec<_>>() {
            for _ in 0..200 {
                if !self.deliver(link, true) & !self.deliver(link, false) {
                    break;
                }
            }
            self.end(link);
        }
        for node in 0..NODES {
            self.finish_read(node);
            self.seal(node);
            self.write(node, usize::MAX / 2);
        }
        while !self.changes.is_empty() {
            self.decide();
        }
        for node in (0..NODES).filter(|n| self.nodes[usize::try_from(*n).unwrap()].up).collect::<Vec<_>>() {
            self.view(node);
        }
    }

    pub(super) fn settle(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.settle_once();
            self.pass_ms(100);
        }
    }

    /// All faults end; then every replica holds the same, and everything is committed.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        self.parted.clear();
        for node in 0..NODES {
            if !self.node(node).up {
                self.restart(node);
            }
            self.unfence(node);
            self.set_busy(node, false);
        }
        for round in 0.. {
            self.settle(5);
            if let Some(fault) = self.fault.clone() {
                return Err(fault);
            }
            match self.is_healed() {
                Ok(()) => break,
                Err(what) if round == 60 => return Err(format!("never healed: {what}; links: {:?}", self.dropped)),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn is_healed(&mut self) -> Result<(), String> {
        if !self.waits.is_empty() {
            return Err(format!("{} acknowledgements wait", self.waits.len()));
        }
        for (id, meta) in self.meta.clone() {
            let Some(leader) = meta.leader else { return Err(format!("{id} has no leader")) };
            if meta.isr.len() != meta.replicas.len() {
                return Err(format!("{id}: in sync are {:?}", meta.isr));
            }
            let contents = |log: &super::disk::Log| -> Vec<(i64, i32, u64)> {
                log.batches.iter().map(|b| (b.header.base_offset.0, b.header.leader_epoch.0, b.payload())).collect()
            };
            let leaders = self.node(leader).store.log(id).clone();
            for node in &meta.replicas {
                let own = self.node(*node).store.log(id).clone();
                if contents(&own) != contents(&leaders) || own.end != leaders.end {
                    return Err(format!("{id}: node {node} ends at {}, leader {leader} at {}", own.end, leaders.end));
                }
                let hw = self.node(*node).replicas.high_watermark(id);
                if hw != Some(Offset(own.end)) {
                    return Err(format!("{id}: node {node} shows {hw:?} of {}", own.end));
                }
            }
            self.check_complete(leader, id);
        }
        Ok(())
    }
}
