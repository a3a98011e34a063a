//! SyncGroup: the leader says who does what; everyone fetches their part once that is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::group::{Group, Progress, State, Waiting};
use super::outbox::{Ctx, Pending};
use super::types::{GroupError, RequestRef, SyncRequest, SyncResponse};

pub(super) fn sync(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, sync: &SyncRequest) {
    if let Err(error) = try_sync(group, ctx, request, sync) {
        ctx.outbox.reply(request, SyncResponse::refused(error));
    }
}

fn try_sync(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, sync: &SyncRequest) -> Result<(), GroupError> {
    check(group, sync)?;
    match &group.state {
        State::Empty => return Err(GroupError::UnknownMemberId),
        State::Dead { .. } => return Err(GroupError::CoordinatorNotAvailable),
        State::PreparingRebalance(_) => return Err(GroupError::RebalanceInProgress),
        State::CompletingRebalance(_) => wait(group, ctx, request, sync)?,
        State::Stable { .. } => {
            let response = group.assignment_for(&sync.member_id);
            ctx.outbox.reply(request, response);
            mark_synced(group, &sync.member_id, Waiting::Nothing);
            group.end_sync_if_all_have();
        }
    }
    group.touch(ctx, &sync.member_id);
    Ok(())
}

fn check(group: &Group, sync: &SyncRequest) -> Result<(), GroupError> {
    if matches!(group.state, State::Dead { .. }) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    group.check_member(&sync.member_id, sync.instance_id.as_deref())?;
    group.check_generation(sync.generation)?;
    let differs = |sent: &Option<Arc<str>>, ours: &Option<Arc<str>>| sent.is_some() && sent != ours;
    if differs(&sync.protocol_type, &group.protocol_type) || differs(&sync.protocol_name, &group.protocol_name) {
        return Err(GroupError::InconsistentGroupProtocol);
    }
    Ok(())
}

fn wait(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, sync: &SyncRequest) -> Result<(), GroupError> {
    let State::CompletingRebalance(completing) = &group.state else { return Err(GroupError::RebalanceInProgress) };
    let assigns = group.is_leader(&sync.member_id) && completing.persisting.is_none();
    if assigns {
        let bytes: usize = sync.assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        if bytes > ctx.config.max_group_metadata_bytes {
            return Err(GroupError::InvalidRequest);
        }
        if ctx.outbox.is_full(ctx.config) {
            return Err(GroupError::CoordinatorNotAvailable);
        }
    }
    group.release(ctx, &sync.member_id, GroupError::RebalanceInProgress);
    mark_synced(group, &sync.member_id, Waiting::Sync(request));
    ctx.outbox.park(request, &group.id);
    if assigns {
        persist_assignment(group, ctx, sync);
    }
    Ok(())
}

/// Members that the leader left out get an empty assignment; assignments of strangers are dropped.
fn persist_assignment(group: &mut Group, ctx: &mut Ctx<'_>, sync: &SyncRequest) {
    let own = |(id, assignment): &(Arc<str>, Bytes)| (Arc::clone(id), Bytes::copy_from_slice(assignment));
    let known = sync.assignments.iter().filter(|(id, _)| group.members.contains_key(id));
    let assignments: BTreeMap<_, _> = known.map(own).collect();
    let pending = Pending::Assignment { group: Arc::clone(&group.id), assignments: assignments.clone() };
    let id = group.write(ctx, Some(&assignments), pending);
    if let State::CompletingRebalance(completing) = &mut group.state {
        completing.persisting = Some(id);
    }
}

fn mark_synced(group: &mut Group, member_id: &str, waiting: Waiting) {
    if let Some(member) = group.members.get_mut(member_id) {
        member.progress = Progress::Synced;
        member.waiting = waiting;
    }
}
