//! A node in this process: its thread, its probes, its end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use wherry_node::{NodeConfig, NodeError, NodeHandle};
use wherry_telemetry::{Probes, Server, serve};

use super::{Listening, metrics};
use crate::exit;

/// How often the node is asked whether it still runs.
const LOOK: Duration = Duration::from_millis(200);

/// A node that serves, and its probes.
#[derive(Debug)]
pub(crate) struct RunningNode {
    handle: NodeHandle,
    probes: Option<Server>,
}

impl RunningNode {
    /// Starts a node; returns when it serves.
    pub(crate) async fn start(config: NodeConfig, probes: Option<SocketAddr>) -> Result<Self> {
        let started = tokio::task::spawn_blocking(move || wherry_node::spawn(config)).await?;
        let handle = started.map_err(not_started)?;
        let server = match probes {
            Some(listen) => Some(serve_probes(listen, &handle).await?),
            None => None,
        };
        Ok(Self { handle, probes: server })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.addr()
    }

    pub(crate) fn listening(&self) -> Listening {
        Listening {
            role: "node".into(),
            address: self.handle.addr(),
            driver: Some(self.handle.driver().into()),
            probes: self.probes.as_ref().map(Server::address),
        }
    }

    /// Returns when the node has ended by itself.
    pub(crate) async fn ended(&self) {
        // Its thread has no way to wake a task; nobody waits for this in a hurry.
        while !self.handle.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.handle.stop();
    }

    /// Stops it in good order: answers what it has, writes out everything.
    pub(crate) async fn stop(self) -> Result<()> {
        let handle = self.handle;
        handle.stop();
        let joined = tokio::task::spawn_blocking(move || handle.join()).await?;
        if let Some(probes) = self.probes {
            probes.stop();
        }
        Ok(joined?)
    }
}

fn not_started(error: NodeError) -> anyhow::Error {
    match error {
        NodeError::Config(sentence) => exit::usage(sentence),
        NodeError::Io { what, source } if source.kind() == ErrorKind::AddrInUse => {
            exit::usage(format!("can't {what}: another program listens there; stop it, or choose another port"))
        }
        other @ (NodeError::Open(_)
        | NodeError::State(_)
        | NodeError::Metadata(_)
        | NodeError::Io { .. }
        | NodeError::Stopped(_)) => anyhow::Error::from(other).context("the node can't start"),
    }
}

async fn serve_probes(listen: SocketAddr, handle: &NodeHandle) -> Result<Server> {
    let stats = handle.stats();
    let (for_metrics, for_ready) = (Arc::clone(&stats), stats);
    let ready = move || match (for_ready.ready.get(), for_ready.disk_full.get()) {
        (0, _) => Err("the node is not serving".to_owned()),
        // Still ready: what is there can be read, and only appends are refused.
        (_, _) => Ok(()),
    };
    let probes = Probes {
        metrics: Box::new(move || metrics::render(&for_metrics)),
        // The runtime that answers lives as long as the process; a node that stopped ends it.
        live: Box::new(|| Ok(())),
        ready: Box::new(ready),
    };
    serve(listen, probes)
        .await
        .with_context(|| format!("can't serve metrics and probes on {listen}; choose another address"))
}
