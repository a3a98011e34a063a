//! Against a model that keeps the whole log and looks at all of it for every question.

use super::*;

const LOG: LogId = LogId { topic: uuid::Uuid::nil(), partition: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Data,
    Commit,
    Abort,
    /// Of somebody without transactions.
    Other,
}

/// A transaction: producer, first offset, and marker with whether it committed.
type Known = (i64, i64, Option<(i64, bool)>);

/// One record per batch: offset, producer, what.
#[derive(Debug, Clone, Default)]
struct Model {
    batches: Vec<(i64, i64, What)>,
    end: i64,
}

impl Model {
    /// Transactions in the part of the log below `upto`.
    fn transactions(&self, upto: i64) -> Vec<Known> {
        let mut all: Vec<Known> = Vec::new();
        for (at, producer, what) in self.batches.iter().filter(|(at, ..)| *at < upto) {
            let open = all.iter_mut().find(|(p, _, end)| p == producer && end.is_none());
            match (what, open) {
                (What::Data, None) => all.push((*producer, *at, None)),
                (What::Commit | What::Abort, Some(open)) => open.2 = Some((*at, *what == What::Commit)),
                (What::Data | What::Other, _) | (_, None) => {}
            }
        }
        all
    }

    fn stable_end(&self, upto: i64) -> i64 {
        let open = self.transactions(upto).into_iter().filter(|(_, _, end)| end.is_none());
        open.map(|(_, first, _)| first).min().unwrap_or(upto).min(upto)
    }

    fn is_aborted(&self, producer: i64, at: i64) -> bool {
        let mine = |(p, first, end): &Known| {
            *p == producer && *first <= at && end.is_some_and(|(last, commit)| !commit && last > at)
        };
        self.transactions(self.end).iter().any(mine)
    }

    /// What a consumer makes of a fetch, as Kafka's clients do.
    fn consume(&self, from: i64, upto: i64, aborted: &[Aborted]) -> Vec<i64> {
        let mut queue: Vec<&Aborted> = aborted.iter().collect();
        queue.sort_by_key(|aborted| std::cmp::Reverse(aborted.first));
        let mut skipped = std::collections::HashSet::new();
        let mut seen = Vec::new();
        for (at, producer, what) in self.batches.iter().filter(|(at, ..)| (from..upto).contains(at)) {
            while let Some(next) = queue.pop_if(|next| next.first.0 <= *at) {
                skipped.insert(next.producer_id);
            }
            match what {
                What::Abort => drop(skipped.remove(producer)),
                What::Data if skipped.contains(producer) => {}
                What::Data | What::Other => seen.push(*at),
                What::Commit => {}
            }
        }
        seen
    }

    fn visible(&self, from: i64, upto: i64) -> Vec<i64> {
        let shown = |(at, producer, what): &&(i64, i64, What)| {
            (from..upto).contains(at)
                && match what {
                    What::Data => !self.is_aborted(*producer, *at),
                    What::Other => true,
                    What::Commit | What::Abort => false,
                }
        };
        self.batches.iter().filter(shown).map(|(at, ..)| *at).collect()
    }

    fn step(batch: &(i64, i64, What)) -> Option<Step> {
        let (at, producer, what) = *batch;
        let marker = |commit| EndMarker { producer_id: producer, producer_epoch: 0, coordinator_epoch: 0, commit };
        match what {
            What::Data => Some(Step::Data { producer, epoch: 0, first: Offset(at) }),
            What::Commit => Some(Step::End { marker: marker(true), at: Offset(at) }),
            What::Abort => Some(Step::End { marker: marker(false), at: Offset(at) }),
            What::Other => None,
        }
    }
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 20).unwrap() % sides
    }
}

struct Walk {
    model: Model,
    known: Transactions,
    /// Nothing below it is cut off, but by an unclean election.
    settled: i64,
    dice: Dice,
}

impl Walk {
    fn append(&mut self) {
        let producer = self.dice.roll(4);
        let what =
            [What::Data, What::Data, What::Data, What::Commit, What::Abort, What::Other][self.dice.roll(6) as usize];
        let batch = (self.model.end, producer, what);
        // Now and then compaction has left a gap.
        self.model.end += 1 + i64::from(self.dice.roll(9) == 0);
        self.model.batches.push(batch);
        if let Some(step) = Model::step(&batch) {
            self.known.apply(step, 0);
        }
    }

    fn truncate(&mut self, end: i64) {
        let base = self.dice.roll(end + 1);
        let scan_from = self.model.stable_end(base);
        self.model.batches.retain(|(at, ..)| *at < end);
        self.model.end = end;
        self.settled = self.settled.min(end);
        let exact = end >= self.known.known_from.0;
        self.known.truncate(Offset(end), Offset(scan_from));
        assert_eq!(self.known.lost.is_some(), !exact, "truncated to {end}");
        // Replay goes on while it is lost.
        for _ in 0..self.dice.roll(4) {
            self.append();
        }
        let Some(lost) = self.known.lost else { return };
        for upto in self.settled..=self.model.end {
            let (told, truth) = (self.known.stable_end(Offset(upto)).0, self.model.stable_end(upto));
            assert!(told <= truth, "{told} is told as stable below {upto}, where {truth} is");
        }
        let mut found = Transactions::default();
        for batch in self.model.batches.iter().filter(|(at, ..)| *at >= lost.from.0) {
            if let Some(step) = Model::step(batch) {
                found.apply(step, 0);
            }
        }
        self.known.found(found, Offset(self.model.end));
    }

    fn check(&mut self) {
        for upto in self.settled..=self.model.end {
            assert_eq!(self.known.stable_end(Offset(upto)).0, self.model.stable_end(upto), "below {upto}");
        }
        for (at, producer, what) in &self.model.batches {
            if *what == What::Data {
                assert_eq!(self.known.is_aborted(*producer, Offset(*at)), self.model.is_aborted(*producer, *at));
            }
        }
        let stable = self.model.stable_end(self.model.end);
        let upto = self.dice.roll(stable + 1);
        let from = self.dice.roll(upto + 1);
        let aborted = self.known.aborted_in(Offset(from), Offset(upto));
        assert_eq!(
            self.model.consume(from, upto, &aborted),
            self.model.visible(from, upto),
            "{from}..{upto} {aborted:?}"
        );
    }
}

#[test]
fn it_tells_what_the_whole_log_tells() {
    let mut lost = 0;
    for seed in 1..400 {
        let mut walk =
            Walk { model: Model::default(), known: Transactions::default(), settled: 0, dice: Dice(seed * 7919) };
        for _ in 0..120 {
            match walk.dice.roll(24) {
                0 => {
                    walk.settled += walk.dice.roll(walk.model.end - walk.settled + 1);
                    walk.known.settle(Offset(walk.settled));
                }
                1 => {
                    let end = walk.settled + walk.dice.roll(walk.model.end - walk.settled + 1);
                    walk.truncate(end);
                }
                2 if walk.dice.roll(4) == 0 => {
                    let end = walk.dice.roll(walk.model.end + 1);
                    lost += u32::from(Offset(end) < walk.known.known_from);
                    walk.truncate(end);
                }
                _ => walk.append(),
            }
            walk.check();
        }
    }
    assert!(lost > 100, "only {lost} truncations went too far");
}

fn data(producer: i64, epoch: i16, transactional: bool) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        len: 100,
        leader_epoch: wherry_wire::types::LeaderEpoch(0),
        crc: 0,
        attributes: if transactional { 0x10 } else { 0 },
        last_offset_delta: 0,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: producer,
        producer_epoch: epoch,
        base_sequence: 0,
        record_count: 1,
    }
}

fn end(producer_id: i64, producer_epoch: i16, coordinator_epoch: i32, at: i64) -> Step {
    Step::End { marker: EndMarker { producer_id, producer_epoch, coordinator_epoch, commit: true }, at: Offset(at) }
}

#[test]
fn markers_fence_producers_and_coordinators() {
    let mut t = Transactions::default();
    t.apply(Step::Data { producer: 1, epoch: 3, first: Offset(0) }, 0);
    t.apply(end(1, 4, 7, 1), 0);
    assert!(matches!(t.check_data(LOG, &data(1, 3, true)), Err(LogError::ProducerFenced { got: 3, current: 4, .. })));
    assert!(t.check_data(LOG, &data(1, 4, true)).is_ok());
    let check = |t: &Transactions, epoch, coordinator_epoch, strict| {
        let marker = EndMarker { producer_id: 1, producer_epoch: epoch, coordinator_epoch, commit: false };
        t.members[&1].check_marker(LOG, &marker, 3, strict)
    };
    assert!(matches!(check(&t, 3, 7, false), Err(LogError::ProducerFenced { .. })));
    assert!(matches!(check(&t, 4, 6, false), Err(LogError::CoordinatorFenced { got: 6, current: 7, .. })));
    assert!(check(&t, 4, 7, true).is_ok(), "what was said is said again");
    t.apply(Step::Data { producer: 1, epoch: 4, first: Offset(2) }, 0);
    assert!(matches!(check(&t, 4, 7, true), Err(LogError::ProducerFenced { .. })), "a late one must not end the next");
    assert!(check(&t, 5, 7, true).is_ok() && check(&t, 4, 7, false).is_ok());
    // Truncated away, the marker fences nobody.
    t.truncate(Offset(1), Offset(0));
    assert!(
        t.check_data(LOG, &data(1, 3, true)).is_ok() && t.members[&1].open == Some(Open { first: Offset(0), epoch: 3 })
    );
}

#[test]
fn data_outside_of_an_open_transaction_is_refused() {
    let mut t = Transactions::default();
    assert!(t.check_data(LOG, &data(1, 0, false)).is_ok());
    t.apply(Step::Data { producer: 1, epoch: 0, first: Offset(0) }, 0);
    assert!(matches!(t.check_data(LOG, &data(1, 0, false)), Err(LogError::InvalidTransaction { .. })));
    assert!(t.check_data(LOG, &data(1, 0, true)).is_ok() && t.check_data(LOG, &data(2, 0, false)).is_ok());
}

#[test]
fn the_bounds_hold_and_open_ones_are_not_forgotten() {
    let mut t = Transactions::default();
    let most = MAX_TRANSACTIONAL_PRODUCERS_PER_LOG as i64;
    for producer in 0..most {
        t.apply(Step::Data { producer, epoch: 0, first: Offset(producer) }, producer);
    }
    assert!(matches!(t.check_data(LOG, &data(most, 0, true)), Err(LogError::TooManyTransactions { .. })));
    assert!(t.check_data(LOG, &data(3, 0, true)).is_ok(), "its own goes on");
    t.apply(end(5, 0, 0, most), 0);
    assert!(t.check_data(LOG, &data(most, 0, true)).is_ok());
    t.apply(Step::Data { producer: most, epoch: 0, first: Offset(most + 1) }, 0);
    assert_eq!((t.members.len() as i64, t.members.contains_key(&5)), (most, false), "the only idle one went");
    t.expire(i64::MAX);
    assert_eq!(t.open_count() as i64, most);
    assert_eq!(t.stable_end(Offset(most + 2)), Offset(0));
}

/// Where more markers are unsettled than can be undone, what is stable comes out too low rather than too high.
#[test]
fn too_many_unsettled_markers_cost_exactness_and_nothing_else() {
    let mut t = Transactions::default();
    let rounds = MAX_ENDED_PER_LOG as i64 + 1_000;
    for n in 0..rounds {
        t.apply(Step::Data { producer: 1, epoch: 0, first: Offset(2 * n) }, 0);
        t.apply(end(1, 0, 0, 2 * n + 1), 0);
    }
    assert_eq!((t.ended.len(), t.lows.len()), (MAX_ENDED_PER_LOG, MAX_ENDED_PER_LOG));
    for n in [0, 1, 500, 999, 1_000, 1_001, 30_000, rounds - 1] {
        let told = t.stable_end(Offset(2 * n + 1)).0;
        assert!(told <= 2 * n && (n <= 1_000 || told == 2 * n), "{told} below {}", 2 * n + 1);
    }
    t.truncate(Offset(1_001), Offset(1_000));
    assert_eq!(t.lost, Some(Lost { from: Offset(1_000), end: Offset(1_001) }));
}

#[test]
fn the_index_ends_with_the_log() {
    let mut t = Transactions::default();
    let abort = |producer_id, at| Step::End {
        marker: EndMarker { producer_id, producer_epoch: 0, coordinator_epoch: 0, commit: false },
        at: Offset(at),
    };
    for (first, last) in [(0, 3), (10, 13), (20, 23)] {
        t.apply(Step::Data { producer: 1, epoch: 0, first: Offset(first) }, 0);
        t.apply(abort(1, last), 0);
    }
    t.advance_start(Offset(3));
    assert_eq!(t.aborted.len(), 3, "the end of the first is still there");
    t.advance_start(Offset(11));
    assert_eq!(t.aborted.iter().map(|a| a.first.0).collect::<Vec<_>>(), [10, 20]);
    t.compacted_away(&[Offset(13), Offset(99)]);
    assert_eq!(t.aborted.iter().map(|a| a.first.0).collect::<Vec<_>>(), [20]);
    t.truncate(Offset(23), Offset(0));
    assert!(t.aborted.is_empty() && t.open_count() == 1);
    assert_eq!(t.stable_end(Offset(23)), Offset(20));
    // Once nothing can be cut off and nobody is left, nothing is kept; but for the place up to which that is so.
    t.apply(end(1, 0, 0, 23), 0);
    t.settle(Offset(24));
    t.expire(i64::MAX);
    assert!(!t.is_idle(Offset(11)) && t.is_idle(Offset(24)));
}
