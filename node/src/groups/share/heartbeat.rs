//! ShareGroupHeartbeat: a member says what it wants, and learns what it reads; and what the clock asks of the group.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::record::record;
use super::state::{Member, Meta, ShareGroup};
use super::types::{ShareHeartbeatRequest, ShareHeartbeatResponse};
use crate::groups::cluster::Cluster;
use crate::groups::config::GroupsConfig;
use crate::groups::consumer::state::Parts;
use crate::groups::consumer::types::TopicPartitions;
use crate::groups::group::{Group, State};
use crate::groups::outbox::{Ctx, Pending};
use crate::groups::types::{GroupError, RequestRef, Response};

const JOINING: i32 = 0;
const LEAVING: i32 = -1;

type Refusal = (GroupError, String);

/// The verdict on a heartbeat that no group would take.
pub(in crate::groups) fn malformed(config: &GroupsConfig, beat: &ShareHeartbeatRequest) -> Result<(), Refusal> {
    let invalid = |text: &str| Err((GroupError::InvalidRequest, text.to_owned()));
    let ids = [Some(&beat.group_id), Some(&beat.member_id), beat.rack_id.as_ref()];
    for (name, id) in ["GroupId", "MemberId", "RackId"].into_iter().zip(ids) {
        if id.is_some_and(|id| id.is_empty()) {
            return invalid(&format!("{name} can't be empty."));
        }
        if id.is_some_and(|id| id.len() > config.max_id_bytes) {
            return invalid(&format!("{name} has at most {} bytes.", config.max_id_bytes));
        }
    }
    let topics = beat.topics.as_deref().unwrap_or_default();
    if topics.len() > config.max_subscribed_topics || topics.iter().any(|topic| topic.len() > config.max_id_bytes) {
        return invalid(&format!("a member may name {} topics, and names have a bound.", config.max_subscribed_topics));
    }
    match beat.member_epoch {
        JOINING if topics.is_empty() => invalid("SubscribedTopicNames must be set in first request."),
        LEAVING.. => Ok(()),
        _ => invalid("MemberEpoch is invalid."),
    }
}

/// Takes a heartbeat.
pub(in crate::groups) fn heartbeat(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    cluster: &dyn Cluster,
    topics_version: u64,
    request: RequestRef,
    beat: &ShareHeartbeatRequest,
) {
    let outcome = open(group, beat).and_then(|()| {
        let before = group.share.clone().filter(|share| share.epoch > 0);
        let share = group.share.get_or_insert_default();
        match take(share, ctx, cluster, topics_version, &group.id, beat) {
            Ok(response) => Ok((before, response)),
            Err(refusal) => {
                group.share = before;
                Err(refusal)
            }
        }
    });
    let (before, response) = match outcome {
        Ok(told) => told,
        Err((error, message)) => return ctx.outbox.reply(request, ShareHeartbeatResponse::refused(error, message)),
    };
    finish(group, ctx, before, Some((request, Response::ShareHeartbeat(response))));
}

/// Only a group of which nothing is left can become one of another kind.
fn open(group: &Group, beat: &ShareHeartbeatRequest) -> Result<(), Refusal> {
    if matches!(group.state, State::Dead { .. }) {
        return Err((GroupError::CoordinatorNotAvailable, "the group is being deleted".into()));
    }
    if group.share.is_none() && (!group.is_vacant() || beat.member_epoch != JOINING) {
        return Err((GroupError::GroupIdNotFound, format!("Group {} is not a share group.", group.id)));
    }
    Ok(())
}

/// Hands the change, if it is one, to the log; the answer comes when it is durable.
fn finish(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    before: Option<Box<ShareGroup>>,
    answer: Option<(RequestRef, Response)>,
) {
    let Some(share) = &mut group.share else { return };
    group.wake_ns = group.wake_ns.min(share.earliest_deadline());
    if before.as_ref().is_some_and(|before| before.epoch == share.epoch) {
        if let Some((request, response)) = answer {
            ctx.outbox.reply_after(share.last_write, request, response);
        }
        return;
    }
    let records = vec![record(&group.id, Some(share))];
    let pending = Pending::Share { group: Arc::clone(&group.id), before, answer };
    share.last_write = Some(ctx.outbox.persist(records, pending));
}

fn take(
    share: &mut ShareGroup,
    ctx: &Ctx<'_>,
    cluster: &dyn Cluster,
    topics_version: u64,
    group_id: &Arc<str>,
    beat: &ShareHeartbeatRequest,
) -> Result<ShareHeartbeatResponse, Refusal> {
    check_member(share, ctx, group_id, beat)?;
    let mut changed = if beat.member_epoch == LEAVING {
        share.members.remove(&beat.member_id).is_some()
    } else {
        update(share, beat)
    };
    if changed || share.seen_topics != Some(topics_version) {
        // After a restart nothing is assigned yet: everybody is told anew.
        changed |= share.assign(cluster, topics_version);
    }
    if changed {
        if ctx.outbox.is_full(ctx.config) {
            return Err((GroupError::CoordinatorNotAvailable, "too many writes are on their way; try again".into()));
        }
        share.epoch = share.epoch.saturating_add(1);
    }
    Ok(answer(share, ctx, cluster, group_id, beat))
}

fn check_member(
    share: &ShareGroup,
    ctx: &Ctx<'_>,
    group_id: &str,
    beat: &ShareHeartbeatRequest,
) -> Result<(), Refusal> {
    let Some(member) = share.members.get(&beat.member_id) else {
        let most = ctx.config.max_share_group_size;
        if beat.member_epoch != JOINING {
            let text = format!("Member {} is not a member of group {group_id}.", beat.member_id);
            return Err((GroupError::UnknownMemberId, text));
        }
        if share.members.len() >= most {
            let text = format!("The share group has reached its maximum capacity of {most} members.");
            return Err((GroupError::GroupMaxSizeReached, text));
        }
        return Ok(());
    };
    let Some((epoch, previous)) = member.epochs else { return Ok(()) };
    if matches!(beat.member_epoch, JOINING | LEAVING) || [epoch, previous].contains(&beat.member_epoch) {
        return Ok(());
    }
    let text = format!(
        "The share group member has epoch {}, the one known by the group coordinator is {epoch}. The member must abandon \
         all its partitions and rejoin.",
        beat.member_epoch
    );
    Err((GroupError::FencedMemberEpoch, text))
}

/// Takes over what the member says of itself. Whether that is something else than before.
fn update(share: &mut ShareGroup, beat: &ShareHeartbeatRequest) -> bool {
    let old = share.members.get(&beat.member_id).map(|member| Arc::clone(&member.meta));
    let topics = beat.topics.as_ref().map(|topics| topics.iter().cloned().collect::<BTreeSet<_>>());
    let known = old.as_deref().cloned().unwrap_or_default();
    let meta = Meta {
        rack_id: beat.rack_id.clone().or(known.rack_id),
        client_id: Arc::clone(&beat.client_id),
        client_host: Arc::clone(&beat.client_host),
        topics: topics.unwrap_or(known.topics),
    };
    if old.as_deref() == Some(&meta) {
        return false;
    }
    let fresh = Member { meta: Arc::default(), epochs: None, session_ns: u64::MAX };
    share.members.entry(Arc::clone(&beat.member_id)).or_insert(fresh).meta = Arc::new(meta);
    true
}

fn answer(
    share: &mut ShareGroup,
    ctx: &Ctx<'_>,
    cluster: &dyn Cluster,
    group_id: &str,
    beat: &ShareHeartbeatRequest,
) -> ShareHeartbeatResponse {
    let overrides = cluster.share_overrides(group_id);
    let config = ctx.config;
    let group_epoch = share.epoch;
    let target = share.targets.get(&beat.member_id).cloned();
    let mut response = ShareHeartbeatResponse {
        error: GroupError::None,
        message: None,
        member_id: Some(Arc::clone(&beat.member_id)),
        member_epoch: beat.member_epoch,
        heartbeat_interval_ms: 0,
        assignment: None,
    };
    // Who leaves is no member any more.
    let Some(member) = share.members.get_mut(&beat.member_id) else { return response };
    member.session_ns = ctx.after_ms(overrides.session_timeout_ms.unwrap_or(config.share_session_timeout_ms));
    if member.epochs.is_none_or(|(epoch, _)| epoch != group_epoch) {
        member.epochs = Some((group_epoch, beat.member_epoch));
    }
    response.member_epoch = group_epoch;
    let interval_ms = overrides.heartbeat_interval_ms.unwrap_or(config.share_heartbeat_interval_ms);
    response.heartbeat_interval_ms = i32::try_from(interval_ms).unwrap_or(i32::MAX);
    response.assignment = (beat.member_epoch != group_epoch).then(|| parts(target.as_deref()));
    response
}

fn parts(parts: Option<&Parts>) -> TopicPartitions {
    let parts = parts.into_iter().flatten();
    parts.map(|(topic, partitions)| (*topic, partitions.iter().copied().collect())).collect()
}

/// Members of whom nothing was heard for a session are out. The others hear of it when they come next: what is theirs then is
/// decided with the topics at hand.
pub(in crate::groups) fn on_time(group: &mut Group, ctx: &mut Ctx<'_>) {
    let Some(share) = &mut group.share else { return };
    let now_ns = ctx.now.monotonic_ns;
    let late = share.members.iter().filter(|(_, member)| member.session_ns <= now_ns);
    let late: Vec<Arc<str>> = late.map(|(id, _)| Arc::clone(id)).collect();
    if late.is_empty() {
        return;
    }
    tracing::info!(group = %group.id, members = ?late, "members of a share group are out: their time is over");
    let before = share.clone();
    for id in &late {
        share.members.remove(id);
        share.targets.remove(id);
    }
    // The rest is assigned to others as soon as one of them comes.
    share.seen_topics = Some(u64::MAX);
    share.epoch = share.epoch.saturating_add(1);
    finish(group, ctx, Some(before), None);
}

/// Members whose session has no end yet have one from now on: those that were replayed, or brought back.
pub(in crate::groups) fn arm(group: &mut Group, ctx: &Ctx<'_>) {
    let Some(share) = &mut group.share else { return };
    let session_ns = ctx.after_ms(ctx.config.share_session_timeout_ms);
    for member in share.members.values_mut().filter(|member| member.session_ns == u64::MAX) {
        member.session_ns = session_ns;
    }
    let deadline_ns = share.earliest_deadline();
    group.wake_by(deadline_ns);
}
