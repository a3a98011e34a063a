//! What is counted of the spool, and what `wherry sidecar status` tells of it.

use std::sync::{Mutex, PoisonError};

use crate::stats::{Counter, Gauge};

/// See the module.
#[derive(Debug, Default)]
pub struct SpoolStats {
    /// 1 while there is an open spool.
    pub opened: Gauge,
    /// 1 while messages go into it.
    pub spooling: Gauge,
    /// 1 while messages that went to the cluster are undecided.
    pub undecided: Gauge,
    /// Messages that wait.
    pub messages: Gauge,
    /// Their bytes on disk, with those in front of them whose space is not free yet.
    pub bytes: Gauge,
    /// Bytes that it may hold.
    pub usable: Gauge,
    /// When the oldest was spooled, milliseconds since the epoch; 0 without one.
    pub oldest_ms: Gauge,
    /// Messages that were spooled.
    pub spooled: Counter,
    /// Messages that left it: forwarded or put into quarantine.
    pub forwarded: Counter,
    /// Messages refused because it was full.
    pub full: Counter,
    /// Messages put into quarantine.
    pub refused: Counter,
    /// Messages in quarantine.
    pub quarantine_messages: Gauge,
    /// Their bytes on disk.
    pub quarantine_bytes: Gauge,
    /// Times that the quarantine lost its oldest messages.
    pub quarantine_cut: Counter,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    closed: Option<String>,
    last_cause: Option<(String, String)>,
}

impl SpoolStats {
    /// It closed itself.
    pub(super) fn closed(&self, why: &str) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).closed = Some(why.to_owned());
    }

    /// Why a message of this topic went into quarantine.
    pub(super) fn last_cause(&self, topic: &str, cause: &str) {
        let last = Some((topic.to_owned(), cause.to_owned()));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).last_cause = last;
    }

    /// Why it closed itself, if it did.
    #[must_use]
    pub fn why_closed(&self) -> Option<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).closed.clone()
    }

    /// Topic and cause of the last message that went into quarantine since the start.
    #[must_use]
    pub fn last_refused(&self) -> Option<(String, String)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).last_cause.clone()
    }
}
