//! What a step gives out: replies, and writes with what is to follow once they are durable.
//!
//! Replies that wait for a write are not made here before the write is durable: they are kept in [`Pending`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::config::GroupsConfig;
use super::consumer::Undo;
use super::group::Member;
use super::record::Committed;
use super::share::ShareGroup;
use super::transactional::OpenCommit;
use super::types::{
    DeleteResponse, Effect, Effects, JoinResponse, Now, OffsetCommitResponse, OffsetDeleteResponse, PersistId, Record,
    RequestRef, Response, Transaction,
};

/// A partition of a topic.
pub(super) type TopicPartition = (Arc<str>, i32);

/// What follows a write.
#[derive(Debug)]
pub(super) enum Pending {
    /// A generation's assignment: members get it, or the group rebalances again.
    Assignment { group: Arc<str>, assignments: BTreeMap<Arc<str>, Bytes> },
    /// A static member came back under another id without a rebalance; or the old one stays.
    StaticMember { group: Arc<str>, new_id: Arc<str>, old: Box<Member>, request: RequestRef, response: JoinResponse },
    /// A group lost its last member: nobody waits for that.
    EmptyGroup { group: Arc<str> },
    /// Offsets become visible, or are refused.
    Commit {
        group: Arc<str>,
        request: RequestRef,
        commits: Vec<(TopicPartition, Committed)>,
        response: OffsetCommitResponse,
    },
    /// The same, of a transaction that is open.
    OpenCommit(OpenCommit),
    /// Offsets are removed, or stay.
    OffsetDelete { group: Arc<str>, request: RequestRef, removed: Vec<TopicPartition>, response: OffsetDeleteResponse },
    /// Groups are removed, or stay.
    DeleteGroups { groups: Vec<Arc<str>>, request: RequestRef, response: DeleteResponse },
    /// A change of a consumer group, made already: it is answered, or undone.
    Consumer { group: Arc<str>, undo: Undo, answer: Option<(RequestRef, Response)> },
    /// A change of a share group, made already: it is answered, or the group is as before.
    Share { group: Arc<str>, before: Option<Box<ShareGroup>>, answer: Option<(RequestRef, Response)> },
    /// Nobody asked: expired offsets and groups, offsets of a deleted topic.
    Forget { offsets: Vec<(Arc<str>, TopicPartition)>, groups: Vec<Arc<str>> },
}

/// Where a step puts what it gives out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    effects: Effects,
    pending: BTreeMap<PersistId, Pending>,
    last_persist: u64,
    /// Requests that wait inside a group (not in a write), with that group.
    parked: BTreeMap<RequestRef, Arc<str>>,
    /// Answers that wait for a write of others: they speak of it. Bounded by the requests in flight.
    held: BTreeMap<PersistId, Vec<(RequestRef, Response)>>,
}

impl Outbox {
    pub(super) fn reply(&mut self, request: RequestRef, response: Response) {
        self.parked.remove(&request);
        self.effects.push(Effect::Reply { request, response });
    }

    /// Replies when this write is durable, at once if it is already.
    pub(super) fn reply_after(&mut self, write: Option<PersistId>, request: RequestRef, response: Response) {
        match write.filter(|id| self.pending.contains_key(id)) {
            Some(id) => self.held.entry(id).or_default().push((request, response)),
            None => self.reply(request, response),
        }
    }

    /// A write is durable, or undone: whoever waited for it is answered.
    pub(super) fn release(&mut self, write: PersistId) {
        for (request, response) in self.held.remove(&write).into_iter().flatten() {
            self.reply(request, response);
        }
    }

    /// Everything that waits for writes of others.
    pub(super) fn drain_held(&mut self) -> impl Iterator<Item = (RequestRef, Response)> + use<> {
        std::mem::take(&mut self.held).into_values().flatten()
    }

    /// What follows a write.
    pub(super) fn pending(&self, id: PersistId) -> Option<&Pending> {
        self.pending.get(&id)
    }

    /// The request waits in this group.
    pub(super) fn park(&mut self, request: RequestRef, group: &Arc<str>) {
        self.parked.insert(request, Arc::clone(group));
    }

    /// The request is not to be answered any more; says where it waited.
    pub(super) fn unpark(&mut self, request: RequestRef) -> Option<Arc<str>> {
        self.parked.remove(&request)
    }

    /// The id that the next write will have.
    pub(super) fn next_persist(&self) -> PersistId {
        PersistId(self.last_persist + 1)
    }

    pub(super) fn persist(&mut self, records: Vec<Record>, pending: Pending) -> PersistId {
        self.last_persist += 1;
        let id = PersistId(self.last_persist);
        self.pending.insert(id, pending);
        self.effects.push(Effect::Persist { id, records });
        id
    }

    /// As [`Outbox::persist`], in a transaction.
    pub(super) fn persist_transactional(&mut self, transaction: Transaction, records: Vec<Record>, pending: Pending) {
        self.last_persist += 1;
        let id = PersistId(self.last_persist);
        self.pending.insert(id, pending);
        self.effects.push(Effect::PersistTransactional { id, transaction, records });
    }

    /// The number of a write that was found in the log: what is written later has a larger one.
    pub(super) fn next_replayed(&mut self) -> PersistId {
        self.last_persist += 1;
        PersistId(self.last_persist)
    }

    pub(super) fn take_pending(&mut self, id: PersistId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// Everything that follows a write: nobody will hear of those any more.
    pub(super) fn drain_pending(&mut self) -> impl Iterator<Item = Pending> + use<> {
        std::mem::take(&mut self.pending).into_values()
    }

    /// No further write should be begun for a client.
    pub(super) fn is_full(&self, config: &GroupsConfig) -> bool {
        self.pending.len() >= config.max_pending_persists
    }

    pub(super) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }
}

/// What a group's moves need from outside it.
pub(super) struct Ctx<'a> {
    pub(super) now: Now,
    pub(super) config: &'a GroupsConfig,
    pub(super) outbox: &'a mut Outbox,
}

impl Ctx<'_> {
    /// The deadline this far ahead.
    pub(super) fn after_ms(&self, timeout_ms: u32) -> u64 {
        self.now.monotonic_ns.saturating_add(u64::from(timeout_ms) * 1_000_000)
    }
}
