//! Reading the journal back: which files form the chain, the frames in them, and whether what lies behind the end is a
//! torn tail or damage.

use bytes::Bytes;
use uuid::Uuid;

use super::file::FileHeader;
use super::frame::{self, FRAME_HEADER, Found, FrameHeader};
use super::{DIRECTORY, parse_slot, path};
use crate::checkpoint::Checkpoint;
use crate::engine::Calls;
use crate::error::{Corruption, OpenError};
use crate::io::{BLOCK, Disk, FileId, OpenMode, round_up};

/// The journal is read in pieces of at least this many bytes.
const WINDOW: usize = 4 << 20;

/// A journal file with an intact header.
#[derive(Debug)]
pub(crate) struct ScanFile {
    pub(crate) slot: u32,
    pub(crate) file: FileId,
    pub(crate) len: u64,
    pub(crate) header: FileHeader,
    pub(crate) path: String,
    window: Bytes,
    window_at: u64,
}

/// What the journal directory holds.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The chain that replay follows, in order.
    pub(crate) files: Vec<ScanFile>,
    /// Files that hold nothing that is needed: slot, file, length.
    pub(crate) unused: Vec<(u32, FileId, u64)>,
    pub(crate) directory: Option<Uuid>,
    pub(crate) incarnation: u64,
    pub(crate) generation: u64,
    /// Sequence of the first frame of the chain.
    pub(crate) chain_start: u64,
    pub(crate) first_prev_crc: u32,
    /// Files without an intact header.
    headless: Vec<(String, FileId, u64)>,
}

/// Where replay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) next_seq: u64,
    pub(crate) prev_crc: u32,
}

impl Chain {
    pub(crate) fn new(next_seq: u64, prev_crc: u32) -> Self {
        Self { next_seq, prev_crc }
    }
}

/// A frame of the chain, in memory of its own.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) header: FrameHeader,
    pub(crate) bytes: Bytes,
}

impl Frame {
    pub(crate) fn payload(&self) -> Bytes {
        self.bytes.slice(FRAME_HEADER..FRAME_HEADER + self.header.payload_len as usize)
    }
}

fn damaged(path: &str, position: u64, what: String) -> OpenError {
    OpenError::Corrupt(Corruption { log: None, path: path.to_owned(), position, what })
}

/// Opens all journal files, with `mode`, and finds the chain that continues the checkpoint.
pub(crate) fn scan<D: Disk>(
    calls: &mut Calls<'_, D>,
    mode: OpenMode,
    checkpoint: Option<&Checkpoint>,
) -> Result<Scan, OpenError> {
    let mut intact: Vec<ScanFile> = Vec::new();
    let mut scan = Scan {
        files: Vec::new(),
        unused: Vec::new(),
        directory: None,
        incarnation: 0,
        generation: 0,
        chain_start: 1,
        first_prev_crc: 0,
        headless: Vec::new(),
    };
    for name in calls.list(DIRECTORY)? {
        let Some(slot) = parse_slot(&name) else { continue };
        let (file, len) = calls.open(path(slot), mode)?;
        let head = calls.read(file, 0, BLOCK)?;
        let path = path(slot).display().to_string();
        match FileHeader::decode(&head) {
            Some(header) => {
                intact.push(ScanFile { slot, file, len, header, path, window: Bytes::new(), window_at: 0 });
            }
            None => {
                scan.headless.push((path, file, len));
                scan.unused.push((slot, file, len));
            }
        }
    }
    intact.sort_by_key(|f| f.header.generation);
    check_directory(&intact, checkpoint)?;
    scan.directory = intact.first().map(|f| f.header.directory);
    scan.incarnation = intact.iter().map(|f| f.header.incarnation).max().unwrap_or(0);
    scan.generation = intact.iter().map(|f| f.header.generation).max().unwrap_or(0);
    let replay_from = checkpoint.map_or(1, |c| c.replay_from);
    let start = intact.iter().rposition(|f| f.header.first_seq <= replay_from);
    let Some(start) = start else {
        return match intact.first() {
            Some(f) => Err(damaged(&f.path, 0, missing(replay_from, f.header.first_seq))),
            None if checkpoint.is_some_and(|c| c.replay_from > 1 || !c.logs.is_empty()) => {
                Err(damaged(DIRECTORY, 0, format!("frame {replay_from} and all after it are missing")))
            }
            None => Ok(scan),
        };
    };
    let chain = intact.split_off(start);
    scan.unused.extend(intact.iter().map(|f| (f.slot, f.file, f.len)));
    scan.chain_start = chain.first().map_or(1, |f| f.header.first_seq);
    scan.first_prev_crc = chain.first().map_or(0, |f| f.header.prev_crc);
    scan.files = chain;
    Ok(scan)
}

fn missing(from: u64, to: u64) -> String {
    format!("frames {from} to {} are missing before this file", to.saturating_sub(1))
}

fn check_directory(files: &[ScanFile], checkpoint: Option<&Checkpoint>) -> Result<(), OpenError> {
    let Some(expected) = checkpoint.map(|c| c.directory).or(files.first().map(|f| f.header.directory)) else {
        return Ok(());
    };
    match files.iter().find(|f| f.header.directory != expected) {
        Some(f) => Err(OpenError::Foreign {
            path: f.path.clone(),
            what: format!("belongs to data directory {}, this one is {expected}", f.header.directory),
        }),
        None => Ok(()),
    }
}

impl ScanFile {
    /// The bytes from `position` to the end of the file, or as many as `len` at least.
    fn window<D: Disk>(&mut self, calls: &mut Calls<'_, D>, position: u64, len: usize) -> Result<Bytes, OpenError> {
        let inside = position.checked_sub(self.window_at).and_then(|p| usize::try_from(p).ok());
        if let Some(at) = inside
            && (at + len <= self.window.len() || (at < self.window.len() && self.window_end() >= self.len))
        {
            return Ok(self.window.slice(at..));
        }
        let rest = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX);
        let want = round_up(len.max(WINDOW).min(rest.max(1)));
        self.window = calls.read(self.file, position, want)?;
        self.window_at = position;
        Ok(self.window.clone())
    }

    fn window_end(&self) -> u64 {
        self.window_at + self.window.len() as u64
    }

    /// What lies at `position`, with its whole payload if it has one.
    fn look<D: Disk>(&mut self, calls: &mut Calls<'_, D>, position: u64) -> Result<(Found, Bytes), OpenError> {
        if position + BLOCK as u64 > self.len {
            return Ok((Found::Nothing, Bytes::new()));
        }
        let bytes = self.window(calls, position, BLOCK)?;
        match frame::look(&bytes) {
            // The header may be intact and its payload beyond the window.
            Found::BadPayload(header) if header.blocks() * BLOCK > bytes.len() => {
                let bytes = self.window(calls, position, header.blocks() * BLOCK)?;
                Ok((frame::look(&bytes), bytes))
            }
            found @ (Found::Frame(..) | Found::BadPayload(_) | Found::Nothing) => Ok((found, bytes)),
        }
    }

    fn is_mine(&self, header: &FrameHeader) -> bool {
        header.generation == self.header.generation && header.incarnation == self.header.incarnation
    }

    /// The next frame of the chain, with its position; `None` where the chain leaves this file. Frames from `limit` on
    /// were cut off by an earlier recovery: they are never taken.
    pub(crate) fn next_frame<D: Disk>(
        &mut self,
        calls: &mut Calls<'_, D>,
        position: &mut u64,
        chain: &mut Chain,
        limit: u64,
    ) -> Result<Option<(Frame, u64)>, OpenError> {
        let (found, bytes) = self.look(calls, *position)?;
        let Found::Frame(header, crc) = found else { return Ok(None) };
        let next = header.seq == chain.next_seq && header.prev_crc == chain.prev_crc;
        if !self.is_mine(&header) || !next || header.seq >= limit {
            return Ok(None);
        }
        let len = header.blocks() * BLOCK;
        let at = *position;
        *position += len as u64;
        *chain = Chain { next_seq: header.seq + 1, prev_crc: crc };
        // A copy of its own: a slice would keep the whole window in memory.
        Ok(Some((Frame { header, bytes: Bytes::copy_from_slice(bytes.get(..len).unwrap_or_default()) }, at)))
    }

    /// The chain left this file at `position`: is that its end, a torn write, or damage? Gives the position of a torn
    /// frame.
    pub(crate) fn end<D: Disk>(
        &mut self,
        calls: &mut Calls<'_, D>,
        position: u64,
        chain: &Chain,
        next: Option<&FileHeader>,
    ) -> Result<Option<(String, u64)>, OpenError> {
        if let Some(next) = next {
            return if next.first_seq == chain.next_seq && next.prev_crc == chain.prev_crc {
                Ok(None)
            } else {
                let what =
                    format!("frame {} is damaged although frames from {} on follow", chain.next_seq, next.first_seq);
                Err(damaged(&self.path, position, what))
            };
        }
        let mut torn = None;
        let mut at = position;
        while at + BLOCK as u64 <= self.len {
            let (Found::Frame(header, _) | Found::BadPayload(header)) = self.look(calls, at)?.0 else {
                at += BLOCK as u64;
                continue;
            };
            if self.is_mine(&header) && header.durable_seq >= chain.next_seq {
                let what =
                    format!("frame {} is damaged although frame {} says it was durable", chain.next_seq, header.seq);
                return Err(damaged(&self.path, position, what));
            }
            if self.is_mine(&header) && header.seq == chain.next_seq {
                torn = Some((self.path.clone(), at));
            }
            at += BLOCK as u64;
        }
        Ok(torn)
    }
}

impl Scan {
    /// A file in use whose header is damaged would look free: its first frame tells.
    pub(crate) fn check_unused<D: Disk>(&self, calls: &mut Calls<'_, D>, chain: &Chain) -> Result<(), OpenError> {
        for (path, file, len) in &self.headless {
            if *len < 2 * BLOCK as u64 {
                continue;
            }
            let bytes = calls.read(*file, BLOCK as u64, BLOCK)?;
            let (Found::Frame(header, _) | Found::BadPayload(header)) = frame::look(&bytes) else { continue };
            if header.generation > self.generation && header.seq >= chain.next_seq {
                return Err(damaged(
                    path,
                    0,
                    format!("the file's header is damaged; it holds frames from {} on", header.seq),
                ));
            }
        }
        Ok(())
    }

    /// Highest sequence in each file of the chain.
    pub(crate) fn last_seqs(&self, last: u64) -> Vec<u64> {
        let nexts = self.files.iter().skip(1).map(|f| f.header.first_seq - 1);
        nexts.chain([last]).take(self.files.len()).collect()
    }
}
