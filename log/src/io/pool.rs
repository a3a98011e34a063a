//! Threads that carry out blocking operations, and a descriptor that says when one is done. Must not know which disk
//! they work for.
//!
//! ```text
//! push ─► urgent queue (durable writes) ─┬─► worker 0: urgent only ─┐
//!         other queue ───────────────────┴─► the others: both       ├─► done list ─► take
//!                                                                   └─► eventfd, when the list was empty
//! ```
//!
//! The queues hold at most what is in flight, which the caller of the disk bounds (see [`Disk`](super::Disk)).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;

use super::real::{OpenFile, RealDir, failed, os_error};
use super::{BufPools, DiskError, Done, FileId, Op, Token};

/// An operation with the files that it needs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) token: Token,
    pub(super) op: Op,
    pub(super) files: Vec<Arc<OpenFile>>,
}

#[derive(Debug)]
pub(super) struct Finished {
    pub(super) token: Token,
    /// To be released in the file table.
    pub(super) used: Vec<FileId>,
    pub(super) result: Result<Outcome, DiskError>,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Done(Done),
    Opened(OpenFile, u64),
}

#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: RealDir,
    pools: Arc<BufPools>,
    state: Mutex<State>,
    work: Condvar,
    urgent_work: Condvar,
    finished: Condvar,
    wake: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    urgent: VecDeque<Job>,
    other: VecDeque<Job>,
    done: Vec<Finished>,
    stop: bool,
    /// Who sleeps, so that nobody is woken for nothing: a wake-up is a system call even if nobody hears it.
    idle_urgent: usize,
    idle_other: usize,
    caller_waits: bool,
}

impl Pool {
    /// Starts `urgent_workers` threads for durable writes alone and `workers` (at least one) for everything.
    pub(super) fn start(dir: RealDir, urgent_workers: usize, workers: usize) -> Result<Self, DiskError> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| os_error(&e.into(), "eventfd", Path::new("")))?;
        let shared = Arc::new(Shared {
            pools: dir.read_pools(),
            dir,
            state: Mutex::default(),
            work: Condvar::new(),
            urgent_work: Condvar::new(),
            finished: Condvar::new(),
            wake: Arc::new(wake),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 0..urgent_workers + workers.max(1) {
            let shared = Arc::clone(&pool.shared);
            let spawned = std::thread::Builder::new()
                .name(format!("disk-{index}"))
                .spawn(move || shared.work(index < urgent_workers))
                .map_err(|e| os_error(&e, "start a disk thread", Path::new("")))?;
            pool.workers.push(spawned);
        }
        Ok(pool)
    }

    /// Readable exactly while something waits in [`Pool::take`].
    pub(super) fn wake_fd(&self) -> &Arc<OwnedFd> {
        &self.shared.wake
    }

    pub(super) fn push(&self, job: Job) {
        self.shared.push(job);
    }

    /// Completes an operation that needs no thread.
    pub(super) fn answer(&self, token: Token, error: DiskError) {
        self.shared.finish(Finished { token, used: Vec::new(), result: Err(error) });
    }

    /// Swaps what is done with the (empty) `batch`.
    pub(super) fn take(&self, batch: &mut Vec<Finished>) {
        let mut state = self.shared.lock();
        if state.done.is_empty() {
            return;
        }
        // Set and reset under the lock: readable means that there is something to take.
        let _not_set = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
        std::mem::swap(&mut state.done, batch);
    }

    /// Blocks until something is done; the caller knows that something is in flight.
    pub(super) fn wait(&self) {
        let mut state = self.shared.lock();
        state.caller_waits = true;
        let waited = self.shared.finished.wait_while(state, |state| state.done.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).caller_waits = false;
    }
}

impl Drop for Pool {
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
        let mut state = self.lock();
        if matches!(job.op, Op::Write { durable: true, .. }) {
            state.urgent.push_back(job);
            if state.urgent.len() <= state.idle_urgent {
                drop(state);
                self.urgent_work.notify_one();
                return;
            }
        } else {
            state.other.push_back(job);
        }
        // Those who are awake look again before they sleep.
        if state.idle_other > 0 {
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
            state = self.sleep(state, urgent_only);
        }
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, urgent_only: bool) -> MutexGuard<'a, State> {
        if urgent_only {
            state.idle_urgent += 1;
            state = self.urgent_work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_urgent -= 1;
        } else {
            state.idle_other += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle_other -= 1;
        }
        state
    }

    fn finish(&self, finished: Finished) {
        let mut state = self.lock();
        let first = state.done.is_empty();
        state.done.push(finished);
        if first {
            // Fails only when the counter is full: then it is readable anyway.
            let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
        if state.caller_waits {
            self.finished.notify_one();
        }
    }

    fn work(&self, urgent_only: bool) {
        while let Some(job) = self.next_job(urgent_only) {
            let result = self.execute(&job.op, &job.files);
            // The last reference to a closed file goes here: freeing the blocks of an unlinked file takes time.
            drop(job.files);
            self.finish(Finished { token: job.token, used: files_of(&job.op).to_vec(), result });
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
            Op::Grow { len, .. } => one()?.grow(*len).map(|()| Done::Ok)?,
            Op::SyncDir { .. }
            | Op::Rename { .. }
            | Op::Remove { .. }
            | Op::Shrink { .. }
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
        Op::Write { file, .. } | Op::Read { file, .. } | Op::Grow { file, .. } => std::slice::from_ref(file),
        Op::Sync { files } => files,
        Op::Open { .. }
        | Op::Close { .. }
        | Op::SyncDir { .. }
        | Op::Rename { .. }
        | Op::Remove { .. }
        | Op::Shrink { .. }
        | Op::CreateDir { .. }
        | Op::RemoveDir { .. }
        | Op::List { .. }
        | Op::FreeSpace => &[],
    }
}
