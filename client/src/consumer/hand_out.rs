//! Handing records out: from the queues of the partitions to the application, in turn, without waiting.

use super::decode::{self, Decoded};
use super::partitions::{Next, Place, Taken};
use super::shared::Shared;
use crate::error::ClientError;
use crate::record::{ConsumedRecord, TopicPartition};

/// What is handed out at once.
struct Handed {
    records: Vec<ConsumedRecord>,
    /// Their bytes, as applications see them: what is fetched may be compressed.
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
}

impl Handed {
    fn is_full(&self) -> bool {
        self.records.len() >= self.max_records || self.bytes >= self.max_bytes
    }

    fn push(&mut self, record: ConsumedRecord) {
        self.bytes = self.bytes.saturating_add(record.size());
        self.records.push(record);
    }

    /// Takes those behind the first `count` back.
    fn truncate(&mut self, count: usize) {
        let bytes: usize = self.records.drain(count..).map(|record| record.size()).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Up to `max` records that are there, and about `poll_bytes` of them. Decompression happens outside the lock.
pub(super) fn hand_out(shared: &Shared, max: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
    let max_bytes = shared.config.poll_bytes;
    let mut handed = Handed { records: Vec::new(), bytes: 0, max_records: max, max_bytes };
    while !handed.is_full() {
        let (at, taken, generation) = {
            let mut state = shared.state();
            let Some(at) = state.partitions.next_ready() else { break };
            let Some(taken) = state.partitions.take(&at) else { break };
            (at, taken, state.membership.generation)
        };
        if matches!(taken.what, Next::Fetched(_)) {
            shared.changed.notify_one();
        }
        if let Err(error) = one(shared, &at, taken, generation, &mut handed) {
            if handed.records.is_empty() {
                return Err(error);
            }
            shared.fail(error);
            break;
        }
    }
    Ok(handed.records)
}

fn one(
    shared: &Shared,
    at: &TopicPartition,
    taken: Taken,
    generation: i32,
    handed: &mut Handed,
) -> Result<(), ClientError> {
    let Taken { epoch, mut position, what } = taken;
    let opened = match what {
        Next::Decoded(decoded) => Ok(Some(decoded)),
        Next::Fetched(fetched) => match fetched.batch {
            Some(batch) => decode::decode(batch, shared.config.max_batch_bytes).map(|d| Some(Box::new(d))),
            None => {
                position = position.max(fetched.next_offset);
                Ok(None)
            }
        },
    };
    let from = handed.records.len();
    let mut failure = None;
    let rest = match opened {
        Ok(Some(decoded)) => {
            let read = read(decoded, at, &mut position, generation, handed);
            read.unwrap_or_else(|what| {
                failure = Some(what);
                None
            })
        }
        Ok(None) => None,
        Err(what) => {
            failure = Some(what);
            None
        }
    };
    let mut state = shared.state();
    if state.partitions.in_epoch(at, epoch).is_none_or(|reading| reading.revoking) {
        // Taken away or moved while it was decoded: none of it may be handed out.
        handed.truncate(from);
        return Ok(());
    }
    state.partitions.put_back(at, epoch, position, rest);
    let Some(what) = failure else { return Ok(()) };
    if let Some(reading) = state.partitions.in_epoch(at, epoch) {
        reading.place = Place::Stuck;
    }
    Err(ClientError::Corrupt { at: at.clone(), offset: position, what: what.into() })
}

/// Moves records over; what is left of the batch when it is enough.
fn read(
    mut decoded: Box<Decoded>,
    at: &TopicPartition,
    position: &mut i64,
    generation: i32,
    handed: &mut Handed,
) -> Result<Option<Box<Decoded>>, String> {
    while !handed.is_full() {
        match decoded.next(at, *position, generation) {
            Some(Ok(record)) => {
                *position = record.offset + 1;
                handed.push(record);
            }
            Some(Err(what)) => return Err(what),
            None => {
                *position = (*position).max(decoded.next_offset());
                return Ok(None);
            }
        }
    }
    Ok(Some(decoded))
}
