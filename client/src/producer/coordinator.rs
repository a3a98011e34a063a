//! A transactional id at its coordinator: each call with its retries. What the calls mean for the transaction is the handle's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProducerId,
    TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::Request;

use super::lane::Identity;
use crate::cluster::{Cluster, CoordinatorKind, Target, codes};
use crate::consumer::GroupMembership;
use crate::error::{ClientError, Result};
use crate::net::Address;
use crate::record::{CommitOffset, TopicPartition};
use crate::retry::{self, Attempt};
use crate::text::{group_id, text, topic_name};

const INIT: &str = "init producer id";
const ADD: &str = "add partitions to a transaction";
const OFFSETS: &str = "commit offsets in a transaction";
const END: &str = "end a transaction";

/// From this version on the group's member is named.
const MEMBERS: i16 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Coordinator {
    cluster: Arc<Cluster>,
    pub(super) id: Arc<str>,
    timeout: Duration,
    /// Where it was last.
    address: Mutex<Option<Address>>,
}

impl Coordinator {
    pub(super) fn new(cluster: Arc<Cluster>, id: Arc<str>, timeout: Duration) -> Self {
        Self { cluster, id, timeout, address: Mutex::new(None) }
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(&self.id))
    }

    /// The next identity: fences whoever had one. With `after`, the one that this producer has now.
    pub(super) async fn init(&self, after: Option<Identity>) -> Result<Identity> {
        let present = after.unwrap_or(Identity { producer_id: -1, epoch: -1 });
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(present.producer_id))
            .with_producer_epoch(present.epoch);
        let attempt = async || {
            // Before version 3 there is no saying which identity one has.
            let build = |version| {
                let mut request = request.clone();
                if version < 3 {
                    (request.producer_id, request.producer_epoch) = (ProducerId(-1), -1);
                }
                request
            };
            let answer = self.ask(INIT, build).await?;
            self.judge(INIT, answer.error_code)?;
            Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
        };
        self.until_done(INIT, attempt).await
    }

    /// These partitions belong to the transaction from now on.
    pub(super) async fn add(&self, identity: Identity, places: &[TopicPartition]) -> Result<()> {
        let mut topics: Vec<AddPartitionsToTxnTopic> = Vec::new();
        for place in places {
            match topics.iter_mut().find(|topic| topic.name.as_str() == &*place.topic) {
                Some(topic) => topic.partitions.push(place.partition),
                None => topics.push(
                    AddPartitionsToTxnTopic::default()
                        .with_name(topic_name(&place.topic))
                        .with_partitions(vec![place.partition]),
                ),
            }
        }
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(identity.producer_id))
            .with_v3_and_below_producer_epoch(identity.epoch)
            .with_v3_and_below_topics(topics);
        let attempt = async || {
            let answer = self.ask(ADD, |_| request.clone()).await?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let codes = results.map(|partition| partition.partition_error_code);
            // What was not attempted was not because of another one.
            let not_attempted = ResponseError::OperationNotAttempted.code();
            codes.filter(|code| *code != not_attempted).try_for_each(|code| self.judge(ADD, code))
        };
        self.until_done(ADD, attempt).await
    }

    /// A group's offsets count when the transaction commits.
    pub(super) async fn commit_offsets(
        &self,
        identity: Identity,
        group: &GroupMembership,
        next: &[CommitOffset],
    ) -> Result<()> {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(identity.producer_id))
            .with_producer_epoch(identity.epoch)
            .with_group_id(group_id(&group.group));
        let attempt = async || {
            let answer = self.ask(OFFSETS, |_| request.clone()).await?;
            self.judge(OFFSETS, answer.error_code)
        };
        self.until_done(OFFSETS, attempt).await?;
        let attempt = || self.write_offsets(identity, group, next);
        self.until_done(OFFSETS, attempt).await
    }

    async fn write_offsets(
        &self,
        identity: Identity,
        group: &GroupMembership,
        next: &[CommitOffset],
    ) -> Result<(), Attempt> {
        let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
        for CommitOffset { at: place, offset, metadata } in next {
            let partition = TxnOffsetCommitRequestPartition::default()
                .with_partition_index(place.partition)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text(metadata)));
            match topics.iter_mut().find(|topic| topic.name.as_str() == &*place.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(topic_name(&place.topic))
                        .with_partitions(vec![partition]),
                ),
            }
        }
        let build = |version: i16| {
            let request = TxnOffsetCommitRequest::default()
                .with_transactional_id(self.transactional_id())
                .with_group_id(group_id(&group.group))
                .with_producer_id(ProducerId(identity.producer_id))
                .with_producer_epoch(identity.epoch)
                .with_topics(topics.clone());
            if version < MEMBERS {
                return request;
            }
            request
                .with_generation_id(group.generation)
                .with_member_id(text(&group.member_id))
                .with_group_instance_id(group.instance_id.as_ref().map(|id| text(id)))
        };
        let (_, address) = self.cluster.find_coordinator(CoordinatorKind::Group, &group.group).await?;
        let (answer, _) = self.cluster.ask_version(&Target::At(address), OFFSETS, build).await?;
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        for code in codes {
            match codes::error(code) {
                Some(ResponseError::IllegalGeneration | ResponseError::UnknownMemberId) => {
                    let (group, generation) = (group.group.clone(), group.generation);
                    return Err(Attempt::Fail(ClientError::Stale { group, what: "a commit", generation }));
                }
                _ => self.judge(OFFSETS, code)?,
            }
        }
        Ok(())
    }

    /// The transaction ends so. Asking again is safe.
    pub(super) async fn end(&self, identity: Identity, commit: bool) -> Result<()> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(identity.producer_id))
            .with_producer_epoch(identity.epoch)
            .with_committed(commit);
        let attempt = async || {
            let answer = self.ask(END, |_| request.clone()).await?;
            self.judge(END, answer.error_code)
        };
        self.until_done(END, attempt).await
    }

    async fn until_done<T, F, Fut>(&self, what: &str, attempt: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Attempt>>,
    {
        let config = &self.cluster.config;
        retry::retry(config, &format!("{what} of {}", self.id), config.call_timeout, attempt).await
    }

    async fn ask<R: Request>(&self, what: &'static str, build: impl Fn(i16) -> R) -> Result<R::Response, Attempt> {
        let known = self.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = match known {
            Some(address) => address,
            None => {
                let (_, address) = self.cluster.find_coordinator(CoordinatorKind::Transaction, &self.id).await?;
                *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address.clone());
                address
            }
        };
        let answer = self.cluster.ask_version(&Target::At(address), what, build).await;
        answer.map(|(answer, _)| answer).inspect_err(|_| self.forget())
    }

    fn forget(&self) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What a code means, for whichever call.
    fn judge(&self, what: &str, code: i16) -> Result<(), Attempt> {
        let Some(error) = codes::error(code) else { return Ok(()) };
        Err(match error {
            ResponseError::ProducerFenced
            | ResponseError::InvalidProducerEpoch
            | ResponseError::InvalidProducerIdMapping
            | ResponseError::FencedInstanceId => {
                let what = format!("producer {}", self.id).into();
                Attempt::Fail(ClientError::Fenced { what, name: codes::name(error) })
            }
            // The last transaction is still being told to its partitions.
            ResponseError::ConcurrentTransactions => Attempt::again("the last transaction is not over"),
            ResponseError::UnknownTopicOrPartition => Attempt::again("the coordinator does not know the topic yet"),
            other => {
                self.forget();
                codes::attempt(&format!("{what} of {}", self.id), other, None)
            }
        })
    }
}
