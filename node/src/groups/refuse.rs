//! The answer to any request when the coordinator, and not one group, says no.

use super::types::{
    ConsumerHeartbeatResponse, DeleteResponse, DescribeResponse, FetchedGroup, GroupError, HeartbeatResponse,
    JoinResponse, LeaveResponse, ListResponse, OffsetFetchResponse, Request, Response, ShareHeartbeatResponse,
    SyncResponse,
};
use super::{commit, consumer, fetch, list, offset_delete, share};

/// Every part of the answer carries this error.
pub(crate) fn with(error: GroupError, request: &Request) -> Response {
    match request {
        Request::Join(join) => JoinResponse::refused(join.member_id.clone(), error),
        Request::Sync(_) => SyncResponse::refused(error),
        Request::Heartbeat(_) => Response::Heartbeat(HeartbeatResponse { error }),
        Request::Leave(_) => Response::Leave(LeaveResponse { error, members: Vec::new() }),
        Request::OffsetCommit(request) => commit::refused(request, error),
        Request::OffsetFetch(request) => {
            let groups: Vec<FetchedGroup> = request.groups.iter().map(|group| fetch::refused(group, error)).collect();
            Response::OffsetFetch(OffsetFetchResponse { groups })
        }
        Request::OffsetDelete(_) => offset_delete::refused(error),
        Request::List(_) => Response::List(ListResponse { error, groups: Vec::new() }),
        Request::Describe(request) => {
            let groups = request.groups.iter().map(|group| list::absent(group, error)).collect();
            Response::Describe(DescribeResponse { groups })
        }
        Request::Delete(request) => {
            let results = request.groups.iter().map(|group| (group.clone(), error)).collect();
            Response::Delete(DeleteResponse { results })
        }
        Request::ConsumerHeartbeat(_) => ConsumerHeartbeatResponse::refused(error, ""),
        Request::ConsumerDescribe(request) => {
            Response::ConsumerDescribe(consumer::describe::refused(&request.groups, error))
        }
        Request::ShareHeartbeat(_) => ShareHeartbeatResponse::refused(error, ""),
        Request::ShareDescribe(request) => Response::ShareDescribe(share::describe::refused(&request.groups, error)),
    }
}

/// The same for an answer that was made, but must not be given: what it speaks of is not durable.
pub(super) fn instead(response: Response, error: GroupError, text: &str) -> Response {
    match response {
        Response::Join(join) => JoinResponse::refused(join.member_id, error),
        Response::Sync(_) => SyncResponse::refused(error),
        Response::Heartbeat(_) => Response::Heartbeat(HeartbeatResponse { error }),
        Response::Leave(_) => Response::Leave(LeaveResponse { error, members: Vec::new() }),
        Response::OffsetCommit(response) => Response::OffsetCommit(commit::failed(response, error)),
        Response::OffsetFetch(response) => {
            let of = |group: FetchedGroup| FetchedGroup { error, topics: Vec::new(), ..group };
            Response::OffsetFetch(OffsetFetchResponse { groups: response.groups.into_iter().map(of).collect() })
        }
        Response::OffsetDelete(_) => offset_delete::refused(error),
        Response::List(_) => Response::List(ListResponse { error, groups: Vec::new() }),
        Response::Describe(response) => {
            let groups = response.groups.iter().map(|group| list::absent(&group.group_id, error)).collect();
            Response::Describe(DescribeResponse { groups })
        }
        Response::Delete(response) => {
            let results = response.results.into_iter().map(|(group, _)| (group, error)).collect();
            Response::Delete(DeleteResponse { results })
        }
        Response::ConsumerHeartbeat(_) => ConsumerHeartbeatResponse::refused(error, text),
        Response::ConsumerDescribe(response) => {
            let groups: Vec<_> = response.groups.into_iter().map(|group| group.group_id).collect();
            Response::ConsumerDescribe(consumer::describe::refused(&groups, error))
        }
        Response::ShareHeartbeat(_) => ShareHeartbeatResponse::refused(error, text),
        Response::ShareDescribe(response) => {
            let groups: Vec<_> = response.groups.into_iter().map(|group| group.group_id).collect();
            Response::ShareDescribe(share::describe::refused(&groups, error))
        }
    }
}

/// The answer while the log is being replayed. Members are spared what they can do nothing about: a heartbeat is
/// taken as given, and a SyncGroup, whose rebalance is lost with the old process, leads to a new one.
pub(super) fn while_loading(request: &Request) -> Response {
    let error = match request {
        Request::Heartbeat(_) => GroupError::None,
        Request::Sync(_) => GroupError::RebalanceInProgress,
        Request::Join(_)
        | Request::Leave(_)
        | Request::OffsetCommit(_)
        | Request::OffsetFetch(_)
        | Request::OffsetDelete(_)
        | Request::List(_)
        | Request::Describe(_)
        | Request::Delete(_)
        | Request::ConsumerHeartbeat(_)
        | Request::ConsumerDescribe(_)
        | Request::ShareHeartbeat(_)
        | Request::ShareDescribe(_) => GroupError::CoordinatorLoadInProgress,
    };
    with(error, request)
}
