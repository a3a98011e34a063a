//! Blocking operations on real files, for the threads that may block. Must not know who asks, nor in which order.
//!
//! Files are opened `O_DIRECT` where the file system has it for our block size; else buffered, with the same promises.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::{BLOCK, BufPools, DiskError, Done, Op, OpenMode, check_aligned, check_memory, probe};

/// From this many files on, one `syncfs` replaces an `fdatasync` for each.
pub const SYNCFS_FROM_FILES: usize = 64;

/// Sizes in bytes of read buffers that are kept for reuse; a read takes the next larger one.
const READ_POOL_SIZES: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];
/// Bytes of each size that wait for reuse.
const READ_POOL_KEEP: usize = 4 << 20;

/// Whether to go around the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system offers it for blocks of 4 KiB.
    Auto,
    /// Never: buffered writes, made durable by `RWF_DSYNC` or `fdatasync`.
    Never,
}

/// An open file that several threads may use at once.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
}

/// Name of the file whose lock says that a process works in a directory. Not listed, so the engine never sees it.
const LOCK_FILE: &str = ".lock";

/// Whether the directory is ours alone (rule 7: one process per data directory).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Refuse to open a directory that another process, or this one, has open exclusively.
    Exclusive,
    /// Take no lock: for tools that only look.
    Shared,
}

/// A directory on a real file system; all paths are relative to it.
#[derive(Debug, Clone)]
pub(super) struct RealDir {
    root: Arc<Path>,
    /// Held as long as any thread may still write here.
    _lock: Option<Arc<File>>,
    direct: DirectIo,
    pools: Arc<BufPools>,
}

impl RealDir {
    /// Makes the directory if it is missing.
    pub(super) fn open(root: &Path, direct: DirectIo, hold: Hold) -> Result<Self, DiskError> {
        std::fs::create_dir_all(root).map_err(|e| os_error(&e, "create", root))?;
        let root = root.canonicalize().map_err(|e| os_error(&e, "resolve", root))?;
        let lock = match hold {
            Hold::Exclusive => Some(Arc::new(lock(&root)?)),
            Hold::Shared => None,
        };
        Ok(Self {
            root: root.into(),
            _lock: lock,
            direct,
            pools: Arc::new(BufPools::new(READ_POOL_SIZES, READ_POOL_KEEP)),
        })
    }

    pub(super) fn read_pools(&self) -> Arc<BufPools> {
        Arc::clone(&self.pools)
    }

    fn full(&self, path: &Path) -> Result<PathBuf, DiskError> {
        let inside = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if inside { Ok(self.root.join(path)) } else { Err(failed("path", path, "leaves the root directory")) }
    }

    pub(super) fn open_file(&self, path: &Path, mode: OpenMode) -> Result<(OpenFile, u64), DiskError> {
        let full = self.full(path)?;
        let direct = self.direct == DirectIo::Auto;
        let file = match open_with(&full, mode, direct) {
            Err(e) if direct && e.raw_os_error() == Some(libc::EINVAL) => open_with(&full, mode, false),
            other => other,
        };
        let file = file.map_err(|e| os_error(&e, "open", path))?;
        let meta = file.metadata().map_err(|e| os_error(&e, "stat", path))?;
        if meta.is_dir() {
            return Err(failed("open", path, "is a directory"));
        }
        if direct && !probe::direct_io_fits(&file) {
            clear_direct(&file).map_err(|e| os_error(&e.into(), "open buffered", path))?;
        }
        Ok((OpenFile { file, path: path.to_owned(), writable: mode != OpenMode::Read }, meta.len()))
    }

    /// Carries out an operation that names paths, or the whole file system.
    pub(super) fn names(&self, op: &Op) -> Result<Done, DiskError> {
        match op {
            Op::SyncDir { path } => self.sync_dir(path).map(|()| Done::Ok),
            Op::Rename { from, to } => self.rename(from, to).map(|()| Done::Ok),
            Op::Remove { path } => missing_is_fine(std::fs::remove_file(self.full(path)?), "remove", path),
            Op::Shrink { path, by } => self.shrink(path, *by),
            Op::CreateDir { path } => {
                std::fs::create_dir_all(self.full(path)?).map_err(|e| os_error(&e, "create", path)).map(|()| Done::Ok)
            }
            Op::RemoveDir { path } => self.remove_dir(path),
            Op::List { path } => self.list(path).map(Done::Listed),
            Op::FreeSpace => self.space(),
            Op::Open { .. }
            | Op::Close { .. }
            | Op::Write { .. }
            | Op::Read { .. }
            | Op::Sync { .. }
            | Op::Grow { .. } => Err(failed("operation", Path::new(""), "is not one on names")),
        }
    }

    fn sync_dir(&self, path: &Path) -> Result<(), DiskError> {
        let dir = File::open(self.full(path)?).map_err(|e| os_error(&e, "open", path))?;
        dir.sync_all().map_err(|e| os_error(&e, "sync directory", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(self.full(from)?, self.full(to)?).map_err(|e| os_error(&e, "rename", from))
    }

    fn shrink(&self, path: &Path, by: u64) -> Result<Done, DiskError> {
        let full = self.full(path)?;
        let file = match File::options().write(true).open(&full) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Done::Shrunk { freed: 0, left: 0 }),
            other => other.map_err(|e| os_error(&e, "open", path))?,
        };
        let len = file.metadata().map_err(|e| os_error(&e, "stat", path))?.len();
        if len <= by {
            std::fs::remove_file(full).map_err(|e| os_error(&e, "remove", path))?;
            return Ok(Done::Shrunk { freed: len, left: 0 });
        }
        file.set_len(len - by).map_err(|e| os_error(&e, "truncate", path))?;
        file.sync_all().map_err(|e| os_error(&e, "sync", path))?;
        Ok(Done::Shrunk { freed: by, left: len - by })
    }

    fn remove_dir(&self, path: &Path) -> Result<Done, DiskError> {
        if path.components().all(|c| c == Component::CurDir) {
            return Err(failed("remove", path, "is the root directory"));
        }
        missing_is_fine(std::fs::remove_dir_all(self.full(path)?), "remove", path)
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let entries = match std::fs::read_dir(self.full(path)?) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| os_error(&e, "list", path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| os_error(&e, "list", path))?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| failed("list", path, "has an entry whose name is not UTF-8"))?;
            if name != LOCK_FILE {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn space(&self) -> Result<Done, DiskError> {
        let stat = rustix::fs::statvfs(&*self.root).map_err(|e| os_error(&e.into(), "statvfs", &self.root))?;
        Ok(Done::Space {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// Makes what was written to these files durable.
    pub(super) fn sync(files: &[Arc<OpenFile>]) -> Result<(), DiskError> {
        let Some(last) = files.last() else { return Ok(()) };
        if files.len() < SYNCFS_FROM_FILES {
            return files.iter().try_for_each(|file| sync_one(file));
        }
        rustix::fs::syncfs(&last.file).map_err(|e| os_error(&e.into(), "syncfs", &last.path))?;
        // XFS flushes the drive's cache in syncfs only when its own log had something to write; fdatasync always does.
        sync_one(last)
    }
}

fn lock(root: &Path) -> Result<File, DiskError> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| os_error(&e, "open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(failed("lock", root, "another process works in this directory")),
        Err(std::fs::TryLockError::Error(e)) => Err(os_error(&e, "lock", root)),
    }
}

fn sync_one(file: &OpenFile) -> Result<(), DiskError> {
    file.file.sync_data().map_err(|e| os_error(&e, "fdatasync", &file.path))
}

fn open_with(path: &Path, mode: OpenMode, direct: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(if direct { libc::O_DIRECT } else { 0 });
    match mode {
        OpenMode::Read => {}
        OpenMode::Write => {
            options.write(true);
        }
        OpenMode::Create => {
            options.write(true).create(true).truncate(false);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
    }
    options.open(path)
}

fn clear_direct(file: &File) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::DIRECT)
}

impl OpenFile {
    pub(super) fn check_write(&self, offset: u64, data: &Bytes) -> Result<(), DiskError> {
        if !self.writable {
            return Err(failed("write", &self.path, "is open for reading"));
        }
        check_aligned(offset, data.len()).and(check_memory(data)).map_err(|why| failed("write", &self.path, why))
    }

    pub(super) fn check_read(&self, offset: u64, len: usize) -> Result<(), DiskError> {
        check_aligned(offset, len).map_err(|why| failed("read", &self.path, why))
    }

    /// Writes all of `data`.
    pub(super) fn write(&self, offset: u64, data: &Bytes, durable: bool) -> Result<(), DiskError> {
        self.check_write(offset, data)?;
        let mut done = 0;
        while done < data.len() {
            let written = self.write_some(offset + done as u64, &data[done..], durable)?;
            // What is left must begin at a block again.
            let whole = written / BLOCK * BLOCK;
            if whole == 0 {
                return Err(failed("write", &self.path, "the system wrote less than a block"));
            }
            done += whole;
        }
        Ok(())
    }

    fn write_some(&self, offset: u64, data: &[u8], durable: bool) -> Result<usize, DiskError> {
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        loop {
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(data)], offset, flags) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return self.write_then_sync(offset, data, durable),
                Err(e) => return Err(os_error(&e.into(), "write", &self.path)),
            }
        }
    }

    /// For kernels and sandboxes without `RWF_DSYNC`.
    fn write_then_sync(&self, offset: u64, data: &[u8], durable: bool) -> Result<usize, DiskError> {
        self.file.write_all_at(data, offset).map_err(|e| os_error(&e, "write", &self.path))?;
        if durable {
            sync_one(self)?;
        }
        Ok(data.len())
    }

    /// Reads up to `len` bytes; fewer only at the end of the file.
    pub(super) fn read(&self, pools: &BufPools, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.check_read(offset, len)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut buf = pools.take(len);
        let mut done = 0;
        while done < len {
            match self.file.read_at(&mut buf[done..len], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(os_error(&e, "read", &self.path)),
            }
            // An unaligned count means the end of the file; asking on would be an unaligned direct read.
            if !done.is_multiple_of(BLOCK) {
                break;
            }
        }
        Ok(buf.freeze(done))
    }

    /// Where the file system can't take space ahead, the file just gets longer.
    pub(super) fn grow(&self, len: u64) -> Result<(), DiskError> {
        if !self.writable {
            return Err(failed("grow", &self.path, "is open for reading"));
        }
        let grown = match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => match self.file.metadata() {
                Ok(meta) if meta.len() >= len => Ok(()),
                Ok(_) => self.file.set_len(len),
                Err(error) => Err(error),
            },
            other => other.map_err(Into::into),
        };
        grown.map_err(|e| os_error(&e, "grow", &self.path))
    }
}

fn missing_is_fine(result: std::io::Result<()>, what: &str, path: &Path) -> Result<Done, DiskError> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Done::Ok),
        other => other.map(|()| Done::Ok).map_err(|e| os_error(&e, what, path)),
    }
}

/// Sorts a system error into a decision.
pub(super) fn os_error(error: &std::io::Error, what: &str, path: &Path) -> DiskError {
    let what = format!("{what} {}", path.display());
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::Full { what },
        Some(libc::ENOENT) => DiskError::NotFound { what },
        _ => DiskError::Failed { what, message: error.to_string() },
    }
}

pub(super) fn failed(what: &str, path: &Path, message: &str) -> DiskError {
    DiskError::Failed { what: format!("{what} {}", path.display()), message: message.to_owned() }
}
