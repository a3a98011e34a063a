//! The node's own logs: records go in as batches of the same format that clients use, into the same engine, with the same
//! promises. Here: appending metadata records, and reading a whole log back at start.

use bytes::Bytes;
use wherry_metadata::Record;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::command_log::METADATA_LOG;
use super::store::{Event, LogError, LogStore, Now, Read, Served, Ticket};
use super::{Core, records};
use crate::error::NodeError;
use crate::limits::{METADATA_BATCH_BYTES, REPLAY_READ_BYTES};

/// A record of an internal log: key and value.
pub(crate) type Pair = (Option<Bytes>, Option<Bytes>);

impl<S: LogStore> Core<S> {
    /// Appends metadata records, all or none.
    pub(crate) fn append_records(&mut self, list: &[Record]) -> Result<Ticket, LogError> {
        let rejected = |what: String| LogError::Rejected { log: METADATA_LOG, what };
        let mut pairs: Vec<Pair> = Vec::with_capacity(list.len());
        for record in list {
            let bytes = wherry_metadata::encode(record).map_err(|error| rejected(error.to_string()))?;
            pairs.push((None, Some(bytes.into())));
        }
        self.append_pairs(METADATA_LOG, &pairs)
    }

    /// Appends records to an internal log, in as few batches as their size allows, all or none.
    pub(crate) fn append_pairs(&mut self, log: LogId, pairs: &[Pair]) -> Result<Ticket, LogError> {
        let mut batches = Vec::new();
        for part in in_batches(pairs) {
            let batch = records::batch(part, self.now.wall_ms).map_err(|what| LogError::Rejected { log, what })?;
            batches.push(batch);
        }
        self.store.append_reserved(log, &batches, LeaderEpoch(0), self.now.wall_ms).map(|appended| appended.ticket)
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
        let served = read_now(store, now, log, from)?;
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

fn read_now<S: LogStore>(store: &mut S, now: Now, log: LogId, from: Offset) -> Result<Served, NodeError> {
    let failed = |error: LogError| NodeError::State(format!("log {log} at {from}: {error}"));
    let token = match store.read(log, from, REPLAY_READ_BYTES, true).map_err(failed)? {
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
                | Event::ReadDone(..)
                | Event::LookupDone(..)
                | Event::Room
                | Event::Full(_)
                | Event::StartMoved(..)
                | Event::LogFailed(..) => {}
            }
        }
    }
}
