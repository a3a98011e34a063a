//! The node's own logs: records go in as batches of the same format that clients use, into the same engine, with the same
//! promises. Here: appending records, and reading a whole log back at start.

use bytes::Bytes;
use wherry_wire::records::Stamp;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::store::{Appended, Event, LogError, LogStore, Now, Read, ReadUpTo, Served, Ticket};
use super::{Core, records};
use crate::error::NodeError;
use crate::limits::{METADATA_BATCH_BYTES, REPLAY_READ_BYTES};

/// A record of an internal log: key and value.
pub(crate) type Pair = (Option<Bytes>, Option<Bytes>);

impl<S: LogStore> Core<S> {
    /// Appends records that have no key to an internal log.
    pub(crate) fn append_values(&mut self, log: LogId, values: &[Vec<u8>]) -> Result<Ticket, LogError> {
        let pairs: Vec<Pair> = values.iter().map(|value| (None, Some(Bytes::copy_from_slice(value)))).collect();
        self.append_pairs(log, LeaderEpoch(0), &pairs).map(|appended| appended.ticket)
    }

    /// Appends records to an internal log, in as few batches as their size allows, all or none.
    pub(crate) fn append_pairs(
        &mut self,
        log: LogId,
        epoch: LeaderEpoch,
        pairs: &[Pair],
    ) -> Result<Appended, LogError> {
        let mut batches = Vec::new();
        for part in in_batches(pairs) {
            let batch = records::batch(part, self.now.wall_ms).map_err(|what| LogError::Rejected { log, what })?;
            batches.push(batch);
        }
        self.store.append_reserved(log, &batches, epoch, self.now.wall_ms)
    }

    /// Appends records to an internal log in a producer's transaction, in one batch.
    pub(crate) fn append_transactional_pairs(
        &mut self,
        log: LogId,
        epoch: LeaderEpoch,
        stamp: Stamp,
        pairs: &[Pair],
    ) -> Result<Appended, LogError> {
        let batch = records::transactional_batch(pairs, stamp, self.now.wall_ms);
        let batch = batch.map_err(|what| LogError::Rejected { log, what })?;
        self.store.append_reserved(log, &[batch], epoch, self.now.wall_ms)
    }
}

/// Cuts records into runs of a bounded size; each run holds at least one.
fn in_batches(pairs: &[Pair]) -> Vec<&[Pair]> {
    let size = |(key, value): &Pair| key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len) + 16;
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (n, pair) in pairs.iter().enumerate() {
        if n > start && bytes + size(pair) > METADATA_BATCH_BYTES {
            runs.extend(pairs.get(start..n));
            (start, bytes) = (n, 0);
        }
        bytes += size(pair);
    }
    runs.extend(pairs.get(start..).filter(|rest| !rest.is_empty()));
    runs
}

/// Reads a whole log from its start and hands over each record; blocks. For the start of a node, when nothing else runs.
pub(crate) fn replay<S: LogStore>(
    store: &mut S,
    now: Now,
    log: LogId,
    mut take: impl FnMut(Pair) -> Result<(), NodeError>,
) -> Result<(), NodeError> {
    let Some(info) = store.info(log) else { return Ok(()) };
    let mut from = info.log_start;
    while from < info.durable_end {
        let served = read_now(store, now, log, from, info.durable_end)?;
        if served.next <= from {
            return Err(NodeError::State(format!(
                "log {log}: nothing to read at {from}, before its end {}",
                info.durable_end
            )));
        }
        for bytes in &served.batches {
            for pair in records::pairs(bytes).map_err(|why| NodeError::State(format!("log {log}: {why}")))? {
                take(pair)?;
            }
        }
        from = served.next;
    }
    Ok(())
}

fn read_now<S: LogStore>(store: &mut S, now: Now, log: LogId, from: Offset, end: Offset) -> Result<Served, NodeError> {
    let failed = |error: LogError| NodeError::State(format!("log {log} at {from}: {error}"));
    let token = match store.read(log, from, ReadUpTo::Offset(end), REPLAY_READ_BYTES, true).map_err(failed)? {
        Read::Ready(served) => return Ok(served),
        Read::Pending(token) => token,
    };
    let mut events = Vec::new();
    loop {
        store.wait(now);
        store.events(&mut events);
        for event in events.drain(..) {
            match event {
                Event::ReadDone(done, result) if done == token => return result.map_err(failed),
                Event::Failed(reason) => return Err(NodeError::State(reason)),
                // Nothing else was asked for yet.
                Event::Durable(_)
                | Event::Advanced(_)
                | Event::Sealed(_)
                | Event::ReadDone(..)
                | Event::LookupDone(..)
                | Event::Room
                | Event::Full(_)
                | Event::StableMoved(_)
                | Event::StartMoved(..)
                | Event::LogFailed(..) => {}
            }
        }
    }
}
