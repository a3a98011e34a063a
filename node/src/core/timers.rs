//! Deadlines, soonest first, on monotonic time.
//!
//! Cancelled entries stay until they are due or the heap is rebuilt, which it is when most are stale: the heap's size
//! stays within twice what is alive.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Heap of deadlines with a key each.
#[derive(Debug)]
pub(crate) struct Timers<K: Ord + Copy> {
    heap: BinaryHeap<Reverse<(u64, K)>>,
}

/// A heap below this many entries is not rebuilt.
const REBUILD_ABOVE: usize = 1024;

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new() }
    }

    pub(crate) fn set(&mut self, at_ns: u64, key: K) {
        self.heap.push(Reverse((at_ns, key)));
    }

    /// Soonest deadline, possibly a stale one.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one key that is due.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<K> {
        if self.next()? > now_ns {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }

    /// Drops stale entries if there are many; `alive` is the number of live timers.
    pub(crate) fn tidy(&mut self, alive: usize, is_alive: impl Fn(&K) -> bool) {
        if self.heap.len() > REBUILD_ABOVE.max(2 * alive) {
            self.heap.retain(|Reverse((_, key))| is_alive(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soonest_first() {
        let mut timers = Timers::new();
        for (at, key) in [(30, 'c'), (10, 'a'), (20, 'b')] {
            timers.set(at, key);
        }
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20), Some('a'));
        assert_eq!(timers.pop_due(20), Some('b'));
        assert_eq!(timers.pop_due(20), None);
    }

    #[test]
    fn stale_entries_do_not_pile_up() {
        let mut timers = Timers::new();
        for n in 0..100_000u64 {
            timers.set(1_000_000 + n, n);
            timers.tidy(1, |key| *key == n);
        }
        assert!(timers.heap.len() <= REBUILD_ABOVE + 1);
    }
}
