//! When everything is done: every replica of a partition holds the same bytes up to where readers have read.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wherry_log::{Event, Now, Read, ReadUpTo};
use wherry_metadata::Metadata;
use wherry_node::core::store::LogStore;
use wherry_wire::types::{LogId, Offset};

use super::{MS, World};
use crate::host::{End, Store};
use crate::oracle::Place;

/// What is read of a log at once, in bytes.
const READ_BYTES: usize = 64 << 10;
/// A read that takes more steps of the disk than this will never come.
const READ_STEPS: usize = 100_000;

/// By topic and partition: its log, and the nodes that have all that is committed.
type InSync = BTreeMap<(String, i32), (LogId, Vec<i32>)>;

impl World {
    /// Ends all nodes at once and compares what they hold; they start again soon.
    pub(super) fn judge_replicas(&mut self, how: End) -> Result<(), String> {
        let Some(in_sync) = self.in_sync() else { return Err("no node runs though all trouble is over".into()) };
        let mut stores = Vec::new();
        for node in 0..self.machines.len() {
            let now = self.now_of(node);
            let Some(core) = self.machines[node].core.take() else {
                return Err(format!("node {node} does not run though all trouble is over"));
            };
            stores.push((core.into_store(), now));
        }
        let verdict = self.judge_stores(&mut stores, &in_sync);
        for (node, (store, _)) in stores.into_iter().enumerate() {
            drop(store);
            self.machines[node].host.end(how);
            let down = self.rng.between(MS, 200 * MS);
            self.after_end(node, how, down);
        }
        verdict
    }

    fn newest_metadata(&self) -> Option<&Metadata> {
        let cores = self.machines.iter().filter_map(|machine| machine.core.as_ref());
        cores.map(|core| core.metadata()).max_by_key(|(applied, _)| *applied).map(|(_, metadata)| metadata)
    }

    /// The in-sync replicas of every partition, as the node says that knows most: replicas move, to the end.
    fn in_sync(&self) -> Option<InSync> {
        let metadata = self.newest_metadata()?;
        let of = |topic: &Arc<wherry_metadata::Topic>| {
            let name = topic.name.to_string();
            let partitions = topic.numbered().map(|(id, p)| {
                ((name.clone(), id.partition), (LogId { topic: id.topic, partition: id.partition }, p.isr.to_vec()))
            });
            partitions.collect::<Vec<_>>()
        };
        Some(metadata.topics_from("").flat_map(of).collect())
    }

    /// Whether every partition has all of its replicas in sync, and none damaged, as the node says that knows most.
    pub(super) fn is_whole(&self) -> bool {
        let whole = |p: &wherry_metadata::Partition| p.damaged.is_empty() && p.isr.len() == p.replicas.len();
        let all = |m: &Metadata| m.topics_from("").all(|topic| topic.numbered().all(|(_, p)| whole(p)));
        self.newest_metadata().is_some_and(all)
    }

    fn judge_stores(&self, stores: &mut [(Store, Now)], in_sync: &InSync) -> Result<(), String> {
        for (place, end) in self.oracle.logs.ends() {
            let Some((log, replicas)) = in_sync.get(&(place.0.to_owned(), place.1)).cloned() else {
                return Err(format!("{place:?}: nobody knows its replicas"));
            };
            let mut first: Option<(i32, Vec<Bytes>)> = None;
            for node in replicas {
                let at = usize::try_from(node).unwrap_or(usize::MAX);
                let Some((store, now)) = stores.get_mut(at) else { return Err(format!("no node {node}")) };
                let held =
                    contents(store, *now, log, end).map_err(|what| format!("{place:?} on node {node}: {what}"))?;
                match &first {
                    None => first = Some((node, held)),
                    Some((other, theirs)) => compare(place, (*other, theirs), (node, &held))?,
                }
            }
        }
        Ok(())
    }
}

fn compare(place: Place, (one, theirs): (i32, &[Bytes]), (other, held): (i32, &[Bytes])) -> Result<(), String> {
    let differs = theirs.iter().zip(held).position(|(a, b)| a != b);
    let differs = differs.or_else(|| (theirs.len() != held.len()).then(|| theirs.len().min(held.len())));
    match differs {
        None => Ok(()),
        Some(at) => Err(format!("{place:?}: batch number {at} on node {one} is not the one on node {other}")),
    }
}

/// The batches from the start of a log to `end`.
fn contents(store: &mut Store, now: Now, log: LogId, end: i64) -> Result<Vec<Bytes>, String> {
    let Some(info) = store.info(log) else { return Err("there is no such log".into()) };
    if info.log_end.0 < end {
        return Err(format!("it ends at {}, but {end} is known", info.log_end));
    }
    let mut next = info.log_start;
    let mut out = Vec::new();
    while next.0 < end {
        let served = read(store, now, log, next)?;
        if served.next <= next {
            return Err(format!("nothing is to be read at {next}, below {end}"));
        }
        next = served.next;
        out.extend(served.batches.into_iter().filter(|batch| base_offset(batch) < end));
    }
    Ok(out)
}

fn base_offset(batch: &[u8]) -> i64 {
    batch.first_chunk().map_or(i64::MAX, |bytes| i64::from_be_bytes(*bytes))
}

fn read(store: &mut Store, now: Now, log: LogId, from: Offset) -> Result<wherry_log::Served, String> {
    let mut events = Vec::new();
    for _ in 0..READ_STEPS {
        match store.read(log, from, ReadUpTo::Sealed, READ_BYTES, true) {
            Ok(Read::Ready(served)) if served.next > from => return Ok(served),
            // Not durable yet, or no room to read into: the disk goes on.
            Ok(Read::Ready(_)) | Err(wherry_log::LogError::Busy { .. } | wherry_log::LogError::OutOfRange { .. }) => {}
            Ok(Read::Pending(token)) => return wait_for(store, now, token),
            Err(error) => return Err(error.to_string()),
        }
        store.wait(now);
        store.events(&mut events);
        events.clear();
    }
    Err(format!("a read at {from} finds nothing"))
}

fn wait_for(store: &mut Store, now: Now, token: wherry_log::ReadToken) -> Result<wherry_log::Served, String> {
    let mut events = Vec::new();
    for _ in 0..READ_STEPS {
        store.wait(now);
        store.events(&mut events);
        for event in events.drain(..) {
            if let Event::ReadDone(done, result) = event
                && done == token
            {
                return result.map_err(|error| error.to_string());
            }
        }
    }
    Err("a read never ends".into())
}
