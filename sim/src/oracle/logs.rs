//! Records: none acknowledged is lost, none is invented, none comes twice, and each producer's stay in their order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Verdict;

/// Who made a record, and which of theirs it is in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordId {
    pub(crate) client: u32,
    /// A producer that gives up what it has not been told is another one.
    pub(crate) life: u32,
    pub(crate) number: u64,
}

/// A topic's name and a partition.
pub(crate) type Place = (&'static str, i32);

#[derive(Debug, Default)]
struct Partition {
    sent: BTreeMap<RecordId, Bytes>,
    /// By offset: what was acknowledged there or read from there.
    known: BTreeMap<i64, RecordId>,
    /// By offset: the end of a transaction, whose, and whether it committed.
    markers: BTreeMap<i64, (i64, bool)>,
    offsets: BTreeMap<RecordId, i64>,
    /// Producers, in a life of theirs, whose first records may be lost though they were told of: a leader that knows nothing of a
    /// producer takes any number as its first.
    losing: BTreeSet<(u32, u32)>,
    acknowledged: u64,
    /// All below was seen by readers, or is acknowledged.
    end: i64,
    /// By leader epoch: who leads, as clients were told.
    leaders: BTreeMap<i32, i32>,
    /// By leader epoch: the highest high watermark and last stable offset that a reader was told.
    told: BTreeMap<i32, (i64, i64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogOracle {
    partitions: BTreeMap<Place, Partition>,
    /// Whether leadership can move to another node.
    clustered: bool,
}

impl LogOracle {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { partitions: BTreeMap::new(), clustered: nodes > 1 }
    }

    /// A client was told who leads a partition in an epoch.
    pub(crate) fn leads(&mut self, place: Place, epoch: i32, node: i32) -> Verdict {
        let partition = self.partitions.entry(place).or_default();
        match partition.leaders.insert(epoch, node) {
            Some(other) if other != node => Err(format!("{place:?}: {other} and {node} both lead in epoch {epoch}")),
            Some(_) | None => Ok(()),
        }
    }

    /// A reader was told of this high watermark and this last stable offset.
    pub(crate) fn visible(&mut self, place: Place, epoch: i32, high_watermark: i64, last_stable: i64) {
        let known = self.partitions.entry(place).or_default().told.entry(epoch).or_default();
        *known = (high_watermark.max(known.0), last_stable.max(known.1));
    }

    /// The high watermark and the last stable offset that whoever asks the leader of this epoch from now on must be told
    /// at least. Of a deposed leader nothing more than what it said itself; where there is one node, all that is known.
    pub(crate) fn floor(&self, place: Place, epoch: i32) -> (i64, i64) {
        let Some(partition) = self.partitions.get(&place) else { return (0, 0) };
        let (high_watermark, last_stable) = partition.told.get(&epoch).copied().unwrap_or_default();
        (if self.clustered { high_watermark } else { high_watermark.max(partition.end) }, last_stable)
    }

    /// Leader epochs that clients were told of.
    pub(crate) fn epochs(&self) -> u64 {
        self.partitions.values().map(|partition| partition.leaders.len() as u64).sum()
    }

    /// The node says that its own disk has this record (`acks=1`): where there is another one, it may be lost.
    pub(crate) fn written(&mut self, place: Place, id: RecordId, offset: i64) -> Verdict {
        if !self.clustered {
            return self.acknowledged(place, id, offset);
        }
        let partition = self.partitions.entry(place).or_default();
        partition.acknowledged += 1;
        partition.losing.insert((id.client, id.life));
        Ok(())
    }

    pub(crate) fn expect(&mut self, place: Place) {
        self.partitions.entry(place).or_default();
    }

    /// A producer is about to send this.
    pub(crate) fn sent(&mut self, place: Place, id: RecordId, value: Bytes) {
        self.partitions.entry(place).or_default().sent.insert(id, value);
    }

    /// The node says that this record is durable at this offset.
    pub(crate) fn acknowledged(&mut self, place: Place, id: RecordId, offset: i64) -> Verdict {
        let partition = self.partitions.entry(place).or_default();
        partition.acknowledged += 1;
        partition.learn(place, id, offset)
    }

    /// A reader was given this record; gives which it is.
    pub(crate) fn read(&mut self, place: Place, offset: i64, value: &[u8]) -> Result<RecordId, String> {
        let partition = self.partitions.entry(place).or_default();
        let Some(id) = parse(value) else { return Err(format!("{place:?}: no producer's record at offset {offset}")) };
        match partition.sent.get(&id) {
            None => return Err(format!("{place:?}: {id:?} at offset {offset} was never sent")),
            Some(sent) if sent != value => {
                return Err(format!("{place:?}: {id:?} at offset {offset} is not as it was sent"));
            }
            Some(_) => {}
        }
        partition.learn(place, id, offset)?;
        Ok(id)
    }

    /// A reader came past the end of a transaction: whose, and whether it committed.
    pub(crate) fn marker(&mut self, place: Place, offset: i64, marker: (i64, bool)) -> Verdict {
        let partition = self.partitions.entry(place).or_default();
        if let Some(id) = partition.known.get(&offset) {
            return Err(format!("{place:?}: offset {offset} was {id:?} and is the end of a transaction"));
        }
        let known = partition.markers.insert(offset, marker);
        if known.is_some_and(|known| known != marker) {
            return Err(format!("{place:?}: offset {offset} was the end {known:?} and is {marker:?}"));
        }
        partition.end = partition.end.max(offset + 1);
        Ok(())
    }

    /// All below this offset must be there for whoever asks from now on.
    pub(crate) fn end(&self, place: Place) -> i64 {
        self.partitions.get(&place).map_or(0, |partition| partition.end)
    }

    /// See [`LogOracle::end`].
    pub(crate) fn ends(&self) -> Vec<(Place, i64)> {
        self.partitions.iter().map(|(place, partition)| (*place, partition.end)).collect()
    }

    pub(crate) fn totals(&self) -> (u64, u64) {
        let acknowledged = self.partitions.values().map(|p| p.acknowledged).sum();
        (acknowledged, self.partitions.values().map(|p| p.known.len() as u64).sum())
    }

    /// When every partition has been read from its start to its end: contiguous, and each producer's records in order
    /// and without a gap.
    pub(crate) fn judge_whole(&self) -> Verdict {
        for (place, partition) in &self.partitions {
            partition.judge_whole(*place)?;
        }
        Ok(())
    }
}

impl Partition {
    fn learn(&mut self, place: Place, id: RecordId, offset: i64) -> Verdict {
        if let Some(other) = self.known.insert(offset, id)
            && other != id
        {
            return Err(format!("{place:?}: offset {offset} was {other:?} and is {id:?}"));
        }
        if let Some(marker) = self.markers.get(&offset) {
            return Err(format!("{place:?}: offset {offset} was the end {marker:?} of a transaction and is {id:?}"));
        }
        if let Some(other) = self.offsets.insert(id, offset)
            && other != offset
        {
            return Err(format!("{place:?}: {id:?} is at offset {other} and at offset {offset}: a duplicate"));
        }
        self.end = self.end.max(offset + 1);
        Ok(())
    }

    fn judge_whole(&self, place: Place) -> Verdict {
        let mut next: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        let offsets: BTreeSet<i64> = self.known.keys().chain(self.markers.keys()).copied().collect();
        if let Some((expected, offset)) = (0..).zip(&offsets).find(|(expected, offset)| expected != *offset) {
            return Err(format!("{place:?}: nothing at offset {expected}, the next is at {offset}"));
        }
        for (offset, id) in &self.known {
            let who = (id.client, id.life);
            let first = if self.losing.contains(&who) { id.number } else { 0 };
            let next = next.entry(who).or_insert(first);
            if id.number != *next {
                return Err(format!("{place:?}: {id:?} at offset {offset} where number {next} should be"));
            }
            *next += 1;
        }
        Ok(())
    }
}

const HEADER: usize = 16;

/// A record's value: who made it, and bytes that nobody else would make.
pub(crate) fn value(id: RecordId, padding: usize) -> Bytes {
    let mut out = Vec::with_capacity(HEADER + padding);
    out.extend(id.client.to_be_bytes());
    out.extend(id.life.to_be_bytes());
    out.extend(id.number.to_be_bytes());
    let mut state = u64::from(id.client) << 40 ^ u64::from(id.life) << 32 ^ id.number;
    for _ in 0..padding {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Half of it compresses.
        out.push(if state >> 63 == 0 { b'w' } else { state.to_be_bytes()[0] });
    }
    out.into()
}

fn parse(value: &[u8]) -> Option<RecordId> {
    let (client, rest) = value.split_first_chunk()?;
    let (life, rest) = rest.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some(RecordId {
        client: u32::from_be_bytes(*client),
        life: u32::from_be_bytes(*life),
        number: u64::from_be_bytes(*number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = ("t", 0);

    fn id(number: u64) -> RecordId {
        RecordId { client: 1, life: 2, number }
    }

    fn oracle(sent: u64) -> LogOracle {
        let mut oracle = LogOracle::new(3);
        (0..sent).for_each(|n| oracle.sent(PLACE, id(n), value(id(n), 5)));
        oracle
    }

    #[test]
    fn what_is_right_passes() {
        let mut oracle = oracle(2);
        assert_eq!(oracle.acknowledged(PLACE, id(0), 0), Ok(()));
        assert_eq!(oracle.read(PLACE, 0, &value(id(0), 5)), Ok(id(0)));
        assert_eq!(oracle.read(PLACE, 1, &value(id(1), 5)), Ok(id(1)));
        assert_eq!((oracle.end(PLACE), oracle.judge_whole()), (2, Ok(())));
        assert_eq!(oracle.marker(PLACE, 2, (7, true)), Ok(()));
        assert_eq!((oracle.end(PLACE), oracle.judge_whole()), (3, Ok(())));
    }

    #[test]
    fn an_epoch_has_one_leader_and_a_high_watermark_that_does_not_go_back() {
        let mut oracle = oracle(0);
        assert_eq!(oracle.leads(PLACE, 4, 1), Ok(()));
        assert_eq!(oracle.leads(PLACE, 4, 1), Ok(()));
        assert!(oracle.leads(PLACE, 4, 2).is_err());
        assert_eq!(oracle.leads(PLACE, 5, 2), Ok(()));
        oracle.visible(PLACE, 4, 9, 7);
        assert_eq!((oracle.floor(PLACE, 4), oracle.floor(PLACE, 5)), ((9, 7), (0, 0)));
    }

    #[test]
    fn what_only_a_leader_wrote_may_be_lost() {
        let mut oracle = oracle(1);
        assert_eq!(oracle.written(PLACE, id(0), 0), Ok(()));
        assert_eq!((oracle.end(PLACE), oracle.judge_whole()), (0, Ok(())));
    }

    #[test]
    fn every_wrong_is_seen() {
        let mut lost = oracle(2);
        assert_eq!(lost.acknowledged(PLACE, id(0), 0), Ok(()));
        assert!(lost.read(PLACE, 0, &value(id(1), 5)).is_err(), "another record where one was acknowledged");
        let mut invented = oracle(1);
        assert!(invented.read(PLACE, 0, &value(id(7), 5)).is_err());
        assert!(invented.read(PLACE, 0, b"short").is_err());
        let mut changed = oracle(1);
        assert!(changed.read(PLACE, 0, &value(id(0), 4)).is_err());
        let mut twice = oracle(1);
        assert_eq!(twice.read(PLACE, 0, &value(id(0), 5)), Ok(id(0)));
        assert!(twice.read(PLACE, 1, &value(id(0), 5)).is_err());
        let mut ended = oracle(1);
        assert_eq!(ended.marker(PLACE, 0, (7, true)), Ok(()));
        assert!(ended.marker(PLACE, 0, (7, false)).is_err(), "another end");
        assert!(ended.acknowledged(PLACE, id(0), 0).is_err(), "a record where an end was");
        let mut gap = oracle(2);
        assert_eq!(gap.acknowledged(PLACE, id(0), 1), Ok(()));
        assert!(gap.judge_whole().is_err());
        let mut disordered = oracle(2);
        assert_eq!(disordered.acknowledged(PLACE, id(1), 0), Ok(()));
        assert_eq!(disordered.acknowledged(PLACE, id(0), 1), Ok(()));
        assert!(disordered.judge_whole().is_err());
    }
}
