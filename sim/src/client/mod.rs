//! Simulated clients: state machines that speak the Kafka protocol and tell the oracles what they were told.
//!
//! They must not know of the nodes' inside; they know what a frame is, that a connection may break at any time, and that
//! leaders and coordinators move. A request to a node opens a connection to it.

mod admin;
mod fetched;
mod member;
mod producer;
mod publisher;
mod reader;
mod transactor;
mod view;

use bytes::Bytes;
use kafka_protocol::protocol::Request;
use wherry_wire::codec::messages::TopicName;
use wherry_wire::codec::{StrBytes, correlation_id, decode_response, encode_request};

pub(crate) use admin::Admin;
pub(crate) use fetched::Isolation;
pub(crate) use member::Member;
pub(crate) use producer::{Acks, Producer};
pub(crate) use publisher::Publisher;
pub(crate) use reader::Reader;
pub(crate) use transactor::{Part, Protocol, Transactor, Who};
pub(crate) use view::{Topics, View};

use crate::oracle::Oracle;
use crate::rng::Rng;

/// What a client may use while it acts.
pub(crate) struct Io<'a> {
    pub(crate) now_ms: u64,
    pub(crate) wall_ms: i64,
    pub(crate) rng: &'a mut Rng,
    pub(crate) oracle: &'a mut Oracle,
    /// Faults and new work are over: finish.
    pub(crate) calm: bool,
    /// How many there are; their ids are 0, 1, ...
    pub(crate) nodes: usize,
    /// What to send, and to which node.
    pub(crate) out: Vec<(usize, Bytes)>,
    /// Break all connections: the process ends.
    pub(crate) hang_up: bool,
}

impl Io<'_> {
    /// Some node: each knows all that every node knows.
    pub(crate) fn any_node(&mut self) -> usize {
        self.rng.below(self.nodes)
    }

    /// Error codes that a client meets while nodes come and go, and asks again for.
    pub(crate) fn is_retriable(&self, code: i16) -> bool {
        match code {
            // Leader not available, not leader, timeout, load, coordinator, storage, epochs.
            5 | 6 | 7 | 14 | 15 | 16 | 56 | 74 | 75 => true,
            // Topic, replica, in-sync replicas, controller, offset, topic id: where one node may know more than another.
            3 | 9 | 19 | 20 | 41 | 78 | 100 | 103 => self.nodes > 1,
            _ => false,
        }
    }
}

/// One client with at most one connection to each node.
pub(crate) trait Client {
    /// A connection is there.
    fn connected(&mut self, io: &mut Io<'_>);
    /// A whole response frame from a node, without its length.
    fn frame(&mut self, io: &mut Io<'_>, node: usize, frame: Bytes) -> Result<(), String>;
    /// The connection to a node is gone; what was asked there and not answered never will be.
    fn closed(&mut self, io: &mut Io<'_>, node: usize);
    /// Some time has passed.
    fn tick(&mut self, io: &mut Io<'_>);
    /// Nothing is left to do, once calm.
    fn is_done(&self, oracle: &Oracle) -> bool;
    /// For who wonders why it is not done.
    fn state(&self) -> String;
    /// The nodes were restarted after everything was done: see whether they still know.
    fn look_again(&mut self);
    /// Whether what it sent may still arrive when it has hung up and asked elsewhere.
    fn may_haunt(&self) -> bool {
        false
    }
}

/// Numbers requests; the responses of a node come in the order of their requests.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    next: i32,
}

impl Wire {
    pub(crate) fn send<R: Request>(
        &mut self,
        io: &mut Io<'_>,
        node: usize,
        version: i16,
        request: &R,
    ) -> Result<i32, String> {
        self.next += 1;
        let client = StrBytes::from_static_str("sim");
        let frame = encode_request(self.next, Some(&client), version, request).map_err(|e| e.to_string())?;
        io.out.push((node, frame));
        Ok(self.next)
    }
}

/// A response to the request with this correlation id.
pub(crate) fn receive<R: Request>(frame: &Bytes, version: i16, expected: i32) -> Result<R::Response, String> {
    let found = correlation_id(frame);
    if found != Some(expected) {
        return Err(format!("response to {found:?} where the response to {expected} should be: order is lost"));
    }
    decode_response::<R>(frame.clone(), version).map(|(_, response)| response).map_err(|e| e.to_string())
}

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
