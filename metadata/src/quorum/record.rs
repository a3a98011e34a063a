//! The records of the quorum log, and the state that they add up to.
//!
//! ```text
//! Identity Vote Entries Entries Truncate Entries ... Begin Part Part Kept End Entries Vote ...
//!                                                    `---- one superseding write ----'
//! ```
//! `Begin` to `End` holds all there is to know: node, vote, snapshot, the entries above it. It counts once its `End` is
//! there, and then nothing before its `Begin` does; without its `End` (a crash between) it counts for nothing. So the
//! owner may delete what lies before `Begin` when the write is durable, and may leave any tail of it behind.

use std::collections::BTreeMap;

use openraft::LogId;
use serde::{Deserialize, Serialize};

use super::types::{
    Ballot, Coverage, Entry, EntryRecord, Meta, Payload, Position, Vote, check_consecutive, decode, encode, entry_bytes,
};
use super::{QuorumError, limits};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record {
    /// Whose log this is.
    Identity { node_id: i32 },
    /// The last vote given.
    Vote(Ballot),
    /// Entries that follow the last one.
    Entries(Vec<EntryRecord>),
    /// The entry at this index and all after it are gone.
    Truncate { index: u64 },
    /// A superseding write begins.
    Begin { node_id: i32, vote: Option<Ballot>, coverage: Coverage, bytes: u64 },
    /// Bytes of the snapshot.
    Part(Payload),
    /// Entries above the snapshot.
    Kept(Vec<EntryRecord>),
    /// The superseding write is complete.
    End,
}

/// The records of entries, each of bounded size.
pub(super) fn entry_records<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    record: impl Fn(Vec<EntryRecord>) -> Record,
) -> Result<Vec<Vec<u8>>, QuorumError> {
    let (mut records, mut group, mut size) = (Vec::new(), Vec::new(), 0);
    for entry in entries {
        let bytes = entry_bytes(entry);
        if size + bytes > limits::RECORD_BYTES && !group.is_empty() {
            records.push(encode(&record(std::mem::take(&mut group)))?);
            size = 0;
        }
        group.push(entry.into());
        size += bytes;
    }
    if !group.is_empty() {
        records.push(encode(&record(group))?);
    }
    Ok(records)
}

/// The records of a snapshot and of everything above it.
pub(super) fn superseding_records<'a>(
    node_id: i32,
    vote: Option<Vote>,
    meta: &Meta,
    bytes: &[u8],
    kept: impl Iterator<Item = &'a Entry>,
) -> Result<Vec<Vec<u8>>, QuorumError> {
    let coverage = Coverage::of(meta).ok_or_else(|| QuorumError::Malformed("a snapshot of nothing".into()))?;
    let vote = vote.map(Into::into);
    let mut records = vec![encode(&Record::Begin { node_id, vote, coverage, bytes: bytes.len() as u64 })?];
    for part in bytes.chunks(limits::RECORD_BYTES) {
        records.push(encode(&Record::Part(part.into()))?);
    }
    records.extend(entry_records(kept, Record::Kept)?);
    records.push(encode(&Record::End)?);
    Ok(records)
}

/// What a node's quorum log holds.
#[derive(Debug, Default)]
pub struct Stored {
    pub(super) node_id: Option<i32>,
    pub(super) vote: Option<Vote>,
    pub(super) snapshot: Option<(Meta, Payload)>,
    pub(super) log: BTreeMap<u64, Entry>,
}

impl Stored {
    /// Reads records in the order in which they were written. They may begin anywhere before the first record of the
    /// last complete superseding write.
    pub fn replay<B: AsRef<[u8]>>(records: impl IntoIterator<Item = B>) -> Result<Self, QuorumError> {
        let mut replay = Replay::default();
        for record in records {
            replay.take(decode(record.as_ref(), limits::MAX_RECORD_BYTES)?)?;
        }
        replay.finish()
    }

    /// Nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.node_id.is_none() && self.vote.is_none() && self.snapshot.is_none() && self.log.is_empty()
    }

    /// Index of the last entry, or of the snapshot if there is none above it.
    pub fn last_index(&self) -> Option<u64> {
        self.log.last_key_value().map(|(index, _)| *index).or_else(|| self.covered().map(|id| id.index))
    }

    pub(super) fn covered(&self) -> Option<LogId<i32>> {
        self.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id)
    }
}

/// A superseding write whose `End` was not seen yet.
struct Staged {
    node_id: i32,
    vote: Option<Ballot>,
    coverage: Coverage,
    length: u64,
    bytes: Vec<u8>,
    last: Position,
    kept: BTreeMap<u64, Entry>,
}

#[derive(Default)]
struct Replay {
    stored: Stored,
    last: Option<Position>,
    /// Whether the first entry was not the first of all: what came before was deleted after a snapshot that must follow.
    torn: bool,
    staged: Option<Staged>,
}

impl Replay {
    fn take(&mut self, record: Record) -> Result<(), QuorumError> {
        match record {
            Record::Begin { node_id, vote, coverage, bytes } => {
                let last = coverage.at;
                let (bytes, length) = (Vec::new(), bytes);
                self.staged = Some(Staged { node_id, vote, coverage, length, bytes, last, kept: BTreeMap::new() });
                Ok(())
            }
            // Without a `Begin` these are the tail of a superseded write.
            Record::Part(part) => self.staged.as_mut().map_or(Ok(()), |staged| staged.part(&part)),
            Record::Kept(entries) => self.staged.as_mut().map_or(Ok(()), |staged| staged.keep(entries)),
            Record::End => self.end(),
            Record::Identity { node_id } => {
                self.staged = None;
                self.stored.node_id = Some(node_id);
                Ok(())
            }
            Record::Vote(ballot) => {
                self.staged = None;
                self.stored.vote = Some(ballot.into());
                Ok(())
            }
            Record::Entries(entries) => {
                self.staged = None;
                self.append(entries)
            }
            Record::Truncate { index } => {
                self.staged = None;
                self.truncate(index);
                Ok(())
            }
        }
    }

    fn append(&mut self, entries: Vec<EntryRecord>) -> Result<(), QuorumError> {
        let Some(first) = entries.first() else { return Ok(()) };
        if self.last.is_none() && first.at.index > 0 {
            self.torn = true;
            check_consecutive(Some(first.at), &entries[1..])?;
        } else {
            check_consecutive(self.last, &entries)?;
        }
        for entry in entries {
            self.last = Some(entry.at);
            self.stored.log.insert(entry.at.index, entry.try_into()?);
        }
        Ok(())
    }

    fn truncate(&mut self, index: u64) {
        self.stored.log.split_off(&index);
        let last = self.stored.log.last_key_value().map(|(_, entry)| entry.log_id);
        self.last = last.or_else(|| self.stored.covered()).map(Into::into);
    }

    fn end(&mut self) -> Result<(), QuorumError> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        if staged.bytes.len() as u64 != staged.length {
            let (have, want) = (staged.bytes.len(), staged.length);
            return Err(QuorumError::Malformed(format!("a snapshot of {want} bytes has {have}")));
        }
        self.last = Some(staged.last);
        self.torn = false;
        self.stored = Stored {
            node_id: Some(staged.node_id),
            vote: staged.vote.map(Into::into),
            snapshot: Some((staged.coverage.into_meta()?, staged.bytes.into())),
            log: staged.kept,
        };
        Ok(())
    }

    fn finish(self) -> Result<Stored, QuorumError> {
        if self.torn {
            return Err(QuorumError::Malformed("the first entries are missing, and no snapshot covers them".into()));
        }
        Ok(self.stored)
    }
}

impl Staged {
    fn part(&mut self, part: &[u8]) -> Result<(), QuorumError> {
        if self.bytes.len() + part.len() > limits::MAX_SNAPSHOT_BYTES {
            return Err(QuorumError::TooLarge { what: "a snapshot", max: limits::MAX_SNAPSHOT_BYTES });
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    fn keep(&mut self, entries: Vec<EntryRecord>) -> Result<(), QuorumError> {
        check_consecutive(Some(self.last), &entries)?;
        for entry in entries {
            self.last = entry.at;
            self.kept.insert(entry.at.index, entry.try_into()?);
        }
        Ok(())
    }
}
