//! A publisher of messages with ids, as an application and its sidecar are: whatever ends, it begins again, and publishes again
//! what it was not told of, and now and then what it was told of as well. Every message must be there once, and whoever asks
//! is told of one place.
//!
//! One batch per partition is on its way. Of what a dead process sent anything may still arrive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use wherry_wire::codec::dedupe;
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::produce_response::PartitionProduceResponse;
use wherry_wire::codec::messages::{InitProducerIdRequest, ProduceRequest};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, MESSAGE_ID_HEADER, Stamp};

use super::{Client, Io, Topics, View, Wire, receive, topic_name};
use crate::oracle::{Oracle, Place, RecordId};
use crate::world::NAMED;

const INIT: i16 = 4;
const PRODUCE: i16 = 9;
/// Also said while ids are read back, or the first message with an id is not committed yet.
const NOT_NOW: i16 = 19;
const OUT_OF_ORDER: i16 = 45;
const UNKNOWN_PRODUCER: i16 = 59;
const INVALID_EPOCH: i16 = 47;
const INVALID_RECORD: i16 = 87;

/// In percent: messages of a batch that were published before.
const AGAIN: u64 = 15;

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    messages: Vec<u32>,
    /// Something is asked, or was asked and was not answered.
    sent: bool,
}

#[derive(Debug)]
struct Partition {
    place: Place,
    batch: Option<Batch>,
    sequence: i32,
}

#[derive(Debug)]
enum Asked {
    View,
    Init,
    Produce(usize),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publisher {
    client: u32,
    /// Its batches have sequence numbers.
    idempotent: bool,
    wire: Wire,
    view: View,
    id: Option<(i64, i16)>,
    open: BTreeMap<usize, VecDeque<(i32, Asked)>>,
    partitions: Vec<Partition>,
    /// Not acknowledged.
    todo: BTreeSet<u32>,
    done: Vec<u32>,
}

impl Publisher {
    pub(crate) fn new(client: u32, messages: u32, idempotent: bool) -> Self {
        let topics = Topics(vec![NAMED]);
        let partition = |place| Partition { place, batch: None, sequence: 0 };
        Self {
            client,
            idempotent,
            wire: Wire::default(),
            partitions: topics.places().into_iter().map(partition).collect(),
            view: View::of(topics),
            id: None,
            open: BTreeMap::new(),
            todo: (0..messages).collect(),
            done: Vec::new(),
        }
    }

    /// A message has an id, and the id a partition, whoever publishes it.
    fn partition_of(&self, message: u32) -> usize {
        usize::try_from(message).unwrap_or(0) % self.partitions.len()
    }

    /// Each is alone: in which order they get there is not promised when they are published again.
    fn record(&self, message: u32) -> RecordId {
        RecordId { client: self.client, life: message, number: 0 }
    }

    /// The process ends, and another one begins that does not know what became of the last batches.
    fn begin_anew(&mut self, io: &mut Io<'_>) {
        io.hang_up = true;
        self.id = None;
        self.open.clear();
        for partition in &mut self.partitions {
            partition.batch = None;
            partition.sequence = 0;
        }
    }

    fn is_asking(&self, index: usize) -> bool {
        self.open.values().flatten().any(|(_, asked)| matches!(asked, Asked::Produce(of) if *of == index))
    }

    fn asks_first(&self) -> bool {
        self.open.values().flatten().any(|(_, asked)| matches!(asked, Asked::View | Asked::Init))
    }

    fn init(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if !self.idempotent {
            self.id = Some((-1, -1));
            return Ok(());
        }
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1_000);
        let node = io.any_node();
        let correlation = self.wire.send(io, node, INIT, &request)?;
        self.open.entry(node).or_default().push_back((correlation, Asked::Init));
        Ok(())
    }

    fn publish(&mut self, io: &mut Io<'_>, id: (i64, i16)) -> Result<(), String> {
        let index = io.rng.below(self.partitions.len());
        if self.is_asking(index) {
            return Ok(());
        }
        let place = self.partitions[index].place;
        let Some(leader) = self.view.leader(place) else { return Ok(()) };
        if self.partitions[index].batch.is_none() {
            let messages = self.choose(io, index);
            if messages.is_empty() {
                return Ok(());
            }
            self.make(io, index, messages, id)?;
        }
        let Some(batch) = &mut self.partitions[index].batch else { return Ok(()) };
        batch.sent = true;
        let data = PartitionProduceData::default().with_index(place.1).with_records(Some(batch.bytes.clone()));
        let topic = TopicProduceData::default().with_name(topic_name(place.0)).with_partition_data(vec![data]);
        let mut request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000).with_topic_data(vec![topic]);
        request.unknown_tagged_fields.insert(dedupe::TAG, dedupe::asked());
        let correlation = self.wire.send(io, leader.node, PRODUCE, &request)?;
        self.open.entry(leader.node).or_default().push_back((correlation, Asked::Produce(index)));
        Ok(())
    }

    /// Some that were not acknowledged, and now and then one that was, or the same one twice.
    fn choose(&self, io: &mut Io<'_>, index: usize) -> Vec<u32> {
        let here = |message: &&u32| self.partition_of(**message) == index;
        let most = 1 + io.rng.below(4);
        let mut chosen: Vec<u32> = self.todo.iter().filter(here).take(most).copied().collect();
        let done: Vec<u32> = self.done.iter().filter(here).copied().collect();
        if !io.calm && !done.is_empty() && io.rng.chance(AGAIN) {
            chosen.push(done[io.rng.below(done.len())]);
        }
        if !chosen.is_empty() && io.rng.chance(5) {
            chosen.push(chosen[io.rng.below(chosen.len())]);
        }
        chosen
    }

    fn make(&mut self, io: &mut Io<'_>, index: usize, messages: Vec<u32>, id: (i64, i16)) -> Result<(), String> {
        let codec = [Codec::None, Codec::Lz4, Codec::Zstd][io.rng.below(3)];
        let mut builder = BatchBuilder::new(codec, None);
        let place = self.partitions[index].place;
        for message in &messages {
            let record = self.record(*message);
            // The same each time it is published.
            let value = crate::oracle::value(record, usize::try_from(message % 400).unwrap_or(0));
            let name = format!("{}/{message}", self.client);
            let headers = [(MESSAGE_ID_HEADER, name.as_bytes())];
            builder.append(io.wall_ms, None, Some(&value), &headers).map_err(|error| error.to_string())?;
            io.oracle.logs.sent(place, record, value);
        }
        let partition = &mut self.partitions[index];
        let base_sequence = if id.0 < 0 { -1 } else { partition.sequence };
        let stamp = Stamp { producer_id: id.0, producer_epoch: id.1, base_sequence };
        let bytes = builder.build(stamp).map_err(|error| error.to_string())?;
        partition.batch = Some(Batch { bytes, messages, sent: false });
        Ok(())
    }

    fn published(&mut self, io: &mut Io<'_>, index: usize, answer: &PartitionProduceResponse) -> Result<(), String> {
        let place = self.partitions[index].place;
        let Some(batch) = self.partitions[index].batch.take() else { return Ok(()) };
        match answer.error_code {
            0 => {
                let count = i32::try_from(batch.messages.len()).unwrap_or(0);
                self.partitions[index].sequence += count;
                for (offset, message) in (answer.base_offset..).zip(batch.messages) {
                    self.acknowledged(io, place, message, offset)?;
                }
            }
            INVALID_RECORD => {
                let known = dedupe::read_duplicates(&answer.unknown_tagged_fields);
                if known.is_empty() {
                    return Err(format!("{place:?}: a batch of client {} was refused as invalid", self.client));
                }
                io.oracle.duplicates += known.len() as u64;
                let mut rest = Vec::new();
                for (message, at) in batch.messages.into_iter().zip(0..) {
                    match known.iter().find(|duplicate| duplicate.index == at) {
                        Some(duplicate) if duplicate.offset >= 0 => {
                            self.acknowledged(io, place, message, duplicate.offset)?;
                        }
                        Some(_) => {}
                        None => rest.push(message),
                    }
                }
                if let (Some(id), false) = (self.id, rest.is_empty()) {
                    self.make(io, index, rest, id)?;
                }
            }
            // What a process before this one sent may be in the log: the ids will tell.
            OUT_OF_ORDER | UNKNOWN_PRODUCER | INVALID_EPOCH => self.begin_anew(io),
            code if code == NOT_NOW || io.is_retriable(code) => {
                self.partitions[index].batch = Some(batch);
                self.view.doubt();
            }
            code => return Err(format!("{place:?}: publisher {} was refused with {code}", self.client)),
        }
        Ok(())
    }

    fn acknowledged(&mut self, io: &mut Io<'_>, place: Place, message: u32, offset: i64) -> Result<(), String> {
        if self.todo.remove(&message) {
            self.done.push(message);
        }
        io.oracle.logs.acknowledged(place, self.record(message), offset)
    }
}

impl Client for Publisher {
    fn connected(&mut self, io: &mut Io<'_>) {
        if !io.calm && io.rng.chance(15) {
            self.begin_anew(io);
        }
    }

    fn frame(&mut self, io: &mut Io<'_>, node: usize, frame: Bytes) -> Result<(), String> {
        let asked = self.open.get_mut(&node).and_then(VecDeque::pop_front);
        let Some((correlation, asked)) = asked else { return Err("a response to nothing".into()) };
        match asked {
            Asked::View => self.view.learn(io, &frame, correlation),
            Asked::Init => {
                let response = receive::<InitProducerIdRequest>(&frame, INIT, correlation)?;
                match response.error_code {
                    0 => {
                        io.oracle.producer_id(response.producer_id.0);
                        self.id = Some((response.producer_id.0, response.producer_epoch));
                        Ok(())
                    }
                    code if io.is_retriable(code) => Ok(()),
                    code => Err(format!("InitProducerId failed with {code}")),
                }
            }
            Asked::Produce(index) => {
                let response = receive::<ProduceRequest>(&frame, PRODUCE, correlation)?;
                let answer = response.responses.first().and_then(|topic| topic.partition_responses.first());
                let Some(answer) = answer else { return Err("a batch was not answered".into()) };
                self.published(io, index, answer)
            }
        }
    }

    fn closed(&mut self, io: &mut Io<'_>, node: usize) {
        self.open.remove(&node);
        self.view.doubt();
        // Sometimes it is the process that has ended.
        if !io.calm && io.rng.chance(20) {
            for partition in &mut self.partitions {
                partition.batch = None;
                partition.sequence = 0;
            }
            self.id = None;
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        let verdict = match self.id {
            None if self.asks_first() => Ok(()),
            None => self.init(io),
            Some(_) if !self.view.is_fresh() && !self.asks_first() && io.rng.chance(50) => {
                self.view.ask(io, &mut self.wire).map(|(node, correlation)| {
                    self.open.entry(node).or_default().push_back((correlation, Asked::View));
                })
            }
            Some(id) => self.publish(io, id),
        };
        io.oracle.judge(verdict);
    }

    fn may_haunt(&self) -> bool {
        true
    }

    fn is_done(&self, _: &Oracle) -> bool {
        self.todo.is_empty()
            && self.open.values().all(VecDeque::is_empty)
            && self.partitions.iter().all(|partition| partition.batch.is_none())
    }

    fn state(&self) -> String {
        format!("publisher {}: id {:?}, {} messages to publish, {:?}", self.client, self.id, self.todo.len(), self.view)
    }

    fn look_again(&mut self) {}
}
