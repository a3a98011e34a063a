//! JoinGroup: who may come in, under which id, and whether that takes a rebalance.
//!
//! Rules: KIP-394 (ids are given before members are), KIP-345 (static members), KIP-814 (a static leader that comes
//! back need not assign again), KIP-389 (group size).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::config::GroupsConfig;
use super::group::{Group, Progress, State, Waiting, metadata_bytes};
use super::ids::MemberIds;
use super::outbox::{Ctx, Pending};
use super::subscription;
use super::types::{GroupError, JoinRequest, JoinResponse, RequestRef, Response};

/// What can be refused without looking at the group.
pub(super) fn check(config: &GroupsConfig, join: &JoinRequest) -> Result<(), GroupError> {
    let timeout = u32::try_from(join.session_timeout_ms).unwrap_or(0);
    if timeout < config.min_session_timeout_ms || timeout > config.max_session_timeout_ms {
        return Err(GroupError::InvalidSessionTimeout);
    }
    let ids = [Some(&join.protocol_type), join.instance_id.as_ref()].into_iter().flatten();
    let names = join.protocols.iter().map(|p| &p.name);
    if ids.chain(names).any(|id| id.len() > config.max_id_bytes)
        || join.protocols.len() > config.max_protocols
        || metadata_bytes(&join.protocols) > config.max_group_metadata_bytes
    {
        return Err(GroupError::InvalidRequest);
    }
    if join.instance_id.as_deref().is_some_and(str::is_empty) {
        return Err(GroupError::InvalidRequest);
    }
    Ok(())
}

/// Cuts what goes into the member id and the record to a bounded length.
pub(super) fn bound_texts(config: &GroupsConfig, texts: [&mut Arc<str>; 2]) {
    for text in texts {
        if text.len() > config.max_id_bytes {
            *text = text[..text.floor_char_boundary(config.max_id_bytes)].into();
        }
    }
}

pub(super) fn join(group: &mut Group, ctx: &mut Ctx<'_>, ids: &mut MemberIds, request: RequestRef, join: &JoinRequest) {
    if let Err(error) = try_join(group, ctx, ids, request, join) {
        ctx.outbox.reply(request, JoinResponse::refused(Arc::clone(&join.member_id), error));
    }
}

fn try_join(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    ids: &mut MemberIds,
    request: RequestRef,
    join: &JoinRequest,
) -> Result<(), GroupError> {
    if matches!(group.state, State::Dead { .. }) {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    check_room(group, ctx, join)?;
    if !group.has_common_protocol(&join.protocol_type, &join.protocols) {
        return Err(GroupError::InconsistentGroupProtocol);
    }
    if !join.member_id.is_empty() {
        return join_known(group, ctx, request, join);
    }
    let new_id = ids.next(&join.client_id);
    let current = join.instance_id.as_ref().and_then(|instance| group.instances.get(instance)).cloned();
    match current {
        Some(old_id) => rejoin_static(group, ctx, request, &old_id, &new_id, join),
        None if join.instance_id.is_none() && join.known_member_id_required => {
            give_id(group, ctx, request, new_id, join);
            Ok(())
        }
        None => {
            group.admit(ctx, request, new_id, join);
            Ok(())
        }
    }
}

/// Whether the group may hold this member; those it holds already may stay.
fn check_room(group: &Group, ctx: &Ctx<'_>, join: &JoinRequest) -> Result<(), GroupError> {
    let returns = |instance: &Arc<str>| group.instances.contains_key(instance);
    let known = group.members.get(&join.member_id);
    let holds_place = known.is_some()
        || group.pending_members.contains_key(&join.member_id)
        || join.instance_id.as_ref().is_some_and(returns);
    let members = group.members.len() + group.pending_members.len();
    let before = known.map_or(0, super::group::Member::metadata_bytes);
    let bytes = group.metadata_bytes() - before + metadata_bytes(&join.protocols);
    if !holds_place && members >= ctx.config.max_group_size || bytes > ctx.config.max_group_metadata_bytes {
        return Err(GroupError::GroupMaxSizeReached);
    }
    Ok(())
}

/// The member is to come again with this id (KIP-394): who never got the answer leaves no member behind.
fn give_id(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, new_id: Arc<str>, join: &JoinRequest) {
    let deadline_ns = ctx.after_ms(u32::try_from(join.session_timeout_ms).unwrap_or(0));
    group.pending_members.insert(Arc::clone(&new_id), deadline_ns);
    group.wake_by(deadline_ns);
    ctx.outbox.reply(request, JoinResponse::refused(new_id, GroupError::MemberIdRequired));
}

fn join_known(group: &mut Group, ctx: &mut Ctx<'_>, request: RequestRef, join: &JoinRequest) -> Result<(), GroupError> {
    if join.instance_id.is_none() && group.pending_members.contains_key(&join.member_id) {
        group.admit(ctx, request, Arc::clone(&join.member_id), join);
        return Ok(());
    }
    group.check_member(&join.member_id, join.instance_id.as_deref())?;
    if needs_rebalance(group, join)? {
        group.readmit(ctx, request, &join.member_id, join);
    } else {
        // The answer got lost, or nothing has changed for this member.
        group.touch(ctx, &join.member_id);
        let response = group.current_generation_for(&join.member_id);
        ctx.outbox.reply(request, Response::Join(response));
    }
    Ok(())
}

/// Whether a known member that joins again has something new to say.
fn needs_rebalance(group: &Group, join: &JoinRequest) -> Result<bool, GroupError> {
    let changed = group.members.get(&join.member_id).is_none_or(|m| m.protocols != join.protocols);
    match group.state {
        State::Empty | State::Dead { .. } => Err(GroupError::UnknownMemberId),
        State::PreparingRebalance(_) => Ok(true),
        // A member that has joined and sees its answer get lost has no SyncGroup open.
        State::CompletingRebalance(_) => Ok(changed),
        // The leader joins again when it has seen topics or partitions change.
        State::Stable { .. } => Ok(changed || group.is_leader(&join.member_id)),
    }
}

/// A static member comes back without its id: it takes its place under a new one.
fn rejoin_static(
    group: &mut Group,
    ctx: &mut Ctx<'_>,
    request: RequestRef,
    old_id: &Arc<str>,
    new_id: &Arc<str>,
    join: &JoinRequest,
) -> Result<(), GroupError> {
    if ctx.outbox.is_full(ctx.config) || group.returning.is_some() {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    let topics_before = group.subscribed_topics();
    let was_leader = group.is_leader(old_id);
    let Some(old) = group.replace_static(ctx, old_id, new_id) else { return Err(GroupError::UnknownMemberId) };
    group.update_member(ctx, new_id, join);
    let same_protocol = group.select_protocol() == group.protocol_name;
    let stable = matches!(group.state, State::Stable { .. });
    if !stable || !same_protocol || subscription_changed(&topics_before, &group.subscribed_topics(), &old, join) {
        group.readmit(ctx, request, new_id, join);
        return Ok(());
    }
    if let Some(member) = group.members.get_mut(new_id) {
        member.waiting = Waiting::Nothing;
        member.progress = Progress::Synced;
    }
    let response = returned_response(group, new_id, old_id, was_leader, join.skip_assignment);
    let group_id = Arc::clone(&group.id);
    let pending =
        Pending::StaticMember { group: group_id, new_id: Arc::clone(new_id), old: Box::new(old), request, response };
    group.returning = Some(group.write(ctx, None, pending));
    Ok(())
}

/// Assignors put more than topics into the metadata (what the member owned before its restart, for one), so only a
/// change of topics counts.
fn subscription_changed(
    before: &Option<BTreeSet<String>>,
    after: &Option<BTreeSet<String>>,
    old: &super::group::Member,
    join: &JoinRequest,
) -> bool {
    let of = |protocols: &[super::types::Protocol]| {
        protocols.first().and_then(|p| subscription::topics(&p.metadata)).map(BTreeSet::from_iter)
    };
    let (old, new): (Option<BTreeSet<String>>, _) = (of(&old.protocols), of(&join.protocols));
    before != after || (before.is_some() && old != new)
}

/// Nothing moves: the member goes on with the assignment of its place. Only with KIP-814 can it be told that it leads
/// without being made to assign.
fn returned_response(
    group: &Group,
    new_id: &Arc<str>,
    old_id: &Arc<str>,
    was_leader: bool,
    can_skip: bool,
) -> JoinResponse {
    let mut response = group.current_generation_for(new_id);
    match (was_leader, can_skip) {
        (true, true) => response.skip_assignment = true,
        (true, false) => {
            response.leader = Arc::clone(old_id);
            response.members = Vec::new();
        }
        (false, _) => {}
    }
    response
}
