//! openraft's network: requests become `Send` outputs, answers come in as messages.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AsyncRuntime, RaftNetwork, RaftNetworkFactory, Snapshot};
use tokio::sync::oneshot;

use super::executor::{Elapsed, Runtime};
use super::message::{Answer, Body, Message, Part, Request, append_request, vote_request, vote_response};
use super::store::Shared;
use super::types::{Ballot, Coverage, Member, Meta, Payload, Raft, Types, Vote};
use super::{Output, QuorumConfig, QuorumError, limits};

type RpcError = RPCError<i32, Member, RaftError<i32>>;

/// Requests without an answer, ours and the peers'.
pub(super) struct Calls {
    next_id: u64,
    waiting: BTreeMap<u64, (i32, oneshot::Sender<Answer>)>,
    in_work: BTreeMap<i32, usize>,
    receiving: Option<Receiving>,
}

/// A snapshot of which parts came in.
struct Receiving {
    from: i32,
    ballot: Ballot,
    coverage: Coverage,
    bytes: Vec<u8>,
}

impl Calls {
    /// Ids begin at `first`, so that those of another start of this node are not ours.
    pub(super) fn new(first: u64) -> Self {
        Self { next_id: first, waiting: BTreeMap::new(), in_work: BTreeMap::new(), receiving: None }
    }

    /// An answer; one that nobody waits for any more is dropped.
    pub(super) fn answered(&mut self, from: i32, id: u64, answer: Answer) {
        if self.waiting.get(&id).is_some_and(|(to, _)| *to == from)
            && let Some((_, receiver)) = self.waiting.remove(&id)
        {
            // The caller may have given up in this very turn.
            let _ = receiver.send(answer);
        }
    }

    /// What is under way to this node will not be answered.
    pub(super) fn fail(&mut self, node: i32) {
        self.waiting.retain(|_, (to, _)| *to != node);
        self.receiving.take_if(|receiving| receiving.from == node);
    }

    fn begin_work(&mut self, from: i32) -> bool {
        let in_work = self.in_work.entry(from).or_default();
        let room = *in_work < limits::MAX_REQUESTS_PER_PEER;
        *in_work += usize::from(room);
        room
    }

    fn end_work(&mut self, from: i32) {
        if let Some(in_work) = self.in_work.get_mut(&from) {
            *in_work -= 1;
            if *in_work == 0 {
                self.in_work.remove(&from);
            }
        }
    }

    /// Takes a part. `Ok(None)`: there is more to come.
    fn take_part(&mut self, from: i32, part: &Part) -> Result<Option<(Coverage, Vec<u8>)>, OutOfOrder> {
        if part.offset == 0 {
            let (ballot, coverage) = (part.ballot, part.coverage.clone());
            self.receiving = Some(Receiving { from, ballot, coverage, bytes: Vec::new() });
        }
        let receiving = self.receiving.as_mut().ok_or(OutOfOrder)?;
        let same = receiving.from == from && receiving.ballot == part.ballot && receiving.coverage == part.coverage;
        let end = part.offset.saturating_add(part.bytes.len() as u64);
        let fits = end <= part.length && part.length <= limits::MAX_SNAPSHOT_BYTES as u64;
        if !same || !fits || receiving.bytes.len() as u64 != part.offset {
            return Err(OutOfOrder);
        }
        receiving.bytes.extend_from_slice(&part.bytes);
        if end < part.length {
            return Ok(None);
        }
        Ok(self.receiving.take().map(|receiving| (receiving.coverage, receiving.bytes)))
    }
}

struct OutOfOrder;

/// Does what a peer asks, and answers. What fails is not answered: to the peer it is as if it were lost.
pub(super) async fn serve(raft: Raft, shared: Rc<Shared>, from: i32, id: u64, request: Request) {
    if !shared.calls.borrow_mut().begin_work(from) {
        return;
    }
    let answer = answer(&raft, &shared, from, request).await;
    shared.calls.borrow_mut().end_work(from);
    if let Ok(answer) = answer {
        shared.emit(Output::Send { to: from, message: Message(Body::Answer { id, answer }) });
    }
}

async fn answer(raft: &Raft, shared: &Shared, from: i32, request: Request) -> Result<Answer, QuorumError> {
    match request {
        Request::Vote { ballot, last, .. } => {
            let request = VoteRequest::new(ballot.into(), last.map(Into::into));
            Ok(raft.vote(request).await.map_err(|error| stopped(&error))?.into())
        }
        Request::Append { ballot, before, entries, committed } => {
            let request = append_request(ballot, before, entries, committed)?;
            Ok(raft.append_entries(request).await.map_err(|error| stopped(&error))?.into())
        }
        Request::Part(part) => take_part(raft, shared, from, part).await,
    }
}

fn stopped(error: &dyn std::error::Error) -> QuorumError {
    QuorumError::Stopped(error.to_string())
}

async fn take_part(raft: &Raft, shared: &Shared, from: i32, part: Part) -> Result<Answer, QuorumError> {
    let (sender, mine) = (Vote::from(part.ballot), raft.metrics().borrow().vote);
    if sender < mine {
        return Ok(Answer::Part { ballot: mine.into() });
    }
    let ballot = part.ballot;
    let taken = shared.calls.borrow_mut().take_part(from, &part);
    match taken {
        Err(OutOfOrder) => Ok(Answer::OutOfOrder),
        Ok(None) => Ok(Answer::Part { ballot }),
        Ok(Some((coverage, bytes))) => {
            let snapshot = Snapshot { meta: coverage.into_meta()?, snapshot: Box::new(Payload::from(bytes)) };
            let response = raft.install_full_snapshot(sender, snapshot).await.map_err(|error| stopped(&error))?;
            Ok(Answer::Part { ballot: response.vote.into() })
        }
    }
}

/// Makes [`Peer`]s.
pub(super) struct Peers {
    pub(super) shared: Rc<Shared>,
    pub(super) config: QuorumConfig,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, node: i32, _: &Member) -> Peer {
        Peer { shared: self.shared.clone(), config: self.config.clone(), node }
    }
}

/// openraft's handle on another node.
pub(super) struct Peer {
    shared: Rc<Shared>,
    config: QuorumConfig,
    node: i32,
}

/// Forgets the request when nobody waits for its answer any more.
struct Waiting<'a>(&'a Shared, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.calls.borrow_mut().waiting.remove(&self.1);
    }
}

impl Peer {
    async fn call(&self, request: Request) -> Result<Answer, Unreachable> {
        let (receiver, answer) = oneshot::channel();
        let id = {
            let calls = &mut *self.shared.calls.borrow_mut();
            calls.next_id = calls.next_id.wrapping_add(1);
            calls.waiting.insert(calls.next_id, (self.node, receiver));
            calls.next_id
        };
        let _waiting = Waiting(&self.shared, id);
        self.shared.emit(Output::Send { to: self.node, message: Message(Body::Request { id, request }) });
        answer.await.map_err(|_| unreachable_peer("its link went down"))
    }

    async fn send_part(&self, vote: Vote, meta: &Meta, bytes: &[u8], offset: usize) -> Result<Vote, Unreachable> {
        let end = bytes.len().min(offset + limits::PART_BYTES);
        let coverage = Coverage::of(meta).ok_or_else(|| unreachable_peer("there is no snapshot to send"))?;
        let part = Part {
            ballot: vote.into(),
            coverage,
            offset: offset as u64,
            length: bytes.len() as u64,
            bytes: bytes[offset..end].into(),
        };
        let last = end == bytes.len();
        let patience = if last { self.config.install_timeout_ms } else { self.config.rpc_timeout_ms };
        let call = self.call(Request::Part(part));
        match Runtime::timeout(Duration::from_millis(patience), call).await {
            Ok(Ok(Answer::Part { ballot })) => Ok(ballot.into()),
            Ok(Ok(_)) => Err(unreachable_peer("it wants the snapshot from the beginning")),
            Ok(Err(error)) => Err(error),
            Err(Elapsed) => Err(unreachable_peer("no answer to a part of the snapshot")),
        }
    }

    /// All parts, or up to the one whose answer shows a later vote.
    async fn send_parts(&self, vote: Vote, snapshot: Snapshot<Types>) -> Result<Vote, Unreachable> {
        let mut offset = 0;
        loop {
            let theirs = self.send_part(vote, &snapshot.meta, &snapshot.snapshot, offset).await?;
            offset += limits::PART_BYTES;
            if theirs > vote || offset >= snapshot.snapshot.len() {
                return Ok(theirs);
            }
        }
    }
}

fn unreachable_peer(why: &str) -> Unreachable {
    Unreachable::new(&std::io::Error::other(why))
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<i32>, RpcError> {
        match self.call(request.into()).await? {
            Answer::Append(appended) => Ok(appended.into()),
            _ => Err(unreachable_peer("it gave another kind of answer").into()),
        }
    }

    async fn vote(&mut self, request: VoteRequest<i32>, _: RPCOption) -> Result<VoteResponse<i32>, RpcError> {
        match self.call(vote_request(&request, self.shared.handed_over.get())).await? {
            Answer::Vote { ballot, granted, last } => Ok(vote_response(ballot, granted, last)),
            _ => Err(unreachable_peer("it gave another kind of answer").into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<i32>, StreamingError<Types, Fatal<i32>>> {
        let (mut cancel, mut parts) = (pin!(cancel), pin!(self.send_parts(vote, snapshot)));
        let sent = poll_fn(|context| {
            if let Poll::Ready(closed) = cancel.as_mut().poll(context) {
                return Poll::Ready(Err(closed));
            }
            parts.as_mut().poll(context).map(Ok)
        })
        .await?;
        Ok(SnapshotResponse::new(sent?))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(self.config.heartbeat_ms)))
    }
}
