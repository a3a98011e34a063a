//! Requests of transactional producers, and of those who look after them: from the wire to the coordinators' types and back.

pub(super) mod add_offsets;
pub(super) mod add_partitions;
pub(super) mod describe;
pub(super) mod end;
pub(super) mod list;

use std::sync::Arc;

pub(crate) use add_offsets::answered as offsets_added;
pub(crate) use add_partitions::{AddOp, AddPart, answered as added};
pub(crate) use end::answered as ended;
use wherry_wire::codec::{ResponseError, StrBytes};

use crate::transactions::{TopicPartition, TransactionError};

/// Text that outlives its request frame.
pub(super) fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn wire(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Before PRODUCER_FENCED there was INVALID_PRODUCER_EPOCH (KIP-588); `knows` says whether the client is newer.
pub(super) fn older_fencing(error: TransactionError, knows: bool) -> ResponseError {
    match error {
        TransactionError::ProducerFenced if !knows => ResponseError::InvalidProducerEpoch,
        TransactionError::CoordinatorLoadInProgress
        | TransactionError::CoordinatorNotAvailable
        | TransactionError::NotCoordinator
        | TransactionError::InvalidRequest
        | TransactionError::InvalidTxnState
        | TransactionError::InvalidProducerIdMapping
        | TransactionError::InvalidTransactionTimeout
        | TransactionError::ConcurrentTransactions
        | TransactionError::ProducerFenced
        | TransactionError::TransactionalIdNotFound
        | TransactionError::TransactionAbortable => {
            ResponseError::try_from_code(error.code()).unwrap_or(ResponseError::UnknownServerError)
        }
    }
}

/// Partitions of a topic, with something about each.
type OfTopic<T> = (Arc<str>, Vec<(i32, T)>);

/// Partitions by topic, in the order in which topics come first.
fn by_topic<T>(items: impl IntoIterator<Item = (TopicPartition, T)>) -> Vec<OfTopic<T>> {
    let mut topics: Vec<OfTopic<T>> = Vec::new();
    for ((topic, partition), item) in items {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push((partition, item)),
            Some(_) | None => topics.push((topic, vec![(partition, item)])),
        }
    }
    topics
}
