//! What a log remembers of its idempotent producers (KIP-98): enough to answer a retry with the original offset and to
//! refuse a gap. Bounded per producer and per log, rolled back with truncation, rebuilt by replay.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::{LogId, Offset, ProducerId};

use crate::config::{MAX_PRODUCERS_PER_LOG, PRODUCER_BATCHES};
use crate::error::LogError;

/// One batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqBatch {
    /// Sequence of its first record.
    pub first_seq: i32,
    /// Sequence of its last record.
    pub last_seq: i32,
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Journal sequence of the frame that holds it: a retry is answered when that is durable (rule 22).
    pub frame: u64,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Newest epoch seen.
    pub epoch: i16,
    /// When it last appended, wall clock, milliseconds.
    pub last_ms: i64,
    /// Its newest batches of this epoch, oldest first.
    pub batches: Vec<SeqBatch>,
}

/// In place of a lost producer's epoch: any that it turns out to have is another.
const LOST: i16 = -1;
/// The same, of one whose first batch ever was cut off.
const NEVER_WAS: i16 = -2;

impl Producer {
    /// Nothing is known of it but that there was something.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.batches.is_empty()
    }
}

impl SeqBatch {
    /// What is remembered of a batch.
    #[must_use]
    pub fn of(header: &BatchHeader, frame: u64) -> Self {
        Self {
            first_seq: header.base_sequence,
            last_seq: advance(header.base_sequence, header.last_offset_delta),
            base: header.base_offset,
            last: header.last_offset(),
            frame,
        }
    }
}

/// The producer whose sequence this batch continues; markers of transactions have none.
#[must_use]
pub(crate) fn sequenced(header: &BatchHeader) -> Option<ProducerId> {
    header.producer().filter(|_| !header.is_control() && header.base_sequence >= 0)
}

/// Outcome of the check before an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Fresh,
    /// It is there already.
    Duplicate(SeqBatch),
}

/// All producers of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    map: HashMap<i64, Producer, RandomState>,
    /// How many of them are lost: see [`Producers::truncate`].
    lost: usize,
}

/// Sequence numbers wrap from `i32::MAX` to 0.
fn advance(seq: i32, by: i32) -> i32 {
    let sum = i64::from(seq) + i64::from(by);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

impl Producers {
    /// Is this batch new, known, or out of order?
    ///
    /// # Errors
    /// [`LogError::ProducerFenced`], [`LogError::OutOfOrderSequence`].
    pub fn check(&self, log: LogId, header: &BatchHeader) -> Result<Verdict, LogError> {
        let Some(producer) = sequenced(header) else { return Ok(Verdict::Fresh) };
        let Some(known) = self.map.get(&producer.0) else { return Ok(Verdict::Fresh) };
        if header.producer_epoch < known.epoch {
            return Err(LogError::ProducerFenced { log, producer, got: header.producer_epoch, current: known.epoch });
        }
        let out_of_order =
            |expected| Err(LogError::OutOfOrderSequence { log, producer, got: header.base_sequence, expected });
        if header.producer_epoch > known.epoch {
            return if header.base_sequence == 0 { Ok(Verdict::Fresh) } else { out_of_order(0) };
        }
        let last_seq = advance(header.base_sequence, header.last_offset_delta);
        let same = |b: &&SeqBatch| b.first_seq == header.base_sequence && b.last_seq == last_seq;
        if let Some(batch) = known.batches.iter().find(same) {
            return Ok(Verdict::Duplicate(*batch));
        }
        let Some(newest) = known.batches.last() else { return Ok(Verdict::Fresh) };
        let expected = advance(newest.last_seq, 1);
        if header.base_sequence == expected { Ok(Verdict::Fresh) } else { out_of_order(expected) }
    }

    /// Remembers an appended batch, which a check has passed here or on the leader; where the leader knew less of the
    /// producer, it is known no better here. Doing it again for the same batch changes nothing, so replay over a snapshot
    /// is safe.
    pub fn appended(&mut self, header: &BatchHeader, frame: u64, now_ms: i64) {
        let Some(ProducerId(id)) = sequenced(header) else { return };
        let known = self.map.contains_key(&id);
        if !known && self.map.len() >= MAX_PRODUCERS_PER_LOG {
            self.forget_oldest();
        }
        let producer = self.map.entry(id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            last_ms: now_ms,
            batches: Vec::new(),
        });
        if producer.batches.iter().any(|b| b.base >= header.base_offset) {
            return;
        }
        self.lost -= usize::from(known && producer.is_lost());
        let continues = producer.batches.last().is_none_or(|b| header.base_sequence == advance(b.last_seq, 1));
        if header.producer_epoch != producer.epoch || !continues {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.last_ms = now_ms;
        if producer.batches.len() == PRODUCER_BATCHES {
            producer.batches.remove(0);
        }
        producer.batches.push(SeqBatch::of(header, frame));
    }

    /// Forgets what was appended at and above `end`, and tells whose batches went. A producer of which none is left here
    /// may have older ones in the log: it is *lost* until [`Producers::found`] brings them, or [`Producers::give_up`]
    /// says that there are none.
    #[must_use]
    pub fn truncate(&mut self, end: Offset) -> HashSet<i64, RandomState> {
        let mut cut = HashSet::default();
        for (id, producer) in &mut self.map {
            if producer.batches.last().is_none_or(|b| b.base < end) {
                continue;
            }
            cut.insert(*id);
            let first = producer.batches.first().is_some_and(|b| b.first_seq == 0) && producer.epoch == 0;
            producer.batches.retain(|b| b.base < end);
            if producer.is_lost() {
                producer.epoch = if first { NEVER_WAS } else { LOST };
            }
        }
        self.retain(|p| !(p.is_lost() && p.epoch == NEVER_WAS));
        cut.retain(|id| self.map.contains_key(id));
        cut
    }

    /// Batches of a producer's newest epoch below those that are known, oldest first.
    pub fn found(&mut self, id: i64, epoch: i16, mut older: Vec<SeqBatch>) {
        let Some(producer) = self.map.get_mut(&id).filter(|_| !older.is_empty()) else { return };
        if producer.is_lost() {
            self.lost -= 1;
            producer.epoch = epoch;
        }
        if producer.epoch == epoch {
            older.retain(|b| producer.batches.first().is_none_or(|known| b.base < known.base));
            older.append(&mut producer.batches);
            producer.batches = older.split_off(older.len().saturating_sub(PRODUCER_BATCHES));
        }
    }

    /// Nothing was found of those that are still lost: the log has nothing of them.
    pub fn give_up(&mut self) {
        self.retain(|p| !p.is_lost());
    }

    /// Whether some producer is lost.
    #[must_use]
    pub fn any_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether the producer of this batch is lost: nobody can tell whether it is a retry.
    #[must_use]
    pub fn is_lost(&self, header: &BatchHeader) -> bool {
        self.lost > 0 && sequenced(header).and_then(|id| self.map.get(&id.0)).is_some_and(Producer::is_lost)
    }

    /// The lost ones.
    pub fn lost(&self) -> impl Iterator<Item = i64> {
        self.map.iter().filter(|(_, p)| p.is_lost()).map(|(id, _)| *id)
    }

    /// A producer of which more is known than that it was there.
    #[must_use]
    pub fn get(&self, id: i64) -> Option<&Producer> {
        self.map.get(&id).filter(|producer| !producer.is_lost())
    }

    /// Whether older batches of this producer would tell more about it.
    #[must_use]
    pub fn wants_older(&self, id: i64) -> bool {
        self.map.get(&id).is_some_and(|p| {
            p.batches.len() < PRODUCER_BATCHES && p.batches.first().is_none_or(|oldest| oldest.first_seq != 0)
        })
    }

    fn retain(&mut self, keep: impl Fn(&Producer) -> bool) {
        self.map.retain(|_, p| keep(p));
        self.lost = self.map.values().filter(|p| p.is_lost()).count();
    }

    /// Forgets producers that appended nothing since `before_ms`, but for those who are busy.
    pub fn expire(&mut self, before_ms: i64, is_busy: impl Fn(i64) -> bool) {
        self.map.retain(|id, p| p.last_ms >= before_ms || is_busy(*id));
        self.lost = self.map.values().filter(|p| p.is_lost()).count();
    }

    fn forget_oldest(&mut self) {
        if let Some(id) = self.map.iter().min_by_key(|(_, p)| p.last_ms).map(|(id, _)| *id) {
            let gone = self.map.remove(&id);
            self.lost -= usize::from(gone.is_some_and(|p| p.is_lost()));
        }
    }

    /// Every producer by id, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &Producer)> {
        self.map.iter().map(|(id, p)| (ProducerId(*id), p))
    }

    /// Puts back what a checkpoint held.
    pub fn restore(&mut self, id: ProducerId, producer: Producer) {
        self.lost += usize::from(producer.is_lost());
        self.map.insert(id.0, producer);
    }

    /// Whether anything is remembered of a producer.
    #[must_use]
    pub fn knows(&self, id: i64) -> bool {
        self.map.contains_key(&id)
    }

    /// Number of producers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// None known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use wherry_wire::types::LeaderEpoch;

    use super::*;

    const LOG: LogId = LogId { topic: uuid::Uuid::nil(), partition: 0 };

    fn header(epoch: i16, seq: i32, count: i32, base: i64) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(base),
            len: 100,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: seq,
            record_count: count,
        }
    }

    fn with(batches: &[(i16, i32, i32, i64)]) -> Producers {
        let mut p = Producers::default();
        for &(e, s, c, b) in batches {
            p.appended(&header(e, s, c, b), 1, 0);
        }
        p
    }

    #[test]
    fn next_sequence_is_fresh_and_a_known_one_is_a_duplicate() {
        let p = with(&[(0, 0, 5, 100), (0, 5, 5, 105)]);
        assert_eq!(p.check(LOG, &header(0, 10, 3, 0)).unwrap(), Verdict::Fresh);
        let Verdict::Duplicate(b) = p.check(LOG, &header(0, 0, 5, 0)).unwrap() else { panic!("not a duplicate") };
        assert_eq!((b.base, b.last), (Offset(100), Offset(104)));
    }

    #[test]
    fn gaps_overlaps_and_old_epochs_are_refused() {
        let p = with(&[(3, 0, 5, 100)]);
        for (epoch, seq) in [(3, 6), (3, 4), (3, 1), (4, 1)] {
            assert!(
                matches!(p.check(LOG, &header(epoch, seq, 5, 0)), Err(LogError::OutOfOrderSequence { .. })),
                "{epoch} {seq}"
            );
        }
        assert!(matches!(p.check(LOG, &header(2, 5, 5, 0)), Err(LogError::ProducerFenced { .. })));
        assert_eq!(p.check(LOG, &header(4, 0, 5, 0)).unwrap(), Verdict::Fresh);
    }

    #[test]
    fn sequences_wrap() {
        let p = with(&[(0, i32::MAX - 1, 2, 0)]);
        assert_eq!(p.check(LOG, &header(0, 0, 1, 2)).unwrap(), Verdict::Fresh);
        let p = with(&[(0, i32::MAX, 2, 0)]);
        assert_eq!(p.check(LOG, &header(0, 1, 1, 2)).unwrap(), Verdict::Fresh);
    }

    #[test]
    fn only_the_newest_batches_are_kept_and_replay_is_idempotent() {
        let list: Vec<_> = (0..9).map(|i| (0, i, 1, i64::from(i))).collect();
        let mut p = with(&list);
        let before = p.clone();
        for &(e, s, c, b) in &list {
            p.appended(&header(e, s, c, b), 1, 0);
        }
        assert_eq!(p, before);
        assert!(matches!(p.check(LOG, &header(0, 4, 1, 0)).unwrap(), Verdict::Duplicate(_)));
        assert!(matches!(p.check(LOG, &header(0, 3, 1, 0)), Err(LogError::OutOfOrderSequence { .. })));
    }

    #[test]
    fn truncation_rolls_back() {
        let mut p = with(&[(0, 0, 5, 100), (0, 5, 5, 105)]);
        assert_eq!(p.truncate(Offset(105)).len(), 1);
        assert_eq!(p.check(LOG, &header(0, 5, 5, 0)).unwrap(), Verdict::Fresh);
        assert!(p.truncate(Offset(100)).is_empty());
        assert!(p.is_empty(), "its first batch is gone: it never was");
    }

    #[test]
    fn one_of_which_older_batches_may_be_left_is_lost_until_they_are_found() {
        let list: Vec<_> = (0..9).map(|i| (3, i, 1, i64::from(i))).collect();
        let mut p = with(&list);
        assert_eq!(p.truncate(Offset(4)).len(), 1);
        assert!(p.any_lost() && p.is_lost(&header(3, 4, 1, 4)));
        let older = (0..4).map(|i| SeqBatch::of(&header(3, i, 1, i64::from(i)), 0)).collect();
        p.found(7, 3, older);
        assert!(!p.any_lost());
        assert!(matches!(p.check(LOG, &header(3, 3, 1, 0)).unwrap(), Verdict::Duplicate(_)));
        assert_eq!(p.check(LOG, &header(3, 4, 1, 0)).unwrap(), Verdict::Fresh);
        assert!(matches!(p.check(LOG, &header(3, 5, 1, 0)), Err(LogError::OutOfOrderSequence { expected: 4, .. })));
        assert!(!p.wants_older(7), "it begins with sequence 0");
    }

    #[test]
    fn what_the_leader_decided_is_remembered_as_it_is() {
        let mut p = with(&[(3, 0, 5, 100)]);
        p.appended(&header(3, 9, 1, 110), 1, 0);
        assert_eq!(p.check(LOG, &header(3, 10, 1, 0)).unwrap(), Verdict::Fresh, "after a gap that the leader let in");
        p.appended(&header(1, 4, 1, 111), 1, 0);
        assert_eq!(p.check(LOG, &header(1, 5, 1, 0)).unwrap(), Verdict::Fresh, "an epoch that the leader did not know");
        let marker = BatchHeader { attributes: 0x30, ..header(9, -1, 1, 112) };
        p.appended(&marker, 1, 0);
        assert_eq!(p.check(LOG, &header(1, 5, 1, 0)).unwrap(), Verdict::Fresh, "a marker has no sequence");
    }

    #[test]
    fn the_longest_idle_producer_goes_first() {
        let mut p = Producers::default();
        for id in 0..=MAX_PRODUCERS_PER_LOG as i64 {
            p.appended(&BatchHeader { producer_id: id, ..header(0, 0, 1, id) }, 1, id);
        }
        assert_eq!(p.len(), MAX_PRODUCERS_PER_LOG);
        assert!(p.iter().all(|(id, _)| id.0 != 0));
    }
}
