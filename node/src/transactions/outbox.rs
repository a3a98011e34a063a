//! What a step gives out: replies, and writes with what is to follow once they are committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record;
use super::transaction::Transaction;
use super::types::{Effect, Effects, IdAsk, PersistId, Request, RequestRef, Response, TransactionError};

/// What follows a write, beside the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    /// Somebody gets this answer, or an error of the same kind.
    Answer { request: RequestRef, response: Response },
    /// Nobody waits: a transaction took too long, or all of its partitions know its end.
    Nobody,
}

/// A write that is on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) transactional_id: Arc<str>,
    /// The state that the record says; `None`: the id is forgotten.
    pub(super) next: Option<Transaction>,
    pub(super) after: After,
}

/// Where a step puts what it gives out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    effects: Effects,
    pending: BTreeMap<PersistId, Pending>,
    last_persist: u64,
    /// Requests that wait for a producer id.
    asks: BTreeMap<IdAsk, (RequestRef, Request)>,
    last_ask: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn reply(&mut self, request: RequestRef, response: Response) {
        self.push(Effect::Reply { request, response });
    }

    pub(super) fn persist(&mut self, pending: Pending) -> PersistId {
        self.last_persist += 1;
        let id = PersistId(self.last_persist);
        let records = vec![record::record(&pending.transactional_id, pending.next.as_ref())];
        self.pending.insert(id, pending);
        self.push(Effect::Persist { id, records });
        id
    }

    pub(super) fn take_pending(&mut self, id: PersistId) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// How many writes are on their way.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The request goes on when a producer id is there.
    pub(super) fn ask_id(&mut self, request: RequestRef, body: Request) {
        self.last_ask += 1;
        let ask = IdAsk(self.last_ask);
        self.asks.insert(ask, (request, body));
        self.push(Effect::ProducerId { ask });
    }

    pub(super) fn take_ask(&mut self, ask: IdAsk) -> Option<(RequestRef, Request)> {
        self.asks.remove(&ask)
    }

    pub(super) fn asks(&self) -> usize {
        self.asks.len()
    }

    pub(super) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Whoever waits is told this; nothing follows any write any more.
    pub(super) fn refuse_all(&mut self, error: TransactionError) {
        for (request, body) in std::mem::take(&mut self.asks).into_values() {
            self.reply(request, refused(error, &body));
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let After::Answer { request, response } = pending.after {
                self.reply(request, failed(error, &response));
            }
        }
    }
}

/// The answer to any request when all of it is refused.
pub(crate) fn refused(error: TransactionError, request: &Request) -> Response {
    match request {
        Request::Init(_) => Response::Init(Err(error)),
        Request::Add(_) | Request::Verify(_) => Response::Add(Err(error)),
        Request::End(_) => Response::End(Err(error)),
    }
}

/// The answer in place of this one, whose write failed.
pub(super) fn failed(error: TransactionError, response: &Response) -> Response {
    match response {
        Response::Init(_) => Response::Init(Err(error)),
        Response::Add(_) => Response::Add(Err(error)),
        Response::End(_) => Response::End(Err(error)),
    }
}
