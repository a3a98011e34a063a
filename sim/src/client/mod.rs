//! Simulated clients: state machines that speak the Kafka protocol and tell the oracles what they were told.
//!
//! They must not know of the node's inside; they know what a frame is, and that a connection may break at any time.

mod admin;
mod member;
mod producer;
mod reader;

use bytes::Bytes;
use kafka_protocol::protocol::Request;
use wherry_wire::codec::messages::TopicName;
use wherry_wire::codec::{StrBytes, correlation_id, decode_response, encode_request};

pub(crate) use admin::Admin;
pub(crate) use member::Member;
pub(crate) use producer::Producer;
pub(crate) use reader::Reader;

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
    pub(crate) out: Vec<Bytes>,
    pub(crate) hang_up: bool,
}

/// One client with at most one connection.
pub(crate) trait Client {
    /// The connection is there.
    fn connected(&mut self, io: &mut Io<'_>);
    /// A whole response frame, without its length.
    fn frame(&mut self, io: &mut Io<'_>, frame: Bytes) -> Result<(), String>;
    /// The connection is gone; what was asked and not answered never will be.
    fn closed(&mut self, io: &mut Io<'_>);
    /// Some time has passed; only while connected.
    fn tick(&mut self, io: &mut Io<'_>);
    /// Nothing is left to do, once calm.
    fn is_done(&self, oracle: &Oracle) -> bool;
    /// For who wonders why it is not done.
    fn state(&self) -> String;
    /// The node was restarted after everything was done: see whether it still knows.
    fn look_again(&mut self);
}

/// Numbers requests; responses come in the order of their requests.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    next: i32,
}

impl Wire {
    pub(crate) fn send<R: Request>(&mut self, io: &mut Io<'_>, version: i16, request: &R) -> Result<i32, String> {
        self.next += 1;
        let client = StrBytes::from_static_str("sim");
        let frame = encode_request(self.next, Some(&client), version, request).map_err(|e| e.to_string())?;
        io.out.push(frame);
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

/// Error codes that a client meets while a node comes and goes, and asks again for.
pub(crate) fn is_retriable(code: i16) -> bool {
    // Leader not available, not leader, timeout, load, coordinator, storage.
    matches!(code, 5 | 6 | 7 | 14 | 15 | 16 | 56)
}
