//! Reading partitions of the real cluster without a group.

use wherry_client::admin::OffsetSpec;
use wherry_client::{Client, ClientError, ConsumedRecord, Consumer, ConsumerConfig, TopicPartition};

use super::{isolation, reset, topics};
use crate::backend::{ReadSpec, Reader, Start};

/// A consumer that belongs to no group.
#[derive(Debug)]
pub struct ClusterReader {
    consumer: Consumer,
}

impl ClusterReader {
    pub(super) async fn open(client: Client, spec: ReadSpec, prefetch_bytes: usize) -> Result<Self, ClientError> {
        let mut partitions = Vec::new();
        for topic in &spec.topics {
            let count = topics::partitions(&client, topic).await?;
            let all = (0..count).filter(|partition| spec.only.is_none_or(|only| only == *partition));
            partitions.extend(all.map(|partition| TopicPartition::new(topic.clone(), partition)));
        }
        let config = ConsumerConfig {
            auto_offset_reset: reset(spec.start),
            isolation: isolation(spec.committed),
            prefetch_bytes,
            fetch_max_bytes: prefetch_bytes,
            poll_bytes: prefetch_bytes,
            ..ConsumerConfig::default()
        };
        let begin = beginnings(&client, &spec, &partitions, &config).await?;
        let mut consumer = client.consumer(config).await?;
        consumer.assign(&partitions).await?;
        for (at, offset) in begin {
            consumer.seek(&at, offset)?;
        }
        Ok(Self { consumer })
    }
}

/// Where each partition begins: looked up now, so that what is sent after this is read.
async fn beginnings(
    client: &Client,
    spec: &ReadSpec,
    partitions: &[TopicPartition],
    config: &ConsumerConfig,
) -> Result<Vec<(TopicPartition, i64)>, ClientError> {
    let given = |at: &TopicPartition| spec.offsets.iter().find(|(of, _)| of == at).cloned();
    let end = match spec.start {
        Start::Earliest => OffsetSpec::Earliest,
        Start::Latest => OffsetSpec::Latest,
    };
    let asked: Vec<_> = partitions.iter().filter(|at| given(at).is_none()).map(|at| (at.clone(), end)).collect();
    let mut begin: Vec<_> = partitions.iter().filter_map(given).collect();
    for (at, found) in client.admin().list_offsets_as(&asked, config.isolation).await? {
        begin.push((at, found?.offset));
    }
    Ok(begin)
}

impl Reader for ClusterReader {
    async fn next(&mut self, want: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
        self.consumer.poll(want).await
    }
}
