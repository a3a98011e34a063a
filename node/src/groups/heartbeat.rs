//! Heartbeat: the member is alive, and learns whether it has to rejoin.

use super::group::{Group, State};
use super::outbox::Ctx;
use super::types::{GroupError, HeartbeatRequest};

pub(super) fn heartbeat(group: &mut Group, ctx: &Ctx<'_>, heartbeat: &HeartbeatRequest) -> GroupError {
    match check(group, heartbeat) {
        Ok(()) => {}
        Err(error) => return error,
    }
    group.touch(ctx, &heartbeat.member_id);
    match group.state {
        State::Empty => GroupError::UnknownMemberId,
        State::Dead { .. } => GroupError::CoordinatorNotAvailable,
        State::PreparingRebalance(_) => GroupError::RebalanceInProgress,
        State::CompletingRebalance(_) | State::Stable { .. } => GroupError::None,
    }
}

fn check(group: &Group, heartbeat: &HeartbeatRequest) -> Result<(), GroupError> {
    if matches!(group.state, State::Dead { .. }) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    group.check_member(&heartbeat.member_id, heartbeat.instance_id.as_deref())?;
    group.check_generation(heartbeat.generation)
}
