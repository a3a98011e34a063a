//! Reads every partition from the start, again and again, and believes nothing.

use bytes::Bytes;
use wherry_wire::batch;
use wherry_wire::codec::messages::FetchRequest;
use wherry_wire::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use wherry_wire::codec::messages::fetch_response::PartitionData;
use wherry_wire::records::records;

use super::{Client, Io, Wire, is_retriable, receive, topic_name};
use crate::oracle::Oracle;

const FETCH: i16 = 11;
const MAX_BATCH_BYTES: usize = 1 << 20;
const OUT_OF_RANGE: i16 = 1;

#[derive(Debug)]
struct Partition {
    topic: &'static str,
    partition: i32,
    next: i64,
    /// Read to the end since it was told to look again.
    whole: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reader {
    wire: Wire,
    partitions: Vec<Partition>,
    /// The request on its way, its partitions and what must be visible to it at least.
    open: Option<(i32, Vec<(usize, i64)>)>,
}

/// What one partition's part of a fetch gave: offset and value of every record from `next` on.
pub(crate) fn visible(data: &PartitionData, next: i64) -> Result<Vec<(i64, Bytes)>, String> {
    let mut out = Vec::new();
    for raw in batch::split(data.records.clone().unwrap_or_default()) {
        let checked = raw.and_then(batch::RawBatch::check).map_err(|error| error.to_string())?;
        let set = records(checked.header(), checked.bytes(), MAX_BATCH_BYTES).map_err(|error| error.to_string())?;
        let base = checked.header().base_offset.0;
        for record in &set {
            let record = record.map_err(|error| error.to_string())?;
            let offset = base + i64::from(record.offset_delta);
            if offset >= data.high_watermark {
                return Err(format!("record {offset} is visible above the high watermark {}", data.high_watermark));
            }
            // A fetch into the middle of a batch gives the whole batch.
            if offset >= next {
                out.push((offset, Bytes::copy_from_slice(record.value.unwrap_or_default())));
            }
        }
    }
    Ok(out)
}

/// A fetch of these partitions.
pub(crate) fn fetch(io: &mut Io<'_>, places: impl Iterator<Item = (&'static str, i32, i64)>) -> FetchRequest {
    let mut request = FetchRequest::default()
        .with_max_wait_ms([0, 20, 300][io.rng.below(3)])
        .with_min_bytes([0, 1, 1, 2_000][io.rng.below(4)])
        .with_max_bytes([1, 10_000, 1 << 20][io.rng.below(3)])
        .with_session_epoch(-1);
    for (topic, partition, next) in places {
        let bytes = [1, 4_000, 1 << 20][io.rng.below(3)];
        let part = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(next)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(bytes);
        let name = topic_name(topic);
        match request.topics.iter_mut().find(|t| t.topic == name) {
            Some(t) => t.partitions.push(part),
            None => request.topics.push(FetchTopic::default().with_topic(name).with_partitions(vec![part])),
        }
    }
    request
}

impl Reader {
    pub(crate) fn new(places: &[(&'static str, i32)]) -> Self {
        let new = |(topic, partition): &(&'static str, i32)| Partition {
            topic,
            partition: *partition,
            next: 0,
            whole: false,
        };
        Self { wire: Wire::default(), partitions: places.iter().map(new).collect(), open: None }
    }

    fn ask(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let one = io.rng.chance(30);
        let chosen = io.rng.below(self.partitions.len());
        let wanted = |index: &usize| !one || *index == chosen;
        let indexes: Vec<usize> = (0..self.partitions.len()).filter(wanted).collect();
        let floor = |index: usize| {
            let partition = &self.partitions[index];
            (index, io.oracle.logs.end((partition.topic, partition.partition)))
        };
        let floors = indexes.iter().map(|index| floor(*index)).collect();
        let places = indexes.iter().map(|index| &self.partitions[*index]);
        let request = fetch(io, places.map(|p| (p.topic, p.partition, p.next)));
        self.open = Some((self.wire.send(io, FETCH, &request)?, floors));
        Ok(())
    }

    fn take(&mut self, io: &mut Io<'_>, index: usize, floor: i64, data: &PartitionData) -> Result<(), String> {
        let partition = &mut self.partitions[index];
        let place = (partition.topic, partition.partition);
        match data.error_code {
            0 => {}
            OUT_OF_RANGE if partition.next > floor => {}
            code if is_retriable(code) => return Ok(()),
            code => return Err(format!("{place:?}: a fetch at {} failed with {code}", partition.next)),
        }
        if data.high_watermark < floor {
            return Err(format!("{place:?}: high watermark {} though {floor} was visible", data.high_watermark));
        }
        for (offset, value) in visible(data, partition.next)? {
            if offset != partition.next {
                return Err(format!("{place:?}: offset {offset} follows where {} should", partition.next));
            }
            io.oracle.logs.read(place, offset, &value)?;
            partition.next += 1;
        }
        partition.whole |= io.calm && partition.next >= io.oracle.logs.end(place).max(data.high_watermark);
        Ok(())
    }
}

impl Client for Reader {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, frame: Bytes) -> Result<(), String> {
        let Some((correlation, floors)) = self.open.take() else { return Err("a response to nothing".into()) };
        let response = receive::<FetchRequest>(&frame, FETCH, correlation)?;
        if response.error_code != 0 {
            return Err(format!("a fetch failed with {}", response.error_code));
        }
        for (index, floor) in floors {
            let (topic, partition) = (self.partitions[index].topic, self.partitions[index].partition);
            let answers = response.responses.iter().filter(|t| t.topic.as_str() == topic);
            let Some(data) = answers.flat_map(|t| &t.partitions).find(|p| p.partition_index == partition) else {
                return Err(format!("{topic}-{partition} was not answered"));
            };
            self.take(io, index, floor, data)?;
        }
        Ok(())
    }

    fn closed(&mut self, _: &mut Io<'_>) {
        self.open = None;
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if self.open.is_some() {
            return;
        }
        if !io.calm && io.rng.chance(5) {
            // Somebody else begins to read, somewhere.
            let index = io.rng.below(self.partitions.len());
            let next = usize::try_from(self.partitions[index].next).unwrap_or(0);
            self.partitions[index].next = i64::try_from(io.rng.below(next + 1)).unwrap_or(0);
        }
        let verdict = self.ask(io);
        io.oracle.judge(verdict);
    }

    fn is_done(&self, oracle: &Oracle) -> bool {
        let at_end = |p: &Partition| p.whole && p.next >= oracle.logs.end((p.topic, p.partition));
        self.partitions.iter().all(at_end)
    }

    fn state(&self) -> String {
        format!("reader: {:?}, open {:?}", self.partitions, self.open)
    }

    fn look_again(&mut self) {
        for partition in &mut self.partitions {
            partition.next = 0;
            partition.whole = false;
        }
    }
}
