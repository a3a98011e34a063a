//! Markers: the ends of transactions, written to the partitions that this node leads because a coordinator, on whichever
//! node, or an administrator says so. Answered when they are committed, as with acks=all.
//!
//! ```text
//! write_markers ─> each partition: refused ──────────────────────┐
//!                                  appended ─> committed ────────┼─ all ─> markers_written
//!                                           └> leadership ended ─┘
//! ```
//! Nothing is tried again here: who asked does that, until every partition has taken its marker.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;
use wherry_wire::records::EndMarker;

use super::duties::log_of;
use super::store::{Appended, LogStore};
use super::{Core, Then};
use crate::api;
use crate::api::errors::ApiError;

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// Of the coordinator that decided: a partition refuses those of earlier ones.
    pub(crate) coordinator_epoch: i32,
    pub(crate) commit: bool,
    /// From 2 on each marker has a newer epoch than what it ends (KIP-890), and partitions insist on it.
    pub(crate) transaction_version: u8,
}

/// A call to [`Core::write_markers`]: chosen by the caller, unique among the calls in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MarkerToken(u64);

/// Tokens of WriteTxnMarkers requests have this bit; those of nodes have not.
const OF_REQUESTS: u64 = 1 << 63;

impl MarkerToken {
    /// For partitions that a coordinator, of this node or another one, wants told.
    pub(crate) fn of_node(n: u64) -> Self {
        Self(n)
    }

    /// For a part of a request.
    pub(crate) fn of_request(n: u64) -> Self {
        Self(n | OF_REQUESTS)
    }

    pub(crate) fn is_of_request(self) -> bool {
        self.0 & OF_REQUESTS != 0
    }
}

/// What became of a marker, by partition.
pub(crate) type MarkerResults = Vec<(PartitionId, Result<(), ResponseError>)>;

#[derive(Debug)]
struct Call {
    marker: Marker,
    /// Partitions without a result.
    left: usize,
    results: MarkerResults,
}

/// The calls in flight: as many as their callers allow themselves.
#[derive(Debug, Default)]
pub(crate) struct Markers {
    calls: HashMap<MarkerToken, Call, RandomState>,
    pub(crate) requests: api::write_txn_markers::Requests,
}

impl Markers {
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }
}

impl<S: LogStore> Core<S> {
    /// Appends the marker to partitions that this node leads. Each is answered by [`Core::markers_written`] when it is
    /// committed, or refused; all of a call together.
    pub(crate) fn write_markers(&mut self, token: MarkerToken, marker: Marker, partitions: Vec<PartitionId>) {
        let call = Call { marker, left: partitions.len(), results: Vec::with_capacity(partitions.len()) };
        if partitions.is_empty() {
            return self.markers_written(token, Vec::new());
        }
        self.markers.calls.insert(token, call);
        for id in partitions {
            match self.append_marker(id, marker) {
                Ok(appended) => {
                    let then = Then::MarkerCommitted { token, partition: id };
                    self.when_committed(log_of(id), appended.last_offset, appended.ticket, then);
                }
                Err(error) => {
                    tracing::debug!(log = %log_of(id), error = ?error.error, why = %error.message, "a marker was refused");
                    self.marker_done(token, id, Err(error.error));
                }
            }
        }
    }

    fn append_marker(&mut self, id: PartitionId, marker: Marker) -> Result<Appended, ApiError> {
        let log = log_of(id);
        let partition = self.meta.partition(id).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let enough = partition.isr.len() >= partition.effective_min(self.meta.min_insync(id.topic));
        let epoch = self.leads(log)?;
        self.groups_take_marker(id)?;
        if !enough {
            return Err(ResponseError::NotEnoughReplicas.into());
        }
        let Marker { producer_id, producer_epoch, coordinator_epoch, commit, transaction_version } = marker;
        let end = EndMarker { producer_id, producer_epoch, coordinator_epoch, commit };
        let appended = self.store.append_marker(log, &end, transaction_version >= 2, epoch, self.now.wall_ms);
        let appended = appended.map_err(|error| ApiError::from(&error))?;
        self.verification.ended(log, producer_id);
        self.transactional_commits.ended(log, producer_id);
        self.ids_take_marker(log, epoch, producer_id, commit);
        Ok(appended)
    }

    /// A marker is committed.
    pub(super) fn marker_committed(&mut self, token: MarkerToken, id: PartitionId) {
        if let Some(marker) = self.markers.calls.get(&token).map(|call| call.marker) {
            self.groups_marker_committed(id, marker.producer_id, marker.commit);
        }
        self.marker_done(token, id, Ok(()));
    }

    /// Nobody here will know whether a marker is committed.
    pub(super) fn marker_lost(&mut self, token: MarkerToken, id: PartitionId) {
        self.marker_done(token, id, Err(ResponseError::NotLeaderOrFollower));
    }

    fn marker_done(&mut self, token: MarkerToken, id: PartitionId, result: Result<(), ResponseError>) {
        let Some(call) = self.markers.calls.get_mut(&token) else { return };
        call.results.push((id, result));
        call.left = call.left.saturating_sub(1);
        if call.left > 0 {
            return;
        }
        if let Some(call) = self.markers.calls.remove(&token) {
            self.markers_written(token, call.results);
        }
    }

    /// Every partition of a call has its result.
    fn markers_written(&mut self, token: MarkerToken, results: MarkerResults) {
        if token.is_of_request() {
            api::write_txn_markers::written(self, token, results);
        } else {
            self.nodes_markers_written(token.0, &results);
        }
    }
}
