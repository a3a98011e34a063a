//! What waits for the disk: tickets in order, each with what comes then.
//!
//! Tickets are nearly always pushed in growing order (a repeated batch waits for an older one), so a deque with an
//! insertion from the back is a priority queue without its cost. Bounded by the requests in flight.

use std::collections::VecDeque;

use bytes::Bytes;

use wherry_metadata::PartitionId;
use wherry_metadata::quorum::WriteId;
use wherry_wire::types::Offset;

use super::conn::RequestId;
use super::coordinators::Term;
use super::markers::MarkerToken;
use super::share::Sender;
use super::store::Ticket;
use crate::groups::{PersistError, PersistId};
use crate::mutation::mutated;

/// What comes when a ticket is durable.
#[derive(Debug)]
pub(crate) enum Then {
    /// A response, encoded already.
    Respond {
        /// Whose.
        request: RequestId,
        /// Its bytes.
        chunks: Vec<Bytes>,
        /// When the append was made, in monotonic nanoseconds; `None` for what is not a produce.
        appended_ns: Option<u64>,
    },
    /// Records of the quorum are on disk.
    QuorumWritten {
        /// Which.
        id: WriteId,
        /// What lies before it may go.
        trim: Option<Offset>,
    },
    /// A part of a request whose other parts wait to be committed.
    AckDurable {
        /// Its place.
        key: usize,
        /// Tells it from a later one in the same place.
        serial: u64,
    },
    /// The end of a transaction is committed in a partition.
    MarkerCommitted {
        /// The call that it belongs to.
        token: MarkerToken,
        /// Where.
        partition: PartitionId,
    },
    /// Records of a group coordinator are committed, or never will be.
    GroupPersisted {
        /// Its partition.
        partition: i32,
        /// Its leadership: what an earlier one wrote concerns nobody any more.
        term: Term,
        /// Which.
        id: PersistId,
        /// Whether they were appended.
        result: Result<(), PersistError>,
    },
    /// The same of a transaction coordinator.
    TransactionPersisted {
        /// Its partition.
        partition: i32,
        /// Its leadership.
        term: Term,
        /// Which.
        id: PersistId,
        /// Whether they were appended.
        result: Result<(), PersistError>,
    },
    /// A dead letter is committed.
    LetterCommitted {
        /// Who is told.
        sender: Sender,
    },
    /// The same of a share coordinator.
    SharePersisted {
        /// Its partition.
        partition: i32,
        /// Its leadership.
        term: Term,
        /// Which.
        id: PersistId,
        /// Whether they were appended.
        result: Result<(), PersistError>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct DurableQueue {
    waiting: VecDeque<(Ticket, Then)>,
    durable: Option<Ticket>,
}

impl DurableQueue {
    pub(crate) fn push(&mut self, ticket: Ticket, then: Then) {
        let at = self.waiting.iter().rposition(|(t, _)| *t <= ticket).map_or(0, |i| i + 1);
        self.waiting.insert(at, (ticket, then));
    }

    pub(crate) fn advance(&mut self, to: Ticket) {
        self.durable = self.durable.max(Some(to));
    }

    pub(crate) fn is_durable(&self, ticket: Ticket) -> bool {
        self.durable >= Some(ticket)
    }

    /// The next that may go on.
    pub(crate) fn pop(&mut self) -> Option<Then> {
        let (ticket, then) = self.waiting.front()?;
        if !self.is_durable(*ticket) && !may_hurry(then) {
            return None;
        }
        self.waiting.pop_front().map(|(_, then)| then)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Whether a mutation lets this go on too early; never in production.
fn may_hurry(then: &Then) -> bool {
    match then {
        Then::Respond { .. } => mutated!(AckBeforeDurable),
        Then::GroupPersisted { .. } | Then::TransactionPersisted { .. } | Then::SharePersisted { .. } => {
            mutated!(CommitBeforeDurable)
        }
        Then::QuorumWritten { .. } => mutated!(HastyQuorum),
        Then::AckDurable { .. } | Then::MarkerCommitted { .. } | Then::LetterCommitted { .. } => {
            mutated!(AckBeforeDurable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ConnId;

    fn then(sequence: u64) -> Then {
        let request = RequestId { conn: ConnId { slot: 0, generation: 0 }, sequence };
        Then::Respond { request, chunks: Vec::new(), appended_ns: None }
    }

    fn popped(queue: &mut DurableQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop())
            .map(|then| match then {
                Then::Respond { request, .. } => request.sequence,
                Then::QuorumWritten { .. }
                | Then::AckDurable { .. }
                | Then::MarkerCommitted { .. }
                | Then::GroupPersisted { .. }
                | Then::TransactionPersisted { .. }
                | Then::LetterCommitted { .. }
                | Then::SharePersisted { .. } => panic!(),
            })
            .collect()
    }

    #[test]
    fn nothing_before_its_ticket_and_equals_in_order() {
        let mut queue = DurableQueue::default();
        for (ticket, n) in [(3, 0), (5, 1), (5, 2), (4, 3), (9, 4)] {
            queue.push(Ticket(ticket), then(n));
        }
        assert_eq!(popped(&mut queue), [] as [u64; 0]);
        queue.advance(Ticket(5));
        assert_eq!(popped(&mut queue), [0, 3, 1, 2]);
        queue.push(Ticket(2), then(5));
        assert_eq!(popped(&mut queue), [5], "a ticket that is durable already");
        queue.advance(Ticket(1));
        assert!(queue.is_durable(Ticket(5)), "durability does not go back");
    }
}
