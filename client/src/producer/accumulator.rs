//! Where records wait for the sender: one accumulator per partition, behind its own short lock.
//!
//! ```text
//! push ──▶ open batch ──full──▶ ready queue ──take──▶ sender
//!              └────────────────take (nothing in flight, or lingered long enough)──▶ sender
//! ```
//! The accumulator knows when the sender wants to be woken, so that a record usually wakes nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use wherry_wire::records::BuildError;

use super::CLOSED;
use super::batch::OpenBatch;
use super::receipt::{Delivery, Receipt};
use crate::config::Codec;
use crate::error::{ClientError, Result};
use crate::record::ProduceRecord;

/// When the sender wants to hear of this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// It will look by itself.
    Never,
    /// A batch became full: it may go beside those in flight.
    OnFull,
    /// Anything at all.
    OnAny,
}

/// What the sender may take when.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakeRule {
    pub(super) now: Instant,
    /// Nothing of the partition is in flight.
    pub(super) idle: bool,
    pub(super) linger: Duration,
    /// Somebody flushes: no linger.
    pub(super) flushing: bool,
}

/// What there was to take.
#[derive(Debug)]
pub(super) enum Taken {
    /// This batch.
    Batch(OpenBatch),
    /// Nothing yet; the open batch has lingered long enough at this time.
    NotBefore(Instant),
    /// Nothing; the accumulator will wake the sender.
    Nothing,
}

/// A partition that is produced to.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) index: i32,
    /// Its place among the sender's lanes.
    pub(super) lane: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    open: Option<OpenBatch>,
    full: VecDeque<OpenBatch>,
    /// Receipts not settled yet, oldest first, those of batches that the sender has included.
    unsettled: VecDeque<Arc<Receipt>>,
    wake: Wake,
    closed: bool,
    /// Size of the last batch: the next one's buffer starts with as much.
    last_bytes: usize,
}

/// What batches are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Size at which one is full, before compression.
    pub(super) batch_bytes: usize,
    /// Compression and its level.
    pub(super) codec: (Codec, Option<i32>),
    /// They belong to transactions.
    pub(super) transactional: bool,
    /// They have message ids that the topic cares for.
    pub(super) asks: bool,
}

fn too_large(record: &ProduceRecord, size: usize, error: &BuildError) -> ClientError {
    let what = format!("a record for topic {} ({error})", record.topic).into();
    ClientError::TooLarge { what, size, limit_name: "the largest batch", limit: wherry_wire::limits::MAX_BATCH_BYTES }
}

/// A record's future receipt, and whether the sender is to be woken.
pub(super) struct Pushed {
    pub(super) delivery: Delivery,
    pub(super) wake: bool,
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, index: i32, lane: usize) -> Self {
        let state = State {
            open: None,
            full: VecDeque::new(),
            unsettled: VecDeque::new(),
            wake: Wake::OnAny,
            closed: false,
            last_bytes: 0,
        };
        Self { topic, index, lane, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a record of at most `size` bytes.
    pub(super) fn push(&self, record: &ProduceRecord, size: usize, timestamp_ms: i64, shape: Shape) -> Result<Pushed> {
        let mut state = self.state();
        if state.closed {
            return Err(CLOSED);
        }
        let mut wake = state.wake == Wake::OnAny;
        if state.open.as_ref().is_some_and(|open| open.len() + size > shape.batch_bytes) {
            let full = state.open.take();
            state.full.extend(full);
            wake |= state.wake == Wake::OnFull;
        }
        if state.open.is_none() {
            self.begin(&mut state, shape, size);
        }
        if wake {
            state.wake = Wake::Never;
        }
        let Some(open) = &mut state.open else { return Err(CLOSED) };
        open.asks |= shape.asks;
        let delivery = open.push(record, size, timestamp_ms).map_err(|error| too_large(record, size, &error))?;
        Ok(Pushed { delivery, wake })
    }

    fn begin(&self, state: &mut State, shape: Shape, size: usize) {
        let receipt = Receipt::new(self.topic.clone(), self.index);
        state.unsettled.push_back(receipt.clone());
        let capacity = state.last_bytes.max(size);
        state.open = Some(OpenBatch::new(receipt, shape, capacity, Instant::now()));
    }

    /// The next batch, if the rule lets one go. Where there is none, the accumulator arranges to wake the sender.
    pub(super) fn take(&self, rule: TakeRule) -> Taken {
        let mut state = self.state();
        while state.unsettled.front().is_some_and(|receipt| receipt.is_settled()) {
            state.unsettled.pop_front();
        }
        if let Some(full) = state.full.pop_front() {
            state.last_bytes = full.len();
            return Taken::Batch(full);
        }
        let Some(open) = &state.open else {
            state.wake = if rule.idle || !rule.linger.is_zero() { Wake::OnAny } else { Wake::OnFull };
            return Taken::Nothing;
        };
        let lingered = open.opened + rule.linger;
        let may_go = if rule.linger.is_zero() || rule.flushing { rule.idle } else { lingered <= rule.now };
        if may_go {
            state.last_bytes = open.len();
            return state.open.take().map_or(Taken::Nothing, Taken::Batch);
        }
        state.wake = Wake::OnFull;
        if rule.linger.is_zero() || rule.flushing { Taken::Nothing } else { Taken::NotBefore(lingered) }
    }

    /// Batches that nobody has taken and that wait since before `opened`, oldest first: too old to be sent at all.
    pub(super) fn take_older(&self, opened: Instant) -> Vec<OpenBatch> {
        let mut state = self.state();
        let mut old = Vec::new();
        while state.full.front().is_some_and(|batch| batch.opened < opened) {
            old.extend(state.full.pop_front());
        }
        if state.full.is_empty() && state.open.as_ref().is_some_and(|batch| batch.opened < opened) {
            old.extend(state.open.take());
        }
        old
    }

    /// Whether it holds records that nobody has taken.
    pub(super) fn has_records(&self) -> bool {
        let state = self.state();
        state.open.is_some() || !state.full.is_empty()
    }

    /// Takes no more records if it holds none now; says whether it holds none.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut state = self.state();
        let empty = state.open.is_none() && state.full.is_empty();
        state.closed |= empty;
        empty
    }

    /// The receipts that are open now.
    pub(super) fn unsettled(&self) -> Vec<Arc<Receipt>> {
        self.state().unsettled.iter().filter(|receipt| !receipt.is_settled()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { batch_bytes: 161, codec: (Codec::None, None), transactional: false, asks: false };

    fn push(partition: &Partition, bytes: usize) -> bool {
        let record = ProduceRecord::new("t", vec![0; bytes]);
        partition.push(&record, bytes + 10, 0, SHAPE).unwrap().wake
    }

    fn rule(idle: bool, linger_ms: u64) -> TakeRule {
        TakeRule { now: Instant::now(), idle, linger: Duration::from_millis(linger_ms), flushing: false }
    }

    #[test]
    fn an_idle_partition_sends_at_once_and_wakes_once() {
        let p = Partition::new("t".into(), 0, 0);
        assert!(push(&p, 10), "the first record wakes the sender");
        assert!(!push(&p, 10), "the second does not");
        assert!(matches!(p.take(rule(true, 0)), Taken::Batch(b) if b.len() > 20));
        assert!(matches!(p.take(rule(false, 0)), Taken::Nothing));
        assert!(!push(&p, 10), "in flight: a lone record waits");
        assert!(!push(&p, 10));
        assert!(push(&p, 80), "a full batch wakes the sender");
        assert!(matches!(p.take(rule(false, 0)), Taken::Batch(_)));
        assert!(matches!(p.take(rule(false, 0)), Taken::Nothing), "the rest waits for what is in flight");
        assert!(matches!(p.take(rule(true, 0)), Taken::Batch(_)));
    }

    #[test]
    fn linger_waits_unless_flushed() {
        let p = Partition::new("t".into(), 0, 0);
        assert!(push(&p, 10));
        assert!(matches!(p.take(rule(true, 60_000)), Taken::NotBefore(_)));
        assert!(!push(&p, 10));
        assert!(matches!(p.take(TakeRule { flushing: true, ..rule(true, 60_000) }), Taken::Batch(_)));
    }

    #[test]
    fn closes_only_when_empty() {
        let p = Partition::new("t".into(), 0, 0);
        push(&p, 60);
        push(&p, 60);
        assert_eq!(p.unsettled().len(), 2);
        assert!(!p.close_if_empty());
        assert!(matches!(p.take(rule(true, 0)), Taken::Batch(_)));
        assert!(matches!(p.take(rule(true, 0)), Taken::Batch(_)));
        assert!(p.close_if_empty());
        assert!(p.push(&ProduceRecord::new("t", ""), 10, 0, SHAPE).is_err());
    }
}
