//! The sender's connections, one per leader, and the requests being put together for each. No I/O of its own but handing
//! frames to a connection, which never waits: requests in flight are bounded here, below the connection's own bound.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kafka_protocol::messages::ProduceRequest;
use tokio::time::Instant;

use super::frame::{self, Envelope, Part};
use super::shared::Shared;
use crate::limits;
use crate::net::{Address, Connection, NetError, Reply};
use crate::record::TopicPartition;

/// The last version in which the producer itself says which partitions belong to its transaction.
const EXPLICIT: i16 = 11;

/// How a leader can be reached.
#[derive(Debug)]
enum Way {
    Closed,
    Connecting,
    Open(Arc<Connection>),
}

/// A batch in a request: whom to tell.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) lane: usize,
    pub(super) token: u64,
    pub(super) at: TopicPartition,
}

/// A request that was handed to a connection.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) broker: i32,
    pub(super) version: i16,
    pub(super) items: Vec<Item>,
    /// The answer to come, or why it was not even sent.
    pub(super) reply: Result<Reply, NetError>,
}

/// A leader, as the sender sees it.
#[derive(Debug)]
pub(super) struct BrokerLane {
    way: Way,
    pub(super) address: Address,
    pub(super) failures: u32,
    not_before: Option<Instant>,
    in_flight: usize,
    /// Lanes to look at when something changes here.
    pub(super) waiting: Vec<usize>,
    parts: Vec<Part>,
    items: Vec<Item>,
    bytes: usize,
    lanes: HashSet<usize>,
}

/// Whether a leader takes a batch now.
pub(super) enum Access {
    /// Over this connection, which has this number.
    Open { route: u64 },
    /// The caller connects.
    Connect,
    /// Nothing to do but wait (for the connection, or for answers).
    Wait,
    /// Nothing before this time.
    NotBefore(Instant),
}

impl BrokerLane {
    fn new(address: Address) -> Self {
        Self {
            way: Way::Closed,
            address,
            failures: 0,
            not_before: None,
            in_flight: 0,
            waiting: Vec::new(),
            parts: Vec::new(),
            items: Vec::new(),
            bytes: 0,
            lanes: HashSet::new(),
        }
    }

    /// Whether a batch may be added now.
    pub(super) fn access(&mut self, now: Instant) -> Access {
        match &self.way {
            Way::Open(connection) if connection.is_alive() => {
                if self.in_flight >= limits::PRODUCE_REQUESTS_IN_FLIGHT {
                    return Access::Wait;
                }
                return Access::Open { route: route(connection) };
            }
            Way::Connecting => return Access::Wait,
            Way::Open(_) | Way::Closed => {}
        }
        if let Some(not_before) = self.not_before.filter(|t| *t > now) {
            return Access::NotBefore(not_before);
        }
        self.way = Way::Connecting;
        Access::Connect
    }

    pub(super) fn connected(&mut self, connection: Arc<Connection>) {
        self.failures = 0;
        self.not_before = None;
        self.way = Way::Open(connection);
    }

    pub(super) fn failed(&mut self, not_before: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(not_before);
        self.way = Way::Closed;
    }

    /// Adds a batch to the request in the making, after [`Access::Open`]. Where it does not fit, the one before is handed over.
    pub(super) fn add(&mut self, id: i32, shared: &Shared, part: Part, item: Item) -> Option<Sent> {
        let config = &shared.config;
        let size = frame_share(&part);
        let full = !self.parts.is_empty() && self.bytes + size > config.max_request_bytes;
        let before = if full || self.lanes.contains(&item.lane) { self.hand_over(id, shared) } else { None };
        self.bytes += size;
        self.lanes.insert(item.lane);
        self.parts.push(part);
        self.items.push(item);
        before
    }

    /// Hands the request in the making to the connection.
    pub(super) fn hand_over(&mut self, id: i32, shared: &Shared) -> Option<Sent> {
        if self.parts.is_empty() {
            return None;
        }
        let (parts, items) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.items));
        self.bytes = 0;
        self.lanes.clear();
        self.in_flight += 1;
        let (reply, version) = match self.submit(shared, parts) {
            Ok((reply, version)) => (Ok(reply), version),
            Err(error) => (Err(error), 0),
        };
        Some(Sent { broker: id, version, items, reply })
    }

    fn submit(&self, shared: &Shared, parts: Vec<Part>) -> Result<(Reply, i16), NetError> {
        let Way::Open(connection) = &self.way else { return Err(NetError::not_sent("no connection")) };
        let config = &shared.config;
        let mut version = connection.version::<ProduceRequest>("produce")?;
        let transactional_id = shared.transactions.as_ref().map(|transactions| &*transactions.coordinator.id);
        if transactional_id.is_some() {
            version = version.min(EXPLICIT);
        }
        let correlation = connection.next_correlation();
        let timeout_ms = i32::try_from(config.ack_timeout.as_millis()).unwrap_or(i32::MAX);
        let (acks, client_id) = (config.acks.code(), connection.client_id().as_str());
        let chunks =
            frame::encode(Envelope { version, correlation, client_id, transactional_id, acks, timeout_ms }, parts);
        Ok((connection.submit_now(correlation, chunks, acks != 0, config.ack_timeout)?, version))
    }

    /// A request was answered, or its connection lost.
    pub(super) fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

fn frame_share(part: &Part) -> usize {
    part.header.len() + part.body.len() + part.topic.len() + 32
}

/// Tells connections apart: requests over one connection keep their order, over two they may not.
fn route(connection: &Arc<Connection>) -> u64 {
    connection.number()
}

/// All leaders, by broker id.
#[derive(Debug, Default)]
pub(super) struct Brokers {
    pub(super) by_id: HashMap<i32, BrokerLane>,
}

impl Brokers {
    /// The leader `id` at `address`; one that moved starts anew.
    pub(super) fn at(&mut self, id: i32, address: &Address) -> &mut BrokerLane {
        let lane = self.by_id.entry(id).or_insert_with(|| BrokerLane::new(address.clone()));
        if lane.address != *address && !matches!(lane.way, Way::Connecting) && lane.parts.is_empty() {
            lane.address = address.clone();
            lane.way = Way::Closed;
            lane.not_before = None;
        }
        lane
    }
}
