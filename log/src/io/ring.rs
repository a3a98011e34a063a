//! A safe io_uring: every operation owns its buffers and descriptors until the kernel is done with them.
//!
//! One ring carries the connections and the disk of a shard on one thread (see the ADR on drivers). Two [`Owner`]s
//! share it: each takes its own events. Must not know protocols or files' contents.
//!
//! ```text
//! recv, send, write, ... ──► submission queue ──enter──► kernel ──► completion queue ──reap──► events of net | of disk
//!            └── operation (owns buffers) stays in `ops` until its last completion ──┘
//! ```

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use slab::Slab;

use super::AlignedBuf;
use super::real::OpenFile;

mod ops;
mod recv_pool;

pub use ops::SEND_MAX_CHUNKS;
pub use recv_pool::PoolBuf;

use ops::InFlight;
use recv_pool::RecvPool;

/// Group of the provided receive buffers.
const RECV_GROUP: u16 = 0;
/// How long a ring that is dropped waits for operations that were cancelled; then their memory is leaked.
const DROP_WAIT: Duration = Duration::from_secs(10);

/// Sizes of a ring.
#[derive(Debug, Clone)]
pub struct RingConfig {
    /// Entries of the submission queue; more operations in one turn cost one more system call each time it is full.
    pub entries: u32,
    /// Receive buffers shared by all connections; a power of two, at most 32768.
    pub recv_buffers: u16,
    /// Bytes in each.
    pub recv_buffer_bytes: usize,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { entries: 512, recv_buffers: 64, recv_buffer_bytes: 16 << 10 }
    }
}

/// Who started an operation and takes its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The network driver.
    Net,
    /// The disk.
    Disk,
}

/// Names an operation in flight, to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpId(u64);

/// Something happened to an operation.
#[derive(Debug)]
pub struct Event {
    /// As given with the operation.
    pub key: u64,
    /// Bytes, or whatever the operation returns.
    pub result: Result<u32, Errno>,
    /// What it was, with its memory.
    pub what: What,
    /// The operation goes on and will say more.
    pub more: bool,
    /// For a receive: the socket has more bytes.
    pub waiting: bool,
}

/// Kind of an [`Event`].
#[derive(Debug)]
pub enum What {
    /// A new connection.
    Accepted(Option<OwnedFd>),
    /// Bytes in a buffer of the pool; none after an error or at the end of the stream.
    ReceivedPooled(Option<PoolBuf>),
    /// Bytes were appended to the buffer.
    Received(Vec<u8>),
    /// The chunks of a send, whether all were sent or not.
    Sent(Vec<Bytes>),
    /// A read; `result` says how many bytes.
    Read(AlignedBuf),
    /// A write; `result` says how many bytes.
    Written(Bytes),
    /// A file's data is on stable storage, or not.
    Synced,
    /// A watched descriptor is readable, or a no-op is done.
    Ready,
}

/// How long [`Ring::enter`] may block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until something completes.
    Forever,
    /// Until something completes or this much time has passed.
    AtMost(Duration),
}

#[derive(Debug)]
struct Slot {
    owner: Owner,
    key: u64,
    generation: u32,
    op: InFlight,
}

/// The ring. Belongs to the thread that made it.
pub struct Ring {
    uring: IoUring,
    ops: Slab<Slot>,
    generation: u32,
    /// Entries that found the submission queue full; as many as operations in flight at the most.
    backlog: VecDeque<squeue::Entry>,
    net: Vec<Event>,
    disk: Vec<Event>,
    pool: Option<RecvPool>,
    driven: bool,
    disks: u32,
    closing: bool,
    flags: &'static str,
    enters: u64,
    /// The ring belongs to one thread (`SINGLE_ISSUER`).
    _not_send: std::marker::PhantomData<*const ()>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("flags", &self.flags).field("in_flight", &self.ops.len()).finish_non_exhaustive()
    }
}

impl Ring {
    /// Makes a ring with the best flags that the kernel has.
    ///
    /// # Errors
    /// io_uring is not permitted here, or the kernel is too old (before 5.19).
    pub fn new(config: &RingConfig) -> io::Result<Self> {
        let (uring, flags) = build(config.entries)?;
        let mut pool = RecvPool::new(config.recv_buffers.next_power_of_two(), config.recv_buffer_bytes);
        let (address, count) = pool.registration();
        // SAFETY: the entries live as long as the ring: `pool` is dropped after `uring` (or leaked with it), and
        // unregistered first.
        unsafe { uring.submitter().register_buf_ring_with_flags(address, count, RECV_GROUP, 0)? };
        pool.give_all();
        Ok(Self {
            uring,
            ops: Slab::new(),
            generation: 0,
            backlog: VecDeque::new(),
            net: Vec::new(),
            disk: Vec::new(),
            pool: Some(pool),
            driven: false,
            disks: 0,
            closing: false,
            flags,
            enters: 0,
            _not_send: std::marker::PhantomData,
        })
    }

    /// The set-up flags that the kernel accepted, for logs.
    #[must_use]
    pub fn flags(&self) -> &'static str {
        self.flags
    }

    /// `io_uring_enter` calls so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Operations that the kernel may still work on.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    /// With `true`, a driver's loop calls [`Ring::enter`], and the disk's `poll` never does.
    pub fn set_driven(&mut self, driven: bool) {
        self.driven = driven;
    }

    /// A number for a disk that begins to use the ring.
    pub(super) fn next_disk(&mut self) -> u32 {
        self.disks = self.disks.wrapping_add(1);
        self.disks
    }

    /// Accepts connections until cancelled: one event each.
    pub fn accept(&mut self, listener: Arc<OwnedFd>, key: u64) -> OpId {
        self.start(Owner::Net, key, InFlight::Accept { fd: listener })
    }

    /// Receives up to `limit` bytes into a buffer of the pool, picked when they arrive.
    pub fn recv_pooled(&mut self, socket: Arc<OwnedFd>, limit: usize, key: u64) -> OpId {
        let size = self.pool.as_ref().map_or(0, RecvPool::buffer_size);
        let limit = u32::try_from(limit.min(size)).unwrap_or(u32::MAX);
        self.start(Owner::Net, key, InFlight::RecvPooled { fd: socket, limit })
    }

    /// Appends up to `limit` bytes (and at most the spare capacity) to `buf`; with `fill`, completes only when it has
    /// them all, or at the end of the stream.
    pub fn recv(&mut self, socket: Arc<OwnedFd>, buf: Vec<u8>, limit: usize, fill: bool, key: u64) -> OpId {
        self.start(Owner::Net, key, InFlight::Recv { fd: socket, buf, limit, fill })
    }

    /// [`Ring::recv`] with `fill`, and when that has everything, [`Ring::recv_pooled`] of up to `then` bytes: two events
    /// of one key, in this order. The second says `CANCELED` when the first came up short. Returns how many receives it
    /// started: 1 when the submission queue is short of room.
    pub fn recv_then_pooled(&mut self, socket: Arc<OwnedFd>, buf: Vec<u8>, limit: usize, then: usize, key: u64) -> u8 {
        let room = {
            let queue = self.uring.submission();
            queue.capacity() - queue.len()
        };
        // Linked operations must be submitted together.
        if !self.backlog.is_empty() || room < 2 {
            self.recv(socket, buf, limit, true, key);
            return 1;
        }
        let first = InFlight::Recv { fd: Arc::clone(&socket), buf, limit, fill: true };
        self.start_with(Owner::Net, key, first, squeue::Flags::IO_LINK);
        self.recv_pooled(socket, then, key);
        2
    }

    /// Sends the first [`SEND_MAX_CHUNKS`] of `chunks`; the event says how many bytes the kernel took.
    pub fn send(&mut self, socket: Arc<OwnedFd>, chunks: Vec<Bytes>, key: u64) -> OpId {
        self.start(Owner::Net, key, InFlight::send(socket, chunks))
    }

    /// Says when a descriptor becomes readable, again and again. The caller reads it.
    pub fn watch(&mut self, fd: Arc<OwnedFd>, owner: Owner, key: u64) -> OpId {
        self.start(owner, key, InFlight::Watch { fd })
    }

    /// Does nothing, and says so.
    pub fn nop(&mut self, owner: Owner, key: u64) -> OpId {
        self.start(owner, key, InFlight::Nop)
    }

    /// Reads `len` bytes of the file at `offset` to `buf[at..]`.
    pub(super) fn read(
        &mut self,
        file: Arc<OpenFile>,
        buf: AlignedBuf,
        at: usize,
        len: usize,
        offset: u64,
        key: u64,
    ) -> OpId {
        self.start(Owner::Disk, key, InFlight::Read { file, buf, at, len, offset })
    }

    /// Writes `data[at..]` to the file at `offset`.
    pub(super) fn write(
        &mut self,
        file: Arc<OpenFile>,
        data: Bytes,
        at: usize,
        offset: u64,
        durable: bool,
        key: u64,
    ) -> OpId {
        self.start(Owner::Disk, key, InFlight::Write { file, data, at, offset, durable })
    }

    /// `fdatasync`.
    pub(super) fn sync(&mut self, file: Arc<OpenFile>, key: u64) -> OpId {
        self.start(Owner::Disk, key, InFlight::Sync { file })
    }

    /// Asks the kernel to give an operation up; its own event says how it ended.
    pub fn cancel(&mut self, id: OpId) {
        self.start(Owner::Net, 0, InFlight::CancelOne { user_data: id.0 });
    }

    /// The bytes of a pooled buffer.
    #[must_use]
    pub fn pooled(&self, buf: &PoolBuf) -> &[u8] {
        self.pool.as_ref().map_or(&[], |pool| pool.bytes(buf))
    }

    /// Gives a pooled buffer back to the kernel.
    #[expect(clippy::needless_pass_by_value, reason = "the loan ends here")]
    pub fn recycle(&mut self, buf: PoolBuf) {
        if let Some(pool) = &mut self.pool {
            pool.give(buf.id);
        }
    }

    /// Appends the events of one owner to `out`.
    pub fn take(&mut self, owner: Owner, out: &mut Vec<Event>) {
        match owner {
            Owner::Net => out.append(&mut self.net),
            Owner::Disk => out.append(&mut self.disk),
        }
    }

    fn events(&self) -> usize {
        self.net.len() + self.disk.len()
    }

    fn start(&mut self, owner: Owner, key: u64, op: InFlight) -> OpId {
        self.start_with(owner, key, op, squeue::Flags::empty())
    }

    fn start_with(&mut self, owner: Owner, key: u64, mut op: InFlight, flags: squeue::Flags) -> OpId {
        self.generation = self.generation.wrapping_add(1);
        let entry = op.entry().flags(flags);
        let generation = self.generation;
        let index = self.ops.insert(Slot { owner, key, generation, op });
        let id = u64::from(generation) << 32 | index as u64 & 0xffff_ffff;
        self.push(entry.user_data(id));
        OpId(id)
    }

    fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.push_now(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn push_now(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the entry points only to memory owned by its operation, which stays in `ops` until the kernel's last
        // completion for it (or is leaked).
        unsafe { self.uring.submission().push(entry).is_ok() }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.push_now(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits what is queued, blocks as `wait` says, and collects events. Take the events that are there before.
    ///
    /// # Errors
    /// The kernel refuses the ring altogether; nothing can be done with it any more.
    pub fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let before = self.events();
        self.push_backlog();
        while !self.backlog.is_empty() {
            self.enter_once(Wait::No)?;
            self.push_backlog();
        }
        let wait = if self.events() > before { Wait::No } else { wait };
        self.enter_once(wait)
    }

    /// [`Ring::enter`] without blocking, and without a system call when the kernel has nothing for us.
    ///
    /// # Errors
    /// See [`Ring::enter`].
    pub fn progress(&mut self) -> io::Result<()> {
        if self.driven {
            return Ok(());
        }
        let idle = {
            let queue = self.uring.submission();
            queue.is_empty() && !queue.taskrun() && !queue.cq_overflow()
        };
        if idle && self.backlog.is_empty() {
            self.reap();
            return Ok(());
        }
        self.enter(Wait::No)
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<()> {
        self.enters += 1;
        // Deferred completions appear only to an enter that asks for events.
        let outcome = match wait {
            // SAFETY: no argument is passed, so there is no memory to be valid.
            Wait::No => unsafe {
                let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
                self.uring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None)
            },
            Wait::Forever => self.uring.submit_and_wait(1),
            Wait::AtMost(time) => {
                let time = Timespec::from(time);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        self.reap();
        match outcome {
            Ok(_) => Ok(()),
            // Interrupted, timed out, or (busy) the events just reaped had to be taken first.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN)) => {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn reap(&mut self) {
        loop {
            // One at a time: handling an entry may touch the submission queue.
            let Some(cqe) = self.uring.completion().next() else { return };
            self.handle(&cqe);
        }
    }

    fn handle(&mut self, cqe: &cqueue::Entry) {
        let index = usize::try_from(cqe.user_data() & 0xffff_ffff).unwrap_or(usize::MAX);
        let generation = cqe.user_data() >> 32;
        let Some(slot) = self.ops.get(index).filter(|slot| u64::from(slot.generation) == generation) else { return };
        let (owner, key) = (slot.owner, slot.key);
        let event = if cqueue::more(cqe.flags()) {
            slot.op.intermediate(key, cqe)
        } else {
            let slot = self.ops.remove(index);
            if slot.op.is_internal() {
                return;
            }
            self.conclude(slot, cqe)
        };
        match owner {
            Owner::Net => self.net.push(event),
            Owner::Disk => self.disk.push(event),
        }
    }

    /// The kernel ends a watch when it is short of room; a watch goes on, so it is started again.
    fn conclude(&mut self, slot: Slot, cqe: &cqueue::Entry) -> Event {
        let Slot { owner, key, op, .. } = slot;
        match op {
            InFlight::Watch { fd } if !self.closing && cqe.result() >= 0 => {
                self.watch(Arc::clone(&fd), owner, key);
                Event { more: true, ..InFlight::Watch { fd }.conclude(key, cqe) }
            }
            op => op.conclude(key, cqe),
        }
    }

    /// Cancels everything and waits for it. False when the kernel still works on something after [`DROP_WAIT`].
    fn quiesce(&mut self) -> bool {
        self.closing = true;
        let until = Instant::now() + DROP_WAIT;
        let mut cancelled = false;
        while !self.ops.is_empty() {
            if !cancelled {
                self.start(Owner::Net, 0, InFlight::CancelAll);
                // Again in the next round if something escaped because it was only just being submitted.
                cancelled = self.backlog.is_empty();
            }
            self.net.clear();
            self.disk.clear();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.enter(Wait::AtMost(left.min(Duration::from_millis(100)))).is_err() {
                return false;
            }
            cancelled = cancelled && !self.only_needs_cancel();
        }
        true
    }

    /// Whether every operation left could be cancelled but was not, because the cancellation came too early.
    fn only_needs_cancel(&self) -> bool {
        self.ops.iter().all(|(_, slot)| !slot.op.is_internal())
    }
}

/// `IORING_ENTER_GETEVENTS` of `linux/io_uring.h`.
const GETEVENTS: u32 = 1;

impl Drop for Ring {
    /// Memory that the kernel may still write to is never freed: what can't be waited for is leaked.
    fn drop(&mut self) {
        if self.quiesce() {
            let _freed_with_the_ring = self.uring.submitter().unregister_buf_ring(RECV_GROUP);
        } else {
            std::mem::forget(std::mem::take(&mut self.ops));
            std::mem::forget(self.pool.take());
        }
    }
}

/// Tries the flags that save the most first.
fn build(entries: u32) -> io::Result<(IoUring, &'static str)> {
    type Choice = (&'static str, fn(&mut io_uring::Builder));
    const CHOICES: [Choice; 3] = [
        ("single issuer, deferred task work", |b| {
            b.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }),
        ("cooperative task work", |b| {
            b.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
        }),
        ("none", |_| {}),
    ];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (name, set) in CHOICES {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(8));
        set(&mut builder);
        match builder.build(entries) {
            Ok(uring) => return check(uring).map(|uring| (uring, name)),
            Err(e) => last = e,
        }
        if last.raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(last)
}

/// Refuses a kernel that lacks what we need.
fn check(uring: IoUring) -> io::Result<IoUring> {
    let needed: [(u8, &str); 9] = [
        (opcode::Nop::CODE, "nop"),
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::AsyncCancel2::CODE, "cancel"),
    ];
    let mut probe = io_uring::Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    let missing: Vec<&str> =
        needed.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    let params = uring.params();
    if !missing.is_empty() {
        return Err(io::Error::other(format!("the kernel lacks io_uring operations: {}", missing.join(", "))));
    }
    if !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
        return Err(io::Error::other("the kernel's io_uring drops completions or can't time out (before 5.11)"));
    }
    Ok(uring)
}

#[cfg(test)]
mod tests;
