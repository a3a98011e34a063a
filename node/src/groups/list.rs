//! ListGroups and DescribeGroups: what people see of groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::group::{Group, Member, State};
use super::subscription::PROTOCOL_TYPE;
use super::types::{
    DescribedGroup, DescribedMember, GROUP_TYPE_CLASSIC, GROUP_TYPE_CONSUMER, GROUP_TYPE_SHARE, GroupError,
    ListRequest, ListResponse, ListedGroup, StateName,
};

pub(super) fn list(groups: &BTreeMap<Arc<str>, Group>, list: &ListRequest) -> ListResponse {
    let is_wanted = |wanted: &[Arc<str>], name: &str| {
        wanted.is_empty() || wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
    };
    let wanted = |group: &&Group| {
        is_wanted(&list.types, group_type(group)) && is_wanted(&list.states, group.state_name().as_str())
    };
    let groups = groups.values().filter(wanted).map(|group| ListedGroup {
        group_id: Arc::clone(&group.id),
        protocol_type: match &group.consumer {
            Some(_) => PROTOCOL_TYPE.into(),
            None if group.share.is_some() => GROUP_TYPE_SHARE.into(),
            None => group.protocol_type.clone().unwrap_or_default(),
        },
        state: group.state_name(),
        group_type: group_type(group),
    });
    ListResponse { error: GroupError::None, groups: groups.collect() }
}

fn group_type(group: &Group) -> &'static str {
    match group.consumer {
        Some(_) => GROUP_TYPE_CONSUMER,
        None if group.share.is_some() => GROUP_TYPE_SHARE,
        None => GROUP_TYPE_CLASSIC,
    }
}

pub(super) fn absent(group_id: &Arc<str>, error: GroupError) -> DescribedGroup {
    DescribedGroup {
        error,
        group_id: Arc::clone(group_id),
        state: StateName::Dead,
        protocol_type: "".into(),
        protocol: "".into(),
        members: Vec::new(),
    }
}

pub(super) fn describe(group: &Group) -> DescribedGroup {
    // Between generations, metadata and assignments would be of different ones.
    let stable = matches!(group.state, State::Stable { .. });
    let protocol = group.protocol_name.clone().filter(|_| stable).unwrap_or_default();
    let member = |m: &Member| DescribedMember {
        member_id: Arc::clone(&m.id),
        instance_id: m.instance_id.clone(),
        client_id: Arc::clone(&m.client_id),
        client_host: Arc::clone(&m.client_host),
        metadata: if stable { m.metadata(&protocol) } else { Bytes::new() },
        assignment: if stable { m.assignment.clone() } else { Bytes::new() },
    };
    DescribedGroup {
        error: GroupError::None,
        group_id: Arc::clone(&group.id),
        state: group.state_name(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        members: group.members.values().map(member).collect(),
        protocol,
    }
}
