//! What happens to records, one thing after the other; and random walks against a model that knows each record by itself.

use super::*;

const SECOND: u64 = 1_000_000_000;
const SETTINGS: Settings = Settings { lock_ns: 30 * SECOND, max_deliveries: 3, max_locks: 100, dead_letters: false };
const MANY: Appetite = Appetite { most: 1_000, strict: false };

fn member(name: &str) -> Arc<str> {
    name.into()
}

fn ack(first: i64, last: i64, verdict: Verdict) -> [Ack; 1] {
    [Ack { first, last, verdict }]
}

/// Everything that is to be written is.
fn write_all(partition: &mut SharePartition) {
    while partition.take_write().is_some() {
        partition.written();
    }
}

fn given(first: i64, last: i64, count: u16) -> Vec<Acquired> {
    vec![Acquired { first, last, count }]
}

fn take(partition: &mut SharePartition, who: &str, first: i64, last: i64) -> Vec<Acquired> {
    partition.acquire(&member(who), 0, &SETTINGS, MANY, first, &[(first, last)])
}

#[test]
fn what_is_accepted_in_any_order_moves_the_start_when_it_is_written() {
    let mut p = SharePartition::new(10, &[]);
    assert_eq!(p.next_offset(&SETTINGS, 20), Some(10));
    assert_eq!(take(&mut p, "a", 10, 14), given(10, 14, 1));
    assert_eq!(p.next_offset(&SETTINGS, 20), Some(15));
    assert_eq!(p.next_offset(&SETTINGS, 15), None);
    assert_eq!(p.acknowledge(&member("a"), 0, &SETTINGS, &ack(12, 14, Verdict::Accept)), Ok(Some(1)));
    let write = p.take_write().unwrap();
    let kept = Kept::Acknowledged;
    assert_eq!((write.number, write.start, write.spans), (1, 10, vec![Span { first: 12, last: 14, kept }]));
    assert_eq!(p.acknowledge(&member("a"), 0, &SETTINGS, &ack(10, 11, Verdict::Accept)), Ok(Some(2)));
    assert_eq!(p.take_write(), None, "one at a time");
    assert_eq!((p.written(), p.start()), (Some(1), 10));
    assert_eq!(p.take_write().unwrap().spans, [Span { first: 10, last: 11, kept }]);
    assert_eq!((p.written(), p.start()), (Some(2), 15));
    assert!(p.is_idle());
}

#[test]
fn nobody_gets_what_another_has_and_nobody_answers_for_it() {
    let mut p = SharePartition::new(0, &[]);
    take(&mut p, "a", 0, 4);
    assert_eq!(take(&mut p, "b", 0, 9), given(5, 9, 1));
    for (first, last) in [(0, 4), (4, 5), (9, 10), (20, 30), (5, i64::MAX)] {
        assert_eq!(p.acknowledge(&member("b"), 0, &SETTINGS, &ack(first, last, Verdict::Accept)), Err(NotHeld));
    }
    let some =
        [Ack { first: 5, last: 5, verdict: Verdict::Accept }, Ack { first: 0, last: 0, verdict: Verdict::Accept }];
    assert_eq!(p.acknowledge(&member("b"), 0, &SETTINGS, &some), Err(NotHeld), "all of it, or nothing");
    assert_eq!(p.take_write(), None);
    assert!(p.acknowledge(&member("b"), 0, &SETTINGS, &ack(5, 9, Verdict::Accept)).is_ok());
    assert_eq!(p.acknowledge(&member("b"), 0, &SETTINGS, &ack(5, 9, Verdict::Accept)), Err(NotHeld), "only once");
}

#[test]
fn what_is_released_comes_again_as_often_as_it_may() {
    let mut p = SharePartition::new(0, &[]);
    for count in 1..=3 {
        assert_eq!(take(&mut p, "a", 0, 0), given(0, 0, count));
        p.acknowledge(&member("a"), 0, &SETTINGS, &ack(0, 0, Verdict::Release)).unwrap();
        assert_eq!(p.next_offset(&SETTINGS, 1), None, "not before it is written");
        write_all(&mut p);
    }
    assert_eq!((p.start(), p.next_offset(&SETTINGS, 1)), (1, None), "given up");
}

#[test]
fn locks_end_and_can_be_renewed() {
    let mut p = SharePartition::new(0, &[]);
    take(&mut p, "a", 0, 9);
    assert_eq!(p.next_deadline(), Some(30 * SECOND));
    assert_eq!(p.acknowledge(&member("a"), 20 * SECOND, &SETTINGS, &ack(2, 3, Verdict::Renew)), Ok(None));
    assert!(!p.tick(29 * SECOND, &SETTINGS));
    assert!(p.tick(30 * SECOND, &SETTINGS));
    write_all(&mut p);
    assert_eq!(p.next_deadline(), Some(50 * SECOND));
    let both = [Acquired { first: 0, last: 1, count: 2 }, Acquired { first: 4, last: 9, count: 2 }];
    assert_eq!(take(&mut p, "b", 0, 9), both);
    assert!(p.acknowledge(&member("a"), 0, &SETTINGS, &ack(2, 3, Verdict::Accept)).is_ok());
    assert_eq!(p.acknowledge(&member("a"), 0, &SETTINGS, &ack(4, 4, Verdict::Accept)), Err(NotHeld));
}

#[test]
fn the_window_is_bounded_and_appetites_are_kept() {
    let settings = Settings { max_locks: 6, ..SETTINGS };
    let mut p = SharePartition::new(0, &[]);
    let two = Appetite { most: 2, strict: true };
    assert_eq!(p.acquire(&member("a"), 0, &settings, two, 0, &[(0, 3)]), given(0, 1, 1));
    let two = Appetite { most: 2, strict: false };
    assert_eq!(
        p.acquire(&member("a"), 0, &settings, two, 2, &[(0, 3), (4, 9)]),
        [Acquired { first: 2, last: 3, count: 1 }]
    );
    assert_eq!(p.acquire(&member("a"), 0, &settings, two, 4, &[(4, 9)]), given(4, 5, 1));
    assert_eq!(p.next_offset(&settings, 100), None);
    p.acknowledge(&member("a"), 0, &settings, &ack(0, 0, Verdict::Accept)).unwrap();
    write_all(&mut p);
    assert_eq!(p.next_offset(&settings, 100), Some(6));
}

#[test]
fn what_is_not_there_is_archived() {
    let mut p = SharePartition::new(0, &[]);
    assert_eq!(
        p.acquire(&member("a"), 0, &SETTINGS, MANY, 0, &[(5, 6), (9, 9)]),
        [Acquired { first: 5, last: 6, count: 1 }, Acquired { first: 9, last: 9, count: 1 }]
    );
    write_all(&mut p);
    assert_eq!(p.start(), 5);
    p.acknowledge(&member("a"), 0, &SETTINGS, &ack(5, 6, Verdict::Accept)).unwrap();
    p.acknowledge(&member("a"), 0, &SETTINGS, &ack(9, 9, Verdict::Gap)).unwrap();
    write_all(&mut p);
    assert_eq!(p.start(), 10);
}

#[test]
fn what_retention_took_is_handled() {
    let mut p = SharePartition::new(0, &[]);
    take(&mut p, "a", 0, 9);
    p.log_start_moved(5);
    let write = p.take_write().unwrap();
    assert_eq!((write.start, write.spans.len()), (5, 0));
    p.written();
    assert_eq!(p.acknowledge(&member("a"), 0, &SETTINGS, &ack(0, 9, Verdict::Accept)), Ok(Some(2)));
    write_all(&mut p);
    assert_eq!(p.start(), 10);
    assert!(p.is_idle());
}

#[test]
fn what_was_kept_goes_on() {
    let span = |first, last, kept| Span { first, last, kept };
    let spans = [span(3, 4, Kept::Acknowledged), span(5, 5, Kept::Available { count: 2 }), span(8, 9, Kept::Archived)];
    let mut p = SharePartition::new(3, &spans);
    assert_eq!((p.start(), p.next_offset(&SETTINGS, 100)), (5, Some(5)));
    let expected = [(5, 5, 3), (6, 7, 1), (10, 11, 1)].map(|(first, last, count)| Acquired { first, last, count });
    assert_eq!(take(&mut p, "a", 5, 11), expected);
}

#[test]
fn dead_letters_are_copied_before_they_are_archived() {
    let settings = Settings { dead_letters: true, max_deliveries: 1, ..SETTINGS };
    let mut p = SharePartition::new(0, &[]);
    take(&mut p, "a", 0, 3);
    p.acknowledge(&member("a"), 0, &settings, &ack(0, 1, Verdict::Reject)).unwrap();
    p.acknowledge(&member("a"), 0, &settings, &ack(2, 3, Verdict::Release)).unwrap();
    assert_eq!(p.condemned(), None, "not before it is written");
    write_all(&mut p);
    assert_eq!(p.condemned(), Some(Condemned { first: 0, last: 1, count: 1, cause: Cause::Rejected }));
    assert_eq!((p.start(), p.next_offset(&settings, 4)), (0, None));
    p.copied(0, 1);
    write_all(&mut p);
    assert_eq!(p.condemned(), Some(Condemned { first: 2, last: 3, count: 1, cause: Cause::MaxDeliveries }));
    p.copied(2, 3);
    write_all(&mut p);
    assert_eq!((p.condemned(), p.start()), (None, 4));
}

/// Each record by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Model {
    Free(u16),
    Held {
        by: usize,
        count: u16,
        until_ns: u64,
    },
    /// Whether the write is on its way, and what it makes of it.
    Moving(bool, Option<u16>),
    Done,
}

struct Walk {
    seed: u64,
    now_ns: u64,
    partition: SharePartition,
    records: Vec<Model>,
    members: [Arc<str>; 3],
}

impl Walk {
    fn below(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % bound
    }

    fn range(&mut self) -> (i64, i64) {
        let first = self.below(self.records.len() as u64) as i64;
        (first, (first + self.below(6) as i64).min(self.records.len() as i64 - 1))
    }

    fn release(record: &mut Model) {
        if let Model::Held { count, .. } = *record {
            *record = Model::Moving(false, (count < SETTINGS.max_deliveries).then_some(count));
        }
    }

    fn acquire(&mut self) {
        let by = self.below(3) as usize;
        let Some(from) = self.partition.next_offset(&SETTINGS, self.records.len() as i64) else {
            let end = self.partition.end as usize;
            let window = self.partition.start + i64::from(SETTINGS.max_locks);
            let free = |record: &Model| matches!(record, Model::Free(_));
            assert!(
                !self.records[self.partition.start as usize..end.max(self.partition.start as usize)].iter().any(free)
            );
            assert!(end == self.records.len() || end as i64 == window);
            return;
        };
        assert!(matches!(self.records[from as usize], Model::Free(_)));
        let last = (from + self.below(8) as i64).min(self.records.len() as i64 - 1);
        let given =
            self.partition.acquire(&self.members[by].clone(), self.now_ns, &SETTINGS, MANY, from, &[(from, last)]);
        let mut found = Vec::new();
        for run in given {
            found.extend((run.first..=run.last).map(|at| (at, run.count)));
        }
        let window = self.partition.start + i64::from(SETTINGS.max_locks);
        let until_ns = self.now_ns + SETTINGS.lock_ns;
        let mut expected = Vec::new();
        for at in from..=last.min(window - 1) {
            if let Model::Free(count) = self.records[at as usize] {
                expected.push((at, count + 1));
                self.records[at as usize] = Model::Held { by, count: count + 1, until_ns };
            }
        }
        assert_eq!(found, expected);
    }

    fn acknowledge(&mut self) {
        let by = self.below(3) as usize;
        let (first, last) = self.range();
        let verdicts = [Verdict::Gap, Verdict::Accept, Verdict::Release, Verdict::Reject, Verdict::Renew];
        let verdict = verdicts[self.below(5) as usize];
        let start = self.partition.start;
        let range = first.max(start)..=last;
        let held = |record: &Model| matches!(record, Model::Held { by: holder, .. } if *holder == by);
        let all = range.clone().all(|at| held(&self.records[at as usize]));
        let told =
            self.partition.acknowledge(&self.members[by].clone(), self.now_ns, &SETTINGS, &ack(first, last, verdict));
        assert_eq!(told.is_ok(), all, "{first}..={last} {:?}", self.records);
        if !all {
            return;
        }
        let until_ns = self.now_ns + SETTINGS.lock_ns;
        for at in range {
            let record = &mut self.records[at as usize];
            match (verdict, *record) {
                (Verdict::Renew, Model::Held { by, count, .. }) => *record = Model::Held { by, count, until_ns },
                (Verdict::Release, _) => Self::release(record),
                _ => *record = Model::Moving(false, None),
            }
        }
    }

    fn write(&mut self) {
        let in_flight = self.records.iter().any(|record| matches!(record, Model::Moving(true, _)));
        match self.partition.take_write() {
            Some(write) => {
                assert!(!in_flight);
                let mut said = Vec::new();
                write.spans.iter().for_each(|span| said.extend((span.first..=span.last).map(|at| (at, span.kept))));
                let mut expected = Vec::new();
                for (at, record) in self.records.iter_mut().enumerate() {
                    if let Model::Moving(false, to) = *record {
                        *record = Model::Moving(true, to);
                        expected.push((at as i64, to));
                    }
                }
                let said: Vec<_> = said
                    .into_iter()
                    .map(|(at, kept)| (at, if let Kept::Available { count } = kept { Some(count) } else { None }))
                    .collect();
                assert_eq!(said, expected);
            }
            None => {
                assert!(in_flight || !self.records.iter().any(|record| matches!(record, Model::Moving(false, _))));
            }
        }
    }

    fn written(&mut self) {
        if self.partition.written().is_some() {
            for record in &mut self.records {
                if let Model::Moving(true, to) = *record {
                    *record = to.map_or(Model::Done, Model::Free);
                }
            }
        }
        let done = self.records.iter().take_while(|record| **record == Model::Done).count();
        assert_eq!(self.partition.start as usize, done);
    }

    fn step(&mut self) {
        match self.below(12) {
            0..=2 => self.acquire(),
            3..=5 => self.acknowledge(),
            6..=7 => self.write(),
            8..=9 => self.written(),
            10 => {
                self.now_ns += self.below(20) * SECOND;
                let now_ns = self.now_ns;
                self.partition.tick(now_ns, &SETTINGS);
                for record in &mut self.records {
                    if matches!(record, Model::Held { until_ns, .. } if *until_ns <= now_ns) {
                        Self::release(record);
                    }
                }
            }
            _ => {
                let gone = self.below(3) as usize;
                self.partition.release_member(&self.members[gone].clone(), &SETTINGS);
                for record in &mut self.records {
                    if matches!(record, Model::Held { by, .. } if *by == gone) {
                        Self::release(record);
                    }
                }
            }
        }
        let held = self.records.iter().any(|record| matches!(record, Model::Held { .. }));
        assert_eq!(self.partition.locks.is_empty(), !held, "locks end with what they are for");
        assert_eq!(self.partition.locks.len(), self.partition.deadlines.len());
    }
}

#[test]
fn random_walks_agree_with_a_model() {
    for seed in 0..200 {
        let mut walk = Walk {
            seed,
            now_ns: 0,
            partition: SharePartition::new(0, &[]),
            records: vec![Model::Free(0); 130],
            members: ["a", "b", "c"].map(Arc::from),
        };
        for _ in 0..600 {
            walk.step();
        }
    }
}
