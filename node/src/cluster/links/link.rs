//! One link: how far it is, what it still has to send, and whether its peer is alive.
//!
//! ```text
//!  dialled:  Dialling ── connected, Hello ──► Greeting ── Welcome ──► Up
//!  accepted:                                             Hello ────► Up
//! ```

use std::rc::Rc;

use super::dials::TargetKey;
use super::frame::Hello;
use super::parts::Joiner;
use super::{Class, Identity};
use crate::security::PeerCertificate;

const MS: u64 = 1_000_000;
/// A peer that was silent for this long is asked for a sign of life, in nanoseconds.
pub(super) const PING_AFTER_NS: u64 = 500 * MS;
/// A peer without a sign of life for this long is dead, in nanoseconds.
pub(super) const DEAD_AFTER_NS: u64 = 2_000 * MS;
/// From the dial to the connection, name resolution included, in nanoseconds.
const DIAL_NS: u64 = 3_000 * MS;

/// Who opened it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Dialled(TargetKey),
    Accepted,
}

#[derive(Debug)]
pub(super) enum Phase {
    Dialling,
    Greeting,
    Up(Identity),
}

/// What a link needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// Its time is over.
    End(&'static str),
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) class: Class,
    pub(super) origin: Origin,
    pub(super) phase: Phase,
    pub(super) joiner: Joiner,
    /// What this node said, until a challenge is answered with it.
    pub(super) hello: Option<Box<Hello>>,
    /// Who proved to know the secret.
    pub(super) proven: Option<Identity>,
    /// What the peer has shown.
    pub(super) certificate: Option<Rc<PeerCertificate>>,
    /// Framed bytes that the kernel has not taken.
    pub(super) unsent: usize,
    /// When this phase began.
    since_ns: u64,
    /// Last sign of life.
    alive_ns: u64,
    pinged_ns: u64,
}

impl Link {
    pub(super) fn new(class: Class, origin: Origin, phase: Phase, now_ns: u64) -> Self {
        let (since_ns, alive_ns, pinged_ns) = (now_ns, now_ns, now_ns);
        Self {
            class,
            origin,
            phase,
            joiner: Joiner::default(),
            hello: None,
            proven: None,
            certificate: None,
            unsent: 0,
            since_ns,
            alive_ns,
            pinged_ns,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now_ns: u64) {
        self.phase = phase;
        (self.since_ns, self.alive_ns, self.pinged_ns) = (now_ns, now_ns, now_ns);
    }

    pub(super) fn is_outgoing(&self) -> bool {
        matches!(self.origin, Origin::Dialled(_))
    }

    pub(super) fn peer(&self) -> Option<&Identity> {
        match &self.phase {
            Phase::Up(peer) => Some(peer),
            Phase::Dialling | Phase::Greeting => None,
        }
    }

    /// Whether this side may send messages: Control belongs to the dialler.
    pub(super) fn may_speak(&self) -> bool {
        self.class == Class::Data || self.is_outgoing()
    }

    /// Whether the other side may.
    pub(super) fn may_listen(&self) -> bool {
        self.class == Class::Data || !self.is_outgoing()
    }

    /// How long it has been up.
    pub(super) fn up_ns(&self, now_ns: u64) -> Option<u64> {
        self.peer().map(|_| now_ns.saturating_sub(self.since_ns))
    }

    pub(super) fn heard(&mut self, now_ns: u64) {
        self.alive_ns = now_ns;
    }

    /// The kernel took bytes. While more wait behind them, it had no room and has some now: the peer took bytes too.
    pub(super) fn sent(&mut self, bytes: usize, now_ns: u64) {
        self.unsent = self.unsent.saturating_sub(bytes);
        if bytes > 0 && self.unsent > 0 {
            self.alive_ns = now_ns;
        }
    }

    pub(super) fn pinged(&mut self, now_ns: u64) {
        self.pinged_ns = now_ns;
    }

    /// When [`Link::due`] says something else than now.
    pub(super) fn deadline(&self) -> u64 {
        match self.phase {
            Phase::Dialling => self.since_ns + DIAL_NS,
            Phase::Greeting => self.since_ns + DEAD_AFTER_NS,
            Phase::Up(_) => (self.alive_ns + DEAD_AFTER_NS).min(self.alive_ns.max(self.pinged_ns) + PING_AFTER_NS),
        }
    }

    pub(super) fn due(&self, now_ns: u64) -> Due {
        if now_ns < self.deadline() {
            return Due::Nothing;
        }
        match self.phase {
            Phase::Dialling => Due::End("no connection in time"),
            Phase::Greeting => Due::End("no answer to the Hello in time"),
            Phase::Up(_) if now_ns >= self.alive_ns + DEAD_AFTER_NS => Due::End("the peer is silent"),
            Phase::Up(_) => Due::Ping,
        }
    }
}
