//! What is removed goes to a directory of its own at once, and its space back to the file system a piece at a time. A large
//! file removed at once can stop the device for seconds: file systems that are mounted with `discard` tell it about all
//! of the freed blocks in one go, and every append waits behind that.
//!
//! ```text
//! segments/X ── rename ──> trash/X ── a piece is cut off its end, again and again ──> gone
//! ```

use std::collections::VecDeque;
use std::path::PathBuf;

use super::Engine;
use super::ops::Pending;
use super::recover::Calls;
use crate::error::OpenError;
use crate::io::{Disk, DiskError, Done, Op};
use crate::segment::SegmentKey;

pub(super) const DIRECTORY: &str = "trash";
/// Pieces of a second's worth.
pub(super) const PIECES_PER_S: u64 = 16;
/// Least time between two pieces, so that many small files are no burst either, in nanoseconds.
const PAUSE_NS: u64 = 500_000;
const NS_PER_S: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trash {
    /// Files to be erased, those of this life with the name that they had.
    pub(super) queue: VecDeque<(PathBuf, Option<SegmentKey>)>,
    /// Monotonic time of the next piece, nanoseconds.
    next_ns: u64,
    pub(super) on_its_way: bool,
    /// Removed since the directory was last synced, in bytes: only then is the space really free.
    unsynced: u64,
}

impl Trash {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        (!self.on_its_way && !self.queue.is_empty()).then_some(self.next_ns)
    }
}

impl<D: Disk> Engine<D> {
    /// Forgets a file and gets rid of it.
    pub(super) fn remove_file(&mut self, key: SegmentKey) {
        self.files.doom(&mut self.disk, &mut self.ops, key);
        self.reads.forget_file(key);
        let token = self.ops.add(Pending::Moved { key });
        self.disk.submit(token, Op::Rename { from: key.path(), to: key.path_in(DIRECTORY) });
    }

    pub(super) fn moved(&mut self, key: SegmentKey, result: &Result<Done, DiskError>) {
        match result {
            Ok(_) => self.trash.queue.push_back((key.path_in(DIRECTORY), Some(key))),
            Err(DiskError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(path = %key.path().display(), %error, "a removed segment can't be moved to the trash");
                self.disk.submit(self.ops.add(Pending::Ignore), Op::Remove { path: key.path() });
            }
        }
    }

    /// The next piece, if it is time.
    pub(super) fn empty_trash(&mut self) {
        let now_ns = self.now.monotonic_ns;
        if self.trash.on_its_way || now_ns < self.trash.next_ns {
            return;
        }
        let piece = self.piece_bytes();
        let op = if self.trash.unsynced >= piece {
            self.trash.unsynced = 0;
            Op::SyncDir { path: DIRECTORY.into() }
        } else {
            let Some((path, key)) = self.trash.queue.front() else { return };
            if key.is_some_and(|key| self.files.knows(key)) {
                // Somebody reads it still, with a handle that keeps working only while nothing is cut off.
                self.trash.queue.rotate_left(1);
                self.trash.next_ns = now_ns + NS_PER_S / PIECES_PER_S;
                return;
            }
            Op::Shrink { path: path.clone(), by: piece }
        };
        self.trash.on_its_way = true;
        self.disk.submit(self.ops.add(Pending::Erased), op);
    }

    /// A piece is gone.
    pub(super) fn erased(&mut self, result: &Result<Done, DiskError>) {
        self.trash.on_its_way = false;
        let freed = match *result {
            Ok(Done::Shrunk { freed, left }) => {
                if left == 0 {
                    self.trash.queue.pop_front();
                    self.trash.unsynced += freed;
                }
                freed
            }
            Ok(_) => 0,
            Err(ref error) => {
                tracing::warn!(%error, "a removed segment can't be erased; its space is tried again after the next start");
                self.trash.queue.pop_front();
                0
            }
        };
        let pause_ns = freed.saturating_mul(NS_PER_S) / self.config.erase_bytes_per_s.max(1);
        let pause_ns = if self.room_is_short() { 0 } else { pause_ns.max(PAUSE_NS) };
        self.trash.next_ns = self.now.monotonic_ns + pause_ns;
    }

    fn piece_bytes(&self) -> u64 {
        let piece = self.config.erase_bytes_per_s / PIECES_PER_S;
        if piece == 0 { u64::MAX } else { piece }
    }

    /// What an earlier process did not get to.
    pub(super) fn look_into_trash(&mut self) -> Result<(), OpenError> {
        let mut calls = Calls::new(&mut self.disk, &mut self.completions);
        let names = calls.list(DIRECTORY)?;
        self.trash.queue.extend(names.into_iter().map(|name| (PathBuf::from(DIRECTORY).join(name), None)));
        Ok(())
    }
}
