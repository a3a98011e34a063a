//! A disk carried by a small pool of threads: for where io_uring is not permitted. Must not know the engine.
//!
//! ```text
//! submit ─► urgent queue (durable writes) ─┬─► worker 0: urgent only ─┐
//!           other queue ───────────────────┴─► workers 1.. : both     ├─► done list ─► poll, wait
//!                                                                     └─► eventfd, when the list was empty
//! ```
//!
//! The queues hold at most what is in flight, which the caller bounds (see [`Disk`]).

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;

use super::real::{DirectIo, OpenFile, ReadPools, RealDir, failed, os_error};
use super::{Completion, Disk, DiskError, Done, FileId, Op, Token};

/// How a [`ThreadDisk`] works.
#[derive(Debug, Clone)]
pub struct ThreadDiskConfig {
    /// Threads; the first takes durable writes only, so that an acknowledgement never waits for a scan. At least 2.
    pub workers: usize,
    /// Around the page cache or not.
    pub direct: DirectIo,
}

impl Default for ThreadDiskConfig {
    fn default() -> Self {
        Self { workers: 4, direct: DirectIo::Auto }
    }
}

/// A directory whose operations run on threads.
#[derive(Debug)]
pub struct ThreadDisk {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    files: HashMap<FileId, Slot>,
    next_file: u32,
    in_flight: usize,
    /// Answers that need no thread: operations on files that are not open.
    at_once: Vec<Completion>,
    batch: Vec<Finished>,
}

#[derive(Debug)]
struct Slot {
    file: Arc<OpenFile>,
    busy: u32,
    closing: Option<Token>,
}

#[derive(Debug)]
struct Shared {
    dir: RealDir,
    pools: Arc<ReadPools>,
    state: Mutex<State>,
    work: Condvar,
    urgent_work: Condvar,
    finished: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    urgent: VecDeque<Job>,
    other: VecDeque<Job>,
    done: Vec<Finished>,
    stop: bool,
}

/// An operation with the files it needs; the file table itself stays with the caller.
#[derive(Debug)]
struct Job {
    token: Token,
    op: Op,
    files: Vec<Arc<OpenFile>>,
}

#[derive(Debug)]
struct Finished {
    token: Token,
    used: Vec<FileId>,
    result: Result<Outcome, DiskError>,
}

#[derive(Debug)]
enum Outcome {
    Done(Done),
    Opened(OpenFile, u64),
}

impl ThreadDisk {
    /// Opens (or makes) a directory and starts the threads.
    ///
    /// # Errors
    /// The directory can't be made or read, or no thread or eventfd is to be had.
    pub fn open(root: &Path, config: &ThreadDiskConfig) -> Result<Self, DiskError> {
        let dir = RealDir::open(root, config.direct)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| os_error(&e.into(), "eventfd", root))?;
        let shared = Arc::new(Shared {
            pools: dir.read_pools(),
            dir,
            state: Mutex::default(),
            work: Condvar::new(),
            urgent_work: Condvar::new(),
            finished: Condvar::new(),
            wake,
        });
        let mut disk = Self {
            shared,
            workers: Vec::new(),
            files: HashMap::new(),
            next_file: 1,
            in_flight: 0,
            at_once: Vec::new(),
            batch: Vec::new(),
        };
        for index in 0..config.workers.max(2) {
            let shared = Arc::clone(&disk.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("disk-{index}"))
                .spawn(move || shared.work(index == 0))
                .map_err(|e| os_error(&e, "start a disk thread for", root))?;
            disk.workers.push(spawned);
        }
        Ok(disk)
    }

    /// Becomes readable when something has completed; `poll` makes it unreadable again.
    #[must_use]
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    fn answer(&mut self, token: Token, result: Result<Done, DiskError>) {
        self.at_once.push(Completion { token, result });
        // A write of 8 bytes to an eventfd fails only when its counter is full: then it is readable anyway.
        let _full = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    fn close(&mut self, token: Token, file: FileId) {
        match self.files.get_mut(&file) {
            Some(slot) if slot.closing.is_none() => {
                slot.closing = Some(token);
                if slot.busy == 0 {
                    self.finish_close(file);
                }
            }
            Some(_) | None => self.answer(token, Err(not_open(file))),
        }
    }

    /// The last reference goes to a thread: closing an unlinked file frees its blocks, which takes time.
    fn finish_close(&mut self, file: FileId) {
        let Some(Slot { file: open, closing: Some(token), .. }) = self.files.remove(&file) else { return };
        self.shared.push(Job { token, op: Op::Close { file }, files: vec![open] });
    }

    fn take_files(&mut self, wanted: &[FileId]) -> Result<Vec<Arc<OpenFile>>, DiskError> {
        for file in wanted {
            if self.files.get(file).is_none_or(|slot| slot.closing.is_some()) {
                return Err(not_open(*file));
            }
        }
        let mut taken = Vec::with_capacity(wanted.len());
        for file in wanted {
            if let Some(slot) = self.files.get_mut(file) {
                slot.busy += 1;
                taken.push(Arc::clone(&slot.file));
            }
        }
        Ok(taken)
    }

    fn release(&mut self, file: FileId) {
        let Some(slot) = self.files.get_mut(&file) else { return };
        slot.busy -= 1;
        if slot.busy == 0 && slot.closing.is_some() {
            self.finish_close(file);
        }
    }

    fn finish(&mut self, finished: Finished) -> Completion {
        for file in finished.used {
            self.release(file);
        }
        let result = finished.result.map(|outcome| match outcome {
            Outcome::Done(done) => done,
            Outcome::Opened(file, len) => Done::Opened(self.add_file(file), len),
        });
        Completion { token: finished.token, result }
    }

    fn add_file(&mut self, file: OpenFile) -> FileId {
        let mut id = FileId(self.next_file);
        while self.files.contains_key(&id) {
            id = FileId(id.0.wrapping_add(1));
        }
        self.next_file = id.0.wrapping_add(1);
        self.files.insert(id, Slot { file: Arc::new(file), busy: 0, closing: None });
        id
    }

    fn take_at_once(&mut self, out: &mut Vec<Completion>) {
        self.in_flight -= self.at_once.len();
        out.append(&mut self.at_once);
    }

    fn take_batch(&mut self, out: &mut Vec<Completion>) {
        let mut batch = std::mem::take(&mut self.batch);
        self.in_flight -= batch.len();
        for finished in batch.drain(..) {
            let completion = self.finish(finished);
            out.push(completion);
        }
        self.batch = batch;
    }
}

impl Disk for ThreadDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.in_flight += 1;
        if let Op::Close { file } = op {
            self.close(token, file);
            return;
        }
        match self.take_files(files_of(&op)) {
            Ok(files) => self.shared.push(Job { token, op, files }),
            Err(error) => self.answer(token, Err(error)),
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        let mut state = self.shared.lock();
        if state.done.is_empty() && self.at_once.is_empty() {
            return;
        }
        // Set and reset under the lock: readable means that there is something to take.
        let _not_set = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
        std::mem::swap(&mut state.done, &mut self.batch);
        drop(state);
        self.take_at_once(out);
        self.take_batch(out);
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        let before = out.len();
        self.poll(out);
        while out.len() == before && self.in_flight > 0 {
            let state = self.shared.lock();
            let waited = self.shared.finished.wait_while(state, |state| state.done.is_empty());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            self.poll(out);
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "threads"
    }
}

impl Drop for ThreadDisk {
    /// Abandons what no thread has begun and waits for the rest, so that the directory is ours no more.
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            state.urgent.clear();
            state.other.clear();
        }
        self.shared.work.notify_all();
        self.shared.urgent_work.notify_all();
        for worker in self.workers.drain(..) {
            let _panicked = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        let urgent = matches!(job.op, Op::Write { durable: true, .. });
        let mut state = self.lock();
        if urgent {
            state.urgent.push_back(job);
            drop(state);
            self.urgent_work.notify_one();
            // With the urgent worker busy, another one helps.
            self.work.notify_one();
        } else {
            state.other.push_back(job);
            drop(state);
            self.work.notify_one();
        }
    }

    fn next_job(&self, urgent_only: bool) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stop {
                return None;
            }
            if let Some(job) = state.urgent.pop_front() {
                return Some(job);
            }
            if !urgent_only && let Some(job) = state.other.pop_front() {
                return Some(job);
            }
            let condvar = if urgent_only { &self.urgent_work } else { &self.work };
            state = condvar.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, urgent_only: bool) {
        while let Some(job) = self.next_job(urgent_only) {
            let result = self.execute(&job.op, &job.files);
            drop(job.files);
            let finished = Finished { token: job.token, used: files_of(&job.op).to_vec(), result };
            let mut state = self.lock();
            let first = state.done.is_empty();
            state.done.push(finished);
            if first {
                let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
                self.finished.notify_one();
            }
        }
    }

    fn execute(&self, op: &Op, files: &[Arc<OpenFile>]) -> Result<Outcome, DiskError> {
        let one = || files.first().ok_or_else(|| failed("operation", Path::new(""), "has no file"));
        let done = match op {
            Op::Open { path, mode } => {
                let (file, len) = self.dir.open_file(path, *mode)?;
                return Ok(Outcome::Opened(file, len));
            }
            Op::Close { .. } => Done::Ok,
            Op::Write { offset, data, durable, .. } => one()?.write(*offset, data, *durable).map(|()| Done::Ok)?,
            Op::Read { offset, len, .. } => one()?.read(&self.pools, *offset, *len).map(Done::Read)?,
            Op::Sync { .. } => RealDir::sync(files).map(|()| Done::Ok)?,
            Op::SetLen { len, .. } => one()?.set_len(*len).map(|()| Done::Ok)?,
            Op::SyncDir { .. }
            | Op::Rename { .. }
            | Op::Remove { .. }
            | Op::CreateDir { .. }
            | Op::RemoveDir { .. }
            | Op::List { .. }
            | Op::FreeSpace => self.dir.names(op)?,
        };
        Ok(Outcome::Done(done))
    }
}

/// The open files that an operation uses, a close apart (it owns its file by then).
pub(super) fn files_of(op: &Op) -> &[FileId] {
    match op {
        Op::Write { file, .. } | Op::Read { file, .. } | Op::SetLen { file, .. } => std::slice::from_ref(file),
        Op::Sync { files } => files,
        Op::Open { .. }
        | Op::Close { .. }
        | Op::SyncDir { .. }
        | Op::Rename { .. }
        | Op::Remove { .. }
        | Op::CreateDir { .. }
        | Op::RemoveDir { .. }
        | Op::List { .. }
        | Op::FreeSpace => &[],
    }
}

pub(super) fn not_open(file: FileId) -> DiskError {
    DiskError::Failed { what: format!("file {}", file.0), message: "is not open".into() }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Bench, blocks, real_dirs, suite};
    use super::super::{BLOCK, OpenMode};
    use super::*;

    #[test]
    fn conforms() {
        for direct in [DirectIo::Auto, DirectIo::Never] {
            for dirs in real_dirs() {
                let config = ThreadDiskConfig { workers: 3, direct };
                suite(|| ThreadDisk::open(&dirs.fresh(), &config).unwrap());
            }
        }
    }

    #[test]
    fn files_survive_the_disk_object() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Bench::new(ThreadDisk::open(dir.path(), &ThreadDiskConfig::default()).unwrap());
        let mut b = open();
        let file = b.create("f");
        b.write(file, 0, blocks(&[1, 2]), true).unwrap();
        drop(b);
        let mut b = open();
        let (file, len) = b.open("f", OpenMode::Read).unwrap();
        assert_eq!(len, 2 * BLOCK as u64);
        assert_eq!(b.read(file, 0, 2 * BLOCK), blocks(&[1, 2]));
    }

    #[test]
    fn the_wake_fd_is_readable_exactly_when_something_completed() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let dir = tempfile::tempdir().unwrap();
        let mut disk = ThreadDisk::open(dir.path(), &ThreadDiskConfig::default()).unwrap();
        let readable = |disk: &ThreadDisk, seconds: i64| {
            let mut fds = [PollFd::from_borrowed_fd(disk.wake_fd(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!readable(&disk, 0));
        for op in [Op::FreeSpace, Op::Read { file: FileId(77), offset: 0, len: BLOCK }] {
            disk.submit(Token(1), op);
            assert!(readable(&disk, 20), "never woken");
            let mut out = Vec::new();
            disk.poll(&mut out);
            assert_eq!(out.len(), 1);
            assert!(!readable(&disk, 0));
        }
    }
}
