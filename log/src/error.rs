//! Errors of the engine; each variant is a decision for the caller.

use wherry_wire::types::{LeaderEpoch, LogId, Offset, ProducerId};

use crate::io::DiskError;

/// Where bytes were found that are not what was written (INV-6).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{path} at byte {position}: {what}", log.map(|l| format!("log {l}, ")).unwrap_or_default())]
pub struct Corruption {
    /// The log, where one is known.
    pub log: Option<LogId>,
    /// The file, relative to the data directory.
    pub path: String,
    /// Byte position in the file.
    pub position: u64,
    /// What is wrong with the bytes there.
    pub what: String,
}

/// Why an operation on a log failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// No such log (any more).
    #[error("log {0} does not exist")]
    NoSuchLog(LogId),
    /// A log with this id exists.
    #[error("log {0} exists already")]
    Exists(LogId),
    /// The offset is not where this operation may be: between the log's start and its end, or, for a replica's append, at
    /// the end or above it.
    #[error("log {log}: offset {offset} is outside {start}..={end}")]
    OutOfRange {
        /// The log.
        log: LogId,
        /// What was asked for.
        offset: Offset,
        /// First offset that exists.
        start: Offset,
        /// Where it ends, as far as the operation is concerned.
        end: Offset,
    },
    /// A replica was given a batch of an epoch that the log has left behind: it comes from a leader of the past.
    #[error("log {log}: a batch of leader epoch {got} where epoch {latest} has begun")]
    StaleEpoch {
        /// The log.
        log: LogId,
        /// Epoch of the batch.
        got: LeaderEpoch,
        /// Newest epoch in the log, or of the batch before.
        latest: LeaderEpoch,
    },
    /// The producer's sequence number is not the next one (KIP-98).
    #[error("log {log}: producer {producer} sent sequence {got} where {expected} comes next")]
    OutOfOrderSequence {
        /// The log.
        log: LogId,
        /// The producer.
        producer: ProducerId,
        /// First sequence of the batch.
        got: i32,
        /// What would have been right.
        expected: i32,
    },
    /// A newer instance of the producer has written.
    #[error("log {log}: producer {producer} epoch {got} is fenced by epoch {current}")]
    ProducerFenced {
        /// The log.
        log: LogId,
        /// The producer.
        producer: ProducerId,
        /// Epoch of the batch.
        got: i16,
        /// Newest epoch seen.
        current: i16,
    },
    /// A coordinator whose time is over wrote a marker.
    #[error("log {log}: a marker for producer {producer} of coordinator epoch {got}, which is fenced by {current}")]
    CoordinatorFenced {
        /// The log.
        log: LogId,
        /// The producer.
        producer: ProducerId,
        /// Epoch of the coordinator that sent it.
        got: i32,
        /// Newest epoch seen.
        current: i32,
    },
    /// The batch does not fit the state of its producer's transaction.
    #[error("log {log}: producer {producer} sent {what}")]
    InvalidTransaction {
        /// The log.
        log: LogId,
        /// The producer.
        producer: ProducerId,
        /// Why.
        what: String,
    },
    /// A bound: the log takes no more transactions for now.
    #[error("log {log} takes no more transactions: {what}")]
    TooManyTransactions {
        /// The log.
        log: LogId,
        /// Which bound, and what to do.
        what: String,
    },
    /// The batch can't be stored in any log.
    #[error("log {log}: {what}")]
    Rejected {
        /// The log.
        log: LogId,
        /// Why.
        what: String,
    },
    /// Too much is waiting for the disk; try again after [`crate::Event::Room`].
    #[error("the disk can't keep up: {waiting} bytes wait to be written")]
    Busy {
        /// Bytes waiting.
        waiting: usize,
    },
    /// The disk is full; deletes still work, appends will again when there is room.
    #[error("the data directory has less than {reserve} bytes free; free some space or delete records")]
    Full {
        /// The reserve, in bytes.
        reserve: u64,
    },
    /// A write or sync failed: nothing more is acknowledged in this process (INV-5).
    #[error("read-only after a failed write: {0}; replace the disk or restart the node")]
    ReadOnly(String),
    /// The bytes on disk are not what was written: never served, and the log takes no more appends.
    #[error("corrupt: {0}")]
    Corrupt(Corruption),
    /// A read failed; it may be tried again.
    #[error("read failed: {0}")]
    ReadFailed(DiskError),
}

/// Why a data directory can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that can't work.
    #[error("{0}")]
    Config(String),
    /// The disk failed while recovering.
    #[error("can't recover the data directory: {0}")]
    Disk(#[from] DiskError),
    /// Durable data is damaged: starting would lose or invent records.
    #[error(
        "refusing to start on damaged data: {0}. Restore this node from its replicas or a backup; `wherry log inspect` shows what is readable"
    )]
    Corrupt(Corruption),
    /// Written by a version that this one does not know, or not by Wherry.
    #[error("{path}: {what}")]
    Foreign {
        /// The file.
        path: String,
        /// What was found.
        what: String,
    },
    /// Another process holds the data directory.
    #[error("{path} is in use by another process; one node per data directory")]
    Locked {
        /// The directory.
        path: String,
    },
}
