//! Nodes, their disks and the network between them in one thread and in made-up time. One seed, one run.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::super::{
    Member, Message, Output, ProposalId, Quorum, QuorumConfig, QuorumError, Role, Stored, WriteId, limits,
};

pub(super) const MS: u64 = 1_000_000;

/// What may go wrong on the way, percent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) twice: u64,
    pub(super) slow: u64,
}

/// What a node's owner keeps.
#[derive(Default)]
struct Node {
    quorum: Option<Quorum>,
    life: u64,
    /// Durable records, those of one superseding write and after.
    disk: Vec<Vec<u8>>,
    /// Given to the disk, not durable yet.
    writing: BTreeMap<WriteId, (Vec<Vec<u8>>, bool)>,
    disk_free_at: u64,
    /// The owner's state machine: what was decided, in order.
    applied: Vec<(u64, Vec<u8>)>,
    installs: usize,
    answers: BTreeMap<ProposalId, Result<u64, QuorumError>>,
    values: BTreeMap<ProposalId, Vec<u8>>,
    fatal: Option<String>,
}

enum Event {
    Deliver { from: i32, to: i32, bytes: Vec<u8> },
    Durable { node: i32, life: u64, id: WriteId },
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) faults: Faults,
    pub(super) snapshot_every: Option<usize>,
    /// Nodes that hear nobody and are heard by nobody.
    pub(super) cut_off: BTreeSet<i32>,
    pub(super) write_ms: u64,
    /// Value and index of each proposal that was answered with success.
    pub(super) acknowledged: BTreeMap<Vec<u8>, u64>,
    pub(super) hash: u64,
    /// All that any node ever applied.
    decided: BTreeMap<u64, Vec<u8>>,
    random: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    nodes: BTreeMap<i32, Node>,
}

pub(super) fn member(node: i32) -> Member {
    Member { directory: Uuid::from_u128(u128::from(node.unsigned_abs())), addr: format!("node-{node}:9094") }
}

pub(super) fn members(nodes: impl IntoIterator<Item = i32>) -> BTreeMap<i32, Member> {
    nodes.into_iter().map(|node| (node, member(node))).collect()
}

impl World {
    /// Nodes 1 to `nodes`, running, without a quorum yet.
    pub(super) fn new(seed: u64, nodes: i32) -> Self {
        let mut world = Self {
            now: 5 * MS,
            faults: Faults::default(),
            snapshot_every: None,
            cut_off: BTreeSet::new(),
            write_ms: 3,
            acknowledged: BTreeMap::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            decided: BTreeMap::new(),
            random: seed,
            sequence: 0,
            events: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        for node in 1..=nodes {
            world.start(node);
        }
        world
    }

    /// A quorum of all the nodes, with a leader.
    pub(super) fn founded(seed: u64, nodes: i32) -> Self {
        let mut world = Self::new(seed, nodes);
        let all = members(1..=nodes);
        world.quorum(1).initialize(all).expect("room for it");
        world.drain(1);
        world.wait("a leader", |world| world.leader().is_some());
        world
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn trace(&mut self, what: &str) {
        let now = self.now.to_le_bytes();
        for byte in now.iter().chain(what.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, node: i32) {
        let seed = self.draw(u64::MAX);
        let state = self.nodes.entry(node).or_default();
        let stored = Stored::replay(&state.disk).expect("the disk holds a log");
        state.applied.clear();
        let config = QuorumConfig::new(node, seed);
        state.quorum = Some(Quorum::open(config, stored, self.now).expect("it starts"));
        self.drain(node);
    }

    /// Stops a node; what is not durable is lost, or half of it is there.
    pub(super) fn crash(&mut self, node: i32) {
        let torn = self.draw(4);
        let state = self.nodes.get_mut(&node).expect("a node");
        state.quorum = None;
        state.life += 1;
        if let Some((_, (records, _))) = std::mem::take(&mut state.writing).into_iter().next() {
            let some = records.len() * usize::try_from(torn).expect("small") / 4;
            state.disk.extend(records.into_iter().take(some));
        }
        self.trace(&format!("crash {node}"));
    }

    /// Gives a stopped node an empty volume.
    pub(super) fn wipe(&mut self, node: i32) {
        self.nodes.get_mut(&node).expect("a node").disk.clear();
    }

    pub(super) fn is_up(&self, node: i32) -> bool {
        self.nodes[&node].quorum.is_some()
    }

    pub(super) fn quorum(&mut self, node: i32) -> &mut Quorum {
        self.nodes.get_mut(&node).and_then(|state| state.quorum.as_mut()).expect("a running node")
    }

    pub(super) fn applied(&self, node: i32) -> &[(u64, Vec<u8>)] {
        &self.nodes[&node].applied
    }

    pub(super) fn installs(&self, node: i32) -> usize {
        self.nodes[&node].installs
    }

    pub(super) fn disk(&self, node: i32) -> &[Vec<u8>] {
        &self.nodes[&node].disk
    }

    pub(super) fn answer(&self, node: i32, id: ProposalId) -> Option<&Result<u64, QuorumError>> {
        self.nodes[&node].answers.get(&id)
    }

    pub(super) fn fatal(&self, node: i32) -> Option<&String> {
        self.nodes[&node].fatal.as_ref()
    }

    /// The leader of the latest term.
    pub(super) fn leader(&self) -> Option<i32> {
        let running = self.nodes.values().filter_map(|state| state.quorum.as_ref());
        let leaders = running.map(Quorum::status).filter(|status| status.role == Role::Leader);
        leaders.max_by_key(|status| status.term).map(|status| status.node_id)
    }

    pub(super) fn propose(&mut self, node: i32, value: &[u8]) -> Result<ProposalId, QuorumError> {
        let id = self.quorum(node).propose(value)?;
        self.nodes.get_mut(&node).expect("a node").values.insert(id, value.to_vec());
        self.drain(node);
        Ok(id)
    }

    /// Proposes until it is acknowledged.
    pub(super) fn commit(&mut self, value: &[u8]) {
        for _ in 0..100 {
            if let Some(leader) = self.leader()
                && self.propose(leader, value).is_ok()
            {
                self.run_for(50 * MS);
            } else {
                self.run_for(100 * MS);
            }
            if self.acknowledged.contains_key(value) {
                return;
            }
        }
        panic!("{} was never acknowledged", String::from_utf8_lossy(value));
    }

    /// Takes what the node wants.
    pub(super) fn drain(&mut self, node: i32) {
        while let Some(output) = self.nodes.get_mut(&node).and_then(|state| state.quorum.as_mut()?.next_output()) {
            self.trace(&format!("{node}: {output:?}"));
            self.carry_out(node, output);
        }
        self.maybe_snapshot(node);
    }

    fn carry_out(&mut self, node: i32, output: Output) {
        match output {
            Output::Send { to, message } => self.send(node, to, &message),
            Output::Write { id, records, supersedes } => self.write(node, id, records, supersedes),
            Output::Committed { index, payload, .. } => {
                let applied = &mut self.nodes.get_mut(&node).expect("a node").applied;
                assert!(applied.last().is_none_or(|(last, _)| *last < index), "index {index} again");
                applied.push((index, payload.to_vec()));
                let decided = self.decided.entry(index).or_insert_with(|| payload.to_vec());
                assert_eq!(decided[..], payload[..], "index {index} was decided otherwise before");
            }
            Output::BuildSnapshot { index } => {
                let bytes = serde_json::to_vec(&self.nodes[&node].applied).expect("JSON");
                self.quorum(node).snapshot_built(index, bytes).expect("asked for");
            }
            Output::InstallSnapshot { index, bytes } => {
                let state = self.nodes.get_mut(&node).expect("a node");
                state.installs += 1;
                state.applied = serde_json::from_slice(&bytes).expect("JSON");
                assert!(state.applied.last().is_none_or(|(last, _)| *last <= index));
            }
            Output::Answered { id, result } => {
                let state = self.nodes.get_mut(&node).expect("a node");
                if let (Some(value), Ok(index)) = (state.values.remove(&id), &result) {
                    assert!(state.applied.contains(&(*index, value.clone())), "answered before it was applied");
                    self.acknowledged.insert(value, *index);
                }
                state.answers.insert(id, result);
            }
            Output::Leader { .. } => {}
            Output::Fatal(reason) => self.nodes.get_mut(&node).expect("a node").fatal = Some(reason),
        }
    }

    fn maybe_snapshot(&mut self, node: i32) {
        let Some(every) = self.snapshot_every else { return };
        if self.nodes[&node].quorum.as_ref().is_some_and(|quorum| {
            let status = quorum.status();
            status.applied.unwrap_or(0) >= status.snapshot.unwrap_or(0) + every as u64
        }) && self.quorum(node).snapshot_now()
        {
            self.drain(node);
        }
    }

    fn send(&mut self, from: i32, to: i32, message: &Message) {
        let bytes = message.encode().expect("it can be encoded");
        assert!(bytes.len() <= limits::MAX_MESSAGE_BYTES);
        let copies = if self.draw(100) < self.faults.twice { 2 } else { 1 };
        for _ in 0..copies {
            let lost = self.draw(100) < self.faults.lost;
            let slow = if self.draw(100) < self.faults.slow { 300 } else { 3 };
            let at = self.now + MS / 2 + self.draw(slow * MS);
            if !lost {
                self.at(at, Event::Deliver { from, to, bytes: bytes.clone() });
            }
        }
    }

    fn write(&mut self, node: i32, id: WriteId, records: Vec<Vec<u8>>, supersedes: bool) {
        assert!(records.iter().all(|record| record.len() <= limits::MAX_RECORD_BYTES));
        let delay = MS / 10 + self.draw(self.write_ms * MS);
        let state = self.nodes.get_mut(&node).expect("a node");
        state.writing.insert(id, (records, supersedes));
        state.disk_free_at = state.disk_free_at.max(self.now) + delay;
        let (at, life) = (state.disk_free_at, state.life);
        self.at(at, Event::Durable { node, life, id });
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    pub(super) fn run_for(&mut self, time: u64) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Runs until it holds, at most a minute.
    pub(super) fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = self.now + 60_000 * MS;
        while !holds(self) {
            assert!(self.step(until), "no {what} after a minute");
        }
    }

    /// The next thing that happens, unless that is after `until`.
    fn step(&mut self, until: u64) -> bool {
        let timers =
            self.nodes.iter().filter_map(|(node, state)| Some((state.quorum.as_ref()?.next_deadline()?, *node)));
        let timer = timers.min();
        let event = self.events.first_key_value().map(|(key, _)| key.0);
        let next = timer.map(|timer| timer.0).into_iter().chain(event).min();
        let Some(next) = next.filter(|next| *next <= until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        if event == Some(next) {
            let (_, event) = self.events.pop_first().expect("an event");
            self.happen(event);
        } else if let Some((_, node)) = timer {
            self.tick(node);
            self.drain(node);
        }
        true
    }

    pub(super) fn tick(&mut self, node: i32) {
        let now = self.now;
        self.quorum(node).tick(now);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, bytes } => {
                let cut = self.cut_off.contains(&from) || self.cut_off.contains(&to);
                if !cut && self.nodes.contains_key(&to) && self.is_up(to) {
                    let message = Message::decode(&bytes).expect("a message");
                    self.tick(to);
                    self.quorum(to).receive(from, message);
                    self.drain(to);
                }
            }
            Event::Durable { node, life, id } => self.durable(node, life, id),
        }
    }

    fn durable(&mut self, node: i32, life: u64, id: WriteId) {
        let state = self.nodes.get_mut(&node).expect("a node");
        if state.life != life {
            return;
        }
        let (records, supersedes) = state.writing.remove(&id).expect("a write under way");
        if supersedes {
            // Deletes as far as it likes: nothing, a part, or all of what came before.
            let before = state.disk.len();
            let delete = usize::try_from(id_hash(self.now) % (before as u64 + 1)).expect("small");
            state.disk.drain(..delete);
        }
        state.disk.extend(records);
        self.tick(node);
        self.quorum(node).write_done(id);
        self.drain(node);
    }

    /// All agree; a node that started again may not have applied all that it once had.
    pub(super) fn check_agreement(&self) {
        let longest = self.nodes.values().map(|state| &state.applied).max_by_key(|applied| applied.len());
        let longest = longest.expect("nodes");
        for (node, state) in &self.nodes {
            assert_eq!(state.fatal, None, "node {node}");
            assert_eq!(state.applied, longest[..state.applied.len()], "node {node} applied something else");
        }
    }

    /// Every node has applied all that was ever acknowledged.
    pub(super) fn check_complete(&self) {
        self.check_agreement();
        for (node, state) in &self.nodes {
            for (value, index) in &self.acknowledged {
                let there = state.applied.contains(&(*index, value.clone()));
                assert!(there, "{} is lost on node {node}", String::from_utf8_lossy(value));
            }
        }
    }
}

fn id_hash(seed: u64) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40
}
