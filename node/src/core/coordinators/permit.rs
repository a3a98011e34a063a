//! Which groups of a request its caller may ask about. The others are answered here; no coordinator hears of them.

use wherry_metadata::acl::Operation;

use crate::api::Ctx;
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::types::{
    ConsumerDescribeRequest, DeleteRequest, DescribeRequest, ListResponse, OffsetFetchRequest, ShareDescribeRequest,
};
use crate::groups::{GroupError, Part, Request, Response, refused};

/// What of a request is left to be asked.
#[derive(Debug)]
pub(super) enum Permit {
    /// All of it.
    All(Request),
    /// Nothing: this is the answer.
    Nothing(Response),
    /// A part; `whole` is the answer but for that part, whose items have these places in it.
    Some { whole: Response, places: Vec<usize>, body: Request },
}

impl<S: LogStore> Core<S> {
    pub(super) fn permit_groups(&self, ctx: &Ctx, body: Request) -> Permit {
        if self.config.authorization.is_none() {
            return Permit::All(body);
        }
        let (operation, group) = match &body {
            Request::Join(body) => (Operation::Read, &body.group_id),
            Request::Sync(body) => (Operation::Read, &body.group_id),
            Request::Heartbeat(body) => (Operation::Read, &body.group_id),
            Request::Leave(body) => (Operation::Read, &body.group_id),
            Request::OffsetCommit(body) => (Operation::Read, &body.group_id),
            Request::ConsumerHeartbeat(body) => (Operation::Read, &body.group_id),
            Request::ShareHeartbeat(body) => (Operation::Read, &body.group_id),
            Request::OffsetDelete(body) => (Operation::Delete, &body.group_id),
            Request::List(_) => return Permit::All(body),
            Request::Describe(_)
            | Request::ConsumerDescribe(_)
            | Request::ShareDescribe(_)
            | Request::OffsetFetch(_) => {
                return self.permit_some(ctx, Operation::Describe, body);
            }
            Request::Delete(_) => return self.permit_some(ctx, Operation::Delete, body),
        };
        if self.allows_group(ctx, operation, group) {
            Permit::All(body)
        } else {
            Permit::Nothing(refused(GroupError::GroupAuthorizationFailed, &body))
        }
    }

    fn permit_some(&self, ctx: &Ctx, operation: Operation, body: Request) -> Permit {
        let names: Vec<&str> = match &body {
            Request::Describe(body) => body.groups.iter().map(AsRef::as_ref).collect(),
            Request::ConsumerDescribe(body) => body.groups.iter().map(AsRef::as_ref).collect(),
            Request::ShareDescribe(body) => body.groups.iter().map(AsRef::as_ref).collect(),
            Request::Delete(body) => body.groups.iter().map(AsRef::as_ref).collect(),
            Request::OffsetFetch(body) => body.groups.iter().map(|group| group.group_id.as_ref()).collect(),
            // They are about one group, or none.
            Request::Join(_)
            | Request::Sync(_)
            | Request::Heartbeat(_)
            | Request::Leave(_)
            | Request::OffsetCommit(_)
            | Request::OffsetDelete(_)
            | Request::ConsumerHeartbeat(_)
            | Request::ShareHeartbeat(_)
            | Request::List(_) => return Permit::All(body),
        };
        let allowed: Vec<bool> = names.iter().map(|name| self.allows_group(ctx, operation, name)).collect();
        let places: Vec<usize> = (0..allowed.len()).filter(|at| allowed.get(*at) == Some(&true)).collect();
        if places.len() == allowed.len() {
            return Permit::All(body);
        }
        let whole = refused(GroupError::GroupAuthorizationFailed, &body);
        if places.is_empty() {
            return Permit::Nothing(whole);
        }
        Permit::Some { whole, body: only(body, &allowed), places }
    }

    /// Only groups that the caller may see; whoever may see the cluster sees all.
    pub(super) fn permit_list(&self, ctx: &Ctx, mut response: ListResponse) -> ListResponse {
        if self.config.authorization.is_some() && !self.allows_cluster(ctx, Operation::Describe) {
            response.groups.retain(|group| self.allows_group(ctx, Operation::Describe, &group.group_id));
        }
        response
    }
}

/// Those items of a request that are allowed.
fn only(body: Request, allowed: &[bool]) -> Request {
    fn kept<T>(items: Vec<T>, allowed: &[bool]) -> Vec<T> {
        items.into_iter().zip(allowed).filter(|(_, allowed)| **allowed).map(|(item, _)| item).collect()
    }
    match body {
        Request::Describe(body) => Request::Describe(DescribeRequest { groups: kept(body.groups, allowed) }),
        Request::ConsumerDescribe(body) => {
            Request::ConsumerDescribe(ConsumerDescribeRequest { groups: kept(body.groups, allowed) })
        }
        Request::ShareDescribe(body) => {
            Request::ShareDescribe(ShareDescribeRequest { groups: kept(body.groups, allowed) })
        }
        Request::Delete(body) => Request::Delete(DeleteRequest { groups: kept(body.groups, allowed) }),
        Request::OffsetFetch(body) => {
            let groups = kept(body.groups, allowed);
            Request::OffsetFetch(OffsetFetchRequest { groups, ..body })
        }
        other @ (Request::Join(_)
        | Request::Sync(_)
        | Request::Heartbeat(_)
        | Request::Leave(_)
        | Request::OffsetCommit(_)
        | Request::OffsetDelete(_)
        | Request::ConsumerHeartbeat(_)
        | Request::ShareHeartbeat(_)
        | Request::List(_)) => other,
    }
}

/// Parts of what is left, with the places of their items in the whole answer.
pub(super) fn placed(mut parts: Vec<Part>, places: &[usize]) -> Vec<Part> {
    for part in &mut parts {
        part.places = part.places.iter().filter_map(|at| places.get(*at).copied()).collect();
    }
    parts
}
