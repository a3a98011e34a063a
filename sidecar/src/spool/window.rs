//! The messages that are being forwarded, in their order. Pure.
//!
//! ```text
//!           hand          answered
//!  Waiting ──────> Sent ────────────> Done ─ all before it done ─> forwarded
//!     ▲             │ └── refused ──> Aside ──┘
//!     └── not sent ─┘
//! ```
//! After one came back nothing is handed over until everything behind it is decided: then all that came back goes again, in order.
//! What a producer gives back is always the end of a partition's messages, so that order is kept in each partition.

use std::collections::VecDeque;
use std::time::Instant;

use super::entry::Entry;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Handed to the cluster.
    Sent(Instant),
    /// On its way into the quarantine.
    Aside,
    Done,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    /// Offset of the first.
    position: i64,
    entries: VecDeque<(Entry, State)>,
    bytes: usize,
    sent: usize,
}

impl Window {
    /// Everything before `position` was forwarded.
    pub(super) fn new(position: i64) -> Self {
        Self { position, entries: VecDeque::new(), bytes: 0, sent: 0 }
    }

    /// All before it was forwarded.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// Offset of the next message to read.
    pub(super) fn end(&self) -> i64 {
        self.position + i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<&Entry> {
        self.entries.front().map(|(entry, _)| entry)
    }

    /// Since when the oldest that was handed over is undecided.
    pub(super) fn oldest_sent(&self) -> Option<(Instant, &Entry)> {
        self.entries.iter().find_map(|(entry, state)| match state {
            State::Sent(since) => Some((*since, entry)),
            State::Waiting | State::Aside | State::Done => None,
        })
    }

    /// Takes what was read. What does not follow on what it has is not taken.
    pub(super) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            if entry.offset == self.end() {
                self.bytes += entry.bytes;
                self.entries.push_back((entry, State::Waiting));
            }
        }
    }

    /// The next to hand over.
    pub(super) fn next(&self) -> Option<&Entry> {
        let at = self.entries.iter().position(|(_, state)| *state == State::Waiting)?;
        let decided = |(_, state): &(Entry, State)| !matches!(state, State::Sent(_));
        let behind_is_decided = self.sent == 0 || self.entries.iter().skip(at + 1).all(decided);
        self.entries.get(at).map(|(entry, _)| entry).filter(|_| behind_is_decided)
    }

    fn set(&mut self, offset: i64, state: State) {
        let at = usize::try_from(offset - self.position).ok();
        if let Some((_, known)) = at.and_then(|at| self.entries.get_mut(at)) {
            self.sent -= usize::from(matches!(known, State::Sent(_)));
            self.sent += usize::from(matches!(state, State::Sent(_)));
            *known = state;
        }
    }

    pub(super) fn handed(&mut self, offset: i64, now: Instant) {
        self.set(offset, State::Sent(now));
    }

    pub(super) fn came_back(&mut self, offset: i64) {
        self.set(offset, State::Waiting);
    }

    pub(super) fn aside(&mut self, offset: i64) {
        self.set(offset, State::Aside);
    }

    /// It is in the cluster, or in quarantine.
    pub(super) fn done(&mut self, offset: i64) {
        self.set(offset, State::Done);
    }

    pub(super) fn entry(&self, offset: i64) -> Option<&Entry> {
        let at = usize::try_from(offset - self.position).ok()?;
        self.entries.get(at).map(|(entry, _)| entry)
    }

    /// Goes on behind what is done; answers with how many messages that were.
    pub(super) fn advance(&mut self) -> u64 {
        let mut count = 0;
        while let Some((entry, _)) = self.entries.pop_front_if(|(_, state)| *state == State::Done) {
            self.bytes -= entry.bytes;
            self.position += 1;
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wherry_client::ProduceRecord;

    fn entry(offset: i64) -> Entry {
        Entry { offset, spooled_ms: 0, bytes: 1, record: ProduceRecord::new("t", "x") }
    }

    fn window(count: i64) -> Window {
        let mut window = Window::new(0);
        window.extend((0..count).map(entry));
        window
    }

    fn hand(window: &mut Window) -> Option<i64> {
        let offset = window.next()?.offset;
        window.handed(offset, Instant::now());
        Some(offset)
    }

    #[test]
    fn the_place_moves_behind_what_is_done_only() {
        let mut window = window(3);
        assert_eq!((hand(&mut window), hand(&mut window), hand(&mut window)), (Some(0), Some(1), Some(2)));
        window.done(1);
        assert_eq!((window.advance(), window.position()), (0, 0));
        window.aside(0);
        assert_eq!(window.advance(), 0, "not in quarantine yet");
        window.done(0);
        assert_eq!((window.advance(), window.position(), window.bytes()), (2, 2, 1));
    }

    #[test]
    fn what_does_not_follow_is_not_taken() {
        let mut window = window(2);
        window.extend([entry(1), entry(4), entry(2)]);
        assert_eq!(window.end(), 3);
    }

    proptest! {
        /// The cluster keeps what it gets in order; what comes back is always the end of what it has not got.
        #[test]
        fn every_history_forwards_each_message_once_and_in_order(steps in proptest::collection::vec(0u8..4, 0..200)) {
            let mut window = window(20);
            let (mut on_the_way, mut log) = (VecDeque::new(), Vec::new());
            for step in steps.into_iter().chain(std::iter::repeat_n([0u8, 1], 60).flatten()) {
                match step {
                    0 => on_the_way.extend(hand(&mut window)),
                    1 => if let Some(first) = on_the_way.pop_front() {
                        log.push(first);
                        window.done(first);
                        window.advance();
                    },
                    2 => if let Some(last) = on_the_way.pop_back() {
                        window.came_back(last);
                    },
                    _ => while let Some(last) = on_the_way.pop_back() {
                        window.came_back(last);
                    },
                }
            }
            prop_assert_eq!(log, (0..20).collect::<Vec<_>>());
            prop_assert_eq!(window.position(), 20);
        }
    }
}
