//! Batches under construction and on their way: the wire's builder, with the receipt and the bookkeeping of this producer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wherry_wire::batch;
use wherry_wire::limits::MAX_BATCH_BYTES;
use wherry_wire::records::{self, BatchBuilder, BuildError, Sealed, Stamp};

use super::accumulator::Shape;
use super::receipt::{Delivery, Receipt};
use crate::config::Codec;
use crate::record::ProduceRecord;

/// Records of one partition, still growing or waiting to be sent. Uncompressed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    shape: Shape,
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

fn builder(shape: Shape, capacity: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::with_capacity(shape.codec.0, shape.codec.1, capacity);
    builder.set_transactional(shape.transactional);
    builder
}

impl OpenBatch {
    /// Empty, with memory for `capacity` bytes of records.
    pub(super) fn new(receipt: Arc<Receipt>, shape: Shape, capacity: usize, opened: Instant) -> Self {
        Self { builder: builder(shape, capacity), shape, reserved: 0, opened, receipt }
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

    /// Takes the compression off.
    pub(super) fn leave_as_it_is(&mut self) {
        self.builder.set_codec(Codec::None);
    }

    /// Compresses the records: from here on the bytes stay as they are, whatever is retried.
    pub(super) fn seal(mut self) -> Result<SealedBatch, BuildError> {
        let sealed = self.builder.seal()?;
        let Self { shape, reserved, opened, receipt, .. } = self;
        Ok(SealedBatch { sealed, shape, reserved, opened, receipt })
    }
}

/// A batch whose records are fixed. Only the producer's identity and sequence are set when it is sent.
#[derive(Debug, Clone)]
pub(super) struct SealedBatch {
    sealed: Sealed,
    shape: Shape,
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

    /// Bytes as they are sent.
    pub(super) fn len(&self) -> usize {
        self.sealed.len()
    }

    /// Two batches with the first and the second half of its records, each with a receipt of its own; `None` where there is
    /// only one record. For a broker that finds it too large.
    pub(super) fn halves(&self) -> Option<(Self, Self)> {
        let half = self.count() / 2;
        if half == 0 {
            return None;
        }
        let raw = batch::split(self.sealed.to_bytes(Stamp::NONE)).next()?.ok()?;
        let (header, checked) = (*raw.header(), raw.check().ok()?);
        let (mut first, mut second) = (builder(self.shape, 0), builder(self.shape, 0));
        for record in &records::records(&header, checked.bytes(), MAX_BATCH_BYTES).ok()? {
            let record = record.ok()?;
            let headers: Vec<_> = record.headers().collect();
            let to = if record.offset_delta < half { &mut first } else { &mut second };
            let timestamp_ms = header.base_timestamp.saturating_add(record.timestamp_delta);
            to.append_nullable(timestamp_ms, record.key, record.value, headers.into_iter()).ok()?;
        }
        let part = |mut builder: BatchBuilder, reserved| {
            let (shape, opened, receipt) = (self.shape, self.opened, self.receipt.another());
            Some(Self { sealed: builder.seal().ok()?, shape, reserved, opened, receipt })
        };
        let reserved = self.reserved / 2;
        Some((part(first, reserved)?, part(second, self.reserved - reserved)?))
    }

    /// Header and body as they go on the wire.
    pub(super) fn parts(&self, stamp: Stamp) -> ([u8; batch::HEADER_LEN], Bytes) {
        (self.sealed.header(stamp), self.sealed.body().clone())
    }
}
