//! Admin calls about offsets in logs.

use std::collections::HashMap;

use futures::future::BoxFuture;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};

use super::each::{Outcomes, each, unmentioned};
use super::topics::outcome;
use super::{Admin, Each, OffsetAt, OffsetSpec};
use crate::cluster::{Cluster, Target};
use crate::config::Isolation;
use crate::error::Result;
use crate::record::TopicPartition;
use crate::text::topic_name;

const WHAT: &str = "list offsets";

impl OffsetSpec {
    /// As the protocol asks for it.
    pub(crate) fn timestamp(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::Timestamp(ms) => ms.max(0),
        }
    }
}

/// A lookup: where and what.
pub(crate) type Lookup = (TopicPartition, OffsetSpec);

/// One request to one leader.
pub(crate) async fn ask(
    cluster: &Cluster,
    leader: i32,
    isolation: Isolation,
    items: Vec<Lookup>,
) -> Outcomes<OffsetAt> {
    let topic = |(at, spec): &Lookup| {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(at.partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(spec.timestamp());
        ListOffsetsTopic::default().with_name(topic_name(&at.topic)).with_partitions(vec![partition])
    };
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation.level())
        .with_topics(items.iter().map(topic).collect());
    let answer = cluster.ask(&Target::Broker(leader), WHAT, &request).await?;
    let all = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p)));
    let found: HashMap<_, _> = all.map(|(name, p)| ((name, p.partition_index), p)).collect();
    let of = |(at, _): &Lookup| match found.get(&(&*at.topic, at.partition)) {
        Some(p) => outcome(&format!("{WHAT} of {at}"), p.error_code, None).map(|()| OffsetAt {
            offset: p.offset,
            timestamp_ms: p.timestamp,
            leader_epoch: p.leader_epoch,
        }),
        None => unmentioned(),
    };
    Ok(items.iter().map(of).collect())
}

impl Admin {
    /// Looks offsets up, by end or by time.
    ///
    /// # Errors
    /// Where no broker answers; each partition has its own outcome.
    pub async fn list_offsets(&self, of: &[(TopicPartition, OffsetSpec)]) -> Result<Each<TopicPartition, OffsetAt>> {
        self.list_offsets_as(of, Isolation::ReadUncommitted).await
    }

    /// As [`Admin::list_offsets`]; read committed, the end is the last stable offset.
    ///
    /// # Errors
    /// As [`Admin::list_offsets`].
    pub async fn list_offsets_as(
        &self,
        of: &[(TopicPartition, OffsetSpec)],
        isolation: Isolation,
    ) -> Result<Each<TopicPartition, OffsetAt>> {
        let one = async |pending: Vec<Lookup>| {
            let ask = |leader, items| -> BoxFuture<'_, Outcomes<OffsetAt>> {
                Box::pin(ask(&self.cluster, leader, isolation, items))
            };
            self.at_leaders(WHAT, &pending, |(at, _)| at.clone(), ask).await
        };
        let done = each(&self.cluster.config, WHAT, of.to_vec(), one).await?;
        Ok(done.into_iter().map(|((at, _), result)| (at, result)).collect())
    }
}
