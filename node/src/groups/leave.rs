//! LeaveGroup: members go, one by one or (an administrator asks) many static ones at once; one rebalance follows.

use std::sync::Arc;

use super::group::{Group, State};
use super::outbox::Ctx;
use super::types::{GroupError, LeavingMember, LeftMember};

pub(super) fn leave(group: &mut Group, ctx: &mut Ctx<'_>, members: &[LeavingMember]) -> Vec<LeftMember> {
    let outcomes: Vec<_> = members.iter().map(|member| leave_one(group, ctx, member)).collect();
    if outcomes.contains(&Ok(Left::Member)) {
        group.members_gone(ctx);
    } else {
        group.complete_join_if_ready(ctx);
    }
    members.iter().zip(outcomes).map(|(member, outcome)| verdict(member, outcome)).collect()
}

/// Who has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Somebody with a part in the group.
    Member,
    /// Somebody who was only given an id.
    Pending,
}

fn verdict(member: &LeavingMember, outcome: Result<Left, GroupError>) -> LeftMember {
    LeftMember {
        member_id: Arc::clone(&member.member_id),
        instance_id: member.instance_id.clone(),
        error: outcome.err().unwrap_or(GroupError::None),
    }
}

fn leave_one(group: &mut Group, ctx: &mut Ctx<'_>, member: &LeavingMember) -> Result<Left, GroupError> {
    if matches!(group.state, State::Dead { .. }) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    if member.instance_id.is_none() && group.pending_members.remove(&member.member_id).is_some() {
        return Ok(Left::Pending);
    }
    let member_id = match &member.instance_id {
        Some(instance) if member.member_id.is_empty() => {
            Arc::clone(group.instances.get(instance).ok_or(GroupError::UnknownMemberId)?)
        }
        Some(_) | None => Arc::clone(&member.member_id),
    };
    group.check_member(&member_id, member.instance_id.as_deref())?;
    group.remove_member(ctx, &member_id);
    Ok(Left::Member)
}
