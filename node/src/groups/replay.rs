//! A group as its last record says it was.

use std::sync::Arc;

use super::group::{Group, Member, Progress, State, Waiting};
use super::record::{GroupRecord, MemberRecord};
use super::types::Protocol;

/// Puts the record's state in place of the group's; offsets stay.
pub(super) fn restore(group: &mut Group, record: GroupRecord) {
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

/// A tombstone: only offsets may be left.
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
