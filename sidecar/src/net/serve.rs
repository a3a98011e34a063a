//! Accepts connections and serves them until the sidecar stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::listen::{Accepted, Listener, Stream};
use crate::limits::{self, Limits};
use crate::shared::Phase;
use crate::stats::Stats;

/// Pause after accepting failed: most often the process is out of file descriptors, and some must be closed first.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// What serves all connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) phase: Phase,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) connections: TaskTracker,
}

impl Server {
    /// Accepts until the sidecar stops.
    pub(crate) async fn accept(self, listener: Listener) {
        let stopping = self.phase.stopping.clone();
        stopping.run_until_cancelled(self.accept_all(&listener)).await;
    }

    async fn accept_all(&self, listener: &Listener) {
        loop {
            // At the bound nothing is accepted, and new connections wait in the kernel.
            let Ok(permit) = self.room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok(accepted) => {
                    let server = self.clone();
                    self.connections.spawn(async move { server.serve(accepted, permit).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn serve(self, accepted: Accepted, _permit: OwnedSemaphorePermit) {
        let _open = self.stats.connections.enter();
        // Whoever connects and says nothing is not kept.
        let speaks = match &accepted {
            Accepted::Tcp(stream) => timeout(limits::HEADER_READ, stream.readable()).await,
            Accepted::Unix(stream) => timeout(limits::HEADER_READ, stream.readable()).await,
        };
        if !matches!(speaks, Ok(Ok(()))) {
            return;
        }
        let killed = self.phase.killed.clone();
        match accepted {
            Accepted::Tcp(stream) => killed.run_until_cancelled(self.converse(stream)).await,
            Accepted::Unix(stream) => killed.run_until_cancelled(self.converse(stream)).await,
        };
    }

    async fn converse(self, stream: impl Stream) {
        let (window, streams) = self.limits.connection_window(self.stats.connections.get());
        let builder = builder(window, streams);
        let service = TowerToHyperService::new(self.router.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "a connection broke off");
                    }
                    return;
                }
                () = self.phase.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn builder(window: u32, streams: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_buf_size(limits::HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES.min(window))
        .initial_connection_window_size(window)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES)
        .max_concurrent_streams(streams)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .keep_alive_interval(limits::KEEP_ALIVE.0)
        .keep_alive_timeout(limits::KEEP_ALIVE.1);
    builder
}
