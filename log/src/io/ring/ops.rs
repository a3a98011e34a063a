//! Operations in flight: each owns all memory and descriptors that the kernel may touch until its last completion.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags};
use io_uring::{cqueue, opcode, squeue};
use rustix::io::Errno;

use super::super::AlignedBuf;
use super::super::real::OpenFile;
use super::recv_pool::PoolBuf;
use super::{Event, RECV_GROUP, What};

/// Chunks in one send; the kernel's own limit is 1024.
pub const SEND_MAX_CHUNKS: usize = 256;

/// Memory that a vectored send points to. Boxed, so that it stays where it is.
pub(super) struct Message {
    header: libc::msghdr,
    parts: [libc::iovec; SEND_MAX_CHUNKS],
}

impl Message {
    fn new(chunks: &[Bytes]) -> Box<Self> {
        // SAFETY: both are plain C structures for which zero is a valid value.
        let mut message: Box<Self> = Box::new(unsafe { std::mem::zeroed() });
        let mut count = 0;
        for (part, chunk) in message.parts.iter_mut().zip(chunks) {
            part.iov_base = chunk.as_ptr().cast_mut().cast();
            part.iov_len = chunk.len();
            count += 1;
        }
        message.header.msg_iov = message.parts.as_mut_ptr();
        message.header.msg_iovlen = count as _;
        message
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}

/// What the kernel is doing for us.
#[derive(Debug)]
pub(super) enum InFlight {
    Accept { fd: Arc<OwnedFd> },
    RecvPooled { fd: Arc<OwnedFd>, limit: u32 },
    Recv { fd: Arc<OwnedFd>, buf: Vec<u8>, limit: usize, fill: bool },
    Send { fd: Arc<OwnedFd>, chunks: Vec<Bytes>, message: Option<Box<Message>> },
    Read { file: Arc<OpenFile>, buf: AlignedBuf, at: usize, len: usize, offset: u64 },
    Write { file: Arc<OpenFile>, data: Bytes, at: usize, offset: u64, durable: bool },
    Sync { file: Arc<OpenFile> },
    Watch { fd: Arc<OwnedFd> },
    Nop,
    CancelOne { user_data: u64 },
    CancelAll,
}

impl InFlight {
    pub(super) fn send(fd: Arc<OwnedFd>, chunks: Vec<Bytes>) -> Self {
        let message = if chunks.len() == 1 { None } else { Some(Message::new(&chunks)) };
        Self::Send { fd, chunks, message }
    }

    /// The entry for the submission queue. Every pointer in it leads to memory that `self` owns on the heap, so it stays
    /// valid when `self` moves, until `self` is dropped.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        match self {
            Self::Accept { fd } => opcode::AcceptMulti::new(raw(fd)).flags(libc::SOCK_CLOEXEC).build(),
            Self::RecvPooled { fd, limit } => opcode::Recv::new(raw(fd), std::ptr::null_mut(), *limit)
                .buf_group(RECV_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Self::Recv { fd, buf, limit, fill } => {
                let spare = buf.spare_capacity_mut();
                let len = spare.len().min(*limit);
                let flags = if *fill { libc::MSG_WAITALL } else { 0 };
                opcode::Recv::new(raw(fd), spare.as_mut_ptr().cast(), length(len)).flags(flags).build()
            }
            Self::Send { fd, chunks, message } => send_entry(fd, chunks, message.as_deref_mut()),
            Self::Read { file, buf, at, len, offset } => {
                let end = (*at + *len).min(buf.capacity());
                let part = &mut buf[*at..end];
                opcode::Read::new(raw(&file.file), part.as_mut_ptr(), length(part.len())).offset(*offset).build()
            }
            Self::Write { file, data, at, offset, durable } => {
                let part = &data[*at..];
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(raw(&file.file), part.as_ptr(), length(part.len()))
                    .offset(*offset)
                    .rw_flags(flags)
                    .build()
            }
            Self::Sync { file } => opcode::Fsync::new(raw(&file.file)).flags(FsyncFlags::DATASYNC).build(),
            Self::Watch { fd } => {
                opcode::PollAdd::new(raw(fd), u32::from(libc::POLLIN.unsigned_abs())).multi(true).build()
            }
            Self::Nop => opcode::Nop::new().build(),
            Self::CancelOne { user_data } => opcode::AsyncCancel2::new(CancelBuilder::user_data(*user_data)).build(),
            Self::CancelAll => opcode::AsyncCancel2::new(CancelBuilder::any()).build(),
        }
    }

    /// Whether the operation answers to somebody.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self, Self::CancelOne { .. } | Self::CancelAll)
    }

    /// What a further completion of an operation that stays in flight says.
    pub(super) fn intermediate(&self, key: u64, cqe: &cqueue::Entry) -> Event {
        let result = result_of(cqe);
        let what = match self {
            Self::Accept { .. } => What::Accepted(accepted(result)),
            Self::Watch { .. }
            | Self::RecvPooled { .. }
            | Self::Recv { .. }
            | Self::Send { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Sync { .. }
            | Self::Nop
            | Self::CancelOne { .. }
            | Self::CancelAll => What::Ready,
        };
        Event { key, result, what, more: true, waiting: false }
    }

    /// What the last completion says; gives back the memory.
    pub(super) fn conclude(self, key: u64, cqe: &cqueue::Entry) -> Event {
        let result = result_of(cqe);
        let count = result.map_or(0, |count| count as usize);
        let what = match self {
            Self::Accept { .. } => What::Accepted(accepted(result)),
            Self::RecvPooled { .. } => {
                let id = cqueue::buffer_select(cqe.flags());
                What::ReceivedPooled(id.map(|id| PoolBuf { id, len: count }))
            }
            Self::Recv { mut buf, limit, .. } => {
                let received = count.min(limit).min(buf.capacity() - buf.len());
                // SAFETY: the kernel has written this many bytes behind `len`, within the capacity.
                unsafe { buf.set_len(buf.len() + received) };
                What::Received(buf)
            }
            Self::Send { chunks, .. } => What::Sent(chunks),
            Self::Read { buf, .. } => What::Read(buf),
            Self::Write { data, .. } => What::Written(data),
            Self::Sync { .. } => What::Synced,
            Self::Watch { .. } | Self::Nop | Self::CancelOne { .. } | Self::CancelAll => What::Ready,
        };
        Event { key, result, what, more: false, waiting: cqueue::sock_nonempty(cqe.flags()) }
    }
}

fn send_entry(fd: &Arc<OwnedFd>, chunks: &[Bytes], message: Option<&mut Message>) -> squeue::Entry {
    // WAITALL: the kernel goes on after a partial send by itself.
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
    match (message, chunks.first()) {
        (Some(message), _) => {
            opcode::SendMsg::new(raw(fd), &raw const message.header).flags(flags.unsigned_abs()).build()
        }
        (None, Some(chunk)) => opcode::Send::new(raw(fd), chunk.as_ptr(), length(chunk.len())).flags(flags).build(),
        (None, None) => opcode::Nop::new().build(),
    }
}

fn raw(fd: &impl AsRawFd) -> Fd {
    Fd(fd.as_raw_fd())
}

/// Lengths are far below 4 GiB; a longer one is cut, and the caller goes on after the short count.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(1 << 30)
}

fn result_of(cqe: &cqueue::Entry) -> Result<u32, Errno> {
    u32::try_from(cqe.result()).map_err(|_| Errno::from_raw_os_error(-cqe.result()))
}

fn accepted(result: Result<u32, Errno>) -> Option<OwnedFd> {
    let fd = i32::try_from(result.ok()?).ok()?;
    // SAFETY: a successful accept made this descriptor for us; each completion is read once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}
