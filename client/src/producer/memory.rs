//! The producer's memory bound: bytes accepted and without a receipt. At the bound, senders wait in line (INV-7).

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

/// A count of bytes with a bound.
#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    limit: usize,
    waiting: AtomicUsize,
    line: Mutex<()>,
    freed: Notify,
}

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
            waiting: AtomicUsize::new(0),
            line: Mutex::new(()),
            freed: Notify::new(),
        }
    }

    /// Takes `bytes` if there is room and nobody stands in line.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0 && self.take_now(bytes)
    }

    fn take_now(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|after| *after <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Waits in line for room.
    pub(super) async fn take(&self, bytes: usize) {
        let _place = Waiting::new(&self.waiting);
        let _turn = self.line.lock().await;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.take_now(bytes) {
                return;
            }
            freed.await;
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.freed.notify_waiters();
        }
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

/// Counts a waiter, also one that gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn waits_at_the_bound_and_goes_on_in_line() {
        let memory = Arc::new(Memory::new(10));
        assert!(memory.try_take(8));
        assert!(!memory.try_take(3));
        let big = tokio::spawn({
            let memory = memory.clone();
            async move { memory.take(10).await }
        });
        while memory.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!memory.try_take(1), "nobody overtakes the one in line");
        memory.give_back(8);
        big.await.unwrap();
        assert_eq!(memory.used(), 10);
        memory.give_back(10);
        assert!(memory.try_take(1));
    }

    #[tokio::test]
    async fn one_that_gives_up_leaves_the_line() {
        let memory = Memory::new(1);
        assert!(memory.try_take(1));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), memory.take(1)).await;
        assert!(waited.is_err());
        memory.give_back(1);
        assert!(memory.try_take(1));
    }
}
