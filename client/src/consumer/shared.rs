//! What a consumer's handle, its fetcher and its group membership share: one state behind one short lock, and two signals.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use super::events::RebalanceEvent;
use super::partitions::Partitions;
use crate::cluster::Cluster;
use crate::config::ConsumerConfig;
use crate::error::ClientError;
use crate::limits;
use crate::net::Address;
use crate::record::TopicPartition;

/// Membership as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) generation: i32,
    pub(crate) member_id: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(super) partitions: Partitions,
    /// -1 while there is no group, or none joined yet.
    pub(super) membership: Membership,
    /// `subscribe` is in force, not `assign`.
    pub(super) subscribed: bool,
    /// Decisions for the application, handed out by `poll`.
    pub(super) failures: VecDeque<ClientError>,
    /// Counts calls of `poll`, and says whether one is waiting now.
    pub(super) polls: u64,
    pub(super) polling: bool,
    /// Counts calls of `release`.
    pub(super) releases: u64,
    /// Positions when the present `poll` began: what came before it counts as processed.
    pub(super) processed: BTreeMap<TopicPartition, i64>,
    /// What automatic commits have been made, or are under way, for.
    pub(super) auto_committed: BTreeMap<TopicPartition, i64>,
    /// Commits that are to be made in the background.
    pub(super) to_commit: BTreeMap<TopicPartition, i64>,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    pub(super) config: ConsumerConfig,
    state: Mutex<State>,
    /// For the fetcher: an assignment, a seek, space.
    pub(super) changed: Notify,
    /// For `poll`: records, a failure.
    pub(super) arrived: Notify,
    /// For the group's membership: a poll, a release.
    pub(super) polled: Notify,
    /// For the background committer.
    pub(super) commit: Notify,
    /// Held while queued commits are on their way, so that closing waits for those of the background.
    pub(super) committing: tokio::sync::Mutex<()>,
    /// Where the group's coordinator was last.
    pub(super) coordinator: Mutex<Option<Address>>,
    pub(super) events: broadcast::Sender<RebalanceEvent>,
    pub(super) closed: CancellationToken,
}

impl Shared {
    pub(super) fn new(cluster: Arc<Cluster>, config: ConsumerConfig) -> Self {
        let state = State {
            partitions: Partitions::default(),
            membership: Membership { generation: -1, member_id: "".into() },
            subscribed: false,
            failures: VecDeque::new(),
            polls: 0,
            polling: false,
            releases: 0,
            processed: BTreeMap::new(),
            auto_committed: BTreeMap::new(),
            to_commit: BTreeMap::new(),
        };
        Self {
            cluster,
            config,
            state: Mutex::new(state),
            changed: Notify::new(),
            arrived: Notify::new(),
            polled: Notify::new(),
            commit: Notify::new(),
            committing: tokio::sync::Mutex::new(()),
            coordinator: Mutex::default(),
            events: broadcast::Sender::new(limits::REBALANCE_EVENTS),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the application, through `poll`. Repeats of what it has not seen yet are dropped.
    pub(super) fn fail(&self, error: ClientError) {
        self.fail_in(&mut self.state(), error);
    }

    /// [`Shared::fail`] for who holds the state: a seek comes before what made it fail, or after, and then undoes it.
    pub(super) fn fail_in(&self, state: &mut State, error: ClientError) {
        if state.failures.len() < limits::CONSUMER_FAILURES && !state.failures.contains(&error) {
            state.failures.push_back(error);
        }
        self.arrived.notify_one();
    }

    /// Tells whoever listens. Nobody has to.
    pub(super) fn tell(&self, event: RebalanceEvent) {
        tracing::debug!(?event, "rebalance");
        let _ = self.events.send(event);
    }
}
