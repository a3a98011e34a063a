//! An idempotent producer: up to five requests on their way to each node, several partitions each, and no batch given up.
//!
//! With `acks=1` a new leader may not know what the old one acknowledged: then the producer begins anew under another id.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::produce_response::PartitionProduceResponse;
use wherry_wire::codec::messages::{InitProducerIdRequest, ProduceRequest};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::{Client, Io, View, Wire, receive, topic_name};
use crate::oracle::{Oracle, Place, RecordId};

const INIT: i16 = 4;
const PRODUCE: i16 = 9;
/// KIP-98: what a producer may have on its way without losing its order.
const IN_FLIGHT: usize = 5;
const OUT_OF_ORDER: i16 = 45;
const UNKNOWN_PRODUCER: i16 = 59;

/// Who must have a batch before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    Leader,
    All,
}

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    ids: Vec<RecordId>,
    /// The node that it is on its way to.
    sent: Option<usize>,
    /// It was sent before and no answer came, or one that says nothing: it may be in the log.
    tried: bool,
}

#[derive(Debug)]
struct Partition {
    place: Place,
    /// Not acknowledged, in order.
    batches: VecDeque<Batch>,
    numbers: u64,
    sequence: i32,
    /// A batch was refused for now: those behind it are refused as out of order.
    disturbed: bool,
}

#[derive(Debug)]
enum Asked {
    View,
    Init,
    /// The partitions whose oldest batches sent there these are.
    Produce(Vec<usize>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Producer {
    client: u32,
    life: u32,
    acks: Acks,
    wire: Wire,
    view: View,
    id: Option<(i64, i16)>,
    /// By node: what was asked there, in order.
    open: BTreeMap<usize, VecDeque<(i32, Asked)>>,
    partitions: Vec<Partition>,
    left: u32,
}

impl Producer {
    pub(crate) fn new(client: u32, places: &[Place], batches: u32, acks: Acks) -> Self {
        let partitions = places.iter().map(|place| Partition {
            place: *place,
            batches: VecDeque::new(),
            numbers: 0,
            sequence: 0,
            disturbed: false,
        });
        let (wire, view, open) = (Wire::default(), View::default(), BTreeMap::new());
        let partitions = partitions.collect();
        Self { client, life: 0, acks, wire, view, id: None, open, partitions, left: batches }
    }

    fn asked(&mut self, node: usize, correlation: i32, asked: Asked) {
        self.open.entry(node).or_default().push_back((correlation, asked));
    }

    fn is_asking(&self) -> bool {
        self.open.values().flatten().any(|(_, asked)| matches!(asked, Asked::View | Asked::Init))
    }

    fn init(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1_000);
        let node = io.any_node();
        let correlation = self.wire.send(io, node, INIT, &request)?;
        self.asked(node, correlation, Asked::Init);
        Ok(())
    }

    /// The process ends and another begins, under another id: it does not know what became of the last batches.
    fn begin_anew(&mut self, io: &mut Io<'_>) {
        io.hang_up = true;
        self.life += 1;
        self.id = None;
        self.open.clear();
        for partition in &mut self.partitions {
            partition.batches.clear();
            partition.numbers = 0;
            partition.sequence = 0;
            partition.disturbed = false;
        }
    }

    fn produce(&mut self, io: &mut Io<'_>, id: (i64, i16)) -> Result<(), String> {
        let acks = if self.acks == Acks::All { -1 } else { 1 };
        let mut request = ProduceRequest::default().with_acks(acks).with_timeout_ms(1_000);
        let mut parts = Vec::new();
        let mut to = None;
        let start = io.rng.below(self.partitions.len());
        let wanted = 1 + io.rng.below(3);
        for step in 0..self.partitions.len() {
            let index = (start + step) % self.partitions.len();
            let Some(node) = self.destination(index).filter(|node| to.is_none_or(|to| to == *node)) else { continue };
            if parts.len() < wanted && self.has_batch(io, index, id)? {
                parts.push(index);
                to = Some(node);
            }
        }
        let Some(to) = to else { return Ok(()) };
        for index in &parts {
            let partition = &mut self.partitions[*index];
            let Some(batch) = partition.batches.iter_mut().find(|batch| batch.sent.is_none()) else { continue };
            batch.sent = Some(to);
            let (topic, number) = partition.place;
            let data = PartitionProduceData::default().with_index(number).with_records(Some(batch.bytes.clone()));
            let name = topic_name(topic);
            match request.topic_data.iter_mut().find(|topic| topic.name == name) {
                Some(topic) => topic.partition_data.push(data),
                None => {
                    let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
                    request.topic_data.push(topic);
                }
            }
        }
        let correlation = self.wire.send(io, to, PRODUCE, &request)?;
        self.asked(to, correlation, Asked::Produce(parts));
        Ok(())
    }

    /// Where a partition's next batch may go: to its leader, if nothing is on its way to another one.
    fn destination(&self, index: usize) -> Option<usize> {
        let partition = &self.partitions[index];
        let leader = self.view.leader(partition.place)?.node;
        let elsewhere = partition.batches.iter().filter_map(|batch| batch.sent).any(|node| node != leader);
        let busy = self.open.get(&leader).is_some_and(|open| open.len() >= IN_FLIGHT);
        if elsewhere || busy { None } else { Some(leader) }
    }

    /// Whether a partition has something to send; makes a new batch if it may.
    fn has_batch(&mut self, io: &mut Io<'_>, index: usize, id: (i64, i16)) -> Result<bool, String> {
        let partition = &mut self.partitions[index];
        if partition.disturbed {
            // One by one, until all is in order again.
            let on_its_way = partition.batches.iter().any(|batch| batch.sent.is_some());
            return Ok(!on_its_way && !partition.batches.is_empty());
        }
        if partition.batches.iter().any(|batch| batch.sent.is_none()) {
            return Ok(true);
        }
        if self.left == 0 || partition.batches.len() >= IN_FLIGHT || io.rng.chance(30) {
            return Ok(false);
        }
        self.left -= 1;
        let batch = partition.make(io, self.client, self.life, id)?;
        partition.batches.push_back(batch);
        Ok(true)
    }

    fn produced(&mut self, io: &mut Io<'_>, index: usize, response: &PartitionProduceResponse) -> Result<(), String> {
        let partition = &mut self.partitions[index];
        let place = partition.place;
        let Some(at) = partition.batches.iter().position(|batch| batch.sent.is_some()) else {
            return Err(format!("{place:?}: an answer to no batch"));
        };
        match response.error_code {
            0 => {
                // One before it that was not acknowledged must be there nevertheless.
                if partition.batches.iter().take(at).any(|batch| !batch.tried) {
                    return Err(format!("{place:?}: a batch was taken though one before it was not"));
                }
                let Some(batch) = partition.batches.remove(at) else { return Ok(()) };
                partition.disturbed &= !partition.batches.is_empty();
                for (offset, id) in (response.base_offset..).zip(batch.ids) {
                    match self.acks {
                        Acks::All => io.oracle.logs.acknowledged(place, id, offset)?,
                        Acks::Leader => io.oracle.logs.written(place, id, offset)?,
                    }
                }
            }
            // Never told to who waits for all: librdkafka would take another epoch, and send again what may be there.
            OUT_OF_ORDER | UNKNOWN_PRODUCER if self.acks == Acks::Leader && io.nodes > 1 => self.begin_anew(io),
            code if io.is_retriable(code) => {
                partition.disturbed = true;
                partition.refused(at);
                self.view.doubt();
            }
            code => return Err(format!("{place:?}: client {} was refused with {code}", self.client)),
        }
        Ok(())
    }
}

impl Partition {
    /// To be sent again.
    fn refused(&mut self, at: usize) {
        self.batches[at].sent = None;
        self.batches[at].tried = true;
    }

    fn make(&mut self, io: &mut Io<'_>, client: u32, life: u32, id: (i64, i16)) -> Result<Batch, String> {
        let codec = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip][io.rng.below(6)];
        let mut builder = BatchBuilder::new(codec, None);
        let mut ids = Vec::new();
        let padding = [0, 40, 300, 6_000][io.rng.below(4)];
        for _ in 0..=io.rng.below(4) {
            let record = RecordId { client, life, number: self.numbers };
            let value = crate::oracle::value(record, padding);
            builder.append::<&[u8], &[u8]>(io.wall_ms, None, Some(&value), &[]).map_err(|error| error.to_string())?;
            io.oracle.logs.sent(self.place, record, value);
            ids.push(record);
            self.numbers += 1;
        }
        let stamp = Stamp { producer_id: id.0, producer_epoch: id.1, base_sequence: self.sequence };
        self.sequence += builder.count();
        let bytes = builder.build(stamp).map_err(|error| error.to_string())?;
        Ok(Batch { bytes, ids, sent: None, tried: false })
    }
}

impl Client for Producer {
    fn connected(&mut self, io: &mut Io<'_>) {
        if !io.calm && io.rng.chance(10) {
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
            Asked::Produce(parts) => {
                let response = receive::<ProduceRequest>(&frame, PRODUCE, correlation)?;
                let life = self.life;
                for index in parts {
                    let (topic, partition) = self.partitions[index].place;
                    let answers = response.responses.iter().filter(|t| t.name.as_str() == topic);
                    let answer = answers.flat_map(|t| &t.partition_responses).find(|p| p.index == partition);
                    let Some(answer) = answer else { return Err(format!("{topic}-{partition} was not answered")) };
                    if self.life == life {
                        self.produced(io, index, answer)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn closed(&mut self, _: &mut Io<'_>, node: usize) {
        self.open.remove(&node);
        self.view.doubt();
        for batch in self.partitions.iter_mut().flat_map(|partition| &mut partition.batches) {
            if batch.sent == Some(node) {
                batch.sent = None;
                batch.tried = true;
            }
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        let verdict = match self.id {
            None if self.is_asking() => Ok(()),
            None => self.init(io),
            Some(_) if !self.view.is_fresh() && !self.is_asking() && io.rng.chance(50) => {
                self.view.ask(io, &mut self.wire).map(|(node, correlation)| self.asked(node, correlation, Asked::View))
            }
            Some(id) => self.produce(io, id),
        };
        io.oracle.judge(verdict);
    }

    fn may_haunt(&self) -> bool {
        true
    }

    fn is_done(&self, _: &Oracle) -> bool {
        self.left == 0
            && self.open.values().all(VecDeque::is_empty)
            && self.partitions.iter().all(|p| p.batches.is_empty())
    }

    fn state(&self) -> String {
        let waiting: usize = self.partitions.iter().map(|p| p.batches.len()).sum();
        format!(
            "producer {} ({:?}): id {:?}, {} batches to make, {waiting} not acknowledged, {:?}",
            self.client, self.acks, self.id, self.left, self.view
        )
    }

    fn look_again(&mut self) {}
}
