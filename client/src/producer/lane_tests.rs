//! Tests of the lane: the rules one by one, and thousands of random histories against a model of a broker that checks
//! sequences as Kafka does, over a network that loses requests and answers.

use super::*;
use crate::config::Codec;
use crate::producer::accumulator::Shape;
use crate::producer::batch::OpenBatch;
use crate::producer::receipt::Receipt;
use crate::record::ProduceRecord;

/// A batch of `count` records that carries `number` where the test finds it again.
fn batch(number: usize, count: i32) -> SealedBatch {
    let receipt = Receipt::new("t".into(), 0);
    let shape = Shape { batch_bytes: 1 << 20, codec: (Codec::None, None), transactional: false, asks: false };
    let mut open = OpenBatch::new(receipt, shape, 0, Instant::now());
    for i in 0..count {
        drop(open.push(&ProduceRecord::new("t", "x"), if i == 0 { number } else { 0 }, 0).unwrap());
    }
    open.seal().unwrap()
}

fn identity(producer_id: i64) -> Identity {
    Identity { producer_id, epoch: 0 }
}

/// A lane whose first batch has been acknowledged: the next sequence is 10.
fn lane() -> Lane {
    let mut lane = Lane::new(Some(identity(1)), 5, false);
    let (first, stamp) = send(&mut lane, 0);
    assert_eq!(stamp.base_sequence, 0);
    assert!(matches!(lane.next(Instant::now(), 1), Next::Blocked), "the first goes alone");
    assert!(lane.answered(first, acknowledged(), Instant::now()).is_some());
    lane
}

/// Adds a batch and sends it.
fn send(lane: &mut Lane, number: usize) -> (u64, Stamp) {
    assert!(matches!(lane.next(Instant::now(), 1), Next::Room));
    lane.add(batch(number, 10));
    sent(lane.next(Instant::now(), 1))
}

#[expect(clippy::needless_pass_by_value, reason = "every caller has it from a call")]
fn sent(next: Next) -> (u64, Stamp) {
    let Next::Send { token, stamp, .. } = next else { panic!("{next:?}") };
    (token, stamp)
}

fn retry(maybe_written: bool) -> Answer {
    Answer::Retry { cause: "x".into(), maybe_written }
}

fn acknowledged() -> Answer {
    Answer::Acknowledged { base_offset: 7, append_time_ms: -1 }
}

#[test]
fn sequences_count_records_and_wrap() {
    let mut lane = lane();
    assert_eq!(send(&mut lane, 1).1.base_sequence, 10);
    assert_eq!(send(&mut lane, 2).1.base_sequence, 20);
    assert_eq!(advance(i32::MAX - 3, 10), 6);
}

#[test]
fn no_more_than_five_in_flight_and_all_over_one_connection() {
    let mut lane = lane();
    for n in 0..5 {
        send(&mut lane, n);
    }
    assert!(matches!(lane.next(Instant::now(), 1), Next::Blocked));
    let mut lane = self::lane();
    send(&mut lane, 0);
    assert!(matches!(lane.next(Instant::now(), 2), Next::Blocked), "another connection waits for the first");
}

#[test]
fn after_a_failure_all_in_flight_is_awaited_and_resent_in_order() {
    let mut lane = lane();
    let (a, first) = send(&mut lane, 1);
    let (b, second) = send(&mut lane, 2);
    let now = Instant::now();
    assert!(lane.answered(a, retry(true), now).is_none());
    assert!(matches!(lane.next(now, 1), Next::Blocked), "one behind it is in flight");
    assert!(lane.answered(b, Answer::OutOfSequence, now).is_none());
    assert_eq!(sent(lane.next(now, 2)), (a, first), "the same sequence");
    assert_eq!(sent(lane.next(now, 2)), (b, second));
    assert!(lane.answered(a, acknowledged(), now).is_some());
    assert!(lane.answered(b, acknowledged(), now).is_some());
    assert!(lane.is_idle());
}

/// A batch of records with these message ids.
fn named(ids: &[&str]) -> SealedBatch {
    let shape = Shape { batch_bytes: 1 << 20, codec: (Codec::Lz4, None), transactional: false, asks: true };
    let mut open = OpenBatch::new(Receipt::new("t".into(), 0), shape, 0, Instant::now());
    for (id, n) in ids.iter().zip(0..) {
        let record = ProduceRecord::new("t", format!("value {n}")).header(crate::MESSAGE_ID_HEADER, id.to_string());
        drop(open.push(&record, 10, n).unwrap());
    }
    open.seal().unwrap()
}

fn send_named(lane: &mut Lane, ids: &[&str]) -> (u64, Stamp) {
    assert!(matches!(lane.next(Instant::now(), 1), Next::Room));
    lane.add(named(ids));
    sent(lane.next(Instant::now(), 1))
}

fn duplicates(list: &[(u32, i64)]) -> Answer {
    Answer::Duplicates(list.iter().map(|(index, offset)| Duplicate { index: *index, offset: *offset }).collect())
}

#[test]
fn what_is_left_of_a_batch_takes_its_place() {
    use crate::producer::receipt::Fate;
    let now = Instant::now();
    let mut lane = lane();
    let (a, first) = send_named(&mut lane, &["a", "b", "c", "b", "d"]);
    let settled = lane.answered(a, duplicates(&[(0, 70), (3, -1)]), now).unwrap();
    let Outcome::Parted { fates, rest: Some(rest) } = &settled.outcome else { panic!("{settled:?}") };
    assert_eq!(**fates, [Fate::Known(70), Fate::Sent(0), Fate::Sent(1), Fate::Repeats(0), Fate::Sent(2)]);
    assert!(!rest.is_settled());
    assert_eq!(settled.batch.reserved, 20, "the rest keeps its share of the memory");
    let Next::Send { token, batch, stamp } = lane.next(now, 1) else { panic!() };
    assert_eq!((batch.count(), batch.reserved, stamp), (3, 30, first));
    assert!(batch.asks);
    assert!(lane.answered(token, acknowledged(), now).is_some());
    assert_eq!(send(&mut lane, 1).1.base_sequence, first.base_sequence + 3);
}

#[test]
fn what_was_behind_a_batch_that_shrank_is_renumbered() {
    let now = Instant::now();
    let mut lane = lane();
    let (a, _) = send_named(&mut lane, &["a", "b"]);
    let (b, _) = send_named(&mut lane, &["c"]);
    assert!(lane.answered(a, duplicates(&[(0, 7), (1, 8)]), now).is_some());
    assert!(matches!(lane.next(now, 1), Next::Blocked), "its answer is awaited");
    lane.answered(b, retry(false), now);
    let (again, stamp) = sent(lane.next(now, 1));
    assert_eq!((again, stamp.producer_epoch, stamp.base_sequence), (b, 1, 0));
}

#[test]
fn in_a_transaction_nothing_is_sent_behind_a_batch_that_may_shrink() {
    let now = Instant::now();
    let mut lane = Lane::new(Some(identity(1)), 5, true);
    let (first, _) = send(&mut lane, 0);
    lane.answered(first, acknowledged(), now);
    let (named, stamp) = send_named(&mut lane, &["a", "b"]);
    assert!(matches!(lane.next(now, 1), Next::Blocked));
    assert!(lane.answered(named, duplicates(&[(1, 7)]), now).is_some());
    let (token, again) = sent(lane.next(now, 1));
    assert_eq!(again, stamp);
    assert!(lane.answered(token, acknowledged(), now).is_some());
}

#[test]
fn duplicates_that_were_not_sent_are_an_error() {
    let mut lane = lane();
    let (a, _) = send_named(&mut lane, &["a"]);
    let settled = lane.answered(a, duplicates(&[(5, 7)]), Instant::now()).unwrap();
    assert!(matches!(settled.outcome, Outcome::Failed(ClientError::Rejected { code: 87, .. })));
}

#[test]
fn the_pause_is_kept_and_counted_once() {
    let mut lane = lane();
    let (a, _) = send(&mut lane, 1);
    let (b, _) = send(&mut lane, 2);
    let later = Instant::now() + Duration::from_secs(5);
    lane.answered(a, retry(false), later);
    lane.answered(b, retry(false), later + Duration::from_secs(5));
    assert_eq!(lane.failures(), 1);
    assert!(matches!(lane.next(Instant::now(), 1), Next::NotBefore(t) if t == later));
    assert!(matches!(lane.next(later, 1), Next::Send { .. }));
}

#[test]
fn a_refused_batch_frees_its_sequence_or_starts_the_next_epoch() {
    let refused = || Answer::Refused(ClientError::Closed { what: "x" });
    let now = Instant::now();
    let mut lane = lane();
    let (a, _) = send(&mut lane, 1);
    assert!(matches!(lane.answered(a, refused(), now), Some(Settled { outcome: Outcome::Failed(_), .. })));
    assert_eq!(send(&mut lane, 2).1.base_sequence, 10, "nothing was sent after it");

    let mut lane = self::lane();
    let (a, _) = send(&mut lane, 1);
    let (b, _) = send(&mut lane, 2);
    lane.answered(a, refused(), now);
    lane.answered(b, Answer::OutOfSequence, now);
    let (again, stamp) = sent(lane.next(now, 1));
    assert_eq!((again, stamp.producer_epoch, stamp.base_sequence), (b, 1, 0));
}

#[test]
fn a_batch_that_is_too_large_is_sent_as_two_in_its_place() {
    let too_large = || Answer::TooLarge(ClientError::Closed { what: "x" });
    let now = Instant::now();
    let mut lane = lane();
    let (a, first) = send(&mut lane, 1);
    let (b, second) = send(&mut lane, 2);
    let settled = lane.answered(a, too_large(), now).unwrap();
    assert!(matches!(settled.outcome, Outcome::Split { at: 5, .. }));
    lane.answered(b, Answer::OutOfSequence, now);
    let (a1, stamp) = sent(lane.next(now, 1));
    assert_eq!(stamp, first);
    let (a2, stamp) = sent(lane.next(now, 1));
    assert_eq!(stamp.base_sequence, first.base_sequence + 5);
    assert_eq!(sent(lane.next(now, 1)), (b, second), "nothing behind it changes");
    for token in [a1, a2, b] {
        assert!(lane.answered(token, acknowledged(), now).is_some());
    }
    let alone = Lane::new(Some(identity(1)), 5, false);
    let mut lane = alone;
    lane.add(batch(1, 1));
    let (a, _) = sent(lane.next(now, 1));
    let settled = lane.answered(a, too_large(), now).unwrap();
    assert!(matches!(settled.outcome, Outcome::Failed(_)), "one record can't be split");
}

#[test]
fn a_lost_identity_waits_for_a_new_one() {
    let mut lane = lane();
    let (a, _) = send(&mut lane, 1);
    let now = Instant::now();
    lane.answered(a, Answer::IdentityLost, now);
    assert!(matches!(lane.next(now, 1), Next::NeedsIdentity));
    lane.identify(identity(9));
    let (_, stamp) = sent(lane.next(now, 1));
    assert_eq!((stamp.producer_id, stamp.producer_epoch, stamp.base_sequence), (9, 0, 0));
}

#[test]
fn what_expires_says_whether_it_may_be_there() {
    let later = Instant::now() + Duration::from_secs(1);
    let mut lane = lane();
    let (a, _) = send(&mut lane, 1);
    let settled = lane.expire(later, Duration::ZERO);
    assert!(matches!(&settled[..], [Settled { outcome: Outcome::Failed(ClientError::Unknown { .. }), .. }]));
    assert!(!lane.is_idle(), "its answer is still to come");
    assert!(lane.answered(a, acknowledged(), later).is_none());
    assert!(lane.is_idle());

    let mut lane = self::lane();
    let (a, _) = send(&mut lane, 1);
    lane.answered(a, retry(false), Instant::now());
    let settled = lane.expire(later, Duration::ZERO);
    assert!(matches!(&settled[..], [Settled { outcome: Outcome::Failed(ClientError::Retry { .. }), .. }]));
    assert!(lane.is_idle());
}

#[test]
fn what_certainly_was_not_written_is_taken_back_from_the_end() {
    let now = Instant::now();
    let mut lane = lane();
    let (a, _) = send(&mut lane, 1);
    let (b, second) = send(&mut lane, 2);
    assert!(lane.recall(now).is_empty(), "both are on their way");
    lane.answered(b, retry(false), now);
    let taken = lane.recall(now);
    assert!(matches!(&taken[..], [Settled { outcome: Outcome::Failed(ClientError::Retry { .. }), .. }]));
    lane.answered(a, retry(true), now);
    assert!(lane.recall(now).is_empty(), "it may have been written");
    assert_eq!(sent(lane.next(now, 1)).0, a);
    assert!(lane.answered(a, acknowledged(), now).is_some());
    assert_eq!(send(&mut lane, 3).1, second, "the sequence is free again");
}

/// A broker's state for one partition: what it has, and what it remembers of the producer.
#[derive(Default)]
struct Broker {
    log: Vec<usize>,
    producer: Option<(i64, i16, i32)>,
    last_five: VecDeque<(i32, i32)>,
}

enum Said {
    Yes,
    OutOfOrder,
    Fenced,
}

impl Broker {
    fn append(&mut self, number: usize, count: i32, stamp: Stamp) -> Said {
        let last = advance(stamp.base_sequence, count - 1);
        if let Some((id, epoch, next)) = self.producer
            && id == stamp.producer_id
        {
            if stamp.producer_epoch < epoch {
                return Said::Fenced;
            }
            if stamp.producer_epoch == epoch {
                if self.last_five.contains(&(stamp.base_sequence, last)) {
                    return Said::Yes;
                }
                if stamp.base_sequence != next {
                    return Said::OutOfOrder;
                }
            } else if stamp.base_sequence != 0 {
                return Said::OutOfOrder;
            } else {
                self.last_five.clear();
            }
        } else {
            self.last_five.clear();
        }
        self.producer = Some((stamp.producer_id, stamp.producer_epoch, advance(last, 1)));
        self.last_five.push_back((stamp.base_sequence, last));
        if self.last_five.len() > 5 {
            self.last_five.pop_front();
        }
        self.log.push(number);
        Said::Yes
    }
}

struct World {
    seed: u64,
    lane: Lane,
    broker: Broker,
    /// Requests on the connection, in order: token, number, records, stamp.
    wire: VecDeque<(u64, usize, i32, Stamp)>,
    route: u64,
    next_number: usize,
    acknowledged: Vec<usize>,
    given_up: Vec<usize>,
    /// Taken back: certainly not written.
    recalled: Vec<usize>,
    now: Instant,
}

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn settle(&mut self, settled: impl IntoIterator<Item = Settled>) {
        for Settled { batch, outcome } in settled {
            match outcome {
                Outcome::Delivered { .. } => self.acknowledged.push(batch.reserved),
                Outcome::Failed(_) => self.given_up.push(batch.reserved),
                Outcome::Split { .. } => panic!("no broker here finds anything too large"),
                Outcome::Parted { .. } => panic!("no broker here knows message ids"),
            }
        }
    }

    fn pump(&mut self, add: bool) {
        loop {
            match self.lane.next(self.now, self.route) {
                Next::Send { token, batch, stamp } => {
                    self.wire.push_back((token, batch.reserved, batch.count(), stamp));
                }
                Next::Room if add && self.random(3) > 0 => {
                    self.next_number += 1;
                    let count = 1 + i32::try_from(self.random(4)).unwrap();
                    self.lane.add(batch(self.next_number, count));
                }
                Next::NeedsIdentity => {
                    let id = 100 + i64::try_from(self.random(1 << 30)).unwrap();
                    self.lane.identify(identity(id));
                }
                Next::Room | Next::Blocked => return,
                Next::NotBefore(at) => self.now = at,
            }
        }
    }

    /// The broker takes the first request; its answer comes through.
    fn deliver(&mut self, faults: bool) {
        let Some((token, number, count, stamp)) = self.wire.pop_front() else { return };
        let fault = if faults { self.random(12) } else { 99 };
        let answer = match fault {
            0 => retry(false),
            1 => Answer::Refused(ClientError::Closed { what: "too large" }),
            2 => {
                // Written, but the broker says that it does not know whether everyone has it.
                match self.broker.append(number, count, stamp) {
                    Said::Yes => retry(true),
                    Said::OutOfOrder => Answer::OutOfSequence,
                    Said::Fenced => Answer::IdentityLost,
                }
            }
            _ => match self.broker.append(number, count, stamp) {
                Said::Yes => acknowledged(),
                Said::OutOfOrder => Answer::OutOfSequence,
                Said::Fenced => Answer::IdentityLost,
            },
        };
        // A refused batch must not be one that the broker already has from an earlier attempt.
        let answer = match answer {
            Answer::Refused(_) if self.broker.log.contains(&number) => acknowledged(),
            other => other,
        };
        let settled = self.lane.answered(token, answer, self.now);
        self.settle(settled);
    }

    /// The connection breaks: the broker may still take some of what is on it, but no answer comes.
    fn cut(&mut self) {
        let reached = self.random(7);
        for (i, (token, number, count, stamp)) in (0..).zip(std::mem::take(&mut self.wire)) {
            if i < reached {
                self.broker.append(number, count, stamp);
            }
            let maybe_written = i < reached || self.random(2) == 0;
            let settled = self.lane.answered(token, retry(maybe_written), self.now);
            self.settle(settled);
        }
        self.route += 1;
    }

    fn check(&self, seed: u64) {
        assert!(
            self.broker.log.is_sorted_by(|a, b| a < b),
            "seed {seed}: twice or out of order: {:?}",
            self.broker.log
        );
        for number in &self.acknowledged {
            assert!(
                self.broker.log.binary_search(number).is_ok(),
                "seed {seed}: {number} was acknowledged and is not there"
            );
        }
        for number in &self.recalled {
            assert!(
                self.broker.log.binary_search(number).is_err(),
                "seed {seed}: {number} was taken back and is there"
            );
        }
    }
}

#[test]
fn random_histories_never_duplicate_reorder_or_lose() {
    for seed in 0..3000 {
        let mut world = World {
            seed,
            lane: Lane::new(Some(identity(1)), 5, false),
            broker: Broker::default(),
            wire: VecDeque::new(),
            route: 1,
            next_number: 0,
            acknowledged: Vec::new(),
            given_up: Vec::new(),
            recalled: Vec::new(),
            now: Instant::now(),
        };
        for _ in 0..60 {
            world.pump(true);
            match world.random(10) {
                0 => world.cut(),
                1 if seed % 3 == 0 => {
                    let old = Instant::now() + Duration::from_secs(3600);
                    let expired = world.lane.expire(old, Duration::ZERO);
                    world.settle(expired);
                }
                1 if seed % 3 == 1 => {
                    let recalled = world.lane.recall(world.now);
                    world.recalled.extend(recalled.iter().map(|settled| settled.batch.reserved));
                    world.settle(recalled);
                }
                _ => world.deliver(true),
            }
            world.check(seed);
        }
        // Calm: everything comes to an end.
        for _ in 0..100 {
            world.pump(false);
            world.deliver(false);
        }
        world.check(seed);
        assert!(world.lane.is_idle(), "seed {seed}: {:?}", world.lane);
        assert_eq!(world.acknowledged.len() + world.given_up.len(), world.next_number, "seed {seed}");
    }
}
