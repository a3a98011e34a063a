//! OffsetFetch: one group before version 8, several from then on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ask, shared, shared_option, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::groups::Request;
use crate::groups::types::{FetchGroup, FetchedOffset, FetchedTopic, OffsetFetchRequest, OffsetFetchResponse};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use wherry_wire::codec::messages::{self, GroupId, TopicName};

/// First version with several groups.
const GROUPS_FROM: i16 = 8;
/// First version with an error for the whole.
const ERROR_FROM: i16 = 2;
/// First version with leader epochs.
const EPOCH_FROM: i16 = 5;

/// Hands the request to the coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &messages::OffsetFetchRequest) -> Outcome {
    let request = request(ctx, body);
    ask(core, ctx, Request::OffsetFetch(request))
}

fn request(ctx: &Ctx, body: &messages::OffsetFetchRequest) -> OffsetFetchRequest {
    let groups = if ctx.version >= GROUPS_FROM {
        let one = |group: &messages::offset_fetch_request::OffsetFetchRequestGroup| FetchGroup {
            group_id: shared(&group.group_id),
            member: member(group),
            topics: group
                .topics
                .as_ref()
                .map(|list| list.iter().map(|t| (shared(&t.name), t.partition_indexes.clone())).collect()),
        };
        // Each once, however often it is named: a small request must not make a huge response (INV-8).
        let mut seen = BTreeSet::new();
        body.groups.iter().filter(|group| seen.insert(group.group_id.as_str())).map(one).collect()
    } else {
        let topics = body
            .topics
            .as_ref()
            .map(|list| list.iter().map(|t| (shared(&t.name), t.partition_indexes.clone())).collect());
        vec![FetchGroup { group_id: shared(&body.group_id), member: None, topics }]
    };
    OffsetFetchRequest { groups, require_stable: body.require_stable }
}

/// Who asks, if a member of a consumer group does (v9+).
fn member(group: &messages::offset_fetch_request::OffsetFetchRequestGroup) -> Option<(Arc<str>, i32)> {
    let says = group.member_id.is_some() || group.member_epoch >= 0;
    says.then(|| (shared_option(group.member_id.as_ref()).unwrap_or_default(), group.member_epoch))
}

pub(super) fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, mut response: OffsetFetchResponse) -> Outcome {
    let seen = |name: &str| core.allows_topic(ctx, Operation::Describe, name);
    // Where all were asked for, those that the caller may not see are not there.
    for group in response.groups.iter_mut().filter(|group| group.everything) {
        group.topics.retain(|topic| seen(&topic.name));
    }
    let mut body = messages::OffsetFetchResponse::default();
    if ctx.version >= GROUPS_FROM {
        let one = |group: crate::groups::types::FetchedGroup| {
            OffsetFetchResponseGroup::default()
                .with_group_id(GroupId(wire(&group.group_id)))
                .with_error_code(group.error.code())
                .with_topics(group.topics.iter().map(|t| topic_of_group(t, seen(&t.name))).collect())
        };
        body.groups = response.groups.into_iter().map(one).collect();
    } else if let Some(group) = response.groups.into_iter().next() {
        body.topics = group.topics.iter().map(|t| topic(ctx, t, seen(&t.name))).collect();
        if ctx.version >= ERROR_FROM {
            body.error_code = group.error.code();
        }
    }
    ctx.reply(&body)
}

/// The error of a partition that the caller may, or may not, see.
fn code(seen: bool) -> i16 {
    if seen { 0 } else { ResponseError::TopicAuthorizationFailed.code() }
}

fn topic_of_group(topic: &FetchedTopic, seen: bool) -> OffsetFetchResponseTopics {
    let one = |p: &FetchedOffset| {
        if !seen {
            return OffsetFetchResponsePartitions::default()
                .with_partition_index(p.partition)
                .with_committed_offset(-1)
                .with_committed_leader_epoch(-1)
                .with_metadata(Some(wire("")))
                .with_error_code(code(seen));
        }
        OffsetFetchResponsePartitions::default()
            .with_partition_index(p.partition)
            .with_committed_offset(p.offset)
            .with_committed_leader_epoch(p.leader_epoch)
            .with_metadata(Some(wire(&p.metadata)))
            .with_error_code(p.error.code())
    };
    OffsetFetchResponseTopics::default()
        .with_name(TopicName(wire(&topic.name)))
        .with_partitions(topic.partitions.iter().map(one).collect())
}

fn topic(ctx: &Ctx, topic: &FetchedTopic, seen: bool) -> OffsetFetchResponseTopic {
    let one = |p: &FetchedOffset| {
        if !seen {
            let hidden =
                OffsetFetchResponsePartition::default().with_committed_offset(-1).with_metadata(Some(wire("")));
            return hidden.with_partition_index(p.partition).with_error_code(code(seen));
        }
        let mut partition = OffsetFetchResponsePartition::default()
            .with_partition_index(p.partition)
            .with_committed_offset(p.offset)
            .with_metadata(Some(wire(&p.metadata)))
            .with_error_code(p.error.code());
        if ctx.version >= EPOCH_FROM {
            partition.committed_leader_epoch = p.leader_epoch;
        }
        partition
    };
    OffsetFetchResponseTopic::default()
        .with_name(TopicName(wire(&topic.name)))
        .with_partitions(topic.partitions.iter().map(one).collect())
}
