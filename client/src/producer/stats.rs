//! What a producer counts about its batches.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The present value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// See the module. Shared by all producers that are given the same.
#[derive(Debug, Default)]
pub struct ProducerStats {
    /// Batches that were made.
    pub batches: Count,
    /// Records in them.
    pub records: Count,
    /// Their bytes before compression.
    pub raw_bytes: Count,
    /// Their bytes as they are sent.
    pub sealed_bytes: Count,
    /// Those of them that were not compressed, because compression did not pay or none was asked for.
    pub batches_as_they_are: Count,
    /// Answers after which a batch is sent again.
    pub retries: Count,
}

impl ProducerStats {
    /// A batch was made.
    pub(super) fn sealed(&self, records: u64, raw: usize, sealed: usize, compressed: bool) {
        self.batches.add(1);
        self.records.add(records);
        self.raw_bytes.add(raw as u64);
        self.sealed_bytes.add(sealed as u64);
        self.batches_as_they_are.add(u64::from(!compressed));
    }
}
