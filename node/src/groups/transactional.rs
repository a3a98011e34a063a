//! Offsets committed in transactions: they are written at once and seen when their transaction commits. Its end comes as a
//! marker in the coordinator's own log, so that every coordinator of the partition comes to the same.
//!
//! ```text
//!  OffsetCommit in a transaction ─> PersistTransactional ─Persisted─> open ─Marker(commit)─> committed
//!                                                                      └────Marker(abort)──> gone
//! ```

use std::sync::Arc;

use super::commit;
use super::group::Group;
use super::outbox::{Outbox, Pending, TopicPartition};
use super::record::{self, Committed};
use super::types::{
    GroupError, OffsetCommitRequest, OffsetCommitResponse, PersistError, PersistId, Record, RequestRef, Response,
    Transaction,
};
use super::{Groups, ReplayError};
use crate::mutation::mutated;

/// A partition's offset in a group.
pub(super) type Place = (Arc<str>, Arc<str>, i32);

/// A write of such offsets.
#[derive(Debug)]
pub(super) struct OpenCommit {
    pub(super) group: Arc<str>,
    pub(super) producer_id: i64,
    pub(super) request: RequestRef,
    pub(super) commits: Vec<(TopicPartition, Committed)>,
    pub(super) response: OffsetCommitResponse,
}

impl Groups {
    /// A transactional record of the log, in the log's order: an offset.
    pub fn replay_transactional(
        &mut self,
        producer_id: i64,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        match record::decode_key(key)? {
            record::Key::Offset { group, topic, partition } => {
                let Some(value) = value.map(record::decode_committed).transpose()? else { return Ok(()) };
                let by = self.outbox.next_replayed();
                let offsets = &mut self.group_or_new(&group, 0).offsets;
                offsets.begin_open(&topic, partition, producer_id);
                offsets.end_open(&topic, partition, producer_id, Some((by, value)));
                self.open.entry(producer_id).or_default().insert((group, topic, partition));
                Ok(())
            }
            // Nothing else is written in transactions.
            record::Key::Group { .. } | record::Key::Share { .. } => {
                Err(ReplayError::Malformed { what: "a transaction with more than offsets" })
            }
        }
    }

    /// The end of a producer's transaction, in the log's order: while it is replayed, and when its marker is committed.
    pub fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        let places = self.open.remove(&producer_id).unwrap_or_default();
        for (group_id, topic, partition) in places {
            let Some(group) = self.groups.get_mut(&group_id) else { continue };
            group.offsets.close(&topic, partition, producer_id, commit || mutated!(AbortedOffsetsCount));
            let next = group.offsets.is_open_of(&topic, partition, producer_id);
            self.settle(&group_id);
            if next {
                self.open.entry(producer_id).or_default().insert((group_id, topic, partition));
            }
        }
    }

    /// Remembers where a commit of a transaction was begun.
    pub(super) fn note_open(&mut self, producer_id: i64, commit: &OffsetCommitRequest) {
        let Some(group) = self.groups.get(&commit.group_id) else { return };
        for topic in &commit.topics {
            let begun = topic.partitions.iter().map(|partition| partition.partition);
            let begun = begun.filter(|partition| group.offsets.is_open_of(&topic.name, *partition, producer_id));
            for partition in begun {
                let place = (Arc::clone(&commit.group_id), Arc::clone(&topic.name), partition);
                self.open.entry(producer_id).or_default().insert(place);
            }
        }
    }

    fn forget_open(&mut self, producer_id: i64, place: &Place) {
        let Some(places) = self.open.get_mut(&producer_id) else { return };
        places.remove(place);
        if places.is_empty() {
            self.open.remove(&producer_id);
        }
    }

    pub(super) fn open_committed(&mut self, by: PersistId, commit: OpenCommit, result: Result<(), PersistError>) {
        let OpenCommit { group: group_id, producer_id, request, commits, response } = commit;
        for ((topic, partition), value) in commits {
            let Some(group) = self.groups.get_mut(&group_id) else { break };
            let value = result.is_ok().then_some((by, value));
            group.offsets.end_open(&topic, partition, producer_id, value);
            if !group.offsets.is_open_of(&topic, partition, producer_id) {
                self.forget_open(producer_id, &(Arc::clone(&group_id), topic, partition));
            }
        }
        self.settle(&group_id);
        let response = match result {
            Ok(()) => response,
            Err(PersistError::NotAvailable) => commit::failed(response, GroupError::CoordinatorNotAvailable),
            Err(PersistError::TooLarge) => commit::failed(response, GroupError::InvalidCommitOffsetSize),
            Err(PersistError::Fenced) => commit::failed(response, GroupError::InvalidProducerEpoch),
        };
        self.outbox.reply(request, Response::OffsetCommit(response));
    }
}

/// Writes a commit of a transaction.
pub(super) fn begin(
    group: &mut Group,
    outbox: &mut Outbox,
    transaction: Transaction,
    records: Vec<Record>,
    commit: OpenCommit,
) {
    for ((topic, partition), _) in &commit.commits {
        group.offsets.begin_open(topic, *partition, transaction.producer_id);
    }
    outbox.persist_transactional(transaction, records, Pending::OpenCommit(commit));
}
