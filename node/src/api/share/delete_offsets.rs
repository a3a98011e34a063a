//! DeleteShareGroupOffsets: an administrator has what is kept of topics forgotten, for an empty share group.

use wherry_metadata::acl::Operation;
use wherry_wire::codec::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic as Topic;
use wherry_wire::codec::messages::{DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::offsets::{self, check_group, error_of, kept};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_SHARE_NAMES_PER_REQUEST;
use crate::share::ledger::{Request, Response};

/// A request that is being carried out.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Box<Ctx>,
    body: DeleteShareGroupOffsetsResponse,
}

/// Hands what may be deleted to the share coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DeleteShareGroupOffsetsRequest) -> Outcome {
    let group = if core.allows_group(ctx, Operation::Delete, &request.group_id) {
        check_group(core, &request.group_id, true)
    } else {
        Err(ResponseError::GroupAuthorizationFailed)
    };
    let group = match group {
        Ok(_) if request.topics.len() > MAX_SHARE_NAMES_PER_REQUEST => {
            return refused(ctx, ResponseError::InvalidRequest);
        }
        Ok(group) => group,
        Err(error) => return refused(ctx, error),
    };
    let (mut topics, mut responses) = (Vec::new(), Vec::new());
    for asked in &request.topics {
        let topic = Topic::default().with_topic_name(asked.topic_name.clone());
        responses.push(match core.topic_for(ctx, Operation::Read, &asked.topic_name) {
            Ok(found) => {
                topics.push(found.id);
                topic.with_topic_id(found.id)
            }
            Err(error) => topic
                .with_error_code(error.error.code())
                .with_error_message(Some(StrBytes::from_string(error.error.to_string()))),
        });
    }
    let body = DeleteShareGroupOffsetsResponse::default().with_responses(responses);
    if topics.is_empty() {
        return ctx.reply(&body);
    }
    let pending = offsets::Pending::Delete(Pending { ctx: kept(ctx), body });
    offsets::ask(core, pending, Request::Delete { group, topics: Some(topics) });
    Outcome::Later
}

fn refused(ctx: &Ctx, error: ResponseError) -> Outcome {
    let text = StrBytes::from_string(error.to_string());
    ctx.reply(&DeleteShareGroupOffsetsResponse::default().with_error_code(error.code()).with_error_message(Some(text)))
}

/// It is done, or not.
pub(super) fn deleted<S: LogStore>(core: &mut Core<S>, pending: &Pending, response: &Response) {
    let outcome = match error_of(response) {
        None => pending.ctx.reply(&pending.body),
        Some(error) => refused(&pending.ctx, error),
    };
    core.finish(pending.ctx.id, outcome);
}
