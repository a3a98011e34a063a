//! Asking the coordinator of a transactional id. Nobody coordinates transactions in this cluster yet: every question is
//! answered as one that found no coordinator, which has clients ask again.

use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;

use super::Core;
use super::store::LogStore;

/// A question; unique among those of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct VerifyToken(pub(crate) u64);

/// Do these partitions belong to the ongoing transaction of this producer?
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verify {
    pub(crate) transactional_id: String,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) partitions: Vec<PartitionId>,
    /// If not, they shall from now on.
    pub(crate) add: bool,
}

impl<S: LogStore> Core<S> {
    /// Asks the coordinator of the transactional id; [`Core::verified`] gets the answer.
    pub(crate) fn verify_transaction(&mut self, ask: VerifyToken, verify: Verify) {
        let Verify { transactional_id, .. } = verify;
        tracing::debug!(%transactional_id, "there is no coordinator for transactions");
        self.verified(ask, Err(ResponseError::CoordinatorNotAvailable));
    }
}
