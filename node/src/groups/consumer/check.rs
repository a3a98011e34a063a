//! What of a heartbeat can be refused without looking at the group.

use super::assign::Assignor;
use super::current::{JOINING, LEAVING, LEAVING_FOR_NOW};
use super::types::ConsumerHeartbeatRequest;
use crate::groups::config::GroupsConfig;
use crate::groups::types::GroupError;

/// Why not, with a sentence.
pub(in crate::groups) type Refusal = (GroupError, String);

fn invalid(text: &str) -> Refusal {
    (GroupError::InvalidRequest, text.to_owned())
}

/// The verdict on a heartbeat that no group would take.
pub(in crate::groups) fn malformed(config: &GroupsConfig, beat: &ConsumerHeartbeatRequest) -> Result<(), Refusal> {
    check_ids(config, beat)?;
    check_sizes(config, beat)?;
    match beat.member_epoch {
        JOINING => check_join(beat)?,
        LEAVING_FOR_NOW if beat.instance_id.is_none() => return Err(invalid("InstanceId can't be null.")),
        LEAVING | LEAVING_FOR_NOW | 1.. => {}
        _ => return Err(invalid("MemberEpoch is invalid.")),
    }
    match &beat.assignor {
        Some(name) if Assignor::of(name).is_none() => {
            let known = Assignor::ALL.map(Assignor::name).join(", ");
            let text = format!("ServerAssignor {name} is not supported. Supported assignors: {known}.");
            Err((GroupError::UnsupportedAssignor, text))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_ids(config: &GroupsConfig, beat: &ConsumerHeartbeatRequest) -> Result<(), Refusal> {
    let may_be_given = beat.member_epoch == JOINING && !beat.makes_own_id;
    let of = [("GroupId", Some(&beat.group_id)), ("InstanceId", beat.instance_id.as_ref())];
    for (name, id) in of.into_iter().chain([("RackId", beat.rack_id.as_ref())]) {
        if id.is_some_and(|id| id.is_empty()) {
            return Err(invalid(&format!("{name} can't be empty.")));
        }
    }
    if beat.member_id.is_empty() && !may_be_given {
        return Err(invalid("MemberId can't be empty."));
    }
    let more = [beat.instance_id.as_ref(), beat.rack_id.as_ref(), beat.regex.as_ref(), beat.assignor.as_ref()];
    let ids = [&beat.group_id, &beat.member_id].into_iter().chain(more.into_iter().flatten());
    match ids.map(|id| id.len()).max() {
        Some(longest) if longest > config.max_id_bytes => {
            Err(invalid(&format!("ids and patterns have at most {} bytes.", config.max_id_bytes)))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_sizes(config: &GroupsConfig, beat: &ConsumerHeartbeatRequest) -> Result<(), Refusal> {
    let topics = beat.topics.as_deref().unwrap_or_default();
    if topics.len() > config.max_subscribed_topics || topics.iter().any(|topic| topic.len() > config.max_id_bytes) {
        let most = config.max_subscribed_topics;
        return Err(invalid(&format!("a member may name {most} topics, and names have a bound; use a pattern.")));
    }
    Ok(())
}

fn check_join(beat: &ConsumerHeartbeatRequest) -> Result<(), Refusal> {
    if beat.rebalance_timeout_ms.is_none() {
        return Err(invalid("RebalanceTimeoutMs must be provided in first request."));
    }
    if beat.owned.as_ref().is_none_or(|owned| !owned.is_empty()) {
        return Err(invalid("TopicPartitions must be empty when (re-)joining."));
    }
    if beat.topics.is_none() && beat.regex.is_none() {
        return Err(invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."));
    }
    Ok(())
}
