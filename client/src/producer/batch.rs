//! Batches under construction and on their way: the wire's builder, with the receipt and the bookkeeping of this producer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wherry_wire::records::{BatchBuilder, BuildError, Sealed, Stamp};

use super::receipt::{Delivery, Receipt};
use crate::config::Codec;
use crate::record::ProduceRecord;

/// Records of one partition, still growing or waiting to be sent. Uncompressed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    /// What its records count for in the producer's memory.
    reserved: usize,
    /// Since when its first record waits.
    pub(super) opened: Instant,
    pub(super) receipt: Arc<Receipt>,
}

/// What a record takes in a batch, at most.
pub(super) fn size_bound(record: &ProduceRecord) -> usize {
    BatchBuilder::size_bound(record.key.as_deref(), record.value.as_deref(), &record.headers)
}

impl OpenBatch {
    /// Empty, with memory for `capacity` bytes of records.
    pub(super) fn new(receipt: Arc<Receipt>, codec: (Codec, Option<i32>), capacity: usize, opened: Instant) -> Self {
        Self { builder: BatchBuilder::with_capacity(codec.0, codec.1, capacity), reserved: 0, opened, receipt }
    }

    /// Bytes so far, uncompressed.
    pub(super) fn len(&self) -> usize {
        self.builder.len()
    }

    /// What its records count for in the producer's memory.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Appends a record that counts for `reserved` bytes.
    pub(super) fn push(
        &mut self,
        record: &ProduceRecord,
        reserved: usize,
        timestamp_ms: i64,
    ) -> Result<Delivery, BuildError> {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = self.builder.append(timestamp_ms, key, value, &record.headers)?;
        self.reserved += reserved;
        Ok(Delivery::new(self.receipt.clone(), index.cast_unsigned(), timestamp_ms))
    }

    /// Compresses the records: from here on the bytes stay as they are, whatever is retried.
    pub(super) fn seal(mut self) -> Result<SealedBatch, BuildError> {
        let sealed = self.builder.seal()?;
        Ok(SealedBatch { sealed, reserved: self.reserved, opened: self.opened, receipt: self.receipt })
    }
}

/// A batch whose records are fixed. Only the producer's identity and sequence are set when it is sent.
#[derive(Debug, Clone)]
pub(super) struct SealedBatch {
    pub(super) sealed: Sealed,
    /// What its records count for in the producer's memory.
    pub(super) reserved: usize,
    pub(super) opened: Instant,
    pub(super) receipt: Arc<Receipt>,
}

impl SealedBatch {
    /// Number of records.
    pub(super) fn count(&self) -> i32 {
        self.sealed.count()
    }

    /// Header and body as they go on the wire.
    pub(super) fn parts(&self, stamp: Stamp) -> ([u8; wherry_wire::batch::HEADER_LEN], Bytes) {
        (self.sealed.header(stamp), self.sealed.body().clone())
    }
}
