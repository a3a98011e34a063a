//! Reads every partition from the start, again and again, and believes nothing.

use bytes::Bytes;
use wherry_wire::codec::messages::FetchRequest;
use wherry_wire::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use wherry_wire::codec::messages::fetch_response::PartitionData;

use super::fetched::{Isolation, Seen, visible};
use super::view::Leader;
use super::{Client, Io, Topics, View, Wire, receive, topic_name};
use crate::oracle::{Oracle, Place};

/// The last version that only leaders answer.
pub(crate) const FETCH: i16 = 10;
/// From here on any replica answers (KIP-392).
const FETCH_ANYWHERE: i16 = 11;
const OUT_OF_RANGE: i16 = 1;

#[derive(Debug)]
struct Partition {
    place: Place,
    next: i64,
    /// Read to the end since it was told to look again.
    whole: bool,
}

/// A partition that was asked for, the epoch it was asked in, and what must be visible at least.
#[derive(Debug)]
struct Part {
    index: usize,
    epoch: i32,
    floor: Floor,
}

/// What a leader has said before: it does not go back behind that.
#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    high_watermark: i64,
    last_stable: i64,
}

#[derive(Debug)]
enum Asked {
    View,
    Fetch(Vec<Part>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Reads from any replica, not from leaders alone.
    anywhere: bool,
    isolation: Isolation,
    wire: Wire,
    view: View,
    partitions: Vec<Partition>,
    /// The request on its way, and where.
    open: Option<(usize, i32, Asked)>,
}

/// A fetch of these partitions from these offsets, each in an epoch.
pub(crate) fn fetch(
    io: &mut Io<'_>,
    isolation: Isolation,
    places: impl Iterator<Item = (Place, i64, i32)>,
) -> FetchRequest {
    let mut request = FetchRequest::default()
        .with_isolation_level(isolation.level())
        .with_max_wait_ms([0, 20, 300][io.rng.below(3)])
        .with_min_bytes([0, 1, 1, 2_000][io.rng.below(4)])
        .with_max_bytes([1, 10_000, 1 << 20][io.rng.below(3)])
        .with_session_epoch(-1);
    for ((topic, partition), next, epoch) in places {
        let bytes = [1, 4_000, 1 << 20][io.rng.below(3)];
        let part = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(next)
            .with_current_leader_epoch(epoch)
            .with_partition_max_bytes(bytes);
        let name = topic_name(topic);
        match request.topics.iter_mut().find(|t| t.topic == name) {
            Some(t) => t.partitions.push(part),
            None => request.topics.push(FetchTopic::default().with_topic(name).with_partitions(vec![part])),
        }
    }
    request
}

fn floor(io: &Io<'_>, place: Place, epoch: i32) -> Floor {
    let (high_watermark, last_stable) = io.oracle.logs.floor(place, epoch);
    Floor { high_watermark, last_stable }
}

impl Floor {
    fn judge(self, data: &PartitionData) -> Result<(), String> {
        if data.high_watermark < self.high_watermark {
            return Err(format!("high watermark {} though {} was visible", data.high_watermark, self.high_watermark));
        }
        if data.last_stable_offset < self.last_stable {
            return Err(format!("last stable offset {} though {} was", data.last_stable_offset, self.last_stable));
        }
        Ok(())
    }
}

/// Tells the oracles what lies at an offset.
pub(crate) fn saw(
    oracle: &mut Oracle,
    place: Place,
    offset: i64,
    seen: &Seen,
    isolation: Isolation,
) -> Result<(), String> {
    match seen {
        Seen::Marker(marker) => oracle.logs.marker(place, offset, (marker.producer_id, marker.commit)),
        Seen::Aborted(value) => {
            let id = oracle.logs.read(place, offset, value)?;
            oracle.transactions.skipped(place, offset, id)
        }
        Seen::Record(value) => {
            let id = oracle.logs.read(place, offset, value)?;
            match isolation {
                Isolation::Committed => oracle.transactions.read(place, offset, id),
                Isolation::Uncommitted => Ok(()),
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(topics: Topics, anywhere: bool, isolation: Isolation) -> Self {
        let places = topics.places();
        let partitions = places.iter().map(|place| Partition { place: *place, next: 0, whole: false }).collect();
        Self { anywhere, isolation, wire: Wire::default(), view: View::of(topics), partitions, open: None }
    }

    fn version(&self) -> i16 {
        if self.anywhere { FETCH_ANYWHERE } else { FETCH }
    }

    fn ask(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if !self.view.is_fresh() && io.rng.chance(50) {
            let (node, correlation) = self.view.ask(io, &mut self.wire)?;
            self.open = Some((node, correlation, Asked::View));
            return Ok(());
        }
        let one = io.rng.chance(30);
        let chosen = io.rng.below(self.partitions.len());
        let Some(Leader { node, .. }) = self.view.leader(self.partitions[chosen].place) else { return Ok(()) };
        let node = if self.anywhere { io.any_node() } else { node };
        let mut parts = Vec::new();
        for (index, partition) in self.partitions.iter().enumerate() {
            let leader = self.view.leader(partition.place).filter(|leader| self.anywhere || leader.node == node);
            if let Some(Leader { epoch, .. }) = leader.filter(|_| !one || index == chosen) {
                // A follower may know of less than its leader.
                let floor = if self.anywhere { Floor::default() } else { floor(io, partition.place, epoch) };
                parts.push(Part { index, epoch, floor });
            }
        }
        let places = parts.iter().map(|part| (&self.partitions[part.index], part.epoch));
        let request = fetch(io, self.isolation, places.map(|(p, epoch)| (p.place, p.next, epoch)));
        self.open = Some((node, self.wire.send(io, node, self.version(), &request)?, Asked::Fetch(parts)));
        Ok(())
    }

    fn take(&mut self, io: &mut Io<'_>, part: &Part, data: &PartitionData) -> Result<(), String> {
        let partition = &mut self.partitions[part.index];
        let (place, floor) = (partition.place, part.floor);
        match data.error_code {
            0 => {}
            // A consumer asks the leader then.
            OUT_OF_RANGE if self.anywhere => return Ok(()),
            code if io.is_retriable(code) => {
                self.view.doubt();
                return Ok(());
            }
            code => return Err(format!("{place:?}: a fetch at {} failed with {code}", partition.next)),
        }
        floor.judge(data).map_err(|what| format!("{place:?} in epoch {}: {what}", part.epoch))?;
        if !self.anywhere {
            io.oracle.logs.visible(place, part.epoch, data.high_watermark, data.last_stable_offset);
        }
        for (offset, seen) in
            visible(data, partition.next, self.isolation).map_err(|what| format!("{place:?}: {what}"))?
        {
            if offset != partition.next {
                return Err(format!("{place:?}: offset {offset} follows where {} should", partition.next));
            }
            saw(io.oracle, place, offset, &seen, self.isolation)?;
            partition.next += 1;
        }
        // Once all is over, no transaction is open.
        let is_stable = data.last_stable_offset >= data.high_watermark;
        partition.whole |= io.calm && is_stable && partition.next >= io.oracle.logs.end(place).max(data.high_watermark);
        Ok(())
    }

    fn fetched(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32, parts: &[Part]) -> Result<(), String> {
        let response = receive::<FetchRequest>(frame, self.version(), correlation)?;
        if response.error_code != 0 {
            return Err(format!("a fetch failed with {}", response.error_code));
        }
        for part in parts {
            let (topic, partition) = self.partitions[part.index].place;
            let answers = response.responses.iter().filter(|t| t.topic.as_str() == topic);
            let Some(data) = answers.flat_map(|t| &t.partitions).find(|p| p.partition_index == partition) else {
                return Err(format!("{topic}-{partition} was not answered"));
            };
            self.take(io, part, data)?;
        }
        Ok(())
    }
}

impl Client for Reader {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, _: usize, frame: Bytes) -> Result<(), String> {
        match self.open.take() {
            None => Err("a response to nothing".into()),
            Some((_, correlation, Asked::View)) => self.view.learn(io, &frame, correlation),
            Some((_, correlation, Asked::Fetch(parts))) => self.fetched(io, &frame, correlation, &parts),
        }
    }

    fn closed(&mut self, _: &mut Io<'_>, node: usize) {
        self.view.doubt();
        if self.open.as_ref().is_some_and(|(at, _, _)| *at == node) {
            self.open = None;
        }
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
        let at_end = |p: &Partition| p.whole && p.next >= oracle.logs.end(p.place);
        self.partitions.iter().all(at_end)
    }

    fn state(&self) -> String {
        format!("reader ({:?}): {:?}, open {:?}", self.isolation, self.partitions, self.open)
    }

    fn look_again(&mut self) {
        for partition in &mut self.partitions {
            partition.next = 0;
            partition.whole = false;
        }
    }
}
