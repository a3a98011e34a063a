//! What goes into the transaction coordinator and what comes out: typed requests, responses and effects.
//!
//! It must not know the wire encoding: `node/src/api` translates. Where versions of a request differ, the difference is
//! a field here ([`TransactionVersion`]), never a version number of a request.

use std::fmt;
use std::sync::Arc;

/// What every coordinator over a compacted log shares.
pub use crate::groups::types::{Now, PersistError, PersistId, Record, RequestRef};

/// A partition, by the name of its topic: that is how records name it.
pub type TopicPartition = (Arc<str>, i32);

/// No producer id.
pub const NO_PRODUCER_ID: i64 = -1;
/// No producer epoch.
pub const NO_PRODUCER_EPOCH: i16 = -1;

/// Names one [`Effect::ProducerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdAsk(pub u64);

/// Names one [`Effect::WriteMarkers`]: one end of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndId(pub u64);

/// How a client does transactions (KIP-890).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TransactionVersion {
    /// It adds partitions itself, and keeps its epoch from one transaction to the next.
    #[default]
    V1,
    /// Its partitions are added by those that lead them, and each end of a transaction bumps its epoch.
    V2,
}

impl TransactionVersion {
    /// As records and markers say it.
    pub const fn code(self) -> u8 {
        match self {
            Self::V1 => 0,
            Self::V2 => 2,
        }
    }
}

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer a request; each gets exactly one.
    Reply {
        /// The request that this answers.
        request: RequestRef,
        /// The answer.
        response: Response,
    },
    /// Append these records to the coordinator's log, all or none, after those of all earlier `Persist`s, and say when they
    /// are committed (or that they were not appended) with [`Input::Persisted`], in the order of the ids.
    Persist {
        /// Comes back in [`Input::Persisted`].
        id: PersistId,
        /// Never empty.
        records: Vec<Record>,
    },
    /// A producer id that nobody has is needed; [`Input::ProducerId`] brings it.
    ProducerId {
        /// Comes back.
        ask: IdAsk,
    },
    /// Have the end of a transaction written to each of these partitions, however long it takes, and say so with
    /// [`Input::MarkersWritten`], for some of them or all at once. Partitions that exist no more count as written.
    WriteMarkers {
        /// Comes back.
        end: EndId,
        /// What to write.
        marker: EndMarker,
        /// Where. Never empty.
        partitions: Vec<TopicPartition>,
    },
}

/// What one step asks for.
pub type Effects = Vec<Effect>;

/// The end of a transaction, as its partitions are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMarker {
    /// Whose.
    pub producer_id: i64,
    /// Its epoch; partitions take nothing of an earlier one from then on.
    pub producer_epoch: i16,
    /// Commit, or abort.
    pub commit: bool,
    /// How the transaction was made.
    pub version: TransactionVersion,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Somebody asks.
    Request {
        /// The caller's name for it; not in use by another unanswered request.
        request: RequestRef,
        /// What it asks.
        body: Request,
    },
    /// The records of an [`Effect::Persist`] are committed, or were not appended.
    Persisted {
        /// Which.
        id: PersistId,
        /// `Err`: none of them is in the log.
        result: Result<(), PersistError>,
    },
    /// A producer id, or none for now.
    ProducerId {
        /// Whose wish it was.
        ask: IdAsk,
        /// The id.
        id: Option<i64>,
    },
    /// Partitions have the marker of an [`Effect::WriteMarkers`], durably.
    MarkersWritten {
        /// Which.
        end: EndId,
        /// Which of its partitions.
        partitions: Vec<TopicPartition>,
    },
    /// Time has passed: [`super::Transactions::next_deadline`] was reached.
    Tick,
}

/// A request to the coordinator.
#[derive(Debug, Clone)]
pub enum Request {
    /// InitProducerId with a transactional id.
    Init(InitRequest),
    /// AddPartitionsToTxn and AddOffsetsToTxn.
    Add(AddRequest),
    /// AddPartitionsToTxn that only asks (KIP-890).
    Verify(VerifyRequest),
    /// EndTxn.
    End(EndRequest),
}

impl Request {
    /// The transactional id that it is about.
    pub fn transactional_id(&self) -> &Arc<str> {
        match self {
            Self::Init(body) => &body.transactional_id,
            Self::Add(body) => &body.producer.transactional_id,
            Self::Verify(body) => &body.producer.transactional_id,
            Self::End(body) => &body.producer.transactional_id,
        }
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// InitProducerId: id and epoch.
    Init(Result<(i64, i16), TransactionError>),
    /// AddPartitionsToTxn, also one that only asked: partitions that are refused, where not all are.
    Add(Result<Vec<(TopicPartition, TransactionError)>, TransactionError>),
    /// EndTxn: id and epoch of the next transaction.
    End(Result<(i64, i16), TransactionError>),
}

/// InitProducerId.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitRequest {
    /// Whose transactions.
    pub transactional_id: Arc<str>,
    /// After how long a transaction is aborted.
    pub timeout_ms: i32,
    /// Id and epoch that the producer has, if it goes on (KIP-360).
    pub expected: Option<(i64, i16)>,
}

/// A producer as it names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// Its transactional id.
    pub transactional_id: Arc<str>,
    /// Its producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
}

/// AddPartitionsToTxn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddRequest {
    /// Whose.
    pub producer: Producer,
    /// What is to be part of its transaction.
    pub partitions: Vec<TopicPartition>,
    /// How it does transactions.
    pub version: TransactionVersion,
}

/// AddPartitionsToTxn that only asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    /// Whose.
    pub producer: Producer,
    /// What should be part of its transaction.
    pub partitions: Vec<TopicPartition>,
}

/// EndTxn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndRequest {
    /// Whose.
    pub producer: Producer,
    /// Commit, or abort.
    pub commit: bool,
    /// How it does transactions.
    pub version: TransactionVersion,
}

/// One transactional id, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its state.
    pub state: StateName,
    /// After how long a transaction is aborted.
    pub timeout_ms: i32,
    /// When the transaction began; -1 if there was none.
    pub start_ms: i64,
    /// Its producer.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// What belongs to the transaction.
    pub partitions: Vec<TopicPartition>,
}

/// Which transactional ids to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In one of these states; none: all.
    pub states: Vec<StateName>,
    /// Of these producers; none: all.
    pub producer_ids: Vec<i64>,
    /// With a transaction that began longer ago than this.
    pub longer_than_ms: Option<i64>,
}

/// One transactional id in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which.
    pub transactional_id: Arc<str>,
    /// Its producer.
    pub producer_id: i64,
    /// Its state.
    pub state: StateName,
}

/// The states of a transactional id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateName {
    /// No transaction yet, for this producer.
    Empty,
    /// A transaction with partitions.
    Ongoing,
    /// It is decided that it commits; its partitions are being told.
    PrepareCommit,
    /// It is decided that it aborts; its partitions are being told.
    PrepareAbort,
    /// All of its partitions know that it committed.
    CompleteCommit,
    /// All of its partitions know that it aborted.
    CompleteAbort,
}

impl StateName {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// The name as the protocol writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether it is decided how the transaction ends, and not everybody knows.
    pub const fn is_prepared(self) -> bool {
        match self {
            Self::PrepareCommit | Self::PrepareAbort => true,
            Self::Empty | Self::Ongoing | Self::CompleteCommit | Self::CompleteAbort => false,
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Verdicts, as the protocol numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionError {
    /// The coordinator is still replaying its log.
    CoordinatorLoadInProgress,
    /// Not now: ask again.
    CoordinatorNotAvailable,
    /// Another node coordinates this transactional id: ask which.
    NotCoordinator,
    /// What is asked can't be meant.
    InvalidRequest,
    /// The transaction is not in a state where this can be done.
    InvalidTxnState,
    /// The transactional id has another producer id, or is not known.
    InvalidProducerIdMapping,
    /// The timeout is not positive, or larger than allowed.
    InvalidTransactionTimeout,
    /// Another transaction, or another step of this one, is not over: ask again.
    ConcurrentTransactions,
    /// There is a newer producer with this transactional id.
    ProducerFenced,
    /// There is no such transactional id.
    TransactionalIdNotFound,
    /// The transaction can only be aborted.
    TransactionAbortable,
}

impl TransactionError {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::CoordinatorLoadInProgress,
        Self::CoordinatorNotAvailable,
        Self::NotCoordinator,
        Self::InvalidRequest,
        Self::InvalidTxnState,
        Self::InvalidProducerIdMapping,
        Self::InvalidTransactionTimeout,
        Self::ConcurrentTransactions,
        Self::ProducerFenced,
        Self::TransactionalIdNotFound,
        Self::TransactionAbortable,
    ];

    /// The verdict of that number.
    pub fn of_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }

    /// The protocol's number.
    pub const fn code(self) -> i16 {
        match self {
            Self::CoordinatorLoadInProgress => 14,
            Self::CoordinatorNotAvailable => 15,
            Self::NotCoordinator => 16,
            Self::InvalidRequest => 42,
            Self::InvalidTxnState => 48,
            Self::InvalidProducerIdMapping => 49,
            Self::InvalidTransactionTimeout => 50,
            Self::ConcurrentTransactions => 51,
            Self::ProducerFenced => 90,
            Self::TransactionalIdNotFound => 105,
            Self::TransactionAbortable => 120,
        }
    }
}
