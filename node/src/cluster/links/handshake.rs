//! Whether two nodes may have a link: everything that is checked before the first message, in one place but for proofs of
//! identity, which are [`super::trust`]'s.
//!
//! ```text
//!  dialler ── Hello ──► acceptor: may_accept, proofs ── Welcome ──► dialler: may_use ──► both have a link
//!                                                └─ Reject, close
//! ```

use super::frame::{Frame, Hello, Reason};
use super::{Identity, frame};

/// Why there is no link, for the log of both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) reason: Reason,
    pub(super) text: String,
}

impl Rejection {
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    pub(super) fn frame(&self) -> Frame {
        Frame::Reject { reason: self.reason, text: self.text.clone() }
    }
}

/// The acceptor's side: the first frame of a connection.
pub(super) fn first_frame(frame: bytes::Bytes) -> Result<Hello, Rejection> {
    match frame::decode(frame) {
        Ok(Frame::Hello(hello)) => Ok(hello),
        Ok(_) => Err(Rejection::new(Reason::Malformed, "the first frame of a link must be a Hello")),
        Err(error @ frame::FrameError::Version(_)) => Err(Rejection::new(Reason::Version, error.to_string())),
        Err(error) => Err(Rejection::new(Reason::Malformed, error.to_string())),
    }
}

/// The acceptor's side: whether it wants this dialler.
pub(super) fn may_accept(me: &Identity, hello: &Hello) -> Result<(), Rejection> {
    if hello.sender.node == me.node {
        return Err(Rejection::new(Reason::Myself, format!("this is node {} itself, or its double", me.node)));
    }
    if let Some(to) = hello.to.filter(|to| *to != me.node) {
        let text = format!("this is node {}, not node {to}; check the addresses of the nodes", me.node);
        return Err(Rejection::new(Reason::WrongNode, text));
    }
    check(me, &hello.sender)
}

/// The dialler's side: whether this is whom it called. `expected` is none if it knew an address only.
pub(super) fn may_use(me: &Identity, expected: Option<i32>, peer: &Identity) -> Result<(), Rejection> {
    if peer.node == me.node {
        return Err(Rejection::new(Reason::Myself, format!("this is node {} itself, or its double", me.node)));
    }
    if let Some(expected) = expected.filter(|expected| *expected != peer.node) {
        let text = format!("node {expected} was called and node {} answered", peer.node);
        return Err(Rejection::new(Reason::WrongNode, text));
    }
    check(me, peer)
}

fn check(me: &Identity, peer: &Identity) -> Result<(), Rejection> {
    if peer.node < 0 {
        return Err(Rejection::new(Reason::Malformed, format!("node id {} is negative", peer.node)));
    }
    same_cluster(me, peer)
}

/// A node that belongs to no cluster yet may talk to every other one.
pub(super) fn same_cluster(me: &Identity, peer: &Identity) -> Result<(), Rejection> {
    match (&me.cluster_id, &peer.cluster_id) {
        (Some(mine), Some(theirs)) if mine != theirs => {
            let text = format!("node {} belongs to cluster '{mine}', node {} to '{theirs}'", me.node, peer.node);
            Err(Rejection::new(Reason::Cluster, text))
        }
        (Some(_) | None, _) => Ok(()),
    }
}
