//! FindCoordinator: which node coordinates a group. Transactions have no coordinator yet and are refused,
//! with the one error that every client takes as final.

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_COORDINATOR_KEYS;
use wherry_wire::codec::messages::find_coordinator_response::Coordinator;
use wherry_wire::codec::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// Answers for one key (to version 3) or many (KIP-699).
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &FindCoordinatorRequest) -> Outcome {
    if request.coordinator_keys.len() > MAX_COORDINATOR_KEYS {
        return Outcome::Close(format!("{} coordinators asked for at once", request.coordinator_keys.len()));
    }
    let mut response = FindCoordinatorResponse::default();
    if ctx.version >= 4 {
        response.coordinators =
            request.coordinator_keys.iter().map(|key| coordinator(core, request.key_type, key)).collect();
    } else {
        let found = coordinator(core, request.key_type, &request.key);
        response.error_code = found.error_code;
        response.error_message = found.error_message;
        response.node_id = found.node_id;
        response.host = found.host;
        response.port = found.port;
    }
    ctx.reply(&response)
}

fn coordinator<S: LogStore>(core: &Core<S>, key_type: i8, key: &StrBytes) -> Coordinator {
    let found = Coordinator::default().with_key(key.clone());
    match refusal(key_type) {
        Some(refusal) => found
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(refusal.code())
            .with_error_message(refusal.text()),
        None => found
            .with_node_id(BrokerId(core.config.node_id))
            .with_host(StrBytes::from_string(core.advertised.host.clone()))
            .with_port(i32::from(core.advertised.port)),
    }
}

fn refusal(key_type: i8) -> Option<ApiError> {
    match key_type {
        GROUP => None,
        TRANSACTION => Some(ApiError::new(
            ResponseError::TransactionalIdAuthorizationFailed,
            "transactions are not implemented by this node",
        )),
        other => Some(ApiError::new(ResponseError::InvalidRequest, format!("unknown coordinator type {other}"))),
    }
}
