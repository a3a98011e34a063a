//! Where the engine meets disks. Nothing outside this module touches a file.
//!
//! The engine is a state machine that submits [`Op`]s and takes [`Completion`]s; a [`Disk`] carries them out. Three
//! implementations run under one conformance suite (`conformance`): `uring` (production), `threads` (where io_uring is
//! not permitted) and `sim` (seeded, with torn, lost, reordered and corrupted writes, full disks and failed syncs).

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

mod buf;
#[cfg(test)]
mod conformance;
mod pool;
mod probe;
mod real;
mod ring;
mod rng;
mod sim;
mod table;
mod threads;
mod uring;

pub use buf::{AlignedBuf, BLOCK, BufPool, BufPools, round_up};
pub use probe::{memlock_limit, probe_uring};
pub use real::{DirectIo, Hold, SYNCFS_FROM_FILES};
pub use ring::{Event, OpId, Owner, PoolBuf, Ring, RingConfig, SEND_MAX_CHUNKS, Wait, What};
pub use sim::{Fault, FaultAction, FaultOn, SimConfig, SimDisk, Survive, Unsynced, UnsyncedChange};
pub use threads::{ThreadDisk, ThreadDiskConfig};
pub use uring::{UringDisk, UringDiskConfig};

/// Chosen by the caller, echoed in the completion. Unique among the operations in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// An open file of one [`Disk`]. Never reused while an operation on it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only.
    Read,
    /// Must exist; reads and writes.
    Write,
    /// Made if it is missing, never truncated; reads and writes.
    Create,
    /// Must not exist.
    CreateNew,
}

/// One operation. Paths are relative to the disk's root directory and never leave it.
///
/// Reads and writes MUST be block-aligned in offset, length and memory ([`BLOCK`]): implementations use `O_DIRECT` where
/// the file system has it, and fall back to buffered writes plus `fdatasync` where it has not.
#[derive(Debug, Clone)]
pub enum Op {
    /// → [`Done::Opened`].
    Open {
        /// The file.
        path: PathBuf,
        /// Create or not, read or write.
        mode: OpenMode,
    },
    /// → [`Done::Ok`]. Operations in flight on the file finish first.
    Close {
        /// The file.
        file: FileId,
    },
    /// Writes all of `data`, or fails. With `durable`, completes only when the bytes are on stable storage (`O_DSYNC`).
    /// Without, a later [`Op::Sync`] on the same file makes it durable. → [`Done::Ok`].
    Write {
        /// The file.
        file: FileId,
        /// Byte position, a multiple of [`BLOCK`].
        offset: u64,
        /// Whole blocks, in aligned memory (see [`AlignedBuf::freeze`]).
        data: Bytes,
        /// On stable storage before the completion.
        durable: bool,
    },
    /// Reads up to `len` bytes; fewer only at the end of the file. → [`Done::Read`].
    Read {
        /// The file.
        file: FileId,
        /// Byte position, a multiple of [`BLOCK`].
        offset: u64,
        /// How many bytes, a multiple of [`BLOCK`].
        len: usize,
    },
    /// Makes every completed write to these files durable, their sizes included. A failure is final: the caller MUST
    /// NOT retry and trust the answer (INV-5). → [`Done::Ok`].
    Sync {
        /// The files.
        files: Vec<FileId>,
    },
    /// Makes creations, renames and removals in a directory durable. → [`Done::Ok`].
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// Replaces `to` if it exists. Atomic, durable after [`Op::SyncDir`]. → [`Done::Ok`].
    Rename {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Removes a file; a missing file is not an error. → [`Done::Ok`].
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Cuts up to `by` bytes off the end of a file, durably, and removes it where no more than that is there. A missing
    /// file has nothing left. For files that are not open. → [`Done::Shrunk`].
    Shrink {
        /// The file.
        path: PathBuf,
        /// How many bytes.
        by: u64,
    },
    /// Makes a directory and its parents; an existing one is not an error. → [`Done::Ok`].
    CreateDir {
        /// The directory.
        path: PathBuf,
    },
    /// Removes a directory and what is in it; a missing one is not an error. → [`Done::Ok`].
    RemoveDir {
        /// The directory.
        path: PathBuf,
    },
    /// Names (not paths) of a directory's entries, sorted; a missing directory is empty. → [`Done::Listed`].
    List {
        /// The directory.
        path: PathBuf,
    },
    /// Extends a file with zeros to `len` bytes and takes the space for them, so that writes there change no extent; a
    /// longer file stays as it is. Durable after [`Op::Sync`]. → [`Done::Ok`].
    Grow {
        /// The file.
        file: FileId,
        /// Length in bytes that it has at least.
        len: u64,
    },
    /// Free bytes for an unprivileged writer, and the whole size. → [`Done::Space`].
    FreeSpace,
}

/// What a successful operation gives.
#[derive(Debug, Clone)]
pub enum Done {
    /// Nothing to tell.
    Ok,
    /// The file and its present length in bytes.
    Opened(FileId, u64),
    /// The bytes read.
    Read(Bytes),
    /// Entry names.
    Listed(Vec<String>),
    /// What was cut off, and what is left, in bytes; of a removed file nothing.
    Shrunk {
        /// Cut off.
        freed: u64,
        /// Left.
        left: u64,
    },
    /// Free and total bytes.
    Space {
        /// Free to an unprivileged writer.
        free: u64,
        /// Size of the file system.
        total: u64,
    },
}

/// Why an operation failed. Variants are decisions.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The file system is full (`ENOSPC`, `EDQUOT`): nothing is broken, room is missing.
    #[error("{what}: no space left on the file system")]
    Full {
        /// Operation and path.
        what: String,
    },
    /// No such file.
    #[error("{what}: not found")]
    NotFound {
        /// Operation and path.
        what: String,
    },
    /// Anything else: the device or file system failed. What the file holds now is unknown.
    #[error("{what}: {message}")]
    Failed {
        /// Operation and path.
        what: String,
        /// The system's message.
        message: String,
    },
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub token: Token,
    /// Its outcome.
    pub result: Result<Done, DiskError>,
}

/// Carries out operations. Single-threaded towards its caller.
///
/// Contract:
/// - `submit` MUST NOT block on the device and MUST accept any number of operations (the engine bounds what it has in flight).
/// - Every operation completes exactly once. Operations MAY complete in any order, two writes in flight included:
///   whoever needs an order waits for the completion.
/// - A write that has not completed MAY be on disk in part, in units of [`BLOCK`], in any order.
/// - Dropping the disk abandons what is in flight, as a crash would.
pub trait Disk {
    /// Starts an operation.
    fn submit(&mut self, token: Token, op: Op);

    /// Appends what has completed to `out`; never blocks.
    fn poll(&mut self, out: &mut Vec<Completion>);

    /// Like `poll`, but blocks until at least one operation has completed. Returns at once if none is in flight.
    fn wait(&mut self, out: &mut Vec<Completion>);

    /// Operations submitted and not yet reported.
    fn in_flight(&self) -> usize;

    /// What this implementation is, for logs and metrics: `io_uring`, `threads`, `sim`.
    fn name(&self) -> &'static str;
}

/// A disk that a test, or a driver that owns the ring beneath it, shares with the engine. The engine borrows it only
/// inside a call.
impl<D: Disk> Disk for Rc<RefCell<D>> {
    fn submit(&mut self, token: Token, op: Op) {
        self.borrow_mut().submit(token, op);
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        self.borrow_mut().poll(out);
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        self.borrow_mut().wait(out);
    }

    fn in_flight(&self) -> usize {
        self.borrow().in_flight()
    }

    fn name(&self) -> &'static str {
        self.borrow().name()
    }
}

/// Offset and length of a read or write must be whole blocks.
fn check_aligned(offset: u64, len: usize) -> Result<(), &'static str> {
    if offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK) && offset.checked_add(len as u64).is_some() {
        Ok(())
    } else {
        Err("offset or length is not a multiple of the block size")
    }
}

/// The memory of a write must begin at a block boundary.
fn check_memory(data: &Bytes) -> Result<(), &'static str> {
    if data.is_empty() || data.as_ptr().addr().is_multiple_of(BLOCK) {
        Ok(())
    } else {
        Err("memory is not aligned to the block size")
    }
}

/// Submits one operation and waits for it. For start-up and shutdown only. Completions of other operations that arrive
/// meanwhile are kept in `others`.
///
/// # Errors
/// The operation's own error.
pub fn call<D: Disk + ?Sized>(
    disk: &mut D,
    token: Token,
    op: Op,
    others: &mut Vec<Completion>,
) -> Result<Done, DiskError> {
    disk.submit(token, op);
    let mut found = None;
    let mut batch = Vec::new();
    while found.is_none() {
        disk.wait(&mut batch);
        for completion in batch.drain(..) {
            if completion.token == token {
                found = Some(completion.result);
            } else {
                others.push(completion);
            }
        }
    }
    found.unwrap_or_else(|| Err(DiskError::Failed { what: "call".into(), message: "no completion".into() }))
}
