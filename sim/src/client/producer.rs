//! An idempotent producer: up to five requests on their way, several partitions each, and no batch given up.

use std::collections::VecDeque;

use bytes::Bytes;
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::produce_response::PartitionProduceResponse;
use wherry_wire::codec::messages::{InitProducerIdRequest, ProduceRequest};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp};

use super::{Client, Io, Wire, is_retriable, receive, topic_name};
use crate::oracle::{Oracle, RecordId};

const INIT: i16 = 4;
const PRODUCE: i16 = 9;
/// KIP-98: what a producer may have on its way without losing its order.
const IN_FLIGHT: usize = 5;
const OUT_OF_ORDER: i16 = 45;

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    ids: Vec<RecordId>,
    sent: bool,
}

#[derive(Debug)]
struct Partition {
    topic: &'static str,
    partition: i32,
    /// Not acknowledged, in order.
    batches: VecDeque<Batch>,
    numbers: u64,
    sequence: i32,
    /// A batch was refused for now: those behind it are refused as out of order.
    disturbed: bool,
}

#[derive(Debug)]
enum Asked {
    Init,
    /// The partitions whose oldest sent batches these are.
    Produce(Vec<usize>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Producer {
    client: u32,
    life: u32,
    wire: Wire,
    id: Option<(i64, i16)>,
    open: VecDeque<(i32, Asked)>,
    partitions: Vec<Partition>,
    left: u32,
}

impl Producer {
    pub(crate) fn new(client: u32, places: &[(&'static str, i32)], batches: u32) -> Self {
        let partitions = places.iter().map(|(topic, partition)| Partition {
            topic,
            partition: *partition,
            batches: VecDeque::new(),
            numbers: 0,
            sequence: 0,
            disturbed: false,
        });
        let (wire, open) = (Wire::default(), VecDeque::new());
        Self { client, life: 0, wire, id: None, open, partitions: partitions.collect(), left: batches }
    }

    fn init(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1_000);
        let correlation = self.wire.send(io, INIT, &request)?;
        self.open.push_back((correlation, Asked::Init));
        Ok(())
    }

    /// The process ends and another begins, under another id: it does not know what became of the last batches.
    fn begin_anew(&mut self) {
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
        let mut request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000);
        let mut parts = Vec::new();
        let start = io.rng.below(self.partitions.len());
        let wanted = 1 + io.rng.below(3);
        for step in 0..self.partitions.len() {
            let index = (start + step) % self.partitions.len();
            if parts.len() < wanted && self.has_batch(io, index, id)? {
                parts.push(index);
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        for index in &parts {
            let partition = &mut self.partitions[*index];
            let Some(batch) = partition.batches.iter_mut().find(|batch| !batch.sent) else { continue };
            batch.sent = true;
            let data =
                PartitionProduceData::default().with_index(partition.partition).with_records(Some(batch.bytes.clone()));
            let name = topic_name(partition.topic);
            match request.topic_data.iter_mut().find(|topic| topic.name == name) {
                Some(topic) => topic.partition_data.push(data),
                None => {
                    let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
                    request.topic_data.push(topic);
                }
            }
        }
        let correlation = self.wire.send(io, PRODUCE, &request)?;
        self.open.push_back((correlation, Asked::Produce(parts)));
        Ok(())
    }

    /// Whether a partition has something to send; makes a new batch if it may.
    fn has_batch(&mut self, io: &mut Io<'_>, index: usize, id: (i64, i16)) -> Result<bool, String> {
        let partition = &mut self.partitions[index];
        if partition.disturbed {
            // One by one, until all is in order again.
            let on_its_way = partition.batches.iter().any(|batch| batch.sent);
            return Ok(!on_its_way && !partition.batches.is_empty());
        }
        if partition.batches.iter().any(|batch| !batch.sent) {
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
        let place = (partition.topic, partition.partition);
        let Some(at) = partition.batches.iter().position(|batch| batch.sent) else {
            return Err(format!("{place:?}: an answer to no batch"));
        };
        match response.error_code {
            0 if at == 0 => {
                let Some(batch) = partition.batches.pop_front() else { return Ok(()) };
                for (offset, id) in (response.base_offset..).zip(batch.ids) {
                    io.oracle.logs.acknowledged(place, id, offset)?;
                }
                partition.disturbed &= !partition.batches.is_empty();
                Ok(())
            }
            0 => Err(format!("{place:?}: a batch was taken though one before it was not")),
            OUT_OF_ORDER if partition.disturbed => {
                partition.batches[at].sent = false;
                Ok(())
            }
            code if is_retriable(code) => {
                partition.disturbed = true;
                partition.batches[at].sent = false;
                Ok(())
            }
            code => Err(format!("{place:?}: client {} was refused with {code}", self.client)),
        }
    }
}

impl Partition {
    fn make(&mut self, io: &mut Io<'_>, client: u32, life: u32, id: (i64, i16)) -> Result<Batch, String> {
        let codec = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip][io.rng.below(6)];
        let mut builder = BatchBuilder::new(codec, None);
        let mut ids = Vec::new();
        let padding = [0, 40, 300, 6_000][io.rng.below(4)];
        for _ in 0..=io.rng.below(4) {
            let record = RecordId { client, life, number: self.numbers };
            let value = crate::oracle::value(record, padding);
            builder.append::<&[u8], &[u8]>(io.wall_ms, None, Some(&value), &[]).map_err(|error| error.to_string())?;
            io.oracle.logs.sent((self.topic, self.partition), record, value);
            ids.push(record);
            self.numbers += 1;
        }
        let stamp = Stamp { producer_id: id.0, producer_epoch: id.1, base_sequence: self.sequence };
        self.sequence += builder.count();
        let bytes = builder.build(stamp).map_err(|error| error.to_string())?;
        Ok(Batch { bytes, ids, sent: false })
    }
}

impl Client for Producer {
    fn connected(&mut self, io: &mut Io<'_>) {
        if !io.calm && io.rng.chance(10) {
            self.begin_anew();
        }
    }

    fn frame(&mut self, io: &mut Io<'_>, frame: Bytes) -> Result<(), String> {
        let Some((correlation, asked)) = self.open.pop_front() else { return Err("a response to nothing".into()) };
        match asked {
            Asked::Init => {
                let response = receive::<InitProducerIdRequest>(&frame, INIT, correlation)?;
                match response.error_code {
                    0 => {
                        io.oracle.producer_id(response.producer_id.0);
                        self.id = Some((response.producer_id.0, response.producer_epoch));
                        Ok(())
                    }
                    code if is_retriable(code) => Ok(()),
                    code => Err(format!("InitProducerId failed with {code}")),
                }
            }
            Asked::Produce(parts) => {
                let response = receive::<ProduceRequest>(&frame, PRODUCE, correlation)?;
                for index in parts {
                    let (topic, partition) = (self.partitions[index].topic, self.partitions[index].partition);
                    let answers = response.responses.iter().filter(|t| t.name.as_str() == topic);
                    let answer = answers.flat_map(|t| &t.partition_responses).find(|p| p.index == partition);
                    let Some(answer) = answer else { return Err(format!("{topic}-{partition} was not answered")) };
                    self.produced(io, index, answer)?;
                }
                Ok(())
            }
        }
    }

    fn closed(&mut self, _: &mut Io<'_>) {
        self.open.clear();
        for partition in &mut self.partitions {
            partition.batches.iter_mut().for_each(|batch| batch.sent = false);
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        let verdict = match self.id {
            None if self.open.is_empty() => self.init(io),
            None => Ok(()),
            Some(id) if self.open.len() < IN_FLIGHT => self.produce(io, id),
            Some(_) => Ok(()),
        };
        io.oracle.judge(verdict);
    }

    fn is_done(&self, _: &Oracle) -> bool {
        self.left == 0 && self.open.is_empty() && self.partitions.iter().all(|p| p.batches.is_empty())
    }

    fn state(&self) -> String {
        let waiting: usize = self.partitions.iter().map(|p| p.batches.len()).sum();
        format!("producer {}: id {:?}, {} batches to make, {waiting} not acknowledged", self.client, self.id, self.left)
    }

    fn look_again(&mut self) {}
}
