//! Message ids in a produce request (`wherry_wire::codec::dedupe`): a producer that asks is told which of its records are there
//! already, and nothing of their batch is appended. Ids of other producers' records are remembered all the same.

use wherry_metadata::Topic;
use wherry_wire::batch::CheckedBatch;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::{Failure, ProduceOp, invalid};
use crate::api::errors::ApiError;
use crate::core::Core;
use crate::core::message_ids::{BatchIds, Verdict, Window};
use crate::core::store::{Appended, LogStore};

/// What is to be remembered once the batches are appended.
pub(super) struct Ids {
    window: Window,
    epoch: LeaderEpoch,
    batches: Vec<BatchIds>,
}

/// The ids of batches that may be appended; `None` where the topic does not care for ids.
pub(super) fn check<S: LogStore>(
    core: &mut Core<S>,
    op: &ProduceOp,
    topic: &Topic,
    log: LogId,
    epoch: LeaderEpoch,
    batches: &[CheckedBatch],
) -> Result<Option<Ids>, Failure> {
    let Some(window_ms) = topic.config.dedupe_window_ms else { return Ok(None) };
    let window = Window { ns: window_ms.saturating_mul(1_000_000), max_ids: topic.config.dedupe_max_ids };
    let mut found = Vec::with_capacity(batches.len());
    for batch in batches {
        let ids = match core.ids_in(log, batch, op.asks_for_duplicates) {
            Ok(ids) => ids,
            Err(error) if op.asks_for_duplicates => {
                return Err(ApiError::new(ResponseError::CorruptMessage, error).into());
            }
            Err(_) => BatchIds::new(),
        };
        found.push(ids);
    }
    let ids = Ids { window, epoch, batches: found };
    if !op.asks_for_duplicates {
        return Ok(Some(ids));
    }
    let ([batch], [batch_ids]) = (batches, ids.batches.as_slice()) else {
        return Err(invalid("a producer that asks for duplicates sends one batch per partition and request").into());
    };
    match core.find_ids(log, epoch, window, batch, batch_ids) {
        Verdict::Fresh => Ok(Some(ids)),
        // Sent again after a lost answer: it is its own original.
        Verdict::Duplicates(_) | Verdict::NotYet(_) if core.store.has_batch(log, batch) => Ok(Some(ids)),
        Verdict::Duplicates(duplicates) => {
            core.stats.duplicate_ids.add(duplicates.len() as u64);
            Err(Failure::Duplicates(duplicates))
        }
        Verdict::NotYet(why) => Err(ApiError::new(ResponseError::NotEnoughReplicas, why).into()),
    }
}

impl Ids {
    /// The batches were appended.
    pub(super) fn remember<S: LogStore>(
        &self,
        core: &mut Core<S>,
        log: LogId,
        batches: &[CheckedBatch],
        appended: &Appended,
    ) {
        let mut base = appended.base_offset;
        for (batch, ids) in batches.iter().zip(&self.batches) {
            if !ids.is_empty() {
                core.remember_ids(log, self.epoch, self.window, batch, base, ids);
            }
            base = Offset(base.0.saturating_add(i64::from(batch.header().last_offset_delta) + 1));
        }
        core.stats.message_ids.set(core.message_ids.held() as u64);
    }
}
