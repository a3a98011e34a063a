//! What a fetch gave of one partition, taken apart as a consumer library does it.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use wherry_wire::batch::{self, CheckedBatch};
use wherry_wire::codec::messages::fetch_response::PartitionData;
use wherry_wire::records::{EndMarker, records};

const MAX_BATCH_BYTES: usize = 1 << 20;

/// What a reader wants to see of transactions (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    Uncommitted,
    Committed,
}

impl Isolation {
    pub(crate) fn level(self) -> i8 {
        match self {
            Self::Uncommitted => 0,
            Self::Committed => 1,
        }
    }
}

/// What lies at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A record's value.
    Record(Bytes),
    /// A record of a transaction that was aborted: its reader is not shown it.
    Aborted(Bytes),
    /// The end of a transaction.
    Marker(EndMarker),
}

/// Offset and content of everything from `next` on.
pub(crate) fn visible(data: &PartitionData, next: i64, isolation: Isolation) -> Result<Vec<(i64, Seen)>, String> {
    let end = match isolation {
        Isolation::Uncommitted => data.high_watermark,
        Isolation::Committed => data.last_stable_offset,
    };
    let mut aborted = Aborted::of(data, isolation);
    let mut out = Vec::new();
    for raw in batch::split(data.records.clone().unwrap_or_default()) {
        let checked = raw.and_then(batch::RawBatch::check).map_err(|error| error.to_string())?;
        // A fetch into the middle of a batch gives the whole batch.
        out.extend(contents(&checked, &mut aborted)?.into_iter().filter(|(offset, _)| *offset >= next));
    }
    if let Some((offset, _)) = out.last().filter(|(offset, _)| *offset >= end) {
        return Err(format!("record {offset} is visible to a reader who may see up to {end} ({isolation:?})"));
    }
    Ok(out)
}

fn contents(checked: &CheckedBatch, aborted: &mut Aborted) -> Result<Vec<(i64, Seen)>, String> {
    let header = checked.header();
    let is_aborted = aborted.has(checked);
    if header.is_control() {
        let Some(marker) = EndMarker::read(header, checked.bytes()) else {
            return Err(format!("no end of a transaction in the control batch at {}", header.base_offset));
        };
        return Ok(vec![(header.base_offset.0, Seen::Marker(marker))]);
    }
    let set = records(header, checked.bytes(), MAX_BATCH_BYTES).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    for record in &set {
        let record = record.map_err(|error| error.to_string())?;
        let value = Bytes::copy_from_slice(record.value.unwrap_or_default());
        let seen = if is_aborted { Seen::Aborted(value) } else { Seen::Record(value) };
        out.push((header.base_offset.0 + i64::from(record.offset_delta), seen));
    }
    Ok(out)
}

/// The transactions that the response says were aborted, as the reader comes past them.
struct Aborted {
    /// By their first offsets: not reached yet.
    ahead: VecDeque<(i64, i64)>,
    /// Producers whose records are skipped until their marker comes.
    here: BTreeSet<i64>,
}

impl Aborted {
    fn of(data: &PartitionData, isolation: Isolation) -> Self {
        let listed = data.aborted_transactions.iter().flatten();
        let mut ahead: Vec<(i64, i64)> = listed.map(|t| (t.first_offset, t.producer_id.0)).collect();
        ahead.sort_unstable();
        if isolation == Isolation::Uncommitted {
            ahead.clear();
        }
        Self { ahead: ahead.into(), here: BTreeSet::new() }
    }

    fn has(&mut self, checked: &CheckedBatch) -> bool {
        let header = checked.header();
        while let Some((_, producer)) = self.ahead.pop_front_if(|(first, _)| *first <= header.last_offset().0) {
            self.here.insert(producer);
        }
        if header.is_control() {
            if EndMarker::read(header, checked.bytes()).is_some_and(|marker| !marker.commit) {
                self.here.remove(&header.producer_id);
            }
            return false;
        }
        header.is_transactional() && self.here.contains(&header.producer_id)
    }
}

#[cfg(test)]
mod tests {
    use wherry_wire::codec::messages::ProducerId;
    use wherry_wire::codec::messages::fetch_response::AbortedTransaction;
    use wherry_wire::compress::Codec;
    use wherry_wire::records::{BatchBuilder, Stamp};
    use wherry_wire::types::{LeaderEpoch, Offset};

    use super::*;

    fn placed(bytes: Bytes, offset: i64) -> Vec<u8> {
        let checked = batch::split(bytes).next().unwrap().unwrap().check().unwrap();
        let mut out = vec![0; checked.len()];
        checked.write_at(Offset(offset), LeaderEpoch(0), &mut out).unwrap();
        out
    }

    fn data(producer: i64, offset: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.set_transactional(true);
        builder.append::<&[u8], &[u8]>(1, None, Some(b"v"), &[]).unwrap();
        placed(builder.build(Stamp { producer_id: producer, producer_epoch: 0, base_sequence: 0 }).unwrap(), offset)
    }

    fn end(producer_id: i64, commit: bool, offset: i64) -> Vec<u8> {
        let marker = EndMarker { producer_id, producer_epoch: 0, coordinator_epoch: 0, commit };
        placed(marker.batch(1).unwrap().bytes().clone(), offset)
    }

    /// Two producers; the transactions of the first are aborted, committed, and aborted again.
    fn log() -> PartitionData {
        let parts = [
            data(7, 0),
            data(8, 1),
            end(7, false, 2),
            data(7, 3),
            end(7, true, 4),
            data(7, 5),
            end(7, false, 6),
            end(8, true, 7),
        ];
        let aborted =
            [0, 5].map(|first| AbortedTransaction::default().with_producer_id(ProducerId(7)).with_first_offset(first));
        PartitionData::default()
            .with_records(Some(parts.concat().into()))
            .with_high_watermark(8)
            .with_last_stable_offset(8)
            .with_aborted_transactions(Some(aborted.to_vec()))
    }

    fn offsets(seen: &[(i64, Seen)], what: impl Fn(&Seen) -> bool) -> Vec<i64> {
        seen.iter().filter(|(_, seen)| what(seen)).map(|(offset, _)| *offset).collect()
    }

    #[test]
    fn what_was_aborted_is_skipped() {
        let seen = visible(&log(), 0, Isolation::Committed).unwrap();
        assert_eq!(offsets(&seen, |seen| matches!(seen, Seen::Record(_))), [1, 3]);
        assert_eq!(offsets(&seen, |seen| matches!(seen, Seen::Aborted(_))), [0, 5]);
        assert_eq!(offsets(&seen, |seen| matches!(seen, Seen::Marker(_))), [2, 4, 6, 7]);
        let all = visible(&log(), 3, Isolation::Uncommitted).unwrap();
        assert_eq!(offsets(&all, |seen| matches!(seen, Seen::Record(_))), [3, 5]);
    }

    #[test]
    fn nothing_is_seen_beyond_what_is_stable() {
        let data = log().with_last_stable_offset(5);
        assert!(visible(&data, 0, Isolation::Committed).is_err());
        assert!(visible(&data, 0, Isolation::Uncommitted).is_ok());
        assert!(visible(&log().with_high_watermark(5), 0, Isolation::Uncommitted).is_err());
    }
}
