//! Handing records out: from the queues of the partitions to the application, in turn, without waiting.

use super::decode::{self, Decoded};
use super::partitions::{Next, Place, Taken};
use super::shared::Shared;
use crate::error::ClientError;
use crate::record::{ConsumedRecord, TopicPartition};

/// Up to `max` records that are there. Decompression happens outside the lock.
pub(super) fn hand_out(shared: &Shared, max: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
    let mut records = Vec::new();
    while records.len() < max {
        let (at, taken, generation) = {
            let mut state = shared.state();
            let Some(at) = state.partitions.next_ready() else { break };
            let Some(taken) = state.partitions.take(&at) else { break };
            (at, taken, state.membership.generation)
        };
        if matches!(taken.what, Next::Fetched(_)) {
            shared.changed.notify_one();
        }
        if let Err(error) = one(shared, &at, taken, generation, max, &mut records) {
            if records.is_empty() {
                return Err(error);
            }
            shared.fail(error);
            break;
        }
    }
    Ok(records)
}

fn one(
    shared: &Shared,
    at: &TopicPartition,
    taken: Taken,
    generation: i32,
    max: usize,
    records: &mut Vec<ConsumedRecord>,
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
    let from = records.len();
    let mut failure = None;
    let rest = match opened {
        Ok(Some(decoded)) => {
            let read = read(decoded, at, &mut position, generation, max, records);
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
        records.truncate(from);
        return Ok(());
    }
    state.partitions.put_back(at, epoch, position, rest);
    let Some(what) = failure else { return Ok(()) };
    if let Some(reading) = state.partitions.in_epoch(at, epoch) {
        reading.place = Place::Stuck;
    }
    Err(ClientError::Corrupt { at: at.clone(), offset: position, what: what.into() })
}

/// Moves records over; what is left of the batch when `max` is reached.
fn read(
    mut decoded: Box<Decoded>,
    at: &TopicPartition,
    position: &mut i64,
    generation: i32,
    max: usize,
    records: &mut Vec<ConsumedRecord>,
) -> Result<Option<Box<Decoded>>, String> {
    while records.len() < max {
        match decoded.next(at, *position, generation) {
            Some(Ok(record)) => {
                *position = record.offset + 1;
                records.push(record);
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
