//! Control records: what ends a transaction in a partition (KIP-98). One control batch holds one record; its key says
//! what it is, its value which coordinator wrote it.
//!
//! ```text
//! key:   version i16 | type i16 (0 abort, 1 commit; others are not about transactions)
//! value: version i16 | coordinator epoch i32
//! ```
//! Newer versions of either only add fields, so what stands first is read of any of them.

use bytes::Bytes;

use super::{BatchBuilder, BuildError, Stamp, records};
use crate::batch::{BatchHeader, CheckedBatch, RawBatch, split};
use crate::compress::Codec;

const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// Version of key and value that is written.
const VERSION: i16 = 0;
/// A control record is some bytes long; more is none of those that are known here.
const MAX_CONTROL_BYTES: usize = 64 << 10;

/// The end of a producer's transaction in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMarker {
    /// Whose transaction.
    pub producer_id: i64,
    /// The producer's epoch from here on.
    pub producer_epoch: i16,
    /// Counts the leaderships of the coordinator that decided.
    pub coordinator_epoch: i32,
    /// Committed, or aborted.
    pub commit: bool,
}

impl EndMarker {
    /// The marker in a batch of a log; `None` for all other batches, and for a control batch whose record compaction has
    /// removed.
    #[must_use]
    pub fn read(header: &BatchHeader, batch: &Bytes) -> Option<Self> {
        if !header.is_control() || header.producer_id < 0 {
            return None;
        }
        let set = records(header, batch, MAX_CONTROL_BYTES).ok()?;
        let record = set.iter().next()?.ok()?;
        let commit = match i16_at(record.key?, 2)? {
            ABORT => false,
            COMMIT => true,
            _ => return None,
        };
        let coordinator_epoch = i32::from_be_bytes(record.value?.get(2..6)?.try_into().ok()?);
        let BatchHeader { producer_id, producer_epoch, .. } = *header;
        Some(Self { producer_id, producer_epoch, coordinator_epoch, commit })
    }

    /// The control batch, ready to be appended.
    ///
    /// # Errors
    /// None that a marker can bring about; the builder's.
    pub fn batch(&self, now_ms: i64) -> Result<CheckedBatch, BuildError> {
        let key = [VERSION.to_be_bytes(), if self.commit { COMMIT } else { ABORT }.to_be_bytes()].concat();
        let value = [&VERSION.to_be_bytes()[..], &self.coordinator_epoch.to_be_bytes()[..]].concat();
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.set_transactional(true);
        builder.set_control(true);
        let no_headers: [(&[u8], &[u8]); 0] = [];
        builder.append(now_ms, Some(&key), Some(&value), &no_headers)?;
        let (producer_id, producer_epoch) = (self.producer_id, self.producer_epoch);
        let bytes = builder.build(Stamp { producer_id, producer_epoch, base_sequence: -1 })?;
        let raw = split(bytes).next().and_then(Result::ok);
        raw.map(RawBatch::check).and_then(Result::ok).ok_or(BuildError::Empty)
    }
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: EndMarker = EndMarker { producer_id: 7, producer_epoch: 3, coordinator_epoch: 12, commit: true };

    fn control(key: &[u8], value: Option<&[u8]>) -> CheckedBatch {
        let mut builder = BatchBuilder::new(Codec::None, None);
        builder.set_control(true);
        let no_headers: [(&[u8], &[u8]); 0] = [];
        builder.append(5, Some(key), value, &no_headers).unwrap();
        let stamp = Stamp { producer_id: 7, producer_epoch: 3, base_sequence: -1 };
        split(builder.build(stamp).unwrap()).next().unwrap().unwrap().check().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for commit in [true, false] {
            let marker = EndMarker { commit, ..MARKER };
            let batch = marker.batch(1_000).unwrap();
            let header = batch.header();
            assert_eq!(EndMarker::read(header, batch.bytes()), Some(marker));
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.record_count, header.base_sequence, header.max_timestamp), (1, -1, 1_000));
        }
    }

    /// The bytes as Kafka's own writer has them.
    #[test]
    fn the_records_are_kafkas() {
        let batch = MARKER.batch(0).unwrap();
        let set = records(batch.header(), batch.bytes(), 1 << 10).unwrap();
        let record = set.iter().next().unwrap().unwrap();
        assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
        assert_eq!(record.value, Some(&[0, 0, 0, 0, 0, 12][..]));
    }

    #[test]
    fn other_control_records_and_broken_ones_are_no_markers() {
        let value = [0, 0, 0, 0, 0, 1];
        let read = |batch: CheckedBatch| EndMarker::read(batch.header(), batch.bytes());
        assert!(read(control(&[0, 0, 0, 0], Some(&value))).is_some());
        assert!(read(control(&[0, 9, 0, 1, 8, 8], Some(&[0, 9, 0, 0, 0, 1, 7, 7]))).is_some(), "of a newer version");
        for key in [&[0, 0, 0, 2][..], &[0, 0, 0, 5], &[0, 0, 255, 255], &[0, 0, 0], &[]] {
            assert_eq!(read(control(key, Some(&value))), None, "{key:?}");
        }
        assert_eq!(read(control(&[0, 0, 0, 1], Some(&value[..5]))), None);
        assert_eq!(read(control(&[0, 0, 0, 1], None)), None);
        let mut builder = BatchBuilder::new(Codec::None, None);
        let no_headers: [(&[u8], &[u8]); 0] = [];
        builder.append(5, Some(&[0, 0, 0, 1]), Some(&value), &no_headers).unwrap();
        let data = builder.build(Stamp { producer_id: 7, producer_epoch: 3, base_sequence: 0 }).unwrap();
        assert_eq!(read(split(data).next().unwrap().unwrap().check().unwrap()), None, "data that looks like one");
    }
}
