//! The requests of a transactional producer.

use wherry_wire::codec::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use wherry_wire::codec::messages::offset_fetch_request::OffsetFetchRequestTopic;
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use wherry_wire::codec::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, GroupId,
    InitProducerIdRequest, OffsetFetchRequest, ProduceRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};

use super::copies::OFFSETS;
use super::{Asked, Identity, Offsets, Outgoing, Protocol, Transactor, Wish};
use crate::client::{Io, text, topic_name};
use crate::oracle::{Place, RecordId};

pub(super) const COORDINATOR: i16 = 4;
pub(super) const ADD: i16 = 3;
pub(super) const ADD_OFFSETS: i16 = 3;
/// What a group's coordinator is asked for, and what a transaction's.
const GROUP_KEY: i8 = 0;
const TRANSACTION_KEY: i8 = 1;
/// Requests with records on their way to one node.
const IN_FLIGHT: usize = 2;

impl Protocol {
    pub(super) fn init(self) -> i16 {
        match self {
            Self::V1 => 4,
            Self::V2 => 5,
        }
    }

    pub(super) fn produce(self) -> i16 {
        match self {
            Self::V1 => 9,
            Self::V2 => 12,
        }
    }

    pub(super) fn end(self) -> i16 {
        match self {
            Self::V1 => 4,
            Self::V2 => 5,
        }
    }

    pub(super) fn commit_offsets(self) -> i16 {
        match self {
            Self::V1 => 3,
            Self::V2 => 5,
        }
    }
}

impl Transactor {
    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(&self.who.transactional_id))
    }

    /// The group has the name of the transactional id: no one else commits its offsets.
    fn group_id(&self) -> GroupId {
        GroupId(text(&self.who.transactional_id))
    }

    pub(super) fn find_coordinator(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        self.find(io, TRANSACTION_KEY, Asked::Coordinator)
    }

    pub(super) fn find_group_coordinator(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        self.find(io, GROUP_KEY, Asked::GroupCoordinator)
    }

    fn find(&mut self, io: &mut Io<'_>, key_type: i8, asked: Asked) -> Result<(), String> {
        let keys = vec![text(&self.who.transactional_id)];
        let request = FindCoordinatorRequest::default().with_key_type(key_type).with_coordinator_keys(keys);
        let node = io.any_node();
        let correlation = self.wire.send(io, node, COORDINATOR, &request)?;
        self.asked(node, correlation, asked);
        Ok(())
    }

    /// `before`: as who it goes on.
    pub(super) fn init(&mut self, io: &mut Io<'_>, to: usize, before: Option<Identity>) -> Result<(), String> {
        let mut request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(self.timeout_ms)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        if let Some(before) = before {
            request = request.with_producer_id(ProducerId(before.id)).with_producer_epoch(before.epoch);
        }
        let correlation = self.wire.send(io, to, self.protocol.init(), &request)?;
        self.asked(to, correlation, Asked::Init(before.map(|before| before.grant)));
        Ok(())
    }

    /// Adds all partitions that are not in the transaction, or the first of them.
    pub(super) fn add_partitions(&mut self, io: &mut Io<'_>, to: usize, identity: Identity) -> Result<(), String> {
        let Some(open) = &mut self.transaction else { return Ok(()) };
        let mut places: Vec<Place> = open.outgoing.iter().filter(|part| !part.added).map(|part| part.place).collect();
        if io.rng.chance(30) {
            places.truncate(1);
        }
        open.touched = true;
        let mut request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(identity.id))
            .with_v3_and_below_producer_epoch(identity.epoch);
        for (topic, partition) in &places {
            let name = topic_name(topic);
            match request.v3_and_below_topics.iter_mut().find(|topic| topic.name == name) {
                Some(topic) => topic.partitions.push(*partition),
                None => {
                    let topic = AddPartitionsToTxnTopic::default().with_name(name).with_partitions(vec![*partition]);
                    request.v3_and_below_topics.push(topic);
                }
            }
        }
        let correlation = self.wire.send(io, to, ADD, &request)?;
        self.asked(to, correlation, Asked::Add(places));
        Ok(())
    }

    /// Adds the group to the transaction, or commits its offsets in it.
    pub(super) fn send_offsets(&mut self, io: &mut Io<'_>, to: usize, identity: Identity) -> Result<(), String> {
        let Some(open) = &mut self.transaction else { return Ok(()) };
        match open.offsets.clone() {
            Offsets::None | Offsets::Done => Ok(()),
            Offsets::ToAdd(_) => {
                open.touched = true;
                let request = AddOffsetsToTxnRequest::default()
                    .with_transactional_id(self.transactional_id())
                    .with_producer_id(ProducerId(identity.id))
                    .with_producer_epoch(identity.epoch)
                    .with_group_id(self.group_id());
                let correlation = self.wire.send(io, to, ADD_OFFSETS, &request)?;
                self.asked(to, correlation, Asked::AddOffsets);
                Ok(())
            }
            Offsets::ToCommit(offsets) => self.commit_offsets(io, identity, &offsets),
        }
    }

    fn commit_offsets(&mut self, io: &mut Io<'_>, identity: Identity, offsets: &[(Place, i64)]) -> Result<(), String> {
        let Some(to) = self.copies.as_ref().and_then(|copies| copies.coordinator) else {
            return self.find_group_coordinator(io);
        };
        let parts = offsets.iter().map(|((_, partition), offset)| {
            TxnOffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(text("")))
        });
        let name = topic_name(offsets.first().map_or("", |((topic, _), _)| topic));
        let topic = TxnOffsetCommitRequestTopic::default().with_name(name).with_partitions(parts.collect());
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(self.group_id())
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        if let Some(open) = &mut self.transaction {
            open.touched = true;
        }
        let correlation = self.wire.send(io, to, self.protocol.commit_offsets(), &request)?;
        self.asked(to, correlation, Asked::CommitOffsets);
        Ok(())
    }

    pub(super) fn request_offsets(
        &mut self,
        io: &mut Io<'_>,
        to: usize,
        floors: Vec<(Place, i64)>,
    ) -> Result<(), String> {
        let name = topic_name(floors.first().map_or("", |((topic, _), _)| topic));
        let partitions = floors.iter().map(|((_, partition), _)| *partition).collect();
        let topic = OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(partitions);
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(Some(vec![topic]))
            .with_require_stable(true);
        let correlation = self.wire.send(io, to, OFFSETS, &request)?;
        self.asked(to, correlation, Asked::Offsets(floors));
        Ok(())
    }

    /// Asks for the end that is wished for, perhaps again.
    pub(super) fn end(&mut self, io: &mut Io<'_>, to: usize, identity: Identity) -> Result<(), String> {
        let Some(open) = &mut self.transaction else { return Ok(()) };
        let commit = open.wish == Wish::Commit;
        io.oracle.transactions.ending(open.id, commit);
        if !open.touched {
            self.ended(io, commit);
            return Ok(());
        }
        open.asked = Some(open.asked.unwrap_or(0) + 1);
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_committed(commit);
        let correlation = self.wire.send(io, to, self.protocol.end(), &request)?;
        self.asked(to, correlation, Asked::End(commit));
        Ok(())
    }

    /// Sends records of some partitions that one node leads.
    pub(super) fn produce(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let (Some(identity), Some(open)) = (self.identity, &self.transaction) else { return Ok(()) };
        if open.asked.is_some() {
            return Ok(());
        }
        let may = |part: &Outgoing| part.is_ready() && (part.added || self.protocol == Protocol::V2);
        let ready: Vec<(usize, usize)> = open
            .outgoing
            .iter()
            .enumerate()
            .filter(|(_, part)| may(part))
            .filter_map(|(index, part)| Some((index, self.view.leader(part.place)?.node)))
            .collect();
        let Some((_, to)) = ready.get(io.rng.below(ready.len())).copied() else { return Ok(()) };
        let wanted = 1 + io.rng.below(3);
        let indexes: Vec<usize> = ready.iter().filter(|(_, node)| *node == to).map(|(i, _)| *i).take(wanted).collect();
        if self.open.get(&to).is_some_and(|open| open.len() >= IN_FLIGHT) {
            return Ok(());
        }
        self.send_records(io, to, identity, &indexes)
    }

    fn send_records(
        &mut self,
        io: &mut Io<'_>,
        to: usize,
        identity: Identity,
        indexes: &[usize],
    ) -> Result<(), String> {
        let transactional_id = Some(self.transactional_id());
        let mut request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_transactional_id(transactional_id);
        let Some(open) = &mut self.transaction else { return Ok(()) };
        open.touched = true;
        let mut parts: Vec<(Place, Vec<RecordId>)> = Vec::new();
        for index in indexes {
            let part = &mut open.outgoing[*index];
            let sequence = self.sequences.entry(part.place).or_default();
            let (bytes, ids) = part.send(io, to, (identity.id, identity.epoch), sequence)?;
            let data = PartitionProduceData::default().with_index(part.place.1).with_records(Some(bytes));
            parts.push((part.place, ids));
            let name = topic_name(part.place.0);
            match request.topic_data.iter_mut().find(|topic| topic.name == name) {
                Some(topic) => topic.partition_data.push(data),
                None => {
                    request
                        .topic_data
                        .push(TopicProduceData::default().with_name(name).with_partition_data(vec![data]));
                }
            }
        }
        let id = open.id;
        let correlation = self.wire.send(io, to, self.protocol.produce(), &request)?;
        self.asked(to, correlation, Asked::Produce(id, parts));
        Ok(())
    }
}
