//! Offsets committed in transactions, over a log that keeps the order of everything.

use super::*;

const PRODUCER: i64 = 7;

/// What the log has, in its order.
#[derive(Debug, Clone)]
enum Logged {
    Records(Vec<Record>),
    Transactional(i64, Vec<Record>),
    End(i64, bool),
}

struct Log {
    groups: Groups,
    now: Now,
    log: Vec<Logged>,
    appends: Vec<(PersistId, Logged)>,
    replies: BTreeMap<RequestRef, Response>,
    requests: u64,
    prompt: bool,
}

fn started(log: &[Logged], now: Now) -> Groups {
    let mut groups = Groups::new(config(), 5).unwrap();
    for logged in log {
        match logged {
            Logged::Records(records) => {
                records.iter().for_each(|r| groups.replay(&r.key, r.value.as_deref()).unwrap());
            }
            Logged::Transactional(producer, records) => {
                let one = |r: &Record| groups.replay_transactional(*producer, &r.key, r.value.as_deref()).unwrap();
                records.iter().for_each(one);
            }
            Logged::End(producer, commit) => groups.end_transaction(*producer, *commit),
        }
    }
    assert_eq!(groups.loaded(now, |_| Some(Uuid::nil())), vec![]);
    groups
}

impl Log {
    fn new() -> Self {
        let now = Now { monotonic_ns: 1_000_000_000, wall_ms: 1_700_000_000_000 };
        let groups = started(&[], now);
        let (log, appends, replies) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { groups, now, log, appends, replies, requests: 0, prompt: true }
    }

    fn step(&mut self, input: Input) {
        for effect in self.groups.step(self.now, &TestCluster::default(), input) {
            match effect {
                Effect::Reply { request, response } => drop(self.replies.insert(request, response)),
                Effect::Persist { id, records } => self.appends.push((id, Logged::Records(records))),
                Effect::PersistTransactional { id, transaction, records } => {
                    self.appends.push((id, Logged::Transactional(transaction.producer_id, records)));
                }
            }
        }
        while self.prompt && !self.appends.is_empty() {
            self.append_done(Ok(()));
        }
    }

    fn append_done(&mut self, result: Result<(), PersistError>) {
        let (id, logged) = self.appends.remove(0);
        if result.is_ok() {
            self.log.push(logged);
        }
        self.step(Input::Persisted { id, result });
    }

    fn end(&mut self, producer_id: i64, commit: bool) {
        self.log.push(Logged::End(producer_id, commit));
        self.step(Input::TransactionEnded { producer_id, commit });
    }

    fn send(&mut self, body: Request) -> RequestRef {
        self.requests += 1;
        let request = RequestRef(self.requests);
        self.step(Input::Request { request, body });
        request
    }

    fn committed(&mut self, request: RequestRef) -> GroupError {
        match self.replies.remove(&request).unwrap() {
            Response::OffsetCommit(response) => response.topics[0].partitions[0].1,
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, producer: Option<i64>, offset: i64) -> GroupError {
        let request = self.send(commit(producer, offset));
        self.committed(request)
    }

    /// What OffsetFetch says: to everybody, and to those who want stable offsets.
    fn offset(&mut self) -> (i64, Result<i64, GroupError>) {
        let seen = |log: &mut Self, require_stable, all: bool| {
            let topics = (!all).then(|| vec![("t".into(), vec![0])]);
            let groups = vec![FetchGroup { group_id: GROUP.into(), member: None, topics }];
            let request = log.send(Request::OffsetFetch(OffsetFetchRequest { groups, require_stable }));
            match log.replies.remove(&request).unwrap() {
                Response::OffsetFetch(found) => found.groups[0].topics.first().map(|topic| topic.partitions[0].clone()),
                other => panic!("{other:?}"),
            }
        };
        let stable = seen(self, true, false).unwrap();
        let of_all = seen(self, true, true);
        if stable.offset >= 0 || stable.error != GroupError::None {
            assert_eq!(of_all, Some(stable.clone()), "the same for one and for all");
        }
        let error = Some(stable.error).filter(|error| *error != GroupError::None);
        (seen(self, false, false).unwrap().offset, error.map_or(Ok(stable.offset), Err))
    }

    /// The next coordinator sees the same.
    fn check_replay(&mut self) {
        let before = self.offset();
        let live = std::mem::replace(&mut self.groups, started(&self.log, self.now));
        assert_eq!(self.offset(), before, "{:?}", self.log);
        self.groups = live;
    }
}

fn commit(producer: Option<i64>, offset: i64) -> Request {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: -1, metadata: "".into(), refused: None };
    Request::OffsetCommit(OffsetCommitRequest {
        group_id: GROUP.into(),
        generation: -1,
        member_id: "".into(),
        instance_id: None,
        knows_consumer_groups: false,
        retention_ms: None,
        topics: vec![CommitTopic { name: "t".into(), topic_id: Uuid::nil(), partitions: vec![partition] }],
        transaction: producer.map(|producer_id| Transaction { producer_id, producer_epoch: 0 }),
    })
}

const UNSTABLE: Result<i64, GroupError> = Err(GroupError::UnstableOffsetCommit);

#[test]
fn what_is_committed_in_a_transaction_is_seen_when_it_commits() {
    let mut log = Log::new();
    assert_eq!(log.commit(None, 1), GroupError::None);
    assert_eq!(log.offset(), (1, Ok(1)));
    assert_eq!(log.commit(Some(PRODUCER), 5), GroupError::None);
    assert_eq!(log.offset(), (1, UNSTABLE));
    log.check_replay();
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (5, Ok(5)));
    log.check_replay();
    log.commit(Some(PRODUCER), 9);
    log.end(PRODUCER, false);
    assert_eq!(log.offset(), (5, Ok(5)), "it aborted");
    log.check_replay();
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (5, Ok(5)), "nothing was open");
    log.check_replay();
}

#[test]
fn a_group_may_begin_with_a_transaction() {
    for (commits, offset) in [(true, 5), (false, -1)] {
        let mut log = Log::new();
        log.commit(Some(PRODUCER), 5);
        assert_eq!(log.offset(), (-1, UNSTABLE));
        log.check_replay();
        log.end(PRODUCER, commits);
        assert_eq!(log.offset(), (offset, Ok(offset)));
        log.check_replay();
        assert_eq!(log.groups.stats().offsets, usize::from(commits), "nothing is left of what aborted");
    }
}

#[test]
fn several_producers_at_once() {
    let mut log = Log::new();
    log.commit(Some(1), 10);
    log.commit(Some(2), 20);
    log.end(2, true);
    assert_eq!(log.offset(), (20, UNSTABLE));
    log.check_replay();
    log.end(1, true);
    assert_eq!(log.offset(), (20, Ok(20)), "the log's order counts, not that of the ends");
    log.check_replay();
}

#[test]
fn what_was_committed_behind_it_stays() {
    let mut log = Log::new();
    log.commit(Some(PRODUCER), 5);
    log.commit(None, 6);
    assert_eq!(log.offset(), (6, UNSTABLE));
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (6, Ok(6)));
    log.check_replay();
}

#[test]
fn the_last_of_a_transaction_counts() {
    let mut log = Log::new();
    log.commit(Some(PRODUCER), 5);
    log.commit(Some(PRODUCER), 6);
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (6, Ok(6)));
    log.check_replay();
}

#[test]
fn a_write_on_its_way_makes_offsets_unstable_and_one_that_failed_does_not() {
    for (error, refused) in [
        (PersistError::NotAvailable, GroupError::CoordinatorNotAvailable),
        (PersistError::TooLarge, GroupError::InvalidCommitOffsetSize),
        (PersistError::Fenced, GroupError::InvalidProducerEpoch),
    ] {
        let mut log = Log::new();
        log.commit(None, 1);
        log.prompt = false;
        let request = log.send(commit(Some(PRODUCER), 5));
        assert_eq!(log.offset(), (1, UNSTABLE));
        log.append_done(Err(error));
        assert_eq!(log.committed(request), refused);
        assert_eq!(log.offset(), (1, Ok(1)));
        log.end(PRODUCER, true);
        assert_eq!(log.offset(), (1, Ok(1)));
        log.check_replay();
    }
}

/// Producers of the first kind keep their epoch: the next transaction's offsets may be on their way when the end of the last
/// one is reported.
#[test]
fn an_end_is_not_that_of_what_was_written_behind_it() {
    for commits in [true, false] {
        let mut log = Log::new();
        log.commit(Some(PRODUCER), 5);
        log.log.push(Logged::End(PRODUCER, commits));
        log.prompt = false;
        log.send(commit(Some(PRODUCER), 6));
        log.step(Input::TransactionEnded { producer_id: PRODUCER, commit: commits });
        let before = if commits { 5 } else { -1 };
        assert_eq!(log.offset(), (before, UNSTABLE));
        log.append_done(Ok(()));
        assert_eq!(log.offset(), (before, UNSTABLE));
        log.check_replay();
        log.end(PRODUCER, true);
        assert_eq!(log.offset(), (6, Ok(6)));
        log.check_replay();
    }
}

#[test]
fn a_deleted_group_takes_its_open_offsets_along() {
    let mut log = Log::new();
    log.commit(None, 1);
    log.commit(Some(PRODUCER), 5);
    let request = log.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
    let Some(Response::Delete(deleted)) = log.replies.remove(&request) else { panic!() };
    assert_eq!(deleted.results[0].1, GroupError::None);
    assert_eq!(log.offset(), (-1, Ok(-1)));
    log.check_replay();
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (-1, Ok(-1)), "it does not come back");
    log.check_replay();
}

#[test]
fn offsets_of_an_open_transaction_do_not_expire() {
    let mut log = Log::new();
    log.commit(None, 1);
    log.commit(Some(PRODUCER), 5);
    let retention_ms = config().offsets_retention_ms;
    log.now.monotonic_ns += 2 * retention_ms * 1_000_000;
    log.now.wall_ms += 2 * i64::try_from(retention_ms).unwrap();
    log.step(Input::Tick);
    assert_eq!(log.offset(), (1, UNSTABLE));
    log.end(PRODUCER, true);
    assert_eq!(log.offset(), (5, Ok(5)));
}

#[test]
fn whatever_the_order_the_next_coordinator_sees_the_same() {
    let mut state = 99u64;
    let mut next = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut log = Log::new();
    let mut offset = 0;
    for _ in 0..3_000 {
        offset += 1;
        match next(10) {
            0..2 => drop(log.commit(None, offset)),
            2..6 => drop(log.commit(Some(i64::try_from(next(3)).unwrap()), offset)),
            6..9 => log.end(i64::try_from(next(3)).unwrap(), next(2) == 0),
            _ => {
                let request = log.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
                log.replies.remove(&request);
            }
        }
        if next(20) == 0 {
            log.check_replay();
        }
    }
}
