//! Producer ids, taken from the metadata in blocks: one durable command per thousand, and none is given twice, not even
//! over a crash (the rest of a block is then lost, which costs nothing).

use std::collections::VecDeque;

use wherry_metadata::{Change, Command};

use super::Core;
use super::consensus::{AfterCommit, Results};
use super::coordinators::Term;
use super::store::LogStore;
use crate::api;
use crate::limits::{MAX_PRODUCER_ID_WAITERS, PRODUCER_ID_BLOCK};
use crate::transactions::IdAsk;

/// Ids in hand, and who waits for more.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
    asked: bool,
    waiting: VecDeque<IdWaiter>,
}

/// Who wants an id.
#[derive(Debug, Clone)]
pub(crate) enum IdWaiter {
    /// A client's InitProducerId.
    Client(api::Ctx),
    /// A transaction coordinator.
    Coordinator { partition: i32, term: Term, ask: IdAsk },
}

/// What became of a wish for an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProducerIdGrant {
    /// Here it is.
    Now(i64),
    /// The request is answered when the next block is durable.
    Later,
    /// Not now.
    Refused,
}

impl<S: LogStore> Core<S> {
    /// Takes an id, or lets the request wait for one.
    pub(crate) fn take_producer_id(&mut self, waiter: IdWaiter) -> ProducerIdGrant {
        if let Some(id) = self.producer_ids.take() {
            return ProducerIdGrant::Now(id);
        }
        if self.producer_ids.waiting.len() >= MAX_PRODUCER_ID_WAITERS || !self.ask_for_block() {
            return ProducerIdGrant::Refused;
        }
        self.producer_ids.waiting.push_back(waiter);
        ProducerIdGrant::Later
    }

    fn ask_for_block(&mut self) -> bool {
        if self.producer_ids.asked {
            return true;
        }
        let command = Command::ReserveProducerIds { first: self.meta.next_producer_id(), count: PRODUCER_ID_BLOCK };
        self.producer_ids.asked = self.propose(vec![command], AfterCommit::ProducerIds).is_ok();
        self.producer_ids.asked
    }

    pub(crate) fn producer_ids_committed(&mut self, results: Results) {
        self.producer_ids.asked = false;
        for result in results {
            if let Ok(Change::ProducerIds(block)) = result {
                self.producer_ids.next = block.first;
                self.producer_ids.end = block.first.saturating_add(block.count);
            }
        }
        // Who waited is served from the new block; if there are more of them than ids, the rest asks again.
        for waiter in std::mem::take(&mut self.producer_ids.waiting) {
            match self.take_producer_id(waiter.clone()) {
                ProducerIdGrant::Now(id) => self.grant_producer_id(waiter, Some(id)),
                ProducerIdGrant::Later => {}
                ProducerIdGrant::Refused => self.grant_producer_id(waiter, None),
            }
        }
    }

    fn grant_producer_id(&mut self, waiter: IdWaiter, id: Option<i64>) {
        match waiter {
            IdWaiter::Client(ctx) => {
                let refused = || api::init_producer_id::refused(&ctx);
                let outcome = id.map_or_else(refused, |id| api::init_producer_id::granted(&ctx, id));
                self.finish(ctx.id, outcome);
            }
            IdWaiter::Coordinator { partition, term, ask } => self.transaction_id_came(partition, term, ask, id),
        }
    }
}

impl ProducerIds {
    fn take(&mut self) -> Option<i64> {
        let id = (self.next < self.end).then_some(self.next)?;
        self.next += 1;
        Some(id)
    }
}
