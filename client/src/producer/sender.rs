//! The sender: one task per producer that moves batches from accumulators through lanes into requests, and answers back.
//!
//! It owns lanes and connections alone, so it needs no lock for them; what it decides is decided in [`super::lane`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use tokio::sync::watch;
use tokio::time::Instant;

use super::accumulator::{Partition, TakeRule, Taken};
use super::batch::OpenBatch;
use super::brokers::{Access, Brokers, Item, Sent};
use super::compressible::Compressible;
use super::frame::Part;
use super::lane::{Answer, Identity, Lane, Next, Settled};
use super::receipt::Outcome;
use super::shared::{Shared, Transactions};
use super::{identity, verdict};
use crate::cluster::Metadata;
use crate::config::{Acks, Codec};
use crate::error::{ClientError, Result};
use crate::net::{Address, Connection, NetError, codec};
use crate::record::TopicPartition;
use crate::retry;

/// Runs until the producer is closed and everything is settled; says so through `ended`.
pub(super) async fn run(shared: Arc<Shared>, ended: watch::Sender<bool>) {
    Box::pin(Sender::new(shared).run()).await;
    ended.send_replace(true);
}

enum Event {
    Connected {
        broker: i32,
        connection: Result<Arc<Connection>, NetError>,
    },
    Answered {
        broker: i32,
        version: i16,
        items: Vec<Item>,
        answer: Result<Bytes, NetError>,
    },
    Identified {
        lane: usize,
        identity: Result<Identity>,
    },
    /// Partitions of these lanes belong to the transaction, or can't.
    Added {
        lanes: Vec<usize>,
        result: Result<()>,
    },
}

pub(super) struct Slot {
    partition: Arc<Partition>,
    pub(super) lane: Lane,
    /// An identity is on its way.
    identifying: bool,
    /// Its partition is being added to the transaction.
    adding: bool,
}

pub(super) struct Sender {
    pub(super) shared: Arc<Shared>,
    metadata: watch::Receiver<Arc<Metadata>>,
    now_metadata: Arc<Metadata>,
    pub(super) lanes: HashMap<usize, Slot, foldhash::fast::RandomState>,
    brokers: Brokers,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// What is known of each topic that is produced to.
    compressible: HashMap<Arc<str>, Compressible, foldhash::fast::RandomState>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Lanes without a leader at the moment.
    leaderless: Vec<usize>,
    /// Lanes to look at in this round.
    attend: Vec<usize>,
    /// Lanes whose partitions are to be added to the transaction.
    to_add: Vec<usize>,
    next_sweep: Instant,
}

impl Sender {
    fn new(shared: Arc<Shared>) -> Self {
        let metadata = shared.cluster.watch_metadata();
        Self {
            now_metadata: shared.cluster.metadata(),
            metadata,
            shared,
            lanes: HashMap::default(),
            brokers: Brokers::default(),
            events: FuturesUnordered::new(),
            compressible: HashMap::default(),
            timers: BinaryHeap::new(),
            leaderless: Vec::new(),
            attend: Vec::new(),
            to_add: Vec::new(),
            next_sweep: Instant::now(),
        }
    }

    async fn run(mut self) {
        while !self.is_finished() {
            let wake = self.timers.peek().map_or(self.next_sweep, |Reverse((at, _))| (*at).min(self.next_sweep));
            tokio::select! {
                Some(event) = self.events.next() => self.on_event(event),
                () = self.shared.ready.woken() => {}
                () = tokio::time::sleep_until(wake) => {}
                // The cluster outlives the sender, so the watch does as well.
                _ = self.metadata.changed() => self.on_metadata(),
            }
            while let Some(Some(event)) = futures::FutureExt::now_or_never(self.events.next()) {
                self.on_event(event);
            }
            self.round();
        }
    }

    /// Closed, and nothing left to deliver.
    fn is_finished(&self) -> bool {
        if !self.shared.is_closing() {
            return false;
        }
        self.lanes.values().all(|slot| slot.lane.is_idle())
            && self.shared.partitions().iter().all(|p| p.close_if_empty())
    }

    /// Looks at every lane that asks for it, and hands the requests over that come of it.
    fn round(&mut self) {
        let now = Instant::now();
        for partition in self.shared.ready.drain() {
            self.attend.push(partition.lane);
            self.adopt(partition);
        }
        while let Some(Reverse((at, lane))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            self.attend.push(lane);
        }
        if now >= self.next_sweep {
            self.sweep(now);
        }
        self.recall(now);
        let mut attend = std::mem::take(&mut self.attend);
        attend.sort_unstable();
        attend.dedup();
        for lane in attend {
            self.attend_lane(lane, now);
        }
        self.add_partitions();
        self.hand_over_all();
    }

    fn adopt(&mut self, partition: Arc<Partition>) {
        let identity = self.shared.identity();
        let max = self.shared.config.max_in_flight_batches;
        self.lanes.entry(partition.lane).or_insert_with(|| Slot {
            partition,
            lane: Lane::new(identity, max, self.shared.transactions.is_some()),
            identifying: false,
            adding: false,
        });
    }

    /// Sends what can be sent of one partition now; where it stops, something is arranged that brings the lane back.
    fn attend_lane(&mut self, index: usize, now: Instant) {
        if !self.may_send(index, now) {
            return;
        }
        let metadata = self.now_metadata.clone();
        let Some(slot) = self.lanes.get_mut(&index) else { return };
        let partition = slot.partition.clone();
        let Some(leader) = metadata.leader(&partition.topic, partition.index) else {
            self.leaderless.push(index);
            self.shared.cluster.refresh_metadata();
            return;
        };
        loop {
            let broker = self.brokers.at(leader.id, &leader.address);
            let route = match broker.access(now) {
                Access::Open { route } => route,
                Access::Wait => return broker.waiting.push(index),
                Access::NotBefore(at) => return self.timers.push(Reverse((at, index))),
                Access::Connect => {
                    broker.waiting.push(index);
                    let address = broker.address.clone();
                    return self.connect(leader.id, address);
                }
            };
            let Some(slot) = self.lanes.get_mut(&index) else { return };
            match slot.lane.next(now, route) {
                Next::Send { token, batch, stamp } => {
                    let at = TopicPartition { topic: partition.topic.clone(), partition: partition.index };
                    let (header, body) = batch.parts(stamp);
                    let (topic, asks) = (partition.topic.clone(), batch.asks);
                    let part = Part { topic, partition: partition.index, header, body, asks };
                    let item = Item { lane: index, token, at };
                    let sent = broker.add(leader.id, &self.shared, part, item);
                    self.await_answer(sent);
                }
                Next::NotBefore(at) => return self.timers.push(Reverse((at, index))),
                Next::Blocked => return,
                Next::NeedsIdentity => return self.identify(index),
                Next::Room => match self.take(index, &partition, now) {
                    Some(true) => {}
                    Some(false) | None => return,
                },
            }
        }
    }

    /// Moves the partition's next batch into its lane; `None` or false where there is none to move.
    fn take(&mut self, index: usize, partition: &Partition, now: Instant) -> Option<bool> {
        let slot = self.lanes.get_mut(&index)?;
        let config = &self.shared.config;
        let flushing = self.shared.flushing.load(Ordering::Acquire) > 0 || self.shared.is_closing();
        let rule = TakeRule { now, idle: slot.lane.is_idle(), linger: config.linger, flushing };
        match partition.take(rule) {
            Taken::Batch(open) => {
                self.seal(index, open);
                Some(true)
            }
            Taken::NotBefore(at) => {
                self.timers.push(Reverse((at, index)));
                Some(false)
            }
            Taken::Nothing => Some(false),
        }
    }

    fn seal(&mut self, index: usize, mut open: OpenBatch) {
        let (receipt, reserved, raw) = (open.receipt.clone(), open.reserved(), open.len());
        let config = &self.shared.config;
        let topic = self.lanes.get(&index).map(|slot| slot.partition.topic.clone());
        let known = topic.filter(|_| config.adaptive_compression && config.codec != Codec::None);
        let mut known = known.map(|topic| self.compressible.entry(topic).or_default());
        let compress = known.as_mut().map_or(config.codec != Codec::None, |known| known.next());
        if !compress {
            open.leave_as_it_is();
        }
        match open.seal() {
            Ok(sealed) => {
                let records = u64::try_from(sealed.count()).unwrap_or_default();
                config.stats.sealed(records, raw, sealed.len(), compress);
                if let Some(known) = known.filter(|_| compress) {
                    known.learn(raw, sealed.len());
                }
                if let Some(slot) = self.lanes.get_mut(&index) {
                    slot.lane.add(sealed);
                }
            }
            Err(cause) => {
                self.shared.memory.give_back(reserved);
                receipt.settle(Outcome::Failed(ClientError::config(format!("compression failed: {cause}"))));
            }
        }
    }

    fn connect(&mut self, broker: i32, address: Address) {
        let cluster = self.shared.cluster.clone();
        self.events.push(Box::pin(async move {
            let opened = Connection::open(&cluster.config, &address.host, address.port).await;
            Event::Connected { broker, connection: opened.map(Arc::new) }
        }));
    }

    fn identify(&mut self, index: usize) {
        let Some(slot) = self.lanes.get_mut(&index) else { return };
        if std::mem::replace(&mut slot.identifying, true) {
            return;
        }
        let cluster = self.shared.cluster.clone();
        let wanted = async move { Event::Identified { lane: index, identity: identity::new(&cluster).await } };
        self.events.push(Box::pin(wanted));
    }

    fn hand_over_all(&mut self) {
        let shared = &self.shared;
        let sent: Vec<_> = self.brokers.by_id.iter_mut().filter_map(|(id, b)| b.hand_over(*id, shared)).collect();
        for sent in sent {
            self.await_answer(Some(sent));
        }
    }

    fn await_answer(&mut self, sent: Option<Sent>) {
        let Some(Sent { broker, version, items, reply }) = sent else { return };
        self.events.push(Box::pin(async move {
            let answer = match reply {
                Ok(reply) => reply.await.unwrap_or_else(|_| Err(NetError::lost("the connection's task ended"))),
                Err(error) => Err(error),
            };
            Event::Answered { broker, version, items, answer }
        }));
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { broker, connection } => self.on_connected(broker, connection),
            Event::Answered { broker, version, items, answer } => self.on_answer(broker, version, items, answer),
            Event::Identified { lane, identity } => self.on_identity(lane, identity),
            Event::Added { lanes, result } => self.on_added(lanes, result),
        }
    }

    fn on_connected(&mut self, id: i32, connection: Result<Arc<Connection>, NetError>) {
        let config = &self.shared.cluster.config;
        let Some(broker) = self.brokers.by_id.get_mut(&id) else { return };
        match connection {
            Ok(connection) => broker.connected(connection),
            Err(error) => {
                tracing::debug!(broker = id, %error, "produce connection failed");
                broker.failed(Instant::now() + retry::pause_after(config, broker.failures + 1));
                self.shared.cluster.refresh_metadata();
            }
        }
        self.attend.append(&mut broker.waiting);
    }

    fn on_answer(&mut self, id: i32, version: i16, items: Vec<Item>, answer: Result<Bytes, NetError>) {
        if let Some(broker) = self.brokers.by_id.get_mut(&id) {
            broker.answered();
            self.attend.append(&mut broker.waiting);
        }
        let answer = answer.and_then(|frame| self.decode(version, frame));
        match &answer {
            Ok(Some(answer)) => self.settle_answers(items, answer),
            Ok(None) => {
                let unheard = Answer::Acknowledged { base_offset: -1, append_time_ms: -1 };
                self.settle_all(items, &unheard);
            }
            Err(error) => {
                self.shared.cluster.refresh_metadata();
                self.settle_all(items, &verdict::of_failure(error));
            }
        }
    }

    /// `None` where the broker was told not to answer.
    fn decode(&self, version: i16, frame: Bytes) -> Result<Option<ProduceResponse>, NetError> {
        match self.shared.config.acks {
            Acks::None => Ok(None),
            Acks::Leader | Acks::All => codec::decode::<ProduceRequest>(frame, version).map(Some),
        }
    }

    fn settle_answers(&mut self, items: Vec<Item>, answer: &ProduceResponse) {
        let by_place = verdict::index(answer);
        let missing = Answer::Retry { cause: "the broker left it out of its answer".into(), maybe_written: true };
        for item in items {
            let found = by_place.get(&(&*item.at.topic, item.at.partition));
            let (verdict, elsewhere) = found.map_or((missing.clone(), false), |p| verdict::of_partition(&item.at, p));
            if elsewhere {
                self.shared.cluster.refresh_metadata();
            }
            self.settle(&item, verdict);
        }
    }

    fn settle_all(&mut self, items: Vec<Item>, answer: &Answer) {
        for item in items {
            self.settle(&item, answer.clone());
        }
    }

    fn settle(&mut self, item: &Item, answer: Answer) {
        let answer = self.in_transaction(&item.at, answer);
        let Some(slot) = self.lanes.get_mut(&item.lane) else { return };
        let failures = slot.lane.failures() + 1;
        let resend_at = match &answer {
            Answer::Retry { .. } | Answer::IdentityLost | Answer::OutOfSequence => {
                self.shared.config.stats.retries.add(1);
                Instant::now() + retry::pause_after(&self.shared.cluster.config, failures)
            }
            Answer::Acknowledged { .. } | Answer::Refused(_) | Answer::TooLarge(_) | Answer::Duplicates(_) => {
                Instant::now()
            }
        };
        let settled = slot.lane.answered(item.token, answer, resend_at);
        self.attend.push(item.lane);
        self.finish(settled);
    }

    /// Receipts out, memory back.
    pub(super) fn finish(&self, settled: impl IntoIterator<Item = Settled>) {
        for Settled { batch, outcome } in settled {
            match outcome {
                // The rest has its own share.
                Outcome::Delivered { .. } | Outcome::Parted { .. } => self.shared.memory.give_back(batch.reserved),
                Outcome::Failed(ref error) => {
                    self.shared.memory.give_back(batch.reserved);
                    self.not_delivered(error);
                }
                // Its halves have it.
                Outcome::Split { .. } => {}
            }
            batch.receipt.settle(outcome);
        }
    }

    fn on_identity(&mut self, index: usize, identity: Result<Identity>) {
        let Some(slot) = self.lanes.get_mut(&index) else { return };
        slot.identifying = false;
        match identity {
            Ok(identity) => slot.lane.identify(identity),
            Err(error) => tracing::debug!(%error, "no new producer id yet"),
        }
        self.attend.push(index);
    }

    fn on_metadata(&mut self) {
        self.now_metadata = self.metadata.borrow_and_update().clone();
        for name in self.shared.topic_names() {
            if let Some(meta) = self.now_metadata.topic(&name) {
                self.shared.learn(meta);
            }
        }
        self.attend.append(&mut self.leaderless);
        for broker in self.brokers.by_id.values_mut() {
            self.attend.append(&mut broker.waiting);
        }
    }

    /// Gives up what is too old, wherever it waits.
    fn sweep(&mut self, now: Instant) {
        let timeout = self.shared.config.delivery_timeout;
        self.next_sweep = now + (timeout / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        self.attend.append(&mut self.leaderless);
        let Some(opened) = now.checked_sub(timeout) else { return };
        let mut settled = Vec::new();
        for slot in self.lanes.values_mut() {
            settled.extend(slot.lane.expire(opened, timeout));
        }
        self.finish(settled);
        for partition in self.shared.partitions() {
            for batch in partition.take_older(opened) {
                let error = never_sent(&batch, timeout);
                self.drop_open(&batch, error);
            }
        }
    }
}

/// What is different in a transaction.
impl Sender {
    /// Whether batches of this lane may be sent now. In a transaction its partition must belong to it; once that can only be
    /// aborted, what waits is given up.
    fn may_send(&mut self, index: usize, now: Instant) -> bool {
        let Some(Transactions { gate, .. }) = self.shared.transactions.clone() else { return true };
        let Some(slot) = self.lanes.get_mut(&index) else { return false };
        let identity = gate.identity();
        if slot.lane.identity() != Some(identity) {
            slot.lane.restart(identity);
        }
        if let Some(failure) = gate.failure() {
            self.give_up(index, now, &failure);
            return false;
        }
        if gate.is_added(index) {
            return true;
        }
        if slot.partition.has_records() && !std::mem::replace(&mut slot.adding, true) {
            self.to_add.push(index);
        }
        false
    }

    /// Settles everything of a lane that is not settled; what is in flight may still arrive.
    fn give_up(&mut self, index: usize, now: Instant, failure: &ClientError) {
        let Some(slot) = self.lanes.get_mut(&index) else { return };
        let all = now + Duration::from_secs(1);
        let settled = slot.lane.expire(all, Duration::ZERO);
        let open = slot.partition.take_older(all);
        self.finish(settled);
        for batch in open {
            self.drop_open(&batch, failure.clone());
        }
    }

    pub(super) fn drop_open(&self, batch: &OpenBatch, error: ClientError) {
        self.shared.memory.give_back(batch.reserved());
        self.not_delivered(&error);
        batch.receipt.settle(Outcome::Failed(error));
    }

    /// A transaction with such a record can't commit.
    fn not_delivered(&self, error: &ClientError) {
        if let Some(Transactions { gate, .. }) = &self.shared.transactions {
            gate.lost();
            gate.fail(error.clone());
        }
    }

    /// Has the coordinator add partitions, all that this round found.
    fn add_partitions(&mut self) {
        let Some(Transactions { gate, coordinator }) = self.shared.transactions.clone() else { return };
        if self.to_add.is_empty() || gate.is_adding() {
            return;
        }
        let lanes = std::mem::take(&mut self.to_add);
        let place =
            |partition: &Arc<Partition>| TopicPartition { topic: partition.topic.clone(), partition: partition.index };
        let places: Vec<_> =
            lanes.iter().filter_map(|lane| self.lanes.get(lane)).map(|slot| place(&slot.partition)).collect();
        gate.adding();
        let identity = gate.identity();
        self.events.push(Box::pin(async move {
            let result = coordinator.add(identity, &places).await;
            Event::Added { lanes, result }
        }));
    }

    fn on_added(&mut self, lanes: Vec<usize>, result: Result<()>) {
        for lane in &lanes {
            if let Some(slot) = self.lanes.get_mut(lane) {
                slot.adding = false;
            }
        }
        if let Some(Transactions { gate, .. }) = &self.shared.transactions {
            match result {
                Ok(()) => gate.added(&lanes),
                Err(error) => {
                    gate.fail(error);
                    gate.added(&[]);
                }
            }
        }
        self.attend.extend(lanes);
    }

    /// The coordinator alone gives out epochs: a lane can't help itself with another one.
    fn in_transaction(&self, at: &TopicPartition, answer: Answer) -> Answer {
        if self.shared.transactions.is_none() {
            return answer;
        }
        let refused = |name: &str| {
            let what = format!("produce to {at} in the transaction").into();
            Answer::Refused(ClientError::AbortOnly { what, cause: name.into() })
        };
        match answer {
            Answer::OutOfSequence => refused("the broker expects another sequence"),
            Answer::IdentityLost => refused("the broker no longer accepts this producer's epoch"),
            other @ (Answer::Acknowledged { .. }
            | Answer::Retry { .. }
            | Answer::Refused(_)
            | Answer::TooLarge(_)
            | Answer::Duplicates(_)) => other,
        }
    }
}

pub(super) fn never_sent(batch: &OpenBatch, waited: Duration) -> ClientError {
    let what = format!("deliver to {}", batch.receipt.place()).into();
    ClientError::Retry { what, cause: "it was never its turn to be sent".into(), waited }
}
