//! A group as its last record says it was.

use std::sync::Arc;

use super::consumer::fact::Fact;
use super::group::{Group, Member, Progress, State, Waiting};
use super::record::{GroupRecord, MemberRecord};
use super::share::ShareGroup;
use super::types::Protocol;

/// A record of a consumer group. It takes the place of a classic group: the later record wins.
pub(super) fn change(group: &mut Group, fact: Fact) {
    if group.consumer.is_none() && !fact.is_tombstone() {
        forget(group);
        group.consumer = Some(Box::default());
    }
    if let Some(consumer) = &mut group.consumer {
        consumer.apply(fact);
        if consumer.is_blank() {
            group.consumer = None;
        }
    }
}

/// Puts the record's state in place of the group's; offsets stay.
pub(super) fn restore(group: &mut Group, record: GroupRecord) {
    group.consumer = None;
    group.share = None;
    let protocol_name = record.protocol_name.clone().unwrap_or_default();
    group.recorded = true;
    group.since_ms = record.since_ms;
    group.generation = record.generation;
    group.protocol_type = record.protocol_type;
    group.protocol_name = record.protocol_name;
    group.leader = record.leader;
    group.members.clear();
    group.instances.clear();
    for member in record.members {
        let member = restore_member(member, &protocol_name);
        if let Some(instance) = &member.instance_id {
            group.instances.insert(Arc::clone(instance), Arc::clone(&member.id));
        }
        group.members.insert(Arc::clone(&member.id), member);
    }
    group.state = if group.members.is_empty() { State::Empty } else { State::Stable { sync_deadline_ns: None } };
}

/// A record of a share group, or its tombstone. The later record wins.
pub(super) fn share(group: &mut Group, value: Option<ShareGroup>) {
    match value {
        Some(share) => {
            forget(group);
            group.share = Some(Box::new(share));
        }
        None => group.share = None,
    }
}

/// A tombstone of a classic group: only offsets may be left, or a consumer group in its place.
pub(super) fn ended(group: &mut Group) {
    if group.consumer.is_none() && group.share.is_none() {
        forget(group);
    }
}

/// Only offsets are left.
pub(super) fn forget(group: &mut Group) {
    let (offsets, alarm_ns) = (std::mem::take(&mut group.offsets), group.alarm_ns);
    *group = Group { offsets, alarm_ns, ..Group::new(Arc::clone(&group.id), 0) };
}

/// Its other protocols are not written: it offers them again when it rejoins.
fn restore_member(record: MemberRecord, protocol_name: &Arc<str>) -> Member {
    Member {
        id: record.member_id,
        instance_id: record.instance_id,
        client_id: record.client_id,
        client_host: record.client_host,
        session_timeout_ms: record.session_timeout_ms,
        rebalance_timeout_ms: record.rebalance_timeout_ms,
        protocols: vec![Protocol { name: Arc::clone(protocol_name), metadata: record.metadata }],
        assignment: record.assignment,
        waiting: Waiting::Nothing,
        progress: Progress::Synced,
        deadline_ns: u64::MAX,
    }
}
