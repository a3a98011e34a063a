//! DeleteGroups: empty groups go with all their offsets, once the tombstones are durable.

use std::sync::Arc;

use super::group::{Group, State};
use super::record::{group_record, offset_record};
use super::replay;
use super::types::{GroupError, PersistId, Record};

/// Whether the group can be deleted; if so, its tombstones are added and it is dead until they are durable, or failed.
pub(super) fn begin(group: &mut Group, records: &mut Vec<Record>, by: PersistId) -> Result<(), GroupError> {
    match group.state {
        State::Empty if group.consumer.as_ref().is_some_and(|consumer| !consumer.members.is_empty()) => {
            return Err(GroupError::NonEmptyGroup);
        }
        State::Empty if group.share.as_ref().is_some_and(|share| !share.members.is_empty()) => {
            return Err(GroupError::NonEmptyGroup);
        }
        State::Empty => {}
        State::Dead { .. } => return Err(GroupError::CoordinatorNotAvailable),
        State::PreparingRebalance(_) | State::CompletingRebalance(_) | State::Stable { .. } => {
            return Err(GroupError::NonEmptyGroup);
        }
    }
    group.pending_members.clear();
    if !group.is_vacant() {
        tombstones(group, records);
        group.state = State::Dead { deleting: by };
    }
    Ok(())
}

/// The group's own comes last: when a torn append keeps only some of them, a group with fewer offsets is left, not
/// offsets with no group.
fn tombstones(group: &Group, records: &mut Vec<Record>) {
    records.extend(group.offsets.keys().map(|(topic, partition)| offset_record(&group.id, topic, partition, None)));
    records.extend(group.consumer_tombstones());
    if group.recorded {
        records.push(group_record(&group.id, None));
    }
}

/// The tombstones failed: the group is as it was.
pub(super) fn revive(group: &mut Group, by: PersistId) {
    if group.state == (State::Dead { deleting: by }) {
        group.state = State::Empty;
    }
}

/// Whether these tombstones, now durable, end this group.
pub(super) fn is_ended(group: &Group, by: PersistId) -> bool {
    group.state == (State::Dead { deleting: by })
}

/// The group's record is gone. Offsets that it still has are those whose own tombstones failed: they stay, as they would
/// in a replay.
pub(super) fn end(group: &mut Group) {
    replay::forget(group);
}

/// The name under which an error is told.
pub(super) fn verdict(group_id: &Arc<str>, outcome: Result<(), GroupError>) -> (Arc<str>, GroupError) {
    (Arc::clone(group_id), outcome.err().unwrap_or(GroupError::None))
}
