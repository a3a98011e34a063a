//! A node's own view of its session: how long, by its own clock, it may acknowledge (INV-4, trap 9).
//!
//! The leader of the quorum fences a node no earlier than [`SESSION_NS`] after the last heartbeat that it received. Each
//! answered heartbeat gives the node authority for [`LEASE_NS`] from when that heartbeat was *sent*: always the shorter
//! time, whatever the network did. The difference covers how old the answering leader's own contact with the majority may
//! be ([`CONTACT_NS`]), and that two clocks don't run quite alike.

use std::collections::VecDeque;

use crate::mutation::mutated;

/// Time without a heartbeat after which the quorum leader fences a node, in nanoseconds.
pub(crate) const SESSION_NS: u64 = 2_000_000_000;
/// Authority that an answered heartbeat gives, from when it was sent, in nanoseconds.
pub(crate) const LEASE_NS: u64 = 1_500_000_000;
/// Age of the quorum leader's contact with a majority up to which it answers heartbeats, in nanoseconds.
pub(crate) const CONTACT_NS: u64 = 300_000_000;
/// Time between two heartbeats, in nanoseconds.
pub(crate) const HEARTBEAT_NS: u64 = 250_000_000;
/// Heartbeats without an answer that are remembered.
const MAX_UNANSWERED: usize = 32;

const _: () = assert!(LEASE_NS + CONTACT_NS + 100_000_000 < SESSION_NS);

#[derive(Debug, Default)]
pub(crate) struct Lease {
    next: u64,
    /// Sequence and time of sending, ascending.
    sent: VecDeque<(u64, u64)>,
    valid_until_ns: u64,
    due_ns: u64,
}

impl Lease {
    /// Whether a heartbeat should be sent now; if so, its sequence.
    pub(crate) fn beat(&mut self, now_ns: u64) -> Option<u64> {
        if now_ns < self.due_ns {
            return None;
        }
        self.due_ns = now_ns + HEARTBEAT_NS;
        self.next += 1;
        self.sent.push_back((self.next, now_ns));
        if self.sent.len() > MAX_UNANSWERED {
            self.sent.pop_front();
        }
        Some(self.next)
    }

    /// The next heartbeat goes at once: there is news for, or of, the leader.
    pub(crate) fn beat_soon(&mut self) {
        self.due_ns = 0;
    }

    /// The leader of the quorum answered.
    pub(crate) fn answered(&mut self, sequence: u64) {
        while let Some((first, sent_ns)) = self.sent.front().copied()
            && first <= sequence
        {
            self.sent.pop_front();
            if first == sequence {
                self.valid_until_ns = self.valid_until_ns.max(sent_ns + LEASE_NS);
            }
        }
    }

    /// Whether this node may acknowledge.
    pub(crate) fn is_valid(&self, now_ns: u64) -> bool {
        let beyond_ns = if mutated!(LongLease) { 2 * LEASE_NS } else { 0 };
        now_ns < self.valid_until_ns + beyond_ns
    }

    pub(crate) fn next_deadline(&self) -> u64 {
        self.due_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_runs_from_the_sending() {
        let mut lease = Lease::default();
        assert!(!lease.is_valid(0));
        let sequence = lease.beat(1_000).unwrap();
        assert_eq!(lease.beat(1_001), None, "not before it is due");
        lease.answered(sequence);
        assert!(lease.is_valid(1_000 + LEASE_NS - 1));
        assert!(!lease.is_valid(1_000 + LEASE_NS));
    }

    #[test]
    fn answers_out_of_order_never_shorten_and_strangers_never_lengthen() {
        let mut lease = Lease::default();
        let first = lease.beat(1).unwrap();
        lease.beat_soon();
        let second = lease.beat(1_000_000).unwrap();
        lease.answered(second);
        lease.answered(first);
        lease.answered(99);
        assert!(lease.is_valid(1_000_000 + LEASE_NS - 1));
        assert!(!lease.is_valid(1_000_000 + LEASE_NS));
        for n in 0..100 {
            lease.beat_soon();
            lease.beat(2_000_000 + n);
        }
        assert!(lease.sent.len() <= MAX_UNANSWERED);
    }
}
