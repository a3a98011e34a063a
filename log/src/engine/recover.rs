//! Opening a data directory: the newest checkpoint, then the journal from where it ends. Both can be done again and
//! again with the same result.
//!
//! Replay follows the chain of frames (sequence, previous crc, generation) from file to file. It ends at the first gap.
//! What lies behind a gap is looked at once more: if any frame there says that what is missing was durable, it is
//! corruption, and the directory is not opened.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use bytes::Bytes;
use slab::Slab;
use uuid::Uuid;
use wherry_wire::batch::BatchHeader;
use wherry_wire::types::{LogId, Offset};

use super::ops::Ops;
use super::sync::SyncState;
use super::{Engine, Now, housekeeping, read, scrub, trash};
use crate::Lsn;
use crate::checkpoint::{self, Checkpoint, LogRecord};
use crate::config::{EngineConfig, LogConfig};
use crate::error::{Corruption, OpenError};
use crate::files::Files;
use crate::io::{BLOCK, Completion, Disk, DiskError, Done, FileId, Op, OpenMode, Token, call};
use crate::journal::entry::{self, Control, Entry};
use crate::journal::file::FileHeader;
use crate::journal::scan::{self, Chain, Frame, Scan};
use crate::journal::{self, Journal, Resume};
use crate::partition::{Partition, TailBatch};
use crate::segment::{self, Segment, SegmentKey};

/// Token of the operations of recovery, which run one at a time.
const RECOVERY: Token = Token(0);

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Logs that exist.
    pub logs: usize,
    /// Frames replayed from the journal.
    pub frames: u64,
    /// Batches put back into memory.
    pub batches: u64,
    /// Where the journal's chain ended: file and byte position of the first frame that is not there, if the file went on.
    pub torn: Option<(String, u64)>,
    /// Segment files that belonged to nothing and were removed.
    pub orphans: usize,
    /// Counts the starts on this directory.
    pub incarnation: u64,
    /// Logs that lost a segment file: the rest of them is served, nothing is appended.
    pub damaged: Vec<Corruption>,
}

/// Blocking disk calls of recovery. What else completes meanwhile is kept for the engine.
pub(crate) struct Calls<'a, D: Disk> {
    disk: &'a mut D,
    others: &'a mut Vec<Completion>,
}

impl<'a, D: Disk> Calls<'a, D> {
    pub(crate) fn new(disk: &'a mut D, others: &'a mut Vec<Completion>) -> Self {
        Self { disk, others }
    }

    pub(crate) fn call(&mut self, op: Op) -> Result<Done, DiskError> {
        call(self.disk, RECOVERY, op, self.others)
    }

    pub(crate) fn open(&mut self, path: PathBuf, mode: OpenMode) -> Result<(FileId, u64), DiskError> {
        match self.call(Op::Open { path, mode })? {
            Done::Opened(file, len) => Ok((file, len)),
            Done::Ok | Done::Read(_) | Done::Listed(_) | Done::Shrunk { .. } | Done::Space { .. } => {
                Err(DiskError::Failed { what: "open".into(), message: "no file came of it".into() })
            }
        }
    }

    pub(crate) fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        match self.call(Op::Read { file, offset, len })? {
            Done::Read(bytes) => Ok(bytes),
            Done::Ok | Done::Opened(..) | Done::Listed(_) | Done::Shrunk { .. } | Done::Space { .. } => {
                Ok(Bytes::new())
            }
        }
    }

    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<String>, DiskError> {
        match self.call(Op::List { path: path.into() })? {
            Done::Listed(names) => Ok(names),
            Done::Ok | Done::Opened(..) | Done::Read(_) | Done::Shrunk { .. } | Done::Space { .. } => Ok(Vec::new()),
        }
    }
}

impl<D: Disk> Engine<D> {
    /// Opens the data directory that `disk` is rooted in, or begins it. Blocks until everything acknowledged is back.
    /// `fresh` names the directory if it is new.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed on disk when it is `Corrupt` or `Foreign`.
    pub fn open(mut disk: D, config: EngineConfig, now: Now, fresh: Uuid) -> Result<(Self, Recovery), OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let mut completions = Vec::new();
        let mut calls = Calls::new(&mut disk, &mut completions);
        calls.call(Op::CreateDir { path: journal::DIRECTORY.into() })?;
        calls.call(Op::CreateDir { path: segment::DIRECTORY.into() })?;
        calls.call(Op::CreateDir { path: trash::DIRECTORY.into() })?;
        let (slots, found) = open_checkpoints(&mut calls, OpenMode::Create)?;
        // Names made by a process that was killed are seen, but not on disk until somebody syncs them.
        for path in ["", journal::DIRECTORY, segment::DIRECTORY] {
            calls.call(Op::SyncDir { path: path.into() })?;
        }
        let scan = scan::scan(&mut calls, OpenMode::Write, found.as_ref())?;
        let directory = found.as_ref().map(|c| c.directory).or(scan.directory).unwrap_or(fresh);
        let mut report = Recovery { incarnation: scan.incarnation + 1, ..Recovery::default() };
        let resume = Resume {
            generation: scan.generation,
            incarnation: scan.incarnation + 1,
            next_seq: scan.chain_start,
            prev_crc: 0,
        };
        let files_limit = config.open_files;
        let cache = config.read_cache_bytes;
        let flushes = super::flush::Flushes::new(&config);
        let mut engine = Self {
            journal: Journal::new(directory, 0, &config, resume),
            sync: SyncState::new(found.as_ref().map_or(0, |c| c.number), slots),
            disk,
            config,
            directory,
            ops: Ops::default(),
            files: Files::new(files_limit),
            logs: Slab::new(),
            by_id: HashMap::default(),
            frames: VecDeque::new(),
            tail_bytes: 0,
            framed_bytes: 0,
            flushes,
            reads: read::Reads::new(cache),
            house: housekeeping::House::default(),
            scrub: scrub::Scrub::default(),
            trash: trash::Trash::default(),
            compactions: super::compact::Compactions::default(),
            rollbacks: super::rollback::Rollbacks::default(),
            retraces: super::retrace::Retraces::default(),
            watched: 0,
            removals: VecDeque::new(),
            next_version: 0,
            events: Vec::new(),
            busy: false,
            now,
            stats: super::EngineStats::default(),
            completions,
        };
        let names = Calls::new(&mut engine.disk, &mut engine.completions).list(segment::DIRECTORY)?;
        let present: HashSet<SegmentKey> = names.iter().filter_map(|n| SegmentKey::parse(n)).collect();
        let capture_seq = found.as_ref().map_or(0, |c| c.capture_seq);
        for record in found.map(|c| c.logs).unwrap_or_default() {
            engine.restore(record, &present);
        }
        engine.note_versions(&present);
        engine.replay(scan, capture_seq, &mut report)?;
        engine.resume_rollbacks();
        engine.resume_retraces();
        report.orphans = engine.remove_orphans(&present)?;
        report.logs = engine.logs.len();
        engine.settle_journal();
        engine.events.clear();
        report.damaged = engine.report_missing();
        Ok((engine, report))
    }

    fn restore(&mut self, record: LogRecord, present: &HashSet<SegmentKey>) {
        let mut log = Partition::new(record.id, LogConfig::keep_everything(), record.stable.end, record.stable.lsn);
        log.log_start = record.log_start;
        log.segments = record
            .stable
            .segments
            .iter()
            .map(|s| Segment {
                base: s.base,
                version: s.version,
                bytes: s.bytes,
                end: s.end,
                max_timestamp: s.max_timestamp,
                created_ms: s.created_ms,
                compacted: s.compacted,
                open_from: s.open_from,
                missing: s.bytes > 0
                    && !present.contains(&SegmentKey { log: record.id, base: s.base, version: s.version }),
                chunks: (s.bytes == 0).then(Vec::new),
            })
            .collect();
        log.stable = record.stable;
        for (epoch, start) in record.epochs {
            log.epochs.restore(epoch, start);
        }
        for (id, producer) in record.producers {
            log.producers.restore(id, producer);
        }
        // Entries beyond the segments come again from the journal.
        log.epochs.truncate(log.written_end);
        // What a truncation does to those that are not told of again is found out when replay has ended.
        let _ = log.producers.truncate(log.written_end);
        log.transactions = record.transactions;
        log.truncate_transactions(log.written_end);
        let index = self.logs.insert(log);
        if let Some(log) = self.logs.get(index) {
            self.by_id.insert(log.id, index);
        }
    }

    fn replay(&mut self, mut scan: Scan, capture_seq: u64, report: &mut Recovery) -> Result<(), OpenError> {
        let mut chain = Chain::new(scan.chain_start, scan.first_prev_crc);
        let headers: Vec<FileHeader> = scan.files.iter().map(|f| f.header).collect();
        for (i, file) in scan.files.iter_mut().enumerate() {
            let next = headers.get(i + 1);
            let limit = next.map_or(u64::MAX, |n| n.first_seq);
            let mut position = BLOCK as u64;
            while let Some((frame, at)) = file.next_frame(
                &mut Calls::new(&mut self.disk, &mut self.completions),
                &mut position,
                &mut chain,
                limit,
            )? {
                report.frames += 1;
                self.replay_frame(&frame, &file.path, at, capture_seq, report)?;
            }
            let mut calls = Calls::new(&mut self.disk, &mut self.completions);
            report.torn = file.end(&mut calls, position, &chain, next)?.or(report.torn.take());
        }
        // The last frames of a process that was killed may be in a cache only: what was replayed is made durable before
        // anything is built on it.
        let files: Vec<FileId> = scan.files.iter().map(|f| f.file).collect();
        if !files.is_empty() {
            Calls::new(&mut self.disk, &mut self.completions).call(Op::Sync { files })?;
        }
        scan.check_unused(&mut Calls::new(&mut self.disk, &mut self.completions), &chain)?;
        self.journal.resume(chain.next_seq, chain.prev_crc);
        let lasts = scan.last_seqs(chain.next_seq - 1);
        for (file, last) in scan.files.iter().zip(lasts) {
            self.journal.adopt(file.slot, file.file, file.len, Some(last));
        }
        for (slot, file, len) in &scan.unused {
            self.journal.adopt(*slot, *file, *len, None);
        }
        Ok(())
    }

    fn replay_frame(
        &mut self,
        frame: &Frame,
        path: &str,
        at: u64,
        capture_seq: u64,
        report: &mut Recovery,
    ) -> Result<(), OpenError> {
        let damaged = |log, inside: u64, what: String| {
            OpenError::Corrupt(Corruption { log, path: path.to_owned(), position: at + inside, what })
        };
        let payload = frame.payload();
        let entries = entry::decode(&payload, frame.header.entries)
            .map_err(|(inside, what)| damaged(None, (inside + journal::frame::FRAME_HEADER) as u64, what))?;
        let mut logs = Vec::new();
        for (i, entry) in entries.into_iter().enumerate() {
            let lsn = Lsn::new(frame.header.seq, u32::try_from(i).unwrap_or(u32::MAX));
            match entry {
                Entry::Control(id, control) => self.replay_control(id, control, lsn),
                Entry::Append(id, ref batch) | Entry::AppendAfter(id, _, ref batch) => {
                    let known = frame.header.seq <= capture_seq;
                    let gap_after = match entry {
                        Entry::AppendAfter(_, end, _) => Some(end),
                        Entry::Append(..) | Entry::Control(..) => None,
                    };
                    let index = self
                        .replay_append(id, batch.clone(), gap_after, lsn, known)
                        .map_err(|w| damaged(Some(id), 0, w))?;
                    if let Some(index) = index {
                        report.batches += 1;
                        logs.push(u32::try_from(index).unwrap_or(u32::MAX));
                    }
                }
            }
        }
        if !logs.is_empty() {
            self.keep_frame(frame.header.seq, frame.bytes.len(), logs);
            self.drain_tail(frame.header.seq);
        }
        Ok(())
    }

    /// Rule 18: an append is applied only at the log's end, or beyond it where it says itself where the log ended when
    /// it was made. One below it is skipped only if the checkpoint has it.
    fn replay_append(
        &mut self,
        id: LogId,
        bytes: Bytes,
        gap_after: Option<Offset>,
        lsn: Lsn,
        known: bool,
    ) -> Result<Option<usize>, String> {
        let Some(index) = self.by_id.get(&id).copied() else {
            // Deleted since; the deletion may be older than where replay began.
            return if known { Ok(None) } else { Err("an append to a log that does not exist".into()) };
        };
        let Some(log) = self.logs.get_mut(index) else { return Ok(None) };
        if lsn <= log.stable.lsn {
            return Ok(None);
        }
        let header = BatchHeader::read(&bytes, 0).map_err(|e| e.to_string())?;
        let after = gap_after.unwrap_or(header.base_offset);
        if after != log.log_end || header.base_offset < after {
            let at = header.base_offset;
            return Err(format!("an append at offset {at}, after {after}, where the log ends at {}", log.log_end));
        }
        log.remember(&header, &bytes, lsn.frame(), self.now.wall_ms);
        log.durable_end = log.log_end;
        log.push_tail(TailBatch { header, bytes, lsn });
        Ok(Some(index))
    }

    fn replay_control(&mut self, id: LogId, control: Control, lsn: Lsn) {
        let index = self.by_id.get(&id).copied();
        let reflected = |e: &Self| index.and_then(|i| e.logs.get(i)).is_some_and(|l| lsn <= l.stable.lsn);
        match (control, index) {
            (Control::Create { start }, None) => {
                let index = self.logs.insert(Partition::new(id, LogConfig::keep_everything(), start, lsn));
                self.by_id.insert(id, index);
            }
            (Control::Delete, Some(index)) if !reflected(self) => self.drop_log(index, lsn),
            (Control::Truncate { to }, Some(index)) if !reflected(self) => self.truncate_at(index, to, lsn),
            (Control::LogStart { start }, Some(index)) if !reflected(self) => self.advance_start_at(index, start, lsn),
            (Control::Restart { start }, Some(index)) if !reflected(self) => self.restart_at(index, start, lsn),
            (_, Some(_) | None) => {}
        }
        self.sync.changed = true;
    }

    /// Replay may bring back more than memory may hold: the oldest goes to segments as always.
    fn drain_tail(&mut self, replayed: u64) {
        self.journal.replayed(replayed);
        while self.tail_bytes > self.config.tail_bytes {
            self.make_room();
            self.start_flushes();
            if self.flushes.in_flight() == 0 {
                return;
            }
            self.wait_some();
        }
    }

    /// Every start takes a fresh journal file. Where too few are left, the old ones are flushed and freed before the
    /// first append, so that a node that restarts again and again does not run out of journal.
    fn settle_journal(&mut self) {
        let (used, max) = self.journal.usage();
        if used + 2 <= max {
            return;
        }
        self.sync.closing = true;
        loop {
            self.advance();
            let (used, _) = self.journal.usage();
            if used + 2 <= max || self.journal.failed().is_some() || self.sync.cannot || self.disk.in_flight() == 0 {
                break;
            }
            self.wait_some();
        }
        self.sync.closing = false;
        self.sync.cannot = false;
    }

    /// Segments that are still needed and have no file: what they held is lost, and said so.
    fn report_missing(&mut self) -> Vec<Corruption> {
        let mut damaged = Vec::new();
        for (index, log) in &self.logs {
            for segment in log.segments.iter().filter(|s| s.missing && s.end > log.log_start) {
                let path = segment.key(log.id).path().display().to_string();
                let what = format!("the file is missing; it held offsets {} to {}", segment.base, segment.end);
                damaged.push((index, Corruption { log: Some(log.id), path, position: 0, what }));
            }
        }
        for (index, corruption) in &damaged {
            self.mark_corrupt(*index, corruption);
        }
        damaged.into_iter().map(|(_, corruption)| corruption).collect()
    }

    /// New files get versions that no file has had, nor one that is still to be removed.
    fn note_versions(&mut self, present: &HashSet<SegmentKey>) {
        let known = self.logs.iter().flat_map(|(_, l)| l.segments.iter().map(|s| s.version));
        self.next_version = present.iter().map(|k| k.version).chain(known).max().map_or(0, |v| v + 1);
    }

    /// Segment files of logs that were deleted, and versions that were replaced, just before a crash.
    fn remove_orphans(&mut self, present: &HashSet<SegmentKey>) -> Result<usize, OpenError> {
        self.look_into_trash()?;
        let mut removed = 0;
        let mut present: Vec<SegmentKey> = present.iter().copied().collect();
        present.sort_unstable();
        for key in &present {
            let log = self.by_id.get(&key.log).and_then(|i| self.logs.get(*i));
            let used = log.is_some_and(|l| l.segments.iter().any(|s| s.base == key.base && s.version == key.version));
            let due = self.removals.iter().any(|(_, k)| k == key);
            if !used && !due {
                self.remove_file(*key);
                removed += 1;
            }
        }
        self.remove_files(self.journal.durable_seq());
        Ok(removed)
    }
}

type Checkpoints = ([FileId; 2], Option<Checkpoint>);

/// Opens both checkpoint files and decodes the newer intact one.
pub(crate) fn open_checkpoints<D: Disk>(calls: &mut Calls<'_, D>, mode: OpenMode) -> Result<Checkpoints, OpenError> {
    let mut slots = [FileId(0); 2];
    let mut newest: Option<Checkpoint> = None;
    for (slot, name) in slots.iter_mut().zip(checkpoint::FILES) {
        let (file, len) = match calls.open(name.into(), mode) {
            Err(DiskError::NotFound { .. }) => continue,
            opened => opened?,
        };
        *slot = file;
        let len = crate::io::round_up(usize::try_from(len).unwrap_or(0));
        if len == 0 {
            continue;
        }
        let found = checkpoint::decode(&calls.read(file, 0, len)?);
        if let Some(found) = found
            && newest.as_ref().is_none_or(|n| found.number > n.number)
        {
            newest = Some(found);
        }
    }
    Ok((slots, newest))
}
