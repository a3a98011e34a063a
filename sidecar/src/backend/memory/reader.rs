//! Reading the cluster in memory without a group.

use std::collections::BTreeMap;

use wherry_client::{ClientError, ConsumedRecord, TopicPartition};

use super::{MemoryCluster, no_such_topic, unreachable};
use crate::backend::{ReadSpec, Reader, Start};

/// A reader of the cluster in memory.
#[derive(Debug)]
pub struct MemoryReader {
    cluster: MemoryCluster,
    positions: BTreeMap<TopicPartition, i64>,
}

impl MemoryReader {
    pub(super) fn open(cluster: MemoryCluster, spec: &ReadSpec) -> Result<Self, ClientError> {
        let mut positions = BTreeMap::new();
        {
            let state = cluster.state();
            if state.away {
                return Err(unreachable("read the topic"));
            }
            for topic in &spec.topics {
                let logs = state.topics.get(topic).ok_or_else(|| no_such_topic(topic))?;
                for (partition, log) in (0..).zip(logs).filter(|(at, _)| spec.only.is_none_or(|only| only == *at)) {
                    let end = i64::try_from(log.len()).unwrap_or(i64::MAX);
                    let at = TopicPartition::new(topic.clone(), partition);
                    let given = spec.offsets.iter().find(|(of, offset)| *of == at && (0..=end).contains(offset));
                    let start = match (given, spec.start) {
                        (Some((_, offset)), _) => *offset,
                        (None, Start::Earliest) => 0,
                        (None, Start::Latest) => end,
                    };
                    positions.insert(at, start);
                }
            }
        }
        Ok(Self { cluster, positions })
    }

    fn ready(&mut self, want: usize) -> Vec<ConsumedRecord> {
        let state = self.cluster.state();
        let mut records: Vec<ConsumedRecord> = Vec::new();
        if state.away {
            return records;
        }
        for (at, position) in &mut self.positions {
            let index = usize::try_from(at.partition).unwrap_or(usize::MAX);
            let Some(log) = state.topics.get(&at.topic).and_then(|logs| logs.get(index)) else { continue };
            let from = usize::try_from(*position).unwrap_or_default();
            records.extend(log.iter().skip(from).take(want.saturating_sub(records.len())).cloned());
            *position = records
                .iter()
                .rfind(|r| r.partition == at.partition && r.topic == at.topic)
                .map_or(*position, |r| r.offset + 1);
        }
        records
    }
}

impl Reader for MemoryReader {
    async fn next(&mut self, want: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
        let mut changed = self.cluster.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let records = self.ready(want);
            if !records.is_empty() {
                return Ok(records);
            }
            if changed.changed().await.is_err() {
                return Err(ClientError::Closed { what: "the cluster" });
            }
        }
    }
}
