//! Where to begin in a partition: the group's committed offset, or what the reset policy says.

use std::collections::HashMap;
use std::sync::Arc;

use super::offsets;
use crate::admin::{Admin, OffsetSpec};
use crate::cluster::{Cluster, CoordinatorKind, Target};
use crate::config::{ConsumerConfig, OffsetReset};
use crate::error::{ClientError, Result};
use crate::record::TopicPartition;
use crate::retry;

/// Where each partition begins.
pub(super) type Located = Vec<(TopicPartition, Result<Beginning>)>;

/// Where a partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) offset: i64,
    /// What the group had committed beside the offset, if it is the group's.
    pub(super) metadata: Option<Arc<str>>,
}

/// Locates partitions; `committed` says for each whether the group's offset counts.
pub(super) async fn locate(
    cluster: &Arc<Cluster>,
    config: &ConsumerConfig,
    partitions: Vec<(TopicPartition, bool)>,
) -> Located {
    let asking: Vec<_> = partitions.iter().filter(|(_, committed)| *committed).map(|(at, _)| at.clone()).collect();
    let committed = match committed(cluster, config, &asking).await {
        Ok(committed) => committed,
        // Without knowing what is committed no partition may begin elsewhere.
        Err(error) => return partitions.into_iter().map(|(at, _)| (at, Err(error.clone()))).collect(),
    };
    let (known, rest): (Vec<_>, Vec<_>) =
        partitions.into_iter().map(|(at, _)| at).partition(|at| committed.contains_key(at));
    let mut located: Located =
        known.into_iter().filter_map(|at| Some((at.clone(), Ok(committed.get(&at)?.clone())))).collect();
    located.extend(reset(cluster, config, rest).await);
    located
}

/// What the group has committed for these.
pub(super) async fn committed(
    cluster: &Arc<Cluster>,
    config: &ConsumerConfig,
    of: &[TopicPartition],
) -> Result<HashMap<TopicPartition, Beginning>> {
    let Some(group) = config.group.as_deref().filter(|_| !of.is_empty()) else { return Ok(HashMap::new()) };
    let attempt = async || {
        let (_, address) = cluster.find_coordinator(CoordinatorKind::Group, group).await?;
        // What an open transaction may still change is waited for, whatever records are read: whoever began before it would
        // read again what the transaction is about.
        offsets::fetch(cluster, &Target::At(address), group, Some(of), true).await
    };
    let limit = cluster.config.call_timeout;
    let found = retry::retry(&cluster.config, "fetch committed offsets", limit, attempt).await?;
    Ok(found.into_iter().map(|c| (c.at, Beginning { offset: c.offset, metadata: c.metadata })).collect())
}

async fn reset(cluster: &Arc<Cluster>, config: &ConsumerConfig, partitions: Vec<TopicPartition>) -> Located {
    let spec = match config.auto_offset_reset {
        OffsetReset::Earliest => OffsetSpec::Earliest,
        OffsetReset::Latest => OffsetSpec::Latest,
        OffsetReset::Fail => {
            let out = |at: TopicPartition| (at.clone(), Err(ClientError::OutOfRange { at, offset: -1 }));
            return partitions.into_iter().map(out).collect();
        }
    };
    if partitions.is_empty() {
        return Vec::new();
    }
    let asked: Vec<_> = partitions.iter().map(|at| (at.clone(), spec)).collect();
    let answers = Admin::new(cluster.clone()).list_offsets_as(&asked, config.isolation).await;
    match answers {
        Ok(answers) => answers.into_iter().map(|(at, answer)| (at, answer.map(|a| begin(a.offset)))).collect(),
        Err(error) => partitions.into_iter().map(|at| (at, Err(error.clone()))).collect(),
    }
}

/// Not where the group left off.
fn begin(offset: i64) -> Beginning {
    Beginning { offset, metadata: None }
}
