//! OffsetDelete: offsets go, but for those of topics that the group is reading.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::group::{Group, State};
use super::outbox::{Ctx, Pending, TopicPartition};
use super::record::offset_record;
use super::subscription;
use super::types::{
    DeleteTopicOffsets, GroupError, OffsetDeleteRequest, OffsetDeleteResponse, PersistId, RequestRef, Response,
    TopicErrors,
};

pub(super) fn offset_delete(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, delete: &OffsetDeleteRequest) {
    let read = match check(group, ctx) {
        Ok(read) => read,
        Err(error) => return ctx.outbox.reply(request, refused(error)),
    };
    let mut removed = Vec::new();
    let judge = |DeleteTopicOffsets { name, partitions }: &DeleteTopicOffsets| {
        let is_read = read.is_read(name);
        let verdicts = partitions.iter().map(|(partition, refused)| {
            let error = refused.or(is_read.then_some(GroupError::GroupSubscribedToTopic));
            if error.is_none() && group.offsets.contains(name, *partition) {
                removed.push((Arc::clone(name), *partition));
            }
            (*partition, error.unwrap_or(GroupError::None))
        });
        TopicErrors { name: Arc::clone(name), topic_id: Uuid::nil(), partitions: verdicts.collect() }
    };
    let topics = delete.topics.iter().map(judge).collect();
    persist(group, ctx, request, removed, OffsetDeleteResponse { error: GroupError::None, topics });
}

/// The topics that members read.
enum Read {
    All,
    These(BTreeSet<String>),
}

impl Read {
    fn is_read(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(topics) => topics.contains(topic),
        }
    }
}

fn check(group: &Group, ctx: &Ctx<'_>) -> Result<Read, GroupError> {
    if ctx.outbox.is_full(ctx.config) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    if let Some(consumer) = group.consumer.as_ref().filter(|_| group.state == State::Empty) {
        return Ok(Read::These(consumer.topics().into_iter().map(ToString::to_string).collect()));
    }
    match group.state {
        State::Dead { .. } => Err(GroupError::CoordinatorNotAvailable),
        State::Empty => Ok(Read::These(BTreeSet::new())),
        State::PreparingRebalance(_) | State::CompletingRebalance(_) | State::Stable { .. } => {
            if group.protocol_type.as_deref() != Some(subscription::PROTOCOL_TYPE) {
                return Err(GroupError::NonEmptyGroup);
            }
            Ok(group.subscribed_topics().map_or(Read::All, Read::These))
        }
    }
}

pub(super) fn refused(error: GroupError) -> Response {
    Response::OffsetDelete(OffsetDeleteResponse { error, topics: Vec::new() })
}

fn persist(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    request: RequestRef,
    removed: Vec<TopicPartition>,
    response: OffsetDeleteResponse,
) {
    if removed.is_empty() {
        return ctx.outbox.reply(request, Response::OffsetDelete(response));
    }
    for (topic, partition) in &removed {
        group.offsets.begin(topic, *partition);
    }
    let tombstone = |(topic, partition): &TopicPartition| offset_record(&group.id, topic, *partition, None);
    let records = removed.iter().map(tombstone).collect();
    ctx.outbox.persist(records, Pending::OffsetDelete { group: Arc::clone(&group.id), request, removed, response });
}

/// The tombstones are durable, or failed.
pub(super) fn finish(group: &mut Group, by: PersistId, removed: &[TopicPartition], durable: bool) {
    for (topic, partition) in removed {
        if durable {
            group.offsets.remove(topic, *partition, by);
        } else {
            group.offsets.abort(topic, *partition);
        }
    }
}
