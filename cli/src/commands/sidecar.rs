//! `wherry sidecar`: the localhost endpoint of an application; its status, and draining it.

mod drain;
mod status;
mod talk;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use wherry_sidecar::config::DEFAULT_PORT;
use wherry_sidecar::{ProducerTuning, SidecarConfig, SidecarError, SidecarHandle, SpoolConfig, spawn};

use super::produce::CodecArg;
use crate::output::Output;
use crate::roles::{Listening, asked_to_stop, die_with_parent};
use crate::security::ClientSecurityArgs;
use crate::{exit, text};

/// What can be asked of a running sidecar.
#[derive(Debug, Subcommand)]
enum SidecarCommand {
    Status(status::StatusArgs),
    Drain(drain::DrainArgs),
}

/// Run a sidecar: gRPC and HTTP towards an application, the cluster behind it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wherry sidecar --bootstrap node-0:9092,node-1:9092
  wherry sidecar --socket /run/wherry/app.sock
  wherry sidecar --spool-dir /var/spool/wherry --spool-bytes 1GiB
  wherry sidecar status
  grpcurl -plaintext 127.0.0.1:7070 list
  curl localhost:7070/readyz

Whoever reaches it acts as the application, so it listens on localhost. SIGTERM or Ctrl-C drains it: no new
deliveries, acknowledgements go through, what was taken is sent.")]
pub(crate) struct SidecarArgs {
    #[command(subcommand)]
    command: Option<SidecarCommand>,
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
    /// What the application can make the sidecar hold, whatever it does
    #[arg(long, value_parser = text::bytes, default_value = "32MiB", value_name = "SIZE")]
    memory: u64,
    /// Keep messages in this directory while the cluster can't be reached, and forward them later
    #[arg(long, env = "WHERRY_SPOOL_DIR", value_name = "DIRECTORY")]
    spool_dir: Option<PathBuf>,
    /// Disk that the spool may take
    #[arg(long, value_parser = text::bytes, default_value = "256MiB", value_name = "SIZE", requires = "spool_dir")]
    spool_bytes: u64,
    /// A message without an answer of the cluster for so long opens the way into the spool
    #[arg(long, value_parser = text::duration, default_value = "1s", value_name = "DURATION", requires = "spool_dir")]
    spool_after: Duration,
    #[command(flatten)]
    security: ClientSecurityArgs,
    /// Be killed when the parent process dies
    #[arg(long, hide = true)]
    die_with_parent: bool,
}

impl SidecarArgs {
    fn config(self) -> Result<SidecarConfig> {
        let security = self.security.config().map_err(|error| exit::usage(format!("{error:#}")))?;
        let (bytes, after) = (self.spool_bytes, self.spool_after);
        let memory = usize::try_from(self.memory).unwrap_or(usize::MAX);
        let within = SidecarConfig::within(memory).map_err(|sentence| exit::usage(format!("--memory: {sentence}")))?;
        Ok(SidecarConfig {
            spool: self.spool_dir.map(|directory| SpoolConfig { directory, bytes, after }),
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
                ..within.producer
            },
            ..within
        })
    }
}

pub(crate) async fn run(mut args: SidecarArgs, output: Output) -> Result<()> {
    match args.command.take() {
        Some(SidecarCommand::Status(args)) => return status::run(args, output).await,
        Some(SidecarCommand::Drain(args)) => return drain::run(args, output).await,
        None => {}
    }
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
        other @ (SidecarError::Listen { .. }
        | SidecarError::Socket { .. }
        | SidecarError::Spool(_)
        | SidecarError::Reflection(_)) => anyhow::Error::from(other).context("the sidecar can't start"),
    })
}

/// It serves probes on the port of the application.
pub(crate) fn listening(sidecar: &SidecarHandle) -> Listening {
    Listening { role: "sidecar".into(), address: sidecar.addr, driver: None, probes: Some(sidecar.addr) }
}
