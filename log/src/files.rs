//! Segment files by name: opened when they are needed, at most so many at once, closed when long unused. Whoever reads
//! or writes a segment names it and need not know whether it is open.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::engine::ops::{Ops, Pending};
use crate::io::{Disk, DiskError, Done, FileId, Op, OpenMode, Token};
use crate::segment::SegmentKey;

/// What to do with a file once it is open.
#[derive(Debug, Clone)]
pub(crate) enum Access {
    /// Write without waiting for stable storage.
    Write {
        /// Byte position.
        offset: u64,
        /// Whole blocks.
        data: Bytes,
    },
    /// Read.
    Read {
        /// Byte position.
        offset: u64,
        /// Whole blocks.
        len: usize,
    },
}

impl Access {
    fn op(self, file: FileId) -> Op {
        match self {
            Self::Write { offset, data } => Op::Write { file, offset, data, durable: false },
            Self::Read { offset, len } => Op::Read { file, offset, len },
        }
    }
}

#[derive(Debug)]
enum Handle {
    Opening(Vec<(Token, Access)>),
    Open(FileId),
}

#[derive(Debug)]
struct Slot {
    handle: Handle,
    /// Operations in flight, and one more while it waits for a sync.
    pins: usize,
    dirty: bool,
    /// Removed while in use: closed as soon as it is free.
    doomed: bool,
    used: u64,
}

/// The open segment files of one engine.
#[derive(Debug)]
pub(crate) struct Files {
    slots: HashMap<SegmentKey, Slot, RandomState>,
    limit: usize,
    clock: u64,
    dirty: usize,
    /// Candidates for closing, least recently used first; stale entries are skipped.
    idle: VecDeque<(SegmentKey, u64)>,
}

impl Files {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: HashMap::default(), limit, clock: 0, dirty: 0, idle: VecDeque::new() }
    }

    /// Open and opening files.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Submits `access`, now or when the file is open. `create` makes a missing file.
    pub(crate) fn submit<D: Disk>(
        &mut self,
        disk: &mut D,
        ops: &mut Ops,
        key: SegmentKey,
        create: bool,
        token: Token,
        access: Access,
    ) {
        self.clock += 1;
        let used = self.clock;
        let opening = !self.slots.contains_key(&key);
        let slot = self.slots.entry(key).or_insert_with(|| Slot {
            handle: Handle::Opening(Vec::new()),
            pins: 0,
            dirty: false,
            doomed: false,
            used,
        });
        slot.pins += 1;
        slot.used = used;
        match &mut slot.handle {
            Handle::Open(file) => disk.submit(token, access.op(*file)),
            Handle::Opening(waiting) => waiting.push((token, access)),
        }
        if opening {
            let mode = if create { OpenMode::Create } else { OpenMode::Write };
            disk.submit(ops.add(Pending::Opened { key }), Op::Open { path: key.path(), mode });
            self.close_surplus(disk, ops, key);
        }
    }

    /// The answer to an open. On failure gives back the operations that waited for it.
    pub(crate) fn opened<D: Disk>(
        &mut self,
        disk: &mut D,
        key: SegmentKey,
        result: Result<Done, DiskError>,
    ) -> Option<(DiskError, Vec<Token>)> {
        let slot = self.slots.get_mut(&key)?;
        let Handle::Opening(waiting) = &mut slot.handle else { return None };
        let waiting = std::mem::take(waiting);
        let error = match result {
            Ok(Done::Opened(file, _)) => {
                slot.handle = Handle::Open(file);
                for (token, access) in waiting {
                    disk.submit(token, access.op(file));
                }
                return None;
            }
            Ok(_) => DiskError::Failed { what: "open".into(), message: "no file came of it".into() },
            Err(error) => error,
        };
        self.slots.remove(&key);
        Some((error, waiting.into_iter().map(|(token, _)| token).collect()))
    }

    /// An operation on the file has ended.
    pub(crate) fn released<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops, key: SegmentKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.pins = slot.pins.saturating_sub(1);
        if slot.pins > 0 {
            return;
        }
        if slot.doomed {
            if let Handle::Open(file) = slot.handle {
                disk.submit(ops.add(Pending::Ignore), Op::Close { file });
            }
            self.slots.remove(&key);
        } else {
            self.idle.push_back((key, slot.used));
        }
    }

    /// The file was written: it stays open until it is synced.
    pub(crate) fn mark_dirty(&mut self, key: SegmentKey) {
        if let Some(slot) = self.slots.get_mut(&key)
            && !slot.dirty
        {
            slot.dirty = true;
            slot.pins += 1;
            self.dirty += 1;
        }
    }

    /// Files written since the last call; they stay pinned until released.
    pub(crate) fn take_dirty(&mut self) -> Vec<(SegmentKey, FileId)> {
        let mut out = Vec::new();
        for (key, slot) in &mut self.slots {
            if slot.dirty
                && let Handle::Open(file) = slot.handle
            {
                slot.dirty = false;
                out.push((*key, file));
            }
        }
        self.dirty -= out.len();
        out.sort_unstable();
        out
    }

    /// Number of files that wait for a sync.
    pub(crate) fn dirty(&self) -> usize {
        self.dirty
    }

    /// The file is being removed: forget it as soon as nobody uses it.
    pub(crate) fn doom<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops, key: SegmentKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.doomed = true;
        if slot.dirty {
            slot.dirty = false;
            self.dirty -= 1;
            slot.pins = slot.pins.saturating_sub(1);
        }
        slot.pins += 1;
        self.released(disk, ops, key);
    }

    fn close_surplus<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops, keep: SegmentKey) {
        while self.slots.len() > self.limit {
            let Some((key, used)) = self.idle.pop_front() else { return };
            let stale = self.slots.get(&key).is_none_or(|s| s.used != used || s.pins > 0 || s.dirty || key == keep);
            if stale {
                continue;
            }
            if let Some(Slot { handle: Handle::Open(file), .. }) = self.slots.remove(&key) {
                disk.submit(ops.add(Pending::Ignore), Op::Close { file });
            }
        }
    }
}
