//! How far groups are, and moving them; the same for gRPC and HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;
use tonic::Code;
use wherry_client::admin::MemberDescription;
use wherry_client::{ClientError, TopicPartition};
use wherry_proto::v1::seek_request::Target;
use wherry_proto::v1::{
    GetGroupResponse, GroupMember, GroupPosition, PartitionOffset, SeekPosition, SeekRequest, SeekResponse,
    TopicPartitions,
};

use super::ask;
use crate::backend::{Backend, Bounds, GroupView};
use crate::delivery::driver::Ask;
use crate::error::Failure;
use crate::limits;
use crate::publish::record::{check_topic, millis};
use crate::shared::Shared;

type Places = Vec<(TopicPartition, i64)>;

/// A group: who is in it, and how far it is.
pub(crate) async fn describe<B: Backend>(shared: &Shared<B>, group: &str) -> Result<GetGroupResponse, Failure> {
    ask::check_group(group)?;
    let view = shared.backend.group(group).await?;
    let here = here(shared, group).await;
    let assigned = view.description.members.iter().flat_map(|member| member.assignment.iter().cloned());
    let places: BTreeSet<TopicPartition> = view.committed.iter().map(|(at, _)| at.clone()).chain(assigned).collect();
    let positions = positions(shared, &view, places).await?;
    let member = |member: &MemberDescription| group_member(member, &here);
    Ok(GetGroupResponse {
        group: group.to_owned(),
        state: view.description.state.as_ref().into(),
        members: view.description.members.iter().map(member).collect(),
        positions,
    })
}

fn group_member(member: &MemberDescription, here: &Here) -> GroupMember {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in &member.assignment {
        by_topic.entry(&at.topic).or_default().push(at.partition);
    }
    let assignment = by_topic.into_iter().map(|(topic, mut partitions)| {
        partitions.sort_unstable();
        TopicPartitions { topic: topic.to_owned(), partitions }
    });
    GroupMember {
        member_id: member.member_id.as_ref().into(),
        client_id: member.client_id.as_ref().into(),
        host: member.client_host.as_ref().into(),
        assignment: assignment.collect(),
        here: here.ids.contains(&member.member_id),
    }
}

async fn positions<B: Backend>(
    shared: &Shared<B>,
    view: &GroupView,
    places: BTreeSet<TopicPartition>,
) -> Result<Vec<GroupPosition>, Failure> {
    let committed: HashMap<&TopicPartition, i64> = view.committed.iter().map(|(at, next)| (at, *next)).collect();
    let topics: BTreeSet<Arc<str>> = places.iter().map(|at| at.topic.clone()).collect();
    let mut bounds: HashMap<TopicPartition, Bounds> = HashMap::new();
    for topic in topics {
        match shared.backend.bounds(&topic).await {
            Ok(all) => {
                bounds.extend(all.into_iter().map(|of| (TopicPartition::new(topic.clone(), of.partition), of)));
            }
            // It has been deleted since; then there is nothing to be behind of.
            Err(ClientError::NoSuchTopic { .. } | ClientError::Rejected { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let position = |at: TopicPartition| {
        let of = bounds.get(&at)?;
        let committed = committed.get(&at).copied();
        let from = committed.unwrap_or(of.first).max(of.first);
        Some(GroupPosition {
            topic: at.topic.as_ref().into(),
            partition: at.partition,
            committed_offset: committed,
            end_offset: of.end,
            lag: (of.end - from).max(0),
        })
    };
    Ok(places.into_iter().filter_map(position).collect())
}

/// The members of a group that this sidecar has.
struct Here {
    /// Their sessions, with their topics.
    sessions: Vec<(u64, Vec<Arc<str>>)>,
    /// What the cluster calls those that it knows.
    ids: BTreeSet<Arc<str>>,
}

async fn here<B: Backend>(shared: &Shared<B>, group: &str) -> Here {
    let sessions = shared.groups.of_group(group);
    let mut ids = BTreeSet::new();
    for (session, _) in &sessions {
        let member = shared.groups.ask(*session, |answer| Ask::Membership { answer }).await.flatten();
        ids.extend(member.map(|member| member.member_id().clone()));
    }
    Here { sessions, ids }
}

/// Moves a group.
pub(crate) async fn seek<B: Backend>(shared: &Shared<B>, request: SeekRequest) -> Result<SeekResponse, Failure> {
    ask::check_group(&request.group)?;
    check_topic(&request.topic)?;
    let topic: Arc<str> = request.topic.as_str().into();
    let Some(target) = request.target else {
        return Err(Failure::invalid("INVALID", "there is nowhere to go; set `position`, `timestamp` or `offsets`"));
    };
    let wanted = places(shared, &topic, target).await?;
    let mut moved = move_to(shared, &request.group, &topic, wanted).await?;
    moved.sort();
    let offset = |(at, offset): (TopicPartition, i64)| PartitionOffset {
        topic: at.topic.as_ref().into(),
        partition: at.partition,
        offset,
    };
    Ok(SeekResponse { offsets: moved.into_iter().map(offset).collect() })
}

/// Where each partition goes, brought within its bounds.
async fn places<B: Backend>(shared: &Shared<B>, topic: &Arc<str>, target: Target) -> Result<Places, Failure> {
    let bounds = shared.backend.bounds(topic).await?;
    let at = |partition: i32| TopicPartition::new(topic.clone(), partition);
    let all = |to: fn(&Bounds) -> i64| bounds.iter().map(|of| (at(of.partition), to(of))).collect();
    let asked: Places = match target {
        Target::Position(position) => match SeekPosition::try_from(position) {
            Ok(SeekPosition::Earliest) => all(|of| of.first),
            Ok(SeekPosition::Latest) => all(|of| of.end),
            Ok(SeekPosition::Unspecified) | Err(_) => {
                return Err(Failure::invalid(
                    "INVALID",
                    "`position` is none that this sidecar knows; use one of SeekPosition",
                ));
            }
        },
        Target::Timestamp(time) => {
            let found = shared.backend.offsets_at(topic, millis(&time)?).await?;
            found.into_iter().map(|(partition, offset)| (at(partition), offset)).collect()
        }
        Target::Offsets(offsets) if offsets.offsets.len() > limits::OFFSETS => {
            return Err(Failure::invalid("INVALID", "more than 10000 offsets; name fewer"));
        }
        Target::Offsets(offsets) => {
            let topics = [topic.clone()];
            let by_partition = offsets.offsets.iter().map(|place| ask::place(place, &topics));
            by_partition.collect::<Result<BTreeMap<_, _>, _>>()?.into_iter().collect()
        }
    };
    let bounded = |(at, offset): (TopicPartition, i64)| match bounds.iter().find(|of| of.partition == at.partition) {
        Some(of) => Ok((at, offset.clamp(of.first, of.end))),
        None => {
            Err(Failure::lasting(Code::NotFound, "UNKNOWN_TOPIC", format!("there is no partition {at}; correct it")))
        }
    };
    asked.into_iter().map(bounded).collect()
}

/// Moves a group that nobody is in, or nobody but members here. A rebalance that is under way is waited for.
async fn move_to<B: Backend>(
    shared: &Shared<B>,
    group: &str,
    topic: &Arc<str>,
    mut wanted: Places,
) -> Result<Places, Failure> {
    let until = Instant::now() + limits::SEEK_WAIT;
    let mut moved = Vec::new();
    while !wanted.is_empty() {
        let here = here(shared, group).await;
        let members = shared.backend.group(group).await?.description.members;
        let others = members.iter().filter(|member| !here.ids.contains(&member.member_id)).count();
        let readers: Vec<u64> =
            here.sessions.iter().filter(|(_, topics)| topics.contains(topic)).map(|(session, _)| *session).collect();
        if members.is_empty() && here.sessions.is_empty() {
            shared.backend.move_group(group, &wanted).await?;
            moved.append(&mut wanted);
        } else if others == 0 && !readers.is_empty() {
            for session in readers {
                let next = wanted.clone();
                let answer = shared.groups.ask(session, |answer| Ask::Move { next, answer }).await;
                let done = answer.transpose()?.unwrap_or_default();
                wanted.retain(|(at, _)| !done.iter().any(|(of, _)| of == at));
                moved.extend(done);
            }
        } else if others == 0 && !here.sessions.is_empty() && readers.is_empty() {
            return Err(not_read_here(group, topic));
        } else if here.sessions.is_empty() || Instant::now() >= until {
            return Err(in_use(group, others));
        }
        if !wanted.is_empty() {
            if Instant::now() >= until {
                return Err(rebalancing(group, topic));
            }
            tokio::time::sleep(limits::GROUP_RETRY).await;
        }
    }
    Ok(moved)
}

fn in_use(group: &str, others: usize) -> Failure {
    Failure::lasting(
        Code::FailedPrecondition,
        "GROUP_IN_USE",
        format!("group {group} has {others} members that are not here; stop them, or seek through their sidecar"),
    )
}

fn not_read_here(group: &str, topic: &str) -> Failure {
    Failure::lasting(
        Code::FailedPrecondition,
        "GROUP_IN_USE",
        format!(
            "group {group} is in use here, but nobody here reads {topic} with it; end its subscriptions, or subscribe to the topic"
        ),
    )
}

fn rebalancing(group: &str, topic: &str) -> Failure {
    Failure::passing(
        Code::Unavailable,
        "REBALANCING",
        format!(
            "not every partition of {topic} is read here, or its group {group} is dividing them anew; try it again"
        ),
    )
}
