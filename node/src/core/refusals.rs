//! What idempotent producers were refused lately on a connection, and must send again before anything that follows it.
//!
//! Clients send several batches of a partition without waiting. While leadership moves, the first of them may be refused
//! and a later one find the leader in office: to the log it is out of order, and a client that is told so gives itself a
//! new identity (librdkafka raises its epoch) and sends what it takes for refused under that one, although an earlier
//! leader may have stored it: it would be stored twice. So whoever follows a refused batch is refused in the same way,
//! which every client answers by sending all of them again, in order.
//!
//! A batch that was appended and then given up with the leadership counts as refused, too: the node may lead again, without
//! it, before what follows it gets here over a network that was cut.

use std::collections::VecDeque;

use wherry_wire::batch::BatchHeader;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::LogId;

use crate::limits::MAX_REFUSALS_PER_CONNECTION;

/// How long what was under way together with a refused batch may take to get here, in nanoseconds.
const LASTS_NS: u64 = 10_000_000_000;

/// The refusals of one connection.
#[derive(Debug, Default)]
pub(crate) struct Refusals(VecDeque<Refusal>);

/// A batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequenced {
    pub(crate) producer_id: i64,
    epoch: i16,
    /// Of its first record.
    first: i32,
}

impl Sequenced {
    /// None, if nobody numbers it.
    pub(crate) fn of(header: &BatchHeader) -> Option<Self> {
        let producer_id = header.producer()?.0;
        Some(Self { producer_id, epoch: header.producer_epoch, first: header.base_sequence })
    }

    /// Whether it is sent before that one. Sequence numbers wrap from `i32::MAX` to 0.
    fn is_before(self, other: Self) -> bool {
        let ahead = other.first.wrapping_sub(self.first) & i32::MAX;
        self.epoch == other.epoch && ahead > 0 && ahead <= i32::MAX / 2
    }
}

#[derive(Debug)]
struct Refusal {
    log: LogId,
    batch: Sequenced,
    error: ResponseError,
    until_ns: u64,
}

impl Refusal {
    fn is_of(&self, log: LogId, batch: Sequenced) -> bool {
        (self.log, self.batch.producer_id) == (log, batch.producer_id)
    }
}

/// Refusals after which the client sends the same batch again.
fn is_sent_again(error: ResponseError) -> bool {
    matches!(
        error,
        ResponseError::NotLeaderOrFollower
            | ResponseError::NotEnoughReplicas
            | ResponseError::KafkaStorageError
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::RequestTimedOut
    )
}

impl Refusals {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How a batch that this one comes after was refused. A batch that does not come after it ends the matter.
    pub(crate) fn before(&mut self, now_ns: u64, log: LogId, batch: Sequenced) -> Option<ResponseError> {
        self.0.retain(|refusal| {
            refusal.until_ns > now_ns && (!refusal.is_of(log, batch) || refusal.batch.is_before(batch))
        });
        self.0.iter().find(|refusal| refusal.is_of(log, batch)).map(|refusal| refusal.error)
    }

    /// A batch is refused. The first of those that follow one another counts.
    pub(crate) fn note(&mut self, now_ns: u64, log: LogId, batch: Sequenced, error: ResponseError) {
        if !is_sent_again(error) || self.before(now_ns, log, batch).is_some() {
            return;
        }
        if self.0.len() >= MAX_REFUSALS_PER_CONNECTION {
            self.0.pop_front();
        }
        self.0.push_back(Refusal { log, batch, error, until_ns: now_ns.saturating_add(LASTS_NS) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = LogId { topic: uuid::Uuid::nil(), partition: 0 };
    const MOVED: ResponseError = ResponseError::NotLeaderOrFollower;

    fn batch(epoch: i16, first: i32) -> Sequenced {
        Sequenced { producer_id: 7, epoch, first }
    }

    fn after(epoch: i16, sequence: i32) -> Refusals {
        let mut refusals = Refusals::default();
        refusals.note(0, LOG, batch(epoch, sequence), MOVED);
        refusals
    }

    #[test]
    fn those_behind_a_refused_batch_are_refused_until_it_comes_again() {
        let mut refusals = after(0, 5);
        assert_eq!(refusals.before(1, LOG, batch(0, 6)), Some(MOVED));
        refusals.note(1, LOG, batch(0, 6), MOVED);
        assert_eq!(refusals.before(2, LOG, batch(0, 9)), Some(MOVED));
        assert_eq!(refusals.before(3, LOG, batch(0, 5)), None, "the batch itself");
        assert!(refusals.is_empty());
        assert_eq!(refusals.before(4, LOG, batch(0, 6)), None);
    }

    #[test]
    fn others_have_nothing_to_do_with_it() {
        let mut refusals = after(0, 5);
        assert_eq!(refusals.before(1, LogId { partition: 1, ..LOG }, batch(0, 6)), None);
        assert_eq!(refusals.before(1, LOG, Sequenced { producer_id: 8, ..batch(0, 6) }), None);
        assert_eq!(refusals.before(1, LOG, batch(0, 6)), Some(MOVED));
        assert_eq!(refusals.before(1, LOG, batch(1, 6)), None, "a new epoch begins anew");
        assert!(refusals.is_empty());
        assert!(Refusals::default().is_empty());
        refusals.note(0, LOG, batch(0, 5), ResponseError::MessageTooLarge);
        assert!(refusals.is_empty(), "the client gives that batch up");
    }

    #[test]
    fn sequences_wrap_and_time_passes() {
        let mut refusals = after(0, i32::MAX);
        assert_eq!(refusals.before(1, LOG, batch(0, 0)), Some(MOVED));
        assert_eq!(refusals.before(LASTS_NS, LOG, batch(0, 0)), None);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut refusals = Refusals::default();
        for partition in 0..2 * MAX_REFUSALS_PER_CONNECTION as i32 {
            refusals.note(0, LogId { partition, ..LOG }, batch(0, 1), MOVED);
        }
        assert_eq!(refusals.0.len(), MAX_REFUSALS_PER_CONNECTION);
    }
}
