//! FindCoordinator: which node coordinates a group, or a transactional id.

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::coordinators::CoordinatorTopic;
use crate::core::store::LogStore;
use crate::limits::MAX_COORDINATOR_KEYS;
use wherry_metadata::acl::Operation;
use wherry_wire::codec::messages::find_coordinator_response::Coordinator;
use wherry_wire::codec::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// A request that waits until there are coordinators.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    request: FindCoordinatorRequest,
}

/// Answers now; the first that asks for a kind of coordinator, when the topic that keeps their state is made.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &FindCoordinatorRequest) -> Outcome {
    if request.coordinator_keys.len() > MAX_COORDINATOR_KEYS {
        return Outcome::Close(format!("{} coordinators asked for at once", request.coordinator_keys.len()));
    }
    if let Some(topic) = topic_of(request.key_type).filter(|topic| core.coordinator_topic(*topic).is_none()) {
        let pending = Pending { ctx: ctx.clone(), request: request.clone() };
        if core.await_topic(topic, pending) {
            return Outcome::LaterAlone;
        }
    }
    answer(core, ctx, request)
}

/// Goes on after the topic was made (or refused).
pub(crate) fn committed<S: LogStore>(core: &mut Core<S>, pending: &Pending) {
    let outcome = answer(core, &pending.ctx, &pending.request);
    core.finish(pending.ctx.id, outcome);
}

/// For one key (to version 3) or many (KIP-699).
fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: &FindCoordinatorRequest) -> Outcome {
    let mut response = FindCoordinatorResponse::default();
    if ctx.version >= 4 {
        response.coordinators =
            request.coordinator_keys.iter().map(|key| coordinator(core, ctx, request.key_type, key)).collect();
    } else {
        let found = coordinator(core, ctx, request.key_type, &request.key);
        response.error_code = found.error_code;
        response.error_message = found.error_message;
        response.node_id = found.node_id;
        response.host = found.host;
        response.port = found.port;
    }
    ctx.reply(&response)
}

fn coordinator<S: LogStore>(core: &Core<S>, ctx: &Ctx, key_type: i8, key: &StrBytes) -> Coordinator {
    let found = Coordinator::default().with_key(key.clone());
    match find(core, ctx, key_type, key) {
        Ok((node_id, host, port)) => {
            found.with_node_id(BrokerId(node_id)).with_host(StrBytes::from_string(host)).with_port(i32::from(port))
        }
        Err(refusal) => found
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(refusal.code())
            .with_error_message(refusal.text()),
    }
}

fn find<S: LogStore>(core: &Core<S>, ctx: &Ctx, key_type: i8, key: &str) -> Result<(i32, String, u16), ApiError> {
    match key_type {
        GROUP if !core.allows_group(ctx, Operation::Describe, key) => {
            return Err(ResponseError::GroupAuthorizationFailed.into());
        }
        TRANSACTION if !core.allows_transactional_id(ctx, Operation::Describe, key) => {
            return Err(ResponseError::TransactionalIdAuthorizationFailed.into());
        }
        _ => {}
    }
    match topic_of(key_type) {
        Some(topic) => core.coordinator_of(topic, key, ctx.caller.listener),
        None => Err(ApiError::new(ResponseError::InvalidRequest, format!("unknown coordinator type {key_type}"))),
    }
}

/// The topic that keeps the state of coordinators of this type.
fn topic_of(key_type: i8) -> Option<CoordinatorTopic> {
    match key_type {
        GROUP => Some(CoordinatorTopic::Offsets),
        TRANSACTION => Some(CoordinatorTopic::Transactions),
        _ => None,
    }
}
