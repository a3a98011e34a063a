//! What can be refused without looking at a group: ids that are none, lists that are too long.

use super::config::GroupsConfig;
use super::types::{ConsumerHeartbeatResponse, GroupError, Request, Response, ShareHeartbeatResponse};
use super::{consumer, refuse, share};

/// The answer to a request that no coordinator would take.
pub(crate) fn malformed(config: &GroupsConfig, body: &Request) -> Option<Response> {
    if let Request::ConsumerHeartbeat(beat) = body {
        let refusal = consumer::malformed(config, beat).err();
        return refusal.map(|(error, message)| ConsumerHeartbeatResponse::refused(error, message));
    }
    if let Request::ShareHeartbeat(beat) = body {
        let refusal = share::malformed(config, beat).err();
        return refusal.map(|(error, message)| ShareHeartbeatResponse::refused(error, message));
    }
    check(config, body).err().map(|error| refuse::with(error, body))
}

fn check(config: &GroupsConfig, body: &Request) -> Result<(), GroupError> {
    let id = |group_id: &str| match group_id.len() {
        0 => Err(GroupError::InvalidGroupId),
        len if len > config.max_id_bytes => Err(GroupError::InvalidGroupId),
        _ => Ok(()),
    };
    let count = |count: usize| match count {
        n if n > config.max_names_per_request => Err(GroupError::InvalidRequest),
        _ => Ok(()),
    };
    match body {
        Request::Join(body) => id(&body.group_id),
        Request::Sync(body) => id(&body.group_id),
        Request::Heartbeat(body) => id(&body.group_id),
        Request::Leave(body) => id(&body.group_id).and(count(body.members.len())),
        // An empty group id was a group of its own once, for offsets only.
        Request::OffsetCommit(body) if body.group_id.is_empty() => Ok(()),
        Request::OffsetCommit(body) => id(&body.group_id),
        Request::OffsetFetch(body) => count(body.groups.len()),
        Request::OffsetDelete(body) => id(&body.group_id),
        Request::List(body) => count(body.states.len()).and(count(body.types.len())),
        Request::Describe(body) => count(body.groups.len()),
        Request::Delete(body) => count(body.groups.len()),
        Request::ConsumerDescribe(body) => count(body.groups.len()),
        Request::ShareDescribe(body) => count(body.groups.len()),
        // They have rules of their own.
        Request::ConsumerHeartbeat(_) | Request::ShareHeartbeat(_) => Ok(()),
    }
}
