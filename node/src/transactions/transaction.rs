//! One transactional id: what its record says, and the moves from one state to the next. A move makes a new value; it
//! takes effect when its record is committed.
//!
//! ```text
//!   init            add                end                   all markers written
//!  ------> Empty ---------> Ongoing ---------> PrepareCommit ------------------> CompleteCommit --+
//!            ^                 ^    \--------> PrepareAbort  ------------------> CompleteAbort  --+
//!            |                 |     end, timeout, a new producer                                 |
//!            |                 +------------------------- add ------------------------------------+
//!            +------------------------------------------- init -----------------------------------+
//! ```
//! Who is fenced, is so by an epoch (KIP-98): a producer may go on only with the newest. With [`TransactionVersion::V2`]
//! each end of a transaction bumps it (KIP-890).

use std::collections::BTreeSet;

use super::types::{
    EndMarker, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, StateName, TopicPartition, TransactionError, TransactionVersion,
};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) producer_id: i64,
    /// The producer id before the last move: a retry may still name it.
    pub(super) previous_id: i64,
    /// The producer id from the end of this transaction on, if the epochs of the present one are used up.
    pub(super) next_id: i64,
    pub(super) epoch: i16,
    /// The epoch that the producer had when it asked for this one. Not written: a retry over a change of coordinators is
    /// fenced.
    pub(super) last_epoch: i16,
    pub(super) timeout_ms: i32,
    pub(super) state: StateName,
    pub(super) partitions: BTreeSet<TopicPartition>,
    /// -1: no transaction.
    pub(super) start_ms: i64,
    pub(super) updated_ms: i64,
    pub(super) version: TransactionVersion,
}

/// The last epoch is for fencing alone; no producer gets it.
pub(super) fn is_exhausted(epoch: i16) -> bool {
    epoch >= i16::MAX - 1
}

impl Transaction {
    /// A new transactional id.
    pub(super) fn new(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer_id,
            previous_id: NO_PRODUCER_ID,
            next_id: NO_PRODUCER_ID,
            epoch: 0,
            last_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state: StateName::Empty,
            partitions: BTreeSet::new(),
            start_ms: -1,
            updated_ms: now_ms,
            version: TransactionVersion::V1,
        }
    }

    fn moved(&self, state: StateName, now_ms: i64) -> Self {
        Self { previous_id: self.producer_id, state, updated_ms: now_ms, ..self.clone() }
    }

    fn begun_anew(&self, timeout_ms: i32, now_ms: i64) -> Self {
        Self { timeout_ms, partitions: BTreeSet::new(), start_ms: -1, ..self.moved(StateName::Empty, now_ms) }
    }

    /// Whether a producer that goes on with this id and epoch may have been the last one (KIP-360): which epoch it has is
    /// looked at later.
    pub(super) fn may_go_on(&self, expected: (i64, i16)) -> bool {
        expected.0 == self.producer_id || (expected.0 == self.previous_id && is_exhausted(expected.1))
    }

    /// Whether the next producer needs a new id.
    pub(super) fn needs_id(&self, expected: Option<(i64, i16)>) -> bool {
        is_exhausted(self.epoch) && expected.is_none_or(|(_, epoch)| epoch == self.epoch)
    }

    /// The next producer with the same id; or the same again, if it is a retry.
    pub(super) fn next_epoch(
        &self,
        expected: Option<i16>,
        timeout_ms: i32,
        now_ms: i64,
    ) -> Result<Self, TransactionError> {
        let anew = self.begun_anew(timeout_ms, now_ms);
        let bumped = self.epoch.checked_add(1).filter(|_| !is_exhausted(self.epoch));
        match (expected, bumped) {
            (None, Some(epoch)) => Ok(Self { epoch, last_epoch: NO_PRODUCER_EPOCH, ..anew }),
            (Some(expected), Some(epoch)) if expected == self.epoch => {
                Ok(Self { epoch, last_epoch: self.epoch, ..anew })
            }
            // A retry: the answer was lost. Nobody else came meanwhile, or there were no last epoch.
            (Some(expected), _) if expected == self.last_epoch => Ok(Self { previous_id: self.previous_id, ..anew }),
            (Some(_), _) | (None, None) => Err(TransactionError::ProducerFenced),
        }
    }

    /// The next producer with a new id.
    pub(super) fn next_id(&self, producer_id: i64, goes_on: bool, timeout_ms: i32, now_ms: i64) -> Self {
        let last_epoch = if goes_on { self.epoch } else { NO_PRODUCER_EPOCH };
        Self { producer_id, epoch: 0, last_epoch, ..self.begun_anew(timeout_ms, now_ms) }
    }

    pub(super) fn with_partitions(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Self {
        let mut moved = self.moved(StateName::Ongoing, now_ms);
        if self.state != StateName::Ongoing {
            moved.start_ms = now_ms;
        }
        moved.partitions.extend(partitions);
        moved.version = version;
        moved
    }

    /// It is decided how the transaction ends. `next_id` is there if the epochs of the present id are used up.
    pub(super) fn decided(&self, commit: bool, version: TransactionVersion, next_id: Option<i64>, now_ms: i64) -> Self {
        let state = if commit { StateName::PrepareCommit } else { StateName::PrepareAbort };
        let mut moved = self.moved(state, now_ms);
        if self.state != StateName::Ongoing {
            // Nothing was in it: its record wants a beginning all the same.
            moved.start_ms = now_ms;
        }
        moved.version = version;
        moved.next_id = next_id.unwrap_or(NO_PRODUCER_ID);
        if version == TransactionVersion::V2 {
            moved.last_epoch = self.epoch;
            moved.epoch = self.epoch.saturating_add(1);
        }
        moved
    }

    /// Its producer is given up, and the transaction with it. With [`TransactionVersion::V2`] the epoch goes up by two: by
    /// one it would look as if the producer itself had ended the transaction and asked again.
    pub(super) fn fenced(&self, now_ms: i64) -> Self {
        let steps = match self.version {
            TransactionVersion::V1 => 1,
            TransactionVersion::V2 => 2,
        };
        let mut moved = self.moved(StateName::PrepareAbort, now_ms);
        moved.epoch = self.epoch.saturating_add(steps);
        moved.last_epoch = NO_PRODUCER_EPOCH;
        moved.next_id = NO_PRODUCER_ID;
        moved
    }

    /// All partitions know the end.
    pub(super) fn completed(&self, now_ms: i64) -> Self {
        let state = match self.state {
            StateName::PrepareCommit => StateName::CompleteCommit,
            StateName::PrepareAbort
            | StateName::Empty
            | StateName::Ongoing
            | StateName::CompleteCommit
            | StateName::CompleteAbort => StateName::CompleteAbort,
        };
        let mut moved = self.moved(state, now_ms);
        (moved.producer_id, moved.epoch) = self.after_end();
        moved.next_id = NO_PRODUCER_ID;
        moved.partitions = BTreeSet::new();
        moved
    }

    /// Id and epoch of the producer's next transaction, once this one has ended.
    pub(super) fn after_end(&self) -> (i64, i16) {
        if self.next_id == NO_PRODUCER_ID { (self.producer_id, self.epoch) } else { (self.next_id, 0) }
    }

    /// Whether the one who has this id and epoch is the producer of the last end and asks for it once more
    /// ([`TransactionVersion::V2`]).
    pub(super) fn is_retried_end(&self, producer_id: i64, epoch: i16) -> bool {
        // The last epoch is reached by fencing, or on the way to a new id; only then was it the producer's own end.
        let own = self.epoch < i16::MAX || self.next_id != NO_PRODUCER_ID;
        let bumped = own && producer_id == self.producer_id && epoch.checked_add(1) == Some(self.epoch);
        bumped || self.is_end_with_new_id(producer_id, epoch)
    }

    /// The same, where the end brought a new id.
    pub(super) fn is_end_with_new_id(&self, producer_id: i64, epoch: i16) -> bool {
        let other_id = self.previous_id == producer_id && self.producer_id != producer_id;
        other_id && epoch == i16::MAX - 1 && self.epoch == 0 && self.state.is_over()
    }

    pub(super) fn marker(&self) -> EndMarker {
        EndMarker {
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            commit: self.state == StateName::PrepareCommit,
            version: self.version,
        }
    }
}

impl StateName {
    /// Whether a transaction has ended, and no other has begun.
    pub(super) const fn is_over(self) -> bool {
        match self {
            Self::CompleteCommit | Self::CompleteAbort => true,
            Self::Empty | Self::Ongoing | Self::PrepareCommit | Self::PrepareAbort => false,
        }
    }
}
