//! The journal: one write-ahead log for all logs of a shard. Whatever arrived while the last frame was being written
//! becomes the next (adaptive group commit, no linger); one durable write acknowledges all of it.
//!
//! ```text
//! append -> [group queue] -> seal -> frame in flight (O_DIRECT, durable) -> durable
//! files:  Free -> Active (header, then frames) -> Full -> (all stable in segments) -> Free
//! ```
//! One frame is in flight at a time: frames are then durable in sequence, and a gap can only be damage.

pub mod entry;
pub mod file;
pub mod frame;
pub(crate) mod scan;

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::Bytes;
use uuid::Uuid;
use wherry_wire::batch::{BatchHeader, CheckedBatch};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use crate::Lsn;
use crate::config::{EngineConfig, MAX_FRAME_ENTRIES};
use crate::engine::ops::{Ops, Pending};
use crate::io::{AlignedBuf, BLOCK, BufPools, Disk, DiskError, Done, FileId, Op, OpenMode, round_up};
use entry::{Control, ENTRY_HEADER, GAP_PREFIX};
use file::FileHeader;
use frame::{FRAME_HEADER, FrameHeader};

/// Directory of the journal files, below the shard's directory.
pub const DIRECTORY: &str = "journal";
/// Zeros are written ahead in pieces of this many bytes.
const ZERO_BYTES: usize = 1 << 20;
/// A group's memory is at least this large, in bytes.
const MIN_GROUP_BYTES: usize = 64 << 10;
/// Of each size, buffers for one part in so many of the tail wait for reuse.
const KEEP_PART: usize = 2;
/// See [`Journal::is_busy`].
const BUSY_FRAME_BYTES: usize = 128 << 10;

/// Path of a journal file below the shard's directory. Slots are reused; the header says what is in one.
#[must_use]
pub fn path(slot: u32) -> PathBuf {
    PathBuf::from(DIRECTORY).join(format!("slot-{slot:04}.wj"))
}

/// The inverse of [`path`]'s file name.
#[must_use]
pub fn parse_slot(name: &str) -> Option<u32> {
    let slot = name.strip_prefix("slot-")?.strip_suffix(".wj")?.parse().ok()?;
    (path(slot).file_name()?.to_str()? == name).then_some(slot)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileState {
    /// Being made: not yet safe to use.
    Making,
    /// May be begun.
    Free,
    /// Takes frames.
    Active,
    /// Holds frames that something still needs.
    Full,
}

#[derive(Debug)]
struct JournalFile {
    slot: u32,
    file: FileId,
    state: FileState,
    /// Bytes pre-written, so that a frame changes no extent.
    zeroed: u64,
    zeroing: bool,
    /// Highest sequence in it.
    last_seq: u64,
}

/// A batch that a sealed group hands to its log's tail.
#[derive(Debug)]
pub(crate) struct GroupItem {
    pub(crate) log: usize,
    pub(crate) header: BatchHeader,
    pub(crate) lsn: Lsn,
    at: usize,
    /// Truncated or deleted before it was sealed: journaled, but no longer part of the log.
    pub(crate) void: bool,
}

#[derive(Debug)]
struct Group {
    seq: u64,
    buf: AlignedBuf,
    used: usize,
    entries: u32,
    items: Vec<GroupItem>,
}

/// A group whose frame is on its way.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) seq: u64,
    /// The frame; items are slices of it.
    pub(crate) bytes: Bytes,
    pub(crate) items: Vec<GroupItem>,
}

impl Sealed {
    /// The batch of an item.
    pub(crate) fn batch(&self, item: &GroupItem) -> Bytes {
        self.bytes.slice(item.at..item.at + item.header.len)
    }
}

/// What `completed` tells the engine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing that the engine must act on.
    None,
    /// All frames up to here are on disk.
    Durable(u64),
    /// INV-5: nothing more is acknowledged.
    Failed(String),
}

/// Where a recovered journal goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) generation: u64,
    pub(crate) incarnation: u64,
    pub(crate) next_seq: u64,
    pub(crate) prev_crc: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: Uuid,
    shard: u32,
    file_bytes: u64,
    max_files: usize,
    group_bytes: usize,
    last_frame_bytes: usize,
    files: Vec<JournalFile>,
    active: Option<usize>,
    position: u64,
    generation: u64,
    incarnation: u64,
    /// Sequence of the next group to be begun.
    next_seq: u64,
    durable_seq: u64,
    prev_crc: u32,
    queue: VecDeque<Group>,
    queued_bytes: usize,
    frame_in_flight: Option<u64>,
    rolling: Option<usize>,
    stalled: bool,
    unmarked: bool,
    last_commit_ns: u64,
    /// Something was appended since it was last seen whether a frame can be started.
    fresh: bool,
    failed: Option<String>,
    blocked: bool,
    /// Files that may be made before the next look at free space.
    may_make: u64,
    /// Files made since the engine was opened.
    made: u64,
    /// How large the next frame will be, to judge by the last ones.
    expected_bytes: usize,
    pools: BufPools,
}

impl Journal {
    pub(crate) fn new(directory: Uuid, shard: u32, config: &EngineConfig, resume: Resume) -> Self {
        Self {
            directory,
            shard,
            file_bytes: config.journal_file_bytes,
            max_files: config.journal_files,
            group_bytes: round_up(config.group_bytes),
            last_frame_bytes: 0,
            files: Vec::new(),
            active: None,
            position: 0,
            generation: resume.generation,
            incarnation: resume.incarnation,
            next_seq: resume.next_seq,
            durable_seq: resume.next_seq.saturating_sub(1),
            prev_crc: resume.prev_crc,
            queue: VecDeque::new(),
            queued_bytes: 0,
            frame_in_flight: None,
            rolling: None,
            stalled: false,
            unmarked: false,
            last_commit_ns: 0,
            fresh: false,
            failed: None,
            blocked: false,
            may_make: 0,
            made: 0,
            expected_bytes: 0,
            pools: BufPools::halving(config.group_bytes, MIN_GROUP_BYTES, config.tail_bytes / KEEP_PART),
        }
    }

    /// Takes over a file found at recovery: `last_seq` is the highest sequence in it that is still needed, or `None` if
    /// it is free.
    pub(crate) fn adopt(&mut self, slot: u32, file: FileId, len: u64, last_seq: Option<u64>) {
        let state = if last_seq.is_some() { FileState::Full } else { FileState::Free };
        let zeroed = len.min(self.file_bytes);
        self.files.push(JournalFile { slot, file, state, zeroed, zeroing: false, last_seq: last_seq.unwrap_or(0) });
    }

    /// Replay ended here: the next frame continues the chain.
    pub(crate) fn resume(&mut self, next_seq: u64, prev_crc: u32) {
        self.next_seq = next_seq;
        self.prev_crc = prev_crc;
        self.durable_seq = next_seq - 1;
    }

    /// Replay has come to this frame.
    pub(crate) fn replayed(&mut self, seq: u64) {
        self.durable_seq = seq;
        self.next_seq = seq + 1;
    }

    pub(crate) fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// Highest sequence that any entry has been given.
    pub(crate) fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// Sequence of the oldest group that is not on its way to the disk.
    pub(crate) fn first_unsealed(&self) -> u64 {
        self.queue.front().map_or(self.next_seq, |g| g.seq)
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(crate) fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Gives memory back that no group needed for a while.
    pub(crate) fn release_unused(&self) {
        self.pools.release_unused();
    }

    /// Frames are large: whoever appends waits for the disk's throughput. Else they wait for its latency, and other
    /// writes should be short, because a frame that comes behind one waits for all of it.
    pub(crate) fn is_busy(&self) -> bool {
        self.last_frame_bytes >= BUSY_FRAME_BYTES
    }

    /// Bytes appended and not yet handed to the disk.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// A frame waits for a file, and all are needed: the oldest must be freed by a checkpoint.
    pub(crate) fn stalled(&self) -> bool {
        self.stalled
    }

    /// Files that hold frames, the active one included, and the most there may be.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let used = self.files.iter().filter(|f| matches!(f.state, FileState::Active | FileState::Full)).count();
        (used, self.max_files)
    }

    /// Nothing waits, nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.frame_in_flight.is_none() && self.rolling.is_none()
    }

    /// Largest batch that one file can hold.
    pub(crate) fn max_batch(&self) -> usize {
        usize::try_from(self.file_bytes).unwrap_or(usize::MAX).saturating_sub(2 * BLOCK)
    }

    fn group_for(&mut self, len: usize) -> Option<&mut Group> {
        let limit = self.group_bytes;
        let fits = self.queue.back().is_some_and(|g| {
            g.used + len <= g.buf.capacity().max(limit) && (g.entries as usize) < MAX_FRAME_ENTRIES - 1
        });
        if !fits {
            let buf = self.pools.take((FRAME_HEADER + len).max(self.expected_bytes).max(MIN_GROUP_BYTES.min(limit)));
            let seq = self.next_seq;
            self.next_seq += 1;
            self.queue.push_back(Group { seq, buf, used: FRAME_HEADER, entries: 0, items: Vec::new() });
        }
        let group = self.queue.back_mut()?;
        let need = group.used + len;
        if need > group.buf.capacity() {
            let mut larger = self.pools.take(need.max(2 * group.buf.capacity()).min(limit));
            larger.get_mut(..group.used)?.copy_from_slice(group.buf.get(..group.used)?);
            group.buf = larger;
        }
        Some(group)
    }

    /// Copies a batch into the current group under its offset and epoch. The only copy between socket and disk.
    /// `gap_after`: where the log ends, if that is not `base`.
    pub(crate) fn append(
        &mut self,
        log: usize,
        id: LogId,
        batch: &CheckedBatch,
        base: Offset,
        epoch: LeaderEpoch,
        gap_after: Option<Offset>,
    ) -> Option<(Lsn, BatchHeader)> {
        let before = ENTRY_HEADER + if gap_after.is_some() { GAP_PREFIX } else { 0 };
        let len = before + batch.len();
        let group = self.group_for(len)?;
        let lsn = Lsn::new(group.seq, group.entries);
        let at = group.used + before;
        let space = group.buf.get_mut(group.used..group.used + len)?;
        match gap_after {
            None => entry::put_append_header(space, id, batch.len()),
            Some(end) => entry::put_gap_header(space, id, end, batch.len()),
        }
        let header = batch.write_at(base, epoch, space.get_mut(before..)?)?;
        group.items.push(GroupItem { log, header, lsn, at, void: false });
        group.used += len;
        group.entries += 1;
        self.queued_bytes += len;
        self.fresh = true;
        Some((lsn, header))
    }

    pub(crate) fn control(&mut self, id: LogId, control: Control) -> Option<Lsn> {
        let bytes = entry::encode_control(id, control);
        let group = self.group_for(bytes.len())?;
        let lsn = Lsn::new(group.seq, group.entries);
        crate::bytes_at::put(&mut group.buf, group.used, &bytes);
        group.used += bytes.len();
        group.entries += 1;
        self.queued_bytes += bytes.len();
        self.fresh = true;
        Some(lsn)
    }

    /// Items of this log at and above `from` that are not sealed yet: they stay in the journal, and out of the tail.
    pub(crate) fn void(&mut self, log: usize, from: Offset) {
        for item in self.queue.iter_mut().flat_map(|g| &mut g.items) {
            if item.log == log && item.header.next_offset() > from {
                item.void = true;
            }
        }
    }

    /// This log's batches that are not sealed yet, in order.
    pub(crate) fn unsealed(&self, log: usize) -> impl DoubleEndedIterator<Item = &GroupItem> {
        self.queue.iter().flat_map(|g| &g.items).filter(move |i| i.log == log && !i.void)
    }

    /// Starts the next frame if none is in flight. Gives the group that it holds.
    pub(crate) fn pump<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops, now_ns: u64) -> Option<Sealed> {
        self.stalled = false;
        self.fresh = false;
        if self.failed.is_some() || self.frame_in_flight.is_some() || self.rolling.is_some() {
            return None;
        }
        self.prepare(disk, ops);
        let need = round_up(self.queue.front()?.used) as u64;
        let Some(active) = self.active.filter(|_| self.position + need <= self.file_bytes) else {
            self.roll(disk, ops);
            return None;
        };
        let file = self.files.get(active)?;
        if self.position + need > file.zeroed && file.zeroed < self.file_bytes {
            return None;
        }
        let file = file.file;
        let group = self.queue.pop_front()?;
        self.queued_bytes = self.queued_bytes.saturating_sub(group.used - FRAME_HEADER);
        Some(self.write_frame(disk, ops, group, active, file, now_ns))
    }

    /// The tail keeps the frame: one that leaves most of its buffer empty moves to a smaller one.
    fn right_sized(&self, buf: AlignedBuf, len: usize) -> Bytes {
        if len * 2 > buf.capacity() {
            return buf.freeze(len);
        }
        self.pools.copy_of(buf.get(..len).unwrap_or_default()).freeze(len)
    }

    fn write_frame<D: Disk>(
        &mut self,
        disk: &mut D,
        ops: &mut Ops,
        mut group: Group,
        active: usize,
        file: FileId,
        now_ns: u64,
    ) -> Sealed {
        let header = FrameHeader {
            generation: self.generation,
            incarnation: self.incarnation,
            seq: group.seq,
            durable_seq: self.durable_seq,
            prev_crc: self.prev_crc,
            payload_len: u32::try_from(group.used - FRAME_HEADER).unwrap_or(u32::MAX),
            entries: group.entries,
        };
        let (crc, len) = frame::seal(&mut group.buf, &header);
        let bytes = self.right_sized(group.buf, len);
        disk.submit(
            ops.add(Pending::Frame),
            Op::Write { file, offset: self.position, data: bytes.clone(), durable: true },
        );
        self.prev_crc = crc;
        self.position += len as u64;
        self.last_frame_bytes = len;
        self.expected_bytes = len.max(self.expected_bytes - self.expected_bytes / 8).min(self.group_bytes);
        self.frame_in_flight = Some(group.seq);
        self.unmarked = group.entries > 0;
        self.last_commit_ns = now_ns;
        if let Some(file) = self.files.get_mut(active) {
            file.last_seq = group.seq;
        }
        Sealed { seq: group.seq, bytes, items: group.items }
    }

    /// Something was appended, and no completion will come by which it would be written: [`Journal::pump`] is due at once.
    pub(crate) fn is_due(&self) -> bool {
        self.fresh && self.failed.is_none() && self.frame_in_flight.is_none() && self.rolling.is_none()
    }

    /// When the journal should be marked: the last frames are then known durable by a later one.
    pub(crate) fn mark_deadline(&self, after_ns: u64) -> Option<u64> {
        let quiet = self.failed.is_none() && self.is_idle() && self.unmarked;
        quiet.then(|| self.last_commit_ns.saturating_add(after_ns))
    }

    /// Queues an empty frame.
    pub(crate) fn mark(&mut self) {
        if self.queue.is_empty() {
            let seq = self.next_seq;
            self.next_seq += 1;
            let buf = AlignedBuf::zeroed(BLOCK);
            self.queue.push_back(Group { seq, buf, used: FRAME_HEADER, entries: 0, items: Vec::new() });
        }
    }

    /// Keeps a spare file ready and zeros ahead of the position.
    fn prepare<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops) {
        let may_make = (self.may_make > 0 || self.files.len() < 2) && self.files.len() < self.max_files;
        if may_make && self.lacks_spare() {
            self.make_file(disk, ops);
        }
        let next = self
            .files
            .iter_mut()
            .filter(|f| matches!(f.state, FileState::Active | FileState::Free) && f.zeroed < self.file_bytes)
            .min_by_key(|f| f.state != FileState::Active);
        if let Some(file) = next
            && !file.zeroing
        {
            file.zeroing = true;
            let len = usize::try_from(self.file_bytes - file.zeroed).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
            let upto = file.zeroed + len as u64;
            disk.submit(
                ops.add(Pending::JournalZero { slot: file.slot, upto }),
                Op::Write {
                    file: file.file,
                    offset: file.zeroed,
                    data: AlignedBuf::zeroed(len).freeze(len),
                    durable: false,
                },
            );
        }
    }

    /// No file is ready for when the active one is full, nor on its way, and none was refused.
    fn lacks_spare(&self) -> bool {
        !self.blocked && !self.files.iter().any(|f| matches!(f.state, FileState::Free | FileState::Making))
    }

    /// A checkpoint waits for frames that wait for a file that the checkpoint would free: a file more than there may be.
    pub(crate) fn break_stall<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops) {
        if self.stalled && self.lacks_spare() {
            self.make_file(disk, ops);
        }
    }

    fn make_file<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops) {
        self.may_make = self.may_make.saturating_sub(1);
        self.made += 1;
        let slot = (0..).find(|s| self.files.iter().all(|f| f.slot != *s)).unwrap_or(0);
        self.files.push(JournalFile {
            slot,
            file: FileId(u32::MAX),
            state: FileState::Making,
            zeroed: 0,
            zeroing: false,
            last_seq: 0,
        });
        let token = ops.add(Pending::JournalCreate { slot });
        disk.submit(token, Op::Open { path: path(slot), mode: OpenMode::Create });
    }

    /// Begins the next file: its header first, then frames.
    fn roll<D: Disk>(&mut self, disk: &mut D, ops: &mut Ops) {
        let ready = |f: &JournalFile| f.state == FileState::Free && f.zeroed >= BLOCK as u64;
        let Some(next) = self.files.iter().position(ready) else {
            self.stalled = self.files.iter().all(|f| matches!(f.state, FileState::Active | FileState::Full));
            return;
        };
        let Some(first_seq) = self.queue.front().map(|g| g.seq) else { return };
        let generation = self.generation + 1;
        let header = FileHeader {
            directory: self.directory,
            shard: self.shard,
            generation,
            incarnation: self.incarnation,
            first_seq,
            prev_crc: self.prev_crc,
        };
        let Some(file) = self.files.get(next).map(|f| f.file) else { return };
        self.rolling = Some(next);
        self.generation = generation;
        let token = ops.add(Pending::JournalHeader);
        disk.submit(token, Op::Write { file, offset: 0, data: header.encode().freeze(BLOCK), durable: true });
    }

    /// A frame or header is on disk, or never will be.
    pub(crate) fn frame_done(&mut self, result: Result<Done, DiskError>) -> Progress {
        if let Err(error) = result {
            return self.fail(format!("journal: {error}"));
        }
        match self.frame_in_flight.take() {
            Some(seq) => {
                self.durable_seq = seq;
                Progress::Durable(seq)
            }
            None => Progress::None,
        }
    }

    pub(crate) fn header_done(&mut self, result: Result<Done, DiskError>) -> Progress {
        if let Err(error) = result {
            return self.fail(format!("journal file header: {error}"));
        }
        if let Some(next) = self.rolling.take() {
            if let Some(old) = self.active.and_then(|i| self.files.get_mut(i)) {
                old.state = FileState::Full;
            }
            if let Some(file) = self.files.get_mut(next) {
                file.state = FileState::Active;
                file.last_seq = 0;
            }
            self.active = Some(next);
            self.position = BLOCK as u64;
        }
        Progress::None
    }

    /// INV-5: from here on nothing is acknowledged.
    pub(crate) fn fail(&mut self, why: String) -> Progress {
        self.failed = Some(why.clone());
        Progress::Failed(why)
    }

    fn by_slot(&mut self, slot: u32) -> Option<&mut JournalFile> {
        self.files.iter_mut().find(|f| f.slot == slot)
    }

    /// A new file exists; its name is made durable before it is used.
    pub(crate) fn created<D: Disk>(
        &mut self,
        disk: &mut D,
        ops: &mut Ops,
        slot: u32,
        result: Result<Done, DiskError>,
    ) -> Progress {
        match result {
            Ok(Done::Opened(file, len)) => {
                let limit = self.file_bytes;
                if let Some(entry) = self.by_slot(slot) {
                    entry.file = file;
                    entry.zeroed = (len / BLOCK as u64 * BLOCK as u64).min(limit);
                }
                disk.submit(ops.add(Pending::JournalSyncDir { slot }), Op::SyncDir { path: DIRECTORY.into() });
                Progress::None
            }
            // Asked again at housekeeping, not at every turn.
            Ok(_) | Err(DiskError::Full { .. }) => {
                self.give_up(slot);
                self.blocked = true;
                Progress::None
            }
            Err(error) => {
                self.give_up(slot);
                self.fail(format!("journal file: {error}"))
            }
        }
    }

    pub(crate) fn dir_synced(&mut self, slot: u32, result: Result<Done, DiskError>) -> Progress {
        if let Err(error) = result {
            return self.fail(format!("journal directory: {error}"));
        }
        if let Some(entry) = self.by_slot(slot) {
            entry.state = FileState::Free;
        }
        Progress::None
    }

    /// Zeros are cosmetic for safety: where they can't be written the file ends there until there is room.
    pub(crate) fn zeroed(&mut self, slot: u32, upto: u64, result: Result<Done, DiskError>) -> Progress {
        let Some(entry) = self.by_slot(slot) else { return Progress::None };
        match result {
            Ok(_) => {
                entry.zeroing = false;
                entry.zeroed = upto;
                Progress::None
            }
            // The flag stays up until `retry`: a full disk is asked again at housekeeping, not at every turn.
            Err(DiskError::Full { .. }) => {
                self.blocked = true;
                Progress::None
            }
            Err(error) => self.fail(format!("journal: {error}")),
        }
    }

    /// There is room for so many more files; two are always made, so that deletes work on a full disk.
    pub(crate) fn may_make(&mut self, files: u64) {
        self.may_make = files;
    }

    /// Space that files made since the engine was opened take, or will take when all of them is zeroed.
    pub(crate) fn made_bytes(&self) -> u64 {
        self.made * self.file_bytes
    }

    /// Space that files will still take.
    pub(crate) fn unzeroed_bytes(&self) -> u64 {
        self.files.iter().map(|f| self.file_bytes.saturating_sub(f.zeroed)).sum()
    }

    /// Asks again for what a full disk refused.
    pub(crate) fn retry(&mut self) {
        if std::mem::take(&mut self.blocked) {
            for file in &mut self.files {
                file.zeroing = false;
            }
        }
    }

    /// No room for another file: the ones that exist go round.
    fn give_up(&mut self, slot: u32) {
        let gone = self.files.iter().position(|f| f.slot == slot);
        if let Some(gone) = gone.filter(|g| Some(*g) != self.active && Some(*g) != self.rolling) {
            self.files.remove(gone);
            for index in [&mut self.active, &mut self.rolling].into_iter().flatten() {
                if *index > gone {
                    *index -= 1;
                }
            }
        }
    }

    /// Nothing needs frames below `seq` any more: files that hold only such are free.
    pub(crate) fn release(&mut self, seq: u64) {
        for file in &mut self.files {
            if file.state == FileState::Full && file.last_seq < seq {
                file.state = FileState::Free;
            }
        }
    }

    /// Highest sequence in the older half of the files in use: what lies there should be flushed to free them.
    pub(crate) fn old_half(&self) -> Option<u64> {
        let mut seqs: Vec<u64> = self.files.iter().filter(|f| f.state == FileState::Full).map(|f| f.last_seq).collect();
        seqs.sort_unstable();
        seqs.get(seqs.len().checked_sub(1)? / 2).copied()
    }
}
