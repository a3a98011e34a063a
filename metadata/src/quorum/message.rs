//! What the nodes of a quorum say to each other. A request has an id, its answer repeats it.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::types::{
    Ballot, Coverage, Entry, EntryRecord, Payload, Position, Types, Vote, check_consecutive, decode, encode,
};
use super::{QuorumError, limits};

/// A message to or from another node. Opaque: [`encode`](Self::encode) it, send the bytes, decode them over there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(pub(super) Body);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    Request {
        id: u64,
        request: Request,
    },
    Answer {
        id: u64,
        answer: Answer,
    },
    /// From the leader: stand for election now.
    TakeOver {
        term: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// `handed_over`: the leader wants it so, and nobody need wait for the time that it was promised.
    Vote {
        ballot: Ballot,
        last: Option<Position>,
        handed_over: bool,
    },
    Append {
        ballot: Ballot,
        before: Option<Position>,
        entries: Vec<EntryRecord>,
        committed: Option<Position>,
    },
    Part(Part),
}

/// A piece of a snapshot; the one that ends at `length` is the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) ballot: Ballot,
    pub(super) coverage: Coverage,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) bytes: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Vote {
        ballot: Ballot,
        granted: bool,
        last: Option<Position>,
    },
    Append(Appended),
    /// The vote of who received the part.
    Part {
        ballot: Ballot,
    },
    /// Not the part that comes next: begin again.
    OutOfOrder,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Appended {
    All,
    UpTo(Option<Position>),
    Conflict,
    HigherVote(Ballot),
}

impl Message {
    /// Bytes for [`decode`](Self::decode); at most [`limits::MAX_MESSAGE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, QuorumError> {
        encode(&self.0)
    }

    /// Reads and checks what another node encoded. Memory is taken in proportion to the bytes that are there.
    pub fn decode(bytes: &[u8]) -> Result<Self, QuorumError> {
        let body: Body = decode(bytes, limits::MAX_MESSAGE_BYTES)?;
        if let Body::Request { request: Request::Append { ballot, before, entries, .. }, .. } = &body {
            check_append(*ballot, *before, entries)?;
        }
        Ok(Self(body))
    }
}

/// openraft trusts these to hold.
fn check_append(ballot: Ballot, before: Option<Position>, entries: &[EntryRecord]) -> Result<(), QuorumError> {
    let last = entries.last().map(|entry| entry.at).or(before);
    let later = last.is_some_and(|last| (last.term, last.node) > (ballot.term, ballot.node));
    if later || !ballot.committed {
        return Err(QuorumError::Malformed("entries from a later leader than their sender".into()));
    }
    check_consecutive(before, entries)
}

impl Request {
    /// The node in whose name this is said.
    pub(super) fn speaker(&self) -> i32 {
        match self {
            Self::Vote { ballot, .. } | Self::Append { ballot, .. } | Self::Part(Part { ballot, .. }) => ballot.node,
        }
    }
}

impl From<AppendEntriesRequest<Types>> for Request {
    fn from(request: AppendEntriesRequest<Types>) -> Self {
        Self::Append {
            ballot: request.vote.into(),
            before: request.prev_log_id.map(Into::into),
            entries: request.entries.iter().map(Into::into).collect(),
            committed: request.leader_commit.map(Into::into),
        }
    }
}

/// The request that openraft takes.
pub(super) fn append_request(
    ballot: Ballot,
    before: Option<Position>,
    entries: Vec<EntryRecord>,
    committed: Option<Position>,
) -> Result<AppendEntriesRequest<Types>, QuorumError> {
    Ok(AppendEntriesRequest {
        vote: ballot.into(),
        prev_log_id: before.map(Into::into),
        entries: entries.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?,
        leader_commit: committed.map(Into::into),
    })
}

/// The request that asks for a vote.
pub(super) fn vote_request(request: &VoteRequest<i32>, handed_over: bool) -> Request {
    Request::Vote { ballot: request.vote.into(), last: request.last_log_id.map(Into::into), handed_over }
}

impl From<VoteResponse<i32>> for Answer {
    fn from(response: VoteResponse<i32>) -> Self {
        Self::Vote {
            ballot: response.vote.into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(Into::into),
        }
    }
}

impl From<AppendEntriesResponse<i32>> for Answer {
    fn from(response: AppendEntriesResponse<i32>) -> Self {
        Self::Append(match response {
            AppendEntriesResponse::Success => Appended::All,
            AppendEntriesResponse::PartialSuccess(upto) => Appended::UpTo(upto.map(Into::into)),
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(vote.into()),
        })
    }
}

impl From<Appended> for AppendEntriesResponse<i32> {
    fn from(appended: Appended) -> Self {
        match appended {
            Appended::All => Self::Success,
            Appended::UpTo(upto) => Self::PartialSuccess(upto.map(Into::into)),
            Appended::Conflict => Self::Conflict,
            Appended::HigherVote(ballot) => Self::HigherVote(ballot.into()),
        }
    }
}

/// The response that openraft takes.
pub(super) fn vote_response(ballot: Ballot, granted: bool, last: Option<Position>) -> VoteResponse<i32> {
    VoteResponse::new(Vote::from(ballot), last.map(Into::into), granted)
}
