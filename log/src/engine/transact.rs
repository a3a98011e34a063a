//! What transactions ask of the engine beyond appends and reads: markers, the last stable offset, who produces.

use std::collections::BTreeSet;

use wherry_wire::records::EndMarker;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::{Appended, Engine};
use crate::error::LogError;
use crate::io::Disk;
use crate::partition::Partition;
use crate::transactions::Member;

/// A producer as a log knows it. -1 in place of what is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub producer_epoch: i16,
    /// Sequence of its newest record.
    pub last_sequence: i32,
    /// When it last appended or its transaction was ended, wall clock, milliseconds.
    pub last_ms: i64,
    /// Of the coordinator that wrote its newest marker.
    pub coordinator_epoch: i32,
    /// Where its open transaction began.
    pub open_from: Option<Offset>,
}

impl ProducerInfo {
    fn unknown(producer_id: i64) -> Self {
        Self { producer_id, producer_epoch: -1, last_sequence: -1, last_ms: -1, coordinator_epoch: -1, open_from: None }
    }
}

impl<D: Disk> Engine<D> {
    /// Ends a producer's transaction in a log: appends the marker, into the space kept in reserve too, since what waits for
    /// it (readers, compaction) may be what makes room. Where no transaction is open the marker still fences older epochs. A
    /// `strict` marker (transaction.version 2) must have a newer epoch than all that the producer wrote.
    ///
    /// # Errors
    /// [`LogError::ProducerFenced`], [`LogError::CoordinatorFenced`]; else as [`Engine::append_reserved`].
    pub fn append_marker(
        &mut self,
        id: LogId,
        marker: &EndMarker,
        strict: bool,
        epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let index = self.writable(id)?;
        let log = self.logs.get(index).ok_or(LogError::NoSuchLog(id))?;
        let rejected = |what: String| LogError::Rejected { log: id, what };
        let newest = log.producers.get(marker.producer_id).map_or(-1, |producer| producer.epoch);
        if newest == -1 && log.producers.lost().any(|lost| lost == marker.producer_id) {
            self.rollbacks.refused = true;
            return Err(LogError::Busy { waiting: self.waiting_bytes() });
        }
        let member = log.transactions.as_ref().and_then(|t| t.members.get(&marker.producer_id).copied());
        member.unwrap_or(Member::NEW).check_marker(id, marker, newest, strict)?;
        if log.log_end.checked_add(1).is_none() {
            return Err(rejected("offsets are used up".into()));
        }
        let batch = marker.batch(now_ms).map_err(|error| rejected(error.to_string()))?;
        self.append_checked(index, &[batch], epoch, now_ms)
    }

    /// The last stable offset of a log whose readers may see up to `upto`: below it every transaction has ended.
    #[must_use]
    pub fn stable_end(&self, id: LogId, upto: Offset) -> Offset {
        self.by_id.get(&id).and_then(|index| self.logs.get(*index)).map_or(upto, |log| log.stable_end(upto))
    }

    /// What a log knows of a producer.
    #[must_use]
    pub fn producer(&self, id: LogId, producer_id: i64) -> Option<ProducerInfo> {
        known(self.by_id.get(&id).and_then(|index| self.logs.get(*index))?, producer_id)
    }

    /// The producers that a log knows, by id.
    #[must_use]
    pub fn producers(&self, id: LogId) -> Vec<ProducerInfo> {
        let Some(log) = self.by_id.get(&id).and_then(|index| self.logs.get(*index)) else { return Vec::new() };
        let sequenced = log.producers.iter().map(|(id, _)| id.0);
        let members = log.transactions.iter().flat_map(|transactions| transactions.members.keys().copied());
        let ids: BTreeSet<i64> = sequenced.chain(members).collect();
        ids.into_iter().filter_map(|producer_id| known(log, producer_id)).collect()
    }
}

fn known(log: &Partition, producer_id: i64) -> Option<ProducerInfo> {
    let sequenced = log.producers.get(producer_id);
    let member = log.transactions.as_ref().and_then(|transactions| transactions.members.get(&producer_id));
    let mut info = ProducerInfo::unknown(producer_id);
    if let Some(producer) = sequenced {
        info.producer_epoch = producer.epoch;
        info.last_sequence = producer.batches.last().map_or(-1, |batch| batch.last_seq);
        info.last_ms = producer.last_ms;
    }
    if let Some(member) = member {
        if member.mark.epoch > info.producer_epoch {
            // What it wrote before is of an epoch that is over.
            (info.producer_epoch, info.last_sequence) = (member.mark.epoch, -1);
        }
        info.producer_epoch = info.producer_epoch.max(member.open.map_or(-1, |open| open.epoch));
        info.last_ms = info.last_ms.max(member.last_ms);
        info.coordinator_epoch = member.mark.coordinator_epoch;
        info.open_from = member.open.map(|open| open.first);
    }
    (sequenced.is_some() || member.is_some()).then_some(info)
}
