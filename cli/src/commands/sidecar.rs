//! `wherry sidecar`: the localhost endpoint of an application.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use wherry_sidecar::config::DEFAULT_PORT;
use wherry_sidecar::{ProducerTuning, SidecarConfig, SidecarError, SidecarHandle, spawn};

use super::produce::CodecArg;
use crate::output::Output;
use crate::roles::{Listening, asked_to_stop, die_with_parent};
use crate::security::ClientSecurityArgs;
use crate::{exit, text};

/// Run a sidecar: gRPC and HTTP towards an application, the cluster behind it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry sidecar --bootstrap node-0:9092,node-1:9092
  wherry sidecar --socket /run/wherry/app.sock
  grpcurl -plaintext 127.0.0.1:7070 list
  curl localhost:7070/readyz

Whoever reaches it acts as the application, so it listens on localhost. SIGTERM or Ctrl-C drains it: no new
deliveries, acknowledgements go through, what was taken is sent.")]
pub(crate) struct SidecarArgs {
    /// Address to serve; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    listen: SocketAddr,
    /// Serve on this Unix socket as well
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Allow --listen to be an address that others can reach
    #[arg(long)]
    allow_remote: bool,
    /// Nodes to ask first, as host:port
    #[arg(
        short,
        long,
        env = "WHERRY_BOOTSTRAP",
        value_delimiter = ',',
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    bootstrap: Vec<String>,
    /// Compression of batches
    #[arg(long, value_enum, default_value_t = CodecArg::Lz4)]
    codec: CodecArg,
    /// Wait this long for more messages before a batch goes that is not full
    #[arg(long, value_parser = text::duration, default_value = "0s", value_name = "DURATION")]
    linger: Duration,
    /// From taking a message to its result, all retries included
    #[arg(long, value_parser = text::duration, default_value = "2m", value_name = "DURATION")]
    delivery_timeout: Duration,
    /// Longest for stopping in good order
    #[arg(long, value_parser = text::duration, default_value = "10s", value_name = "DURATION")]
    drain_timeout: Duration,
    #[command(flatten)]
    security: ClientSecurityArgs,
    /// Be killed when the parent process dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

impl SidecarArgs {
    fn config(self) -> Result<SidecarConfig> {
        let security = self.security.config().map_err(|error| exit::usage(format!("{error:#}")))?;
        Ok(SidecarConfig {
            security,
            listen: self.listen,
            socket: self.socket,
            allow_remote: self.allow_remote,
            bootstrap: self.bootstrap,
            drain_timeout: self.drain_timeout,
            producer: ProducerTuning {
                codec: self.codec.into(),
                linger: self.linger,
                delivery_timeout: self.delivery_timeout,
                ..ProducerTuning::default()
            },
            ..SidecarConfig::default()
        })
    }
}

pub(crate) async fn run(args: SidecarArgs, output: Output) -> Result<()> {
    if args.die_with_parent {
        die_with_parent()?;
    }
    let sidecar = start(args.config()?).await?;
    listening(&sidecar).say(output)?;
    asked_to_stop().await?;
    sidecar.stop().await;
    Ok(())
}

/// Starts a sidecar in this process.
pub(crate) async fn start(config: SidecarConfig) -> Result<SidecarHandle> {
    spawn(config).await.map_err(|error| match error {
        SidecarError::Config(sentence) => exit::usage(sentence),
        other @ (SidecarError::Listen { .. } | SidecarError::Socket { .. } | SidecarError::Reflection(_)) => {
            anyhow::Error::from(other).context("the sidecar can't start")
        }
    })
}

/// It serves probes on the port of the application.
pub(crate) fn listening(sidecar: &SidecarHandle) -> Listening {
    Listening { role: "sidecar".into(), address: sidecar.addr, driver: None, probes: Some(sidecar.addr) }
}
