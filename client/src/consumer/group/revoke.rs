//! Giving partitions up: with notice, so that the application can finish and commit; or without, when they are lost.

use tokio::time::Instant;

use super::{Group, assignor};
use crate::config::RevokeWhen;
use crate::consumer::commit;
use crate::consumer::events::RebalanceEvent;
use crate::record::TopicPartition;

impl Group {
    /// What must go before joining: everything with an eager assignor, else what is no longer subscribed to.
    pub(super) async fn revoke_before_joining(&mut self) {
        let owned = self.owned();
        let going: Vec<_> = if self.cooperative() {
            owned.into_iter().filter(|at| !self.topics.contains(&at.topic)).collect()
        } else {
            self.eager_memory.clone_from(&owned);
            owned
        };
        self.revoke(&going).await;
    }

    /// What it had before an eager rebalance; for the sticky assignor.
    pub(super) fn remembered(&self) -> Vec<TopicPartition> {
        self.eager_memory.clone()
    }

    /// Stops handing these out, waits for the application (within its grace), and gives them up.
    pub(super) async fn revoke(&mut self, going: &[TopicPartition]) {
        if going.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let (polls, releases, polling) = {
            let mut state = shared.state();
            for at in going {
                if let Some(reading) = state.partitions.by_place.get_mut(at) {
                    reading.revoking = true;
                }
            }
            (state.polls, state.releases, state.polling)
        };
        let generation = shared.state().membership.generation;
        shared.tell(RebalanceEvent::Revoking { generation, partitions: going.to_vec() });
        let finished = || {
            let state = shared.state();
            match shared.config.revoke_when {
                RevokeWhen::NextPoll => polling || state.polls > polls,
                RevokeWhen::Released => state.releases > releases,
            }
        };
        let deadline = Instant::now() + shared.config.revoke_grace;
        while !shared.closed.is_cancelled() && !finished() {
            if tokio::time::timeout_at(deadline, shared.polled.notified()).await.is_err() {
                tracing::debug!(group = %self.name, "the application did not finish within revoke_grace");
                break;
            }
        }
        self.commit_processed(going).await;
        shared.state().partitions.remove(going);
    }

    /// With automatic commits: what the application has processed of these.
    async fn commit_processed(&self, going: &[TopicPartition]) {
        if self.shared.config.auto_commit_interval.is_none() {
            return;
        }
        let next: Vec<_> = {
            let state = self.shared.state();
            going.iter().filter_map(|at| Some((at.clone(), *state.processed.get(at)?))).collect()
        };
        if let Err(error) = commit::commit(&self.shared, &next, None).await {
            tracing::warn!(group = %self.name, %error, "automatic commit before a rebalance failed");
        }
    }

    /// Gives everything up at once: it is someone else's already.
    pub(super) fn lose(&mut self) {
        let partitions = self.owned();
        let generation = self.generation;
        self.eager_memory.clear();
        self.shared.state().partitions.remove(&partitions);
        self.forget_membership();
        if !partitions.is_empty() {
            let partitions = assignor::difference(&partitions, &[]);
            self.shared.tell(RebalanceEvent::Lost { generation, partitions });
        }
    }
}
