//! Which way messages go. Pure: it is told what is known and says what to do.
//!
//! ```text
//!            no answer for too long           taken back                 nearly empty
//!  Direct ────────────────────────> Recalling ──────────> Spooling <──────────────────> Draining
//!    ▲                                                        │      not empty in time     │
//!    └────────────────── empty, nothing undecided ────────────┴────────────────────────────┘
//!  any ── the disk failed ──> Closed
//! ```
//! In `Recalling` and `Draining` new messages wait: for what the producer gives back, which comes before them; or for the last
//! messages of the spool, so that a spool into which messages always come is empty one day.

use std::time::{Duration, Instant};

use crate::limits;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the cluster.
    Direct,
    /// Nowhere: the producer is asked for what it has not sent.
    Recalling,
    /// Into the spool.
    Spooling,
    /// Nowhere: the spool is about to be empty.
    Draining {
        /// For how long already.
        since: Instant,
    },
    /// To the cluster, for good: the spool failed.
    Closed,
}

/// What is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) now: Instant,
    /// Since when the oldest message that went to the cluster has no answer.
    pub(super) undecided: Option<Instant>,
    /// A message came back: the cluster can't be reached, and nothing of it was sent.
    pub(super) came_back: bool,
    /// Messages in the spool, those on their way into it included.
    pub(super) waiting: u64,
    /// When a message of the spool was last answered by the cluster.
    pub(super) forwarded: Option<Instant>,
}

/// The circuit.
#[derive(Debug)]
pub(super) struct Router {
    route: Route,
    after: Duration,
}

impl Router {
    /// `waiting`: messages that an earlier sidecar left.
    pub(super) fn new(after: Duration, waiting: u64) -> Self {
        Self { route: if waiting > 0 { Route::Spooling } else { Route::Direct }, after }
    }

    pub(super) fn route(&self) -> Route {
        self.route
    }

    /// Goes on as far as the facts say. True: the producer is to be asked for what it has not sent.
    pub(super) fn step(&mut self, facts: &Facts) -> bool {
        let next = self.next(facts);
        let recall = next == Route::Recalling && self.route != Route::Recalling;
        self.route = next;
        recall
    }

    fn next(&self, facts: &Facts) -> Route {
        let silent = |since: Option<Instant>| since.is_some_and(|since| facts.now >= since + self.after);
        let drained = facts.waiting == 0 && facts.undecided.is_none();
        match self.route {
            Route::Direct if facts.came_back || silent(facts.undecided) => Route::Recalling,
            Route::Spooling | Route::Draining { .. } if drained => Route::Direct,
            Route::Spooling if facts.waiting <= limits::SPOOL_NEARLY_EMPTY && self.flows(facts) => {
                Route::Draining { since: facts.now }
            }
            Route::Draining { since } if silent(Some(since)) => Route::Spooling,
            same @ (Route::Direct | Route::Recalling | Route::Spooling | Route::Draining { .. } | Route::Closed) => {
                same
            }
        }
    }

    /// Messages of the spool are being answered.
    fn flows(&self, facts: &Facts) -> bool {
        facts.forwarded.is_some_and(|at| facts.now < at + self.after)
    }

    /// The producer gave back what it had not sent.
    pub(super) fn recalled(&mut self) {
        if self.route == Route::Recalling {
            self.route = Route::Spooling;
        }
    }

    pub(super) fn close(&mut self) {
        self.route = Route::Closed;
    }

    /// When to look again although nothing happens.
    pub(super) fn deadline(&self, facts: &Facts) -> Option<Instant> {
        match self.route {
            Route::Direct => facts.undecided.map(|since| since + self.after),
            Route::Draining { since } => Some(since + self.after),
            Route::Recalling | Route::Spooling | Route::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(1);

    fn facts(now: Instant) -> Facts {
        Facts { now, undecided: None, came_back: false, waiting: 0, forwarded: None }
    }

    #[test]
    fn silence_opens_the_way_and_an_empty_spool_closes_it() {
        let start = Instant::now();
        let mut router = Router::new(AFTER, 0);
        let at = |ms: u64| facts(start + Duration::from_millis(ms));
        assert!(!router.step(&Facts { undecided: Some(start), ..at(999) }));
        assert_eq!(router.deadline(&Facts { undecided: Some(start), ..at(999) }), Some(start + AFTER));
        assert!(router.step(&Facts { undecided: Some(start), ..at(1000) }), "asked once");
        assert!(!router.step(&Facts { undecided: Some(start), ..at(1001) }));
        assert_eq!(router.route(), Route::Recalling);
        router.recalled();
        assert!(!router.step(&Facts { undecided: Some(start), ..at(1002) }), "one may have been sent: it comes first");
        assert_eq!(router.route(), Route::Spooling);
        router.step(&at(1003));
        assert_eq!(router.route(), Route::Direct);
    }

    #[test]
    fn what_came_back_opens_the_way_at_once() {
        let mut router = Router::new(AFTER, 0);
        assert!(router.step(&Facts { came_back: true, ..facts(Instant::now()) }));
    }

    #[test]
    fn what_an_earlier_sidecar_left_goes_first() {
        let mut router = Router::new(AFTER, 3);
        assert_eq!(router.route(), Route::Spooling);
        router.step(&Facts { waiting: 3, ..facts(Instant::now()) });
        assert_eq!(router.route(), Route::Spooling, "nobody answers yet");
    }

    #[test]
    fn nearly_empty_holds_new_messages_back_but_not_for_long() {
        let now = Instant::now();
        let mut router = Router::new(AFTER, 3);
        let nearly = Facts { waiting: 3, forwarded: Some(now), ..facts(now) };
        router.step(&nearly);
        assert_eq!(router.route(), Route::Draining { since: now });
        router.step(&Facts { now: now + AFTER, ..nearly });
        assert_eq!(router.route(), Route::Spooling, "it took too long");
        let many = Facts { waiting: limits::SPOOL_NEARLY_EMPTY + 1, ..nearly };
        router.step(&many);
        assert_eq!(router.route(), Route::Spooling);
    }

    #[test]
    fn a_failed_spool_stays_closed() {
        let now = Instant::now();
        let mut router = Router::new(AFTER, 3);
        router.close();
        for facts in [facts(now), Facts { came_back: true, undecided: Some(now), now: now + AFTER, ..facts(now) }] {
            assert!(!router.step(&facts));
            assert_eq!(router.route(), Route::Closed);
        }
    }
}
