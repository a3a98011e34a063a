//! What a log demands of a batch's records before it stores them, where it looks inside: that header and records agree,
//! and that a compacted topic gets keys.

use bytes::Bytes;

use super::parse::{RecordError, RecordsError, records};
use crate::batch::BatchHeader;

/// What to demand.
#[derive(Debug, Clone, Copy)]
pub struct ValidateOptions {
    /// Refuse records without a key: a compacted topic can't keep them.
    pub require_keys: bool,
    /// Bound of the uncompressed records in bytes.
    pub max_len: usize,
}

/// Why records are refused. [`InvalidRecords::Keyless`] is the producer's mistake (`INVALID_RECORD`); the others mean a
/// broken batch (`CORRUPT_MESSAGE`, or `INVALID_RECORD` for [`InvalidRecords::Disagrees`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecords {
    /// They can't be read at all.
    #[error(transparent)]
    Unreadable(#[from] RecordsError),
    /// One does not parse.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The header says something else than the records.
    #[error("batch header and records disagree: {what}")]
    Disagrees {
        /// On what.
        what: &'static str,
    },
    /// A record has no key, and keys are required.
    #[error("record {index} has no key: a compacted topic takes only records with keys")]
    Keyless {
        /// Which record, from 0.
        index: i32,
    },
}

/// What was found in valid records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordsSummary {
    /// Number of records, as the header says.
    pub count: i32,
    /// The largest timestamp among them in milliseconds, whatever the header says.
    pub max_timestamp: i64,
    /// Uncompressed size in bytes.
    pub uncompressed_len: usize,
}

/// Checks the records of a batch that a producer sent (`batch` holds the header as well): as many as the header counts,
/// offsets 0, 1, 2, ... up to the header's last, each record well formed.
///
/// # Errors
/// [`InvalidRecords`].
pub fn validate_records(
    header: &BatchHeader,
    batch: &Bytes,
    options: ValidateOptions,
) -> Result<RecordsSummary, InvalidRecords> {
    let disagrees = |what| Err(InvalidRecords::Disagrees { what });
    // Cheap and before anything is decompressed.
    if header.record_count == 0 {
        return disagrees("no records");
    }
    if i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return disagrees("the record count is not the last offset delta plus one");
    }
    let set = records(header, batch, options.max_len)?;
    let mut count = 0;
    let mut max_timestamp = i64::MIN;
    for record in &set {
        let record = record?;
        if record.offset_delta != count {
            return disagrees("offset deltas do not count up by one");
        }
        if options.require_keys && record.key.is_none() {
            return Err(InvalidRecords::Keyless { index: count });
        }
        max_timestamp = max_timestamp.max(header.base_timestamp.saturating_add(record.timestamp_delta));
        count += 1;
    }
    if count != header.record_count {
        return disagrees("fewer records than the header counts");
    }
    Ok(RecordsSummary { count, max_timestamp, uncompressed_len: set.data().len() })
}
