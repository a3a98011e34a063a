//! Questions that only the leader of the metadata quorum can answer, from whatever node a client asked.
//!
//! ```text
//!  request ── ask_leader ──> [pending] ── Ask ──> leader ─┬─ at once ─────────────────> Answered ──> [pending] ── response
//!                                │                        └─ a change of members, when decided ──┘
//!                                └── no answer in time ──> REQUEST_TIMED_OUT: what became of it is not known
//! ```
//! Changes of who belongs to the quorum are no commands of the metadata: they take effect while they are being decided.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wherry_metadata::quorum::{ProposalId, QuorumError};
use wherry_wire::codec::ResponseError;

use super::control::{Control, Other};
use crate::api::errors::ApiError;
use crate::api::{self, Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;

/// Questions without an answer, of this node's clients.
const MAX_PENDING: usize = 1_024;
/// Changes of members under way, whoever asked for them.
const MAX_CHANGES: usize = 64;
/// How long an answer is waited for, in nanoseconds: longer than the quorum takes to give up.
const PATIENCE_NS: u64 = 12_000_000_000;
/// The same where nothing is changed: the client may ask again at once.
const DESCRIBE_PATIENCE_NS: u64 = 2_000_000_000;
/// Nodes that may vote.
const MAX_VOTERS: usize = 5;
/// Entries that a node may be behind when it gets a vote: until it has them, it counts against the majority.
const MAX_BEHIND: u64 = 1_000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// How far is everyone?
    Describe,
    /// A member shall vote.
    AddVoter {
        /// The member.
        node_id: i32,
        /// The data directory that is meant: votes are promises of a disk.
        directory: Uuid,
    },
    /// A voter shall vote no more.
    RemoveVoter {
        /// The voter.
        node_id: i32,
        /// The data directory that is meant.
        directory: Uuid,
    },
    /// A node that is not registered any more shall get nothing more.
    ForgetMember {
        /// The node.
        node_id: i32,
    },
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// How far everyone is.
    Quorum(QuorumView),
    /// It is decided.
    Done,
    /// It is not.
    Refused {
        /// Code of the protocol.
        code: i16,
        /// A sentence.
        reason: String,
    },
}

/// The quorum as its leader sees it. Offsets as Kafka counts them: behind the last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuorumView {
    pub(crate) leader: i32,
    pub(crate) term: u64,
    /// Everything before it is decided.
    pub(crate) committed: u64,
    /// The leader's own end.
    pub(crate) log_end: u64,
    /// The end that is known of each member.
    pub(crate) ends: Vec<(i32, Option<u64>)>,
}

/// Who asked.
#[derive(Debug, Clone, Copy)]
struct Asker {
    node: i32,
    number: u64,
}

#[derive(Debug)]
struct Asked {
    ctx: Ctx,
    question: Question,
    deadline_ns: u64,
}

/// Questions on their way, and changes being decided.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    last: u64,
    pending: BTreeMap<u64, Asked>,
    changes: VecDeque<(ProposalId, Asker)>,
}

impl Asks {
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.pending.values().map(|asked| asked.deadline_ns).min()
    }

    fn is_due(&self, now_ns: u64) -> Option<u64> {
        self.pending.iter().find(|(_, asked)| asked.deadline_ns <= now_ns).map(|(number, _)| *number)
    }
}

fn refused(error: ResponseError, reason: impl Into<String>) -> Answer {
    Answer::Refused { code: error.code(), reason: reason.into() }
}

/// Where a client asked.
impl<S: LogStore> Core<S> {
    /// Asks the leader of the quorum; the request is answered when it has answered.
    pub(crate) fn ask_leader(&mut self, ctx: &Ctx, question: Question) -> Outcome {
        let no_leader = "the metadata quorum has no leader at this moment; try again";
        let Some(leader) = self.consensus.leader() else {
            return self.conclude_ask(ctx, question, refused(ResponseError::NotController, no_leader));
        };
        let asks = &mut self.cluster.asks;
        if asks.pending.len() >= MAX_PENDING {
            let busy = refused(ResponseError::RequestTimedOut, "too many such requests wait for an answer; try again");
            return self.conclude_ask(ctx, question, busy);
        }
        asks.last += 1;
        let number = asks.last;
        let patience_ns = if question == Question::Describe { DESCRIBE_PATIENCE_NS } else { PATIENCE_NS };
        let deadline_ns = self.now.monotonic_ns.saturating_add(patience_ns);
        asks.pending.insert(number, Asked { ctx: ctx.clone(), question, deadline_ns });
        if leader != self.config.node_id {
            if !self.send_control(leader, &Control::Other(Other::Ask { number, question })) {
                self.cluster.asks.pending.remove(&number);
                return self.conclude_ask(ctx, question, refused(ResponseError::NotController, no_leader));
            }
            return Outcome::Later;
        }
        let asker = Asker { node: leader, number };
        match self.answer_question(asker, question) {
            Some(answer) => {
                self.cluster.asks.pending.remove(&number);
                self.conclude_ask(ctx, question, answer)
            }
            None => Outcome::Later,
        }
    }

    /// The leader answered.
    pub(super) fn ask_answered(&mut self, number: u64, answer: Answer) {
        let Some(asked) = self.cluster.asks.pending.remove(&number) else { return };
        let outcome = self.conclude_ask(&asked.ctx, asked.question, answer);
        self.finish(asked.ctx.id, outcome);
    }

    fn conclude_ask(&self, ctx: &Ctx, question: Question, answer: Answer) -> Outcome {
        let answer = match answer {
            Answer::Refused { code, reason } => {
                let error = ResponseError::try_from_code(code).unwrap_or(ResponseError::UnknownServerError);
                Err(ApiError::new(error, reason))
            }
            answer @ (Answer::Quorum(_) | Answer::Done) => Ok(answer),
        };
        match question {
            Question::Describe => api::quorum::described(self, ctx, answer),
            Question::AddVoter { .. } => api::quorum::added(ctx, answer),
            Question::RemoveVoter { .. } => api::quorum::removed(ctx, answer),
            Question::ForgetMember { .. } => api::unregister_broker::answered(ctx, answer),
        }
    }

    /// Gives up on leaders that don't answer.
    pub(super) fn expire_asks(&mut self) {
        while let Some(number) = self.cluster.asks.is_due(self.now.monotonic_ns) {
            let reason = "the leader of the metadata quorum did not answer in time; what became of it is not known";
            self.ask_answered(number, refused(ResponseError::RequestTimedOut, reason));
        }
    }
}

/// Where the quorum is led.
impl<S: LogStore> Core<S> {
    /// Another node asks.
    pub(super) fn asked_by(&mut self, node: i32, number: u64, question: Question) {
        if let Some(answer) = self.answer_question(Asker { node, number }, question) {
            self.send_control(node, &Control::Other(Other::Answered { number, answer }));
        }
    }

    /// The answer, if it is there at once.
    fn answer_question(&mut self, asker: Asker, question: Question) -> Option<Answer> {
        if self.consensus.leader() != Some(self.config.node_id) {
            return Some(refused(
                ResponseError::NotController,
                "the metadata quorum has another leader now; try again",
            ));
        }
        if question == Question::Describe {
            return Some(Answer::Quorum(self.quorum_view()));
        }
        if self.cluster.asks.changes.len() >= MAX_CHANGES || self.consensus.quorum.status().members.changing {
            let text = "another change of the quorum's members is under way; try again when it is done";
            return Some(refused(ResponseError::RequestTimedOut, text));
        }
        let begun = match question {
            Question::AddVoter { node_id, directory } => self.begin_add(node_id, directory),
            Question::RemoveVoter { node_id, directory } => self.begin_remove(node_id, directory),
            Question::ForgetMember { node_id } => self.begin_forget(node_id),
            Question::Describe => return None,
        };
        match begun {
            Ok(id) => {
                self.cluster.asks.changes.push_back((id, asker));
                None
            }
            Err(answer) => Some(answer),
        }
    }

    fn quorum_view(&self) -> QuorumView {
        let quorum = &self.consensus.quorum;
        let status = quorum.status();
        let behind = |index: Option<u64>| index.map_or(0, |index| index.saturating_add(1));
        let own = (self.config.node_id, Some(behind(status.last_index)));
        let others = quorum.replicated().into_iter().filter(|(node, _)| *node != self.config.node_id);
        QuorumView {
            leader: self.config.node_id,
            term: status.term,
            committed: behind(status.applied),
            log_end: behind(status.last_index),
            ends: others.map(|(node, index)| (node, index.map(|index| behind(Some(index))))).chain([own]).collect(),
        }
    }

    fn begin_add(&mut self, node_id: i32, directory: Uuid) -> Result<ProposalId, Answer> {
        let wrong = |text: String| refused(ResponseError::InvalidRequest, text);
        let members = self.consensus.quorum.status().members.clone();
        if members.voters.contains(&node_id) {
            return Err(refused(ResponseError::DuplicateVoter, format!("node {node_id} votes already")));
        }
        if members.voters.len() >= MAX_VOTERS {
            return Err(wrong(format!(
                "{MAX_VOTERS} nodes vote already, and more would only slow it down; remove one first"
            )));
        }
        let Some(member) = members.all.get(&node_id) else {
            let text = format!("node {node_id} is not in this cluster; start it as a part of it first");
            return Err(wrong(text));
        };
        let registered = self.meta.broker(node_id).filter(|broker| broker.is_active());
        let Some(broker) = registered else {
            return Err(wrong(format!(
                "node {node_id} does not run; a voter that is not there only endangers the majority"
            )));
        };
        if member.directory != directory || broker.directory != directory {
            let text = format!("node {node_id} has the data directory {}, not {directory}", broker.directory);
            return Err(refused(ResponseError::InvalidVoterKey, text));
        }
        let view = self.quorum_view();
        let end = view.ends.iter().find(|(node, _)| *node == node_id).and_then(|(_, end)| *end).unwrap_or(0);
        if end.saturating_add(MAX_BEHIND) < view.log_end {
            let text = format!("node {node_id} has {end} of {} entries of the metadata; try again later", view.log_end);
            return Err(refused(ResponseError::RequestTimedOut, text));
        }
        let mut voters = members.voters.clone();
        voters.insert(node_id);
        self.begin_change(voters)
    }

    fn begin_remove(&mut self, node_id: i32, directory: Uuid) -> Result<ProposalId, Answer> {
        let wrong = |text: String| refused(ResponseError::InvalidRequest, text);
        let members = self.consensus.quorum.status().members.clone();
        if !members.voters.contains(&node_id) {
            return Err(refused(ResponseError::VoterNotFound, format!("node {node_id} does not vote")));
        }
        let known = members.all.get(&node_id).map_or(Uuid::nil(), |member| member.directory);
        if known != directory {
            let text = format!("node {node_id} votes with the data directory {known}, not {directory}");
            return Err(refused(ResponseError::InvalidVoterKey, text));
        }
        let mut voters = members.voters.clone();
        voters.remove(&node_id);
        let running = voters.iter().filter(|node| self.meta.broker(**node).is_some_and(|b| !b.fenced)).count();
        if running <= voters.len() / 2 {
            return Err(wrong(format!(
                "without node {node_id} only {running} of {} voters would run, and nothing could be decided",
                voters.len()
            )));
        }
        if node_id == self.config.node_id {
            self.hand_over_quorum();
            let text = format!("node {node_id} leads the quorum; it was told to hand over, try again");
            return Err(refused(ResponseError::NotController, text));
        }
        self.begin_change(voters)
    }

    fn begin_change(&mut self, voters: BTreeSet<i32>) -> Result<ProposalId, Answer> {
        tracing::info!(?voters, "who votes on the metadata is being changed");
        self.consensus.quorum.change_voters(voters).map_err(|error| failed(&error))
    }

    fn begin_forget(&mut self, node_id: i32) -> Result<ProposalId, Answer> {
        if self.meta.broker(node_id).is_some() {
            let text = format!("node {node_id} is registered again");
            return Err(refused(ResponseError::InvalidRequest, text));
        }
        self.consensus.quorum.remove_learners(BTreeSet::from([node_id])).map_err(|error| failed(&error))
    }

    /// A node is registered no more: it need not be told what the quorum decides.
    pub(crate) fn forget_member(&mut self, node_id: i32) {
        let status = self.consensus.quorum.status();
        if status.leader != Some(self.config.node_id) || !status.members.learners.contains(&node_id) {
            return;
        }
        if let Err(error) = self.consensus.quorum.remove_learners(BTreeSet::from([node_id])) {
            tracing::warn!(%error, node_id, "it still gets the metadata; unregister it once more");
        }
    }

    /// A change of members is decided, or not.
    pub(crate) fn change_answered(&mut self, id: ProposalId, result: &Result<u64, QuorumError>) {
        let changes = &mut self.cluster.asks.changes;
        let Some(at) = changes.iter().position(|(change, _)| *change == id) else { return };
        let Some((_, asker)) = changes.remove(at) else { return };
        let answer = match result {
            Ok(_) => Answer::Done,
            Err(error) => failed(error),
        };
        if asker.node == self.config.node_id {
            self.ask_answered(asker.number, answer);
        } else {
            let answered = Other::Answered { number: asker.number, answer };
            self.send_control(asker.node, &Control::Other(answered));
        }
    }
}

fn failed(error: &QuorumError) -> Answer {
    let code = match error {
        QuorumError::NotLeader { .. } => ResponseError::NotController,
        QuorumError::Refused(_) => ResponseError::InvalidRequest,
        QuorumError::Unknown
        | QuorumError::Busy { .. }
        | QuorumError::TooLarge { .. }
        | QuorumError::Malformed(_)
        | QuorumError::UnknownVersion { .. }
        | QuorumError::OtherNode { .. }
        | QuorumError::Stopped(_) => ResponseError::RequestTimedOut,
    };
    refused(code, error.to_string())
}
