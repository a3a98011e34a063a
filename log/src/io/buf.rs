//! Block-aligned memory that becomes reference-counted [`Bytes`] and returns to a pool when the last reference drops.
//!
//! The only unsafe code of the engine beside the ring: `O_DIRECT` needs memory aligned to the block.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Unit of alignment, of torn writes and of file layout, in bytes.
pub const BLOCK: usize = 4096;

/// Rounds up to whole blocks.
#[must_use]
pub const fn round_up(len: usize) -> usize {
    len.div_ceil(BLOCK) * BLOCK
}

/// Owned, zero-initialised, block-aligned memory; its length is its capacity, a multiple of [`BLOCK`].
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    capacity: usize,
    pool: Option<Arc<PoolInner>>,
}

// SAFETY: the buffer owns its memory exclusively; nothing in it is tied to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: `&AlignedBuf` gives only shared reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Zeroed memory for at least `len` bytes, rounded up to whole blocks (at least one).
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self::from_allocator(alloc_zeroed, len)
    }

    /// Whole blocks for at least `len` bytes, as the allocator gives them; the caller sees to it that they are initialised.
    fn from_allocator(allocator: unsafe fn(Layout) -> *mut u8, len: usize) -> Self {
        let capacity = round_up(len.max(1));
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { allocator(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { ptr, capacity, pool: None }
    }

    /// A copy of these bytes; what is left of the last block is zero.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let copy = Self::from_allocator(alloc, bytes.len());
        // SAFETY: the new block has `capacity` >= `bytes.len()` bytes and nobody else has it; both calls together
        // initialise all of it.
        unsafe {
            copy.ptr.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            copy.ptr.as_ptr().add(bytes.len()).write_bytes(0, copy.capacity - bytes.len());
        }
        copy
    }

    fn layout(capacity: usize) -> Layout {
        // A capacity near usize::MAX can't be: callers bound every length by a named limit first.
        Layout::from_size_align(capacity, BLOCK).unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()))
    }

    /// Bytes owned.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Turns the first `len` bytes into shared bytes; the memory goes back to its pool after the last reference.
    #[must_use]
    pub fn freeze(self, len: usize) -> Bytes {
        let len = len.min(self.capacity);
        Bytes::from_owner(self).slice(..len)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::ops::Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` owns `capacity` initialised bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.capacity) }
    }
}

impl std::ops::DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `ptr` owns `capacity` initialised bytes and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.capacity) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take()
            && pool.give_back(self.ptr, self.capacity)
        {
            return;
        }
        // SAFETY: allocated by `from_allocator` with this very layout, and not given to the pool.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.capacity)) };
    }
}

/// Recycles buffers of one size, so that a busy node does not ask the kernel for zeroed pages again and again. What was
/// not needed for a while goes back with [`BufPool::release_unused`].
#[derive(Debug, Clone)]
pub struct BufPool {
    inner: Arc<PoolInner>,
}

#[derive(Debug)]
struct PoolInner {
    capacity: usize,
    keep: usize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    blocks: Vec<Block>,
    /// Fewest that were free since the last release.
    unused: usize,
}

#[derive(Debug)]
struct Block(NonNull<u8>);

// SAFETY: a block in the free list is owned by the pool alone.
unsafe impl Send for Block {}

impl BufPool {
    /// Buffers of `capacity` bytes (whole blocks); at most `keep` of them wait for reuse.
    #[must_use]
    pub fn new(capacity: usize, keep: usize) -> Self {
        Self { inner: Arc::new(PoolInner { capacity: round_up(capacity), keep, free: Mutex::default() }) }
    }

    /// A buffer of the pool's size. Its content is what the last user left: whoever writes it to disk MUST overwrite or
    /// zero all of it.
    #[must_use]
    pub fn take(&self) -> AlignedBuf {
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let block = free.blocks.pop();
        free.unused = free.unused.min(free.blocks.len());
        drop(free);
        match block {
            Some(Block(ptr)) => AlignedBuf { ptr, capacity: self.inner.capacity, pool: Some(Arc::clone(&self.inner)) },
            None => {
                let mut fresh = AlignedBuf::zeroed(self.inner.capacity);
                fresh.pool = Some(Arc::clone(&self.inner));
                fresh
            }
        }
    }

    /// Frees as many buffers as were never in use since the last call.
    pub fn release_unused(&self) {
        let mut free = self.inner.free.lock().unwrap_or_else(PoisonError::into_inner);
        let stay = free.blocks.len() - free.unused.min(free.blocks.len());
        let unused = free.blocks.split_off(stay);
        free.unused = free.blocks.len();
        drop(free);
        self.inner.dealloc(unused);
    }
}

/// Pools of several sizes.
#[derive(Debug, Clone)]
pub struct BufPools {
    /// Ascending.
    pools: Vec<BufPool>,
}

impl BufPools {
    /// Buffers of each of these sizes (ascending); of each at most `keep_bytes`, and at least one, wait for reuse.
    #[must_use]
    pub fn new(sizes: impl IntoIterator<Item = usize>, keep_bytes: usize) -> Self {
        let pool = |size: usize| BufPool::new(size, (keep_bytes / size.max(1)).max(1));
        Self { pools: sizes.into_iter().map(pool).collect() }
    }

    /// As [`BufPools::new`], with sizes from `largest` down to `smallest`, each half of the next.
    #[must_use]
    pub fn halving(largest: usize, smallest: usize, keep_bytes: usize) -> Self {
        let halves = std::iter::successors(Some(round_up(largest)), |size| Some(round_up(size / 2)));
        let mut sizes: Vec<usize> = halves.take_while(|size| *size >= smallest.max(2 * BLOCK)).collect();
        sizes.reverse();
        Self::new(sizes, keep_bytes)
    }

    /// A buffer of at least `len` bytes, its content anything; of the next larger size, unless three quarters of it
    /// would be for nothing.
    #[must_use]
    pub fn take(&self, len: usize) -> AlignedBuf {
        self.pooled(len, 4).unwrap_or_else(|| AlignedBuf::zeroed(len))
    }

    /// As [`AlignedBuf::copy_of`], with at most half of the memory for nothing.
    #[must_use]
    pub fn copy_of(&self, bytes: &[u8]) -> AlignedBuf {
        let Some(mut copy) = self.pooled(bytes.len(), 2) else { return AlignedBuf::copy_of(bytes) };
        let end = round_up(bytes.len()).min(copy.len());
        if let Some((head, rest)) = copy.get_mut(..end).and_then(|blocks| blocks.split_at_mut_checked(bytes.len())) {
            head.copy_from_slice(bytes);
            rest.fill(0);
        }
        copy
    }

    fn pooled(&self, len: usize, waste: usize) -> Option<AlignedBuf> {
        let pool = self.pools.iter().find(|pool| len <= pool.inner.capacity)?;
        (len > pool.inner.capacity / waste).then(|| pool.take())
    }

    /// See [`BufPool::release_unused`].
    pub fn release_unused(&self) {
        self.pools.iter().for_each(BufPool::release_unused);
    }
}

impl PoolInner {
    fn dealloc(&self, blocks: Vec<Block>) {
        for Block(ptr) in blocks {
            // SAFETY: the pool owned the block, allocated by `AlignedBuf::zeroed` with this layout.
            unsafe { dealloc(ptr.as_ptr(), AlignedBuf::layout(self.capacity)) };
        }
    }

    fn give_back(&self, ptr: NonNull<u8>, capacity: usize) -> bool {
        if capacity != self.capacity {
            return false;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.blocks.len() >= self.keep {
            return false;
        }
        free.blocks.push(Block(ptr));
        true
    }
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        let free = std::mem::take(self.free.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.dealloc(free.blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_ends_in_zeros() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1] {
            let bytes = vec![7; len];
            let copy = AlignedBuf::copy_of(&bytes);
            assert!(copy.len() >= BLOCK && copy.len().is_multiple_of(BLOCK));
            assert_eq!(copy[..len], bytes[..]);
            assert!(copy[len..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn pools_give_the_next_larger_size_and_copies_end_in_zeros() {
        let pools = BufPools::new([4 * BLOCK, 16 * BLOCK], 16 * BLOCK);
        let sizes = |len: usize| pools.take(len).capacity();
        assert_eq!(sizes(3 * BLOCK), 4 * BLOCK);
        assert_eq!(sizes(4 * BLOCK + 1), 16 * BLOCK);
        assert_eq!(sizes(17 * BLOCK), 17 * BLOCK, "larger than all");
        assert_eq!(sizes(BLOCK), BLOCK, "too small for the smallest");
        for len in [1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 4 * BLOCK, 5 * BLOCK, 9 * BLOCK + 1, 40 * BLOCK] {
            pools.take(16 * BLOCK).fill(9);
            pools.take(4 * BLOCK).fill(9);
            let bytes = vec![7; len];
            let copy = pools.copy_of(&bytes);
            assert!(copy.capacity() <= round_up(len).max(2 * len), "{} bytes for {len}", copy.capacity());
            assert_eq!(copy[..len], bytes[..]);
            assert!(copy[len..round_up(len)].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_pool_keeps_what_was_in_use_and_releases_the_rest() {
        let pool = BufPool::new(BLOCK, 4);
        let free = || pool.inner.free.lock().unwrap().blocks.len();
        let taken: Vec<AlignedBuf> = (0..6).map(|_| pool.take()).collect();
        drop(taken);
        assert_eq!(free(), 4, "no more than it may keep");
        pool.release_unused();
        assert_eq!(free(), 4, "all were in use");
        drop([pool.take(), pool.take()]);
        pool.release_unused();
        assert_eq!(free(), 2);
        pool.release_unused();
        assert_eq!(free(), 0);
    }
}
