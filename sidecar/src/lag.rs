//! How far groups are behind, asked of the cluster from time to time: only while there are groups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::backend::Backend;
use crate::limits;
use crate::shared::Shared;

/// The last known lag of each group.
#[derive(Debug, Default)]
pub struct Lags(Mutex<HashMap<Arc<str>, i64, RandomState>>);

impl Lags {
    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, i64, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of this group.
    #[must_use]
    pub fn get(&self, group: &str) -> Option<i64> {
        self.known().get(group).copied()
    }

    /// Of all groups, by name.
    #[must_use]
    pub fn all(&self) -> Vec<(Arc<str>, i64)> {
        let mut all: Vec<_> = self.known().iter().map(|(group, lag)| (group.clone(), *lag)).collect();
        all.sort();
        all
    }

    /// Replaces all: groups that are gone are not told any more.
    fn set(&self, lags: impl IntoIterator<Item = (Arc<str>, i64)>) {
        *self.known() = lags.into_iter().collect();
    }
}

/// Asks again and again, until the sidecar stops.
pub(crate) async fn watch<B: Backend>(shared: Shared<B>) {
    let stopping = shared.phase.stopping.clone();
    stopping.run_until_cancelled(ask_for_ever(&shared)).await;
}

async fn ask_for_ever<B: Backend>(shared: &Shared<B>) {
    loop {
        tokio::time::sleep(limits::LAG_EVERY).await;
        let mut lags: HashMap<Arc<str>, i64, RandomState> = HashMap::default();
        for spec in shared.groups.specs() {
            let group = spec.group.clone();
            // Not known is told as not known.
            if let Ok(Ok(lag)) = tokio::time::timeout(limits::LAG_EVERY, shared.backend.lag(&spec)).await {
                *lags.entry(group).or_default() += lag;
            }
        }
        shared.stats.lags.set(lags);
    }
}
