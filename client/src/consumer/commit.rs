//! Commits: with the membership of the moment, refused where the records belong to an assignment that is over.

use std::sync::{Arc, PoisonError};

use kafka_protocol::ResponseError;

use super::offsets::{self, Member};
use super::shared::Shared;
use crate::cluster::{CoordinatorKind, Target, codes};
use crate::error::{ClientError, Result};
use crate::record::{CommitOffset, TopicPartition};
use crate::retry::{self, Attempt};

const WHAT: &str = "commit offsets";

/// Commits next offsets. With `generation`, only what has been owned without a break since then.
pub(super) async fn commit(shared: &Shared, next: &[(TopicPartition, i64)], generation: Option<i32>) -> Result<()> {
    commit_all(shared, &CommitOffset::all(next), generation).await
}

/// As [`commit`], with what is to be kept beside each offset.
pub(super) async fn commit_all(shared: &Shared, next: &[CommitOffset], generation: Option<i32>) -> Result<()> {
    let Some(group) = shared.config.group.as_deref() else {
        return Err(ClientError::config("commit needs a group: set ConsumerConfig::group"));
    };
    if next.is_empty() {
        return Ok(());
    }
    let config = &shared.cluster.config;
    let attempt = || attempt(shared, group, next, generation);
    retry::retry(config, &format!("{WHAT} of group {group}"), config.call_timeout, attempt).await
}

async fn attempt(shared: &Shared, group: &str, next: &[CommitOffset], generation: Option<i32>) -> Result<(), Attempt> {
    let member = member(shared, group, next, generation)?;
    let coordinator = Target::At(coordinator(shared, group).await?);
    let answer = offsets::commit(&shared.cluster, &coordinator, group, &member, next).await;
    let answer = answer.inspect_err(|_| forget_coordinator(shared))?;
    for code in answer {
        if let Some(error) = codes::error(code) {
            return Err(refused(shared, group, &member, error));
        }
    }
    Ok(())
}

fn stale(group: &str, generation: i32) -> ClientError {
    ClientError::Stale { group: group.into(), what: "a commit", generation }
}

/// Who commits now; stale where a partition is no longer, or not without a break, this member's.
fn member(shared: &Shared, group: &str, next: &[CommitOffset], generation: Option<i32>) -> Result<Member, ClientError> {
    let state = shared.state();
    let instance_id = shared.config.group_instance_id.as_deref().map(Arc::from);
    if !state.subscribed {
        return Ok(Member { generation: -1, member_id: "".into(), instance_id: None });
    }
    let membership = state.membership.clone();
    for CommitOffset { at, .. } in next {
        let since = state.partitions.by_place.get(at).map(|reading| reading.since_generation);
        if since.is_none_or(|since| generation.is_some_and(|generation| since > generation)) {
            return Err(stale(group, generation.unwrap_or(membership.generation)));
        }
    }
    Ok(Member { generation: membership.generation, member_id: membership.member_id, instance_id })
}

fn refused(shared: &Shared, group: &str, member: &Member, error: ResponseError) -> Attempt {
    match error {
        // Between two generations: the next one decides.
        ResponseError::RebalanceInProgress => Attempt::again("the group is rebalancing"),
        ResponseError::IllegalGeneration | ResponseError::UnknownMemberId => {
            let moved_on = shared.state().membership.generation != member.generation;
            if moved_on {
                Attempt::again("the generation has just changed")
            } else {
                Attempt::Fail(stale(group, member.generation))
            }
        }
        ResponseError::FencedInstanceId => {
            let what = format!("member of group {group}").into();
            Attempt::Fail(ClientError::Fenced { what, name: codes::name(error) })
        }
        other => {
            forget_coordinator(shared);
            codes::attempt(&format!("{WHAT} of group {group}"), other, None)
        }
    }
}

/// The coordinator's address, asked for where it is not known.
pub(super) async fn coordinator(shared: &Shared, group: &str) -> Result<crate::net::Address, Attempt> {
    let known = shared.coordinator.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(address) = known {
        return Ok(address);
    }
    let (_, address) = shared.cluster.find_coordinator(CoordinatorKind::Group, group).await?;
    *shared.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.clone());
    Ok(address)
}

pub(super) fn forget_coordinator(shared: &Shared) {
    *shared.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Makes the commits that wait in the background, once.
pub(super) async fn flush(shared: &Shared) -> Result<()> {
    let _one_at_a_time = shared.committing.lock().await;
    let next: Vec<_> = {
        let mut state = shared.state();
        let waiting = std::mem::take(&mut state.to_commit);
        let ours = |at: &TopicPartition| !state.subscribed || state.partitions.by_place.contains_key(at);
        waiting.into_iter().filter(|(at, _)| ours(at)).collect()
    };
    commit(shared, &next, None).await
}

/// The background committer: runs until the consumer is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let work = async {
        loop {
            shared.commit.notified().await;
            if let Err(error) = flush(&shared).await {
                tracing::warn!(%error, "background commit failed");
            }
        }
    };
    shared.closed.run_until_cancelled(work).await;
}
