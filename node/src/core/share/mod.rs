//! Work queues on their node: the share coordinators that sit here ([`coordinate`]), what leaders ask them, wherever they sit
//! ([`ask`]), the share-partitions that are led here ([`lead`]), the sessions of their members ([`sessions`]), the requests that
//! wait ([`requests`], [`fetch`]), and dead letters ([`letters`]).
//!
//! ```text
//!  api::share ── begin ──> requests ── acquire, acknowledge ──> lead ── ask ──> a coordinator here, or over links
//!                              ^                                  │                      │
//!                              └──────── written, or lost ────────┴────── answer ────────┘
//! ```
//! It knows nothing of the wire (`api::share` does) and nothing of what states mean ([`crate::share`] does).

mod ask;
mod coordinate;
mod fetch;
mod lead;
mod letters;
mod requests;
mod sessions;

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::Core;
use super::coordinators::{Seats, TopicWish};
use super::store::LogStore;
use crate::share::ledger::Ledgers;
pub(crate) use ask::Asker;
use ask::Questions;
use coordinate::Waiter;
use lead::Partitions;
use letters::Letters;
pub(crate) use letters::Sender;
use requests::Requests;
pub(crate) use requests::{Kind, Part, ShareRequest};
use sessions::ShareSessions;
pub(crate) use sessions::{SessionChange, SessionKey};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ShareDesk {
    pub(crate) seats: Seats<Ledgers>,
    pub(super) topic: TopicWish,
    /// Who gets the answers of coordinators here. Bounded by the questions of nodes.
    waiting: HashMap<u64, Waiter, RandomState>,
    asked: u64,
    questions: Questions,
    partitions: Partitions,
    sessions: ShareSessions,
    requests: Requests,
    letters: Letters,
}

impl ShareDesk {
    /// When [`Core::turn`] is due because of share groups.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let mine = [self.questions.next_deadline(), self.partitions.next_deadline(), self.requests.next_deadline()];
        mine.into_iter().chain([self.seats.next_deadline(), self.letters.next_deadline()]).flatten().min()
    }

    /// Whether no request waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn wish(&mut self) -> &mut TopicWish {
        &mut self.topic
    }
}

impl<S: LogStore> Core<S> {
    /// Locks end, coordinators are asked again, requests are looked at whose logs moved or whose time is over.
    pub(crate) fn tick_shares(&mut self) {
        self.ask_share_questions_again();
        self.end_share_locks();
        self.write_letters();
        self.look_at_share_requests();
    }
}
