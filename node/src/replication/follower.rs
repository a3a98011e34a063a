//! A partition as its follower sees it: whom it follows, in which epoch, and how far that has come. Pure.
//!
//! ```text
//!            role            link, turn              Data
//!  (nobody) ─────> Unlinked ────────────> Streaming ──────> append, Progress when durable
//!                     ^   ^                 │    │
//!            link gone│   └──── Pausing <───┘    │ Diverged, out of range
//!                     │         (refused)        v
//!                     └───────── durable ── Truncating
//! ```

use wherry_wire::types::{LeaderEpoch, Offset};

use super::limits::{RETRY_FIRST_NS, RETRY_MAX_NS};
use super::message::Alias;
use super::store::{LogInfo, Ticket};
use crate::mutation::mutated;

/// What the metadata says of a partition that this node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerRole {
    /// Counts leaderships.
    pub leader_epoch: LeaderEpoch,
    /// Whom to follow; `None` while nobody leads.
    pub leader: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be subscribed as soon as there is a link.
    Unlinked,
    /// The leader was asked under this alias, or sends already.
    Streaming(Alias),
    /// The log was cut: nothing is appended before that is on disk (trap 10).
    Truncating(Ticket),
    /// Refused; asks again at that time, in monotonic nanoseconds.
    Pausing(u64),
    /// The log takes nothing more.
    Damaged,
}

#[derive(Debug)]
pub(super) struct Following {
    pub(super) role: FollowerRole,
    pub(super) state: State,
    /// The leader's, as last heard.
    leaders: Option<Offset>,
    /// The same, bounded by what is on the own disk.
    high_watermark: Option<Offset>,
    /// The leader's log start.
    pub(super) leader_start: Offset,
    /// Whether it is in the list of those with news for the leader.
    pub(super) has_news: bool,
    pause_ns: u64,
}

/// What to do about a divergence.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Truncate to here.
    To(Offset),
    /// Nothing to cut: the leader asks for what can't be.
    Nothing,
}

impl Following {
    pub(super) fn new(role: FollowerRole, high_watermark: Option<Offset>) -> Self {
        Self {
            role,
            state: State::Unlinked,
            leaders: None,
            high_watermark,
            leader_start: Offset::ZERO,
            has_news: false,
            pause_ns: RETRY_FIRST_NS,
        }
    }

    pub(super) fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// News of the leader's high watermark and log start.
    pub(super) fn heard(&mut self, high_watermark: Option<Offset>, log_start: Offset) {
        self.leaders = self.leaders.max(high_watermark);
        self.leader_start = self.leader_start.max(log_start);
        self.pause_ns = RETRY_FIRST_NS;
    }

    /// Takes over of the leader's high watermark what is on the own disk. Returns whether it moved.
    pub(super) fn advance(&mut self, durable_end: Offset) -> bool {
        let known = self.leaders.map(|hw| hw.min(durable_end));
        let moved = known > self.high_watermark;
        self.high_watermark = self.high_watermark.max(known);
        moved
    }

    /// The log ends here now: nothing above is known to be committed.
    pub(super) fn cut(&mut self, to: Offset) {
        self.high_watermark = self.high_watermark.map(|hw| hw.min(to));
        self.leaders = None;
    }

    /// Where to cut the log, given the leader's newest epoch not above the own newest, where that ends at the leader, and
    /// where the own log's newest epoch not above that ends (KIP-279). `None`: the own log holds nothing that old.
    pub(super) fn divergence(&self, info: &LogInfo, leaders_end: Offset, own: Option<Offset>) -> Cut {
        let own_end = own.unwrap_or(info.log_start);
        let mut to = own_end.min(leaders_end).max(info.log_start);
        if mutated!(TruncateToLeadersEndOnly) {
            to = leaders_end.min(info.log_end);
        }
        if mutated!(TruncateToHighWatermark) {
            to = self.high_watermark.unwrap_or(info.log_start).min(info.log_end);
        }
        if to >= info.log_end { Cut::Nothing } else { Cut::To(to) }
    }

    /// How long to pause after one more refusal.
    pub(super) fn next_pause(&mut self) -> u64 {
        let pause = self.pause_ns;
        self.pause_ns = (pause * 2).min(RETRY_MAX_NS);
        pause
    }
}
