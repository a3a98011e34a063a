//! The coordinator driven by hand: a log that may be slow or refuse, and partitions that are told when the test says so.

mod ends;
mod epochs;
mod lists;
mod times;
mod walk;

use std::collections::{BTreeMap, VecDeque};

use super::types::*;
use super::*;

const WALL_MS: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 60_000;

/// What a test sees of a coordinator.
struct World {
    coordinator: Transactions,
    config: TransactionsConfig,
    now: Now,
    /// What is committed.
    log: Vec<Record>,
    /// Writes that are not.
    writes: VecDeque<(PersistId, Vec<Record>)>,
    asks: VecDeque<IdAsk>,
    ends: Vec<(EndId, EndMarker, Vec<TopicPartition>)>,
    replies: BTreeMap<RequestRef, Response>,
    requests: u64,
    next_id: i64,
    /// Writes are committed, ids come and partitions are told at once.
    prompt: bool,
}

fn config() -> TransactionsConfig {
    TransactionsConfig::default()
}

impl World {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: TransactionsConfig) -> Self {
        let mut world = Self {
            coordinator: Transactions::new(config.clone()),
            config,
            now: Now { monotonic_ns: 1_000_000_000, wall_ms: WALL_MS },
            log: Vec::new(),
            writes: VecDeque::new(),
            asks: VecDeque::new(),
            ends: Vec::new(),
            replies: BTreeMap::new(),
            requests: 0,
            next_id: 1_000,
            prompt: true,
        };
        let effects = world.coordinator.loaded(world.now);
        world.take(effects);
        world
    }

    fn take(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Reply { request, response } => {
                    assert!(self.replies.insert(request, response).is_none(), "one answer each");
                }
                Effect::Persist { id, records } => {
                    assert!(!records.is_empty());
                    self.writes.push_back((id, records));
                }
                Effect::ProducerId { ask } => self.asks.push_back(ask),
                Effect::WriteMarkers { end, marker, partitions } => {
                    assert!(!partitions.is_empty());
                    self.ends.push((end, marker, partitions));
                }
            }
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.coordinator.step(self.now, input);
        self.take(effects);
        while self.prompt && (self.give_id() || self.commit() || self.tell(0)) {}
    }

    fn give_id(&mut self) -> bool {
        let Some(ask) = self.asks.pop_front() else { return false };
        self.next_id += 1;
        self.step(Input::ProducerId { ask, id: Some(self.next_id) });
        true
    }

    /// The oldest write is committed.
    fn commit(&mut self) -> bool {
        let Some((id, records)) = self.writes.pop_front() else { return false };
        self.log.extend(records);
        self.step(Input::Persisted { id, result: Ok(()) });
        true
    }

    /// The oldest write was not appended.
    fn refuse(&mut self, error: PersistError) {
        let (id, _) = self.writes.pop_front().expect("a write");
        self.step(Input::Persisted { id, result: Err(error) });
    }

    /// The partitions of an end are told.
    fn tell(&mut self, at: usize) -> bool {
        if at >= self.ends.len() {
            return false;
        }
        let (end, _, partitions) = self.ends.remove(at);
        self.step(Input::MarkersWritten { end, partitions });
        true
    }

    fn send(&mut self, body: Request) -> RequestRef {
        self.requests += 1;
        let request = RequestRef(self.requests);
        self.step(Input::Request { request, body });
        request
    }

    #[track_caller]
    fn ask(&mut self, body: Request) -> Response {
        let request = self.send(body);
        self.replies.remove(&request).expect("an answer")
    }

    /// A transaction of one partition whose commit is written, and not yet told. Nothing happens by itself from here on.
    fn committing(&mut self) -> (i64, i16) {
        let first = self.init(None).unwrap();
        self.add(first, 0, TransactionVersion::V1).unwrap();
        self.prompt = false;
        self.send(end(first, true, TransactionVersion::V1));
        self.commit();
        first
    }

    fn advance_ms(&mut self, ms: u64) {
        self.now.monotonic_ns += ms * 1_000_000;
        self.now.wall_ms += i64::try_from(ms).unwrap();
        if self.coordinator.next_deadline().is_some_and(|at| at <= self.now.monotonic_ns) {
            self.step(Input::Tick);
        }
    }

    /// Another coordinator takes over, with what is committed.
    fn take_over(&mut self) {
        let before = std::mem::replace(&mut self.coordinator, Transactions::new(self.config.clone()));
        let effects = before.resign();
        self.ends.clear();
        self.asks.clear();
        self.writes.clear();
        for effect in effects {
            assert!(matches!(effect, Effect::Reply { .. }), "{effect:?}");
            self.take(vec![effect]);
        }
        for record in &self.log {
            self.coordinator.replay(&record.key, record.value.as_deref()).unwrap();
        }
        let effects = self.coordinator.loaded(self.now);
        self.take(effects);
        while self.prompt && (self.give_id() || self.commit() || self.tell(0)) {}
    }

    #[track_caller]
    fn init(&mut self, expected: Option<(i64, i16)>) -> Result<(i64, i16), TransactionError> {
        match self.ask(init("id", expected)) {
            Response::Init(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn add(
        &mut self,
        producer: (i64, i16),
        partition: i32,
        version: TransactionVersion,
    ) -> Result<(), TransactionError> {
        match self.ask(add(producer, partition, version)) {
            Response::Add(result) => result.map(|strangers| assert_eq!(strangers, [])),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn end(
        &mut self,
        producer: (i64, i16),
        commit: bool,
        version: TransactionVersion,
    ) -> Result<(i64, i16), TransactionError> {
        match self.ask(end(producer, commit, version)) {
            Response::End(result) => result,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn described(&self) -> Description {
        self.coordinator.describe("id").unwrap()
    }

    #[track_caller]
    fn state(&self) -> StateName {
        self.described().state
    }
}

fn producer((producer_id, producer_epoch): (i64, i16)) -> Producer {
    Producer { transactional_id: "id".into(), producer_id, producer_epoch }
}

fn init(id: &str, expected: Option<(i64, i16)>) -> Request {
    Request::Init(InitRequest { transactional_id: id.into(), timeout_ms: TIMEOUT_MS, expected })
}

fn add(from: (i64, i16), partition: i32, version: TransactionVersion) -> Request {
    Request::Add(AddRequest { producer: producer(from), partitions: vec![("t".into(), partition)], version })
}

fn verify(from: (i64, i16), partition: i32) -> Request {
    Request::Verify(VerifyRequest { producer: producer(from), partitions: vec![("t".into(), partition)] })
}

fn end(from: (i64, i16), commit: bool, version: TransactionVersion) -> Request {
    Request::End(EndRequest { producer: producer(from), commit, version })
}
