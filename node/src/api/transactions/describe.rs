//! DescribeTransactions (KIP-664).

use super::{by_topic, shared, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_DESCRIBED_TRANSACTIONS;
use crate::transactions::{Description, TransactionError};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::StrBytes;
use wherry_wire::codec::messages::describe_transactions_response::{TopicData, TransactionState};
use wherry_wire::codec::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ProducerId, TopicName, TransactionalId,
};

/// Answers for those transactional ids that are coordinated here.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeTransactionsRequest) -> Outcome {
    let ids = &request.transactional_ids;
    if ids.len() > MAX_DESCRIBED_TRANSACTIONS {
        return Outcome::Close(format!("{} transactional ids asked for at once", ids.len()));
    }
    let states = ids.iter().map(|id| {
        if !core.allows_transactional_id(ctx, Operation::Describe, id) {
            let refused = TransactionState::default().with_transactional_id(id.clone());
            return refused.with_error_code(ResponseError::TransactionalIdAuthorizationFailed.code());
        }
        let mut found = core.describe_transaction(id);
        if let Ok(found) = &mut found {
            found.partitions.retain(|(topic, _)| core.allows_topic(ctx, Operation::Describe, topic));
        }
        state(id, found)
    });
    ctx.reply(&DescribeTransactionsResponse::default().with_transaction_states(states.collect()))
}

fn state(id: &str, found: Result<Description, TransactionError>) -> TransactionState {
    let state = TransactionState::default().with_transactional_id(TransactionalId(wire(id)));
    let found = match found {
        Ok(found) => found,
        Err(error) => return state.with_error_code(error.code()),
    };
    let partitions = found.partitions.iter().map(|(topic, partition)| ((shared(topic), *partition), ()));
    let topic = |(name, partitions): (std::sync::Arc<str>, Vec<(i32, ())>)| {
        TopicData::default()
            .with_topic(TopicName(wire(&name)))
            .with_partitions(partitions.into_iter().map(|(partition, ())| partition).collect())
    };
    state
        .with_transaction_state(StrBytes::from_static_str(found.state.as_str()))
        .with_transaction_timeout_ms(found.timeout_ms)
        .with_transaction_start_time_ms(found.start_ms)
        .with_producer_id(ProducerId(found.producer_id))
        .with_producer_epoch(found.producer_epoch)
        .with_topics(by_topic(partitions).into_iter().map(topic).collect())
}
