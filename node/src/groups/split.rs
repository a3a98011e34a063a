//! Requests that name several groups, cut into one for each coordinator; and the parts of the answer put in their places.

use std::collections::BTreeMap;

use super::partition::partition_of;
use super::refuse;
use super::types::{
    ConsumerDescribeRequest, DeleteRequest, DescribeRequest, GroupError, ListRequest, OffsetFetchRequest, Request,
    Response, ShareDescribeRequest,
};

/// Whom to ask.
#[derive(Debug)]
pub(crate) enum Split {
    /// The coordinator of one partition.
    One { partition: i32, body: Request },
    /// Several, each for a part; `whole` is an answer of the right size, to be filled with theirs.
    Many { whole: Response, parts: Vec<Part> },
    /// All that there are.
    Everyone(ListRequest),
}

/// One coordinator's part.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: i32,
    /// Where in the whole answer each item of this part's answer belongs.
    pub(crate) places: Vec<usize>,
    pub(crate) body: Request,
}

/// Cuts a request by the partitions of the groups that it names.
pub(crate) fn split(body: Request, partitions: i32) -> Split {
    if let Some(group) = only_group(&body) {
        return Split::One { partition: partition_of(group, partitions), body };
    }
    let whole = refuse::with(GroupError::NotCoordinator, &body);
    let of = |group: &str| partition_of(group, partitions);
    let parts = match body {
        Request::OffsetFetch(OffsetFetchRequest { groups, require_stable }) => cut(
            groups,
            |group| of(&group.group_id),
            |groups| Request::OffsetFetch(OffsetFetchRequest { groups, require_stable }),
        ),
        Request::Describe(DescribeRequest { groups }) => {
            cut(groups, |group| of(group), |groups| Request::Describe(DescribeRequest { groups }))
        }
        Request::Delete(DeleteRequest { groups }) => {
            cut(groups, |group| of(group), |groups| Request::Delete(DeleteRequest { groups }))
        }
        Request::ConsumerDescribe(ConsumerDescribeRequest { groups }) => {
            cut(groups, |group| of(group), |groups| Request::ConsumerDescribe(ConsumerDescribeRequest { groups }))
        }
        Request::ShareDescribe(ShareDescribeRequest { groups }) => {
            cut(groups, |group| of(group), |groups| Request::ShareDescribe(ShareDescribeRequest { groups }))
        }
        Request::List(body) => return Split::Everyone(body),
        // They have their one group: none comes here.
        Request::Join(_)
        | Request::Sync(_)
        | Request::Heartbeat(_)
        | Request::Leave(_)
        | Request::OffsetCommit(_)
        | Request::OffsetDelete(_)
        | Request::ConsumerHeartbeat(_)
        | Request::ShareHeartbeat(_) => Vec::new(),
    };
    Split::Many { whole, parts }
}

/// The group of a request that is about one.
fn only_group(body: &Request) -> Option<&str> {
    match body {
        Request::Join(body) => Some(&body.group_id),
        Request::Sync(body) => Some(&body.group_id),
        Request::Heartbeat(body) => Some(&body.group_id),
        Request::Leave(body) => Some(&body.group_id),
        Request::OffsetCommit(body) => Some(&body.group_id),
        Request::OffsetDelete(body) => Some(&body.group_id),
        Request::ConsumerHeartbeat(body) => Some(&body.group_id),
        Request::ShareHeartbeat(body) => Some(&body.group_id),
        Request::OffsetFetch(_)
        | Request::List(_)
        | Request::Describe(_)
        | Request::Delete(_)
        | Request::ConsumerDescribe(_)
        | Request::ShareDescribe(_) => None,
    }
}

fn cut<T>(items: Vec<T>, partition: impl Fn(&T) -> i32, body: impl Fn(Vec<T>) -> Request) -> Vec<Part> {
    let mut by_partition: BTreeMap<i32, (Vec<usize>, Vec<T>)> = BTreeMap::new();
    for (place, item) in items.into_iter().enumerate() {
        let (places, part) = by_partition.entry(partition(&item)).or_default();
        places.push(place);
        part.push(item);
    }
    let part = |(partition, (places, items))| Part { partition, places, body: body(items) };
    by_partition.into_iter().map(part).collect()
}

impl Response {
    /// Puts one coordinator's answer into the whole.
    pub(crate) fn place(&mut self, places: &[usize], part: Self) {
        match part {
            Self::OffsetFetch(part) => {
                if let Self::OffsetFetch(whole) = self {
                    put(&mut whole.groups, places, part.groups);
                }
            }
            Self::Describe(part) => {
                if let Self::Describe(whole) = self {
                    put(&mut whole.groups, places, part.groups);
                }
            }
            Self::Delete(part) => {
                if let Self::Delete(whole) = self {
                    put(&mut whole.results, places, part.results);
                }
            }
            Self::ConsumerDescribe(part) => {
                if let Self::ConsumerDescribe(whole) = self {
                    put(&mut whole.groups, places, part.groups);
                }
            }
            Self::ShareDescribe(part) => {
                if let Self::ShareDescribe(whole) = self {
                    put(&mut whole.groups, places, part.groups);
                }
            }
            // Their requests are not cut.
            Self::Join(_)
            | Self::Sync(_)
            | Self::Heartbeat(_)
            | Self::Leave(_)
            | Self::OffsetCommit(_)
            | Self::OffsetDelete(_)
            | Self::ConsumerHeartbeat(_)
            | Self::ShareHeartbeat(_)
            | Self::List(_) => {}
        }
    }
}

fn put<T>(whole: &mut [T], places: &[usize], part: Vec<T>) {
    for (place, item) in places.iter().zip(part) {
        if let Some(slot) = whole.get_mut(*place) {
            *slot = item;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::DeleteResponse;
    use super::*;

    #[test]
    fn every_group_is_asked_for_once_and_answered_in_its_place() {
        let ids = ["a", "b", "c", "b", "", "zebra"];
        let body = Request::Delete(DeleteRequest { groups: ids.map(Into::into).to_vec() });
        let Split::Many { mut whole, parts } = split(body, 3) else { panic!() };
        assert!(parts.len() > 1, "{parts:?}");
        for Part { partition, places, body } in parts {
            let Request::Delete(body) = body else { panic!() };
            assert!(body.groups.iter().all(|group| partition_of(group, 3) == partition));
            let results = body.groups.into_iter().map(|group| (group, GroupError::None)).collect();
            whole.place(&places, Response::Delete(DeleteResponse { results }));
        }
        let expected = ids.map(|id| (id.into(), GroupError::None)).to_vec();
        assert_eq!(whole, Response::Delete(DeleteResponse { results: expected }));
    }
}
