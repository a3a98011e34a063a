//! The storage engine: one journal, many logs.
//!
//! An append goes to the shared journal (durable before it is acknowledged), stays in a bounded in-memory tail, and is
//! moved in large pieces to per-log segments in the background; then its journal space is used again. See
//! docs/adr/0001-disk-format.md for what is on disk and ARCHITECTURE.md for the rules (INV-n) that hold.
//!
//! ```text
//! engine    appends, reads, flushes, checkpoints, retention, recovery: a state machine over `io::Disk`
//!   journal     group commit, frames, files, replay        partition  one log: bounds, tail, epochs, producers, transactions
//!   segment     chunks at rest                             checkpoint what lets journal space go
//!   io          the only room that touches a disk
//! ```

mod bytes_at;
pub mod checkpoint;
mod compacted;
pub mod config;
mod engine;
mod epochs;
pub mod error;
mod files;
pub mod inspect;
pub mod io;
pub mod journal;
mod partition;
mod producers;
pub mod segment;
mod timestamps;
mod transactions;

pub use config::{Cleanup, EngineConfig, LogConfig};
pub use engine::{
    Appended, Engine, EngineStats, Event, LogInfo, Lookup, ProducerInfo, Read, ReadToken, ReadUpTo, Recovery, Served,
};
pub use error::{Corruption, LogError, OpenError};
pub use transactions::Aborted;

/// The time, as the engine is told it. Timeouts run on the monotonic clock; the wall clock is data (rule 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Nanoseconds since some fixed point; never goes back.
    pub monotonic_ns: u64,
    /// Milliseconds since the epoch.
    pub wall_ms: i64,
}

/// A promise of durability: kept when [`Event::Durable`] brings this ticket or a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// Place of an entry in the journal: frame sequence and index in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

const LSN_INDEX_BITS: u32 = 16;

impl Lsn {
    /// Of the `index`th entry of frame `frame`.
    #[must_use]
    pub fn new(frame: u64, index: u32) -> Self {
        Self((frame << LSN_INDEX_BITS) | u64::from(index))
    }

    /// Sequence of the frame.
    #[must_use]
    pub fn frame(self) -> u64 {
        self.0 >> LSN_INDEX_BITS
    }
}

const _: () = assert!(config::MAX_FRAME_ENTRIES <= 1 << LSN_INDEX_BITS);
