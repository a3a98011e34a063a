//! The window against a model that keeps everything in one map and is slow.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// The next message comes, after a gap of this many offsets.
    Push {
        gap: i64,
    },
    /// A receiver asks for a message.
    Take {
        by: u8,
        timeout_ms: u64,
    },
    /// An ack id that was given out is sent back; counted from the newest.
    Ack {
        back: usize,
    },
    Nack {
        back: usize,
        delay_ms: u64,
    },
    Extend {
        back: usize,
        by_ms: u64,
    },
    Release {
        by: u8,
    },
    Pass {
        ms: u64,
    },
    /// A commit of what is due becomes durable.
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let back = || 0..12usize;
    let step = prop_oneof![
        4 => (0..3i64).prop_map(|gap| Step::Push { gap: gap / 2 }),
        6 => (0..3u8, 1..200u64).prop_map(|(by, timeout_ms)| Step::Take { by, timeout_ms }),
        6 => back().prop_map(|back| Step::Ack { back }),
        2 => (back(), 0..100u64).prop_map(|(back, delay_ms)| Step::Nack { back, delay_ms: delay_ms.saturating_sub(50) }),
        1 => (back(), 0..300u64).prop_map(|(back, by_ms)| Step::Extend { back, by_ms }),
        1 => (0..3u8).prop_map(|by| Step::Release { by }),
        2 => (0..80u64).prop_map(|ms| Step::Pass { ms }),
        2 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    Queued { not_before: u64 },
    Held { by: u8, until: u64 },
    Acked,
}

#[derive(Debug, Default)]
struct Model {
    now: u64,
    messages: BTreeMap<i64, (Is, u32)>,
    /// The next delivery is of the first unsettled message from here on.
    position: i64,
    committed: i64,
    /// Acknowledged messages that a commit covers.
    durable: std::collections::BTreeSet<i64>,
    /// Waiters that were told to wait: offset by waiter.
    waiting: BTreeMap<usize, i64>,
}

impl Model {
    fn prefix(&self) -> i64 {
        let unsettled = self.messages.iter().find(|(_, (is, _))| *is != Is::Acked).map(|(offset, _)| *offset);
        let end = self.messages.keys().next_back().map_or(0, |last| last + 1);
        let settled_below = unsettled.unwrap_or(end);
        // The commit names the offset after the last settled message, not the next unsettled one.
        self.messages.range(..settled_below).next_back().map_or(self.committed, |(offset, _)| offset + 1)
    }

    fn requeue(&mut self, offset: i64, not_before: u64) {
        if let Some((is, _)) = self.messages.get_mut(&offset) {
            *is = Is::Queued { not_before };
            self.position = self.position.min(offset);
        }
    }

    fn requeue_where(&mut self, wanted: impl Fn(&Is) -> bool) -> usize {
        let found: Vec<i64> =
            self.messages.iter().filter(|(_, (is, _))| wanted(is)).map(|(offset, _)| *offset).collect();
        found.iter().for_each(|offset| self.requeue(*offset, 0));
        found.len()
    }

    /// Offset and attempt of the next delivery.
    fn take(&mut self, by: u8, timeout: u64) -> Option<(i64, u32)> {
        let now = self.now;
        let (offset, (is, attempt)) = self.messages.range_mut(self.position..).find(|(_, (is, _))| *is != Is::Acked)?;
        if matches!(is, Is::Queued { not_before } if *not_before > now) {
            return None;
        }
        *is = Is::Held { by, until: now + timeout };
        *attempt += 1;
        self.position = offset + 1;
        Some((*offset, *attempt))
    }

    fn holds(&self, offset: i64, attempt: u32) -> bool {
        matches!(self.messages.get(&offset), Some((Is::Held { .. }, present)) if *present == attempt)
    }

    fn ack(&mut self, waiter: usize, offset: i64, attempt: u32) -> Acked {
        let acked = matches!(self.messages.get(&offset), Some((Is::Acked, _)));
        if !acked && !self.holds(offset, attempt) {
            return Acked::Lost;
        }
        if acked && self.durable.contains(&offset) {
            return Acked::Confirmed;
        }
        self.messages.entry(offset).and_modify(|(is, _)| *is = Is::Acked);
        self.waiting.insert(waiter, offset);
        Acked::Waiting
    }

    /// A commit of everything that is acknowledged.
    fn commit(&mut self) -> Vec<usize> {
        self.committed = self.prefix();
        let acked = self.messages.iter().filter(|(_, (is, _))| *is == Is::Acked).map(|(offset, _)| *offset);
        self.durable = acked.collect();
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// Whether something is acknowledged that no commit covers.
    fn due(&self) -> bool {
        let acked = |(offset, (is, _)): (&i64, &(Is, u32))| *is == Is::Acked && !self.durable.contains(offset);
        self.prefix() > self.committed || self.messages.iter().any(acked)
    }
}

struct Run {
    window: Window<i64, u8, usize>,
    model: Model,
    start: Instant,
    /// Offset and attempt of every delivery.
    given: Vec<(i64, u32)>,
    waiters: usize,
    next_offset: i64,
}

impl Run {
    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn given(&self, back: usize) -> Option<(i64, u32)> {
        self.given.len().checked_sub(back + 1).map(|at| self.given[at])
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { gap } => {
                let offset = self.next_offset + gap;
                if self.model.messages.is_empty() {
                    self.model.committed = offset;
                }
                self.model.messages.insert(offset, (Is::Queued { not_before: 0 }, 0));
                assert!(self.window.push(offset, 10, offset));
                assert!(!self.window.push(offset, 10, offset), "an offset comes once");
                self.next_offset = offset + 1;
            }
            Step::Take { by, timeout_ms } => {
                let taken = self.window.take(self.at(self.model.now), by, Duration::from_millis(timeout_ms));
                assert!(taken.iter().all(|taken| taken.message == taken.offset));
                let taken = taken.map(|taken| (taken.offset, taken.attempt));
                assert_eq!(taken, self.model.take(by, timeout_ms));
                self.given.extend(taken);
            }
            Step::Ack { back } => {
                let Some((offset, attempt)) = self.given(back) else { return };
                self.waiters += 1;
                let acked = self.window.ack(offset, attempt, self.waiters);
                assert_eq!(acked, self.model.ack(self.waiters, offset, attempt));
            }
            Step::Nack { back, delay_ms } => {
                let Some((offset, attempt)) = self.given(back) else { return };
                let until = self.model.now + delay_ms;
                let valid = self.model.holds(offset, attempt);
                let not_before = (delay_ms > 0).then(|| self.at(until));
                assert_eq!(self.window.nack(offset, attempt, not_before), valid);
                if valid {
                    self.model.requeue(offset, until);
                }
            }
            Step::Extend { back, by_ms } => {
                let Some((offset, attempt)) = self.given(back) else { return };
                let until = self.model.now + by_ms;
                let valid = self.model.holds(offset, attempt);
                assert_eq!(self.window.extend(offset, attempt, self.at(until)), valid);
                if let Some((Is::Held { until: present, .. }, _)) = self.model.messages.get_mut(&offset)
                    && valid
                {
                    *present = until;
                }
            }
            Step::Release { by } => {
                let expected = self.model.requeue_where(|is| matches!(is, Is::Held { by: held, .. } if *held == by));
                assert_eq!(self.window.release(by), expected);
            }
            Step::Pass { ms } => {
                self.model.now += ms;
                let now = self.model.now;
                let due = self.window.next_timeout().is_some_and(|at| at <= self.at(now));
                let expected = self.model.requeue_where(|is| matches!(is, Is::Held { until, .. } if *until <= now));
                assert!(due || expected == 0, "whoever sleeps until next_timeout misses nothing");
                assert_eq!(self.window.tick(self.at(now)), expected);
            }
            Step::Commit => self.commit(),
        }
        self.check();
    }

    fn commit(&mut self) {
        let due = self.model.due();
        let progress = self.window.progress(4096);
        assert_eq!(progress.is_some(), due);
        let Some(progress) = progress else { return };
        assert_eq!(progress.next, self.model.prefix());
        let above: Vec<i64> = progress::decode(progress.next, &progress.beside)
            .into_iter()
            .flat_map(|(from, to)| self.model.messages.range(from..to).map(|(offset, _)| *offset).collect::<Vec<_>>())
            .collect();
        let acked = self.model.messages.range(progress.next..).filter(|(_, (is, _))| *is == Is::Acked);
        assert_eq!(above, acked.map(|(offset, _)| *offset).collect::<Vec<_>>());
        let waiters = self.window.committed(progress.next);
        let mut told: Vec<usize> = waiters.into_iter().flat_map(|(_, waiters)| waiters).collect();
        told.sort_unstable();
        assert_eq!(told, self.model.commit());
    }

    fn check(&self) {
        let prefix = self.model.prefix();
        assert!(self.window.commit_due() || !self.model.due());
        let held = self.model.messages.values().filter(|(is, _)| matches!(is, Is::Held { .. })).count();
        assert_eq!(self.window.held(), held);
        let kept = self.model.messages.range(prefix..).count();
        let unsettled = self.model.messages.values().filter(|(is, _)| *is != Is::Acked).count();
        assert_eq!((self.window.len(), self.window.bytes()), (kept, unsettled * 10));
        let backlog = self.model.messages.range(self.model.position..).any(|(_, (is, _))| *is != Is::Acked);
        assert_eq!(self.window.backlog() > 0, backlog);
    }

    /// Whatever happened, everything can be settled, and everyone who waits is told.
    fn finish(mut self) {
        self.step(&Step::Pass { ms: 1_000_000 });
        for by in 0..3 {
            self.step(&Step::Release { by });
        }
        while let Some(taken) = self.window.take(self.at(self.model.now), 0, Duration::from_secs(1)) {
            assert_eq!(self.model.take(0, 1000), Some((taken.offset, taken.attempt)));
            self.given.push((taken.offset, taken.attempt));
            self.step(&Step::Ack { back: 0 });
        }
        self.commit();
        assert!(self.model.waiting.is_empty() && self.window.is_empty());
        assert_eq!((self.window.held(), self.window.bytes(), self.window.end().len()), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(first in 0..3i64, steps in steps()) {
        let mut run = Run {
            window: Window::new(),
            model: Model::default(),
            start: Instant::now(),
            given: Vec::new(),
            waiters: 0,
            next_offset: first,
        };
        steps.iter().for_each(|step| run.step(step));
        run.finish();
    }

    #[test]
    fn whoever_waits_is_told_when_the_ownership_ends(steps in steps()) {
        let mut run = Run {
            window: Window::new(),
            model: Model::default(),
            start: Instant::now(),
            given: Vec::new(),
            waiters: 0,
            next_offset: 0,
        };
        steps.iter().for_each(|step| run.step(step));
        let mut told: Vec<usize> = run.window.end().into_iter().flat_map(|(_, waiters)| waiters).collect();
        told.sort_unstable();
        prop_assert_eq!(told, run.model.waiting.into_keys().collect::<Vec<_>>());
    }
}

#[test]
fn refuses_offsets_that_would_overflow() {
    let mut window: Window<(), u8, ()> = Window::new();
    assert!(!window.push(i64::MAX, 1, ()));
    assert!(window.push(i64::MAX - 1, 1, ()));
    let taken = window.take(Instant::now(), 0, Duration::from_secs(1)).expect("one");
    assert_eq!(window.ack(taken.offset, taken.attempt, ()), Acked::Waiting);
    assert_eq!(window.progress(4096).map(|progress| progress.next), Some(i64::MAX));
}

const LONG: Duration = Duration::from_secs(60);

/// A window with these messages, all delivered to receiver 1.
fn delivered(offsets: impl Iterator<Item = i64>) -> Window<i64, u8, i64> {
    let mut window = Window::new();
    for offset in offsets {
        window.push(offset, 1, offset);
    }
    while window.take(Instant::now(), 1, LONG).is_some() {}
    window
}

fn taken(window: &mut Window<i64, u8, i64>) -> Vec<i64> {
    std::iter::from_fn(|| window.take(Instant::now(), 1, LONG).map(|taken| taken.offset)).collect()
}

#[test]
fn what_was_acknowledged_before_is_not_delivered_and_stays_acknowledged() {
    let mut window: Window<i64, u8, i64> = Window::new();
    window.resume(3, vec![(4, 6), (8, 10)]);
    for offset in 3..12 {
        assert!(window.push(offset, 1, offset));
    }
    assert_eq!(taken(&mut window), [3, 6, 7, 10, 11]);
    // What is committed next still tells of all that is acknowledged.
    assert_eq!(window.ack(7, 1, 0), Acked::Waiting);
    let progress = window.progress(4096).expect("due");
    assert_eq!((progress.next, progress::decode(3, &progress.beside)), (3, vec![(4, 6), (7, 10)]));
    assert_eq!(window.committed(3).len(), 1);
    assert_eq!(window.ack(7, 1, 0), Acked::Confirmed);
    for offset in [3, 6] {
        assert_eq!(window.ack(offset, 1, 0), Acked::Waiting);
    }
    assert_eq!(window.progress(4096), Some(Progress { next: 10, beside: String::new() }));
    assert_eq!(window.ack(7, 1, 0), Acked::Confirmed, "it was before, and is now");
}

#[test]
fn what_was_acknowledged_ahead_of_what_has_come_is_not_forgotten() {
    let mut window: Window<i64, u8, i64> = Window::new();
    window.resume(0, vec![(2, 3), (5, 9)]);
    for offset in 0..3 {
        window.push(offset, 1, offset);
    }
    assert_eq!(taken(&mut window), [0, 1]);
    window.ack(0, 1, 0);
    window.ack(1, 1, 0);
    let progress = window.progress(4096).expect("due");
    assert_eq!((progress.next, progress::decode(3, &progress.beside)), (3, vec![(5, 9)]));
    for offset in 3..10 {
        window.push(offset, 1, offset);
    }
    assert_eq!(taken(&mut window), [3, 4, 9]);
}

#[test]
fn when_no_more_can_be_remembered_nothing_new_is_delivered() {
    const ROOM: usize = 19;
    let mut window = delivered(0..40);
    for offset in 40..45 {
        window.push(offset, 1, offset);
    }
    for offset in (1..40).step_by(2) {
        assert_eq!(window.ack(offset, 1, offset), Acked::Waiting);
    }
    let progress = window.progress(ROOM).expect("due");
    let remembered = progress::decode(0, &progress.beside);
    assert!(remembered.len() == 6 && progress.beside.len() <= ROOM, "{progress:?}");
    let told: Vec<i64> = window.committed(0).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(told, [1, 3, 5, 7, 9, 11], "only what is remembered is confirmed");
    assert!(taken(&mut window).is_empty(), "nothing new");
    assert_eq!(window.progress(ROOM), None, "and nothing new to say");
    // What lies below is delivered all the same when it comes back.
    assert!(window.nack(0, 1, None));
    assert_eq!(taken(&mut window)[0], 0);
    for offset in (0..40).step_by(2) {
        assert_eq!(window.ack(offset, 2, offset), Acked::Waiting);
    }
    while let Some(progress) = window.progress(ROOM) {
        window.committed(progress.next);
    }
    assert_eq!(taken(&mut window), [40, 41, 42, 43, 44]);
}

#[test]
fn a_transaction_takes_all_or_nothing_and_is_resolved_either_way() {
    let mut window = delivered(0..4);
    window.ack(3, 1, 3);
    assert_eq!(window.lease(&[(1, 1), (2, 9)], 4096), Err((2, NoLease::Lost)));
    assert!(!window.leased() && window.commit_due());
    let progress = window.lease(&[(0, 1), (2, 1)], 4096).expect("valid");
    assert_eq!((progress.next, progress::decode(1, &progress.beside)), (1, vec![(2, 4)]));
    assert!(!window.commit_due() && window.progress(4096).is_none(), "no commit passes it");
    assert_eq!(window.ack(2, 1, 2), Acked::Lost, "it is in the transaction");
    assert_eq!(window.tick(Instant::now() + 2 * LONG), 1, "what is in it does not time out");
    assert!(window.resolve(None).is_empty());
    assert_eq!(window.held(), 2);
    let progress = window.lease(&[(0, 1), (2, 1)], 4096).expect("still its own");
    assert_eq!(window.release(1), 0);
    window.resolve(Some(progress.next));
    assert_eq!((window.held(), taken(&mut window)), (0, vec![1]));
    assert_eq!(window.ack(1, 2, 1), Acked::Waiting);
    assert_eq!(window.progress(4096), Some(Progress { next: 4, beside: String::new() }));
}

#[test]
fn what_a_transaction_had_comes_again_when_it_fails_and_its_receiver_is_gone() {
    let mut window = delivered(0..2);
    window.lease(&[(0, 1)], 4096).expect("valid");
    assert_eq!(window.release(1), 1);
    window.resolve(None);
    assert_eq!((window.held(), taken(&mut window)), (0, vec![0, 1]));
}
