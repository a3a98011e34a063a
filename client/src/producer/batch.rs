//! Batches under construction and on their way: the wire's builder, with the receipt and the bookkeeping of this producer.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use wherry_wire::batch;
use wherry_wire::codec::dedupe::Duplicate;
use wherry_wire::limits::MAX_BATCH_BYTES;
use wherry_wire::records::{self, BatchBuilder, BuildError, RecordRef, Sealed, Stamp};

use super::accumulator::Shape;
use super::receipt::{Delivery, Fate, Receipt};
use crate::config::Codec;
use crate::record::ProduceRecord;

/// Records of one partition, still growing or waiting to be sent. Uncompressed.
#[derive(Debug)]
pub(super) struct OpenBatch {
    builder: BatchBuilder,
    shape: Shape,
    /// What its records count for in the producer's memory.
    reserved: usize,
    /// Some of its records have message ids that the topic cares for.
    pub(super) asks: bool,
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
        Self { builder: builder(shape, capacity), shape, reserved: 0, asks: shape.asks, opened, receipt }
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
        let Self { shape, reserved, asks, opened, receipt, .. } = self;
        Ok(SealedBatch { sealed, shape, reserved, asks, opened, receipt })
    }
}

fn copy(record: RecordRef<'_>, timestamp_ms: i64, to: &mut BatchBuilder) -> Option<()> {
    let headers: Vec<_> = record.headers().collect();
    to.append_nullable(timestamp_ms, record.key, record.value, headers.into_iter()).ok().map(drop)
}

/// A batch whose records are fixed. Only the producer's identity and sequence are set when it is sent.
#[derive(Debug, Clone)]
pub(super) struct SealedBatch {
    sealed: Sealed,
    shape: Shape,
    /// What its records count for in the producer's memory.
    pub(super) reserved: usize,
    /// The broker is asked which of its message ids it knows.
    pub(super) asks: bool,
    pub(super) opened: Instant,
    pub(super) receipt: Arc<Receipt>,
}

/// A batch without the records that are there already.
#[derive(Debug)]
pub(super) struct Parted {
    /// The others; `None` where there are none.
    pub(super) rest: Option<SealedBatch>,
    /// What became of each record.
    pub(super) fates: Arc<[Fate]>,
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
        let (mut first, mut second) = (builder(self.shape, 0), builder(self.shape, 0));
        self.each_record(|record, timestamp_ms| {
            let to = if record.offset_delta < half { &mut first } else { &mut second };
            copy(record, timestamp_ms, to)
        })?;
        let reserved = self.reserved / 2;
        Some((self.part(first, reserved)?, self.part(second, self.reserved - reserved)?))
    }

    /// What is left of it when these records are there already; `None` where they are none of its records.
    pub(super) fn without(&self, duplicates: &[Duplicate]) -> Option<Parted> {
        let mut fates = Vec::with_capacity(usize::try_from(self.count()).ok()?);
        let mut first_with: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut kept = 0;
        let mut rest = builder(self.shape, 0);
        self.each_record(|record, timestamp_ms| {
            let index = record.offset_delta.cast_unsigned();
            let id = record.message_id();
            let known = duplicates.binary_search_by_key(&index, |duplicate| duplicate.index).ok();
            let offset = known.and_then(|at| duplicates.get(at)).map(|duplicate| duplicate.offset);
            let fate = match (offset, id.and_then(|id| first_with.get(id))) {
                (Some(offset @ 0..), _) => Fate::Known(offset),
                (Some(_), Some(first)) => Fate::Repeats(*first),
                (Some(_), None) => Fate::Known(-1),
                (None, _) => {
                    first_with.extend(id.map(|id| (id.to_vec(), kept)));
                    kept += 1;
                    copy(record, timestamp_ms, &mut rest)?;
                    Fate::Sent(kept - 1)
                }
            };
            fates.push(fate);
            Some(())
        })?;
        let count = self.count().cast_unsigned();
        if kept == count {
            return None;
        }
        let share = self.reserved / usize::try_from(count).unwrap_or(1).max(1);
        let reserved = share.saturating_mul(usize::try_from(kept).unwrap_or(0));
        let rest = if kept == 0 { None } else { Some(self.part(rest, reserved)?) };
        Some(Parted { rest, fates: fates.into() })
    }

    /// Hands over each record with its time.
    fn each_record(&self, mut take: impl FnMut(RecordRef<'_>, i64) -> Option<()>) -> Option<()> {
        let raw = batch::split(self.sealed.to_bytes(Stamp::NONE)).next()?.ok()?;
        let (header, checked) = (*raw.header(), raw.check().ok()?);
        for record in &records::records(&header, checked.bytes(), MAX_BATCH_BYTES).ok()? {
            let record = record.ok()?;
            take(record, header.base_timestamp.saturating_add(record.timestamp_delta))?;
        }
        Some(())
    }

    /// A batch of some of its records, with a receipt of its own.
    fn part(&self, mut builder: BatchBuilder, reserved: usize) -> Option<Self> {
        let (shape, asks, opened, receipt) = (self.shape, self.asks, self.opened, self.receipt.another());
        Some(Self { sealed: builder.seal().ok()?, shape, reserved, asks, opened, receipt })
    }

    /// Header and body as they go on the wire.
    pub(super) fn parts(&self, stamp: Stamp) -> ([u8; batch::HEADER_LEN], Bytes) {
        (self.sealed.header(stamp), self.sealed.body().clone())
    }
}
