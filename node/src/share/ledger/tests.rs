//! The coordinator asked directly, with a log of its own that keeps the last record of each key.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::share::Cause;

const TOPIC: Uuid = Uuid::from_u128(7);

fn key(group: &str, partition: i32) -> Key {
    Key { group: group.into(), topic: TOPIC, partition }
}

fn writer(leader_epoch: i32, sequence: u64) -> Writer {
    Writer { leader_epoch, sequence }
}

fn span(first: i64, last: i64, kept: Kept) -> Span {
    Span { first, last, kept }
}

/// A coordinator with its log.
struct Bench {
    ledgers: Ledgers,
    log: Vec<Record>,
    requests: u64,
}

impl Bench {
    fn new() -> Self {
        let mut ledgers = Ledgers::new(100);
        ledgers.loaded(|_| true);
        Self { ledgers, log: Vec::new(), requests: 0 }
    }

    /// The answer, when everything is durable.
    fn ask(&mut self, body: Request) -> Response {
        self.requests += 1;
        let request = RequestRef(self.requests);
        let mut effects = self.ledgers.request(request, body);
        let mut answer = None;
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Reply { request: of, response } if of == request => answer = Some(response),
                    Effect::Reply { .. } => panic!("nobody asked"),
                    Effect::Persist { id, records } => {
                        assert_eq!(answer, None, "not before it is durable");
                        self.log.extend(records);
                        next.extend(self.ledgers.persisted(id, Ok(())));
                    }
                }
            }
            effects = next;
        }
        answer.unwrap()
    }

    fn write(&mut self, sequence: u64, start: i64, spans: &[Span]) -> Response {
        self.ask(write(key("g", 0), writer(1, sequence), (0, false), start, spans))
    }

    fn read(&mut self, sequence: u64) -> Option<Found> {
        match self.ask(Request::Read { key: key("g", 0), writer: writer(1, sequence) }) {
            Response::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }

    /// Another coordinator over what compaction leaves of the log.
    fn restart(&mut self, compacted: usize) {
        let mut last: BTreeMap<Bytes, usize> = BTreeMap::new();
        for (at, record) in self.log.iter().take(compacted).enumerate() {
            last.insert(record.key.clone(), at);
        }
        let kept = |at: usize, record: &Record| at >= compacted || last.get(&record.key) == Some(&at);
        self.log = self.log.iter().enumerate().filter(|(at, r)| kept(*at, r)).map(|(_, r)| r.clone()).collect();
        self.ledgers = Ledgers::new(100);
        for record in &self.log {
            self.ledgers.replay(&record.key, record.value.as_deref()).unwrap();
        }
        assert_eq!(self.ledgers.loaded(|_| true), []);
    }
}

fn write(key: Key, writer: Writer, (state_epoch, initial): (i32, bool), start: i64, spans: &[Span]) -> Request {
    Request::Write { key, writer, state_epoch, initial, start, spans: spans.to_vec() }
}

fn begun() -> Bench {
    let mut bench = Bench::new();
    assert_eq!(bench.read(1), None);
    assert_eq!(bench.ask(write(key("g", 0), writer(1, 2), (0, true), 10, &[])), Response::Done);
    bench
}

#[test]
fn what_is_written_is_found_and_the_start_moves() {
    let mut bench = begun();
    let available = Kept::Available { count: 1 };
    let spans = [span(12, 14, Kept::Acknowledged), span(15, 15, available)];
    assert_eq!(bench.write(3, 10, &spans), Response::Done);
    assert_eq!(bench.read(4), Some(Found { state_epoch: 0, start: 10, spans: spans.to_vec() }));
    assert_eq!(bench.write(5, 10, &[span(10, 11, Kept::Archived)]), Response::Done);
    assert_eq!(bench.read(6), Some(Found { state_epoch: 0, start: 15, spans: vec![span(15, 15, available)] }));
    assert_eq!(bench.write(7, 20, &[]), Response::Done, "retention took the rest");
    assert_eq!(bench.read(8).map(|found| (found.start, found.spans.len())), Some((20, 0)));
}

#[test]
fn leaders_of_yesterday_and_old_messages_are_refused() {
    let mut bench = begun();
    let read = |epoch, sequence| Request::Read { key: key("g", 0), writer: writer(epoch, sequence) };
    let put = |epoch, sequence| write(key("g", 0), writer(epoch, sequence), (0, false), 10, &[]);
    assert!(matches!(bench.ask(read(2, 1)), Response::Found(Some(_))));
    assert_eq!(bench.ask(put(1, 9)), Response::Refused(Refusal::FencedLeader));
    assert_eq!(bench.ask(read(1, 9)), Response::Refused(Refusal::FencedLeader));
    assert_eq!(bench.ask(put(2, 5)), Response::Done);
    assert_eq!(bench.ask(put(2, 5)), Response::Done, "the same once more, since its answer was lost");
    assert_eq!(bench.ask(put(2, 4)), Response::Refused(Refusal::FencedLeader));
    assert_eq!(
        bench.ask(write(key("g", 1), writer(1, 1), (0, false), 0, &[])),
        Response::Refused(Refusal::FencedStateEpoch)
    );
}

#[test]
fn a_reset_and_a_deletion_fence_who_knows_the_state_of_before() {
    let mut bench = begun();
    bench.write(3, 10, &[span(12, 14, Kept::Acknowledged)]);
    let reset = Request::Reset { group: "g".into(), starts: vec![(TOPIC, 0, 5), (TOPIC, 3, 7)] };
    assert_eq!(bench.ask(reset), Response::Done);
    assert_eq!(bench.write(4, 10, &[]), Response::Refused(Refusal::FencedStateEpoch));
    assert_eq!(bench.read(5), Some(Found { state_epoch: 1, start: 5, spans: Vec::new() }));
    let Response::Described(lines) = bench.ask(Request::Describe { group: "g".into() }) else { panic!() };
    assert_eq!(lines.iter().map(|line| (line.partition, line.start)).collect::<Vec<_>>(), [(0, 5), (3, 7)]);
    bench.restart(usize::MAX);
    assert_eq!(bench.ask(Request::Delete { group: "g".into(), topics: Some(vec![TOPIC]) }), Response::Done);
    assert_eq!(bench.read(6), None);
    assert_eq!(bench.ask(Request::Describe { group: "g".into() }), Response::Described(Vec::new()));
    bench.restart(usize::MAX);
    assert_eq!(bench.ledgers.len(), 0);
}

#[test]
fn groups_are_kept_apart_and_bounded() {
    let mut bench = Bench::new();
    for n in 0..100 {
        let group = if n % 2 == 0 { "g" } else { "ga" };
        assert_eq!(bench.ask(write(key(group, n), writer(1, 1), (0, true), 0, &[])), Response::Done);
    }
    assert_eq!(bench.ask(write(key("g", 100), writer(1, 1), (0, true), 0, &[])), Response::Refused(Refusal::TooMany));
    assert_eq!(bench.ask(Request::Delete { group: "g".into(), topics: None }), Response::Done);
    let Response::Described(lines) = bench.ask(Request::Describe { group: "ga".into() }) else { panic!() };
    assert_eq!(lines.len(), 50);
}

#[test]
fn what_the_log_refuses_did_not_happen() {
    let mut bench = begun();
    let asked = RequestRef(90);
    let effects = bench.ledgers.request(asked, write(key("g", 0), writer(1, 3), (0, false), 50, &[]));
    let [Effect::Persist { id, .. }] = &effects[..] else { panic!("{effects:?}") };
    let reply = |request, response| Effect::Reply { request, response };
    let refusal = Response::Refused(Refusal::NotAvailable);
    assert_eq!(bench.ledgers.refused(*id), [reply(asked, refusal)]);
    assert_eq!(bench.ledgers.persisted(*id, Err(PersistError::NotAvailable)), []);
    assert_eq!(bench.read(4).map(|found| found.start), Some(10));
}

#[test]
fn answers_wait_for_writes_that_they_speak_of() {
    let mut bench = begun();
    let effects = bench.ledgers.request(RequestRef(90), write(key("g", 0), writer(1, 3), (0, false), 50, &[]));
    let [Effect::Persist { id, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(bench.ledgers.request(RequestRef(91), Request::Describe { group: "g".into() }), []);
    let effects = bench.ledgers.persisted(*id, Ok(()));
    let answered: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Reply { request, .. } => request.0,
            Effect::Persist { .. } => 0,
        })
        .collect();
    assert_eq!(answered, [90, 91]);
}

#[test]
fn who_waits_when_it_ends_is_sent_on() {
    let mut bench = begun();
    bench.ledgers.request(RequestRef(90), write(key("g", 0), writer(1, 3), (0, false), 50, &[]));
    bench.ledgers.request(RequestRef(91), Request::Describe { group: "g".into() });
    let refused = Response::Refused(Refusal::NotCoordinator);
    let ledgers = std::mem::replace(&mut bench.ledgers, Ledgers::new(1));
    let all = [90, 91].map(|n| Effect::Reply { request: RequestRef(n), response: refused.clone() });
    assert_eq!(ledgers.resign(), all);
    let early = bench.ledgers.request(RequestRef(1), Request::Describe { group: "g".into() });
    assert_eq!(early, [Effect::Reply { request: RequestRef(1), response: Response::Refused(Refusal::Loading) }]);
}

#[test]
fn a_topic_that_is_gone_is_forgotten() {
    let mut bench = begun();
    assert_eq!(bench.ledgers.topic_deleted(Uuid::from_u128(8)), []);
    assert_eq!(bench.ledgers.topic_deleted(TOPIC).len(), 1);
    assert_eq!(bench.ledgers.len(), 0);
    bench.restart(usize::MAX);
    assert_eq!(bench.ledgers.len(), 1, "the tombstone was lost");
    let mut ledgers = Ledgers::new(9);
    bench.log.iter().for_each(|record| ledgers.replay(&record.key, record.value.as_deref()).unwrap());
    assert_eq!(ledgers.loaded(|_| false).len(), 1);
    assert_eq!(ledgers.len(), 0);
}

/// Random changes, restarts, and compaction of random parts of the log: what is found is what was written, and the log has
/// few records per share-partition.
#[test]
fn random_changes_survive_restarts_and_compaction() {
    let mut seed = 3u64;
    let mut below = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let mut bench = begun();
    let mut model: BTreeMap<i64, Kept> = BTreeMap::new();
    let mut start = 10;
    let mut by_itself = 0;
    for sequence in 3..3_000 {
        let mut spans = Vec::new();
        for _ in 0..1 + below(3) {
            let first = start + below(400) as i64;
            let kept = match below(6) {
                0 | 1 => Kept::Acknowledged,
                2 => Kept::Archived,
                3 => Kept::Condemned { count: 2, cause: Cause::Rejected },
                n => Kept::Available { count: (n - 3) as u16 },
            };
            spans.push(span(first, first + below(3) as i64, kept));
        }
        if sequence % 50 == 0 {
            spans.push(span(start, start + 40, Kept::Archived));
        }
        assert_eq!(bench.write(sequence, start, &spans), Response::Done);
        by_itself += usize::from(bench.log.last().is_some_and(|r| decode_key(&r.key).is_ok_and(|(_, slot)| slot > 0)));
        for span in &spans {
            model.extend((span.first..=span.last).map(|at| (at, span.kept)));
        }
        while model.get(&start).is_some_and(|kept| kept.is_final()) {
            start += 1;
        }
        model.retain(|at, _| *at >= start);
        if below(10) == 0 {
            let compacted = below(bench.log.len() as u64 + 1) as usize;
            bench.restart(compacted);
            let found = bench.read(sequence).unwrap();
            let mut all = BTreeMap::new();
            found.spans.iter().for_each(|s| all.extend((s.first..=s.last).map(|at| (at, s.kept))));
            assert_eq!((found.start, &all), (start, &model));
        }
    }
    assert!(by_itself > 500, "{by_itself}");
    bench.restart(usize::MAX);
    assert!(bench.log.len() <= usize::from(SHARE_UPDATES_PER_SNAPSHOT) + 1, "{}", bench.log.len());
}
