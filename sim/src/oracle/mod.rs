//! What clients have been told, and so what must be true. The node is judged by its answers alone.

mod groups;
mod logs;
mod topics;
mod transactions;

pub(crate) use groups::GroupOracle;
pub(crate) use logs::{LogOracle, Place, RecordId, value};
pub(crate) use topics::{Expected, TopicOracle};
pub(crate) use transactions::{Grant, TransactionOracle, TxnId};

/// All oracles, and the first promise that was broken.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) logs: LogOracle,
    pub(crate) groups: GroupOracle,
    pub(crate) topics: TopicOracle,
    pub(crate) transactions: TransactionOracle,
    /// Messages that were told to be there already.
    pub(crate) duplicates: u64,
    producer_ids: std::collections::BTreeSet<i64>,
    broken: Option<String>,
}

/// A promise is kept, or this is how it was broken.
pub(crate) type Verdict = Result<(), String>;

impl Oracle {
    /// For a cluster of so many nodes.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { logs: LogOracle::new(nodes), ..Self::default() }
    }

    /// Keeps the first broken promise: what follows it is confusion.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        if let Err(what) = verdict {
            self.broken.get_or_insert(what);
        }
    }

    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// When every partition has been read from its start to its end.
    pub(crate) fn judge_whole(&self) -> Verdict {
        self.logs.judge_whole()?;
        self.transactions.judge_whole()
    }

    /// A producer id belongs to one producer, for ever.
    pub(crate) fn producer_id(&mut self, id: i64) {
        if !self.producer_ids.insert(id) {
            self.judge(Err(format!("producer id {id} was given to two producers")));
        }
    }
}
