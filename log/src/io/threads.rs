//! A disk carried by a small pool of threads: for where io_uring is not permitted. Must not know the engine.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::pool::{Finished, Job, Outcome, Pool, files_of};
use super::real::{DirectIo, Hold, RealDir};
use super::table::{FileTable, ToClose};
use super::{Completion, Disk, DiskError, Done, Op, Token};

/// How a [`ThreadDisk`] works.
#[derive(Debug, Clone)]
pub struct ThreadDiskConfig {
    /// Threads for all operations, beside one for durable writes alone: an acknowledgement never waits for a scan.
    pub workers: usize,
    /// Around the page cache or not.
    pub direct: DirectIo,
    /// Alone or not.
    pub hold: Hold,
}

impl Default for ThreadDiskConfig {
    fn default() -> Self {
        Self { workers: 3, direct: DirectIo::Auto, hold: Hold::Exclusive }
    }
}

/// A directory whose operations run on threads.
#[derive(Debug)]
pub struct ThreadDisk {
    pool: Pool,
    table: FileTable,
    in_flight: usize,
    batch: Vec<Finished>,
}

impl ThreadDisk {
    /// Opens (or makes) a directory and starts the threads.
    ///
    /// # Errors
    /// The directory can't be made or read, or no thread or eventfd is to be had.
    pub fn open(root: &Path, config: &ThreadDiskConfig) -> Result<Self, DiskError> {
        let pool = Pool::start(RealDir::open(root, config.direct, config.hold)?, 1, config.workers)?;
        Ok(Self { pool, table: FileTable::default(), in_flight: 0, batch: Vec::new() })
    }

    /// Readable exactly while `poll` has something to give; for an epoll loop.
    #[must_use]
    pub fn wake_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(self.pool.wake_fd())
    }

    fn close(&mut self, close: ToClose, op: Op) {
        self.pool.push(Job { token: close.token, op, files: vec![close.file] });
    }

    fn finish(&mut self, finished: Finished) -> Completion {
        for file in finished.used {
            if let Some(close) = self.table.release(file) {
                self.close(close, Op::Close { file });
            }
        }
        let result = finished.result.map(|outcome| match outcome {
            Outcome::Done(done) => done,
            Outcome::Opened(file, len) => Done::Opened(self.table.add(file), len),
        });
        Completion { token: finished.token, result }
    }

    fn start(&mut self, token: Token, op: Op) -> Result<(), DiskError> {
        if let Op::Close { file } = op {
            if let Some(close) = self.table.close(token, file)? {
                self.close(close, op);
            }
            return Ok(());
        }
        let files = self.table.take_all(files_of(&op))?;
        self.pool.push(Job { token, op, files });
        Ok(())
    }
}

impl Disk for ThreadDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.in_flight += 1;
        if let Err(error) = self.start(token, op) {
            self.pool.answer(token, error);
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        if self.in_flight == 0 {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.pool.take(&mut batch);
        self.in_flight -= batch.len();
        out.extend(batch.drain(..).map(|finished| self.finish(finished)));
        self.batch = batch;
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        if self.in_flight > 0 {
            self.pool.wait();
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

#[cfg(test)]
mod tests {
    use super::super::conformance::{Bench, SmallFs, blocks, full_disk, real_dirs, suite};
    use super::super::{BLOCK, FileId, OpenMode};
    use super::*;

    #[test]
    fn conforms() {
        for direct in [DirectIo::Auto, DirectIo::Never] {
            for dirs in real_dirs() {
                let config = ThreadDiskConfig { workers: 2, direct, ..ThreadDiskConfig::default() };
                suite(|| ThreadDisk::open(&dirs.fresh(), &config).unwrap());
            }
        }
    }

    #[test]
    fn a_full_file_system_is_said_as_such() {
        for direct in [DirectIo::Auto, DirectIo::Never] {
            let Some(fs) = SmallFs::mount(16) else { return };
            full_disk(
                ThreadDisk::open(&fs.path(), &ThreadDiskConfig { direct, ..ThreadDiskConfig::default() }).unwrap(),
            );
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
    fn a_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = |hold| ThreadDisk::open(dir.path(), &ThreadDiskConfig { hold, ..ThreadDiskConfig::default() });
        let first = open(Hold::Exclusive).unwrap();
        assert!(matches!(open(Hold::Exclusive), Err(DiskError::Failed { .. })));
        let mut looker = Bench::new(open(Hold::Shared).unwrap());
        assert!(matches!(looker.run(Op::List { path: "".into() }), Ok(Done::Listed(names)) if names.is_empty()));
        drop(first);
        open(Hold::Exclusive).unwrap();
    }

    #[test]
    fn the_wake_fd_is_readable_exactly_when_something_completed() {
        use std::os::fd::AsFd;

        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let dir = tempfile::tempdir().unwrap();
        let mut disk = ThreadDisk::open(dir.path(), &ThreadDiskConfig::default()).unwrap();
        let readable = |disk: &ThreadDisk, seconds: i64| {
            let wake = disk.wake_fd();
            let mut fds = [PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)];
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
