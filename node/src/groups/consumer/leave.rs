//! Who goes: by itself, for a while (static members), or because nothing was heard of it.

use std::sync::Arc;

use super::check::Refusal;
use super::current::{Current, Held, LEAVING_FOR_NOW};
use super::draft::Draft;
use super::fact::Fact;
use super::heartbeat::{fenced_instance, refusal};
use super::state::ConsumerGroup;
use super::types::{ConsumerHeartbeatRequest, ConsumerHeartbeatResponse};
use crate::groups::group::Group;
use crate::groups::outbox::Ctx;
use crate::groups::types::{GroupError, LeaveRequest, LeaveResponse, LeftMember, RequestRef, Response};

/// A heartbeat with an epoch that says goodbye.
pub(super) fn leave(
    group_id: &str,
    consumer: &mut ConsumerGroup,
    draft: &mut Draft,
    beat: &ConsumerHeartbeatRequest,
) -> Result<ConsumerHeartbeatResponse, Refusal> {
    let id = known(group_id, consumer, beat)?;
    if beat.member_epoch == LEAVING_FOR_NOW {
        leave_for_now(group_id, consumer, draft, &id);
    } else {
        fence(group_id, consumer, draft, std::slice::from_ref(&id));
    }
    Ok(ConsumerHeartbeatResponse {
        error: GroupError::None,
        message: None,
        member_id: Some(id),
        member_epoch: beat.member_epoch,
        heartbeat_interval_ms: 0,
        assignment: None,
    })
}

/// LeaveGroup: an administrator removes static members by their instance ids. Members of this kind leave by a heartbeat.
pub(in crate::groups) fn by_admin(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, body: &LeaveRequest) {
    let id = Arc::clone(&group.id);
    let Some(consumer) = &mut group.consumer else { return };
    let mut gone = Vec::new();
    let members = body.members.iter().map(|member| {
        let by_instance = member.instance_id.as_ref().filter(|_| member.member_id.is_empty());
        let known = by_instance.and_then(|instance| consumer.instances.get(instance)).cloned();
        let error = if known.is_some() { GroupError::None } else { GroupError::UnknownMemberId };
        gone.extend(known.filter(|known| !gone.contains(known)));
        LeftMember { member_id: Arc::clone(&member.member_id), instance_id: member.instance_id.clone(), error }
    });
    let response = LeaveResponse { error: GroupError::None, members: members.collect() };
    let mut draft = Draft::default();
    if !gone.is_empty() {
        fence(&id, consumer, &mut draft, &gone);
    }
    draft.finish(group, ctx, Some((request, Response::Leave(response))));
}

fn known(group_id: &str, consumer: &ConsumerGroup, beat: &ConsumerHeartbeatRequest) -> Result<Arc<str>, Refusal> {
    let unknown = || {
        let text = format!("Member {} is not a member of group {group_id}.", beat.member_id);
        refusal(GroupError::UnknownMemberId, text)
    };
    if let Some(instance) = &beat.instance_id {
        let known = consumer.instances.get(instance).ok_or_else(unknown)?;
        if *known != beat.member_id {
            return Err(fenced_instance(&beat.member_id, instance, known));
        }
    }
    let (id, _) = consumer.members.get_key_value(&beat.member_id).ok_or_else(unknown)?;
    Ok(Arc::clone(id))
}

/// It keeps what it has until it is back, or until its session ends.
fn leave_for_now(group_id: &str, consumer: &mut ConsumerGroup, draft: &mut Draft, id: &Arc<str>) {
    let Some(member) = consumer.members.get_mut(id) else { return };
    member.revoke_ns = None;
    let current = Current { epoch: LEAVING_FOR_NOW, revoking: Held::new(), ..(*member.current).clone() };
    draft.put(group_id, consumer, Fact::Current(Arc::clone(id), Some(Arc::new(current))));
}

/// What ends a member's records, in this order: of an append that tears, no partition is left without one that answers for
/// it.
pub(super) fn gone(consumer: &ConsumerGroup, id: &Arc<str>) -> Vec<Fact> {
    let mut facts = vec![Fact::Current(Arc::clone(id), None)];
    facts.extend(consumer.targets.contains_key(id).then(|| Fact::Target(Arc::clone(id), None)));
    facts.push(Fact::Member(Arc::clone(id), None));
    facts
}

/// Members are out: what they had is for others, from the next epoch on.
pub(super) fn fence(group_id: &str, consumer: &mut ConsumerGroup, draft: &mut Draft, ids: &[Arc<str>]) {
    for id in ids {
        let pattern = consumer.members.get(id).and_then(|member| member.meta.subscription.regex.clone());
        for fact in gone(consumer, id) {
            draft.put(group_id, consumer, fact);
        }
        if let Some(pattern) = pattern.filter(|pattern| consumer.matched_by(pattern) == 0) {
            draft.put(group_id, consumer, Fact::Regex(pattern, None));
        }
    }
    // Their topics are looked at when the next target is made.
    consumer.seen_topics = None;
    let epoch = Fact::Epoch(Some((consumer.epoch.saturating_add(1), consumer.topics_hash)));
    draft.put(group_id, consumer, epoch);
}
