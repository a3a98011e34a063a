//! ListTransactions (KIP-664, KIP-994).

use super::wire;
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::transactions::{Filter, Listed, StateName, TransactionError};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::StrBytes;
use wherry_wire::codec::messages::list_transactions_response::TransactionState;
use wherry_wire::codec::messages::{ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId};

/// Answers with what is coordinated here.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ListTransactionsRequest) -> Outcome {
    let named = |name: &&StrBytes| StateName::named(name).is_some();
    let (known, unknown): (Vec<_>, Vec<_>) = request.state_filters.iter().partition(named);
    let filter = Filter {
        states: known.into_iter().filter_map(|name| StateName::named(name)).collect(),
        producer_ids: request.producer_id_filters.iter().map(|id| id.0).collect(),
        longer_than_ms: Some(request.duration_filter).filter(|ms| *ms >= 0),
    };
    let only_unknown = filter.states.is_empty() && !unknown.is_empty();
    let (listed, error) = core.list_transactions(&filter);
    let may_see = |listed: &&Listed| core.allows_transactional_id(ctx, Operation::Describe, &listed.transactional_id);
    let states = listed.iter().filter(|_| !only_unknown).filter(may_see).map(one);
    let response = ListTransactionsResponse::default()
        .with_error_code(error.map_or(0, TransactionError::code))
        .with_unknown_state_filters(unknown.into_iter().map(|name| wire(name)).collect())
        .with_transaction_states(states.collect());
    ctx.reply(&response)
}

fn one(listed: &Listed) -> TransactionState {
    TransactionState::default()
        .with_transactional_id(TransactionalId(wire(&listed.transactional_id)))
        .with_producer_id(ProducerId(listed.producer_id))
        .with_transaction_state(StrBytes::from_static_str(listed.state.as_str()))
}
