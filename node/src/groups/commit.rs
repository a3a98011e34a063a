//! OffsetCommit: who may commit, what is refused partition by partition, and what becomes visible once it is durable.

use std::cmp::Ordering;
use std::sync::Arc;

use uuid::Uuid;

use super::consumer::ConsumerGroup;
use super::group::{Group, State};
use super::outbox::{Ctx, Pending, TopicPartition};
use super::record::{Committed, offset_record};
use super::transactional::{self, OpenCommit};
use super::types::{
    CommitPartition, CommitTopic, GroupError, OffsetCommitRequest, OffsetCommitResponse, PersistId, RequestRef,
    Response, TopicErrors,
};

/// What is to be written of a request.
type Commits = Vec<(TopicPartition, Committed)>;

pub(super) fn commit(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, commit: &OffsetCommitRequest) {
    if let Err(error) = check(group, ctx, commit) {
        ctx.outbox.reply(request, refused(commit, error));
        return;
    }
    let mut commits = Commits::new();
    let topics = judge(group, ctx, commit, &mut commits);
    let response = OffsetCommitResponse { transactional: commit.transaction.is_some(), topics };
    if commits.is_empty() {
        ctx.outbox.reply(request, Response::OffsetCommit(response));
        return;
    }
    let record =
        |((topic, partition), value): &(TopicPartition, _)| offset_record(&group.id, topic, *partition, Some(value));
    let records = commits.iter().map(record).collect();
    if let Some(transaction) = commit.transaction {
        let group_id = Arc::clone(&group.id);
        let commit = OpenCommit { group: group_id, producer_id: transaction.producer_id, request, commits, response };
        return transactional::begin(group, ctx.outbox, transaction, records, commit);
    }
    ctx.outbox.persist(records, Pending::Commit { group: Arc::clone(&group.id), request, commits, response });
}

/// The same error for every partition.
pub(super) fn refused(commit: &OffsetCommitRequest, error: GroupError) -> Response {
    let verdict = |p: &CommitPartition| (p.partition, p.refused.unwrap_or(error));
    let topic = |t: &CommitTopic| TopicErrors {
        name: Arc::clone(&t.name),
        topic_id: t.topic_id,
        partitions: t.partitions.iter().map(verdict).collect(),
    };
    let topics = commit.topics.iter().map(topic).collect();
    Response::OffsetCommit(OffsetCommitResponse { transactional: commit.transaction.is_some(), topics })
}

fn check(group: &mut Group, ctx: &Ctx<'_>, commit: &OffsetCommitRequest) -> Result<(), GroupError> {
    if matches!(group.state, State::Dead { .. }) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    if ctx.outbox.is_full(ctx.config) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    let has_members = group.consumer.as_ref().is_some_and(|consumer| !consumer.members.is_empty());
    // Tools, and consumers that assign themselves, commit to groups that nobody manages.
    if commit.generation < 0 && group.state == State::Empty && !has_members {
        return Ok(());
    }
    // Before TxnOffsetCommit 3 producers did not say for which member they commit.
    let is_nobodys = commit.generation < 0 && commit.member_id.is_empty() && commit.instance_id.is_none();
    if commit.transaction.is_some() && is_nobodys {
        return Ok(());
    }
    if let Some(consumer) = &group.consumer {
        return check_consumer(consumer, commit);
    }
    group.check_member(&commit.member_id, commit.instance_id.as_deref())?;
    group.check_generation(commit.generation)?;
    group.touch(ctx, &commit.member_id);
    match group.state {
        State::Empty | State::Dead { .. } => Err(GroupError::UnknownMemberId),
        // The member was told the new generation, but not yet which partitions it has in it.
        State::CompletingRebalance(_) if commit.transaction.is_none() => Err(GroupError::RebalanceInProgress),
        // In a rebalance members commit what they have done before they rejoin.
        State::CompletingRebalance(_) | State::PreparingRebalance(_) | State::Stable { .. } => Ok(()),
    }
}

/// A member commits with its epoch. One that has a new epoch already may still commit what it did in an earlier one, of
/// partitions that it had then and has kept (KIP-1251).
fn check_consumer(consumer: &ConsumerGroup, commit: &OffsetCommitRequest) -> Result<(), GroupError> {
    let member = consumer.members.get(&commit.member_id).ok_or(GroupError::UnknownMemberId)?;
    if !commit.knows_consumer_groups && commit.transaction.is_none() {
        return Err(GroupError::UnsupportedVersion);
    }
    let had = |topic: &CommitTopic, partition: &CommitPartition| {
        let given_in = member.current.given_in(topic.topic_id, partition.partition);
        given_in.is_some_and(|epoch| epoch <= commit.generation)
    };
    let had_all = || commit.topics.iter().all(|topic| topic.partitions.iter().all(|p| had(topic, p)));
    match commit.generation.cmp(&member.current.epoch) {
        Ordering::Equal => Ok(()),
        Ordering::Less if had_all() => Ok(()),
        // TxnOffsetCommit has no other word for it.
        Ordering::Less | Ordering::Greater if commit.transaction.is_some() => Err(GroupError::IllegalGeneration),
        Ordering::Less | Ordering::Greater => Err(GroupError::StaleMemberEpoch),
    }
}

fn judge(group: &mut Group, ctx: &Ctx<'_>, commit: &OffsetCommitRequest, commits: &mut Commits) -> Vec<TopicErrors> {
    let mut topics = Vec::with_capacity(commit.topics.len());
    let expire_ms = commit.retention_ms.map(|retention_ms| ctx.now.wall_ms.saturating_add(retention_ms));
    for topic in &commit.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let error = judge_one(group, ctx, &topic.name, partition);
            partitions.push((partition.partition, error.err().unwrap_or(GroupError::None)));
            if error.is_ok() {
                if commit.transaction.is_none() {
                    group.offsets.begin(&topic.name, partition.partition);
                }
                let committed = committed(ctx, partition, topic.topic_id, expire_ms);
                commits.push(((Arc::clone(&topic.name), partition.partition), committed));
            }
        }
        topics.push(TopicErrors { name: Arc::clone(&topic.name), topic_id: topic.topic_id, partitions });
    }
    topics
}

fn judge_one(group: &Group, ctx: &Ctx<'_>, topic: &str, partition: &CommitPartition) -> Result<(), GroupError> {
    if let Some(error) = partition.refused {
        return Err(error);
    }
    if topic.len() > ctx.config.max_id_bytes {
        return Err(GroupError::UnknownTopicOrPartition);
    }
    if partition.metadata.len() > ctx.config.max_offset_metadata_bytes {
        return Err(GroupError::OffsetMetadataTooLarge);
    }
    let has_room = group.offsets.len() < ctx.config.max_offsets_per_group;
    if has_room || group.offsets.contains(topic, partition.partition) {
        Ok(())
    } else {
        Err(GroupError::InvalidCommitOffsetSize)
    }
}

fn committed(ctx: &Ctx<'_>, partition: &CommitPartition, topic_id: Uuid, expire_ms: Option<i64>) -> Committed {
    Committed {
        offset: partition.offset,
        leader_epoch: partition.leader_epoch,
        topic_id,
        metadata: Arc::clone(&partition.metadata),
        commit_ms: ctx.now.wall_ms,
        expire_ms,
    }
}

/// The write is durable, or failed.
pub(super) fn finish(group: &mut Group, by: PersistId, commits: Commits, durable: bool) {
    for ((topic, partition), value) in commits {
        if durable {
            group.offsets.commit(&topic, partition, by, value);
        } else {
            group.offsets.abort(&topic, partition);
        }
    }
}

/// The answer of a commit whose write failed: what would have been fine is not.
pub(super) fn failed(mut response: OffsetCommitResponse, error: GroupError) -> OffsetCommitResponse {
    for (_, verdict) in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if *verdict == GroupError::None {
            *verdict = error;
        }
    }
    response
}
