//! Buffers that the kernel picks from when bytes arrive on a connection (`IORING_REGISTER_PBUF_RING`), so that idle
//! connections hold none. The kernel owns a buffer from [`RecvPool::give`] until a completion names it.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::super::AlignedBuf;

/// A filled buffer on loan from the pool. It MUST go back with `Ring::recycle`; one that is dropped is lost to the pool.
#[derive(Debug)]
pub struct PoolBuf {
    pub(super) id: u16,
    pub(super) len: usize,
}

/// The buffers and the ring in which they are offered.
#[derive(Debug)]
pub(super) struct RecvPool {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    size: usize,
    tail: u16,
    /// Own the memory behind the two pointers; touched through those alone, because the kernel writes there too.
    _owners: (AlignedBuf, AlignedBuf),
}

impl RecvPool {
    /// `count` (a power of two) buffers of `size` bytes; none is offered yet.
    pub(super) fn new(count: u16, size: usize) -> Self {
        let mut entries = AlignedBuf::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let mut memory = AlignedBuf::zeroed(usize::from(count) * size);
        Self {
            entries: NonNull::from(&mut *entries).cast(),
            memory: NonNull::from(&mut *memory).cast(),
            count,
            size,
            tail: 0,
            _owners: (entries, memory),
        }
    }

    /// Address of the ring of entries, page-aligned, and how many there are.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.entries.as_ptr().addr() as u64, self.count)
    }

    pub(super) fn buffer_size(&self) -> usize {
        self.size
    }

    /// Offers all buffers; once, after the registration.
    pub(super) fn give_all(&mut self) {
        for id in 0..self.count {
            self.give(id);
        }
    }

    /// Offers a buffer that a completion had named.
    pub(super) fn give(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        let offset = usize::from(id) * self.size;
        // SAFETY: `index` < count, so the entry lies in the memory that `_owners` owns, zeroed and aligned to a page.
        // The kernel reads it only after the tail below says so. `offset` lies in the buffer memory likewise. The tail
        // overlays a field of the first entry that the setters do not touch.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(self.memory.as_ptr().add(offset).addr() as u64);
            entry.set_len(u32::try_from(self.size).unwrap_or(u32::MAX));
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the address of the tail in the first entry: valid, aligned to 2, shared with the kernel as an atomic.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// The bytes of a buffer that the kernel has filled and handed over.
    pub(super) fn bytes(&self, buf: &PoolBuf) -> &[u8] {
        let len = buf.len.min(self.size);
        let offset = usize::from(buf.id) * self.size;
        // SAFETY: a `PoolBuf` exists only between the completion that named the buffer and `give`, so the kernel does
        // not write to it now; its range lies in the owned, initialised memory.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(offset), len) }
    }
}
