//! DescribeShareGroupOffsets: where the share-partitions of groups begin.

use std::collections::BTreeMap;
use std::sync::Arc;

use wherry_metadata::acl::Operation;
use wherry_wire::codec::messages::describe_share_group_offsets_request::{
    DescribeShareGroupOffsetsRequestGroup as AskedGroup, DescribeShareGroupOffsetsRequestTopic as AskedTopic,
};
use wherry_wire::codec::messages::describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup as Group, DescribeShareGroupOffsetsResponsePartition as Partition,
    DescribeShareGroupOffsetsResponseTopic as Topic,
};
use wherry_wire::codec::messages::{DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse, TopicName};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::offsets::{Pending, ask, check_group, error_of, kept};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::limits::MAX_SHARE_NAMES_PER_REQUEST;
use crate::share::ledger::{Described, Request, Response};

/// A share-partition of which nothing is kept.
const UNKNOWN_OFFSET: i64 = -1;

/// A request, until all of its groups are described.
#[derive(Debug)]
pub(crate) struct Op {
    ctx: Box<Ctx>,
    request: DescribeShareGroupOffsetsRequest,
    groups: Vec<Group>,
    left: usize,
}

/// Asks for each group by itself.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, body: &DescribeShareGroupOffsetsRequest) -> Outcome {
    let named = |group: &AskedGroup| {
        let topics = group.topics.iter().flatten();
        1 + topics.map(|topic| 1 + topic.partitions.len()).sum::<usize>()
    };
    if body.groups.iter().map(named).sum::<usize>() > MAX_SHARE_NAMES_PER_REQUEST {
        return Outcome::Close("a request names too many groups, topics and partitions".into());
    }
    let mut groups = Vec::with_capacity(body.groups.len());
    let mut asked: Vec<(usize, Arc<str>)> = Vec::new();
    for (place, group) in body.groups.iter().enumerate() {
        let described = Group::default().with_group_id(group.group_id.clone());
        let found = if core.allows_group(ctx, Operation::Describe, &group.group_id) {
            check_group(core, &group.group_id, false)
        } else {
            Err(ResponseError::GroupAuthorizationFailed)
        };
        groups.push(match found {
            Ok(id) => {
                asked.push((place, id));
                described
            }
            Err(error) => refused(described, error),
        });
    }
    if asked.is_empty() {
        return ctx.reply(&DescribeShareGroupOffsetsResponse::default().with_groups(groups));
    }
    let descriptions = &mut core.share_descriptions;
    descriptions.last += 1;
    let op = descriptions.last;
    descriptions.open.insert(op, Op { ctx: kept(ctx), request: body.clone(), groups, left: asked.len() });
    for (place, group) in asked {
        ask(core, Pending::Describe { op, place }, Request::Describe { group });
    }
    Outcome::Later
}

fn refused(group: Group, error: ResponseError) -> Group {
    let text = StrBytes::from_string(error.to_string());
    group.with_error_code(error.code()).with_error_message(Some(text))
}

/// A group is described, or not.
pub(super) fn described<S: LogStore>(core: &mut Core<S>, number: u64, place: usize, response: Response) {
    let Some(mut op) = core.share_descriptions.open.remove(&number) else { return };
    let asked = op.request.groups.get(place).and_then(|group| group.topics.as_ref());
    if let Some(group) = op.groups.get_mut(place) {
        match (error_of(&response), response) {
            (None, Response::Described(lines)) => group.topics = topics(core, &op.ctx, asked, &lines),
            (error, _) => {
                let error = error.unwrap_or(ResponseError::UnknownServerError);
                *group = refused(std::mem::take(group), error);
            }
        }
    }
    op.left -= 1;
    if op.left > 0 {
        core.share_descriptions.open.insert(number, op);
        return;
    }
    let outcome = op.ctx.reply(&DescribeShareGroupOffsetsResponse::default().with_groups(op.groups));
    core.finish(op.ctx.id, outcome);
}

/// The topics that were asked for, or all of which something is kept and which the caller may know.
fn topics<S: LogStore>(core: &Core<S>, ctx: &Ctx, asked: Option<&Vec<AskedTopic>>, lines: &[Described]) -> Vec<Topic> {
    let kept: BTreeMap<_, _> = lines.iter().map(|line| ((line.topic, line.partition), line)).collect();
    let of = |topic: &wherry_metadata::Topic, index: i32| {
        let line = kept.get(&(topic.id, index));
        Partition::default()
            .with_partition_index(index)
            .with_start_offset(line.map_or(UNKNOWN_OFFSET, |line| line.start))
            .with_leader_epoch(line.map_or(0, |line| line.leader_epoch))
    };
    let Some(asked) = asked else {
        let mut all: BTreeMap<_, Vec<i32>> = BTreeMap::new();
        lines.iter().for_each(|line| all.entry(line.topic).or_default().push(line.partition));
        let known = all.into_iter().filter_map(|(id, indexes)| Some((core.meta.topic_by_id(id)?, indexes)));
        let visible = known.filter(|(topic, _)| core.allows_topic(ctx, Operation::Describe, &topic.name));
        return visible
            .map(|(topic, indexes)| {
                Topic::default()
                    .with_topic_name(TopicName(StrBytes::from_string(topic.name.to_string())))
                    .with_topic_id(topic.id)
                    .with_partitions(indexes.into_iter().map(|index| of(topic, index)).collect())
            })
            .collect();
    };
    let named = asked.iter().map(|asked| {
        let topic = Topic::default().with_topic_name(asked.topic_name.clone());
        match core.topic_for(ctx, Operation::Describe, &asked.topic_name) {
            Ok(found) => {
                let partitions = asked.partitions.iter().map(|index| match found.partition(*index) {
                    Some(_) => of(found, *index),
                    None => wrong(*index, ResponseError::UnknownTopicOrPartition),
                });
                topic.with_topic_id(found.id).with_partitions(partitions.collect())
            }
            Err(error) => {
                let partitions = asked.partitions.iter().map(|index| wrong(*index, error.error));
                topic.with_partitions(partitions.collect())
            }
        }
    });
    named.collect()
}

fn wrong(index: i32, error: ResponseError) -> Partition {
    Partition::default()
        .with_partition_index(index)
        .with_start_offset(UNKNOWN_OFFSET)
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_string(error.to_string())))
}
