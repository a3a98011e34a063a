//! Flags that say which cluster, and the connection to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::time::{Instant, sleep};
use wherry_client::{Admin, Client, ClientConfig};

use crate::security::ClientSecurityArgs;
use crate::{exit, text};

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    /// Nodes to ask first, as host:port; any one that answers is enough
    #[arg(
        short,
        long,
        env = "WHERRY_BOOTSTRAP",
        value_delimiter = ',',
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    pub(crate) bootstrap: Vec<String>,
    /// Longest to try before giving up
    #[arg(long, value_parser = text::duration, value_name = "DURATION", default_value = "15s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) security: ClientSecurityArgs,
}

impl ClusterArgs {
    pub(crate) async fn connect(&self) -> Result<Client> {
        let config = ClientConfig {
            client_id: "wherry-cli".into(),
            call_timeout: self.timeout,
            request_timeout: self.timeout.min(ClientConfig::default().request_timeout),
            connect_timeout: self.timeout.min(ClientConfig::default().connect_timeout),
            security: self.security.config().map_err(|error| exit::usage(format!("{error:#}")))?,
            ..ClientConfig::new(self.bootstrap.clone())
        };
        Client::connect(config).await.with_context(|| {
            format!(
                "can't reach a cluster at {}; start one with `wherry up`, or name its nodes with --bootstrap",
                self.bootstrap.join(", ")
            )
        })
    }
}

/// How long nodes may take to find each other: each replays its journal first.
const FORM_MAX: Duration = Duration::from_secs(60);
/// How often they are asked.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until so many nodes take part.
pub(crate) async fn await_nodes(admin: &Admin, count: usize) -> Result<()> {
    let begun = Instant::now();
    loop {
        let found = admin.cluster().await?.brokers.len();
        if found >= count {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < FORM_MAX,
            "only {found} of {count} nodes took part after {FORM_MAX:?}; their logs say why"
        );
        sleep(LOOK).await;
    }
}
