//! Replication of partitions: what a node does with those that it leads and those that it follows. A state machine
//! without I/O: the core tells it what the metadata says, what the store and the links report, and the time; it reads
//! and appends through [`ReplicaStore`], and leaves the rest as [`Output`]s.
//!
//! ```text
//!  partition(role) ──────────────┐                             ┌─> Send, DropLink, Want      (links)
//!  link_up / link_down / message ┤                             ├─> ProposeIsr, LogLost       (metadata)
//!  sealed / advanced / durable ──┼─> Replicas ── turn(store) ──┤
//!  read_done, room, set_lease ───┤                             ├─> Released, Failed          (produce)
//!  wait_for, alter_refused ──────┘                             └─> HighWatermark             (fetch, groups)
//! ```
//! `message` is the language of the links. `leader` and `follower` hold the rules for one partition, `session` and
//! `fetcher` share one link among many; `leading` and `following` put them together.
//!
//! What is idle costs nothing: inputs put what they touch on lists, and a turn looks at the lists alone.

mod fetcher;
mod follower;
mod following;
mod leader;
mod leading;
mod limits;
pub mod message;
mod parts;
mod session;
pub mod store;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

pub use follower::FollowerRole;
pub use leader::LeaderRole;
pub use message::{LinkError, Message};
pub use store::{ReadUpTo, ReplicaStore};

use crate::mutation::mutated;
use fetcher::{Fetcher, Link};
use follower::{Following, State};
use leader::Leader;
use limits::{WATCH_EVERY_NS, WATCHED_PER_TURN};
use message::Alias;
use parts::{Duty, Key, Part, Parts};
use session::Session;
use store::{Now, ReadToken, Ticket};

/// A data link, as long as it lasts: a connection that comes again is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Who waits for a record to be committed; the owner chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId(pub u64);

/// Who made a data link. The dialler follows, the acceptor leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node: it follows partitions of the other one.
    Dialled,
    /// The other node: it follows partitions of this one.
    Accepted,
}

/// What the metadata says this node is to a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader(LeaderRole),
    /// It is another replica.
    Follower(FollowerRole),
    /// It has nothing to do with it (any more).
    None,
}

/// A member of a proposed in-sync set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: i32,
    /// The process that was seen to have caught up; `None` for a member that only stays: whichever is registered.
    pub incarnation: Option<Uuid>,
}

/// A proposed in-sync set, with the epochs that it was made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrChange {
    /// Which partition.
    pub log: LogId,
    /// The leader's.
    pub leader_epoch: LeaderEpoch,
    /// As the leader knows it: compared when the change is applied.
    pub partition_epoch: i32,
    /// The whole set as it should be.
    pub isr: Vec<Member>,
}

/// Why a record is not known to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFailure {
    /// The node does not lead the partition: nothing was waited for.
    NotLeader,
    /// The leadership ended first. The record may yet survive (rule 16: unknown, not absent).
    LeadershipLost,
}

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this body over a data link.
    Send {
        /// Which.
        link: LinkId,
        /// The body, in pieces.
        chunks: Vec<Bytes>,
    },
    /// Close a data link: the other end did what it must not. It is forgotten already.
    DropLink {
        /// Which.
        link: LinkId,
        /// For the log.
        reason: String,
    },
    /// Keep data links to these nodes, dialled from here, and to no others.
    Want(Vec<i32>),
    /// The record is committed.
    Released(WaitId),
    /// It is not known to be.
    Failed(WaitId, WaitFailure),
    /// A partition's high watermark moved, or was established.
    HighWatermark(LogId),
    /// One AlterPartitions command. Each change MUST be tried until it is applied (`partition` then brings the new
    /// epoch) or refused ([`Replicas::alter_refused`]).
    ProposeIsr(Vec<IsrChange>),
    /// The log is damaged: to be reported (LoseReplica).
    LogLost(LogId),
}

/// Settings of replication.
#[derive(Debug, Clone)]
pub struct ReplicationConfig {
    /// This node.
    pub node: i32,
    /// `replica.lag.time.max.ms`: a replica that had not everything for so long leaves the in-sync set.
    pub replica_lag_time_ms: u64,
    /// Bytes of batches that may be on their way over one link.
    pub link_window_bytes: u32,
    /// Bytes per second for each node's replicas that are not in sync (KIP-73); `None`: no limit.
    pub catch_up_bytes_per_s: Option<u64>,
}

impl ReplicationConfig {
    /// Defaults for a node.
    #[must_use]
    pub fn new(node: i32) -> Self {
        Self { node, replica_lag_time_ms: 10_000, link_window_bytes: 8 << 20, catch_up_bytes_per_s: None }
    }
}

/// All partitions of one node, and its data links. See the module.
#[derive(Debug)]
pub struct Replicas {
    config: ReplicationConfig,
    now: Now,
    lease_valid: bool,
    parts: Parts,
    sessions: HashMap<LinkId, Session, RandomState>,
    fetchers: BTreeMap<i32, Fetcher>,
    fetch_links: HashMap<LinkId, i32, RandomState>,
    /// Reads under way: for whom, and from where.
    reads: HashMap<ReadToken, (LinkId, Alias, Offset), RandomState>,
    /// Truncations that are not durable, ascending.
    cuts: VecDeque<(Ticket, Key)>,
    durable: Option<Ticket>,
    /// Who asked for partitions that the metadata here does not know yet, or not in that epoch.
    early: HashMap<LogId, Vec<(LinkId, Alias)>, RandomState>,
    early_count: usize,
    touched: Vec<Key>,
    /// Led partitions that time may change; the pause is the same for all, so the queue is sorted.
    watch: VecDeque<(u64, Key)>,
    lease_waiters: Vec<Key>,
    retries: BinaryHeap<Reverse<(u64, Key)>>,
    dirty_sessions: Vec<LinkId>,
    dirty_fetchers: Vec<i32>,
    proposals: Vec<IsrChange>,
    wanted: Vec<i32>,
    wants_moved: bool,
    out: Vec<Output>,
}

impl Replicas {
    /// A node without partitions or links. Its lease is not valid until [`Replicas::set_lease`] says so.
    #[must_use]
    pub fn new(config: ReplicationConfig) -> Self {
        Self {
            config,
            now: Now::default(),
            lease_valid: false,
            parts: Parts::default(),
            sessions: HashMap::default(),
            fetchers: BTreeMap::new(),
            fetch_links: HashMap::default(),
            reads: HashMap::default(),
            cuts: VecDeque::new(),
            durable: None,
            early: HashMap::default(),
            early_count: 0,
            touched: Vec::new(),
            watch: VecDeque::new(),
            lease_waiters: Vec::new(),
            retries: BinaryHeap::new(),
            dirty_sessions: Vec::new(),
            dirty_fetchers: Vec::new(),
            proposals: Vec::new(),
            wanted: Vec::new(),
            wants_moved: false,
            out: Vec::new(),
        }
    }

    /// The time of the inputs that follow.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Whether this node's session is valid by its own clock (INV-4). Without it no high watermark moves and nothing is
    /// released.
    pub fn set_lease(&mut self, valid: bool) {
        self.lease_valid = valid || mutated!(NoLease);
        if self.lease_valid {
            for key in std::mem::take(&mut self.lease_waiters) {
                if let Some(part) = self.parts.get(key) {
                    part.held = false;
                }
                self.touch(key);
            }
        }
    }

    /// The metadata changed for a partition, or is told for the first time. The log MUST exist in the store by then (but
    /// for [`Role::None`]). What is older than what is known is ignored.
    pub fn partition<S: ReplicaStore>(&mut self, store: &mut S, id: LogId, role: Role) {
        match role {
            Role::Leader(role) => self.lead(store, id, role),
            Role::Follower(role) => self.follow(id, role),
            Role::None => {
                if let Some(key) = self.parts.key(id) {
                    self.leave(key);
                }
            }
        }
        self.retry_early(store, id);
    }

    fn lead<S: ReplicaStore>(&mut self, store: &S, id: LogId, role: LeaderRole) {
        let Some(info) = store.info(id) else {
            tracing::error!(log = %id, "can't lead a partition without a log");
            return;
        };
        let mut inherited = None;
        if let Some(key) = self.parts.key(id) {
            if self.update_leader(key, &role) {
                return;
            }
            inherited = self.parts.get(key).and_then(|part| part.high_watermark());
        }
        let now_ns = self.now.monotonic_ns;
        let leader = Leader::new(self.config.node, role, info.log_end, info.durable_end, now_ns).inherit(inherited);
        let key = self.replace(id, Duty::Lead(Box::new(leader)));
        self.touch(key);
    }

    /// Whether the role was older than what is known, or changed nothing but the sets.
    fn update_leader(&mut self, key: Key, role: &LeaderRole) -> bool {
        let now_ns = self.now.monotonic_ns;
        let Some(part) = self.parts.get(key) else { return false };
        let leader = match &mut part.duty {
            Duty::Follow(following) => return following.role.leader_epoch > role.leader_epoch,
            Duty::Lead(leader) => leader,
        };
        if leader.role.leader_epoch < role.leader_epoch {
            return false;
        }
        let known = (leader.role.leader_epoch, leader.role.partition_epoch);
        if known <= (role.leader_epoch, role.partition_epoch) {
            for source in leader.update(role.clone(), now_ns) {
                self.refuse(source.link, source.alias, message::Why::UnknownPartition);
            }
            self.touch(key);
        }
        true
    }

    fn follow(&mut self, id: LogId, role: FollowerRole) {
        let mut following = Following::new(role, None);
        if let Some(part) = self.parts.key(id).and_then(|key| self.parts.get(key)) {
            match &part.duty {
                Duty::Follow(old) if old.role.leader_epoch > role.leader_epoch || old.role == role => return,
                Duty::Lead(old) if old.role.leader_epoch > role.leader_epoch => return,
                Duty::Lead(_) => {}
                Duty::Follow(old) => match old.state {
                    State::Truncating(ticket) => following.state = State::Truncating(ticket),
                    State::Damaged => following.state = State::Damaged,
                    State::Unlinked | State::Streaming(_) | State::Pausing(_) => {}
                },
            }
            let known = part.high_watermark();
            let state = following.state;
            following = Following::new(role, known);
            following.state = state;
        }
        let state = following.state;
        let key = self.replace(id, Duty::Follow(Box::new(following)));
        if let State::Truncating(ticket) = state {
            self.await_cut(ticket, key);
        }
        if let Some(leader) = role.leader {
            self.join_fetcher(leader, key);
        }
    }

    /// Another duty under a new key: whatever still speaks of the old one finds nobody.
    fn replace(&mut self, id: LogId, duty: Duty) -> Key {
        if let Some(key) = self.parts.key(id) {
            self.leave(key);
        }
        self.parts.insert(id, duty)
    }

    fn leave(&mut self, key: Key) {
        let Some(part) = self.parts.remove(key) else { return };
        match part.duty {
            Duty::Lead(leader) => self.end_leadership(*leader),
            Duty::Follow(following) => self.end_following(key, &following),
        }
    }

    fn end_leadership(&mut self, mut leader: Leader) {
        for wait in leader.take_waits() {
            self.out.push(if mutated!(ReleaseOnLoss) {
                Output::Released(wait)
            } else {
                Output::Failed(wait, WaitFailure::LeadershipLost)
            });
        }
        for source in leader.followers().iter().filter_map(|f| f.source) {
            self.refuse(source.link, source.alias, message::Why::NotLeader);
        }
    }

    /// A data link is there. A node keeps one that it dialled to another; a newer one takes the place of an older one.
    pub fn link_up(&mut self, link: LinkId, node: i32, incarnation: Uuid, side: Side) {
        match side {
            Side::Accepted => {
                self.supersede(node);
                let throttle = self.config.catch_up_bytes_per_s;
                self.sessions.insert(link, Session::new(node, incarnation, throttle, self.now.monotonic_ns));
            }
            Side::Dialled => {
                if let Some(old) = self.fetchers.get(&node).and_then(|f| f.link.as_ref()).map(|l| l.id) {
                    self.link_down(old);
                }
                let fetcher = self.fetchers.entry(node).or_default();
                fetcher.link = Some(Link::new(link, self.config.link_window_bytes));
                fetcher.to_subscribe = fetcher.members.iter().copied().collect();
                self.fetch_links.insert(link, node);
                self.dirty_fetcher(node);
            }
        }
    }

    /// What an older link of the same node still brings must not take the place of what the newer one says.
    fn supersede(&mut self, node: i32) {
        let older = |(link, session): (&LinkId, &Session)| (session.node == node).then_some(*link);
        let mut links: Vec<LinkId> = self.sessions.iter().filter_map(older).collect();
        links.sort_unstable();
        for link in links {
            self.drop_link(link, &LinkError("the node has made a newer link".into()));
        }
    }

    /// A data link is gone.
    pub fn link_down(&mut self, link: LinkId) {
        if let Some(session) = self.sessions.remove(&link) {
            self.session_gone(link, &session);
        }
        if let Some(node) = self.fetch_links.remove(&link) {
            self.fetch_link_gone(node);
        }
    }

    /// A body arrived over a data link.
    pub fn message<S: ReplicaStore>(&mut self, store: &mut S, link: LinkId, body: Bytes) {
        let node = self.fetch_links.get(&link).copied();
        if node.is_none() && !self.sessions.contains_key(&link) {
            return;
        }
        let done = Message::decode(body).and_then(|message| match node {
            Some(node) => self.leader_says(store, node, message),
            None => self.follower_says(store, link, message),
        });
        if let Err(error) = done {
            self.drop_link(link, &error);
        }
    }

    fn drop_link(&mut self, link: LinkId, error: &LinkError) {
        tracing::warn!(link = link.0, %error, "closing a data link");
        self.link_down(link);
        self.out.push(Output::DropLink { link, reason: error.to_string() });
    }

    /// Batches of a log went into a journal frame (`Event::Sealed`).
    pub fn sealed(&mut self, log: LogId) {
        let Some(key) = self.parts.key(log) else { return };
        let has_followers = self.parts.leader(key).is_some_and(|leader| !leader.followers().is_empty());
        if has_followers {
            self.touch(key);
            self.offer(key);
        }
    }

    /// The durable end of a log moved (`Event::Advanced`).
    pub fn advanced<S: ReplicaStore>(&mut self, store: &mut S, log: LogId) {
        let Some(key) = self.parts.key(log) else { return };
        if self.parts.leader(key).is_some() {
            self.touch(key);
        } else {
            self.own_end_moved(store, key);
        }
    }

    /// The start of a log moved (`Event::StartMoved`).
    pub fn start_moved(&mut self, log: LogId) {
        if let Some(key) = self.parts.key(log) {
            self.tell_news(key);
        }
    }

    /// Everything up to a ticket is on disk (`Event::Durable`).
    pub fn durable(&mut self, ticket: Ticket) {
        self.durable = self.durable.max(Some(ticket));
        while let Some((cut, key)) = self.cuts.front().copied().filter(|(cut, _)| Some(*cut) <= self.durable) {
            self.cuts.pop_front();
            self.cut_durable(cut, key);
        }
    }

    /// A log is damaged (`Event::LogFailed`).
    pub fn log_failed(&mut self, log: LogId) {
        if let Some(key) = self.parts.key(log) {
            self.lose(key);
        }
    }

    /// Who waits for everything below `offset` to be committed is told by [`Output::Released`] or [`Output::Failed`],
    /// in this turn or a later one.
    pub fn wait_for(&mut self, log: LogId, offset: Offset, id: WaitId) {
        let key = self.parts.key(log);
        match key.and_then(|key| self.parts.leader(key)) {
            Some(leader) => leader.wait_for(offset, id),
            None => self.out.push(Output::Failed(id, WaitFailure::NotLeader)),
        }
        if let Some(key) = key {
            self.touch(key);
        }
    }

    /// Forgets a wait (the request timed out): it is neither released nor failed.
    pub fn cancel_wait(&mut self, log: LogId, offset: Offset, id: WaitId) {
        if let Some(leader) = self.parts.key(log).and_then(|key| self.parts.leader(key)) {
            leader.cancel(offset, id);
        }
    }

    /// A proposed change was refused: it was not applied and never will be.
    pub fn alter_refused(&mut self, log: LogId, leader_epoch: LeaderEpoch, partition_epoch: i32) {
        let now_ns = self.now.monotonic_ns;
        let Some(key) = self.parts.key(log) else { return };
        if let Some(leader) = self.parts.leader(key).filter(|l| l.role.leader_epoch == leader_epoch) {
            leader.refused(partition_epoch, now_ns);
            self.touch(key);
        }
    }

    /// Everything below is committed and may be shown (INV-2); `None` until this epoch has established it, and for a
    /// partition that this node has no part in.
    #[must_use]
    pub fn high_watermark(&self, log: LogId) -> Option<Offset> {
        self.parts.peek(log)?.high_watermark()
    }

    /// The epoch in which this node leads a partition, and whether as many replicas are in sync as the topic requires.
    #[must_use]
    pub fn leads(&self, log: LogId) -> Option<(LeaderEpoch, bool)> {
        match &self.parts.peek(log)?.duty {
            Duty::Lead(leader) => Some((leader.role.leader_epoch, leader.role.isr.len() >= leader.minimum())),
            Duty::Follow(_) => None,
        }
    }

    /// Does what the inputs since the last call and the time ask for; call it once per turn, after them.
    pub fn turn<S: ReplicaStore>(&mut self, store: &mut S) {
        self.look_at_watched();
        self.retry_paused();
        self.settle_leaders(store);
        self.serve_sessions(store);
        self.serve_fetchers(store);
        if !self.proposals.is_empty() {
            self.out.push(Output::ProposeIsr(std::mem::take(&mut self.proposals)));
        }
        self.tell_wants();
    }

    fn tell_wants(&mut self) {
        if !std::mem::take(&mut self.wants_moved) {
            return;
        }
        self.fetchers.retain(|_, f| !f.members.is_empty() || f.link.is_some());
        let wanted: Vec<i32> = self.fetchers.iter().filter(|(_, f)| !f.members.is_empty()).map(|(n, _)| *n).collect();
        if wanted != self.wanted {
            self.wanted.clone_from(&wanted);
            self.out.push(Output::Want(wanted));
        }
    }

    /// What to do now, in order. The list is empty afterwards.
    pub fn outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.out.drain(..)
    }

    /// When [`Replicas::turn`] must be called at the latest, in monotonic nanoseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let now_ns = self.now.monotonic_ns;
        let has_work = !self.touched.is_empty()
            || !self.dirty_fetchers.is_empty()
            || !self.out.is_empty()
            || !self.dirty_sessions.is_empty();
        let sessions = self.sessions.values().filter_map(|s| s.next_deadline(now_ns));
        let watch = self.watch.front().map(|(at, _)| *at);
        let retry = self.retries.peek().map(|Reverse((at, _))| *at);
        sessions.chain(watch).chain(retry).chain(has_work.then_some(now_ns)).min()
    }

    fn touch(&mut self, key: Key) {
        if let Some(part) = self.parts.get(key).filter(|part| !part.touched && part.leader_ref().is_some()) {
            part.touched = true;
            self.touched.push(key);
        }
    }

    fn lag_ns(&self) -> u64 {
        self.config.replica_lag_time_ms.saturating_mul(1_000_000)
    }

    /// Led partitions with a replica behind: looked at again and again, a bounded number per turn.
    fn look_at_watched(&mut self) {
        for _ in 0..WATCHED_PER_TURN {
            let due = |(at, _): &(u64, Key)| *at <= self.now.monotonic_ns;
            let Some((_, key)) = self.watch.front().copied().filter(due) else { return };
            self.watch.pop_front();
            if let Some(part) = self.parts.get(key) {
                part.watched = false;
                self.touch(key);
            }
        }
    }

    fn watch_every_ns(&self) -> u64 {
        WATCH_EVERY_NS.min(self.lag_ns() / 4).max(1_000_000)
    }

    fn retry_paused(&mut self) {
        while let Some(Reverse((at, key))) = self.retries.peek().copied() {
            if at > self.now.monotonic_ns {
                return;
            }
            self.retries.pop();
            let paused = self.parts.following(key).filter(|f| f.state == State::Pausing(at));
            if let Some(following) = paused {
                following.state = State::Unlinked;
                self.want_subscription(key);
            }
        }
    }
}

impl Part {
    fn leader_ref(&self) -> Option<&Leader> {
        match &self.duty {
            Duty::Lead(leader) => Some(leader),
            Duty::Follow(_) => None,
        }
    }
}
