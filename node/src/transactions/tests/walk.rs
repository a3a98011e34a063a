//! A long random walk: producers that begin, write, end, ask again, die and come back as zombies; a log that refuses; markers
//! that come late; coordinators that are killed between a write and its confirmation; and what must hold all the while.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const STEPS: usize = 6_000;
const CLIENTS: usize = 6;
const PARTITIONS: i32 = 3;
const IDS: [&str; 2] = ["a", "b"];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// One transaction, as its producer means it.
type Label = usize;

/// One producer program.
#[derive(Debug, Clone, Default)]
struct Client {
    id: usize,
    version: TransactionVersion,
    identity: Option<(i64, i16)>,
    open: Option<Label>,
    /// It asked for this end and must ask again until it knows.
    ending: Option<bool>,
    waits: Option<RequestRef>,
}

#[derive(Debug)]
enum Asked {
    Init { client: usize },
    Add { client: usize, partition: i32, identity: (i64, i16) },
    End { client: usize, commit: bool, label: Option<Label>, identity: (i64, i16) },
}

/// What a partition's log knows.
#[derive(Debug, Default)]
struct Partition {
    /// By producer id: epoch and transaction.
    open: BTreeMap<i64, (i16, Label)>,
    epochs: BTreeMap<i64, i16>,
    /// The newest coordinator that it heard.
    coordinator: u32,
}

#[derive(Debug, Clone)]
struct Delivery {
    coordinator: u32,
    end: EndId,
    marker: EndMarker,
    partition: TopicPartition,
}

struct Walk {
    rng: Rng,
    world: World,
    clients: Vec<Client>,
    asked: BTreeMap<RequestRef, Asked>,
    partitions: Vec<Partition>,
    deliveries: Vec<Delivery>,
    coordinator: u32,
    labels: usize,
    /// What producers were told of their transactions.
    told: BTreeMap<Label, bool>,
    /// What partitions were told of them.
    marked: BTreeMap<Label, BTreeSet<bool>>,
    /// Every identity that was given, to whom, and the newest of each transactional id.
    given: BTreeMap<(i64, i16), usize>,
    newest: [(i64, i16); 2],
    /// What of the log was looked at, and what it says.
    read: usize,
    states: BTreeMap<Arc<str>, Transaction>,
    counts: BTreeMap<&'static str, usize>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::with(TransactionsConfig { max_pending_persists: 4, max_id_asks: 3, ..config() });
        let mut states = BTreeMap::new();
        // Epochs are used up soon.
        for (n, id) in IDS.iter().enumerate() {
            let mut value = Transaction::new(10 + n as i64, TIMEOUT_MS, WALL_MS);
            value.epoch = i16::MAX - 2 - i16::try_from(seed % 30).unwrap();
            world.log.push(record::record(id, Some(&value)));
            states.insert((*id).into(), value);
        }
        world.take_over();
        world.prompt = false;
        let client = |n: usize| Client {
            id: n % 2,
            version: if n < CLIENTS / 2 { TransactionVersion::V1 } else { TransactionVersion::V2 },
            ..Client::default()
        };
        Self {
            rng: Rng(seed),
            world,
            clients: (0..CLIENTS).map(client).collect(),
            asked: BTreeMap::new(),
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            deliveries: Vec::new(),
            coordinator: 1,
            labels: 0,
            told: BTreeMap::new(),
            marked: BTreeMap::new(),
            given: BTreeMap::new(),
            newest: [(0, 0); 2],
            read: 2,
            states,
            counts: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.rng.below(1_000) {
            0..560 => {
                let client = self.rng.below(CLIENTS);
                self.client_acts(client);
            }
            560..720 => drop(self.world.commit()),
            720..735 => self.append_fails(),
            735..880 => self.deliver(),
            880..930 => self.id_comes(),
            930..990 => {
                let ms = [1, 50, 1_000, 20_000][self.rng.below(4)];
                self.world.advance_ms(ms);
            }
            990..994 => self.client_dies(),
            _ => self.coordinator_dies(),
        }
        self.collect();
        self.check_log();
    }

    fn client_acts(&mut self, n: usize) {
        let client = self.clients[n].clone();
        if client.waits.is_some() {
            // Rarely it gives up waiting and asks again; the first request goes on.
            if self.rng.chance(97) {
                return;
            }
        }
        let Some(identity) = client.identity else {
            // Whoever begins fences another one: that must not be all that happens.
            if self.rng.chance(4) {
                self.init(n, None);
            }
            return;
        };
        let may_end = client.open.is_some() || client.version == TransactionVersion::V2;
        match (client.ending, self.rng.below(100)) {
            (Some(commit), 0..90) => self.end(n, identity, commit),
            (_, 0..50) => {
                let partition = i32::try_from(self.rng.below(PARTITIONS as usize)).unwrap();
                let mut body = add(identity, partition, client.version);
                if let Request::Add(body) = &mut body {
                    body.producer.transactional_id = IDS[client.id].into();
                }
                self.ask(n, Asked::Add { client: n, partition, identity }, body);
            }
            (None, 50..95) if may_end => {
                let commit = client.open.is_some() && self.rng.chance(60);
                self.clients[n].ending = Some(commit);
                self.end(n, identity, commit);
            }
            (_, 95..99) => self.init(n, Some(identity)),
            (_, 99) if self.rng.chance(20) => self.init(n, None),
            _ => {}
        }
    }

    fn init(&mut self, client: usize, expected: Option<(i64, i16)>) {
        let id = IDS[self.clients[client].id];
        self.ask(client, Asked::Init { client }, init(id, expected));
    }

    fn end(&mut self, client: usize, identity: (i64, i16), commit: bool) {
        let (label, version) = (self.clients[client].open, self.clients[client].version);
        let mut body = end(identity, commit, version);
        if let Request::End(body) = &mut body {
            body.producer.transactional_id = IDS[self.clients[client].id].into();
        }
        self.ask(client, Asked::End { client, commit, label, identity }, body);
    }

    fn ask(&mut self, client: usize, asked: Asked, body: Request) {
        // Known before it is answered, for it may be answered at once.
        self.asked.insert(RequestRef(self.world.requests + 1), asked);
        let request = self.world.send(body);
        self.clients[client].waits = Some(request);
    }

    /// It loses everything it knew, or only its answers: then it is a zombie.
    fn client_dies(&mut self) {
        let n = self.rng.below(CLIENTS);
        let client = &mut self.clients[n];
        client.waits = None;
        if self.rng.chance(50) {
            *client = Client { id: client.id, version: client.version, ..Client::default() };
        }
    }

    fn append_fails(&mut self) {
        if !self.world.writes.is_empty() {
            self.world.refuse(PersistError::NotAvailable);
            self.count("refused");
        }
    }

    fn id_comes(&mut self) {
        if self.rng.chance(80) {
            self.world.give_id();
        } else if let Some(ask) = self.world.asks.pop_front() {
            self.world.step(Input::ProducerId { ask, id: None });
        }
    }

    fn coordinator_dies(&mut self) {
        if self.rng.chance(60) {
            return;
        }
        // What it appended is committed up to somewhere.
        let kept = self.rng.below(self.world.writes.len() + 1);
        let records: Vec<Record> = self.world.writes.drain(..).take(kept).flat_map(|(_, records)| records).collect();
        self.world.log.extend(records);
        self.collect();
        self.world.take_over();
        self.coordinator += 1;
        self.count("take-over");
    }

    fn collect(&mut self) {
        for (end, marker, partitions) in std::mem::take(&mut self.world.ends) {
            let coordinator = self.coordinator;
            let all = partitions.into_iter().map(|partition| Delivery { coordinator, end, marker, partition });
            self.deliveries.extend(all);
        }
        for (request, response) in std::mem::take(&mut self.world.replies) {
            let Some(asked) = self.asked.remove(&request) else { continue };
            let client = match &asked {
                Asked::Init { client } | Asked::Add { client, .. } | Asked::End { client, .. } => *client,
            };
            let waits = self.clients[client].waits == Some(request);
            if waits {
                self.clients[client].waits = None;
            }
            self.answered(client, asked, response, waits);
        }
    }

    /// `listens`: the client still waits for this answer. What must hold, does so whether it does or not.
    fn answered(&mut self, n: usize, asked: Asked, response: Response, listens: bool) {
        match (asked, response) {
            (Asked::Init { .. }, Response::Init(Ok(identity))) => {
                self.given_to(n, identity);
                if listens {
                    let client = &mut self.clients[n];
                    (client.identity, client.open, client.ending) = (Some(identity), None, None);
                }
            }
            (Asked::Add { partition, identity, .. }, Response::Add(Ok(strangers))) => {
                assert_eq!(strangers, []);
                self.not_fenced(n, identity, "added partitions");
                if listens && self.clients[n].identity == Some(identity) && self.clients[n].ending.is_none() {
                    self.write(n, partition, identity);
                }
            }
            (Asked::End { commit, label, identity, .. }, Response::End(Ok(next))) => {
                self.not_fenced_but_by_itself(n, identity, next);
                self.given_to(n, next);
                if let Some(label) = label {
                    let told = *self.told.entry(label).or_insert(commit);
                    assert_eq!(told, commit, "transaction {label} both committed and aborted");
                }
                if listens {
                    let client = &mut self.clients[n];
                    (client.identity, client.open, client.ending) = (Some(next), None, None);
                }
                self.count(if commit { "committed" } else { "aborted" });
            }
            (_, Response::Init(Err(error)) | Response::Add(Err(error)) | Response::End(Err(error))) if listens => {
                self.refused(n, error);
            }
            (_, Response::Init(Err(_)) | Response::Add(Err(_)) | Response::End(Err(_))) => {}
            (asked, response) => panic!("{asked:?}: {response:?}"),
        }
    }

    fn refused(&mut self, n: usize, error: TransactionError) {
        use TransactionError::*;
        match error {
            ConcurrentTransactions | CoordinatorNotAvailable | CoordinatorLoadInProgress | NotCoordinator => {}
            ProducerFenced | InvalidProducerIdMapping | InvalidTxnState => {
                self.count("fenced");
                let client = &mut self.clients[n];
                *client = Client { id: client.id, version: client.version, ..Client::default() };
            }
            InvalidRequest | InvalidTransactionTimeout | TransactionalIdNotFound | TransactionAbortable => {
                panic!("{error:?}")
            }
        }
    }

    /// An identity belongs to one producer, and is the newest of its transactional id.
    fn given_to(&mut self, n: usize, identity: (i64, i16)) {
        assert!(identity.1 < i16::MAX, "the last epoch is for fencing: {identity:?}");
        let id = self.clients[n].id;
        let owner = *self.given.entry(identity).or_insert(n);
        assert_eq!(owner, n, "{identity:?} was given to two producers");
        assert!(identity >= self.newest[id], "{identity:?} was given after {:?}", self.newest[id]);
        if identity.0 > self.newest[id].0 && self.newest[id].0 != 0 {
            self.count("new id");
        }
        self.newest[id] = identity;
    }

    fn not_fenced(&self, n: usize, identity: (i64, i16), what: &str) {
        let newest = self.newest[self.clients[n].id];
        assert!(identity >= newest, "{identity:?} {what} though {newest:?} had come");
    }

    /// Who ends a transaction once more, gets what it got then.
    fn not_fenced_but_by_itself(&self, n: usize, identity: (i64, i16), next: (i64, i16)) {
        let newest = self.newest[self.clients[n].id];
        assert!(identity >= newest || next >= newest, "{identity:?} ended a transaction though {newest:?} had come");
    }

    /// As a partition does it: it asks the coordinator first (KIP-890), and takes nothing of an earlier epoch.
    fn write(&mut self, n: usize, partition: i32, identity: (i64, i16)) {
        let mut body = verify(identity, partition);
        if let Request::Verify(body) = &mut body {
            body.producer.transactional_id = IDS[self.clients[n].id].into();
        }
        let before = std::mem::take(&mut self.world.replies);
        let answer = self.world.ask(body);
        self.world.replies = before;
        if answer != Response::Add(Ok(Vec::new())) {
            return;
        }
        let label = *self.clients[n].open.get_or_insert_with(|| {
            self.labels += 1;
            self.labels
        });
        let log = &mut self.partitions[usize::try_from(partition).unwrap()];
        let epoch = log.epochs.entry(identity.0).or_insert(identity.1);
        if *epoch > identity.1 {
            return;
        }
        *epoch = identity.1;
        let found = log.open.entry(identity.0).or_insert((identity.1, label));
        assert_eq!(*found, (identity.1, label), "another transaction of {identity:?} is still open here");
        self.count("written");
    }

    /// Any partition's oldest message comes.
    fn deliver(&mut self) {
        let partition = ("t".into(), i32::try_from(self.rng.below(PARTITIONS as usize)).unwrap());
        let Some(at) = self.deliveries.iter().position(|delivery| delivery.partition == partition) else { return };
        let Delivery { coordinator, end, marker, .. } = self.deliveries.remove(at);
        let log = &mut self.partitions[usize::try_from(partition.1).unwrap()];
        if coordinator < log.coordinator {
            return;
        }
        log.coordinator = coordinator;
        let epoch = log.epochs.entry(marker.producer_id).or_insert(marker.producer_epoch);
        if marker.producer_epoch >= *epoch {
            *epoch = marker.producer_epoch;
            if let Some((_, label)) = log.open.remove(&marker.producer_id) {
                let marked = self.marked.entry(label).or_default();
                marked.insert(marker.commit);
                assert_eq!(marked.len(), 1, "transaction {label} both committed and aborted");
            }
        }
        if coordinator == self.coordinator {
            self.world.step(Input::MarkersWritten { end, partitions: vec![partition] });
        }
    }

    /// In the log a decided end is followed by its completion, and by nothing else.
    fn check_log(&mut self) {
        for written in &self.world.log[self.read..] {
            let id = record::decode_key(&written.key).unwrap();
            let next = record::decode(written.value.as_ref().unwrap()).unwrap();
            let before = &self.states[&id];
            let allowed = match before.state {
                StateName::PrepareCommit => next.state == StateName::CompleteCommit,
                StateName::PrepareAbort => next.state == StateName::CompleteAbort,
                StateName::Empty | StateName::Ongoing | StateName::CompleteCommit | StateName::CompleteAbort => {
                    !next.state.is_over()
                }
            };
            // Who refuses for good writes once more what it knows.
            let allowed = allowed || next == *before;
            assert!(allowed, "{before:?} was followed by {next:?}");
            let goes_forward = (next.producer_id, next.epoch) >= (before.producer_id, before.epoch);
            assert!(goes_forward, "{before:?} was followed by {next:?}");
            self.states.insert(id, next);
        }
        self.read = self.world.log.len();
        // What the coordinator holds is what its log says.
        for id in IDS {
            let live = self.world.coordinator.entries[id].current.clone().unwrap();
            let live = Transaction { last_epoch: NO_PRODUCER_EPOCH, ..live };
            assert_eq!(live, self.states[id], "what is replayed is what was");
        }
    }

    /// Faults stop: everything comes to an end.
    fn finish(&mut self) {
        for client in &mut self.clients {
            client.waits = None;
        }
        for _ in 0..1_000 {
            while self.world.commit() || self.world.give_id() {}
            self.collect();
            for _ in 0..20 {
                self.deliver();
            }
            self.world.advance_ms(TIMEOUT_MS as u64 / 50);
        }
        assert!(self.deliveries.is_empty() && self.world.writes.is_empty() && self.asked.is_empty());
        for id in IDS {
            let state = self.world.coordinator.entries[id].state().unwrap();
            assert!(state.is_over() || state == StateName::Empty, "{id} is left {state}");
        }
        for partition in &self.partitions {
            assert_eq!(partition.open, BTreeMap::new(), "a transaction hangs");
        }
        for (label, told) in &self.told {
            let marked = self.marked.get(label).map(|marked| marked.iter().copied().collect::<Vec<_>>());
            assert!(marked.is_none_or(|marked| marked == [*told]), "transaction {label}: told {told}, not so marked");
        }
    }
}

#[test]
fn whatever_happens_a_transaction_ends_in_one_way() {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 0..40 {
        let mut walk = Walk::new(seed);
        for _ in 0..STEPS / 6 {
            walk.step();
        }
        walk.finish();
        for (what, count) in walk.counts {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["written", "committed", "aborted", "fenced", "refused", "take-over", "new id"] {
        assert!(counts.get(what).is_some_and(|count| *count > 20), "the walk went nowhere: {counts:?}");
    }
}

#[test]
fn a_long_walk() {
    let mut walk = Walk::new(4_711);
    for _ in 0..STEPS {
        walk.step();
    }
    walk.finish();
}
