//! Batches of the node's own logs: built and read with the same code as clients' batches.

use bytes::Bytes;
use wherry_wire::batch::{BatchHeader, CheckedBatch, RawBatch, split};
use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp, records};

use super::Pair;
use crate::limits::MAX_INSPECTED_BATCH_BYTES;

/// One batch with these keys and values, stamped with the node's time.
pub(crate) fn batch(pairs: &[Pair], now_ms: i64) -> Result<CheckedBatch, String> {
    built(BatchBuilder::new(Codec::None, None), pairs, Stamp::NONE, now_ms)
}

/// The same, as part of a producer's transaction.
pub(crate) fn transactional_batch(pairs: &[Pair], stamp: Stamp, now_ms: i64) -> Result<CheckedBatch, String> {
    let mut builder = BatchBuilder::new(Codec::None, None);
    builder.set_transactional(true);
    built(builder, pairs, stamp, now_ms)
}

fn built(mut builder: BatchBuilder, pairs: &[Pair], stamp: Stamp, now_ms: i64) -> Result<CheckedBatch, String> {
    let no_headers: [(&[u8], &[u8]); 0] = [];
    for (key, value) in pairs {
        builder.append(now_ms, key.as_deref(), value.as_deref(), &no_headers).map_err(|error| error.to_string())?;
    }
    let bytes = builder.build(stamp).map_err(|error| error.to_string())?;
    let raw = split(bytes).next().ok_or("an empty batch")?;
    raw.and_then(RawBatch::check).map_err(|error| error.to_string())
}

/// Keys and values of a stored batch.
pub(crate) fn pairs(batch: &Bytes) -> Result<Vec<Pair>, String> {
    let header = BatchHeader::read(batch, 0).map_err(|error| error.to_string())?;
    let set = records(&header, batch, MAX_INSPECTED_BATCH_BYTES).map_err(|error| error.to_string())?;
    set.into_iter()
        .map(|record| record.map(|record| (record.key, record.value)).map_err(|error| error.to_string()))
        .collect()
}
