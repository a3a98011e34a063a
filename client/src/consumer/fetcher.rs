//! The fetcher: one task per consumer that keeps every partition's queue filled, within the prefetch bound.
//!
//! At most one fetch per leader is in flight. It decides nothing about positions: [`super::partitions`] does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use tokio::time::Instant;

use super::decode;
use super::locate::{self, Beginning, Located};
use super::partitions::{Place, Reading};
use super::shared::Shared;
use crate::cluster::codes;
use crate::config::{Isolation, OffsetReset};
use crate::error::ClientError;
use crate::limits;
use crate::net::{Address, Link, NetError};
use crate::record::TopicPartition;
use crate::retry;
use crate::text::{text, topic_name};

/// One partition in a fetch: where, in which epoch, from which offset.
#[derive(Debug, Clone)]
struct Asked {
    at: TopicPartition,
    epoch: u64,
    offset: i64,
}

/// In which epoch a place was asked for, and whether the committed offset counts.
type Epochs = HashMap<TopicPartition, (u64, bool)>;

enum Event {
    Fetched { leader: i32, reserved: usize, asked: Vec<Asked>, answer: Result<FetchResponse, NetError> },
    Located { epochs: Epochs, located: Located },
}

struct Fetcher {
    shared: Arc<Shared>,
    links: HashMap<i32, Arc<Link>>,
    fetching: HashSet<i32>,
    /// Bytes that fetches in flight may bring.
    reserved: usize,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// When something that waits may go on.
    wake: Option<Instant>,
    /// Begins each fetch with another partition, so that the first ones do not starve the rest.
    turn: usize,
}

/// Runs until the consumer is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let closed = shared.closed.clone();
    let fetcher = Fetcher {
        shared,
        links: HashMap::new(),
        fetching: HashSet::new(),
        reserved: 0,
        events: FuturesUnordered::new(),
        wake: None,
        turn: 0,
    };
    closed.run_until_cancelled(Box::pin(fetcher.run())).await;
}

impl Fetcher {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let mut metadata = shared.cluster.watch_metadata();
        loop {
            self.start_what_can_be();
            let wake = self.wake.unwrap_or_else(|| Instant::now() + limits::FETCHER_IDLE);
            tokio::select! {
                Some(event) = self.events.next() => self.on_event(event),
                () = shared.changed.notified() => {}
                () = tokio::time::sleep_until(wake) => {}
                // The cluster outlives the fetcher, so the watch does as well.
                _ = metadata.changed() => {}
            }
        }
    }

    fn start_what_can_be(&mut self) {
        self.wake = None;
        self.start_locating();
        let (by_leader, left_out) = self.fetchable();
        for (leader, asked) in by_leader {
            self.start_fetch(leader, asked, left_out.contains(&leader));
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    fn start_locating(&mut self) {
        let now = Instant::now();
        let mut wanted = Vec::new();
        let mut epochs = HashMap::new();
        let mut wakes = Vec::new();
        for (at, reading) in &mut self.shared.state().partitions.by_place {
            let Place::Unlocated { committed } = reading.place else { continue };
            if let Some(later) = reading.not_before.filter(|t| *t > now) {
                wakes.push(later);
                continue;
            }
            reading.place = Place::Locating;
            epochs.insert(at.clone(), (reading.epoch, committed));
            wanted.push((at.clone(), committed));
        }
        for at in wakes {
            self.wake_at(at);
        }
        if wanted.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        self.events.push(Box::pin(async move {
            let located = locate::locate(&shared.cluster, &shared.config, wanted).await;
            Event::Located { epochs, located }
        }));
    }

    /// What may be fetched now, by leader; and the leaders of which something had to be left out because its queue is full.
    fn fetchable(&mut self) -> (BTreeMap<i32, Vec<Asked>>, HashSet<i32>) {
        let now = Instant::now();
        let metadata = self.shared.cluster.metadata();
        let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        let (mut left_out, mut leaderless, mut wakes) = (HashSet::new(), false, Vec::new());
        let shared = self.shared.clone();
        let state = shared.state();
        for (at, reading) in &state.partitions.by_place {
            if reading.place != Place::At || reading.paused || reading.revoking || reading.fetching {
                continue;
            }
            let Some(leader) = metadata.leader(&at.topic, at.partition) else {
                leaderless = true;
                continue;
            };
            if reading.queued_bytes >= shared.config.partition_max_bytes.saturating_mul(2) {
                left_out.insert(leader.id);
            } else if let Some(later) = reading.not_before.filter(|t| *t > now) {
                wakes.push(later);
            } else if !self.fetching.contains(&leader.id) {
                let (epoch, offset) = (reading.epoch, reading.fetch_offset);
                by_leader.entry(leader.id).or_default().push(Asked { at: at.clone(), epoch, offset });
            }
        }
        drop(state);
        if leaderless {
            shared.cluster.refresh_metadata();
            wakes.push(now + shared.cluster.config.retry_backoff);
        }
        for at in wakes {
            self.wake_at(at);
        }
        (by_leader, left_out)
    }

    fn start_fetch(&mut self, leader: i32, mut asked: Vec<Asked>, hurry: bool) {
        let config = &self.shared.config;
        let queued = self.shared.state().partitions.queued_bytes;
        let room = config.prefetch_bytes.saturating_sub(queued + self.reserved);
        let Some(address) = self.shared.cluster.address_of(leader).filter(|_| room > 0) else { return };
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % asked.len().max(1);
        asked.rotate_left(first);
        let max_bytes = room.min(config.fetch_max_bytes);
        // Where a full queue had to be left out, the answer must come soon: the queue may have room long before.
        let wait = if hurry { config.fetch_max_wait.min(limits::FETCH_HURRY) } else { config.fetch_max_wait };
        let request = self.request(&asked, max_bytes, wait);
        self.mark(&asked, true);
        self.fetching.insert(leader);
        self.reserved += max_bytes;
        let (shared, link) = (self.shared.clone(), self.links.entry(leader).or_default().clone());
        self.events.push(Box::pin(async move {
            let answer = fetch(&shared, &link, &address, &request, wait).await;
            Event::Fetched { leader, reserved: max_bytes, asked, answer }
        }));
    }

    fn mark(&self, asked: &[Asked], fetching: bool) {
        let mut state = self.shared.state();
        for one in asked {
            if let Some(reading) = state.partitions.in_epoch(&one.at, one.epoch) {
                reading.fetching = fetching;
            }
        }
    }

    fn request(&self, asked: &[Asked], max_bytes: usize, wait: Duration) -> FetchRequest {
        let config = &self.shared.config;
        let bytes = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let partition = |one: &Asked| {
            FetchPartition::default()
                .with_partition(one.at.partition)
                .with_fetch_offset(one.offset)
                .with_partition_max_bytes(bytes(config.partition_max_bytes))
        };
        let topics = asked.chunk_by(|a, b| a.at.topic == b.at.topic).map(|same| {
            let name = same.first().map_or("", |one| &*one.at.topic);
            FetchTopic::default().with_topic(topic_name(name)).with_partitions(same.iter().map(partition).collect())
        });
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(bytes(config.fetch_min_bytes))
            .with_max_bytes(bytes(max_bytes))
            .with_isolation_level(config.isolation.level())
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(topics.collect())
            .with_rack_id(text(config.rack.as_deref().unwrap_or("")))
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Fetched { leader, reserved, asked, answer } => {
                self.fetching.remove(&leader);
                self.reserved -= reserved;
                self.on_answer(&asked, answer);
            }
            Event::Located { epochs, located } => self.on_located(&epochs, located),
        }
    }

    fn on_located(&mut self, epochs: &Epochs, located: Located) {
        for (at, result) in located {
            let Some((epoch, committed)) = epochs.get(&at).copied() else { continue };
            let mut state = self.shared.state();
            let Some(reading) = state.partitions.in_epoch(&at, epoch) else { continue };
            match result {
                Ok(Beginning { offset, metadata }) => {
                    reading.place = Place::At;
                    reading.failures = 0;
                    reading.fetch_offset = offset;
                    reading.position = offset;
                    reading.resumed = metadata.map(|metadata| (offset, metadata));
                }
                Err(error) if error.is_retriable() => {
                    reading.place = Place::Unlocated { committed };
                    back_off(&self.shared, reading);
                }
                Err(error) => {
                    reading.place = Place::Stuck;
                    self.shared.fail_in(&mut state, error);
                }
            }
        }
    }

    fn on_answer(&mut self, asked: &[Asked], answer: Result<FetchResponse, NetError>) {
        self.mark(asked, false);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.on_no_answer(asked, error),
        };
        let asked: HashMap<(&str, i32), &Asked> =
            asked.iter().map(|one| ((&*one.at.topic, one.at.partition), one)).collect();
        let mut arrived = false;
        for topic in &answer.responses {
            for data in &topic.partitions {
                if let Some(one) = asked.get(&(topic.topic.as_str(), data.partition_index)) {
                    arrived |= self.on_partition(one, data);
                }
            }
        }
        if arrived {
            self.shared.arrived.notify_one();
        }
    }

    fn on_no_answer(&mut self, asked: &[Asked], error: NetError) {
        tracing::debug!(%error, "fetch failed");
        self.shared.cluster.refresh_metadata();
        let mut state = self.shared.state();
        for one in asked {
            if let Some(reading) = state.partitions.in_epoch(&one.at, one.epoch) {
                back_off(&self.shared, reading);
            }
        }
        drop(state);
        if let NetError::Unsupported { what, broker } = error {
            self.shared.fail(ClientError::Unsupported { what: what.into(), broker });
        }
    }

    /// Whether it brought something.
    fn on_partition(&mut self, one: &Asked, data: &PartitionData) -> bool {
        if let Some(error) = codes::error(data.error_code) {
            self.on_error(one, error);
            return false;
        }
        let aborted = match self.shared.config.isolation {
            Isolation::ReadUncommitted => None,
            Isolation::ReadCommitted => data.aborted_transactions.as_deref(),
        };
        let records = data.records.clone().unwrap_or_default();
        let fetched = match decode::batches(records, one.offset, aborted) {
            Ok(fetched) => fetched,
            Err(what) => {
                self.stick(one, |at| ClientError::Corrupt { at, offset: one.offset, what: what.into() });
                return false;
            }
        };
        let mut state = self.shared.state();
        let Some(reading) = state.partitions.in_epoch(&one.at, one.epoch) else { return false };
        reading.failures = 0;
        reading.not_before = None;
        reading.high_watermark = Some(data.high_watermark);
        let brought = !fetched.is_empty();
        state.partitions.queue(&one.at, one.epoch, fetched);
        brought
    }

    fn on_error(&mut self, one: &Asked, error: ResponseError) {
        use codes::Advice;
        if error == ResponseError::OffsetOutOfRange {
            return self.on_out_of_range(one);
        }
        match codes::advice(error) {
            Advice::Again | Advice::Elsewhere | Advice::Unknown => {
                tracing::debug!(at = %one.at, ?error, "fetch refused for now");
                self.shared.cluster.refresh_metadata();
                let mut state = self.shared.state();
                if let Some(reading) = state.partitions.in_epoch(&one.at, one.epoch) {
                    back_off(&self.shared, reading);
                }
            }
            Advice::Fail => self.stick(one, |at| codes::rejected(&format!("fetch from {at}"), error, None)),
        }
    }

    fn on_out_of_range(&mut self, one: &Asked) {
        match self.shared.config.auto_offset_reset {
            OffsetReset::Fail => self.stick(one, |at| ClientError::OutOfRange { at, offset: one.offset }),
            OffsetReset::Earliest | OffsetReset::Latest => {
                tracing::info!(at = %one.at, offset = one.offset, "outside the log; resetting");
                let mut state = self.shared.state();
                if state.partitions.in_epoch(&one.at, one.epoch).is_some() {
                    state.partitions.lose_place(&one.at);
                }
            }
        }
    }

    /// Nothing more of it until a seek; the application is told.
    fn stick(&self, one: &Asked, error: impl FnOnce(TopicPartition) -> ClientError) {
        let mut state = self.shared.state();
        let Some(reading) = state.partitions.in_epoch(&one.at, one.epoch) else { return };
        reading.place = Place::Stuck;
        self.shared.fail_in(&mut state, error(one.at.clone()));
    }
}

fn back_off(shared: &Shared, reading: &mut Reading) {
    reading.failures = reading.failures.saturating_add(1);
    reading.not_before = Some(Instant::now() + retry::pause_after(&shared.cluster.config, reading.failures));
}

async fn fetch(
    shared: &Shared,
    link: &Link,
    address: &Address,
    request: &FetchRequest,
    wait: Duration,
) -> Result<FetchResponse, NetError> {
    let connection = link.get(&shared.cluster.config, address).await?;
    let answer = connection.call("fetch", request, wait).await?;
    match codes::error(answer.error_code) {
        None => Ok(answer),
        Some(error) => Err(NetError::lost(codes::describe(error, None))),
    }
}
