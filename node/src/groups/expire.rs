//! Which offsets of a group are too old, and whether the group itself is at its end.
//!
//! Rules: KIP-211. Offsets of a group with members stay, but for topics that nobody in it reads any more; offsets of an
//! empty group go when it has been empty for the retention time; offsets of a group that never had members go by their
//! own age.

use std::sync::Arc;

use super::config::GroupsConfig;
use super::group::{Group, State};
use super::outbox::TopicPartition;
use super::record::Committed;

/// What of a group has expired.
#[derive(Debug, Default)]
pub(super) struct Expired {
    pub(super) offsets: Vec<TopicPartition>,
    /// Nothing is left of the group: its record goes too.
    pub(super) group: bool,
}

pub(super) fn expired(group: &Group, config: &GroupsConfig, now_ms: i64) -> Expired {
    let retention_ms = i64::try_from(config.offsets_retention_ms).unwrap_or(i64::MAX);
    let Some(since) = clock(group) else { return Expired::default() };
    let is_old = |topic: &str, committed: &Committed| match since.from(topic, committed) {
        None => false,
        Some(from_ms) => now_ms >= committed.expire_ms.unwrap_or(from_ms.saturating_add(retention_ms)),
    };
    let old = group.offsets.iter().filter(|(topic, partition, committed)| {
        // A commit that is on its way renews the offset.
        is_old(topic, committed) && group.offsets.is_settled(topic, *partition)
    });
    let offsets: Vec<_> = old.map(|(topic, partition, _)| (Arc::clone(topic), partition)).collect();
    let ends = match &group.consumer {
        Some(consumer) => consumer.members.is_empty(),
        None => group.recorded,
    };
    let nothing_left =
        group.state == State::Empty && ends && group.pending_members.is_empty() && offsets.len() == group.offsets.len();
    Expired { offsets, group: nothing_left }
}

/// From when the age of an offset counts.
enum Since {
    /// The group was left at this time.
    Empty(i64),
    Commit,
    /// Only those of topics that are not among these.
    CommitUnless(std::collections::BTreeSet<String>),
}

impl Since {
    fn from(&self, topic: &str, committed: &Committed) -> Option<i64> {
        match self {
            Self::Empty(since_ms) => Some(committed.commit_ms.max(*since_ms)),
            Self::Commit => Some(committed.commit_ms),
            Self::CommitUnless(topics) if topics.contains(topic) => None,
            Self::CommitUnless(_) => Some(committed.commit_ms),
        }
    }
}

fn clock(group: &Group) -> Option<Since> {
    if let Some(consumer) = &group.consumer {
        let topics = consumer.topics().into_iter().map(ToString::to_string).collect();
        return (group.state == State::Empty).then_some(Since::CommitUnless(topics));
    }
    match group.state {
        State::Empty if group.protocol_type.is_none() => Some(Since::Commit),
        State::Empty => Some(Since::Empty(group.since_ms)),
        State::Stable { .. } => group.subscribed_topics().map(Since::CommitUnless),
        State::PreparingRebalance(_) | State::CompletingRebalance(_) | State::Dead { .. } => None,
    }
}
