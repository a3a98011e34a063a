//! The topic that keeps the groups' state: internal, compacted, made when the first group asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use wherry_metadata::{Command, Topic};
use wherry_wire::codec::ResponseError;

use crate::api;
use crate::api::errors::ApiError;
use crate::core::consensus::Results;
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core, ListenerId};

/// Its name, which clients and tools know.
pub(crate) const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Bytes of one of its segments: small, for what is not closed is not compacted, and all of it is read at a start.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Whether it was asked for, and who waits until it is there. Bounded by the connections: each waits with one request.
#[derive(Debug, Default)]
pub(crate) struct OffsetsTopic {
    asked: bool,
    waiting: Vec<api::find_coordinator::Pending>,
}

impl<S: LogStore> Core<S> {
    /// The topic, if it is there.
    pub(crate) fn offsets_topic(&self) -> Option<&Arc<Topic>> {
        self.meta.topic(OFFSETS_TOPIC)
    }

    /// Its number of partitions.
    pub(super) fn offsets_partitions(&self) -> Option<i32> {
        self.offsets_topic().map(|topic| topic.partition_count())
    }

    /// The node that coordinates a group, as clients of that listener find it: id, host, port.
    ///
    /// # Errors
    /// Nobody does, for now.
    pub(crate) fn coordinator_of(&self, group: &str, listener: ListenerId) -> Result<(i32, String, u16), ApiError> {
        let Some(partitions) = self.offsets_partitions() else {
            let text = format!("the topic {OFFSETS_TOPIC} is being made");
            return Err(ApiError::new(ResponseError::CoordinatorNotAvailable, text));
        };
        let partition = crate::groups::partition_of(group, partitions);
        let leader = self.offsets_topic().and_then(|topic| topic.partition(partition)?.leader);
        match leader.and_then(|leader| self.meta.broker(leader)) {
            Some(broker) => {
                let at = broker.address(self.listener_name(listener));
                let at = at.ok_or_else(|| {
                    let text = format!("node {} can't be reached by this listener", broker.node_id);
                    ApiError::new(ResponseError::CoordinatorNotAvailable, text)
                });
                at.map(|(host, port)| (broker.node_id, host.to_owned(), port))
            }
            None => {
                let text = format!("partition {partition} of {OFFSETS_TOPIC} has no leader now");
                Err(ApiError::new(ResponseError::CoordinatorNotAvailable, text))
            }
        }
    }

    /// Has the topic made. False: not now.
    pub(crate) fn make_offsets_topic(&mut self) -> bool {
        if self.desk.topic.asked {
            return true;
        }
        let configs = [("cleanup.policy", "compact".to_owned()), ("segment.bytes", SEGMENT_BYTES.to_string())];
        let command = Command::CreateTopic {
            name: OFFSETS_TOPIC.to_owned(),
            id: self.entropy.uuid(),
            partitions: self.config.offsets_topic_partitions,
            replication_factor: -1,
            configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
            internal: true,
            assignment: None,
        };
        if let Err(error) = self.meta.check(&command) {
            tracing::warn!(%error, "groups can't be served: the topic {OFFSETS_TOPIC} can't be made");
            return false;
        }
        self.desk.topic.asked = self.propose(vec![command], AfterCommit::OffsetsTopic).is_ok();
        self.desk.topic.asked
    }

    /// As [`Core::make_offsets_topic`]; goes on with `pending` when it is there, or refused. False: not now, nobody goes on.
    pub(crate) fn await_offsets_topic(&mut self, pending: api::find_coordinator::Pending) -> bool {
        let asked = self.make_offsets_topic();
        if asked {
            self.desk.topic.waiting.push(pending);
        }
        asked
    }

    pub(crate) fn offsets_topic_committed(&mut self, results: Results) {
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "groups can't be served: the topic {OFFSETS_TOPIC} was refused");
        }
        self.desk.topic.asked = false;
        for pending in std::mem::take(&mut self.desk.topic.waiting) {
            api::find_coordinator::committed(self, &pending);
        }
    }
}
