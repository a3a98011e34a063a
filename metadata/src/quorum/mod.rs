//! The quorum: openraft without threads, sockets, disks or clocks. An input in, outputs out.
//!
//! ```text
//!  tick receive link_down write_done propose ...          openraft's tasks, polled by hand
//!  -------------------------------------------> [Quorum] <-> executor, store, network
//!  <-------------------------------------------
//!  Send Write Committed BuildSnapshot InstallSnapshot Answered Leader Fatal
//! ```
//! Every input runs all tasks until none has anything to do; what they want of the world lies in the queue of outputs,
//! whose order is the order of events. Same seed, same inputs: same outputs.
//!
//! The owner keeps the log of records and the state machine, and must:
//! - take all outputs after each input, in order;
//! - append the records of each [`Output::Write`] in order to one log, and say [`Quorum::write_done`] once they are
//!   durable (or [`Quorum::write_failed`], after which nothing goes on);
//! - begin with [`Stored::replay`] of that log, and with an empty state machine: the snapshot and the entries above it
//!   come as outputs again;
//! - call [`Quorum::tick`] at [`Quorum::next_deadline`] or before, and before other inputs when time has passed.
//!
//! It must not know: what payloads mean, how messages travel, where records are kept.

mod config;
mod error;
mod executor;
mod message;
mod network;
mod output;
mod record;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod types;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{AsyncRuntime, ChangeMembers, RaftMetrics, ServerState};
use tokio::sync::watch;

pub use config::{QuorumConfig, limits};
pub use error::QuorumError;
pub use message::Message;
pub use output::{Output, ProposalId, WriteId};
pub use record::Stored;
pub use status::{Members, Role, Status};
pub use types::{Member, Payload};

use executor::{Executor, NeverIdle, Runtime};
use message::{Body, Request};
use network::{Calls, Peers, serve};
use store::{Log, Machine, Shared, Store};
use types::{Raft, Types, check_members};

/// One node's part in the quorum. Lives on one thread.
pub struct Quorum {
    config: QuorumConfig,
    executor: Rc<Executor>,
    shared: Rc<Shared>,
    /// `None` only while it is being dropped.
    raft: Option<Raft>,
    metrics: watch::Receiver<RaftMetrics<i32, Member>>,
    status: Status,
    outstanding: Rc<Outstanding>,
    next_proposal: u64,
    stopped: Option<String>,
}

/// Proposals without an answer.
#[derive(Default)]
struct Outstanding {
    count: Cell<usize>,
    bytes: Cell<usize>,
}

/// One of them; given back when its task ends.
struct Slot(Rc<Outstanding>, usize);

impl Outstanding {
    fn take(self: &Rc<Self>, bytes: usize) -> Result<Slot, QuorumError> {
        let (count, sum) = (self.count.get() + 1, self.bytes.get() + bytes);
        if count > limits::MAX_OUTSTANDING || sum > limits::MAX_OUTSTANDING_BYTES {
            return Err(QuorumError::Busy { outstanding: self.count.get(), bytes: self.bytes.get() });
        }
        self.count.set(count);
        self.bytes.set(sum);
        Ok(Slot(self.clone(), bytes))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.bytes.set(self.0.bytes.get() - self.1);
    }
}

impl Quorum {
    /// Starts from what the log holds. A node that is the only voter becomes the leader at once.
    pub fn open(config: QuorumConfig, stored: Stored, now_ns: u64) -> Result<Self, QuorumError> {
        if let Some(found) = stored.node_id.filter(|found| *found != config.node_id) {
            return Err(QuorumError::OtherNode { found, expected: config.node_id });
        }
        let executor = Executor::new(config.seed, now_ns, config.rpc_timeout());
        let snapshot = stored.covered().zip(stored.snapshot.as_ref().map(|(_, bytes)| bytes.clone()));
        let installed = snapshot.map(|(id, bytes)| Output::InstallSnapshot { index: id.index, bytes });
        let shared = Rc::new(Shared {
            outputs: RefCell::new(installed.into_iter().collect()),
            store: RefCell::new(Store::new(config.node_id, stored)),
            calls: RefCell::new(Calls::new(executor.random())),
            handed_over: Cell::new(false),
        });
        let raft = start(&config, &executor, &shared)?;
        let mut quorum = Self {
            status: Status::new(config.node_id),
            metrics: raft.metrics(),
            raft: Some(raft),
            outstanding: Rc::default(),
            next_proposal: 0,
            stopped: None,
            config,
            executor,
            shared,
        };
        quorum.observe();
        if quorum.status.is_only_voter() && quorum.status.role != Role::Leader {
            quorum.elect_now();
        }
        Ok(quorum)
    }

    /// Time passes. `now_ns` is monotonic, of the same clock as at `open`.
    pub fn tick(&mut self, now_ns: u64) {
        self.executor.set_now(now_ns);
        loop {
            let entered = self.executor.enter();
            let fired = self.executor.fire_one();
            drop(entered);
            if !fired {
                return;
            }
            self.run();
        }
    }

    /// When `tick` must be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        self.executor.next_deadline()
    }

    /// A message of another node.
    pub fn receive(&mut self, from: i32, message: Message) {
        match message.0 {
            Body::Request { id, request } => {
                if request.speaker() == from {
                    self.heed_leave(&request);
                    self.spawn(|raft, shared| serve(raft, shared, from, id, request));
                }
            }
            Body::Answer { id, answer } => self.shared.calls.borrow_mut().answered(from, id, answer),
            Body::TakeOver { term } => {
                if self.status.leader == Some(from) && self.status.term == term {
                    self.shared.handed_over.set(true);
                    self.elect_now();
                }
            }
        }
        self.run();
    }

    /// The lease that voters keep for a leader only keeps elections rare: one that the leader asked for need not wait for
    /// its end, or the candidate's term would rise, and depose the leader, before anybody votes.
    fn heed_leave(&self, request: &Request) {
        if let Request::Vote { ballot, handed_over: true, .. } = request
            && ballot.term > self.status.term
        {
            self.executor.skip(self.config.election_max_ms.saturating_mul(1_000_000));
        }
    }

    /// What is under way to this node is lost.
    pub fn link_down(&mut self, node: i32) {
        self.shared.calls.borrow_mut().fail(node);
        self.run();
    }

    /// The records of this write, and of all before it, are durable.
    pub fn write_done(&mut self, id: WriteId) {
        self.shared.store.borrow_mut().write_ended(id, true);
        self.run();
    }

    /// The records of this write will never be durable: the quorum stops.
    pub fn write_failed(&mut self, id: WriteId) {
        self.shared.store.borrow_mut().write_ended(id, false);
        self.run();
    }

    /// Proposes a payload. Refused at once if it is too large or too much is under way; else there will be an answer.
    ///
    /// Each proposal costs a durable write of its own, one after another: put what belongs together into one payload.
    pub fn propose(&mut self, payload: impl Into<Payload>) -> Result<ProposalId, QuorumError> {
        let payload = payload.into();
        if payload.len() > limits::MAX_PAYLOAD_BYTES {
            return Err(QuorumError::TooLarge { what: "a proposal", max: limits::MAX_PAYLOAD_BYTES });
        }
        let bytes = payload.len();
        self.ask(bytes, |raft| async move { index(raft.client_write(payload).await) })
    }

    /// Founds a quorum of these voters. Every one of them may be told to, if all are told the same. Refused if this
    /// node has a log or is not among them.
    pub fn initialize(&mut self, members: BTreeMap<i32, Member>) -> Result<ProposalId, QuorumError> {
        check_members(&members)?;
        self.ask(0, |raft| async move {
            raft.initialize(members).await.map(|()| 0).map_err(|error| match error {
                RaftError::APIError(error) => QuorumError::Refused(error.to_string()),
                RaftError::Fatal(error) => QuorumError::Stopped(error.to_string()),
            })
        })
    }

    /// Adds a node that gets everything and has no vote; it may become a voter then.
    pub fn add_learner(&mut self, node: i32, member: Member) -> Result<ProposalId, QuorumError> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, member)])))
    }

    /// Replaces what is known of a member. Take care that directory and node still belong together: a node with
    /// another volume has forgotten its votes, and must come as a new node.
    pub fn update_member(&mut self, node: i32, member: Member) -> Result<ProposalId, QuorumError> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, member)])))
    }

    /// Makes these members the voters; the ones that were stay on as learners.
    pub fn change_voters(&mut self, voters: BTreeSet<i32>) -> Result<ProposalId, QuorumError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters))
    }

    /// Removes members that have no vote.
    pub fn remove_learners(&mut self, nodes: BTreeSet<i32>) -> Result<ProposalId, QuorumError> {
        self.change(ChangeMembers::RemoveNodes(nodes))
    }

    fn change(&mut self, change: ChangeMembers<i32, Member>) -> Result<ProposalId, QuorumError> {
        if let ChangeMembers::AddNodes(nodes) | ChangeMembers::SetNodes(nodes) = &change {
            let mut members = self.status.members.all.clone();
            members.extend(nodes.clone());
            check_members(&members)?;
        }
        self.ask(0, |raft| async move { index(raft.change_membership(change, true).await) })
    }

    /// Asks for a [`Output::BuildSnapshot`]. False: nothing was decided since the last one, or one is on its way.
    pub fn snapshot_now(&mut self) -> bool {
        let (now, patience) = (self.executor.now_ns(), self.config.proposal_timeout_ms.saturating_mul(1_000_000));
        if self.stopped.is_some() || !self.shared.store.borrow_mut().ask_for_snapshot(now, patience) {
            return false;
        }
        // It fails only if the core has stopped, which `run` sees.
        self.spawn(|raft, _| async move { drop(raft.trigger().snapshot().await) });
        self.run();
        true
    }

    /// The snapshot that `BuildSnapshot` asked for.
    pub fn snapshot_built(&mut self, index: u64, bytes: impl Into<Payload>) -> Result<(), QuorumError> {
        let bytes = bytes.into();
        if bytes.len() > limits::MAX_SNAPSHOT_BYTES {
            return Err(QuorumError::TooLarge { what: "a snapshot", max: limits::MAX_SNAPSHOT_BYTES });
        }
        if !self.shared.store.borrow_mut().snapshot_built(index, bytes) {
            return Err(QuorumError::Refused(format!("nobody asked for a snapshot at {index}")));
        }
        self.run();
        Ok(())
    }

    /// Stands for election, a few times if need be: voters that heard of a leader lately refuse until they did not.
    pub fn elect_now(&mut self) {
        let pause = Duration::from_millis(self.config.heartbeat_ms * 2);
        self.spawn(|raft, _| elect(raft, pause));
        self.run();
    }

    /// The leader's process has ended, as is known from elsewhere: nobody need wait for the time that it was promised.
    /// Followers that are told so elect another one within about `election_min_ms`. Safe also where it is wrong: that
    /// time only keeps elections rare.
    pub fn leader_is_gone(&mut self) {
        let (role, leader) = (self.status.role, self.status.leader);
        if leader.is_some_and(|leader| leader != self.config.node_id) && role != Role::Leader {
            let ms = self.config.election_max_ms.saturating_add(self.config.election_min_ms);
            self.executor.skip(ms.saturating_mul(1_000_000));
            self.status.leader = None;
            self.shared.emit(Output::Leader { term: self.status.term, leader: None });
            self.run();
        }
    }

    /// Asks `node` to take over from this leader. Refused if it is no voter or is behind.
    pub fn transfer_to(&mut self, node: i32) -> Result<(), QuorumError> {
        let status = &self.status;
        if status.role != Role::Leader {
            return Err(QuorumError::NotLeader { leader: status.leader });
        }
        let metrics = self.metrics.borrow();
        let matched = metrics.replication.as_ref().and_then(|nodes| nodes.get(&node).copied().flatten());
        if !status.members.voters.contains(&node) || matched.map(|id| id.index) != metrics.last_log_index {
            return Err(QuorumError::Refused(format!("node {node} is no voter or has not the whole log yet")));
        }
        self.shared.emit(Output::Send { to: node, message: Message(Body::TakeOver { term: status.term }) });
        Ok(())
    }

    /// Whether this node may stand for election by itself. A node whose links to a majority are down should not: it
    /// would only raise its term and depose the leader when it comes back.
    pub fn set_may_elect(&mut self, may: bool) {
        if let Some(raft) = &self.raft {
            raft.runtime_config().elect(may);
        }
    }

    /// The next output, in order.
    pub fn next_output(&mut self) -> Option<Output> {
        self.shared.outputs.borrow_mut().pop_front()
    }

    /// All outputs, in order.
    pub fn take_outputs(&mut self) -> VecDeque<Output> {
        std::mem::take(&mut *self.shared.outputs.borrow_mut())
    }

    /// What this node knows, as of the last input.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The last entry that each other member is known to have, if this node leads.
    pub fn replicated(&self) -> Vec<(i32, Option<u64>)> {
        let metrics = self.metrics.borrow();
        let known = metrics.replication.iter().flatten();
        known.map(|(node, matched)| (*node, matched.map(|id| id.index))).collect()
    }

    /// How long ago, at the last tick, a majority of the voters (this node included) acknowledged this leader; `None`
    /// if it does not lead or none did yet. Counted from when the acknowledged messages were SENT, and rounded up by
    /// as much as 1 ms, so that no majority can have begun to follow another leader's lease earlier than this says.
    /// The only voter has always just acknowledged itself.
    pub fn contact_age_ns(&self) -> Option<u64> {
        let status = &self.status;
        match status.role {
            Role::Leader if status.is_only_voter() => Some(0),
            Role::Leader => status.acknowledged_ns.map(|at| self.executor.now_ns().saturating_sub(at)),
            Role::Candidate | Role::Follower | Role::Learner | Role::Stopped => None,
        }
    }

    /// Leader, and a majority said so for something sent within this time before the last tick.
    pub fn is_leader_confirmed_within(&self, age_ns: u64) -> bool {
        self.contact_age_ns().is_some_and(|age| age <= age_ns)
    }

    /// Entries held in memory, and about how many bytes they take: what a snapshot would free. Walks them.
    pub fn log_size(&self) -> (usize, usize) {
        self.shared.store.borrow().log_size()
    }

    /// Runs a request to openraft in a task that ends with its answer.
    fn ask<F>(&mut self, bytes: usize, request: impl FnOnce(Raft) -> F) -> Result<ProposalId, QuorumError>
    where
        F: Future<Output = Result<u64, QuorumError>> + 'static,
    {
        if let Some(reason) = &self.stopped {
            return Err(QuorumError::Stopped(reason.clone()));
        }
        let slot = self.outstanding.take(bytes)?;
        let id = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        let patience = Duration::from_millis(self.config.proposal_timeout_ms);
        self.spawn(|raft, shared| {
            let request = request(raft);
            async move {
                let result = Runtime::timeout(patience, request).await.unwrap_or(Err(QuorumError::Unknown));
                drop(slot);
                shared.emit(Output::Answered { id, result });
            }
        });
        self.run();
        Ok(id)
    }

    fn spawn<F: Future<Output = ()> + 'static>(&self, task: impl FnOnce(Raft, Rc<Shared>) -> F) {
        let Some(raft) = self.raft.clone() else { return };
        let _entered = self.executor.enter();
        self.executor.spawn(task(raft, self.shared.clone()));
    }

    /// Lets every task do what it can, and looks at what came of it.
    fn run(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let entered = self.executor.enter();
        let idle = self.executor.run_until_idle();
        drop(entered);
        self.observe();
        if let Err(NeverIdle) = idle {
            self.stop("the tasks of the metadata quorum never come to rest".to_owned());
        }
    }

    fn observe(&mut self) {
        if !self.metrics.has_changed().unwrap_or(true) {
            return;
        }
        let metrics = self.metrics.borrow_and_update();
        let before = (self.status.term, self.status.leader);
        self.status.update(&metrics, self.executor.now_ns());
        let fatal = metrics.running_state.as_ref().err().map(ToString::to_string);
        let ended = metrics.state == ServerState::Shutdown;
        drop(metrics);
        if before != (self.status.term, self.status.leader) {
            if self.status.leader.is_some() {
                self.shared.handed_over.set(false);
            }
            self.shared.emit(Output::Leader { term: self.status.term, leader: self.status.leader });
        }
        if let Some(reason) = fatal.or_else(|| ended.then(|| "it was shut down".to_owned())) {
            self.stop(reason);
        }
    }

    fn stop(&mut self, reason: String) {
        if self.stopped.is_none() {
            self.status.role = Role::Stopped;
            self.stopped = Some(reason.clone());
            self.shared.emit(Output::Fatal(reason));
        }
    }
}

impl Drop for Quorum {
    /// Tasks hold the executor, and it holds them; and what openraft drops may ask its runtime for the time.
    fn drop(&mut self) {
        let _entered = self.executor.enter();
        self.raft = None;
        self.executor.clear();
    }
}

/// Starts openraft. It reads what is stored, which needs no waiting.
fn start(config: &QuorumConfig, executor: &Rc<Executor>, shared: &Rc<Shared>) -> Result<Raft, QuorumError> {
    let _entered = executor.enter();
    let settings = config.openraft()?;
    let peers = Peers { shared: shared.clone(), config: config.clone() };
    let (log, machine, node_id) = (Log(shared.clone()), Machine(shared.clone()), config.node_id);
    let slot = Rc::new(RefCell::new(None));
    let filled = slot.clone();
    executor.spawn(async move {
        let raft = Raft::new(node_id, settings, peers, log, machine).await;
        *filled.borrow_mut() = Some(raft);
    });
    let idle = executor.run_until_idle();
    let started = slot.borrow_mut().take();
    match (idle, started) {
        (Ok(()), Some(Ok(raft))) => Ok(raft),
        (_, Some(Err(error))) => Err(QuorumError::Stopped(error.to_string())),
        (_, None) | (Err(NeverIdle), _) => Err(QuorumError::Stopped("it did not come up".to_owned())),
    }
}

async fn elect(raft: Raft, pause: Duration) {
    for _ in 0..limits::ELECT_TRIES {
        if raft.trigger().elect().await.is_err() {
            return;
        }
        Runtime::sleep(pause).await;
        if raft.metrics().borrow().current_leader.is_some() {
            return;
        }
    }
}

/// openraft's answer to a write, in the owner's terms.
fn index(
    result: Result<ClientWriteResponse<Types>, RaftError<i32, ClientWriteError<i32, Member>>>,
) -> Result<u64, QuorumError> {
    match result {
        Ok(response) => Ok(response.log_id.index),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(QuorumError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(QuorumError::Refused(error.to_string()))
        }
        Err(RaftError::Fatal(error)) => Err(QuorumError::Stopped(error.to_string())),
    }
}
