//! What a transactional producer's handle and its sender share: the identity, which partitions belong to the transaction, and
//! whether it can still commit.
//!
//! ```text
//!           begin              end
//!  Closed ---------> Open ----------> Closed
//!                     └─ fail ─> Open, to be aborted only ─ end ─> Closed
//! ```
//! It must not know brokers. Nothing is sent of a partition before the coordinator knows that it belongs to the transaction.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::lane::Identity;
use crate::error::ClientError;

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// The coordinator is being told of partitions: it must not hear of them after the end.
    adding: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    identity: Identity,
    open: bool,
    /// Lanes whose partitions belong to the transaction.
    added: HashSet<usize>,
    /// The coordinator knows of the transaction, or may know.
    begun: bool,
    failure: Option<ClientError>,
    /// Records were accepted that were not delivered, or may not have been: the identity's sequences are not to be trusted.
    dropped: bool,
    /// How it was asked to end, and may have ended.
    ending: Option<bool>,
}

impl Gate {
    pub(super) fn new(identity: Identity) -> Self {
        let state = State {
            identity,
            open: false,
            added: HashSet::new(),
            begun: false,
            failure: None,
            dropped: false,
            ending: None,
        };
        Self { state: Mutex::new(state), adding: watch::Sender::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identity(&self) -> Identity {
        self.state().identity
    }

    /// A transaction begins; false if one is open.
    pub(super) fn begin(&self) -> bool {
        let mut state = self.state();
        !std::mem::replace(&mut state.open, true)
    }

    /// A transaction is open and takes records.
    pub(super) fn takes_records(&self) -> bool {
        let state = self.state();
        state.open && state.ending.is_none()
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().open
    }

    pub(super) fn is_added(&self, lane: usize) -> bool {
        self.state().added.contains(&lane)
    }

    /// The coordinator is about to be told of something in the transaction.
    pub(super) fn beginning(&self) {
        self.state().begun = true;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.state().begun
    }

    pub(super) fn is_adding(&self) -> bool {
        *self.adding.borrow()
    }

    /// The coordinator is being told of partitions.
    pub(super) fn adding(&self) {
        self.beginning();
        self.adding.send_replace(true);
    }

    /// It knows these partitions; none: it may know some.
    pub(super) fn added(&self, lanes: &[usize]) {
        self.state().added.extend(lanes);
        self.adding.send_replace(false);
    }

    /// Waits until the coordinator is told of nothing more.
    pub(super) async fn settled(&self) {
        let mut adding = self.adding.subscribe();
        // The sender lives as long as this gate does.
        let _ = adding.wait_for(|adding| !adding).await;
    }

    /// It can only be aborted from now on.
    pub(super) fn fail(&self, failure: ClientError) {
        let mut state = self.state();
        if state.open {
            state.failure.get_or_insert(failure);
        }
    }

    pub(super) fn failure(&self) -> Option<ClientError> {
        self.state().failure.clone()
    }

    /// Something that was accepted is not delivered.
    pub(super) fn lost(&self) {
        self.state().dropped = true;
    }

    pub(super) fn has_lost(&self) -> bool {
        self.state().dropped
    }

    /// How it is asked to end. An end that may have happened can't be taken back: false.
    pub(super) fn ending(&self, commit: bool) -> bool {
        let mut state = self.state();
        *state.ending.get_or_insert(commit) == commit
    }

    /// The end was refused, certainly.
    pub(super) fn not_ended(&self) {
        self.state().ending = None;
    }

    /// The transaction is over; with a new identity if there is one.
    pub(super) fn ended(&self, identity: Option<Identity>) {
        let mut state = self.state();
        let identity = identity.unwrap_or(state.identity);
        *state = State {
            identity,
            open: false,
            added: HashSet::new(),
            begun: false,
            failure: None,
            dropped: false,
            ending: None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Identity = Identity { producer_id: 7, epoch: 0 };
    const CLOSED: ClientError = ClientError::Closed { what: "x" };

    #[test]
    fn a_transaction_begins_and_ends() {
        let gate = Gate::new(FIRST);
        assert!(!gate.takes_records());
        assert!(gate.begin() && !gate.begin(), "one at a time");
        assert!(gate.takes_records());
        gate.beginning();
        gate.added(&[3, 5]);
        assert!(gate.is_added(3) && !gate.is_added(4));
        assert!(gate.ending(true) && !gate.takes_records());
        assert!(gate.ending(true), "asked again");
        assert!(!gate.ending(false), "it may have committed");
        gate.ended(None);
        assert!(!gate.is_open() && !gate.is_added(3) && !gate.has_begun());
        assert_eq!(gate.identity(), FIRST);
    }

    #[test]
    fn the_first_failure_is_kept_until_the_end() {
        let gate = Gate::new(FIRST);
        gate.fail(CLOSED);
        assert_eq!(gate.failure(), None, "nothing is open");
        gate.begin();
        gate.fail(CLOSED);
        gate.fail(ClientError::Closed { what: "y" });
        gate.lost();
        assert_eq!((gate.failure(), gate.has_lost()), (Some(CLOSED), true));
        let next = Identity { producer_id: 7, epoch: 1 };
        gate.ended(Some(next));
        assert_eq!((gate.failure(), gate.has_lost(), gate.identity()), (None, false, next));
    }
}
