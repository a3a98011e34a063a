//! Offsets that a group has committed: one attempt to fetch, one to commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;

use crate::admin::CommittedOffset;
use crate::cluster::{Cluster, Target, codes};
use crate::record::{CommitOffset, TopicPartition};
use crate::retry::Attempt;
use crate::text::{group_id, shared, text, topic_name};

/// From this version on several groups are asked at once.
const GROUPS: i16 = 8;
/// From this version on one can wait for offsets of open transactions.
const STABLE: i16 = 7;
/// From this version on static members name themselves.
const INSTANCES: i16 = 7;

/// Who commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// -1 for nobody in particular.
    pub(crate) generation: i32,
    pub(crate) member_id: Arc<str>,
    pub(crate) instance_id: Option<Arc<str>>,
}

fn by_topic(of: &[TopicPartition]) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in of {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    topics
}

fn request(version: i16, group: &str, of: Option<&[TopicPartition]>) -> OffsetFetchRequest {
    if version >= GROUPS {
        let topic = |(name, partitions): (&str, Vec<i32>)| {
            OffsetFetchRequestTopics::default().with_name(topic_name(name)).with_partition_indexes(partitions)
        };
        let topics = of.map(|of| by_topic(of).into_iter().map(topic).collect());
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(topics);
        return OffsetFetchRequest::default().with_groups(vec![group]);
    }
    let topic = |(name, partitions): (&str, Vec<i32>)| {
        OffsetFetchRequestTopic::default().with_name(topic_name(name)).with_partition_indexes(partitions)
    };
    let topics = of.map(|of| by_topic(of).into_iter().map(topic).collect());
    OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(topics)
}

struct Row<'a> {
    topic: &'a StrBytes,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<&'a StrBytes>,
    error: i16,
}

fn rows(answer: &OffsetFetchResponse) -> Vec<Row<'_>> {
    let old = answer.topics.iter().flat_map(|t| {
        t.partitions.iter().map(|p| Row {
            topic: &t.name,
            partition: p.partition_index,
            offset: p.committed_offset,
            leader_epoch: p.committed_leader_epoch,
            metadata: p.metadata.as_ref(),
            error: p.error_code,
        })
    });
    let new = answer.groups.iter().flat_map(|g| &g.topics).flat_map(|t| {
        t.partitions.iter().map(|p| Row {
            topic: &t.name,
            partition: p.partition_index,
            offset: p.committed_offset,
            leader_epoch: p.committed_leader_epoch,
            metadata: p.metadata.as_ref(),
            error: p.error_code,
        })
    });
    old.chain(new).collect()
}

/// What the group has committed; those without a commit are left out. With `stable`, offsets that an open transaction may
/// change are waited for.
pub(crate) async fn fetch(
    cluster: &Cluster,
    coordinator: &Target,
    group: &str,
    of: Option<&[TopicPartition]>,
    stable: bool,
) -> Result<Vec<CommittedOffset>, Attempt> {
    const WHAT: &str = "fetch committed offsets";
    let build = |version| request(version, group, of).with_require_stable(stable && version >= STABLE);
    let (answer, _) = cluster.ask_version(coordinator, WHAT, build).await?;
    let top = answer.groups.first().map_or(answer.error_code, |g| g.error_code);
    if let Some(error) = codes::error(top) {
        return Err(codes::attempt(&format!("{WHAT} of {group}"), error, None));
    }
    let mut committed = Vec::new();
    for row in rows(&answer) {
        if let Some(error) = codes::error(row.error) {
            return Err(codes::attempt(&format!("{WHAT} of {group}"), error, Some(row.topic)));
        }
        if row.offset >= 0 {
            committed.push(CommittedOffset {
                at: TopicPartition { topic: shared(row.topic), partition: row.partition },
                offset: row.offset,
                leader_epoch: row.leader_epoch,
                metadata: row.metadata.filter(|m| !m.is_empty()).map(shared),
            });
        }
    }
    Ok(committed)
}

/// Commits; answers with an error code for each, in the order given.
pub(crate) async fn commit(
    cluster: &Cluster,
    coordinator: &Target,
    group: &str,
    member: &Member,
    next: &[CommitOffset],
) -> Result<Vec<i16>, Attempt> {
    const WHAT: &str = "commit offsets";
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for CommitOffset { at, offset, metadata } in next {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(at.partition)
            .with_committed_offset(*offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text(metadata)));
        topics.entry(&at.topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, _)| {
        OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    let topics: Vec<_> = topics.into_iter().map(topic).collect();
    let build = |version: i16| {
        OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(member.generation)
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.as_ref().filter(|_| version >= INSTANCES).map(|i| text(i)))
            .with_topics(topics.clone())
    };
    let (answer, _) = cluster.ask_version(coordinator, WHAT, build).await?;
    let all = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p)));
    let found: HashMap<_, _> = all.map(|(t, p)| ((t, p.partition_index), p.error_code)).collect();
    let code = |item: &CommitOffset| found.get(&(&*item.at.topic, item.at.partition)).copied();
    next.iter().map(|item| code(item).ok_or_else(|| Attempt::Unknown("left out of the answer".into()))).collect()
}
