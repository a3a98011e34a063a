//! Group requests: from the wire to the coordinators' types and back.
//!
//! ```text
//!  request ─> ask ─> coordinators ─> Groups::step ─┬─> Reply ─> answer ─> response
//!                                                  └─> Persist ─> log ─ committed ─> Persisted ─> step ─> Reply
//! ```

pub(super) mod consumer_describe;
pub(super) mod consumer_heartbeat;
pub(super) mod delete;
pub(super) mod describe;
pub(super) mod heartbeat;
pub(super) mod join;
pub(super) mod leave;
pub(super) mod list;
pub(super) mod offset_commit;
pub(super) mod offset_delete;
pub(super) mod offset_fetch;
pub(super) mod share_describe;
pub(super) mod share_heartbeat;
pub(super) mod sync;
pub(crate) mod txn_offset_commit;

use std::sync::Arc;

use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::{GroupError, Request, Response};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::StrBytes;

/// Hands a request to its coordinators; they answer through [`answer`].
fn ask<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: Request) -> Outcome {
    core.ask_groups(ctx, body)
}

/// A coordinator's answer as a response.
pub(crate) fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, response: Response) -> Outcome {
    match response {
        Response::Join(response) => join::answer(ctx, response),
        Response::Sync(response) => sync::answer(ctx, response),
        Response::Heartbeat(response) => heartbeat::answer(ctx, response),
        Response::Leave(response) => leave::answer(ctx, &response),
        Response::OffsetCommit(response) => offset_commit::answer(ctx, &response),
        Response::OffsetFetch(response) => offset_fetch::answer(core, ctx, response),
        Response::OffsetDelete(response) => offset_delete::answer(ctx, &response),
        Response::List(response) => list::answer(ctx, response),
        Response::Describe(response) => describe::answer(core, ctx, response),
        Response::Delete(response) => delete::answer(ctx, &response),
        Response::ConsumerHeartbeat(response) => consumer_heartbeat::answer(ctx, response),
        Response::ConsumerDescribe(response) => consumer_describe::answer(core, ctx, response),
        Response::ShareHeartbeat(response) => share_heartbeat::answer(ctx, response),
        Response::ShareDescribe(response) => share_describe::answer(core, ctx, response),
    }
}

/// Where a client connects from, as members are listed.
fn client_host(ctx: &Ctx) -> Arc<str> {
    format!("/{}", ctx.caller.host).into()
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
fn refusal<S: LogStore>(core: &Core<S>, ctx: &Ctx, topic: &str, partition: i32) -> Option<GroupError> {
    if !core.allows_topic(ctx, Operation::Read, topic) {
        return Some(GroupError::TopicAuthorizationFailed);
    }
    let known = core.meta.topic(topic).is_some_and(|topic| topic.partition(partition).is_some());
    (!known).then_some(GroupError::UnknownTopicOrPartition)
}
