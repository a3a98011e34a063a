//! Group requests: from the wire to the coordinator's types and back; its records go to an internal compacted log, and
//! what it is told is durable is.
//!
//! ```text
//!  request ─> ask ─> Groups::step ─┬─> Reply ─> response
//!                                  └─> Persist ─> group log ─ durable ─> Persisted ─> step ─> Reply
//! ```

pub(super) mod delete;
pub(super) mod describe;
pub(super) mod heartbeat;
pub(super) mod join;
pub(super) mod leave;
pub(super) mod list;
pub(super) mod offset_commit;
pub(super) mod offset_delete;
pub(super) mod offset_fetch;
pub(super) mod sync;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_wire::types::LogId;

use super::{Ctx, Outcome};
use crate::core::store::{LogError, LogStore, Ticket};
use crate::core::{Core, Pair, Then};
use crate::groups::{
    Effect, Effects, GroupError, Groups, Input, Now, PersistError, PersistId, Record, Request, RequestRef, Response,
};
use wherry_wire::codec::StrBytes;

/// Log of the coordinator's state: a reserved topic id that no topic can have.
pub(crate) const GROUP_LOG: LogId =
    LogId { topic: Uuid::from_u128(0x7768_6572_7279_0000_0000_0000_0000_0002), partition: 0 };

/// The coordinator, and who waits for it. Bounded by the requests in flight.
#[derive(Debug)]
pub(crate) struct GroupDesk {
    pub(crate) groups: Groups,
    waiting: HashMap<u64, Ctx, RandomState>,
    next: u64,
    /// Of the newest persist: a failed one is reported after it, since reports keep their order.
    last_ticket: Ticket,
}

impl GroupDesk {
    pub(crate) fn new(groups: Groups) -> Self {
        Self { groups, waiting: HashMap::default(), next: 0, last_ticket: Ticket::default() }
    }

    fn enter(&mut self, ctx: &Ctx) -> RequestRef {
        self.next += 1;
        self.waiting.insert(self.next, ctx.clone());
        RequestRef(self.next)
    }
}

fn ask<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: Request) -> Outcome {
    let request = core.desk.enter(ctx);
    if let Some(connection) = core.connection(ctx.id.conn) {
        connection.group_requests.push(request.0);
    }
    let now = time(core);
    let effects = core.desk.groups.step(now, Input::Request { request, body });
    core.run_group_effects(effects);
    // If it was answered, its slot is filled already.
    Outcome::Later
}

fn time<S: LogStore>(core: &Core<S>) -> Now {
    Now { monotonic_ns: core.now.monotonic_ns, wall_ms: core.now.wall_ms }
}

fn answer(ctx: &Ctx, response: Response) -> Outcome {
    match response {
        Response::Join(response) => join::answer(ctx, response),
        Response::Sync(response) => sync::answer(ctx, response),
        Response::Heartbeat(response) => heartbeat::answer(ctx, response),
        Response::Leave(response) => leave::answer(ctx, &response),
        Response::OffsetCommit(response) => offset_commit::answer(ctx, &response),
        Response::OffsetFetch(response) => offset_fetch::answer(ctx, response),
        Response::OffsetDelete(response) => offset_delete::answer(ctx, &response),
        Response::List(response) => list::answer(ctx, response),
        Response::Describe(response) => describe::answer(ctx, response),
        Response::Delete(response) => delete::answer(ctx, &response),
    }
}

impl<S: LogStore> Core<S> {
    /// Does what the coordinator asks for, in its order. Called where connections are settled afterwards, or here for
    /// those of other requests.
    pub(crate) fn run_group_effects(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Reply { request, response } => self.group_reply(request, response),
                Effect::Persist { id, records } => self.group_persist(id, records),
            }
        }
    }

    fn group_reply(&mut self, request: RequestRef, response: Response) {
        let Some(ctx) = self.desk.waiting.remove(&request.0) else { return };
        if let Some(connection) = self.connection(ctx.id.conn) {
            connection.group_requests.retain(|waiting| *waiting != request.0);
        }
        let outcome = answer(&ctx, response);
        self.finish(ctx.id, outcome);
    }

    fn group_persist(&mut self, id: PersistId, records: Vec<Record>) {
        let pairs: Vec<Pair> = records.into_iter().map(|r| (Some(r.key), r.value)).collect();
        let result = match self.append_pairs(GROUP_LOG, &pairs) {
            Ok(ticket) => {
                self.desk.last_ticket = self.desk.last_ticket.max(ticket);
                Ok(())
            }
            Err(LogError::Rejected { log, what }) => {
                tracing::warn!(%log, %what, "the group log refused records");
                Err(PersistError::TooLarge)
            }
            Err(error) => {
                tracing::debug!(%error, "the group log takes no records now");
                Err(PersistError::NotAvailable)
            }
        };
        self.durable.push(self.desk.last_ticket, Then::GroupPersisted { id, result });
    }

    pub(crate) fn group_persisted(&mut self, id: PersistId, result: Result<(), PersistError>) {
        let now = time(self);
        let effects = self.desk.groups.step(now, Input::Persisted { id, result });
        self.run_group_effects(effects);
    }

    /// A topic is gone: so are the offsets committed for it.
    pub(crate) fn group_topic_deleted(&mut self, topic: &Arc<str>) {
        let now = time(self);
        let effects = self.desk.groups.step(now, Input::TopicDeleted { topic: Arc::clone(topic) });
        self.run_group_effects(effects);
    }

    /// A connection is gone: the coordinator stops waiting for its requests.
    pub(crate) fn group_abandon(&mut self, requests: &[u64]) {
        let now = time(self);
        for request in requests {
            self.desk.waiting.remove(request);
            let effects = self.desk.groups.step(now, Input::Abandoned { request: RequestRef(*request) });
            self.run_group_effects(effects);
        }
    }

    /// Sessions end, rebalances complete, offsets expire.
    pub(crate) fn tick_groups(&mut self) {
        if self.desk.groups.next_deadline().is_some_and(|at| at <= self.now.monotonic_ns) {
            let now = time(self);
            let effects = self.desk.groups.step(now, Input::Tick);
            self.run_group_effects(effects);
        }
    }

    /// All records of the group log were replayed.
    pub(crate) fn groups_loaded(&mut self) {
        let now = time(self);
        let meta = &self.meta;
        let effects = self.desk.groups.loaded(now, |name| meta.topic(name).map(|topic| topic.id));
        self.run_group_effects(effects);
    }
}

/// Text that outlives its request frame.
fn shared(text: &StrBytes) -> Arc<str> {
    Arc::from(text.as_str())
}

fn shared_option(text: Option<&StrBytes>) -> Option<Arc<str>> {
    text.map(shared)
}

fn wire(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn wire_option(text: Option<&Arc<str>>) -> Option<StrBytes> {
    text.map(|text| wire(text))
}

/// Why an offset of this partition can't be touched, if it can't.
fn refusal<S: LogStore>(core: &Core<S>, topic: &str, partition: i32) -> Option<GroupError> {
    let known = core.meta.topic(topic).is_some_and(|topic| (0..topic.partitions).contains(&partition));
    (!known).then_some(GroupError::UnknownTopicOrPartition)
}
