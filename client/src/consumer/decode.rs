//! From fetched bytes to records: CRC, decompression, parsing; and what transactions hide. Pure.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::AbortedTransaction;
use wherry_wire::batch::{self, BatchError, BatchHeader, RawBatch};
use wherry_wire::records;

use super::partitions::Fetched;
use crate::record::{ConsumedRecord, TopicPartition};

/// Attribute bit: the broker's append time stands for all records.
const APPEND_TIME: i16 = 0x08;

/// A batch whose records are being handed out.
#[derive(Debug)]
pub(super) struct Decoded {
    header: BatchHeader,
    records: <records::RecordSet as IntoIterator>::IntoIter,
}

/// Checks and decompresses a batch.
pub(super) fn decode(batch: RawBatch, max_bytes: usize) -> Result<Decoded, String> {
    let checked = batch.check().map_err(|e| e.to_string())?;
    let set = records::records(checked.header(), checked.bytes(), max_bytes).map_err(|e| e.to_string())?;
    Ok(Decoded { header: *checked.header(), records: set.into_iter() })
}

impl Decoded {
    /// Offset after the batch.
    pub(super) fn next_offset(&self) -> i64 {
        self.header.next_offset().0
    }

    /// The next record at or after `from`; `None` at the end.
    pub(super) fn next(
        &mut self,
        at: &TopicPartition,
        from: i64,
        generation: i32,
    ) -> Option<Result<ConsumedRecord, String>> {
        loop {
            let record = match self.records.next()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error.to_string())),
            };
            let offset = self.header.base_offset.0.saturating_add(i64::from(record.offset_delta));
            if offset < from {
                continue;
            }
            let timestamp_ms = if self.header.attributes & APPEND_TIME != 0 {
                self.header.max_timestamp
            } else {
                self.header.base_timestamp.saturating_add(record.timestamp_delta)
            };
            return Some(Ok(ConsumedRecord {
                topic: at.topic.clone(),
                partition: at.partition,
                offset,
                leader_epoch: self.header.leader_epoch.0,
                timestamp_ms,
                generation,
                key: record.key,
                value: record.value,
                headers: record.headers.iter().map(|h| (Arc::from(&*h.name()), h.value)).collect(),
            }));
        }
    }
}

/// Cuts the bytes of a fetch answer into batches from `offset` on. Control batches, and with `aborted` those of aborted
/// transactions, only move the position. A batch cut off at the end is left for the next fetch.
pub(super) fn batches(
    bytes: Bytes,
    mut offset: i64,
    aborted: Option<&[AbortedTransaction]>,
) -> Result<Vec<Fetched>, String> {
    let mut hidden = Hidden::new(aborted.unwrap_or_default());
    let mut fetched = Vec::new();
    for raw in batch::split(bytes) {
        let raw = match raw {
            Ok(raw) => raw,
            Err(BatchError::Truncated { .. }) if !fetched.is_empty() => break,
            Err(error) => return Err(error.to_string()),
        };
        let header = *raw.header();
        let next_offset = header.next_offset().0;
        let hide = hidden.hides(&header);
        if next_offset <= offset {
            continue;
        }
        offset = next_offset;
        let batch = (!hide).then_some(raw);
        let bytes = if hide { 0 } else { header.len };
        fetched.push(Fetched { batch, next_offset, bytes });
    }
    Ok(fetched)
}

/// Which producers are in an aborted transaction at the present batch.
struct Hidden {
    to_come: BinaryHeap<Reverse<(i64, i64)>>,
    aborting: HashSet<i64>,
}

impl Hidden {
    fn new(aborted: &[AbortedTransaction]) -> Self {
        let to_come = aborted.iter().map(|t| Reverse((t.first_offset, t.producer_id.0))).collect();
        Self { to_come, aborting: HashSet::new() }
    }

    fn hides(&mut self, header: &BatchHeader) -> bool {
        while let Some(Reverse((first, producer))) = self.to_come.peek().copied()
            && first <= header.last_offset().0
        {
            self.to_come.pop();
            self.aborting.insert(producer);
        }
        if header.is_control() {
            // The marker of a producer that is in an aborted transaction is the abort.
            self.aborting.remove(&header.producer_id);
            return true;
        }
        header.is_transactional() && self.aborting.contains(&header.producer_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ProducerId;
    use wherry_wire::records::{BatchBuilder, Stamp};

    /// A batch of two records at `offset`, of this producer's transaction if it has one.
    fn raw(offset: i64, producer: Option<i64>, control: bool) -> Vec<u8> {
        let mut builder = BatchBuilder::new(crate::Codec::None, None);
        builder.set_transactional(producer.is_some());
        builder.set_control(control);
        for value in [b"a", b"b"] {
            let none: &[(&str, &str)] = &[];
            builder.append(7, None, Some(value.as_slice()), none).unwrap();
        }
        let stamp = Stamp { producer_id: producer.unwrap_or(-1), producer_epoch: 0, base_sequence: 0 };
        let mut bytes = builder.build(stamp).unwrap().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes
    }

    fn shown(bytes: Vec<u8>, from: i64, aborted: Option<&[AbortedTransaction]>) -> Vec<(bool, i64)> {
        let fetched = batches(bytes.into(), from, aborted).unwrap();
        fetched.iter().map(|f| (f.batch.is_some(), f.next_offset)).collect()
    }

    #[test]
    fn what_lies_before_the_position_is_skipped_and_a_cut_tail_left() {
        let mut bytes = [raw(0, None, false), raw(2, None, false), raw(4, None, false)].concat();
        bytes.truncate(bytes.len() - 5);
        assert_eq!(shown(bytes, 2, None), [(true, 4)]);
        assert!(batches(raw(0, None, false)[..30].to_vec().into(), 0, None).is_err(), "not even one");
        assert!(batches(Bytes::new(), 0, None).unwrap().is_empty());
    }

    #[test]
    fn aborted_transactions_and_markers_only_move_the_position() {
        let aborted = [AbortedTransaction::default().with_producer_id(ProducerId(1)).with_first_offset(2)];
        let bytes = || {
            [
                raw(0, Some(1), false),
                raw(2, Some(1), false),
                raw(4, Some(2), false),
                raw(6, Some(1), true),
                raw(8, Some(1), false),
            ]
            .concat()
        };
        let expected = [(true, 2), (false, 4), (true, 6), (false, 8), (true, 10)];
        assert_eq!(shown(bytes(), 0, Some(&aborted)), expected);
        let uncommitted = [(true, 2), (true, 4), (true, 6), (false, 8), (true, 10)];
        assert_eq!(shown(bytes(), 0, None), uncommitted);
    }

    #[test]
    fn records_come_with_their_offsets_and_damage_is_found() {
        let place = TopicPartition::new("t", 0);
        let bytes = raw(10, None, false);
        let one = |bytes: Vec<u8>| batches(bytes.into(), 0, None).unwrap().remove(0).batch.unwrap();
        let mut decoded = decode(one(bytes.clone()), 1000).unwrap();
        let record = decoded.next(&place, 11, 5).unwrap().unwrap();
        assert_eq!((record.offset, record.timestamp_ms, record.generation), (11, 7, 5));
        assert!(decoded.next(&place, 11, 5).is_none());
        assert_eq!(decoded.next_offset(), 12);
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(decode(one(damaged), 1000).is_err());
        assert!(decode(one(bytes), 3).is_err(), "more than is allowed");
    }
}
