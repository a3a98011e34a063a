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
