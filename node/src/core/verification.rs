//! Before the first batch of a transaction is appended to a partition, the transaction's coordinator says that the partition
//! belongs to it (KIP-890): a batch that comes late must not open a transaction that nobody will ever end. The request waits
//! meanwhile, and its connection with it, so that what follows stays behind it (trap 12).
//!
//! ```text
//! produce ─> open here already? ─> append
//!         └> guard, ask ── yes ─> guard still there? ─> append
//!                     │                          └─ a marker came in between: refused
//!                     └ no, or not now ─> refused
//! ```
//! A guard also remembers the lowest sequence that was asked for: while that has not been appended, a later one of a
//! producer that the partition does not know must not pass it. Guards that are lost cost no more than that check.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LeaderEpoch, LogId};

use super::conn::{Blocked, ConnId};
use super::store::LogStore;
use super::verify::{Verify, VerifyToken};
use super::{Core, partition_of};
use crate::api;
use crate::api::produce::ProduceOp;
use crate::limits::MAX_VERIFICATIONS;

/// What has to be verified of one partition of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) log: LogId,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    /// In which this node leads it.
    pub(crate) leader_epoch: LeaderEpoch,
}

#[derive(Debug, Clone, Copy)]
struct Guard {
    id: u64,
    producer_epoch: i16,
    leader_epoch: LeaderEpoch,
    lowest_sequence: i32,
}

/// What a request was told.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Its claims, and the guard of each.
    claims: SmallVec<[(Claim, u64); 1]>,
    refused: Option<ResponseError>,
}

/// Why a batch must not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// The coordinator said so, or could not be asked.
    Refused(ResponseError),
    /// The transaction has ended since, or it was never asked for.
    Ended,
    /// Earlier batches of the producer must come first.
    Sequence,
}

/// Requests that wait for coordinators: one per connection at the most.
#[derive(Debug, Default)]
pub(crate) struct Verification {
    last: u64,
    guards: HashMap<(LogId, i64), Guard, RandomState>,
    waiting: HashMap<VerifyToken, Box<ProduceOp>, RandomState>,
    /// A test is the coordinator: what it is asked.
    #[cfg(test)]
    pub(crate) by_hand: Option<Vec<(VerifyToken, Verify)>>,
}

impl Verification {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A marker was written: who asked before asked about a transaction that is over.
    pub(crate) fn ended(&mut self, log: LogId, producer_id: i64) {
        self.guards.remove(&(log, producer_id));
    }

    /// The connection is gone.
    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.waiting.retain(|_, op| op.ctx.id.conn != conn);
    }

    /// Whether a claim may be appended, now that its request was answered.
    pub(crate) fn check(&self, verified: &Verified, claim: &Claim) -> Result<(), Unverified> {
        let same = |c: &Claim| {
            (c.log, c.producer_id, c.producer_epoch) == (claim.log, claim.producer_id, claim.producer_epoch)
        };
        let Some((_, id)) = verified.claims.iter().find(|(c, _)| same(c)) else { return Err(Unverified::Ended) };
        if let Some(error) = verified.refused {
            return Err(Unverified::Refused(error));
        }
        let guard = self.guards.get(&(claim.log, claim.producer_id));
        let Some(guard) = guard.filter(|guard| guard.id == *id && guard.leader_epoch == claim.leader_epoch) else {
            return Err(Unverified::Ended);
        };
        if claim.base_sequence > guard.lowest_sequence { Err(Unverified::Sequence) } else { Ok(()) }
    }

    fn guard(&mut self, claim: &Claim) -> u64 {
        let key = (claim.log, claim.producer_id);
        if self.guards.len() >= MAX_VERIFICATIONS && !self.guards.contains_key(&key) {
            self.drop_idle();
        }
        self.last += 1;
        let fresh = Guard {
            id: self.last,
            producer_epoch: claim.producer_epoch,
            leader_epoch: claim.leader_epoch,
            lowest_sequence: claim.base_sequence,
        };
        let guard = self.guards.entry(key).or_insert(fresh);
        if (guard.producer_epoch, guard.leader_epoch) != (claim.producer_epoch, claim.leader_epoch) {
            *guard = fresh;
        }
        guard.lowest_sequence = guard.lowest_sequence.min(claim.base_sequence);
        guard.id
    }

    /// Drops the guards that no request waits with.
    fn drop_idle(&mut self) {
        let claims = self.waiting.values().flat_map(|op| &op.verified.claims);
        let used: HashSet<u64> = claims.map(|(_, guard)| *guard).collect();
        self.guards.retain(|_, guard| used.contains(&guard.id));
    }
}

impl<S: LogStore> Core<S> {
    /// A transaction is open in a log, in this epoch of its producer.
    pub(crate) fn is_open(&self, log: LogId, producer_id: i64, epoch: i16) -> bool {
        let known = self.store.producer(log, producer_id);
        known.is_some_and(|known| known.open_from.is_some() && known.producer_epoch == epoch)
    }

    /// Has claims of one producer verified; the request goes on when [`Core::verified`] is called.
    pub(crate) fn verify_first(&mut self, mut op: ProduceOp, transactional_id: String, claims: &[Claim], add: bool) {
        let Some(first) = claims.first() else { return };
        let verify = Verify {
            transactional_id,
            producer_id: first.producer_id,
            producer_epoch: first.producer_epoch,
            partitions: claims.iter().map(|claim| partition_of(claim.log)).collect::<Vec<PartitionId>>(),
            add,
        };
        op.verified.claims = claims.iter().map(|claim| (*claim, self.verification.guard(claim))).collect();
        let Some(connection) = self.connection(op.ctx.id.conn) else { return };
        connection.blocked = Blocked::Verifying;
        self.verification.last += 1;
        let ask = VerifyToken(self.verification.last);
        self.verification.waiting.insert(ask, Box::new(op));
        #[cfg(test)]
        if let Some(asked) = &mut self.verification.by_hand {
            return asked.push((ask, verify));
        }
        self.verify_transaction(ask, verify);
    }

    /// The coordinator has answered, or can't be asked: the request goes on.
    pub(crate) fn verified(&mut self, ask: VerifyToken, result: Result<(), ResponseError>) {
        let Some(mut op) = self.verification.waiting.remove(&ask) else { return };
        op.verified.refused = result.err();
        let id = op.ctx.id;
        let Some(connection) = self.connection(id.conn) else { return };
        connection.blocked = Blocked::No;
        let outcome = api::produce::run(self, *op);
        self.finish(id, outcome);
    }
}
