//! A disk on a ring that it shares with the network driver: reads, writes and syncs are the ring's, operations on names
//! go to one helper thread. Must not know the engine.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;
use slab::Slab;

use super::pool::{Finished, Job, Outcome, Pool, files_of};
use super::real::{DirectIo, Hold, OpenFile, RealDir, SYNCFS_FROM_FILES, failed, os_error};
use super::ring::{Event, OpId, Owner, Ring, Wait, What};
use super::table::{FileTable, ToClose};
use super::{AlignedBuf, BLOCK, BufPools, Completion, Disk, DiskError, Done, FileId, Op, Token};

/// The part of a key that says which operation; the rest says which disk of those that used the ring.
const INDEX: u64 = 0xffff_ffff;
/// In place of an index: the helper thread has finished something.
const HELPER: u64 = INDEX;
/// How long a disk that is dropped waits for writes that the kernel has begun.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// How a [`UringDisk`] works.
#[derive(Debug, Clone)]
pub struct UringDiskConfig {
    /// Around the page cache or not.
    pub direct: DirectIo,
    /// Alone or not.
    pub hold: Hold,
}

impl Default for UringDiskConfig {
    fn default() -> Self {
        Self { direct: DirectIo::Auto, hold: Hold::Exclusive }
    }
}

/// A directory whose data goes through a ring.
#[derive(Debug)]
pub struct UringDisk {
    ring: Rc<RefCell<Ring>>,
    /// The upper half of this disk's keys.
    instance: u64,
    watch: OpId,
    helper: Pool,
    read_pools: Arc<BufPools>,
    table: FileTable,
    ops: Slab<DiskOp>,
    in_flight: usize,
    /// Failed before anything was started.
    refused: Vec<Completion>,
    events: Vec<Event>,
    batch: Vec<Finished>,
}

#[derive(Debug)]
enum DiskOp {
    Write(WriteOp),
    Read(ReadOp),
    Sync(SyncOp),
}

#[derive(Debug)]
struct WriteOp {
    token: Token,
    file: FileId,
    open: Arc<OpenFile>,
    offset: u64,
    durable: bool,
    written: usize,
}

#[derive(Debug)]
struct ReadOp {
    token: Token,
    file: FileId,
    open: Arc<OpenFile>,
    offset: u64,
    len: usize,
    filled: usize,
}

/// Several files, one event for each.
#[derive(Debug)]
struct SyncOp {
    token: Token,
    files: Vec<FileId>,
    left: usize,
    failure: Option<DiskError>,
}

impl UringDisk {
    /// Opens (or makes) a directory and starts the helper thread.
    ///
    /// # Errors
    /// The directory can't be made or read, or no thread or eventfd is to be had.
    pub fn open(root: &Path, config: &UringDiskConfig, ring: Rc<RefCell<Ring>>) -> Result<Self, DiskError> {
        let dir = RealDir::open(root, config.direct, config.hold)?;
        let read_pools = dir.read_pools();
        let helper = Pool::start(dir, 0, 2)?;
        let instance = u64::from(ring.borrow_mut().next_disk()) << 32;
        let watch = ring.borrow_mut().watch(Arc::clone(helper.wake_fd()), Owner::Disk, instance | HELPER);
        Ok(Self {
            ring,
            instance,
            watch,
            helper,
            read_pools,
            table: FileTable::default(),
            ops: Slab::new(),
            in_flight: 0,
            refused: Vec::new(),
            events: Vec::new(),
            batch: Vec::new(),
        })
    }

    fn start(&mut self, token: Token, op: Op) -> Result<(), DiskError> {
        match op {
            Op::Write { file, offset, data, durable } => {
                let open = self.table.take(file)?;
                self.start_write(WriteOp { token, file, open, offset, durable, written: 0 }, data)
            }
            Op::Read { file, offset, len } => {
                let open = self.table.take(file)?;
                self.start_read(ReadOp { token, file, open, offset, len, filled: 0 })
            }
            Op::Sync { files } if files.len() < SYNCFS_FROM_FILES => self.start_sync(token, files),
            Op::Close { file } => {
                if let Some(close) = self.table.close(token, file)? {
                    self.close(close, file);
                }
                Ok(())
            }
            Op::Sync { .. }
            | Op::Open { .. }
            | Op::Grow { .. }
            | Op::SyncDir { .. }
            | Op::Rename { .. }
            | Op::Remove { .. }
            | Op::Shrink { .. }
            | Op::CreateDir { .. }
            | Op::RemoveDir { .. }
            | Op::List { .. }
            | Op::FreeSpace => {
                let files = self.table.take_all(files_of(&op))?;
                self.helper.push(Job { token, op, files });
                Ok(())
            }
        }
    }

    fn start_write(&mut self, op: WriteOp, data: Bytes) -> Result<(), DiskError> {
        if let Err(error) = op.open.check_write(op.offset, &data) {
            self.release(op.file);
            return Err(error);
        }
        self.write_on(op, data);
        Ok(())
    }

    /// Submits what is not written yet.
    fn write_on(&mut self, op: WriteOp, data: Bytes) {
        let (open, at, durable) = (Arc::clone(&op.open), op.written, op.durable);
        let offset = op.offset + at as u64;
        let key = self.insert(DiskOp::Write(op));
        self.ring.borrow_mut().write(open, data, at, offset, durable, key);
    }

    fn start_read(&mut self, op: ReadOp) -> Result<(), DiskError> {
        if let Err(error) = op.open.check_read(op.offset, op.len) {
            self.release(op.file);
            return Err(error);
        }
        let buf = self.read_pools.take(op.len);
        self.read_on(op, buf);
        Ok(())
    }

    fn read_on(&mut self, op: ReadOp, buf: AlignedBuf) {
        let (open, at, left) = (Arc::clone(&op.open), op.filled, op.len - op.filled);
        let offset = op.offset + at as u64;
        let key = self.insert(DiskOp::Read(op));
        self.ring.borrow_mut().read(open, buf, at, left, offset, key);
    }

    fn insert(&mut self, op: DiskOp) -> u64 {
        self.instance | self.ops.insert(op) as u64
    }

    fn start_sync(&mut self, token: Token, files: Vec<FileId>) -> Result<(), DiskError> {
        let open = self.table.take_all(&files)?;
        if open.is_empty() {
            self.helper.push(Job { token, op: Op::Sync { files }, files: open });
            return Ok(());
        }
        let key = self.insert(DiskOp::Sync(SyncOp { token, files, left: open.len(), failure: None }));
        let mut ring = self.ring.borrow_mut();
        for file in open {
            ring.sync(file, key);
        }
        Ok(())
    }

    fn close(&mut self, close: ToClose, file: FileId) {
        self.helper.push(Job { token: close.token, op: Op::Close { file }, files: vec![close.file] });
    }

    fn release(&mut self, file: FileId) {
        if let Some(close) = self.table.release(file) {
            self.close(close, file);
        }
    }

    fn handle(&mut self, event: Event, out: &mut Vec<Completion>) {
        if event.key & !INDEX != self.instance {
            // Of a disk that used this ring before.
            return;
        }
        if event.key & INDEX == HELPER {
            self.take_helper(out);
            return;
        }
        let key = usize::try_from(event.key & INDEX).unwrap_or(usize::MAX);
        match self.ops.get_mut(key) {
            None => return,
            Some(DiskOp::Sync(op)) => {
                if !op.is_last(&event) {
                    return;
                }
            }
            Some(DiskOp::Write(_) | DiskOp::Read(_)) => {}
        }
        let completion = match (self.ops.remove(key), event.what) {
            (DiskOp::Write(op), What::Written(data)) => self.handle_write(op, data, event.result),
            (DiskOp::Read(op), What::Read(buf)) => self.handle_read(op, buf, event.result),
            (DiskOp::Sync(op), _) => Some(self.finish_sync(op)),
            // The ring gives back what it was given; there is no such pair.
            (DiskOp::Write(_) | DiskOp::Read(_), _) => None,
        };
        out.extend(completion);
    }

    fn handle_write(&mut self, mut op: WriteOp, data: Bytes, result: Result<u32, Errno>) -> Option<Completion> {
        let result = match result {
            Ok(count) if op.written + count as usize >= data.len() => Ok(Done::Ok),
            Ok(count) => {
                // What is left must begin at a block again.
                let whole = (op.written + count as usize) / BLOCK * BLOCK;
                if whole > op.written {
                    op.written = whole;
                    self.write_on(op, data);
                    return None;
                }
                Err(failed("write", &op.open.path, "the system wrote less than a block"))
            }
            Err(Errno::INTR | Errno::AGAIN) => {
                self.write_on(op, data);
                return None;
            }
            // A file system without RWF_DSYNC: the helper writes and then syncs.
            Err(Errno::OPNOTSUPP) => {
                let WriteOp { token, file, open, offset, durable, .. } = op;
                self.helper.push(Job { token, op: Op::Write { file, offset, data, durable }, files: vec![open] });
                return None;
            }
            Err(e) => Err(os_error(&e.into(), "write", &op.open.path)),
        };
        self.release(op.file);
        Some(Completion { token: op.token, result })
    }

    fn handle_read(&mut self, mut op: ReadOp, buf: AlignedBuf, result: Result<u32, Errno>) -> Option<Completion> {
        let go_on = match result {
            Ok(count) => {
                op.filled += count as usize;
                // An unaligned count means the end of the file; asking on would be an unaligned direct read.
                count > 0 && op.filled < op.len && op.filled.is_multiple_of(BLOCK)
            }
            Err(Errno::INTR | Errno::AGAIN) => true,
            Err(e) => {
                self.release(op.file);
                let error = os_error(&e.into(), "read", &op.open.path);
                return Some(Completion { token: op.token, result: Err(error) });
            }
        };
        if go_on {
            self.read_on(op, buf);
            return None;
        }
        self.release(op.file);
        Some(Completion { token: op.token, result: Ok(Done::Read(buf.freeze(op.filled))) })
    }

    fn finish_sync(&mut self, op: SyncOp) -> Completion {
        for file in op.files {
            self.release(file);
        }
        Completion { token: op.token, result: op.failure.map_or(Ok(Done::Ok), Err) }
    }

    fn take_helper(&mut self, out: &mut Vec<Completion>) {
        let mut batch = std::mem::take(&mut self.batch);
        self.helper.take(&mut batch);
        for finished in batch.drain(..) {
            for file in finished.used {
                self.release(file);
            }
            let result = finished.result.map(|outcome| match outcome {
                Outcome::Done(done) => done,
                Outcome::Opened(file, len) => Done::Opened(self.table.add(file), len),
            });
            out.push(Completion { token: finished.token, result });
        }
        self.batch = batch;
    }

    /// The ring is gone: nothing that is in flight there will be heard of again. The helper still answers.
    fn fail_all(&mut self, error: &std::io::Error, out: &mut Vec<Completion>) {
        for op in self.ops.drain() {
            let (DiskOp::Write(WriteOp { token, .. })
            | DiskOp::Read(ReadOp { token, .. })
            | DiskOp::Sync(SyncOp { token, .. })) = op;
            out.push(Completion { token, result: Err(os_error(error, "io_uring_enter", Path::new(""))) });
            self.in_flight -= 1;
        }
        if self.in_flight > 0 {
            let before = out.len();
            self.helper.wait();
            self.take_helper(out);
            self.in_flight -= out.len() - before;
        }
    }

    fn take_events(&mut self, out: &mut Vec<Completion>) {
        let before = out.len();
        out.append(&mut self.refused);
        let mut events = std::mem::take(&mut self.events);
        self.ring.borrow_mut().take(Owner::Disk, &mut events);
        for event in events.drain(..) {
            self.handle(event, out);
        }
        self.events = events;
        self.in_flight -= out.len() - before;
    }
}

impl SyncOp {
    /// Takes the outcome of one file; true when it was the last.
    fn is_last(&mut self, event: &Event) -> bool {
        self.left -= 1;
        if let Err(e) = event.result
            && self.failure.is_none()
        {
            self.failure = Some(os_error(&e.into(), "fdatasync", Path::new("one of several files")));
        }
        self.left == 0
    }
}

impl Disk for UringDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.in_flight += 1;
        if let Err(error) = self.start(token, op) {
            self.refused.push(Completion { token, result: Err(error) });
            // Somebody who blocks in the ring must hear of it.
            self.ring.borrow_mut().nop(Owner::Disk, self.instance | HELPER);
        }
    }

    fn poll(&mut self, out: &mut Vec<Completion>) {
        if self.in_flight == 0 {
            return;
        }
        let progress = self.ring.borrow_mut().progress();
        self.take_events(out);
        if let Err(error) = progress {
            self.fail_all(&error, out);
        }
    }

    fn wait(&mut self, out: &mut Vec<Completion>) {
        let before = out.len();
        self.take_events(out);
        while out.len() == before && self.in_flight > 0 {
            let entered = self.ring.borrow_mut().enter(Wait::Forever);
            self.take_events(out);
            if let Err(error) = entered {
                self.fail_all(&error, out);
                return;
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for UringDisk {
    /// Waits (with a bound) for what the kernel has begun, so that a disk opened next sees no late writes.
    fn drop(&mut self) {
        let until = Instant::now() + DROP_WAIT;
        let mut abandoned = Vec::new();
        while !self.ops.is_empty() && Instant::now() < until {
            if self.ring.borrow_mut().enter(Wait::AtMost(Duration::from_millis(100))).is_err() {
                break;
            }
            self.take_events(&mut abandoned);
        }
        self.ring.borrow_mut().cancel(self.watch);
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Bench, SmallFs, blocks, full_disk, real_dirs, suite};
    use super::super::{OpenMode, RingConfig};
    use super::*;

    fn ring() -> Rc<RefCell<Ring>> {
        Rc::new(RefCell::new(Ring::new(&RingConfig::default()).unwrap()))
    }

    #[test]
    fn conforms() {
        if let Err(why) = super::super::probe_uring() {
            println!("skipped: no io_uring here: {why}");
            return;
        }
        for direct in [DirectIo::Auto, DirectIo::Never] {
            for dirs in real_dirs() {
                let config = UringDiskConfig { direct, ..UringDiskConfig::default() };
                suite(|| UringDisk::open(&dirs.fresh(), &config, ring()).unwrap());
            }
        }
    }

    #[test]
    fn a_full_file_system_is_said_as_such() {
        if super::super::probe_uring().is_err() {
            return;
        }
        for direct in [DirectIo::Auto, DirectIo::Never] {
            let Some(fs) = SmallFs::mount(16) else { return };
            let config = UringDiskConfig { direct, ..UringDiskConfig::default() };
            full_disk(UringDisk::open(&fs.path(), &config, ring()).unwrap());
        }
    }

    #[test]
    fn a_ring_serves_one_disk_after_another() {
        if super::super::probe_uring().is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let ring = ring();
        for round in 1..20_u8 {
            let disk = UringDisk::open(dir.path(), &UringDiskConfig::default(), Rc::clone(&ring)).unwrap();
            let mut b = Bench::new(disk);
            let (file, len) = b.open("f", OpenMode::Create).unwrap();
            if round > 1 {
                assert_eq!(b.read(file, 0, 2 * BLOCK), blocks(&[round - 1, round - 1]));
                assert_eq!(len, 2 * BLOCK as u64);
            }
            b.write(file, 0, blocks(&[round, round]), true).unwrap();
            // Left in flight on purpose: dropping the disk must see it through or drop it, never do it later.
            let token = b.token();
            b.disk.submit(token, Op::Write { file, offset: 0, data: blocks(&[round]), durable: true });
        }
    }
}
