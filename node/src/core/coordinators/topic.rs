//! The topics that keep the coordinators' state: internal, compacted, made when somebody first asks for a coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use wherry_metadata::{Command, Topic};
use wherry_wire::codec::ResponseError;

use crate::api;
use crate::api::errors::ApiError;
use crate::core::consensus::Results;
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core, ListenerId};
use crate::groups::partition_of;

/// Name of the groups' topic, which clients and tools know.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Name of the transactions' topic.
pub(crate) const TRANSACTIONS_TOPIC: &str = "__transaction_state";
/// Name of the topic of share groups.
pub(crate) const SHARES_TOPIC: &str = "__share_group_state";
/// Bytes of one of their segments: small, for what is not closed is not compacted, and all of it is read at a start.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoordinatorTopic {
    Offsets,
    Transactions,
    Shares,
}

impl CoordinatorTopic {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Offsets => OFFSETS_TOPIC,
            Self::Transactions => TRANSACTIONS_TOPIC,
            Self::Shares => SHARES_TOPIC,
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Offsets => "groups",
            Self::Transactions => "transactions",
            Self::Shares => "share groups",
        }
    }
}

/// Whether a topic was asked for, and who waits until it is there. Bounded by the connections: each waits with one request.
#[derive(Debug, Default)]
pub(crate) struct TopicWish {
    asked: bool,
    waiting: Vec<api::find_coordinator::Pending>,
}

impl<S: LogStore> Core<S> {
    /// The topic of the groups, if it is there.
    pub(crate) fn offsets_topic(&self) -> Option<&Arc<Topic>> {
        self.coordinator_topic(CoordinatorTopic::Offsets)
    }

    pub(crate) fn coordinator_topic(&self, topic: CoordinatorTopic) -> Option<&Arc<Topic>> {
        self.meta.topic(topic.name())
    }

    /// The number of partitions of the groups' topic.
    pub(crate) fn offsets_partitions(&self) -> Option<i32> {
        self.offsets_topic().map(|topic| topic.partition_count())
    }

    /// The node that coordinates a group, or a transactional id, as clients of that listener find it: id, host, port.
    ///
    /// # Errors
    /// Nobody does, for now.
    pub(crate) fn coordinator_of(
        &self,
        topic: CoordinatorTopic,
        key: &str,
        listener: ListenerId,
    ) -> Result<(i32, String, u16), ApiError> {
        let name = topic.name();
        let unavailable = |text| ApiError::new(ResponseError::CoordinatorNotAvailable, text);
        let Some(topic) = self.coordinator_topic(topic) else {
            return Err(unavailable(format!("the topic {name} is being made")));
        };
        let partition = partition_of(key, topic.partition_count());
        let leader = topic.partition(partition).and_then(|partition| partition.leader);
        match leader.and_then(|leader| self.meta.broker(leader)) {
            Some(broker) => match broker.address(self.listener_name(listener)) {
                Some((host, port)) => Ok((broker.node_id, host.to_owned(), port)),
                None => Err(unavailable(format!("node {} can't be reached by this listener", broker.node_id))),
            },
            None => Err(unavailable(format!("partition {partition} of {name} has no leader now"))),
        }
    }

    fn wish(&mut self, topic: CoordinatorTopic) -> &mut TopicWish {
        match topic {
            CoordinatorTopic::Offsets => &mut self.desk.topic,
            CoordinatorTopic::Transactions => &mut self.transactions.topic,
            CoordinatorTopic::Shares => self.shares.wish(),
        }
    }

    /// Has the topic made. False: not now.
    pub(crate) fn make_topic(&mut self, topic: CoordinatorTopic) -> bool {
        if self.wish(topic).asked {
            return true;
        }
        let (name, what) = (topic.name(), topic.what());
        let configs = [("cleanup.policy", "compact".to_owned()), ("segment.bytes", SEGMENT_BYTES.to_string())];
        let command = Command::CreateTopic {
            name: name.to_owned(),
            id: self.entropy.uuid(),
            partitions: match topic {
                CoordinatorTopic::Offsets => self.config.offsets_topic_partitions,
                CoordinatorTopic::Transactions => self.config.transactions_topic_partitions,
                CoordinatorTopic::Shares => self.config.share_topic_partitions,
            },
            replication_factor: -1,
            configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
            internal: true,
            assignment: None,
        };
        if let Err(error) = self.meta.check(&command) {
            tracing::warn!(%error, "{what} can't be served: the topic {name} can't be made");
            return false;
        }
        let asked = self.propose(vec![command], AfterCommit::CoordinatorTopic(topic)).is_ok();
        self.wish(topic).asked = asked;
        asked
    }

    /// As [`Core::make_topic`]; goes on with `pending` when it is there, or refused. False: not now, nobody goes on.
    pub(crate) fn await_topic(&mut self, topic: CoordinatorTopic, pending: api::find_coordinator::Pending) -> bool {
        let asked = self.make_topic(topic);
        if asked {
            self.wish(topic).waiting.push(pending);
        }
        asked
    }

    pub(crate) fn coordinator_topic_committed(&mut self, topic: CoordinatorTopic, results: Results) {
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "{} can't be served: the topic {} was refused", topic.what(), topic.name());
        }
        let wish = self.wish(topic);
        wish.asked = false;
        for pending in std::mem::take(&mut wish.waiting) {
            api::find_coordinator::committed(self, &pending);
        }
    }
}
