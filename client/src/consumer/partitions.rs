//! The partitions that a consumer reads: positions, what is fetched ahead, what is paused. Pure: the fetcher and `poll` drive it.
//!
//! ```text
//!            located          batches queued           handed out
//! Unlocated ────────▶ At ─── fetch_offset ──▶ queue ──▶ position
//!     ▲               │
//!     └─ reset ───────┘ (out of range)        Stuck: waits for a seek
//! ```
//! Every seek, reset and assignment gives a partition a new `epoch`; what was asked for under an older one is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use wherry_wire::batch::RawBatch;

use super::decode::Decoded;
use crate::record::TopicPartition;

/// How far a partition's place in its log is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Not known: the committed offset is to be asked for, or the reset policy applied (`committed` false).
    Unlocated { committed: bool },
    /// Someone is asking.
    Locating,
    /// Known.
    At,
    /// Nothing more until a seek: the application was told why.
    Stuck,
}

/// Something fetched and not yet looked into.
#[derive(Debug)]
pub(super) struct Fetched {
    /// `None`: records that are not for the application (aborted, control); only the position moves.
    pub(super) batch: Option<RawBatch>,
    pub(super) next_offset: i64,
    pub(super) bytes: usize,
}

/// One partition.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) epoch: u64,
    /// Generation in which it was assigned; owned without a break since.
    pub(super) since_generation: i32,
    pub(super) place: Place,
    /// Next offset to fetch.
    pub(super) fetch_offset: i64,
    /// Next offset to hand out.
    pub(super) position: i64,
    pub(super) paused: bool,
    /// About to be given up: nothing more is handed out.
    pub(super) revoking: bool,
    pub(super) fetching: bool,
    pub(super) queue: VecDeque<Fetched>,
    pub(super) queued_bytes: usize,
    /// A batch that is being handed out.
    pub(super) current: Option<Box<Decoded>>,
    pub(super) high_watermark: Option<i64>,
    pub(super) not_before: Option<Instant>,
    pub(super) failures: u32,
    /// Where the group had left off, and what it had committed beside that.
    pub(super) resumed: Option<(i64, Arc<str>)>,
}

impl Reading {
    fn new(epoch: u64, since_generation: i32) -> Self {
        Self {
            epoch,
            since_generation,
            place: Place::Unlocated { committed: true },
            fetch_offset: -1,
            position: -1,
            paused: false,
            revoking: false,
            fetching: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            current: None,
            high_watermark: None,
            not_before: None,
            failures: 0,
            resumed: None,
        }
    }

    fn has_records(&self) -> bool {
        let open = self.place == Place::At && !self.paused && !self.revoking;
        open && (self.current.is_some() || !self.queue.is_empty())
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    pub(super) by_place: BTreeMap<TopicPartition, Reading>,
    /// Bytes queued, all together.
    pub(super) queued_bytes: usize,
    next_epoch: u64,
    /// Whose turn it was; the next poll begins behind it.
    last: Option<TopicPartition>,
}

impl Partitions {
    fn fresh_epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }

    /// Reads exactly these from now on; those that stay keep their place.
    pub(super) fn set(&mut self, partitions: &[TopicPartition], generation: i32) {
        let gone: Vec<_> = self.by_place.keys().filter(|at| !partitions.contains(at)).cloned().collect();
        self.remove(&gone);
        for at in partitions {
            if !self.by_place.contains_key(at) {
                let reading = Reading::new(self.fresh_epoch(), generation);
                self.by_place.insert(at.clone(), reading);
            }
        }
    }

    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        for at in partitions {
            if let Some(reading) = self.by_place.remove(at) {
                self.queued_bytes -= reading.queued_bytes;
            }
        }
    }

    /// Continues at `offset`; false where the partition is not read.
    pub(super) fn seek(&mut self, at: &TopicPartition, offset: i64) -> bool {
        let epoch = self.fresh_epoch();
        let Some(reading) = self.by_place.get_mut(at) else { return false };
        self.queued_bytes -= reading.queued_bytes;
        let (paused, revoking, since) = (reading.paused, reading.revoking, reading.since_generation);
        *reading = Reading { paused, revoking, ..Reading::new(epoch, since) };
        reading.place = Place::At;
        reading.fetch_offset = offset;
        reading.position = offset;
        true
    }

    /// Forgets the place: it is located anew, by the reset policy alone.
    pub(super) fn lose_place(&mut self, at: &TopicPartition) {
        if self.seek(at, -1)
            && let Some(reading) = self.by_place.get_mut(at)
        {
            reading.place = Place::Unlocated { committed: false };
        }
    }

    /// The partition, if `epoch` is still in force.
    pub(super) fn in_epoch(&mut self, at: &TopicPartition, epoch: u64) -> Option<&mut Reading> {
        self.by_place.get_mut(at).filter(|reading| reading.epoch == epoch)
    }

    /// Queues what a fetch brought; `next_offset` is where the next one begins.
    pub(super) fn queue(&mut self, at: &TopicPartition, epoch: u64, fetched: Vec<Fetched>) {
        let Some(reading) = self.by_place.get_mut(at).filter(|r| r.epoch == epoch) else { return };
        for item in fetched {
            reading.fetch_offset = item.next_offset;
            reading.queued_bytes += item.bytes;
            self.queued_bytes += item.bytes;
            reading.queue.push_back(item);
        }
    }

    /// The next partition that has something to hand out, in turn.
    pub(super) fn next_ready(&self) -> Option<TopicPartition> {
        let ready = |(at, reading): (&TopicPartition, &Reading)| reading.has_records().then(|| at.clone());
        let behind = self.last.as_ref().and_then(|last| {
            let from = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.by_place.range::<TopicPartition, _>(from).find_map(ready)
        });
        behind.or_else(|| self.by_place.iter().find_map(ready))
    }

    /// Takes what is next of a partition: the batch that is being handed out, or the next one fetched.
    pub(super) fn take(&mut self, at: &TopicPartition) -> Option<Taken> {
        self.last = Some(at.clone());
        let reading = self.by_place.get_mut(at)?;
        if let Some(decoded) = reading.current.take() {
            return Some(Taken { epoch: reading.epoch, position: reading.position, what: Next::Decoded(decoded) });
        }
        let fetched = reading.queue.pop_front()?;
        reading.queued_bytes -= fetched.bytes;
        self.queued_bytes -= fetched.bytes;
        Some(Taken { epoch: reading.epoch, position: reading.position, what: Next::Fetched(fetched) })
    }

    /// After handing out: the new position, and what is left of the batch.
    pub(super) fn put_back(&mut self, at: &TopicPartition, epoch: u64, position: i64, rest: Option<Box<Decoded>>) {
        if let Some(reading) = self.in_epoch(at, epoch) {
            reading.position = position;
            reading.current = rest;
        }
    }
}

/// What [`Partitions::take`] took.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) epoch: u64,
    pub(super) position: i64,
    pub(super) what: Next,
}

/// Fresh from the wire, or already looked into.
#[derive(Debug)]
pub(super) enum Next {
    Fetched(Fetched),
    Decoded(Box<Decoded>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn gap(next_offset: i64, bytes: usize) -> Fetched {
        Fetched { batch: None, next_offset, bytes }
    }

    fn two() -> Partitions {
        let mut partitions = Partitions::default();
        partitions.set(&[at(0), at(1)], 1);
        assert!(partitions.seek(&at(0), 10) && partitions.seek(&at(1), 0));
        partitions
    }

    #[test]
    fn what_was_asked_before_a_seek_is_dropped() {
        let mut partitions = two();
        let epoch = partitions.by_place[&at(0)].epoch;
        partitions.queue(&at(0), epoch, vec![gap(20, 100)]);
        assert_eq!((partitions.queued_bytes, partitions.by_place[&at(0)].fetch_offset), (100, 20));
        partitions.seek(&at(0), 5);
        assert_eq!((partitions.queued_bytes, partitions.by_place[&at(0)].fetch_offset), (0, 5));
        partitions.queue(&at(0), epoch, vec![gap(30, 100)]);
        assert_eq!((partitions.queued_bytes, partitions.by_place[&at(0)].fetch_offset), (0, 5));
    }

    #[test]
    fn partitions_take_turns_and_pauses_are_kept() {
        let mut partitions = two();
        for p in [0, 1] {
            let epoch = partitions.by_place[&at(p)].epoch;
            partitions.queue(&at(p), epoch, vec![gap(20, 1), gap(21, 1)]);
        }
        assert_eq!(partitions.next_ready(), Some(at(0)));
        partitions.take(&at(0));
        assert_eq!(partitions.next_ready(), Some(at(1)));
        partitions.take(&at(1));
        assert_eq!(partitions.next_ready(), Some(at(0)));
        if let Some(reading) = partitions.by_place.get_mut(&at(0)) {
            reading.paused = true;
        }
        assert_eq!(partitions.next_ready(), Some(at(1)));
        partitions.set(&[at(0)], 2);
        assert_eq!(partitions.next_ready(), None);
        assert_eq!(partitions.queued_bytes, 1);
        assert_eq!(partitions.by_place[&at(0)].since_generation, 1, "it was never given up");
    }
}
