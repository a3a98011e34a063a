//! OffsetFetch: what is durable, and -1 where there is nothing. Groups that do not exist have no offsets, which is no
//! error.

use std::sync::Arc;

use super::group::Group;
use super::record::Committed;
use super::types::{FetchGroup, FetchedGroup, FetchedOffset, FetchedTopic, GroupError};
use crate::mutation::mutated;

/// `stable`: offsets that an open transaction may change are not told.
pub(super) fn fetch(group: Option<&Group>, fetch: &FetchGroup, stable: bool) -> FetchedGroup {
    let stable = stable && !mutated!(UnstableOffsets);
    if let Err(error) = check_member(group, fetch) {
        return refused(fetch, error);
    }
    let topics = match (&fetch.topics, group) {
        (Some(topics), group) => {
            topics.iter().map(|(name, partitions)| some_of(group, name, partitions, stable)).collect()
        }
        (None, Some(group)) => all_of(group, stable),
        (None, None) => Vec::new(),
    };
    let everything = fetch.topics.is_none();
    FetchedGroup { group_id: Arc::clone(&fetch.group_id), error: GroupError::None, topics, everything }
}

/// A member of a consumer group that says that it is one must be it, in its present epoch.
fn check_member(group: Option<&Group>, fetch: &FetchGroup) -> Result<(), GroupError> {
    let Some(consumer) = group.and_then(|group| group.consumer.as_ref()) else { return Ok(()) };
    let Some((member_id, epoch)) = &fetch.member else { return Ok(()) };
    match consumer.members.get(member_id) {
        None => Err(GroupError::UnknownMemberId),
        Some(member) if member.current.epoch != *epoch => Err(GroupError::StaleMemberEpoch),
        Some(_) => Ok(()),
    }
}

pub(super) fn refused(fetch: &FetchGroup, error: GroupError) -> FetchedGroup {
    let (topics, everything) = (Vec::new(), fetch.topics.is_none());
    FetchedGroup { group_id: Arc::clone(&fetch.group_id), error, topics, everything }
}

fn some_of(group: Option<&Group>, name: &Arc<str>, partitions: &[i32], stable: bool) -> FetchedTopic {
    let one = |partition: &i32| match group {
        Some(group) if stable && group.offsets.is_open(name, *partition) => unstable(*partition),
        group => fetched(*partition, group.and_then(|g| g.offsets.get(name, *partition))),
    };
    FetchedTopic { name: Arc::clone(name), partitions: partitions.iter().map(one).collect() }
}

fn all_of(group: &Group, stable: bool) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    for (name, partition) in group.offsets.keys() {
        let offset = match group.offsets.get(name, partition) {
            _ if stable && group.offsets.is_open(name, partition) => unstable(partition),
            Some(committed) => fetched(partition, Some(committed)),
            None => continue,
        };
        match topics.last_mut() {
            Some(topic) if topic.name == *name => topic.partitions.push(offset),
            Some(_) | None => topics.push(FetchedTopic { name: Arc::clone(name), partitions: vec![offset] }),
        }
    }
    topics
}

fn fetched(partition: i32, committed: Option<&Committed>) -> FetchedOffset {
    FetchedOffset {
        partition,
        offset: committed.map_or(-1, |c| c.offset),
        leader_epoch: committed.map_or(-1, |c| c.leader_epoch),
        metadata: committed.map_or_else(|| "".into(), |c| Arc::clone(&c.metadata)),
        error: GroupError::None,
    }
}

fn unstable(partition: i32) -> FetchedOffset {
    FetchedOffset { error: GroupError::UnstableOffsetCommit, ..fetched(partition, None) }
}
