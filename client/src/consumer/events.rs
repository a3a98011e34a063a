//! What happens to a member's assignment, as its application sees it.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::record::TopicPartition;

/// What happened to the assignment of a group member. Partitions not named stay as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RebalanceEvent {
    /// These partitions are about to be taken away; nothing of them is handed out any more. They are given up when
    /// [`RevokeWhen`](crate::RevokeWhen) says, or after `revoke_grace`; until then commits for them succeed.
    Revoking {
        /// Generation that ends.
        generation: i32,
        /// What goes.
        partitions: Vec<TopicPartition>,
    },
    /// A new generation is in force.
    Assigned {
        /// The generation; stamps every record from here on.
        generation: i32,
        /// What came.
        added: Vec<TopicPartition>,
        /// All there is now.
        assignment: Vec<TopicPartition>,
    },
    /// These partitions were lost without notice (session expired, fenced): someone else may already have them.
    Lost {
        /// Generation that ended.
        generation: i32,
        /// What went.
        partitions: Vec<TopicPartition>,
    },
    /// The reader was too slow and this many events were dropped: look at `assignment`.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A subscription to the rebalance events of a consumer.
#[derive(Debug)]
pub struct RebalanceEvents {
    receiver: broadcast::Receiver<RebalanceEvent>,
}

impl RebalanceEvents {
    pub(super) fn new(receiver: broadcast::Receiver<RebalanceEvent>) -> Self {
        Self { receiver }
    }

    /// The next event; `None` once the consumer is closed.
    pub async fn next(&mut self) -> Option<RebalanceEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(RebalanceEvent::Lagged { missed }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<RebalanceEvent> {
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Lagged(missed)) => Some(RebalanceEvent::Lagged { missed }),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
