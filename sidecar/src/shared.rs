//! What every call needs: the backend, the bounds, the counters, and whether the sidecar is stopping.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::delivery::Groups;
use crate::limits::Limits;
use crate::requests::Requests;
use crate::stats::Stats;
use crate::transactions::Transactions;

/// Shared by all calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared<B: Backend> {
    pub(crate) backend: B,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) groups: Groups<B>,
    pub(crate) requests: Requests,
    pub(crate) transactions: Transactions<B>,
    pub(crate) phase: Phase,
}

/// How far stopping has gone. Each step includes the ones before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Phase {
    /// No new deliveries; acknowledgements and publishing go on.
    pub(crate) draining: CancellationToken,
    /// Streams finish what they have and end.
    pub(crate) stopping: CancellationToken,
    /// Time is up: everything is cut off.
    pub(crate) killed: CancellationToken,
}
