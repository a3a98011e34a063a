//! The localhost endpoint of an application pod.
//!
//! An application publishes and receives single messages over gRPC or HTTP; the sidecar makes batches of them, retries, balances, and keeps
//! track of acknowledgements. It speaks to the cluster only through [`backend`], and to applications only through `wherry.v1` and its
//! HTTP form. It must not know how the cluster stores anything.
//!
//! ```text
//!   app --gRPC, HTTP--> net -> api -> publish  --+
//!                                 \-> delivery --+--> backend --> wherry_client --> cluster
//! ```

mod api;
pub mod backend;
pub mod config;
pub mod delivery;
pub mod error;
pub mod limits;
mod net;
pub mod publish;
mod requests;
mod shared;
pub mod stats;
mod transactions;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use backend::Backend;
use backend::cluster::Cluster;
pub use config::{ProducerTuning, SidecarConfig};
pub use limits::Limits;
use net::guard::{Guard, guard};
use net::listen::Listener;
use net::serve::Server;
pub use requests::REPLY_TOPIC;
use shared::{Phase, Shared};
pub use stats::Stats;

/// Why a sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// A setting makes no sense; the sentence says which.
    #[error("configuration: {0}")]
    Config(String),
    /// The port can't be opened.
    #[error("can't listen on {address}: {error}; choose another address, or stop what uses this one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The Unix socket can't be opened.
    #[error("can't serve the socket {path}: {error}; choose another path, or stop what uses this one")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The descriptors of the API can't be served.
    #[error("can't serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Starts a sidecar. It serves when this returns; the cluster may come later.
///
/// # Errors
/// [`SidecarError`].
pub async fn spawn(config: SidecarConfig) -> Result<SidecarHandle, SidecarError> {
    config.check().map_err(SidecarError::Config)?;
    let cluster = Cluster::start(&config);
    spawn_on(config, cluster).await
}

/// Starts a sidecar on this backend.
///
/// # Errors
/// [`SidecarError`].
pub async fn spawn_on<B: Backend>(config: SidecarConfig, backend: B) -> Result<SidecarHandle, SidecarError> {
    config.check().map_err(SidecarError::Config)?;
    let listeners = listen(&config).await?;
    let addr = listeners.iter().find_map(Listener::address).unwrap_or(config.listen);
    let shared = Shared {
        backend,
        limits: Arc::new(config.limits.clone()),
        stats: Arc::new(Stats::default()),
        groups: delivery::Groups::default(),
        transactions: transactions::Transactions::new(&config.limits),
        requests: requests::Requests::new(&config.reply_topic, config.limits.requests),
        phase: Phase::default(),
    };
    let (grpc, health) = api::grpc::routes(&shared).await?;
    let guarded = axum::middleware::from_fn_with_state(Guard::new(&shared.limits, shared.stats.clone()), guard);
    let server = Server {
        router: api::http::routes(&shared).merge(grpc.reset_fallback()).layer(guarded),
        limits: shared.limits.clone(),
        stats: shared.stats.clone(),
        phase: shared.phase.clone(),
        room: Arc::new(Semaphore::new(shared.limits.connections)),
        connections: TaskTracker::new(),
    };
    let connections = server.connections.clone();
    for listener in listeners {
        connections.spawn(server.clone().accept(listener));
    }
    tracing::info!(%addr, socket = ?config.socket, "the sidecar serves");
    let ending = Ending { shared: shared.clone(), connections, drain_timeout: config.drain_timeout };
    tokio::spawn(watch_health(health, shared.phase.clone()));
    let stopped = tokio::spawn(ending.run());
    Ok(SidecarHandle { addr, stats: shared.stats, phase: shared.phase, stopped: Some(stopped) })
}

async fn listen(config: &SidecarConfig) -> Result<Vec<Listener>, SidecarError> {
    let address = config.listen;
    let tcp = Listener::tcp(address).await.map_err(|error| SidecarError::Listen { address, error })?;
    let mut listeners = vec![tcp];
    if let Some(path) = &config.socket {
        let unix = Listener::unix(path).await;
        listeners.push(unix.map_err(|error| SidecarError::Socket { path: path.clone(), error })?);
    }
    Ok(listeners)
}

/// What health is told of; the empty name stands for the sidecar as a whole.
const SERVICES: [&str; 7] = [
    "",
    "wherry.v1.GroupService",
    "wherry.v1.PublisherService",
    "wherry.v1.RequestService",
    "wherry.v1.SubscriberService",
    "wherry.v1.TopicService",
    "wherry.v1.TransactionService",
];

/// A draining sidecar says so to those who watch its health.
async fn watch_health(health: tonic_health::server::HealthReporter, phase: Phase) {
    phase.draining.cancelled().await;
    for service in SERVICES {
        health.set_service_status(service, tonic_health::ServingStatus::NotServing).await;
    }
}

/// A running sidecar. Dropped, it stops in the background.
#[derive(Debug)]
pub struct SidecarHandle {
    /// Where it serves.
    pub addr: SocketAddr,
    /// What it counts.
    pub stats: Arc<Stats>,
    phase: Phase,
    stopped: Option<tokio::task::JoinHandle<()>>,
}

impl SidecarHandle {
    /// No new deliveries from here on; acknowledgements and publishing go on. For when the application is about to stop but still runs.
    pub fn drain(&self) {
        self.phase.draining.cancel();
    }

    /// Stops in good order: drains, answers what was taken, flushes, leaves the groups; cuts off what is left after the drain timeout.
    pub async fn stop(mut self) {
        self.phase.draining.cancel();
        self.phase.stopping.cancel();
        if let Some(stopped) = self.stopped.take()
            && let Err(error) = stopped.await
        {
            tracing::error!(%error, "stopping failed");
        }
    }
}

impl Drop for SidecarHandle {
    fn drop(&mut self) {
        self.phase.draining.cancel();
        self.phase.stopping.cancel();
    }
}

struct Ending<B: Backend> {
    shared: Shared<B>,
    connections: TaskTracker,
    drain_timeout: Duration,
}

impl<B: Backend> Ending<B> {
    async fn run(self) {
        self.shared.phase.stopping.cancelled().await;
        self.connections.close();
        self.shared.groups.tasks.close();
        if tokio::time::timeout(self.drain_timeout, self.in_order()).await.is_err() {
            tracing::warn!(after = ?self.drain_timeout, "not everything ended in time, cutting the rest off");
        }
        self.shared.phase.killed.cancel();
        self.shared.transactions.close().await;
        // Bounded as well: the client must not keep a dead sidecar alive.
        let closed = tokio::time::timeout(self.drain_timeout, self.shared.backend.close()).await;
        if closed.is_err() {
            tracing::warn!("the connection to the cluster did not close in time");
        }
    }

    async fn in_order(&self) {
        self.shared.groups.tasks.wait().await;
        self.shared.backend.flush().await;
        self.connections.wait().await;
    }
}
