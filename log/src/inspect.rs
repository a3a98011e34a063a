//! Looks at a data directory without changing it: what the checkpoint says, what the journal holds beyond it, what is in
//! the segments, and (with `verify`) whether every byte is what was written. Works beside a running node, whose newest
//! frames it may miss.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde::Serialize;
use wherry_wire::batch::{BatchHeader, crc32c};
use wherry_wire::types::{LogId, Offset};

use crate::checkpoint::{Checkpoint, LogRecord};
use crate::engine::{Calls, open_checkpoints};
use crate::error::{Corruption, OpenError};
use crate::io::{BLOCK, Disk, Hold, OpenMode, ThreadDisk, ThreadDiskConfig, round_up};
use crate::journal::entry::{self, Control, Entry};
use crate::journal::scan::{self, Chain, Frame, ScanFile};
use crate::segment::chunk::{self, ChunkRef, StoredBatch};
use crate::segment::{self, SegmentKey};

/// Bytes read at once while segments are verified.
const READ_BYTES: usize = 1 << 20;

/// What a data directory holds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Identity of the directory.
    pub directory: Option<String>,
    /// The checkpoint in force.
    pub checkpoint: Option<CheckpointReport>,
    /// Journal files, those of the chain first, in order.
    pub journal: Vec<JournalReport>,
    /// Logs, by id.
    pub logs: Vec<LogReport>,
    /// Segment files that no log claims; they go at the next start.
    pub orphans: Vec<String>,
    /// Everything that is not as it was written.
    pub problems: Vec<String>,
    /// Whether every batch was read and checked.
    pub verified: bool,
}

/// The checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointReport {
    /// Counts checkpoints.
    pub number: u64,
    /// Newest frame that it reflects.
    pub captured: u64,
    /// First frame that a start would replay.
    pub replay_from: u64,
}

/// One journal file.
#[derive(Debug, Clone, Serialize)]
pub struct JournalReport {
    /// Path below the data directory.
    pub file: String,
    /// `chain` (would be replayed), or `free`.
    pub state: &'static str,
    /// Life of the file; the order of files.
    pub generation: u64,
    /// Start of the node that began it.
    pub incarnation: u64,
    /// First and last frame.
    pub first: u64,
    /// See `first`; one less than it if there is none.
    pub last: u64,
    /// Bytes used, header included.
    pub bytes: u64,
}

/// One log.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LogReport {
    /// Topic id.
    pub topic_id: String,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub log_start: i64,
    /// End of what the segments hold.
    pub stable_end: i64,
    /// End, the journal included.
    pub log_end: i64,
    /// Batches that only the journal holds.
    pub journaled_batches: u64,
    /// Idempotent producers known.
    pub producers: usize,
    /// Transactions without an end, as the checkpoint knows them: producer id, and the offset where it began.
    pub open_transactions: Vec<(i64, i64)>,
    /// Aborted transactions, as the checkpoint knows them.
    pub aborted_transactions: usize,
    /// Leader epochs and where they begin.
    pub epochs: Vec<(i32, i64)>,
    /// Checksum over all batches that the segments hold, in order, if they were verified: replicas of one partition that
    /// were stopped in good order have the same, however their segments are cut.
    pub digest: Option<u32>,
    /// Segments.
    pub segments: Vec<SegmentReport>,
}

/// One segment file.
#[derive(Debug, Clone, Serialize)]
pub struct SegmentReport {
    /// Path below the data directory.
    pub file: String,
    /// First offset.
    pub base: i64,
    /// Offset after the last.
    pub end: i64,
    /// Bytes in use.
    pub bytes: u64,
    /// Entries of its index: chunks, each with its own bounds and checksums.
    pub chunks: usize,
    /// Batches, if it was verified.
    pub batches: Option<u64>,
    /// Largest record timestamp, milliseconds; `None` while empty.
    pub max_timestamp: Option<i64>,
}

/// Inspects the data directory at `path`.
///
/// # Errors
/// The directory can't be read, or holds no data of ours.
pub fn inspect(path: &Path, verify: bool) -> Result<Report, OpenError> {
    let mut disk = ThreadDisk::open(path, &ThreadDiskConfig { hold: Hold::Shared, ..ThreadDiskConfig::default() })?;
    inspect_disk(&mut disk, verify)
}

/// As [`inspect`], over any disk.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_disk<D: Disk>(disk: &mut D, verify: bool) -> Result<Report, OpenError> {
    let mut others = Vec::new();
    let mut calls = Calls::new(disk, &mut others);
    let (_, found) = open_checkpoints(&mut calls, OpenMode::Read)?;
    let mut report = Report { verified: verify, ..Report::default() };
    report.checkpoint = found.as_ref().map(|c| CheckpointReport {
        number: c.number,
        captured: c.capture_seq,
        replay_from: c.replay_from,
    });
    report.directory = found.as_ref().map(|c| c.directory.to_string());
    let mut logs: BTreeMap<LogId, LogReport> = BTreeMap::new();
    for record in found.iter().flat_map(|c| &c.logs) {
        logs.insert(record.id, log_report(record));
    }
    walk_journal(&mut calls, found.as_ref(), &mut report, &mut logs)?;
    for record in found.iter().flat_map(|c| &c.logs) {
        let Some(log) = logs.get_mut(&record.id) else { continue };
        for extent in record.stable.segments.iter().filter(|s| s.end.0 > log.log_start) {
            let key = SegmentKey { log: record.id, base: extent.base, version: extent.version };
            let mut walk = SegmentWalk { calls: &mut calls, key, bytes: extent.bytes, verify, seen: Vec::new() };
            let (chunks, batches, problem) = walk.run();
            report.problems.extend(problem.map(|p| p.to_string()));
            if verify {
                log.digest = Some(walk.digest(log.digest.unwrap_or(0), log.log_start, extent.end.0));
            }
            log.segments.push(SegmentReport {
                file: key.path().display().to_string(),
                base: extent.base.0,
                end: extent.end.0,
                bytes: extent.bytes,
                chunks,
                batches: verify.then_some(batches),
                max_timestamp: (extent.max_timestamp != i64::MIN).then_some(extent.max_timestamp),
            });
        }
    }
    let claimed: Vec<&str> = logs.values().flat_map(|l| l.segments.iter().map(|s| s.file.as_str())).collect();
    let names = calls.list(segment::DIRECTORY)?;
    report.orphans = names
        .iter()
        .map(|n| format!("{}/{n}", segment::DIRECTORY))
        .filter(|n| !claimed.contains(&n.as_str()))
        .collect();
    report.logs = logs.into_values().collect();
    Ok(report)
}

fn log_report(record: &LogRecord) -> LogReport {
    LogReport {
        topic_id: record.id.topic.to_string(),
        partition: record.id.partition,
        log_start: record.log_start.0,
        stable_end: record.stable.end.0,
        log_end: record.stable.end.0,
        producers: record.producers.len(),
        open_transactions: open_transactions(record),
        aborted_transactions: record.transactions.as_ref().map_or(0, |t| t.aborted.len()),
        epochs: record.epochs.iter().map(|(e, o)| (e.0, o.0)).collect(),
        ..LogReport::default()
    }
}

fn open_transactions(record: &LogRecord) -> Vec<(i64, i64)> {
    let members = record.transactions.iter().flat_map(|t| &t.members);
    let mut open: Vec<(i64, i64)> = members.filter_map(|(id, member)| Some((*id, member.open?.first.0))).collect();
    open.sort_unstable_by_key(|(_, first)| *first);
    open
}

/// Follows the chain as a start would, and counts instead of applying.
fn walk_journal<D: Disk>(
    calls: &mut Calls<'_, D>,
    checkpoint: Option<&Checkpoint>,
    report: &mut Report,
    logs: &mut BTreeMap<LogId, LogReport>,
) -> Result<(), OpenError> {
    let mut scan = match scan::scan(calls, OpenMode::Read, checkpoint) {
        Ok(scan) => scan,
        Err(OpenError::Corrupt(c)) => {
            report.problems.push(c.to_string());
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    report.directory = report.directory.take().or(scan.directory.map(|d| d.to_string()));
    let mut chain = Chain::new(scan.chain_start, scan.first_prev_crc);
    let headers: Vec<_> = scan.files.iter().map(|f| f.header).collect();
    for (i, file) in scan.files.iter_mut().enumerate() {
        let next = headers.get(i + 1);
        let mut position = BLOCK as u64;
        while let Some((frame, at)) =
            file.next_frame(calls, &mut position, &mut chain, next.map_or(u64::MAX, |n| n.first_seq))?
        {
            count_frame(&frame, file, at, checkpoint, report, logs);
        }
        match file.end(calls, position, &chain, next) {
            Err(OpenError::Corrupt(c)) => report.problems.push(c.to_string()),
            other => {
                other?;
            }
        }
        report.journal.push(JournalReport {
            file: file.path.clone(),
            state: "chain",
            generation: file.header.generation,
            incarnation: file.header.incarnation,
            first: file.header.first_seq,
            last: chain.next_seq - 1,
            bytes: position,
        });
    }
    if let Err(OpenError::Corrupt(c)) = scan.check_unused(calls, &chain) {
        report.problems.push(c.to_string());
    }
    for (slot, _, len) in &scan.unused {
        let file = crate::journal::path(*slot).display().to_string();
        report.journal.push(JournalReport {
            file,
            state: "free",
            generation: 0,
            incarnation: 0,
            first: 0,
            last: 0,
            bytes: *len,
        });
    }
    Ok(())
}

fn count_frame(
    frame: &Frame,
    file: &ScanFile,
    at: u64,
    checkpoint: Option<&Checkpoint>,
    report: &mut Report,
    logs: &mut BTreeMap<LogId, LogReport>,
) {
    let entries = match entry::decode(&frame.payload(), frame.header.entries) {
        Ok(entries) => entries,
        Err((inside, what)) => {
            let position = at + inside as u64;
            report.problems.push(Corruption { log: None, path: file.path.clone(), position, what }.to_string());
            return;
        }
    };
    for (i, entry) in entries.into_iter().enumerate() {
        let lsn = crate::Lsn::new(frame.header.seq, u32::try_from(i).unwrap_or(u32::MAX));
        let id = match &entry {
            Entry::Append(id, _) | Entry::AppendAfter(id, ..) | Entry::Control(id, _) => *id,
        };
        let known = checkpoint.and_then(|c| c.logs.iter().find(|l| l.id == id));
        if known.is_none_or(|l| lsn > l.stable.lsn) {
            count_entry(&entry, logs);
        }
    }
}

fn count_entry(entry: &Entry, logs: &mut BTreeMap<LogId, LogReport>) {
    match entry {
        Entry::Append(id, batch) | Entry::AppendAfter(id, _, batch) => {
            let Some(log) = logs.get_mut(id) else { return };
            if let Ok(header) = BatchHeader::read(batch, 0) {
                log.journaled_batches += 1;
                log.log_end = header.next_offset().0;
            }
        }
        Entry::Control(id, Control::Create { start } | Control::Restart { start }) => {
            let topic_id = id.topic.to_string();
            let start = start.0;
            logs.insert(
                *id,
                LogReport {
                    topic_id,
                    partition: id.partition,
                    log_start: start,
                    stable_end: start,
                    log_end: start,
                    ..LogReport::default()
                },
            );
        }
        Entry::Control(id, Control::Delete) => {
            logs.remove(id);
        }
        Entry::Control(id, Control::Truncate { to }) => {
            if let Some(log) = logs.get_mut(id) {
                log.log_end = log.log_end.min(to.0);
                log.stable_end = log.stable_end.min(to.0);
            }
        }
        Entry::Control(id, Control::LogStart { start }) => {
            if let Some(log) = logs.get_mut(id) {
                log.log_start = log.log_start.max(start.0);
            }
        }
    }
}

struct SegmentWalk<'c, 'd, D: Disk> {
    calls: &'c mut Calls<'d, D>,
    key: SegmentKey,
    bytes: u64,
    verify: bool,
    /// Of each batch that was verified: its first offset, the one after its last, and its checksum.
    seen: Vec<(i64, i64, u32)>,
}

impl<D: Disk> SegmentWalk<'_, '_, D> {
    /// Chunks, batches (if verified), and the first problem.
    fn run(&mut self) -> (usize, u64, Option<Corruption>) {
        let (mut chunks, mut batches) = (0, 0);
        match self.walk(&mut chunks, &mut batches) {
            Ok(()) => (chunks, batches, None),
            Err((position, what)) => {
                let path = self.key.path().display().to_string();
                (chunks, batches, Some(Corruption { log: Some(self.key.log), path, position, what }))
            }
        }
    }

    fn walk(&mut self, chunks: &mut usize, batches: &mut u64) -> Result<(), (u64, String)> {
        if self.bytes == 0 {
            return Ok(());
        }
        let (file, _) = self.calls.open(self.key.path(), OpenMode::Read).map_err(|e| (0, e.to_string()))?;
        let mut position = 0;
        let mut window = (0u64, Bytes::new());
        while position < self.bytes {
            let head = self.bytes_at(file, &mut window, position, BLOCK)?;
            let found: ChunkRef = chunk::read_header(&head, self.key.log, position)
                .ok_or_else(|| (position, "not an intact chunk header of this log".to_owned()))?;
            if self.verify {
                let whole = self.bytes_at(file, &mut window, position, found.file_len())?;
                let (_, list) = chunk::verify(&whole, self.key.log, position).map_err(|(i, w)| (position + i, w))?;
                *batches += list.len() as u64;
                self.see(found.base.0, &list);
            }
            *chunks += 1;
            position += found.file_len() as u64;
        }
        Ok(())
    }

    /// A chunk cuts what lies at and above its base in those before it.
    fn see(&mut self, base: i64, batches: &[StoredBatch]) {
        while self.seen.last().is_some_and(|(first, ..)| *first >= base) {
            self.seen.pop();
        }
        let sum = |b: &StoredBatch| (b.header.base_offset.0, b.header.next_offset().0, crc32c(&b.bytes));
        self.seen.extend(batches.iter().map(sum));
    }

    /// Goes on from `digest` with the batches that are part of the log from `start` to `end`.
    fn digest(&self, digest: u32, start: i64, end: i64) -> u32 {
        let valid = self.seen.iter().filter(|(first, next, _)| *next > start && *first < end);
        valid.fold(digest, |digest, (.., sum)| crc32c(&(u64::from(digest) << 32 | u64::from(*sum)).to_le_bytes()))
    }

    fn bytes_at(
        &mut self,
        file: crate::io::FileId,
        window: &mut (u64, Bytes),
        position: u64,
        len: usize,
    ) -> Result<Bytes, (u64, String)> {
        let inside = position.checked_sub(window.0).and_then(|p| usize::try_from(p).ok());
        if let Some(at) = inside.filter(|at| at + len <= window.1.len()) {
            return Ok(window.1.slice(at..at + len));
        }
        let rest = usize::try_from(self.bytes.saturating_sub(position)).unwrap_or(usize::MAX);
        let want = if self.verify { round_up(len.max(READ_BYTES).min(rest)) } else { round_up(len) };
        let data = self.calls.read(file, position, want).map_err(|e| (position, e.to_string()))?;
        *window = (position, data);
        Ok(window.1.slice(..len.min(window.1.len())))
    }
}

impl Report {
    /// Nothing that was looked at is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// The log of a topic's partition.
    #[must_use]
    pub fn log(&self, id: LogId) -> Option<&LogReport> {
        self.logs.iter().find(|l| l.partition == id.partition && l.topic_id == id.topic.to_string())
    }

    /// Records that exist, over all logs.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.logs.iter().map(|l| Offset(l.log_end).since(Offset(l.log_start))).sum()
    }
}
