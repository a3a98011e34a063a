//! What a node knows of the quorum, kept up to date after each input so that asking costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use openraft::{RaftMetrics, ServerState};

use super::types::Member;

/// What a node is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decides; see [`super::Quorum::contact_age_ns`] for whether others still think so.
    Leader,
    /// Stands for election.
    Candidate,
    /// Votes and follows.
    Follower,
    /// Follows without a vote.
    Learner,
    /// Gave up.
    Stopped,
}

/// The members as of the last membership in the log, decided or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// Who votes; of both sets while they are being changed.
    pub voters: BTreeSet<i32>,
    /// Who does not.
    pub learners: BTreeSet<i32>,
    /// Everyone.
    pub all: BTreeMap<i32, Member>,
    /// Whether the voters are just being changed.
    pub changing: bool,
}

/// A node's view.
#[derive(Debug, Clone)]
pub struct Status {
    /// This node.
    pub node_id: i32,
    /// What it is.
    pub role: Role,
    /// The term of its last vote.
    pub term: u64,
    /// The leader of that term, if it is known.
    pub leader: Option<i32>,
    /// Last entry of its log.
    pub last_index: Option<u64>,
    /// Last entry handed out as `Committed` (or that needed not to be).
    pub applied: Option<u64>,
    /// Last entry that its snapshot covers.
    pub snapshot: Option<u64>,
    /// The members. Shared: a clone is cheap.
    pub members: Rc<Members>,
    /// When the messages were sent that a majority acknowledged.
    pub(super) acknowledged_ns: Option<u64>,
    membership_index: Option<u64>,
    membership_term: u64,
}

impl Status {
    pub(super) fn new(node_id: i32) -> Self {
        Self {
            node_id,
            role: Role::Learner,
            term: 0,
            leader: None,
            last_index: None,
            applied: None,
            snapshot: None,
            members: Rc::default(),
            acknowledged_ns: None,
            membership_index: None,
            membership_term: 0,
        }
    }

    /// Whether this node alone is a majority.
    pub fn is_only_voter(&self) -> bool {
        self.members.voters.len() == 1 && self.members.voters.contains(&self.node_id)
    }

    pub(super) fn update(&mut self, metrics: &RaftMetrics<i32, Member>, now_ns: u64) {
        let same_lead = self.role == Role::Leader && self.term == metrics.current_term;
        self.role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        self.term = metrics.current_term;
        self.leader = metrics.current_leader;
        self.last_index = metrics.last_log_index;
        self.applied = metrics.last_applied.map(|id| id.index);
        self.snapshot = metrics.snapshot.map(|id| id.index);
        self.update_contact(metrics.millis_since_quorum_ack, same_lead, now_ns);
        self.update_members(metrics);
    }

    /// openraft says it in whole milliseconds before the report, rounded down.
    fn update_contact(&mut self, age_ms: Option<u64>, same_lead: bool, now_ns: u64) {
        let before = self.acknowledged_ns.filter(|_| same_lead);
        let reported = age_ms.map(|age| now_ns.saturating_sub((age + 1).saturating_mul(1_000_000)));
        self.acknowledged_ns = reported.max(before);
    }

    fn update_members(&mut self, metrics: &RaftMetrics<i32, Member>) {
        let at = metrics.membership_config.log_id();
        let (index, term) = (at.map(|id| id.index), at.map_or(0, |id| id.leader_id.term));
        if (index, term) == (self.membership_index, self.membership_term) && index.is_some() {
            return;
        }
        let membership = metrics.membership_config.membership();
        self.membership_index = index;
        self.membership_term = term;
        self.members = Rc::new(Members {
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            all: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            changing: membership.get_joint_config().len() > 1,
        });
    }
}
