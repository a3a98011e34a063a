//! Ends of transactions, written to partitions that this node leads.

use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;

use super::Core;
use super::duties::log_of;
use super::store::LogStore;

/// The end of a producer's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) coordinator_epoch: i32,
    pub(crate) commit: bool,
    pub(crate) transaction_version: u8,
}

/// Chosen by the caller, unique among the calls in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MarkerToken(pub(crate) u64);

impl<S: LogStore> Core<S> {
    /// No partition has transactional records yet: there is nothing to end where this node leads.
    pub(crate) fn write_markers(&mut self, token: MarkerToken, _marker: Marker, partitions: Vec<PartitionId>) {
        let led = |id: &PartitionId| self.leads(log_of(*id)).map(drop).map_err(|_| ResponseError::NotLeaderOrFollower);
        let results = partitions.iter().map(|id| (*id, led(id))).collect();
        self.markers_written(token, results);
    }
}
