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
    /// Where a write ends; a read asks for no space.
    fn end(&self) -> u64 {
        match self {
            Self::Write { offset, data } => offset + data.len() as u64,
            Self::Read { .. } => 0,
        }
    }

    /// How long the file becomes for a write that ends behind its end.
    fn grown_len(&self) -> u64 {
        match self {
            Self::Write { data, .. } => {
                self.end() + (data.len() as u64 * GROW_WRITES).max(self.end() / GROW_PART).min(GROW_MAX)
            }
            Self::Read { .. } => 0,
        }
    }

    fn op(self, file: FileId) -> Op {
        match self {
            Self::Write { offset, data } => Op::Write { file, offset, data, durable: false },
            Self::Read { offset, len } => Op::Read { file, offset, len },
        }
    }
}

/// Space is taken ahead of the writes, or else each changes the file's extents: on ext4 such a write blocks its thread,
/// and io_uring gives it to a worker. At least so many writes' worth, a part of the file's length, and never more than
/// `GROW_MAX` bytes, which is what a file may waste.
const GROW_WRITES: u64 = 4;
const GROW_PART: u64 = 4;
const GROW_MAX: u64 = 16 << 20;

#[derive(Debug, Default)]
struct Space {
    /// What may be taken before the next look at free space, in bytes.
    left: u64,
    taken: u64,
}

impl Space {
    fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.taken += bytes;
    }
}

#[derive(Debug)]
enum Handle {
    Opening(Vec<(Token, Access)>),
    /// Writes wait until there is space for them.
    Growing(FileId, Vec<(Token, Access)>),
    Open(FileId),
}

impl Handle {
    fn file(&self) -> Option<FileId> {
        match self {
            Self::Open(file) | Self::Growing(file, _) => Some(*file),
            Self::Opening(_) => None,
        }
    }
}

#[derive(Debug)]
struct Slot {
    handle: Handle,
    /// Length of the file, with the space that was taken ahead.
    len: u64,
    /// Operations in flight, and one more while it waits for a sync.
    pins: usize,
    dirty: bool,
    /// Removed while in use: closed as soon as it is free.
    doomed: bool,
    used: u64,
}

impl Slot {
    /// Submits an operation, or keeps it until the file is open and there is space for it, out of `space`.
    fn start<D: Disk>(
        &mut self,
        disk: &mut D,
        ops: &mut Ops,
        key: SegmentKey,
        space: &mut Space,
        (token, access): (Token, Access),
    ) {
        let end = access.end();
        let taken = access.grown_len().saturating_sub(self.len);
        match &mut self.handle {
            Handle::Growing(_, waiting) if end > self.len => waiting.push((token, access)),
            // A file's first write makes it longer than nothing: many files never see a second.
            Handle::Open(file) if end > self.len && self.len > 0 && taken <= space.left => {
                space.take(taken);
                let (file, len) = (*file, access.grown_len());
                self.handle = Handle::Growing(file, vec![(token, access)]);
                disk.submit(ops.add(Pending::Grown { key, len }), Op::Grow { file, len });
            }
            Handle::Growing(file, _) | Handle::Open(file) => {
                self.len = self.len.max(end);
                disk.submit(token, access.op(*file));
            }
            Handle::Opening(waiting) => waiting.push((token, access)),
        }
    }
}

/// The open segment files of one engine.
#[derive(Debug)]
pub(crate) struct Files {
    slots: HashMap<SegmentKey, Slot, RandomState>,
    limit: usize,
    clock: u64,
    dirty: usize,
    space: Space,
    /// Candidates for closing, least recently used first; stale entries are skipped.
    idle: VecDeque<(SegmentKey, u64)>,
}

impl Files {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: HashMap::default(), limit, clock: 0, dirty: 0, space: Space::default(), idle: VecDeque::new() }
    }

    /// How many bytes files may take ahead of their writes from now on.
    pub(crate) fn may_take(&mut self, bytes: u64) {
        self.space.left = bytes;
    }

    /// Bytes that files took ahead of their writes since the engine was opened.
    pub(crate) fn taken_ahead(&self) -> u64 {
        self.space.taken
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
            len: 0,
            pins: 0,
            dirty: false,
            doomed: false,
            used,
        });
        slot.pins += 1;
        slot.used = used;
        slot.start(disk, ops, key, &mut self.space, (token, access));
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
        ops: &mut Ops,
        key: SegmentKey,
        result: Result<Done, DiskError>,
    ) -> Option<(DiskError, Vec<Token>)> {
        let slot = self.slots.get_mut(&key)?;
        let Handle::Opening(waiting) = &mut slot.handle else { return None };
        let waiting = std::mem::take(waiting);
        let error = match result {
            Ok(Done::Opened(file, len)) => {
                slot.handle = Handle::Open(file);
                slot.len = len;
                for waiting in waiting {
                    slot.start(disk, ops, key, &mut self.space, waiting);
                }
                return None;
            }
            Ok(_) => DiskError::Failed { what: "open".into(), message: "no file came of it".into() },
            Err(error) => error,
        };
        self.slots.remove(&key);
        Some((error, waiting.into_iter().map(|(token, _)| token).collect()))
    }

    /// The answer to an attempt to take space. Without it writes go the slow way, and say themselves what is wrong.
    pub(crate) fn grown<D: Disk>(&mut self, disk: &mut D, key: SegmentKey, len: u64, result: &Result<Done, DiskError>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some(file) = slot.handle.file() else { return };
        if result.is_ok() {
            slot.len = len;
        }
        if let Handle::Growing(_, waiting) = std::mem::replace(&mut slot.handle, Handle::Open(file)) {
            for (token, access) in waiting {
                slot.len = slot.len.max(access.end());
                disk.submit(token, access.op(file));
            }
        }
    }

    /// An operation on the file has ended.
    pub(crate) fn released<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops, key: SegmentKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.pins = slot.pins.saturating_sub(1);
        if slot.pins > 0 {
            return;
        }
        if slot.doomed {
            if let Some(file) = slot.handle.file() {
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
                && let Some(file) = slot.handle.file()
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

    /// Whether it is open, or about to be.
    pub(crate) fn knows(&self, key: SegmentKey) -> bool {
        self.slots.contains_key(&key)
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
