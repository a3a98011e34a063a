//! DescribeLogDirs: what each partition takes on disk. One directory per node.

use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_metadata::Topic;
use wherry_wire::codec::StrBytes;
use wherry_wire::codec::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use wherry_wire::codec::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use wherry_wire::types::LogId;

/// Answers for the topics named, or for all.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeLogDirsRequest) -> Outcome {
    let stats = core.store.stats();
    // -1 is the protocol's "not known".
    let bytes = |n: u64| if stats.disk_total_bytes == 0 { -1 } else { i64::try_from(n).unwrap_or(i64::MAX) };
    let mut result = DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(core.config.data_dir.display().to_string()))
        .with_total_bytes(bytes(stats.disk_total_bytes))
        .with_usable_bytes(bytes(stats.disk_free_bytes));
    result.topics = match &request.topics {
        None => core.meta.topics_from("").map(|topic| describe(core, topic, 0..topic.partition_count())).collect(),
        // An answer per partition that is named: it grows no faster than the request.
        Some(list) => list
            .iter()
            .filter_map(|asked| {
                let topic = topics::by_name(&core.meta, &asked.topic).ok()?;
                let known = asked.partitions.iter().copied().filter(|p| topics::log(topic, *p).is_ok());
                Some(describe(core, topic, known))
            })
            .collect(),
    };
    ctx.reply(&DescribeLogDirsResponse::default().with_results(vec![result]))
}

fn describe<S: LogStore>(core: &Core<S>, topic: &Topic, partitions: impl Iterator<Item = i32>) -> DescribeLogDirsTopic {
    let size = |partition| {
        let info = core.store.info(LogId { topic: topic.id, partition })?;
        Some(i64::try_from(info.size_bytes).unwrap_or(i64::MAX))
    };
    let partitions = partitions
        .filter_map(|p| Some(DescribeLogDirsPartition::default().with_partition_index(p).with_partition_size(size(p)?)))
        .collect();
    DescribeLogDirsTopic::default().with_name(TopicName(topics::name_of(topic))).with_partitions(partitions)
}
